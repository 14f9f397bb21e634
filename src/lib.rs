//! corecast: a Socket.IO server for Linux.

pub mod error;
#[doc(hidden)]
pub mod hub;
pub mod options;
pub mod preflight;
#[doc(hidden)]
pub mod proto;
mod emit;
mod event;
mod files;
mod namespace;
mod server;
mod shard;
mod socket;

pub use emit::{Args, Broadcast};
pub use error::{Error, Reason};
pub use event::{Event, Handshake, Raw};
pub use namespace::{ConnectError, Namespace};
pub use options::{Options, SlowReader};
pub use proto::value::Binary;
pub use server::{Running, Server, Stats};
pub use socket::{AckFuture, Emit, Socket};
