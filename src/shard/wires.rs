//! Connections whose bytes are not the hub's: those that begin with a header of the PROXY protocol,
//! and those that speak TLS. They have a [`Wire`] between the ring and the hub; all others have
//! none, and a shard whose ports are all plain has no [`Wires`].
//!
//! ```text
//!  ring ── Received ──▶ header? ──▶ TLS ──▶ plaintext ──▶ hub
//!       ◀── send, one at a time ─── TLS ◀── a send of the hub, handshake, alerts
//! ```
//!
//! The hub's rules hold on both sides. It has one send in flight, and is told that it is done when
//! all of its ciphertext was sent. A receive that it asked for once brings plaintext once: what
//! brings none is received again here. And where it receives once it is not told anything while
//! TLS sends on its own account: it may move the connection in answer, and then nothing is in
//! flight.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ring::{Completion, Ring};
use super::tls::{Moving, Session};
use crate::hub::buffer::SendBuf;
use crate::hub::gate::Entrance;
use crate::hub::{Hub, PeerEnd};
use crate::port::Port;
use crate::proto::proxy;
use crate::server::Spec;

/// What is between the ring and the hub for one connection.
struct Wire {
    /// The header of the PROXY protocol as far as it was received; `None` once it is complete.
    header: Option<Vec<u8>>,
    tls: Option<Session>,
    /// The ring has a send of this connection.
    is_sending: bool,
    /// The hub waits for the end of its send.
    is_awaited: bool,
    /// The hub wants to end our direction when all was sent.
    is_ending: bool,
    /// The hub was asked whether there may be a handshake.
    is_admitted: bool,
    /// It has said no.
    is_refused: bool,
    /// The handshake is done and was told.
    is_shaken: bool,
    /// The hub was told that the peer sends no more, or is to be told nothing more.
    has_ended: bool,
    /// The peer has broken a protocol; what it sends is not looked at.
    is_broken: bool,
    /// Plaintext for the hub, once nothing is being sent.
    held: Vec<u8>,
}

/// The wires of a shard.
pub(super) struct Wires {
    ports: Vec<Port>,
    entrance: Entrance,
    /// By the number of the connection.
    wires: Vec<Option<Box<Wire>>>,
    /// Reused for plaintext.
    plain: Vec<u8>,
}

impl Wires {
    /// Those of a server; none if all of its ports are plain.
    pub(super) fn new(spec: &Arc<Spec>) -> Option<Wires> {
        let is_plain = |port: &Port| !port.is_tls() && !port.proxy_protocol;
        let (ports, entrance) = (spec.ports.clone(), spec.entrance.clone());
        let (wires, plain) = (Vec::new(), Vec::new());
        (!ports.iter().all(is_plain)).then_some(Wires { ports, entrance, wires, plain })
    }

    /// Lets other proxies be trusted from now on.
    pub(super) fn set_entrance(&mut self, entrance: Entrance) {
        self.entrance = entrance;
    }

    /// Whether that address may connect by that listener at all.
    pub(super) fn may_enter(&self, listener: u32, address: SocketAddr) -> bool {
        let port = self.ports.get(listener as usize);
        port.is_none_or(|port| !port.proxy_protocol || self.entrance.is_proxy(address.ip()))
    }

    /// Gives a new connection its wire, if it needs one. False if it cannot have it.
    pub(super) fn begin(&mut self, conn: u32, listener: u32) -> bool {
        let Some(port) = self.ports.get(listener as usize) else { return true };
        let Ok(tls) = Session::begin(port) else { return false };
        let header = port.proxy_protocol.then(Vec::new);
        if header.is_some() || tls.is_some() {
            self.put(conn, Wire::new(header, tls));
        }
        true
    }

    /// Goes on with a TLS connection of another shard, under a new number.
    pub(super) fn adopt(&mut self, hub: &mut Hub, conn: u32, moving: Moving) {
        let mut wire = Wire::new(None, Some(Session::arrive(moving)));
        wire.is_shaken = true;
        wire.tell_end(hub, conn);
        self.put(conn, wire);
    }

    /// Takes a connection out that moves to another shard.
    pub(super) fn take(&mut self, conn: u32) -> Option<Moving> {
        let wire = self.wires.get_mut(conn as usize)?.take()?;
        wire.tls.map(Session::depart)
    }

    fn put(&mut self, conn: u32, wire: Wire) {
        let index = conn as usize;
        if index >= self.wires.len() {
            self.wires.resize_with(index + 1, || None);
        }
        self.wires[index] = Some(Box::new(wire));
    }

    fn get(&mut self, conn: u32) -> Option<&mut Wire> {
        self.wires.get_mut(conn as usize)?.as_deref_mut()
    }

    /// Handles what concerns a wire; gives back what does not.
    pub(super) fn complete<'a>(
        &mut self,
        ring: &mut Ring,
        hub: &mut Hub,
        completion: Completion<'a>,
    ) -> Option<Completion<'a>> {
        match completion {
            Completion::Received { conn, bytes } if self.get(conn).is_some() => {
                self.received(ring, hub, conn, bytes);
            }
            Completion::PeerClosed { conn, error } if self.get(conn).is_some() => {
                let end = if error.is_some() { PeerEnd::Reset } else { PeerEnd::Eof };
                let wire = self.get(conn).filter(|wire| !wire.has_ended);
                if let Some(wire) = wire {
                    wire.has_ended = true;
                    hub.handle_peer_closed(conn, end);
                }
            }
            Completion::Sent { conn, result } if self.get(conn).is_some() => {
                self.sent(ring, hub, conn, result.is_ok());
            }
            Completion::Closed { conn } => {
                let wire = self.wires.get_mut(conn as usize).and_then(Option::take);
                let has_failed =
                    |wire: &Wire| wire.tls.is_some() && !wire.is_shaken && !wire.is_refused;
                if wire.is_some_and(|wire| has_failed(&wire)) {
                    hub.tally(|stats| stats.tls_failures += 1);
                }
                return Some(completion);
            }
            completion => return Some(completion),
        }
        None
    }

    fn received(&mut self, ring: &mut Ring, hub: &mut Hub, conn: u32, bytes: &[u8]) {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let Some(wire) = self.get(conn) else { return };
        let is_once = !ring.receives_many(conn);
        if wire.is_broken {
            if is_once {
                hub.handle_received(conn, &mut []);
            }
            return;
        }
        if wire.read(hub, conn, bytes, &mut plain).is_err() {
            wire.break_off(ring, hub, conn, is_once);
            return;
        }
        wire.pump(ring, conn);
        if is_once && plain.is_empty() && !wire.has_closed() {
            ring.receive_once(conn);
        } else if is_once && wire.is_sending {
            wire.held.extend_from_slice(&plain);
        } else {
            wire.deliver(hub, conn, &mut plain);
        }
        if wire.header.is_none() && wire.tls.is_none() {
            // The rest of a plain connection is the hub's.
            self.wires[conn as usize] = None;
        }
        if plain.capacity() <= 64 << 10 {
            self.plain = plain;
        }
    }

    fn sent(&mut self, ring: &mut Ring, hub: &mut Hub, conn: u32, is_ok: bool) {
        let Some(wire) = self.get(conn) else { return };
        wire.is_sending = false;
        if !is_ok {
            wire.has_ended = true;
            if let Some(tls) = &mut wire.tls {
                tls.forget();
            }
            return match wire.is_awaited {
                true => hub.handle_sent(conn, false),
                false => hub.handle_peer_closed(conn, PeerEnd::Reset),
            };
        }
        wire.pump(ring, conn);
        if wire.is_sending {
            return;
        }
        if std::mem::take(&mut wire.is_awaited) {
            hub.handle_sent(conn, true);
        }
        let mut held = std::mem::take(&mut wire.held);
        if !held.is_empty() || wire.has_closed() {
            wire.deliver(hub, conn, &mut held);
        }
    }

    /// A send of the hub.
    pub(super) fn send(&mut self, ring: &mut Ring, conn: u32, buf: SendBuf) {
        let Some(wire) = self.get(conn) else { return ring.send(conn, buf) };
        match &mut wire.tls {
            Some(tls) => {
                tls.send(buf);
                wire.is_awaited = true;
                wire.pump(ring, conn);
            }
            None => {
                (wire.is_sending, wire.is_awaited) = (true, true);
                ring.send(conn, buf);
            }
        }
    }

    /// The hub sends nothing more.
    pub(super) fn shutdown_write(&mut self, ring: &mut Ring, conn: u32) {
        let Some(wire) = self.get(conn) else { return ring.shutdown_write(conn) };
        wire.is_ending = true;
        wire.say_goodbye();
        wire.pump(ring, conn);
    }

    /// The hub lets go of the connection.
    pub(super) fn close(&mut self, ring: &mut Ring, conn: u32) {
        if let Some(wire) = self.get(conn) {
            wire.say_goodbye();
            wire.pump(ring, conn);
        }
        ring.close(conn);
    }
}

impl Wire {
    fn new(header: Option<Vec<u8>>, tls: Option<Session>) -> Wire {
        Wire {
            header,
            tls,
            is_sending: false,
            is_awaited: false,
            is_ending: false,
            is_admitted: false,
            is_refused: false,
            is_shaken: false,
            has_ended: false,
            is_broken: false,
            held: Vec::new(),
        }
    }

    fn has_closed(&self) -> bool {
        self.tls.as_ref().is_some_and(Session::has_closed)
    }

    /// What `bytes` mean for the hub.
    fn read(
        &mut self,
        hub: &mut Hub,
        conn: u32,
        bytes: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let Some(header) = &mut self.header else { return self.decrypt(hub, conn, bytes, plain) };
        header.extend_from_slice(bytes);
        let Some(found) = proxy::parse(header).map_err(|_| Broken)? else { return Ok(()) };
        let rest = header.split_off(found.length);
        self.header = None;
        if let Some(source) = found.source {
            hub.handle_address(conn, source);
        }
        self.decrypt(hub, conn, &rest, plain)
    }

    fn decrypt(
        &mut self,
        hub: &mut Hub,
        conn: u32,
        bytes: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(bytes);
            return Ok(());
        };
        if !self.is_shaken && !std::mem::replace(&mut self.is_admitted, true) {
            self.is_refused = !hub.may_secure(conn);
            if self.is_refused {
                return Err(Broken);
            }
        }
        let outcome = tls.receive(bytes, plain);
        if !self.is_shaken && !tls.is_handshaking() {
            self.is_shaken = true;
            hub.tally(|stats| stats.tls_handshakes += 1);
            hub.handle_secured(conn, tls.certificate());
        }
        outcome.map_err(|_| Broken)
    }

    /// Gives plaintext to the hub, and the end behind it.
    fn deliver(&mut self, hub: &mut Hub, conn: u32, plain: &mut [u8]) {
        if !plain.is_empty() && !self.has_ended {
            hub.handle_received(conn, plain);
        }
        self.tell_end(hub, conn);
    }

    /// Tells the hub that the peer sends no more, if it has said so over TLS.
    fn tell_end(&mut self, hub: &mut Hub, conn: u32) {
        if self.has_closed() && !self.has_ended {
            self.has_ended = true;
            hub.handle_peer_closed(conn, PeerEnd::Eof);
        }
    }

    /// The peer has broken a protocol. Over TLS it is told how; without it there is no way to say
    /// anything.
    fn break_off(&mut self, ring: &mut Ring, hub: &mut Hub, conn: u32, is_once: bool) {
        self.is_broken = true;
        self.held = Vec::new();
        let is_header = self.header.take().is_some();
        hub.tally(|stats| match is_header {
            true => stats.bad_proxies += 1,
            false => stats.tls_failures += u64::from(self.is_shaken),
        });
        if is_header || self.is_shaken || self.is_refused {
            self.has_ended = true;
            return hub.handle_peer_closed(conn, PeerEnd::Reset);
        }
        self.pump(ring, conn);
        hub.handle_broken(conn);
        // Of the receive that the hub has asked for it was told nothing.
        if is_once {
            ring.receive_once(conn);
        }
    }

    fn say_goodbye(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|_| !self.is_broken) {
            tls.close();
        }
    }

    /// Hands the ring what is to be sent next, unless it has something; ends our direction when
    /// there is nothing more.
    fn pump(&mut self, ring: &mut Ring, conn: u32) {
        if self.is_sending {
            return;
        }
        let out = self.tls.as_mut().map_or_else(Vec::new, Session::next_output);
        if !out.is_empty() {
            self.is_sending = true;
            ring.send(conn, SendBuf::Owned(out.into()));
        } else if std::mem::take(&mut self.is_ending) {
            ring.shutdown_write(conn);
        }
    }
}

/// What a peer has sent is none of what was agreed on.
struct Broken;
