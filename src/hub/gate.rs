//! Where clients come from, and how many may come: the addresses that proxies vouch for, and the
//! bounds on connections and handshakes of everybody and of each address.
//!
//! The [`Gate`] is one for all shards, as the kernel spreads the connections of an address over
//! them. It is asked when a connection comes or goes, for a TLS handshake, and when a session is
//! opened, never for a packet. The [`Bounds`] are each shard's own copy, since they may change:
//! what was counted stays counted, and of addresses only those that come while they are bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ipnet::IpNet;

use super::Hub;
use super::answer::Answer;
use super::request::Step;
use crate::options::Forwarded;
use crate::proto::forwarded;
use crate::proto::http::Head;

/// Time that a client with too many connections has to send the request that is answered so.
const REFUSED_MS: u64 = 5_000;
/// Addresses without connections that are remembered, for their handshakes of the last second.
const IDLE_MAX: usize = 65_536;
/// Seconds after which a client with too many connections may try again.
const RETRY_AFTER: &str = "5";
/// The same for one with too many handshakes: a second's allowance is back by then.
const RETRY_HANDSHAKE_AFTER: &str = "1";
const MICROS: u64 = 1_000_000;
/// TLS handshakes for each handshake of a session: browsers open several connections at once.
const TLS_HANDSHAKES: u64 = 4;

/// What a hub is told about where clients come from.
#[derive(Debug, Clone, Default)]
pub struct Entrance {
    /// Counts connections and handshakes, for all shards.
    pub gate: Arc<Gate>,
    /// How many there may be.
    pub bounds: Bounds,
    /// Networks of the proxies whose word is taken.
    pub proxies: Arc<[IpNet]>,
    /// In which header it stands.
    pub forwarded: Forwarded,
}

impl Entrance {
    /// Whether an address is that of a trusted proxy.
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.proxies.iter().any(|network| network.contains(&ip))
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address, or the one that the PROXY protocol has told.
    pub address: SocketAddr,
    /// Whether the connection speaks TLS.
    pub is_secure: bool,
    /// The verified certificate that it has shown over TLS, as DER.
    pub certificate: Option<Arc<[u8]>>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        Peer { address, is_secure: false, certificate: None }
    }
}

/// Bounds of a whole server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Connections.
    pub connections: Option<usize>,
    /// Connections of one address.
    pub per_ip: Option<u32>,
    /// Handshakes of one address in a second; at least 1.
    pub handshakes: Option<u32>,
}

/// Of what there is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// Connections of everybody.
    Connections,
    /// Connections of the client's address.
    OfAddress,
    /// Handshakes of the client's address.
    Handshakes,
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is let in.
    Welcome,
    /// Its first request is answered with the reason.
    Refused(TooMany),
    /// It is closed at once: even those that are told the reason are too many.
    Closed(TooMany),
}

/// How many more than `limit` are told that they are too many.
fn verdict(count: usize, limit: usize, why: TooMany) -> Verdict {
    match count {
        count if count <= limit => Verdict::Welcome,
        count if count <= limit.saturating_add(limit / 8 + 4) => Verdict::Refused(why),
        _ => Verdict::Closed(why),
    }
}

/// Counts the connections of a server, and the connections and handshakes of each address. An IPv6
/// address stands for its /64, which is what one customer is given.
#[derive(Debug, Default)]
pub struct Gate {
    connections: AtomicUsize,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    /// Peers choose their addresses, so the hash is keyed.
    known: HashMap<IpAddr, Client>,
    /// Look for those that may be forgotten when there are this many.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Client {
    connections: u32,
    /// When its buckets are full again, by [`Shake`], in microseconds; each handshake moves one on.
    full_at: [u64; 2],
}

impl Client {
    /// Whether it would be the same if it were forgotten.
    fn is_idle(&self, now: u64) -> bool {
        self.connections == 0 && self.full_at.iter().all(|at| *at <= now)
    }
}

/// What there is a bucket for.
#[derive(Debug, Clone, Copy)]
enum Shake {
    Session,
    Tls,
}

impl Clients {
    /// The record of an address. Amortised O(1): forgets those that say nothing any more, and if
    /// there are too many also those that have no connection.
    fn of(&mut self, ip: IpAddr, now: u64) -> &mut Client {
        if self.known.len() >= self.sweep_at.max(1_024) {
            self.known.retain(|_, client| !client.is_idle(now));
            let idle = self.known.values().filter(|client| client.connections == 0).count();
            if idle > IDLE_MAX {
                self.known.retain(|_, client| client.connections > 0);
            }
            self.sweep_at = 2 * self.known.len();
        }
        self.known.entry(ip).or_default()
    }
}

impl Gate {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One connection more, whatever comes of it.
    fn enter(&self, limit: Option<usize>) -> Verdict {
        let count = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        verdict(count, limit.unwrap_or(usize::MAX), TooMany::Connections)
    }

    fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// One connection of an address more, whatever comes of it.
    fn sit(&self, ip: IpAddr, now_ms: u64, limit: u32) -> Verdict {
        let mut clients = self.clients();
        let client = clients.of(ip, now_ms * 1_000);
        client.connections += 1;
        verdict(client.connections as usize, limit as usize, TooMany::OfAddress)
    }

    fn rise(&self, ip: IpAddr) {
        let mut clients = self.clients();
        let Some(client) = clients.known.get_mut(&ip) else { return };
        client.connections = client.connections.saturating_sub(1);
        if client.is_idle(0) {
            clients.known.remove(&ip);
        }
    }

    /// Takes a handshake out of an address's bucket, which holds a second's allowance; false if it
    /// is empty.
    fn shake(&self, ip: IpAddr, now_ms: u64, rate: u32, kind: Shake) -> bool {
        let rate = match kind {
            Shake::Session => u64::from(rate.max(1)),
            Shake::Tls => u64::from(rate.max(1)) * TLS_HANDSHAKES,
        };
        let (now, each) = (now_ms * 1_000, (MICROS / rate).max(1));
        let mut clients = self.clients();
        let bucket = &mut clients.of(ip, now).full_at[kind as usize];
        let full_at = (*bucket).max(now) + each;
        let has_one = full_at - now <= MICROS.max(each);
        if has_one {
            *bucket = full_at;
        }
        has_one
    }

    /// Addresses that are remembered, and connections.
    pub fn counts(&self) -> (usize, usize) {
        (self.clients().known.len(), self.connections.load(Ordering::Relaxed))
    }
}

/// What counts as one client.
fn client_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

impl Hub {
    /// Whether a connection may come. Unless it is `Closed`, it is counted; [`Hub::seat`] follows.
    pub(super) fn enter(&mut self, ip: IpAddr) -> Verdict {
        let Entrance { gate, bounds, .. } = &self.config.entrance;
        let mut verdict = gate.enter(bounds.connections);
        if let (Verdict::Welcome, Some(limit)) = (verdict, bounds.per_ip)
            && !self.config.entrance.is_proxy(ip)
        {
            verdict = gate.sit(client_of(ip), self.now_ms, limit);
        }
        if let Verdict::Closed(why) = verdict {
            gate.leave();
            if why == TooMany::OfAddress {
                gate.rise(client_of(ip));
            }
        }
        self.count_refusal(verdict);
        verdict
    }

    /// Notes whose connection it is that has come with this verdict.
    pub(super) fn seat(&mut self, index: u32, ip: IpAddr, verdict: Verdict) {
        let entrance = &self.config.entrance;
        // Where all are too many, nobody has looked at the address.
        let is_counted = entrance.bounds.per_ip.is_some()
            && !entrance.is_proxy(ip)
            && verdict != Verdict::Refused(TooMany::Connections);
        if is_counted {
            self.guests.insert(index, client_of(ip));
        }
        if let Verdict::Refused(why) = verdict {
            self.turn_away(index, why);
        }
    }

    /// A connection was let in on another shard.
    pub(super) fn seat_again(&mut self, index: u32, ip: IpAddr) {
        let entrance = &self.config.entrance;
        entrance.gate.enter(None);
        if let Some(limit) = entrance.bounds.per_ip.filter(|_| !entrance.is_proxy(ip)) {
            entrance.gate.sit(client_of(ip), self.now_ms, limit);
            self.guests.insert(index, client_of(ip));
        }
    }

    /// A connection has gone.
    pub(super) fn unseat(&mut self, index: u32) {
        self.config.entrance.gate.leave();
        self.rise(index);
    }

    /// A connection is counted for no address any more.
    fn rise(&mut self, index: u32) {
        if let Some(ip) = self.guests.remove(&index) {
            self.config.entrance.gate.rise(ip);
        }
    }

    /// A request has its answer: a connection that a proxy keeps for the next one, whosesoever that
    /// is, is nobody's.
    pub(super) fn rise_from_request(&mut self, index: u32) {
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        if http.is_some_and(|http| self.config.entrance.is_proxy(http.peer.address.ip())) {
            self.rise(index);
        }
    }

    /// Whether a connection may begin with a TLS handshake, whose cryptography is the costliest
    /// thing that a stranger can ask for. False if it is to be closed.
    pub fn may_secure(&mut self, index: u32) -> bool {
        let entrance = &self.config.entrance;
        let http = self.links.conns.at_mut(index).and_then(|conn| conn.http());
        // One that is being closed has come to its end.
        let Some(ip) = http.map(|http| http.peer.address.ip()) else { return false };
        let Some(rate) = entrance.bounds.handshakes.filter(|_| !entrance.is_proxy(ip)) else {
            return true;
        };
        let may = entrance.gate.shake(client_of(ip), self.now_ms, rate, Shake::Tls);
        self.links.stats.refused_handshakes += u64::from(!may);
        may
    }

    /// A trusted proxy has told whose connection it is, before anything else came on it.
    pub fn handle_address(&mut self, index: u32, address: SocketAddr) {
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return;
        };
        (http.peer.address, http.client) = (address, address);
        if self.config.entrance.is_proxy(address.ip()) {
            return;
        }
        match self.sit_as(index, address.ip()) {
            Verdict::Welcome => {}
            Verdict::Refused(why) => self.turn_away(index, why),
            Verdict::Closed(_) => self.drop_conn(index),
        }
    }

    /// A connection speaks TLS; with the certificate that the client has shown and TLS has
    /// verified.
    pub fn handle_secured(&mut self, index: u32, certificate: Option<Arc<[u8]>>) {
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            (http.peer.is_secure, http.peer.certificate) = (true, certificate);
        }
    }

    /// Counts a connection for another address than before.
    fn sit_as(&mut self, index: u32, ip: IpAddr) -> Verdict {
        let Some(limit) = self.config.entrance.bounds.per_ip else { return Verdict::Welcome };
        let gate = self.config.entrance.gate.clone();
        let ip = client_of(ip);
        let before = self.guests.insert(index, ip);
        if before == Some(ip) {
            return Verdict::Welcome;
        }
        if let Some(before) = before {
            gate.rise(before);
        }
        let verdict = gate.sit(ip, self.now_ms, limit);
        self.count_refusal(verdict);
        verdict
    }

    fn count_refusal(&mut self, verdict: Verdict) {
        let (Verdict::Refused(why) | Verdict::Closed(why)) = verdict else { return };
        self.links.stats.refused += 1;
        self.links.stats.refused_per_ip += u64::from(why == TooMany::OfAddress);
    }

    /// The first request of a connection will be answered with the reason.
    fn turn_away(&mut self, index: u32, why: TooMany) {
        if let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) {
            http.refusal = Some(why);
        }
        self.set_conn_deadline(index, Some(self.config.head_timeout_ms.min(REFUSED_MS)));
    }

    /// Routes a request, unless its client is one of too many.
    pub(super) fn admit(&mut self, index: u32, head: &Head<'_>, raw: &[u8]) -> Step {
        let refused = self.turned_away(index, head);
        refused.unwrap_or_else(|| self.route(index, head, raw))
    }

    /// Finds out who sends a request, and answers those who are too many.
    fn turned_away(&mut self, index: u32, head: &Head<'_>) -> Option<Step> {
        let entrance = &self.config.entrance;
        if entrance.bounds == Bounds::default() && entrance.proxies.is_empty() {
            return None;
        }
        let http = self.links.conns.at_mut(index)?.http()?;
        if entrance.is_proxy(http.peer.address.ip()) {
            let is_proxy = |ip| entrance.is_proxy(ip);
            http.client = forwarded::client(head, entrance.forwarded, http.peer.address, is_proxy);
            let client = http.client.ip();
            // The connection is the client's for as long as its request is in hand.
            if entrance.is_proxy(client) {
                self.rise(index);
            } else if self.sit_as(index, client) != Verdict::Welcome {
                // It ends with the answer.
                self.rise(index);
                self.answer_too_many(index, TooMany::OfAddress);
                return Some(Step::Answered);
            }
        }
        let why = self.links.conns.at_mut(index)?.http()?.refusal?;
        self.answer_too_many(index, why);
        Some(Step::Answered)
    }

    /// Whether the client may open a session or a raw websocket now; if not, that is answered.
    pub(super) fn may_shake(&mut self, index: u32) -> bool {
        let entrance = &self.config.entrance;
        let Some(rate) = entrance.bounds.handshakes else { return true };
        let Some(http) = self.links.conns.at_mut(index).and_then(|conn| conn.http()) else {
            return true;
        };
        let ip = http.client.ip();
        // The request is read again with each answer of a hook.
        if std::mem::replace(&mut http.is_counted, true) || entrance.is_proxy(ip) {
            return true;
        }
        let may = entrance.gate.shake(client_of(ip), self.now_ms, rate, Shake::Session);
        if !may {
            self.links.stats.refused_handshakes += 1;
            self.answer_too_many(index, TooMany::Handshakes);
        }
        may
    }

    /// The last answer of a connection, in words that a client can show.
    fn answer_too_many(&mut self, index: u32, why: TooMany) {
        let (status, seconds, text) = match why {
            TooMany::Connections => (503, RETRY_AFTER, "too many connections"),
            TooMany::OfAddress => (429, RETRY_AFTER, "too many connections from this address"),
            TooMany::Handshakes => {
                (429, RETRY_HANDSHAKE_AFTER, "too many handshakes from this address")
            }
        };
        self.links.stats.bad_requests += 1;
        self.end_keep_alive(index);
        let headers = &[("Cache-Control", "no-store"), ("Retry-After", seconds)];
        let body = format!("{{\"message\":\"{text}\"}}");
        let content_type = Some("application/json");
        let body = body.as_bytes();
        self.respond(index, &Answer { content_type, headers, body, ..Answer::of(status) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        client_of(text.parse().expect("an address"))
    }

    #[test]
    fn the_first_too_many_are_told_and_the_others_closed() {
        let gate = Gate::default();
        let sit = |text| gate.sit(ip(text), 0, 2);
        assert_eq!([sit("10.0.0.1"), sit("10.0.0.1")], [Verdict::Welcome; 2]);
        assert_eq!([(); 4].map(|()| sit("10.0.0.1")), [Verdict::Refused(TooMany::OfAddress); 4]);
        assert_eq!(sit("10.0.0.1"), Verdict::Closed(TooMany::OfAddress));
        assert_eq!(sit("10.0.0.2"), Verdict::Welcome);
        (0..7).for_each(|_| gate.rise(ip("10.0.0.1")));
        assert_eq!(sit("10.0.0.1"), Verdict::Welcome);
        assert_eq!(gate.counts().0, 2);
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_ipv4_as_ipv4() {
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::ffff:1"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    }

    #[test]
    fn a_bucket_holds_one_second_and_fills_evenly() {
        let gate = Gate::default();
        let shake = |ms| gate.shake(ip("10.0.0.1"), ms, 4, Shake::Session);
        assert_eq!([0; 5].map(shake), [true, true, true, true, false]);
        assert!(gate.shake(ip("10.0.0.2"), 0, 4, Shake::Session));
        assert_eq!([249, 250, 251, 499, 500].map(shake), [false, true, false, false, true]);
        assert_eq!([5_000; 5].map(shake), [true, true, true, true, false]);
        let secured = (0..100).filter(|_| gate.shake(ip("10.0.0.1"), 5_000, 4, Shake::Tls));
        assert_eq!(secured.count(), 16, "they have a bucket of their own");
    }

    #[test]
    fn addresses_that_have_gone_are_forgotten() {
        let gate = Gate::default();
        let kept = ip("192.0.2.1");
        gate.sit(kept, 0, 9);
        let shake = |ip: Ipv6Addr, ms| gate.shake(ip.into(), ms, 1, Shake::Session);
        for n in 0..300_000u32 {
            assert!(shake(Ipv6Addr::from_bits(u128::from(n) << 64), 0));
        }
        assert!(gate.counts().0 <= 2 * IDLE_MAX + 2, "{}", gate.counts().0);
        (0..300_000u32).for_each(|n| {
            shake(Ipv6Addr::from_bits(u128::from(n) << 64), 10_000 + u64::from(n));
        });
        assert!(gate.counts().0 <= 2 * IDLE_MAX + 2);
        assert!(gate.clients().known.contains_key(&kept));
    }
}
