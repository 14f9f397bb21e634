//! How much one client, user or address may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of all namespaces.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections to the data port. A few more are answered 503, the others closed at once.
    /// Default: any number.
    pub connections: Option<usize>,
    /// Connections of one address; of an IPv6 address's /64. A few more are answered 429, the
    /// others closed at once. Default: any number.
    pub connections_per_ip: Option<u32>,
    /// Sessions that one address may open in a second, all at once if it likes; more are answered
    /// 429. Default: any number.
    pub handshakes_per_second_per_ip: Option<u32>,
}

/// The limits made ready.
#[derive(Debug)]
pub(crate) struct Limits {}

impl Limits {
    pub(crate) fn new(_config: &Config) -> Result<Limits, String> {
        Ok(Limits {})
    }
}
