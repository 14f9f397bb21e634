//! corecast: a Socket.IO server for Linux.

pub mod error;
#[doc(hidden)]
pub mod hub;
pub mod options;
pub mod preflight;
#[doc(hidden)]
pub mod proto;
#[doc(hidden)]
pub mod shard;

pub use error::{Error, Reason};
pub use options::{Options, SlowReader};
