//! In place of `tls.rs` where the feature `tls` is off: there is no TLS connection.

use std::convert::Infallible;
use std::sync::Arc;

use crate::hub::buffer::SendBuf;
use crate::port::Port;

/// Does not exist.
pub(super) struct Session(Infallible);

/// Does not exist either.
pub(super) type Moving = Infallible;

/// Nor can it break.
#[derive(Debug)]
#[allow(dead_code)] // It is there for the types alone.
pub(super) struct Broken;

impl Session {
    pub(super) fn begin(_port: &Port) -> Result<Option<Session>, Broken> {
        Ok(None)
    }

    pub(super) fn arrive(moving: Moving) -> Session {
        Session(moving)
    }

    pub(super) fn depart(self) -> Moving {
        self.0
    }

    pub(super) fn receive(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Broken> {
        match self.0 {}
    }

    pub(super) fn has_closed(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn certificate(&self) -> Option<Arc<[u8]>> {
        match self.0 {}
    }

    pub(super) fn send(&mut self, _: SendBuf) {
        match self.0 {}
    }

    pub(super) fn forget(&mut self) {
        match self.0 {}
    }

    pub(super) fn close(&mut self) {
        match self.0 {}
    }

    pub(super) fn next_output(&mut self) -> Vec<u8> {
        match self.0 {}
    }
}
