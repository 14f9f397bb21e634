//! The HTTP API, on a listener of its own. `docs/openapi.json` describes it.

mod answer;
mod batch;
mod callers;
mod health;
mod idempotency;
mod places;
mod query;
mod stats;
mod wire;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State as Extracted};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tracing::Instrument;

use super::command::{Command, Outcome, Problem, Verb};
use super::life::Caller;
use super::state::State;
use super::trace;
use answer::{Answer, expect_type, read_body};
pub(crate) use callers::{Callers, Permission};
use callers::{Grant, Jwt, Key};
use idempotency::{Keys, Known};
use places::{Place, Places};
use wire::Wire;

/// Time for the head of a request, from the end of the one before or the connection's beginning.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1_024;
/// Time in which a caller has to take something of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// What is answered however many requests are under way.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Longest key for idempotency, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// How long a command waits for shards that have too much mail.
const CONGESTION_MAX: Duration = Duration::from_secs(5);

/// Where backends and operators talk to the gateway.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the API. Default: 127.0.0.1:4001. Not reloaded.
    pub listen: SocketAddr,
    /// Keys that callers show. Default: none; then, without `jwt` as well, the API is open to
    /// whoever reaches it, and `listen` has to be a loopback address.
    #[serde(rename = "key")]
    pub keys: Vec<Key>,
    /// JSON web tokens that callers may show instead. Default: none.
    pub jwt: Option<Jwt>,
    /// Bytes of one request, or of one line of a batch; 413 beyond it. Default: 1048576.
    pub max_body_bytes: usize,
    /// Connections at a time. Beyond it the one that has been idle for longest is closed; if all
    /// have a request under way, others are answered 503 until one is done, but for those to
    /// `/healthz`, `/readyz` and `/metrics`. Default: 4096. Not reloaded.
    pub max_connections: usize,
    /// `Idempotency-Key`s that are remembered, for a day at most; beyond it the oldest are
    /// forgotten, and of those of the last hour the ones of callers with more than their fair
    /// share. Each takes about 500 bytes, all together at most 64 MiB. Default: 65536. Not
    /// reloaded.
    pub max_idempotency_keys: usize,
    /// Let everyone read `/metrics`. Default: false; a key with the action `read` is needed then,
    /// if there are keys.
    pub open_metrics: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 4001)),
            keys: Vec::new(),
            jwt: None,
            max_body_bytes: 1 << 20,
            max_connections: 4_096,
            max_idempotency_keys: 65_536,
            open_metrics: false,
        }
    }
}

impl Config {
    /// Who may use it.
    ///
    /// # Errors
    /// A key cannot work; the text names it.
    pub(crate) fn callers(&self) -> Result<Callers, String> {
        if self.max_connections == 0 || self.max_body_bytes == 0 {
            return Err("api: max_connections and max_body_bytes have to be at least 1".into());
        }
        Callers::new(self.listen, &self.keys, self.jwt.as_ref())
    }
}

/// Binds the listener.
///
/// # Errors
/// The address cannot be had.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| format!("api.listen: cannot listen on {address}: {error}"))
}

/// What its handlers share.
pub(super) struct Api {
    state: Arc<State>,
    keys: Keys,
    started: Instant,
}

impl Api {
    fn new(state: Arc<State>) -> Arc<Api> {
        let keys = Keys::new(state.rules().config.api.max_idempotency_keys);
        Arc::new(Api { state, keys, started: Instant::now() })
    }

    fn body_bytes_max(&self) -> usize {
        self.state.rules().config.api.max_body_bytes
    }

    /// Who has sent this, if they may send it now.
    ///
    /// # Errors
    /// 401, 403, 429.
    fn admit(&self, headers: &HeaderMap) -> Result<Arc<Grant>, Problem> {
        let grant = self.state.rules().callers.identify(headers)?;
        grant.take().map_err(|_| {
            let detail = format!("{} has used up its rate", grant.name);
            Problem::new(429, "too many requests", detail)
        })?;
        Ok(grant)
    }

    /// As [`Api::admit`], for one action.
    fn admit_to(&self, headers: &HeaderMap, action: Permission) -> Result<Arc<Grant>, Problem> {
        let grant = self.admit(headers)?;
        grant.may(action)?;
        Ok(grant)
    }
}

/// Serves the API for ever. `operations` are the routes for operators (`/reload`, `/drain`); they
/// are called only for those who may operate.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>, operations: Router) {
    let places = Places::new(state.rules().config.api.max_connections);
    let app = router(Api::new(state), operations);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the API has ended: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (place, app) = (places.take().await, app.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve_connection(stream, app, &place) => {}
                        () = place.taken() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!("the API cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, app: Router, place: &Place) {
    // It costs latency only.
    let _ = stream.set_nodelay(true);
    let app = TowerToHyperService::new(app);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(
            TokioIo::new(Wire::new(stream, WRITE_TIMEOUT)),
            service_fn(|request| serve_request(request, &app, place)),
        )
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection of the API has ended: {error}");
    }
}

async fn serve_request(
    mut request: hyper::Request<Incoming>,
    app: &TowerToHyperService<Router>,
    place: &Place,
) -> Result<Response, Infallible> {
    let (work, has_room) = place.work();
    if !has_room && !PROBES.contains(&request.uri().path()) {
        let detail = "api.max_connections requests are under way";
        return Ok(Problem::new(503, "too busy", detail).into_response());
    }
    // For those that go on when their answer has begun.
    let work = Arc::new(work);
    request.extensions_mut().insert(work.clone());
    let answer = app.call(request).await;
    drop(work);
    answer
}

/// All routes but those for operators: path, method, handler.
fn routes() -> Vec<(String, &'static str, MethodRouter<Arc<Api>>)> {
    let commands = Verb::ALL.into_iter();
    let commands = commands.map(|verb| (format!("/v1/{}", verb.as_str()), "post", command(verb)));
    let others = [
        ("/v1/batch", "post", post(start_batch)),
        ("/v1/sockets", "get", get(query::sockets)),
        ("/v1/sockets/{id}", "get", get(query::socket)),
        ("/v1/sockets/{id}/data", "put", put(query::set_socket_data)),
        ("/v1/users/{user}", "get", get(query::user)),
        ("/v1/users/{user}/data", "put", put(query::set_user_data)),
        ("/v1/rooms", "get", get(query::rooms)),
        ("/v1/count", "get", get(query::count)),
        ("/v1/namespaces", "get", get(query::namespaces)),
        ("/v1/stats", "get", get(stats::stats)),
        ("/metrics", "get", get(health::metrics)),
        ("/healthz", "get", get(health::alive)),
        ("/readyz", "get", get(health::ready)),
        ("/openapi.json", "get", get(health::description)),
        ("/", "get", get(health::page)),
    ];
    commands.chain(others.map(|(path, method, route)| (path.into(), method, route))).collect()
}

fn router(api: Arc<Api>, operations: Router) -> Router {
    let operators = from_fn_with_state(api.clone(), operators_only);
    let operations = match operations.has_routes() {
        true => operations.route_layer(operators),
        false => operations,
    };
    let add = |router: Router<_>, (path, _, route): (String, _, _)| router.route(&path, route);
    routes()
        .into_iter()
        .fold(Router::new(), add)
        .with_state(api.clone())
        .merge(operations)
        .fallback(|uri: Uri| async move {
            Problem::new(404, "no such path", format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let detail = format!("{} does not take {method}; see Allow", uri.path());
            Problem::new(405, "wrong method", detail)
        })
        .layer(from_fn_with_state(api, observe))
        .layer(from_fn(secure))
        .layer(from_fn(trace::request))
}

/// Lets only those through who may operate the gateway.
async fn operators_only(
    Extracted(api): Extracted<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    match api.admit_to(request.headers(), Permission::Operate) {
        Ok(grant) => {
            request.extensions_mut().insert(Caller(grant.name.clone()));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Measures how long requests take until their answer begins.
async fn observe(Extracted(api): Extracted<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let start = Instant::now();
    let response = next.run(request).await;
    let path = path.as_ref().map_or("none", MatchedPath::as_str);
    let status = response.status().as_u16();
    api.state.metrics.request(&method, path, status, start.elapsed());
    response
}

/// Nothing here is to be kept, guessed at, or framed by browsers.
async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// The route of a command.
fn command(verb: Verb) -> MethodRouter<Arc<Api>> {
    post(move |Extracted(api): Extracted<Arc<Api>>, request: Request| async move {
        run_command(verb, api, request).await
    })
}

async fn run_command(verb: Verb, api: Arc<Api>, request: Request) -> Result<Response, Problem> {
    let grant = api.admit_to(request.headers(), verb.into())?;
    let (parts, body) = request.into_parts();
    expect_type(&parts.headers, &["application/json"])?;
    let body = read_body(body, api.body_bytes_max()).await?;
    let key = idempotency_key(&parts.headers)?;
    let job = {
        let (api, grant, body) = (api.clone(), grant.clone(), body.clone());
        async move {
            let command = Command::read(&body, Some(verb))?;
            answer(carry_out(&api, &grant, command).await?)
        }
    };
    once(&api, &grant, key, [verb.as_str().as_bytes(), &body[..]], job).await
}

fn answer(outcome: Outcome) -> Result<Answer, Problem> {
    let status = if matches!(outcome, Outcome::Sent {}) { 202 } else { 200 };
    Ok(Answer::new(status, &outcome))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key: 1 to {KEY_BYTES_MAX} visible ASCII characters");
            Err(Problem::new(400, "wrong header", detail))
        }
    }
}

/// Carries a request out, or answers as the first one with its key was answered. With a key it is
/// carried out to the end also if the caller goes away meanwhile.
async fn once(
    api: &Api,
    grant: &Grant,
    key: Option<String>,
    asked: [&[u8]; 2],
    job: impl Future<Output = Result<Answer, Problem>> + Send + 'static,
) -> Result<Response, Problem> {
    let Some(key) = key else { return job.await.map(IntoResponse::into_response) };
    let hash = Sha256::new().chain_update(asked[0]).chain_update([0]).chain_update(asked[1]);
    match api.keys.begin((grant.account(), key), hash.finalize().into()) {
        Known::Answered(answer) => {
            let mut response = answer.into_response();
            let replayed = HeaderValue::from_static("true");
            response.headers_mut().insert("idempotency-replayed", replayed);
            Ok(response)
        }
        Known::Running => {
            let detail = "a request with this Idempotency-Key is still being carried out";
            Err(Problem::new(409, "in progress", detail))
        }
        Known::Other => {
            let detail = "this Idempotency-Key was used for another request";
            Err(Problem::new(422, "key used before", detail))
        }
        Known::Full => {
            let detail = "too many requests with an Idempotency-Key are under way";
            Err(Problem::new(503, "too busy", detail))
        }
        Known::New(ticket) => {
            let done = async move {
                let answer = job.await.unwrap_or_else(Answer::from);
                // What was refused has changed nothing, and may be tried again.
                if answer.status < 400 {
                    ticket.keep(&answer);
                }
                answer
            };
            let done = tokio::spawn(done.in_current_span()).await;
            let answer = done.map_err(|error| Problem::new(500, "failed", error.to_string()));
            answer.map(IntoResponse::into_response)
        }
    }
}

async fn start_batch(
    Extracted(api): Extracted<Arc<Api>>,
    request: Request,
) -> Result<Response, Problem> {
    let caller = batch::Caller::new(&api, request.headers())?;
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Asked {
        results: batch::Results,
    }
    let Asked { results } = query::read_query(request.uri())?;
    batch::start(&api, caller, results, request)
}

/// Carries out a command of somebody who may give it, when the shards have room for it.
async fn carry_out(api: &Api, grant: &Grant, command: Command) -> Result<Outcome, Problem> {
    let (verb, namespace) = (command.verb(), command.target().namespace());
    tracing::debug!("{} in {namespace:?} by {:?}", verb.as_str(), grant.name);
    grant.may(verb.into())?;
    grant.may_in(namespace)?;
    let state = &api.state;
    let is_congested = || state.server.mesh(|mesh| mesh.is_congested()).unwrap_or(false);
    if is_congested() {
        let since = Instant::now();
        while is_congested() && since.elapsed() < CONGESTION_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    command.run(state).await
}

/// The body of a request that is JSON of any kind.
async fn json_body(api: &Api, headers: &HeaderMap, body: Body) -> Result<Box<str>, Problem> {
    expect_type(headers, &["application/json"])?;
    let body = read_body(body, api.body_bytes_max()).await?;
    let json: Box<serde_json::value::RawValue> = super::command::read(&body)?;
    let shallow = super::command::shallow(json);
    shallow.map_err(|detail| Problem::new(422, "not valid", detail))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of another owner, and mounted by it.
    const OPERATIONS: [&str; 2] = ["/reload", "/drain"];

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let description: serde_json::Value =
            serde_json::from_str(health::DESCRIPTION).expect("a description");
        let paths = description["paths"].as_object().expect("paths");
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .filter(|(path, _)| !OPERATIONS.contains(&path.as_str()))
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("an item").keys();
                let methods =
                    methods.filter(|key| !["parameters", "summary"].contains(&key.as_str()));
                methods.map(move |method| (path.clone(), method.clone()))
            })
            .collect();
        let served = routes().into_iter().map(|(path, method, _)| (path, method.to_owned()));
        assert_eq!(described, served.collect());
    }
}
