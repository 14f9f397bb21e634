//! Calls the application: middleware, handlers, and what follows from their answers.
//!
//! A handler is first polled right where its event is handled. Most are then done and cost no task;
//! one that waits goes on as a task of the same executor. Either way its panics end here.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Shard;
use super::watch::Label;
use crate::admin::tap::watching;
use crate::children::NamespaceSpec;
use crate::error::Reason;
use crate::event::Event;
use crate::hub::rooms::NamespaceId;
use crate::hub::slab::Key;
use crate::hub::{self, Arguments};
use crate::namespace::{LocalFuture, Named, Shared};
use crate::socket::{Own, Socket};

impl Shard {
    /// Passes on everything that the hub has to tell, as far as the next flush allows.
    pub(super) fn dispatch(self: &Rc<Self>) {
        loop {
            let mut hub = self.hub();
            let event = if hub.should_flush() { None } else { hub.poll_event() };
            drop(hub);
            let Some(event) = event else { return };
            match event {
                hub::Event::Connect { member, namespace } => self.on_connect(member, namespace),
                hub::Event::Unknown(member) => self.on_unknown(member),
                hub::Event::Empty(namespace) => self.on_empty(namespace),
                hub::Event::Room { namespace, room, change } => {
                    self.on_room(namespace, &room, change);
                }
                hub::Event::Sent { member, arguments } => self.on_sent(member, arguments),
                hub::Event::Upgraded(member) => self.on_upgraded(member),
                hub::Event::ConnectAborted(member) => self.forget(member),
                hub::Event::Unkept(data) => super::drop_kept(data),
                hub::Event::Packet { member, namespace, arguments } => {
                    self.on_packet(member, namespace, arguments);
                }
                hub::Event::UnexpectedAck { member, namespace, arguments } => {
                    self.on_unexpected_ack(member, namespace, arguments);
                }
                hub::Event::Ack { token, outcome } => self.answer_ack(token, outcome),
                hub::Event::Answers { id, answers } => self.answer_ask(id, answers),
                hub::Event::Error { member, message } => self.on_error(member, message),
                hub::Event::Request { conn, ask, request } => self.on_request(conn, ask, request),
                hub::Event::RequestGone(conn) => self.on_request_gone(conn),
                hub::Event::Refused(error) => self.on_refused(*error),
                hub::Event::Closing { member, reason } => self.on_closing(member, reason),
                hub::Event::Endpoint { conn, endpoint, happening } => {
                    self.on_endpoint(conn, endpoint, happening);
                }
            }
        }
    }

    fn on_connect(self: &Rc<Self>, member: Key, namespace: NamespaceId) {
        let Some(namespace) = self.namespace(namespace) else { return };
        let recovery = self.spec().options.connection_state_recovery;
        let is_trusted = recovery.is_some_and(|recovery| {
            self.restore_data(member);
            recovery.skip_middlewares && self.hub().is_recovered(member)
        });
        if is_trusted || namespace.handlers.middleware.is_empty() {
            return self.admit(member, &namespace);
        }
        let Some(socket) = Socket::new(self, member, &namespace) else { return };
        let (shard, asked) = (self.clone(), socket.clone());
        let label = namespace.handlers.middleware[0].label;
        let future = async move {
            for middleware in &namespace.handlers.middleware {
                if let Err(error) = (middleware.call)(asked.clone()).await {
                    let data = error.data.as_ref().map(ToString::to_string);
                    let (message, data) = (&*error.message, data.as_deref());
                    match error.closes {
                        true => shard.hub().expel_member(member, message, data),
                        false => shard.hub().refuse_member(member, message, data),
                    }
                    shard.forget(member);
                    return shard.wake();
                }
            }
            shard.admit(member, &namespace);
            shard.wake();
        };
        self.run(&socket, label, Box::pin(future));
    }

    /// Lets a client in and calls the connection handlers.
    fn admit(self: &Rc<Self>, member: Key, namespace: &Rc<NamespaceSpec>) {
        if !self.hub().accept_member(member) {
            return self.forget(member);
        }
        let server = self.server();
        if let Some(admin) = watching(&server)
            && let Some(socket) = Socket::new(self, member, namespace)
        {
            admin.connected(self, &socket);
        }
        let handlers = &namespace.handlers;
        if let Some(socket) =
            (!handlers.connect.is_empty()).then(|| Socket::new(self, member, namespace)).flatten()
        {
            for handler in &handlers.connect {
                self.call(&socket, handler.label, || (handler.call)(socket.clone()));
            }
        }
        self.hub().release_handshake(member);
    }

    fn on_packet(self: &Rc<Self>, member: Key, namespace: NamespaceId, arguments: Arguments) {
        let Some(namespace) = self.namespace(namespace) else { return };
        let Some(socket) = Socket::new(self, member, &namespace) else { return };
        let hears_any = !namespace.handlers.any.is_empty();
        let event = Event::new(self.clone(), member, namespace, arguments);
        if let Some(admin) = watching(&socket.server()) {
            admin.event("event_received", &socket, event.name(), &event.raw());
        }
        let own = self.own(member, |own| {
            let first = own.middleware.first().map(|first| (own.middleware.len(), first.label));
            (first, !own.any.is_empty())
        });
        let (first, has_any) = own.unwrap_or_default();
        if has_any || hears_any {
            self.call_any(&socket, &event);
        }
        let Some((own, label)) = first else { return self.deliver(&socket, &event) };
        let (shard, asked) = (self.clone(), socket.clone());
        let future = async move {
            for index in 0..own {
                let call =
                    shard.own(member, |own| own.middleware.get(index).map(|m| m.call.clone()));
                let Some(call) = call.flatten() else { break };
                if let Err(error) = call(asked.clone(), event.clone()).await {
                    return shard.report_error(&asked, &error);
                }
            }
            // Between the middleware's answer and now the socket may have gone (J-10).
            if asked.is_connected() {
                shard.deliver(&asked, &event);
            }
        };
        self.run(&socket, label, Box::pin(future));
    }

    fn on_unexpected_ack(
        self: &Rc<Self>,
        member: Key,
        namespace: NamespaceId,
        arguments: Arguments,
    ) {
        let Some(namespace) = self.namespace(namespace) else { return };
        let Some(socket) = Socket::new(self, member, &namespace) else { return };
        let event = Event::new(self.clone(), member, namespace.clone(), arguments);
        for handler in &namespace.handlers.unexpected_ack {
            self.call(&socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
    }

    /// Calls the handlers of an event: those of the namespace, then those of the socket.
    fn deliver(self: &Rc<Self>, socket: &Socket, event: &Event) {
        let handlers = &socket.namespace.handlers;
        for handler in handlers.events.get(event.name()).into_iter().flatten() {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
        for handler in self.own_calls(socket.key, |own| own.events.get(event.name())) {
            // Removed before it is called, and passed over if somebody else did.
            if handler.is_once && !self.remove_listener(socket.key, handler.id) {
                continue;
            }
            self.call(socket, handler.label, || (handler.call)(socket.clone(), event.clone()));
        }
    }

    pub(super) fn namespace_of(&self, member: Key) -> Option<Rc<NamespaceSpec>> {
        let id = self.hub().namespace_of(member)?;
        self.namespace(id)
    }

    fn on_error(self: &Rc<Self>, member: Key, message: String) {
        if let Some(namespace) = self.namespace_of(member)
            && let Some(socket) = Socket::new(self, member, &namespace)
        {
            self.report_error(&socket, &message);
        }
    }

    fn report_error(self: &Rc<Self>, socket: &Socket, message: &str) {
        let handlers = &socket.namespace.handlers;
        for handler in &handlers.error {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), message.into()));
        }
        for handler in self.own_calls(socket.key, |own| Some(&own.error)) {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), message.into()));
        }
    }

    fn on_closing(self: &Rc<Self>, member: Key, reason: Reason) {
        let Some(namespace) = self.namespace_of(member) else { return };
        let server = self.server();
        if let Some(admin) = watching(&server)
            && let Some(socket) = Socket::new(self, member, &namespace)
        {
            admin.disconnected(&socket, reason);
        }
        let handlers = &namespace.handlers;
        let has_own = self.own(member, |_| ()).is_some();
        let is_heard = !handlers.disconnecting.is_empty() || !handlers.disconnect.is_empty();
        let socket = (has_own || is_heard).then(|| Socket::new(self, member, &namespace)).flatten();
        let Some(socket) = socket else { return self.remove(member) };
        let own = self.own_calls(member, |own| Some(&own.disconnecting));
        self.call_closing(&socket, reason, &handlers.disconnecting, &own);
        self.remove(member);
        let own = self.own_calls(member, |own| Some(&own.disconnect));
        self.call_closing(&socket, reason, &handlers.disconnect, &own);
        self.forget(member);
    }

    fn remove(&self, member: Key) {
        self.keep_data(member);
        self.hub().remove_member(member);
    }

    fn call_closing(
        self: &Rc<Self>,
        socket: &Socket,
        reason: Reason,
        shared: &[Shared<crate::namespace::OnClose>],
        own: &[Named<crate::socket::SocketClose>],
    ) {
        for handler in shared {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), reason));
        }
        for handler in own {
            self.call(socket, handler.label, || (handler.call)(socket.clone(), reason));
        }
    }

    /// Copies of the handlers that one socket has for itself; none, nearly always.
    pub(super) fn own_calls<F: ?Sized>(
        &self,
        member: Key,
        list: impl FnOnce(&Own) -> Option<&Vec<Named<F>>>,
    ) -> Vec<Named<F>> {
        let copy = |named: &Named<F>| Named { call: named.call.clone(), ..*named };
        let copies =
            self.own(member, |own| list(own).map(|list| list.iter().map(copy).collect::<Vec<_>>()));
        copies.flatten().unwrap_or_default()
    }

    /// Calls a handler, and polls what it returns.
    pub(super) fn call<C: Caller>(
        self: &Rc<Self>,
        socket: &C,
        label: &'static Label,
        handler: impl FnOnce() -> LocalFuture<()>,
    ) {
        self.pulse().enter(label);
        let future = catch_unwind(AssertUnwindSafe(handler));
        self.pulse().leave();
        match future {
            Ok(future) => self.run(socket, label, future),
            Err(panic) => self.handler_panicked(socket, label, &*panic),
        }
    }

    /// Polls a handler once; what is not done then goes on as a task.
    pub(super) fn run<C: Caller>(
        self: &Rc<Self>,
        socket: &C,
        label: &'static Label,
        future: LocalFuture<()>,
    ) {
        let socket = socket.clone();
        let mut guarded = Guarded { shard: self.clone(), socket, label, future, is_counted: false };
        // The first poll of the task repeats this one with a waker that works.
        let first = Pin::new(&mut guarded).poll(&mut Context::from_waker(Waker::noop()));
        if first.is_pending() && guarded.count() {
            glommio::spawn_local(guarded).detach();
        }
    }

    fn handler_panicked(
        &self,
        socket: &impl Caller,
        label: &'static Label,
        panic: &(dyn Any + Send),
    ) {
        log_panic(label, panic, &format!("closing {}", socket.name()));
        socket.abort();
        self.wake();
    }
}

/// Logs a panic of the application, and what it comes to.
pub(super) fn log_panic(label: &'static Label, panic: &(dyn Any + Send), then: &str) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    log::error!("{label} panicked, {then}: {}", text.unwrap_or("?"));
}

/// Whose handlers run, and who is closed when they fail.
pub(super) trait Caller: Clone + Unpin + 'static {
    /// Under what its unfinished handlers are counted.
    fn owner(&self) -> Owner;
    /// For the log.
    fn name(&self) -> String;
    /// Closes its connection at once.
    fn abort(&self);
}

/// Who has unfinished handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A member.
    Socket(Key),
    /// A connection of an endpoint.
    WebSocket(Key),
}

impl Caller for Socket {
    fn owner(&self) -> Owner {
        Owner::Socket(self.key)
    }

    fn name(&self) -> String {
        format!("socket {}", self.id())
    }

    fn abort(&self) {
        self.shard.hub().abort(self.key);
    }
}

/// A handler's future that reports how long it runs and does not let panics out.
struct Guarded<C: Caller> {
    shard: Rc<Shard>,
    socket: C,
    label: &'static Label,
    future: LocalFuture<()>,
    /// Whether it counts among the unfinished handlers of its socket.
    is_counted: bool,
}

impl<C: Caller> Guarded<C> {
    /// Counts an unfinished handler; false, and the end of its socket, if there are too many.
    fn count(&mut self) -> bool {
        self.is_counted = true;
        let running = self.shard.count_handler(self.socket.owner(), 1);
        if running <= self.shard.options.borrow().max_pending_handlers {
            return true;
        }
        if self.shard.may_warn() {
            let name = self.socket.name();
            log::warn!("{name} has {running} unfinished handlers, closing it");
        }
        self.socket.abort();
        false
    }
}

impl<C: Caller> Drop for Guarded<C> {
    fn drop(&mut self) {
        if self.is_counted {
            self.shard.count_handler(self.socket.owner(), -1);
        }
    }
}

impl<C: Caller> Future for Guarded<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shard.pulse().enter(this.label);
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(cx)));
        this.shard.pulse().leave();
        match polled {
            Ok(polled) => polled,
            Err(panic) => {
                this.shard.handler_panicked(&this.socket, this.label, &*panic);
                Poll::Ready(())
            }
        }
    }
}
