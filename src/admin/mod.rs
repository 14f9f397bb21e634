//! The official admin UI (spec S): its namespace, who may log in, and what its buttons do.
//!
//! The UI is a page of its own (npm `@socket.io/admin-ui`) that speaks Socket.IO with a namespace
//! of the server. Nothing here runs while nobody is logged in; then each page has a loop of its own
//! for the figures, and `tap.rs` tells it what happens.

pub(crate) mod tap;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::tap::watching;
use crate::error::{Error, Reason};
use crate::event::Event;
use crate::hub::rooms::NamespaceId;
use crate::namespace::{ConnectError, Namespace};
use crate::remote::NamespaceSize;
use crate::server::{Server, Stats};
use crate::socket::{Socket, sleep};

/// How often a page gets figures (S-6); it takes a server for gone after five times that.
const STATS_EVERY: Duration = Duration::from_secs(2);
/// How long a page that was logged in needs no password, and how many are remembered (S-4).
const SESSION_LIFE: Duration = Duration::from_secs(24 * 3_600);
const SESSIONS_MAX: usize = 1_000;
/// Passwords that are checked at a time: each check keeps a core busy for as long as its hash says.
const CHECKS_MAX: usize = 2;

/// What a page may see (S-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminMode {
    /// Sockets, rooms and events as well, live. For servers of up to about a thousand sockets: each
    /// event is told to each page, up to a bound ([`AdminOptions`]). Default.
    Development,
    /// Figures only.
    Production,
}

/// Who may log in, with which password.
#[derive(Debug, Clone)]
pub struct BasicAuth {
    /// Name of the only user.
    pub username: String,
    /// bcrypt hash of the password, such as `htpasswd -B` makes.
    pub password: String,
}

/// Settings of [`Server::instrument`] (S-2).
///
/// In [`AdminMode::Development`] pages hear of at most 1,000 events and 1 MB of their arguments a
/// second, and the first list of a page has at most 2,000 sockets of each shard.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdminOptions {
    /// Namespace of the UI (`namespaceName`). Default `/admin`.
    pub namespace: String,
    /// Who may log in (`auth`). Default `None`: everybody who can reach the server, and a warning
    /// in the log.
    pub auth: Option<BasicAuth>,
    /// Show only, change nothing (`readonly`). Default false.
    pub read_only: bool,
    /// Name of this server in the UI (`serverId`). Default: the host's name.
    pub server_id: String,
    /// What pages may see (`mode`). Default [`AdminMode::Development`].
    pub mode: AdminMode,
}

impl Default for AdminOptions {
    fn default() -> AdminOptions {
        AdminOptions {
            namespace: "/admin".into(),
            auth: None,
            read_only: false,
            server_id: hostname(),
            mode: AdminMode::Development,
        }
    }
}

/// What the pages of a server share.
pub(crate) struct Admin {
    options: AdminOptions,
    namespace: (NamespaceId, Arc<str>),
    hostname: String,
    start: Instant,
    /// Pages that are logged in and see everything.
    watchers: AtomicUsize,
    /// Passwords being checked.
    checks: AtomicUsize,
    /// Pages that were logged in, oldest first.
    sessions: Mutex<VecDeque<(String, Instant)>>,
    budget: Mutex<tap::Budget>,
}

impl Server {
    /// Makes the server speak with the [official admin UI](https://admin.socket.io)
    /// (`instrument`). A page from another origin needs
    /// [`Options::cors`](crate::Options::cors) with credentials. Costs nothing while nobody is
    /// logged in.
    ///
    /// ```
    /// # let server = corecast::Server::new(corecast::Options::default())?;
    /// let mut options = corecast::AdminOptions::default();
    /// options.auth = Some(corecast::BasicAuth {
    ///     username: "admin".into(),
    ///     password: "$2b$10$heqvAkYMez.Va6Et2uXInOnkCT6/uQj1brkrbyG3LpopDklcq7ZOS".into(),
    /// });
    /// options.mode = corecast::AdminMode::Production;
    /// server.instrument(options)?;
    /// # Ok::<(), corecast::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Options`]: the password is no bcrypt hash, or this is the second call.
    ///
    /// # Panics
    /// After the server has begun to listen.
    pub fn instrument(&self, options: AdminOptions) -> Result<(), Error> {
        match &options.auth {
            // Any password will do to see whether the hash can be read.
            Some(auth) if bcrypt::verify("", &auth.password).is_err() => {
                return Err(Error::Options("the admin's password must be a bcrypt hash"));
            }
            Some(_) => {}
            None => log::warn!("anybody who reaches this server may log in to its admin namespace"),
        }
        let namespace = self.of(&options.namespace);
        let admin = Admin {
            namespace: (namespace.id, namespace.name.clone()),
            hostname: hostname(),
            start: Instant::now(),
            watchers: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
            sessions: Mutex::default(),
            budget: Mutex::default(),
            options,
        };
        let admin = self.set_admin(admin)?;
        namespace.middleware(move |socket: Socket| log_in(admin.clone(), socket));
        register(&namespace);
        Ok(())
    }
}

fn register(namespace: &Namespace) {
    namespace
        .on_connect(|socket: Socket| async move {
            if let Some(admin) = socket.server().admin().cloned() {
                serve_page(admin, socket).await;
            }
        })
        .on_disconnect(|socket: Socket, _: Reason| async move {
            if socket.get::<Watching>().is_some()
                && let Some(admin) = socket.server().admin()
            {
                admin.count_watcher(&socket.server(), false);
            }
        });
    for command in ["emit", "join", "leave", "_disconnect"] {
        namespace.on(command, |socket: Socket, event: Event| async move {
            let server = socket.server();
            if server.admin().is_some_and(|admin| !admin.options.read_only) {
                // A page has no way to show that something could not be done.
                let _ = obey(&server, &event);
            }
        });
    }
}

/// Marks a page that counts as a watcher.
struct Watching;

/// The id of a page's session, from its login to its connection.
struct SessionId(String);

impl Admin {
    /// Whether somebody wants to hear of everything.
    fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Counts a page, and lets the shards tell of everything while there is one.
    fn count_watcher(&self, server: &Server, has_come: bool) {
        let change = if has_come { 1 } else { usize::MAX };
        let before = self.watchers.fetch_add(change, Ordering::Relaxed);
        if before.wrapping_add(change).min(before) == 0 {
            // Shards that cannot be reached tell less for a while. Each looks for itself, since
            // pages of two shards may come and go at once and their mail in any order.
            let _ = server.on_shards(None, |shard| {
                let is_watched = watching(&shard.server()).is_some();
                shard.hub().watch_all(is_watched);
            });
        }
    }

    fn sees_everything(&self) -> bool {
        self.options.mode == AdminMode::Development
    }

    fn sessions(&self) -> MutexGuard<'_, VecDeque<(String, Instant)>> {
        self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn knows_session(&self, id: &str) -> bool {
        let mut sessions = self.sessions();
        sessions.retain(|(_, since)| since.elapsed() < SESSION_LIFE);
        sessions.iter().any(|(known, _)| known == id)
    }

    fn new_session(&self) -> Result<String, ConnectError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| refused())?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.sessions();
        if sessions.len() >= SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back((id.clone(), Instant::now()));
        Ok(id)
    }
}

/// The UI shows its login for this text and no other (S-3).
fn refused() -> ConnectError {
    ConnectError::new("invalid credentials")
}

/// Lets a page in that knows the password, or a session that was given for one (S-3).
async fn log_in(admin: Arc<Admin>, socket: Socket) -> Result<(), ConnectError> {
    let Some(auth) = &admin.options.auth else { return Ok(()) };
    let said: Value = socket.auth().map_err(|_| refused())?;
    if said["sessionId"].as_str().is_some_and(|id| admin.knows_session(id)) {
        return Ok(());
    }
    let (username, password) = (said["username"].as_str(), said["password"].as_str());
    let password = password.ok_or_else(refused)?.to_owned();
    let is_user = username == Some(auth.username.as_str());
    if admin.checks.fetch_add(1, Ordering::Relaxed) >= CHECKS_MAX {
        admin.checks.fetch_sub(1, Ordering::Relaxed);
        return Err(refused());
    }
    let hash = auth.password.clone();
    // Slow on purpose, so not on the shard; as slow for a wrong name as for a wrong password.
    let check = move || bcrypt::verify(password, &hash).unwrap_or(false);
    let is_right = glommio::executor().spawn_blocking(check).await;
    admin.checks.fetch_sub(1, Ordering::Relaxed);
    if !is_user || !is_right {
        return Err(refused());
    }
    socket.set(SessionId(admin.new_session()?));
    Ok(())
}

/// Tells a page what it may do, what there is, and every two seconds the figures, until it goes.
async fn serve_page(admin: Arc<Admin>, socket: Socket) {
    // Behind CONNECT, since the UI does not listen before it.
    if let Some(session) = socket.get::<SessionId>() {
        let _ = socket.emit("session", &session.0);
    }
    let mut features = match admin.options.read_only {
        true => Vec::new(),
        false => vec!["EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT"],
    };
    features.push("AGGREGATED_EVENTS");
    if admin.sees_everything() {
        features.push("ALL_EVENTS");
        admin.count_watcher(&socket.server(), true);
        socket.set(Watching);
    }
    let _ = socket.emit("config", json!({ "supportedFeatures": features }));
    let server = socket.server();
    if admin.sees_everything() {
        let _ = socket.emit("all_sockets", &tap::all_sockets(&server).await);
    }
    let mut before = server.stats();
    while socket.is_connected() {
        let now = server.stats();
        let namespaces = server.fetch_namespaces().await;
        let namespaces = namespaces.map(|gathered| gathered.value).unwrap_or_default();
        let _ = socket.emit("server_stats", admin.figures(&before, &now, &namespaces));
        before = now;
        sleep(STATS_EVERY).await;
    }
}

impl Admin {
    /// `server_stats` (S-6), with what has happened between two moments (S-7).
    fn figures(&self, before: &Stats, now: &Stats, namespaces: &[NamespaceSize]) -> Value {
        let namespaces: Vec<Value> = namespaces
            .iter()
            .map(|size| json!({ "name": size.name, "socketsCount": size.sockets }))
            .collect();
        json!({
            "serverId": self.options.server_id,
            "hostname": self.hostname,
            "pid": std::process::id(),
            "uptime": self.start.elapsed().as_secs_f64(),
            "clientsCount": now.gauges.sessions,
            "pollingClientsCount": now.gauges.polling_sessions,
            "aggregatedEvents": happened(before, now),
            "namespaces": namespaces,
        })
    }
}

/// Differences of counters as the UI's aggregated events, those that are not 0 (S-7).
fn happened(before: &Stats, now: &Stats) -> Vec<Value> {
    let (before, now) = (&before.totals, &now.totals);
    let counts = [
        ("rawConnection", now.sessions.saturating_sub(before.sessions)),
        ("packetsIn", now.packets_in.saturating_sub(before.packets_in)),
        ("packetsOut", now.packets_out.saturating_sub(before.packets_out)),
        ("bytesIn", now.bytes_in.saturating_sub(before.bytes_in)),
        ("bytesOut", now.bytes_out.saturating_sub(before.bytes_out)),
    ];
    let counts = counts.map(|(kind, count)| (kind, None, count));
    let closed = Reason::ALL.map(|reason| {
        let count = now.closed(reason).saturating_sub(before.closed(reason));
        ("rawDisconnection", Some(reason.as_str()), count)
    });
    let timestamp = tap::now_ms() / 1_000 * 1_000;
    let happened = counts.into_iter().chain(closed).filter(|(_, _, count)| *count > 0);
    happened
        .map(|(kind, sub, count)| {
            let mut event = json!({ "timestamp": timestamp, "type": kind, "count": count });
            if let Some(sub) = sub {
                event["subType"] = sub.into();
            }
            event
        })
        .collect()
}

/// Does what a button of the UI asks for (S-10). Without a filter, to a whole namespace; a filter
/// is a room or a socket's id.
fn obey(server: &Server, event: &Event) -> Result<(), Error> {
    let raw = event.raw();
    let sockets = |namespace: &str, filter: Option<String>| {
        let namespace = server.namespace(namespace).ok_or(Error::NotRunning)?;
        Ok::<_, Error>(match filter.filter(|filter| !filter.is_empty()) {
            Some(filter) => namespace.to(filter),
            None => namespace.broadcast(),
        })
    };
    match event.name() {
        "emit" => {
            let (namespace, filter, name): (String, Option<String>, String) =
                raw.clone().take(3).args()?;
            sockets(&namespace, filter)?.emit(&name, raw.skip(3))
        }
        "_disconnect" => {
            let (namespace, close, filter) = three::<bool>(&raw)?;
            sockets(&namespace, filter)?.disconnect_sockets(close)
        }
        command => {
            let (namespace, room, filter) = three::<String>(&raw)?;
            let sockets = sockets(&namespace, filter)?;
            match command {
                "join" => sockets.sockets_join(room),
                _ => sockets.sockets_leave(room),
            }
        }
    }
}

/// Namespace, something, and a filter that may be missing.
fn three<T: serde::de::DeserializeOwned>(
    raw: &crate::event::Raw,
) -> Result<(String, T, Option<String>), Error> {
    let (namespace, value): (String, T) = raw.clone().take(2).args()?;
    let filter: Option<String> = raw.clone().skip(2).data()?;
    Ok((namespace, value, filter))
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
