//! TLS of one connection, without input or output of its own: ciphertext in, plaintext out, and
//! back.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::ServerConnection;

use crate::hub::buffer::SendBuf;
use crate::port::Port;

/// Plaintext that is encrypted at a time; the rest of a send waits as it is, and is counted by the
/// hub until its ciphertext has left.
const PIECE: usize = 32 << 10;

/// The server's side of a TLS connection.
pub(super) struct Session {
    tls: Box<ServerConnection>,
    /// What the hub sends, and how much of it is encrypted. Nothing while the connection moves.
    outgoing: Option<(SendBuf, usize)>,
    has_closed: bool,
}

/// The same on its way to another shard.
pub(super) type Moving = Box<ServerConnection>;

/// The peer has broken the protocol, or does not like our part of it.
#[derive(Debug)]
pub(super) struct Broken;

impl Session {
    /// That of a new connection on `port`; none if it speaks no TLS.
    pub(super) fn begin(port: &Port) -> Result<Option<Session>, Broken> {
        let Some(tls) = &port.tls else { return Ok(None) };
        let tls = tls.accept().map_err(|error| {
            log::error!("no TLS connection can be made: {error}");
            Broken
        })?;
        Ok(Some(Session::arrive(Box::new(tls))))
    }

    /// Goes on with a connection of another shard.
    pub(super) fn arrive(mut tls: Moving) -> Session {
        let has_closed = tls.process_new_packets().is_ok_and(|state| state.peer_has_closed());
        Session { tls, outgoing: None, has_closed }
    }

    /// Takes leave of this shard. Nothing is being sent.
    pub(super) fn depart(self) -> Moving {
        debug_assert!(self.outgoing.is_none() && !self.tls.wants_write());
        self.tls
    }

    /// Reads ciphertext and appends what it says to `plain`.
    pub(super) fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), Broken> {
        while !bytes.is_empty() && !self.has_closed {
            let read = self.tls.read_tls(&mut bytes).map_err(|_| Broken)?;
            let state = self.tls.process_new_packets().map_err(|_| Broken)?;
            let (start, count) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(start + count, 0);
            self.tls.reader().read_exact(&mut plain[start..]).map_err(|_| Broken)?;
            self.has_closed = state.peer_has_closed();
            if read == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether the peer has said that it sends no more.
    pub(super) fn has_closed(&self) -> bool {
        self.has_closed
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// The peer's own certificate, verified.
    pub(super) fn certificate(&self) -> Option<Arc<[u8]>> {
        self.tls.peer_certificates()?.first().map(|der| Arc::from(der.as_ref()))
    }

    /// Takes what the hub sends.
    pub(super) fn send(&mut self, buf: SendBuf) {
        debug_assert!(self.outgoing.is_none(), "one send at a time");
        self.outgoing = Some((buf, 0));
    }

    /// Forgets what is still to be sent.
    pub(super) fn forget(&mut self) {
        self.outgoing = None;
    }

    /// Says that nothing more will be sent.
    pub(super) fn close(&mut self) {
        self.tls.send_close_notify();
    }

    /// The next ciphertext to send; empty if there is none.
    pub(super) fn next_output(&mut self) -> Vec<u8> {
        self.encrypt();
        let mut out = Vec::new();
        while self.tls.wants_write() {
            // Writing to memory does not fail.
            if self.tls.write_tls(&mut out).is_err() {
                break;
            }
        }
        out
    }

    /// Encrypts the next piece of what the hub sends.
    fn encrypt(&mut self) {
        let Some((buf, sent)) = &mut self.outgoing else { return };
        let end = buf.len().min(*sent + PIECE);
        let mut piece = Vec::with_capacity(end - *sent);
        buf.copy_range(*sent, end, &mut piece);
        // It takes less than it is given where its own bound is near.
        *sent += self.tls.writer().write(&piece).unwrap_or(0);
        if *sent == buf.len() {
            self.outgoing = None;
        }
    }
}
