//! Bytes to packets and back: no socket, no clock, no allocation for an idle peer.
//!
//! Each file is one document of the protocol. Incomplete input is not an error, every number from
//! the wire meets a limit before it sizes anything, and no input panics.
#![forbid(unsafe_code)]

mod argument;
pub mod coding;
pub mod deflate;
pub mod engine;
pub mod engine3;
pub mod forwarded;
pub mod http;
pub mod json;
pub mod jsonp;
pub mod msgpack;
pub mod packet;
pub mod parser;
pub mod proxy;
pub mod value;
pub mod websocket;
