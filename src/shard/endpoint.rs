//! Calls the application for websockets of its own paths, as `dispatch.rs` does for sockets.

use std::rc::Rc;

use super::Shard;
use super::dispatch::{Caller, Owner};
use crate::event::Handshake;
use crate::hub::Happening;
use crate::hub::slab::Key;
use crate::ws::{Close, Message, WebSocket};

impl Shard {
    pub(super) fn on_endpoint(self: &Rc<Self>, conn: Key, endpoint: u32, happening: Happening) {
        let Some(endpoint) = self.spec().endpoints.get(endpoint as usize) else { return };
        let socket = WebSocket::new(self, conn);
        let message = match happening {
            Happening::Opened(handshake) => {
                let handshake = Handshake(handshake);
                for handler in &endpoint.open {
                    let call = || (handler.call)(socket.clone(), handshake.clone());
                    self.call(&socket, handler.label, call);
                }
                return;
            }
            Happening::Closed { code, reason } => {
                self.hub().finish_endpoint(conn, code);
                let close = Close { code, reason };
                for handler in &endpoint.close {
                    let call = || (handler.call)(socket.clone(), close.clone());
                    self.call(&socket, handler.label, call);
                }
                return;
            }
            Happening::Text(text) => Message::Text(text),
            Happening::Binary(bytes) => Message::Binary(bytes),
        };
        let Some((last, others)) = endpoint.message.split_last() else { return };
        for handler in others {
            let call = || (handler.call)(socket.clone(), message.clone());
            self.call(&socket, handler.label, call);
        }
        self.call(&socket, last.label, || (last.call)(socket.clone(), message));
    }
}

impl Caller for WebSocket {
    fn owner(&self) -> Owner {
        Owner::WebSocket(self.conn)
    }

    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn abort(&self) {
        self.shard.hub().abort_endpoint(self.conn);
    }
}
