//! A server that runs, and clients that mean harm: each named attack of the published advisories
//! of socket.io, engine.io, socket.io-parser and ws, and what else came to mind.
//!
//! Every test asserts four things: what the wire answers, which counter moved, that clients which
//! were connected before notice nothing, and that a client which comes afterwards is served.
#![allow(clippy::unwrap_used)] // In a test, a panic is a finding.

#[path = "abuse/asks.rs"]
mod asks;
#[path = "abuse/deflate.rs"]
mod deflate;
#[path = "abuse/floods.rs"]
mod floods;
#[path = "abuse/frames.rs"]
mod frames;
#[path = "abuse/msgpack.rs"]
mod msgpack;
#[path = "abuse/namespaces.rs"]
mod namespaces;
#[path = "abuse/old.rs"]
mod old;
#[path = "abuse/packets.rs"]
mod packets;
#[path = "abuse/peer.rs"]
mod peer;
#[path = "abuse/requests.rs"]
mod requests;
#[path = "abuse/sessions.rs"]
mod sessions;
#[path = "abuse/site.rs"]
mod site;
#[path = "abuse/soak.rs"]
mod soak;
#[path = "abuse/unfinished.rs"]
mod unfinished;
