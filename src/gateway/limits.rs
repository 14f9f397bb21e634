//! How much one client or user may send.
//!
//! The buckets of a socket are kept with it, those of users in a bounded table that all shards
//! share. What exceeds a limit is answered, counted, told in an event where the configuration names
//! one, and in the end disconnected.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustc_hash::{FxBuildHasher, FxHashMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::routes::Refusal;
use super::state::{NamespaceRules, State, User};
use crate::{Event, Socket};

/// Parts of the table of users, so that shards seldom wait for each other.
const PARTS: usize = 64;
/// Scopes of buckets below those of routes.
const EVENTS: u64 = 0;
const BYTES: u64 = 1;
/// Tokens that a socket shows.
pub(crate) const REFRESHES: u64 = 2;
/// Time in which strikes are forgotten, in seconds.
const STRIKES_SECONDS: f64 = 60.0;
/// Buckets of routes that one socket keeps; a socket that used more routes begins anew.
const ROUTES_MAX: usize = 64;

/// Limits of all namespaces. What goes beyond one is refused with the code `rate_limited`,
/// `too_large` or `room_limit`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections to the data port. A few more are answered 503, the others closed at once.
    /// Not reloaded. Default: any number.
    pub connections: Option<usize>,
    /// Connections of one address; of an IPv6 address's /64. A few more are answered 429, the
    /// others closed at once. Not reloaded. Default: any number.
    pub connections_per_ip: Option<u32>,
    /// Sessions that one address may open in a second, all at once if it likes; more are answered
    /// 429. Not reloaded. Default: any number.
    pub handshakes_per_second_per_ip: Option<u32>,
    /// Events that one socket may send. Default: any number.
    pub socket_events: Option<Rate>,
    /// Bytes of events that one socket may send, names and attachments included. Default: any
    /// number.
    pub socket_bytes: Option<Rate>,
    /// Events that all sockets of a user together may send. Default: any number.
    pub user_events: Option<Rate>,
    /// Bytes of events that all sockets of a user together may send. Default: any number.
    pub user_bytes: Option<Rate>,
    /// Users whose events are counted at a time, about 200 bytes each. Beyond it those who were
    /// silent longest are forgotten, and begin anew. Default: 100000.
    pub max_users: usize,
    /// Rooms that a socket may be in when it joins one more by an event; beyond
    /// `server.max_rooms` nobody gets. Default: 1000.
    pub max_rooms: usize,
    /// Event that tells a client of a limit, with `{code, message, event}`, also where it asked for
    /// no answer. Default: empty, none.
    pub event: String,
    /// Limits that a socket may exceed within a minute; then its connection is closed. 0: any
    /// number. Default: 0.
    pub strikes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            connections: None,
            connections_per_ip: None,
            handshakes_per_second_per_ip: None,
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

/// A token bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: &Rate, now: Instant) -> Bucket {
        Bucket { tokens: rate.burst(), at: now }
    }

    /// Takes `cost` out. One cost above the burst passes with a full bucket, and is paid for later.
    ///
    /// # Errors
    /// There is not as much in it; the time after which there is.
    fn take(&mut self, rate: &Rate, cost: f64, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst());
        self.at = now;
        let needed = cost.min(rate.burst());
        if self.tokens >= needed {
            self.tokens -= cost;
            return Ok(());
        }
        let wait = (needed - self.tokens) / rate.per_second;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

/// The limits made ready.
#[derive(Debug)]
pub(crate) struct Limits {
    socket: [Option<Rate>; 2],
    user: [Option<Rate>; 2],
    users_max: usize,
    rooms_max: usize,
    event: Box<str>,
    strikes: Option<Rate>,
}

impl Limits {
    /// # Errors
    /// A rate allows nothing; its key is named.
    pub(crate) fn new(config: &Config) -> Result<Limits, String> {
        let check = |key: &str, rate: Option<Rate>| {
            rate.map(|rate| rate.check(&format!("limits.{key}"))).transpose()
        };
        crate::emit::check_name(&config.event).map_err(|error| format!("limits.event: {error}"))?;
        let strikes = f64::from(config.strikes);
        let strikes = (config.strikes > 0)
            .then_some(Rate { per_second: strikes / STRIKES_SECONDS, burst: Some(strikes) });
        Ok(Limits {
            socket: [
                check("socket_events", config.socket_events)?,
                check("socket_bytes", config.socket_bytes)?,
            ],
            user: [
                check("user_events", config.user_events)?,
                check("user_bytes", config.user_bytes)?,
            ],
            users_max: config.max_users.max(PARTS),
            rooms_max: config.max_rooms,
            event: config.event.as_str().into(),
            strikes,
        })
    }
}

/// The buckets of one socket; there once one was needed.
#[derive(Debug, Default)]
struct Meter {
    socket: [Option<Bucket>; 2],
    strikes: Option<Bucket>,
    routes: FxHashMap<u64, Bucket>,
}

fn meter(socket: &Socket) -> Rc<RefCell<Meter>> {
    socket.get().unwrap_or_else(|| {
        socket.set_local(RefCell::new(Meter::default()));
        socket.get().unwrap_or_default()
    })
}

/// Buckets by scope and user.
type Part = HashMap<(u64, Arc<str>), Bucket, FxBuildHasher>;

/// The buckets of users, by what they are for.
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
        (scope, user): (u64, &Arc<str>),
        rate: &Rate,
        (cost, now): (f64, Instant),
        users_max: usize,
    ) -> Result<(), Duration> {
        let part = FxBuildHasher.hash_one(user) as usize % PARTS;
        let part = &self.parts[part];
        let mut buckets = part.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let most = users_max.div_ceil(PARTS);
        if buckets.len() >= most && !buckets.contains_key(&(scope, user.clone())) {
            forget_half(&mut buckets);
        }
        let bucket = buckets.entry((scope, user.clone()));
        bucket.or_insert_with(|| Bucket::full(rate, now)).take(rate, cost, now)
    }
}

/// Forgets those that were silent longest, half of them, so that the work is spread.
fn forget_half(buckets: &mut HashMap<(u64, Arc<str>), Bucket, FxBuildHasher>) {
    let mut times: Vec<Instant> = buckets.values().map(|bucket| bucket.at).collect();
    let middle = times.len() / 2;
    let (_, middle, _) = times.select_nth_unstable(middle);
    let middle = *middle;
    buckets.retain(|_, bucket| bucket.at > middle);
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
    if limits.socket == [None; 2] && limits.user == [None; 2] {
        return Ok(());
    }
    let now = Instant::now();
    let costs = [1.0, bytes as f64];
    if limits.socket != [None; 2] {
        let meter = meter(socket);
        let meter = &mut *meter.borrow_mut();
        for (at, cost) in costs.into_iter().enumerate() {
            let Some(rate) = &limits.socket[at] else { continue };
            let bucket = meter.socket[at].get_or_insert_with(|| Bucket::full(rate, now));
            bucket.take(rate, cost, now).map_err(|wait| limited("of this socket", wait))?;
        }
    }
    let user = socket.get::<User>();
    let Some(user) = user.as_ref().and_then(|user| user.id.as_ref()) else { return Ok(()) };
    for (scope, cost) in [EVENTS, BYTES].into_iter().zip(costs) {
        let Some(rate) = &limits.user[scope as usize] else { continue };
        let taken = state.users.take((scope, user), rate, (cost, now), limits.users_max);
        taken.map_err(|wait| limited("of this user", wait))?;
    }
    Ok(())
}

/// Whether a route may be used: by the user if it says so and the client is somebody, otherwise by
/// the socket.
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
        None => {
            let meter = meter(socket);
            let buckets = &mut meter.borrow_mut().routes;
            if buckets.len() >= ROUTES_MAX && !buckets.contains_key(&route) {
                buckets.clear();
            }
            let bucket = buckets.entry(route).or_insert_with(|| Bucket::full(rate, now));
            bucket.take(rate, 1.0, now)
        }
    };
    taken.map_err(|wait| limited("of this kind", wait))
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
    let Refusal { code, message } = refusal;
    if !limits.event.is_empty() {
        let what = json!({ "code": code, "message": message, "event": event.name() });
        let _ = socket.emit(&limits.event, &what);
    }
    let Some(strikes) = &limits.strikes else { return };
    let now = Instant::now();
    let meter = meter(socket);
    let mut meter = meter.borrow_mut();
    let bucket = meter.strikes.get_or_insert_with(|| Bucket::full(strikes, now));
    if bucket.take(strikes, 1.0, now).is_err() {
        socket.disconnect(true);
    }
}

/// Bytes of an event: name, arguments and attachments.
fn size(event: &Event) -> usize {
    let raw = event.raw();
    let attachments: usize = raw.attachments().iter().map(|bytes| bytes.len()).sum();
    event.name().len() + raw.json().len() + attachments
}

fn limited(whose: &str, wait: Duration) -> Refusal {
    let wait = wait.as_millis().max(1);
    let message = format!("too many events {whose}, try again in {wait} ms");
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
        let mut bucket = Bucket::full(&rate, start);
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
            users.take((EVENTS, &user.into()), &rate, (1.0, now), PARTS * 4)
        };
        for n in 0..10_000 {
            assert!(take(&format!("user{n}"), n).is_ok());
        }
        let kept: usize = users.parts.iter().map(|part| part.lock().expect("a part").len()).sum();
        assert!(kept <= PARTS * 4, "{kept}");
        assert!(take("user9999", 9_999).is_err(), "who was there just now is known");
        assert!(users.take((BYTES, &"user9999".into()), &rate, (1.0, now), PARTS * 4).is_ok());
    }
}
