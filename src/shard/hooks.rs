//! Asks the application about HTTP requests and takes its answers to the hub.
//!
//! As with handlers, a hook is first polled where its event is found; one that waits goes on as a
//! task. There is one for each connection at most, and it ends with its request.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Shard;
use super::watch::Label;
use crate::hooks::OnHeaders;
use crate::http::{ConnectionError, Headers, Request, Response};
use crate::hub::hooks::{Ask, Reply};
use crate::hub::slab::Key;
use crate::namespace::{LocalFuture, Shared};

/// Tells a hook that waits that its request has gone.
#[derive(Default)]
pub(super) struct Cancel {
    is_cancelled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Shard {
    /// Asks about a request.
    pub(super) fn on_request(self: &Rc<Self>, conn: Key, ask: Ask, request: Request) {
        let hooks = &self.spec().hooks;
        match ask {
            Ask::Origin => self.ask_origin(conn, request),
            Ask::Middleware => {
                let label = hooks.middleware[0].label;
                let future = Box::pin(ask_middleware(self.clone(), request));
                self.ask_hook(conn, ask, label, future);
            }
            Ask::Allow => {
                let Some(Shared { label, call }) = &hooks.allow else { return };
                let call = call.clone();
                let future = async move {
                    match call(request).await {
                        Ok(()) => Reply::Headers(Headers::default()),
                        Err(reason) => Reply::Refused(Headers::default(), reason),
                    }
                };
                self.ask_hook(conn, ask, label, Box::pin(future));
            }
            Ask::Id => {
                let Some(Shared { label, call }) = &hooks.id else { return };
                let call = call.clone();
                let future = async move {
                    match call(request).await {
                        Ok(id) => Reply::Id(id),
                        Err(reason) => Reply::Refused(Headers::default(), reason),
                    }
                };
                self.ask_hook(conn, ask, label, Box::pin(future));
            }
            Ask::Headers => {
                let reply = self.ask_headers(&request);
                self.hub().answer_request(conn, ask, reply);
            }
        }
    }

    fn ask_origin(self: &Rc<Self>, conn: Key, request: Request) {
        let options = self.options();
        let Some(function) = options.cors.as_ref().and_then(|cors| cors.function()) else {
            // It is answered once its time is over; only a reconfiguration in between leads here.
            return;
        };
        let call = function.0.clone();
        let future = async move {
            let origin = request.header("origin").map(str::to_owned);
            match call(origin).await {
                Ok(origin) => Reply::Origin(origin),
                Err(reason) => Reply::Refused(Headers::default(), reason),
            }
        };
        self.ask_hook(conn, Ask::Origin, Label::of("", "origin of CORS".into()), Box::pin(future));
    }

    /// Asks those that answer at once.
    fn ask_headers(&self, request: &Request) -> Reply {
        let hooks = &self.spec().hooks;
        let initial: &[Shared<OnHeaders>] =
            if request.is_handshake() { &hooks.initial_headers } else { &[] };
        let mut headers = Headers::default();
        for hook in initial.iter().chain(&hooks.headers) {
            self.pulse().enter(hook.label);
            let call = AssertUnwindSafe(|| (hook.call)(&mut headers, request));
            let called = catch_unwind(call);
            self.pulse().leave();
            if let Err(panic) = called {
                super::dispatch::log_panic(hook.label, &*panic, "answering 500");
                return Reply::Failed;
            }
        }
        Reply::Headers(headers)
    }

    /// Tells the application of a refusal.
    pub(super) fn on_refused(&self, error: ConnectionError) {
        for hook in &self.spec().hooks.refusal {
            self.pulse().enter(hook.label);
            let called = catch_unwind(AssertUnwindSafe(|| (hook.call)(error.clone())));
            self.pulse().leave();
            if let Err(panic) = called {
                super::dispatch::log_panic(hook.label, &*panic, "going on");
            }
        }
    }

    /// Nobody waits for the answer about this request any more.
    pub(super) fn on_request_gone(&self, conn: Key) {
        let cancel = self.asked.borrow_mut().remove(&conn);
        if let Some(cancel) = cancel {
            cancel.is_cancelled.set(true);
            if let Some(waker) = cancel.waker.take() {
                waker.wake();
            }
        }
    }

    fn ask_hook(
        self: &Rc<Self>,
        conn: Key,
        ask: Ask,
        label: &'static Label,
        future: LocalFuture<Reply>,
    ) {
        let shard = self.clone();
        let mut asking = Asking { shard, conn, ask, label, future, cancel: None };
        // The first poll of the task repeats this one with a waker that works.
        let first = Pin::new(&mut asking).poll(&mut Context::from_waker(Waker::noop()));
        if first.is_pending() {
            let cancel = Rc::new(Cancel::default());
            self.asked.borrow_mut().insert(conn, cancel.clone());
            self.tasks.set(self.tasks.get() + 1);
            asking.cancel = Some(cancel);
            glommio::spawn_local(asking).detach();
        }
    }
}

/// Asks one after the other, until one answers or fails.
async fn ask_middleware(shard: Rc<Shard>, request: Request) -> Reply {
    let response = Response::default();
    for middleware in &shard.spec().hooks.middleware {
        let answered = (middleware.call)(request.clone(), response.clone()).await;
        if let Err(reason) = answered {
            let (headers, sent) = response.take();
            // Who has answered and then fails has answered.
            return match sent {
                Some(sent) => Reply::Sent(headers, sent),
                None => Reply::Refused(headers, reason),
            };
        }
        if response.is_sent() {
            break;
        }
    }
    match response.take() {
        (headers, Some(sent)) => Reply::Sent(headers, sent),
        (headers, None) => Reply::Headers(headers),
    }
}

/// A hook's future, which takes its answer to the hub, and does not let panics out.
struct Asking {
    shard: Rc<Shard>,
    conn: Key,
    ask: Ask,
    label: &'static Label,
    future: LocalFuture<Reply>,
    /// Set once it is a task.
    cancel: Option<Rc<Cancel>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(cancel) = &self.cancel {
            let tasks = &self.shard.tasks;
            tasks.set(tasks.get().saturating_sub(1));
            let mut asked = self.shard.asked.borrow_mut();
            if asked.get(&self.conn).is_some_and(|it| Rc::ptr_eq(it, cancel)) {
                asked.remove(&self.conn);
            }
        }
    }
}

impl Future for Asking {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(cancel) = &this.cancel {
            if cancel.is_cancelled.get() {
                return Poll::Ready(());
            }
            cancel.waker.replace(Some(cx.waker().clone()));
        }
        this.shard.pulse().enter(this.label);
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(cx)));
        this.shard.pulse().leave();
        let reply = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(reply)) => reply,
            Err(panic) => {
                super::dispatch::log_panic(this.label, &*panic, "answering 500");
                Reply::Failed
            }
        };
        if let Some(cancel) = this.cancel.take() {
            // Before the answer: the hub may ask the next question about this connection.
            this.shard.asked.borrow_mut().remove(&this.conn);
            drop(cancel);
            this.shard.tasks.set(this.shard.tasks.get().saturating_sub(1));
        }
        this.shard.hub().answer_request(this.conn, this.ask, reply);
        this.shard.wake();
        Poll::Ready(())
    }
}
