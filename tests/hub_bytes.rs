//! Raw bytes in, raw bytes out, through a hub in memory: the rows of the behaviour inventory that
//! can be seen on the wire, one test per row or a table with the row in it.
#![allow(clippy::unwrap_used)] // In a test, a panic is a finding.

#[path = "hub_bytes/ask.rs"]
mod ask;
#[path = "hub_bytes/deflate.rs"]
mod deflate;
#[path = "hub_bytes/dynamic.rs"]
mod dynamic;
#[path = "hub_bytes/endpoint.rs"]
mod endpoint;
#[path = "hub_bytes/forms.rs"]
mod forms;
#[path = "hub_bytes/gate.rs"]
mod gate;
#[path = "hub_bytes/hooks.rs"]
mod hooks;
#[path = "hub_bytes/http.rs"]
mod http;
#[path = "hub_bytes/incoming.rs"]
mod incoming;
#[path = "hub_bytes/limits.rs"]
mod limits;
#[path = "hub_bytes/lives.rs"]
mod lives;
#[path = "hub_bytes/overload.rs"]
mod overload;
#[path = "hub_bytes/parser.rs"]
mod parser;
#[path = "hub_bytes/recovery.rs"]
mod recovery;
#[path = "hub_bytes/revision3.rs"]
mod revision3;
#[path = "hub_bytes/session.rs"]
mod session;
#[path = "hub_bytes/socket.rs"]
mod socket;
#[path = "hub_bytes/upgrade.rs"]
mod upgrade;
#[path = "hub_bytes/wire.rs"]
mod wire;
