//! corecast: a Socket.IO server for Linux.

mod emit;
pub mod error;
mod event;
mod files;
#[doc(hidden)]
pub mod hub;
mod namespace;
pub mod options;
pub mod preflight;
#[doc(hidden)]
pub mod proto;
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
pub use socket::{AckFuture, Emit, Socket, sleep};
