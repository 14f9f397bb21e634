//! How much one client, user or address may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of all namespaces.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// The limits made ready.
#[derive(Debug)]
pub(crate) struct Limits {}

impl Limits {
    pub(crate) fn new(_config: &Config) -> Result<Limits, String> {
        Ok(Limits {})
    }
}
