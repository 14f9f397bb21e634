//! What an application registers for HTTP requests, as opposed to sockets (F-1, F-2, F-8, F-10,
//! A.2).

use std::future::Future;
use std::sync::Arc;

use crate::http::{ConnectionError, Headers, Request, Response};
use crate::hub::hooks::Hooks;
use crate::namespace::{LocalFuture, Shared};
use crate::server::Server;
use crate::shard::watch::Label;

pub(crate) type OnRequest =
    dyn Fn(Request, Response) -> LocalFuture<Result<(), String>> + Send + Sync;
pub(crate) type OnHandshake = dyn Fn(Request) -> LocalFuture<Result<(), String>> + Send + Sync;
pub(crate) type OnId = dyn Fn(Request) -> LocalFuture<Result<String, String>> + Send + Sync;
pub(crate) type OnHeaders = dyn Fn(&mut Headers, &Request) + Send + Sync;
pub(crate) type OnRefusal = dyn Fn(ConnectionError) + Send + Sync;

/// What was registered.
#[derive(Default)]
pub(crate) struct HttpHooks {
    pub(crate) middleware: Vec<Shared<OnRequest>>,
    pub(crate) allow: Option<Shared<OnHandshake>>,
    pub(crate) id: Option<Shared<OnId>>,
    pub(crate) initial_headers: Vec<Shared<OnHeaders>>,
    pub(crate) headers: Vec<Shared<OnHeaders>>,
    pub(crate) refusal: Vec<Shared<OnRefusal>>,
}

impl HttpHooks {
    /// Which questions the hub has to ask.
    pub(crate) fn asked(&self) -> Hooks {
        Hooks {
            middleware: !self.middleware.is_empty(),
            allow: self.allow.is_some(),
            initial_headers: !self.initial_headers.is_empty(),
            headers: !self.headers.is_empty(),
            refusals: !self.refusal.is_empty(),
        }
    }
}

fn shared<F: ?Sized>(what: &str, call: Arc<F>) -> Shared<F> {
    Shared { label: Label::of("", what.into()), call }
}

/// Hooks on HTTP requests. They run on the shard of the connection and must not block. The async
/// ones may wait: their request waits with them, for
/// [`Options::hook_timeout`](crate::Options::hook_timeout) in all, while other connections are
/// served; if the client goes meanwhile, they are dropped where they wait. A hook that panics
/// costs its request, which is answered 500. Without hooks nothing of this is done.
///
/// ```
/// use corecast::{ConnectionError, Headers, Request, Response};
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_client.rs"));
/// # fn main() -> Result<(), corecast::Error> {
/// # let io = corecast::Server::new(one_shard())?;
/// io.use_http(|request: Request, response: Response| async move {
///     response.set_header("X-Frame-Options", "DENY");
///     if request.path().ends_with("/health") {
///         response.send(200, "well");
///     }
///     Ok(())
/// });
/// io.allow_request(|request: Request| async move {
///     match request.header("origin") {
///         None | Some("https://example.com") => Ok(()),
///         Some(_) => Err("no pages of others".into()), // also for websockets
///     }
/// });
/// io.on_initial_headers(|headers: &mut Headers, _request: &Request| {
///     headers.append("Set-Cookie", "seen=1; Path=/");
/// });
/// io.on_connection_error(|error: ConnectionError| {
///     eprintln!("{} refused: {} {:?}", error.request.address(), error.message, error.context);
/// });
/// # let running = io.listen("127.0.0.1:0")?;
/// # let client = Client::new(&running);
/// # stop(running, [client])
/// # }
/// ```
impl Server {
    /// Calls `handler` for every request below [`Options::path`](crate::Options::path), upgrades
    /// included, before anything else looks at it (`engine.use`, F-8), but not for files. Several
    /// are called in the order of registration. It may set headers of whatever is answered, answer
    /// itself with [`Response::send`], or fail, which refuses the request with code 3 (A.2); the
    /// text of the failure is for [`Server::on_connection_error`].
    ///
    /// # Panics
    /// After the server has begun to listen, like all registrations here.
    pub fn use_http<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Request, Response) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + 'static,
    {
        let call =
            move |request, response| -> LocalFuture<_> { Box::pin(handler(request, response)) };
        let call: Arc<OnRequest> = Arc::new(call);
        self.register_hook(|hooks| hooks.middleware.push(shared("HTTP middleware", call)))
    }

    /// Asks `handler` about every handshake, and about no other request (`allowRequest`, A.2-4c,
    /// F-10). With an error the client is answered 403, code 4 and the error's text, a websocket
    /// 400 and the text. The last one that is registered counts.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn allow_request<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + 'static,
    {
        let call = move |request| -> LocalFuture<_> { Box::pin(handler(request)) };
        let call: Arc<OnHandshake> = Arc::new(call);
        self.register_hook(|hooks| hooks.allow = Some(shared("allow_request", call)))
    }

    /// Lets `handler` make up the ids of sessions (`engine.generateId`, A.2-6): 1 to 128 visible
    /// ASCII characters without `"` and `\`. It must not give an id twice while its session lives,
    /// and nobody must be able to guess one: who knows the id of a polling session can speak for
    /// its client. An error, another text, or an id that is taken refuses the handshake with
    /// code 3. The last one that is registered counts.
    ///
    /// Without it, an id says where its session lives, and none is ever looked up; with it, every
    /// request of a session takes a lock that all shards share, once or twice.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn generate_id<F, R>(&self, handler: F) -> &Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, String>> + 'static,
    {
        let call = move |request| -> LocalFuture<_> { Box::pin(handler(request)) };
        let call: Arc<OnId> = Arc::new(call);
        self.register_hook(|hooks| hooks.id = Some(shared("generate_id", call)))
    }

    /// Lets `handler` add headers to the answer of each handshake, the 101 of a websocket included
    /// (`initial_headers`, F-1).
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_initial_headers<F>(&self, handler: F) -> &Self
    where
        F: Fn(&mut Headers, &Request) + Send + Sync + 'static,
    {
        let call: Arc<OnHeaders> = Arc::new(handler);
        self.register_hook(|hooks| hooks.initial_headers.push(shared("initial_headers", call)))
    }

    /// Lets `handler` add headers to each answer of long-polling, GET and POST, and to each 101,
    /// handshakes included, but not to errors (`headers`, F-2). It is called when the request has
    /// come, before the answer is known.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_headers<F>(&self, handler: F) -> &Self
    where
        F: Fn(&mut Headers, &Request) + Send + Sync + 'static,
    {
        let call: Arc<OnHeaders> = Arc::new(handler);
        self.register_hook(|hooks| hooks.headers.push(shared("headers", call)))
    }

    /// Tells `handler` of every request that is refused as table A.3 says
    /// (`engine.on("connection_error")`). What is no request at all is not told; it is counted in
    /// [`Totals::bad_requests`](crate::Totals).
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn on_connection_error<F>(&self, handler: F) -> &Self
    where
        F: Fn(ConnectionError) + Send + Sync + 'static,
    {
        let call: Arc<OnRefusal> = Arc::new(handler);
        self.register_hook(|hooks| hooks.refusal.push(shared("connection_error", call)))
    }
}
