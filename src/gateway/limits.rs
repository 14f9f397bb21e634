//! How much one client or user may send.
//!
//! The buckets of a client are those of its session, so that neither leaving a namespace nor being
//! in several gives it more; each of its sockets keeps a reference to them. Those of users are in a
//! bounded table that all shards share. What exceeds a limit is answered, counted, told in an event
//! where the configuration names one, and in the end disconnected.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustc_hash::{FxBuildHasher, FxHashMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::routes::Refusal;
use super::seldom::Seldom;
use super::state::{NamespaceRules, State, User};
use crate::{Event, Reason, Socket};

/// Parts of the tables of users and sessions, so that shards seldom wait for each other.
const PARTS: usize = 64;
/// The bucket of tokens that a client shows; those of all else are found by hashes.
pub(crate) const REFRESHES: u64 = 2;
/// Time in which strikes are forgotten, in seconds.
const STRIKES_SECONDS: f64 = 60.0;
/// Buckets of one client, and sessions of one part, among which nobody looks for what has become
/// useless.
const FEW: usize = 16;
/// Sessions of one part that have left all namespaces and are remembered.
const IDLE_MAX: usize = 65_536 / PARTS;
/// What buckets lose to the rounding of times.
const ROUNDING: f64 = 1e-6;
/// Longest time after which a bucket is full again.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// Limits of all namespaces. What goes beyond one is refused with the code `rate_limited`,
/// `too_large` or `room_limit`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections to the data port. A few more are answered 503, the others closed at once.
    /// Default: any number.
    pub connections: Option<usize>,
    /// Connections of one address; of an IPv6 address's /64. A few more are answered 429, the
    /// others closed at once. Those that were there before there was a limit are not counted.
    /// Default: any number.
    pub connections_per_ip: Option<u32>,
    /// Sessions that one address may open in a second, all at once if it likes; more are answered
    /// 429. Of TLS handshakes four times as many; connections with more are closed before the
    /// handshake. Default: any number.
    pub handshakes_per_second_per_ip: Option<u32>,
    /// How often one client may join namespaces, on one connection; more is refused. Default: 10 a
    /// second, 100 at once.
    pub connects: Option<Rate>,
    /// Events that one client may send, in all namespaces of its connection. What it sends as
    /// acknowledgements that nobody has asked for counts too. Default: any number.
    pub socket_events: Option<Rate>,
    /// Bytes of events that one client may send, likewise, names and attachments included. Default:
    /// any number.
    pub socket_bytes: Option<Rate>,
    /// Events that all sockets of a user together may send. Default: any number.
    pub user_events: Option<Rate>,
    /// Bytes of events that all sockets of a user together may send. Default: any number.
    pub user_bytes: Option<Rate>,
    /// Users whose events are counted at a time, about 200 bytes each, and as many fewer as each
    /// shares several limits. Beyond it those who were silent longest are forgotten, and begin
    /// anew. Default: 100000.
    pub max_users: usize,
    /// Rooms that a socket may be in when it joins one more by an event; beyond
    /// `server.max_rooms` nobody gets. Default: 1000.
    pub max_rooms: usize,
    /// Event that tells a client of a limit, with `{code, message, event}`, also where it asked for
    /// no answer; `closed: true` is in the last one before its connection is closed. Default:
    /// empty, none.
    pub event: String,
    /// Limits that a client may exceed within a minute; then its connection is closed. 0: any
    /// number. Default: 0.
    pub strikes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            connections: None,
            connections_per_ip: None,
            handshakes_per_second_per_ip: None,
            connects: Some(Rate { per_second: 10.0, burst: Some(100.0) }),
            socket_events: None,
            socket_bytes: None,
            user_events: None,
            user_bytes: None,
            max_users: 100_000,
            max_rooms: 1_000,
            event: String::new(),
            strikes: 0,
        }
    }
}

/// So many at once, and so many a second in the long run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// In the long run, per second; more than 0.
    pub per_second: f64,
    /// At once, after a pause. Default: as many as a second has, at least 1.
    pub burst: Option<f64>,
}

impl Rate {
    /// # Errors
    /// It allows nothing, or is no number.
    pub(crate) fn check(self, key: &str) -> Result<Rate, String> {
        let is_sound = |value: f64| value.is_finite() && value > 0.0;
        if !is_sound(self.per_second) || self.burst.is_some_and(|burst| !is_sound(burst)) {
            return Err(format!("{key}: per_second and burst must be more than 0"));
        }
        let burst = self.burst.unwrap_or(self.per_second).max(1.0);
        Ok(Rate { burst: Some(burst), ..self })
    }

    fn burst(&self) -> f64 {
        self.burst.unwrap_or(self.per_second)
    }
}

/// A rate, and the number that its buckets are found by.
#[derive(Debug, Clone, Copy)]
struct Limit {
    id: u64,
    rate: Rate,
}

impl Limit {
    fn new(what: &str, rate: Rate) -> Limit {
        Limit { id: bucket_id(what, &rate), rate }
    }
}

/// The number of the buckets of a rate, for `what`: the same ones before and after a reload, unless
/// it has changed.
pub(crate) fn bucket_id(what: impl Hash, rate: &Rate) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    [rate.per_second, rate.burst()].map(f64::to_bits).hash(&mut hasher);
    hasher.finish()
}

/// A token bucket, as the moment when it is full again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn full(now: Instant) -> Bucket {
        Bucket { full_at: now }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes `cost` out. One cost above the burst passes with a full bucket, and is paid for later.
    ///
    /// # Errors
    /// There is not as much in it; the time after which there is.
    pub(crate) fn take(&mut self, rate: &Rate, cost: f64, now: Instant) -> Result<(), Duration> {
        let missing = self.full_at.saturating_duration_since(now).as_secs_f64() * rate.per_second;
        let (tokens, needed) = (rate.burst() - missing, cost.min(rate.burst()));
        let time = |tokens: f64| {
            Duration::try_from_secs_f64(tokens / rate.per_second).unwrap_or(LONGEST).min(LONGEST)
        };
        if tokens + ROUNDING < needed {
            return Err(time(needed - tokens));
        }
        self.full_at = now + time(missing + cost);
        Ok(())
    }
}

/// The limits made ready.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Of events and of bytes.
    socket: [Option<Limit>; 2],
    user: [Option<Limit>; 2],
    connects: Option<Limit>,
    users_max: usize,
    rooms_max: usize,
    event: Box<str>,
    strikes: Option<Limit>,
}

impl Limits {
    /// # Errors
    /// Rates that allow nothing, and a bad name, each on a line that begins with its key.
    pub(crate) fn new(config: &Config) -> Result<Limits, String> {
        let mut wrong = Vec::new();
        let mut check = |key: &str, rate: Option<Rate>| {
            let rate = rate?.check(&format!("limits.{key}"));
            rate.map(|rate| Limit::new(key, rate)).map_err(|error| wrong.push(error)).ok()
        };
        let socket = [
            check("socket_events", config.socket_events),
            check("socket_bytes", config.socket_bytes),
        ];
        let user =
            [check("user_events", config.user_events), check("user_bytes", config.user_bytes)];
        let connects = check("connects", config.connects);
        if let Err(error) = crate::emit::check_name(&config.event) {
            wrong.push(format!("limits.event: {error}"));
        }
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        let strikes = f64::from(config.strikes);
        let strikes = (config.strikes > 0)
            .then_some(Rate { per_second: strikes / STRIKES_SECONDS, burst: Some(strikes) });
        Ok(Limits {
            socket,
            user,
            connects,
            users_max: config.max_users.max(PARTS),
            rooms_max: config.max_rooms,
            event: config.event.as_str().into(),
            strikes: strikes.map(|rate| Limit::new("strikes", rate)),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The buckets of one session.
#[derive(Debug, Default)]
struct Meter(FxHashMap<u64, Bucket>);

impl Meter {
    fn take(&mut self, id: u64, rate: &Rate, cost: f64, now: Instant) -> Result<(), Duration> {
        let count = self.0.len();
        if count >= FEW && count.is_power_of_two() && !self.0.contains_key(&id) {
            // A full one is as good as none; of the others there are no more than rates.
            self.0.retain(|_, bucket| !bucket.is_full(now));
        }
        self.0.entry(id).or_insert_with(|| Bucket::full(now)).take(rate, cost, now)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.0.values().all(|bucket| bucket.is_full(now))
    }
}

type SharedMeter = Arc<Mutex<Meter>>;

/// What a socket keeps.
struct Metered {
    session: String,
    meter: SharedMeter,
}

/// The meters of sessions. One whose sockets have all left stays until its buckets are full again.
#[derive(Debug)]
pub(crate) struct Sessions {
    parts: [Mutex<SessionPart>; PARTS],
    /// Clients that were closed: no peer fills the disk with lines about it.
    closed: Seldom,
}

#[derive(Debug, Default)]
struct SessionPart {
    /// By ids that the server has made up, so the hash need not be keyed.
    known: FxHashMap<String, SharedMeter>,
    /// Look for those that may be forgotten when there are this many.
    sweep_at: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions { parts: std::array::from_fn(|_| Mutex::default()), closed: Seldom::default() }
    }
}

impl Sessions {
    fn part(&self, session: &str) -> MutexGuard<'_, SessionPart> {
        lock(&self.parts[FxBuildHasher.hash_one(session) as usize % PARTS])
    }

    /// The meter of a session. Amortised O(1).
    fn of(&self, session: &str, now: Instant) -> SharedMeter {
        let mut part = self.part(session);
        if let Some(meter) = part.known.get(session) {
            return meter.clone();
        }
        if part.known.len() >= part.sweep_at.max(FEW) {
            part.sweep(now);
        }
        part.known.entry(session.to_owned()).or_default().clone()
    }

    fn forget(&self, session: &str) {
        self.part(session).known.remove(session);
    }
}

impl SessionPart {
    fn sweep(&mut self, now: Instant) {
        let is_held = |meter: &SharedMeter| Arc::strong_count(meter) > 1;
        self.known.retain(|_, meter| is_held(meter) || !lock(meter).is_full(now));
        if self.known.values().filter(|meter| !is_held(meter)).count() > IDLE_MAX {
            self.known.retain(|_, meter| is_held(meter));
        }
        self.sweep_at = 2 * self.known.len();
    }
}

fn meter(state: &State, socket: &Socket) -> SharedMeter {
    if let Some(kept) = socket.get::<Metered>() {
        return kept.meter.clone();
    }
    // For one that has gone meanwhile, whatever is still said of it.
    let Some(session) = socket.client_id() else { return SharedMeter::default() };
    let meter = state.sessions.of(&session, Instant::now());
    socket.set(Metered { session, meter: meter.clone() });
    meter
}

/// A socket has gone. What its session has used up is forgotten with the session only.
pub(crate) fn left(state: &State, socket: &Socket, reason: Reason) {
    let goes_on = [Reason::ClientNamespaceDisconnect, Reason::ServerNamespaceDisconnect];
    if let Some(kept) = socket.get::<Metered>().filter(|_| !goes_on.contains(&reason)) {
        state.sessions.forget(&kept.session);
    }
}

/// Buckets by number and user.
type Part = HashMap<(u64, Arc<str>), Bucket, FxBuildHasher>;

/// The buckets of users.
#[derive(Debug)]
pub(crate) struct Users {
    parts: [Mutex<Part>; PARTS],
}

impl Default for Users {
    fn default() -> Self {
        Users { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Users {
    fn take(
        &self,
        (id, user): (u64, &Arc<str>),
        rate: &Rate,
        (cost, now): (f64, Instant),
        users_max: usize,
    ) -> Result<(), Duration> {
        let part = FxBuildHasher.hash_one(user) as usize % PARTS;
        let mut buckets = lock(&self.parts[part]);
        let most = users_max.div_ceil(PARTS);
        if buckets.len() >= most && !buckets.contains_key(&(id, user.clone())) {
            make_room(&mut buckets, most, now);
        }
        let bucket = buckets.entry((id, user.clone()));
        bucket.or_insert_with(|| Bucket::full(now)).take(rate, cost, now)
    }
}

/// Forgets those that are full, and then, if there are still `most`, the half of them that is
/// nearest to it, so that the work is spread.
fn make_room(buckets: &mut Part, most: usize, now: Instant) {
    buckets.retain(|_, bucket| !bucket.is_full(now));
    if buckets.len() < most {
        return;
    }
    let mut times: Vec<Instant> = buckets.values().map(|bucket| bucket.full_at).collect();
    let middle = times.len() / 2;
    let (_, middle, _) = times.select_nth_unstable(middle);
    let middle = *middle;
    buckets.retain(|_, bucket| bucket.full_at > middle);
}

/// Whether a client may ask to join a namespace now.
///
/// # Errors
/// `rate_limited`.
pub(crate) fn admit_connect(state: &State, socket: &Socket) -> Result<(), Refusal> {
    let rules = state.rules();
    let (Some(Limit { id, rate }), Some(session)) = (rules.limits.connects, socket.client_id())
    else {
        return Ok(());
    };
    let now = Instant::now();
    let meter = state.sessions.of(&session, now);
    let taken = lock(&meter).take(id, &rate, 1.0, now);
    taken.map_err(|wait| {
        if is_last_strike(state, &rules.limits, socket) {
            close(state, socket);
        }
        limited("namespaces", wait)
    })
}

/// Whether an event may be looked at.
///
/// # Errors
/// `too_large`: more bytes than the namespace takes. `rate_limited`: more than the socket or its
/// user may send.
pub(crate) fn admit(
    state: &State,
    rules: &NamespaceRules,
    socket: &Socket,
    event: &Event,
) -> Result<(), Refusal> {
    let bytes = size(event);
    if rules.max_payload.is_some_and(|most| bytes > most) {
        let message = format!("an event of {bytes} bytes is too large here");
        return Err(Refusal { code: "too_large", message });
    }
    let all = state.rules();
    let limits = &all.limits;
    let costs = [1.0, bytes as f64];
    if limits.socket.iter().chain(&limits.user).all(Option::is_none) {
        return Ok(());
    }
    let now = Instant::now();
    if limits.socket.iter().any(Option::is_some) {
        let meter = meter(state, socket);
        let mut meter = lock(&meter);
        for (Limit { id, rate }, cost) in charges(&limits.socket, costs) {
            meter
                .take(*id, rate, cost, now)
                .map_err(|wait| limited("events of this client", wait))?;
        }
    }
    let user = socket.get::<User>();
    let Some(user) = user.as_ref().and_then(|user| user.id.as_ref()) else { return Ok(()) };
    for (Limit { id, rate }, cost) in charges(&limits.user, costs) {
        let taken = state.users.take((*id, user), rate, (cost, now), limits.users_max);
        taken.map_err(|wait| limited("events of this user", wait))?;
    }
    Ok(())
}

/// The limits that there are, with what each is charged.
fn charges(limits: &[Option<Limit>; 2], costs: [f64; 2]) -> impl Iterator<Item = (&Limit, f64)> {
    limits.iter().zip(costs).filter_map(|(limit, cost)| Some((limit.as_ref()?, cost)))
}

/// Whether a route may be used: by the user if it says so and the client is somebody, otherwise by
/// the client. `route` is its [`bucket_id`].
///
/// # Errors
/// `rate_limited`.
pub(crate) fn admit_route(
    state: &State,
    socket: &Socket,
    user: Option<&Arc<str>>,
    route: u64,
    rate: &Rate,
) -> Result<(), Refusal> {
    let now = Instant::now();
    let taken = match user {
        Some(user) => {
            let users_max = state.rules().limits.users_max;
            state.users.take((route, user), rate, (1.0, now), users_max)
        }
        None => lock(&meter(state, socket)).take(route, rate, 1.0, now),
    };
    taken.map_err(|wait| limited("events of this kind", wait))
}

/// Whether a socket may join one more room by itself.
///
/// # Errors
/// `room_limit`.
pub(crate) fn admit_room(state: &State, socket: &Socket) -> Result<(), Refusal> {
    // Its own room is not counted.
    let most = state.rules().limits.rooms_max;
    match socket.rooms().len() <= most {
        true => Ok(()),
        false => Err(room_limit()),
    }
}

pub(crate) fn room_limit() -> Refusal {
    Refusal { code: "room_limit", message: "no more rooms for this socket".into() }
}

/// Tells a client of a limit that it has exceeded, and ends its connection after too many.
pub(crate) fn exceeded(state: &State, socket: &Socket, event: &Event, refusal: &Refusal) {
    if !["rate_limited", "too_large", "room_limit"].contains(&refusal.code) {
        return;
    }
    let all = state.rules();
    let limits = &all.limits;
    let is_last = is_last_strike(state, limits, socket);
    if !limits.event.is_empty() {
        let Refusal { code, message } = refusal;
        let mut what = json!({ "code": code, "message": message, "event": event.name() });
        if is_last {
            what["closed"] = true.into();
        }
        let _ = socket.emit(&limits.event, &what);
    }
    if is_last {
        close(state, socket);
    }
}

/// Counts a strike; whether it is one too many.
fn is_last_strike(state: &State, limits: &Limits, socket: &Socket) -> bool {
    limits.strikes.is_some_and(|Limit { id, rate }| {
        lock(&meter(state, socket)).take(id, &rate, 1.0, Instant::now()).is_err()
    })
}

fn close(state: &State, socket: &Socket) {
    let (namespace, id) = (socket.namespace().name(), socket.id());
    state.metrics.struck_out(&namespace);
    if let Some(clients) = state.sessions.closed.count() {
        tracing::warn!(%namespace, socket = id, clients, "closed: too many strikes");
    }
    socket.disconnect(true);
}

/// Bytes of an event: name, arguments and attachments.
fn size(event: &Event) -> usize {
    let raw = event.raw();
    let attachments: usize = raw.attachments().iter().map(|bytes| bytes.len()).sum();
    event.name().len() + raw.json().len() + attachments
}

fn limited(what: &str, wait: Duration) -> Refusal {
    let wait = wait.as_millis().max(1);
    let message = format!("too many {what}, try again in {wait} ms");
    Refusal { code: "rate_limited", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: f64, burst: f64) -> Rate {
        Rate { per_second, burst: Some(burst) }
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (rate, start) = (rate(10.0, 2.0), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::full(start);
        assert_eq!([0, 0].map(|ms| bucket.take(&rate, 1.0, after(ms))), [Ok(()); 2]);
        assert_eq!(bucket.take(&rate, 1.0, start), Err(Duration::from_millis(100)));
        assert!(bucket.take(&rate, 1.0, after(99)).is_err());
        assert!(bucket.take(&rate, 1.0, after(101)).is_ok());
        // Time that goes backwards gives nothing.
        assert!(bucket.take(&rate, 1.0, start).is_err());
        // It holds no more than the burst, and a large cost is paid for later.
        assert!(bucket.take(&rate, 5.0, after(10_000)).is_ok());
        assert!(bucket.take(&rate, 1.0, after(10_300)).is_err());
        assert!(bucket.take(&rate, 1.0, after(10_500)).is_ok());
    }

    #[test]
    fn a_bucket_holds_a_second() {
        let (rate, start) = (Rate { per_second: 2.0, burst: None }, Instant::now());
        let mut bucket = Bucket::full(start);
        let mut take = |now| bucket.take(&rate, 1.0, now);
        assert_eq!([take(start), take(start)], [Ok(()), Ok(())]);
        let wait = take(start).expect_err("empty");
        assert_eq!(wait, Duration::from_millis(500));
        assert_eq!(take(start + wait), Ok(()));
        assert!(take(start + wait).is_err());
    }

    #[test]
    fn rates_that_allow_nothing_are_refused() {
        for rate in [rate(0.0, 1.0), rate(1.0, 0.0), rate(f64::NAN, 1.0), rate(1.0, -1.0)] {
            let error = rate.check("limits.user_events").expect_err("nothing");
            assert!(error.starts_with("limits.user_events: "), "{error}");
        }
        let rate = Rate { per_second: 0.1, burst: None }.check("x").expect("one in ten seconds");
        assert_eq!(rate.burst(), 1.0);
    }

    #[test]
    fn the_table_of_users_is_bounded() {
        let (users, rate, now) = (Users::default(), rate(1.0, 1.0), Instant::now());
        let take = |user: &str, ms| {
            let now = now + Duration::from_millis(ms);
            users.take((0, &user.into()), &rate, (1.0, now), PARTS * 4)
        };
        for n in 0..10_000 {
            assert!(take(&format!("user{n}"), n).is_ok());
        }
        let kept: usize = users.parts.iter().map(|part| part.lock().expect("a part").len()).sum();
        assert!(kept <= PARTS * 4, "{kept}");
        assert!(take("user9999", 9_999).is_err(), "who was there just now is known");
        assert!(users.take((1, &"user9999".into()), &rate, (1.0, now), PARTS * 4).is_ok());
    }

    #[test]
    fn a_meter_forgets_what_is_full_and_nothing_else() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        let (slow, quick) = (rate(0.001, 1.0), rate(1_000.0, 1.0));
        for id in 0..1_000 {
            assert!(meter.take(id, &slow, 1.0, now).is_ok());
        }
        assert!((0..1_000).all(|id| meter.take(id, &slow, 1.0, now).is_err()));
        let later = now + Duration::from_secs(2_000);
        for id in 1_000..3_000 {
            assert!(meter.take(id, &quick, 1.0, later).is_ok());
        }
        assert!(meter.0.len() < 2_100, "{}", meter.0.len());
    }

    #[test]
    fn sessions_that_have_gone_are_forgotten() {
        let (sessions, start, slow) = (Sessions::default(), Instant::now(), rate(0.001, 1.0));
        let held = sessions.of("held", start);
        assert!(lock(&held).take(0, &slow, 1.0, start).is_ok());
        let count = || sessions.parts.iter().map(|part| lock(part).known.len()).sum::<usize>();
        for n in 0..200_000 {
            let meter = sessions.of(&n.to_string(), start);
            assert!(lock(&meter).take(0, &slow, 1.0, start).is_ok());
        }
        assert!(count() <= 2 * (IDLE_MAX * PARTS) + PARTS * FEW, "{}", count());
        // One that has left all namespaces is known while its buckets are not full.
        let again = sessions.of("199999", start);
        assert!(lock(&again).take(0, &slow, 1.0, start).is_err());
        assert!(Arc::ptr_eq(&held, &sessions.of("held", start)));
        drop(again);
        let later = start + Duration::from_secs(2_000);
        for n in 0..200_000 {
            sessions.of(&format!("new {n}"), later);
        }
        assert!(count() < PARTS * 4 * FEW, "{}", count());
        assert!(Arc::ptr_eq(&held, &sessions.of("held", later)));
    }
}
