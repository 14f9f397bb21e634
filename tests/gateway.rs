//! The gateway as its users have it: the binary with a configuration file, over its two ports.
//!
//! `rig.rs` starts it; each other file is one part of it.
#![allow(clippy::unwrap_used)] // In a test, a panic is a finding.

#[path = "gateway/admission.rs"]
mod admission;
#[path = "gateway/api.rs"]
mod api;
#[path = "gateway/auth.rs"]
mod auth;
#[path = "gateway/backend.rs"]
mod backend;
#[path = "gateway/batch.rs"]
mod batch;
#[path = "gateway/callers.rs"]
mod callers;
#[path = "e2e/certificates.rs"]
mod certificates;
// It has more than the gateway needs.
#[allow(dead_code)]
#[path = "e2e/client.rs"]
mod client;
#[path = "gateway/config.rs"]
mod config;
#[path = "gateway/connections.rs"]
mod connections;
#[path = "gateway/data_port.rs"]
mod data_port;
#[path = "gateway/drain.rs"]
mod drain;
#[path = "gateway/examples.rs"]
mod examples;
#[path = "gateway/keysets.rs"]
mod keysets;
#[path = "gateway/limits.rs"]
mod limits;
#[path = "gateway/logs.rs"]
mod logs;
#[path = "gateway/metrics.rs"]
mod metrics;
#[path = "gateway/openapi.rs"]
mod openapi;
#[path = "gateway/packaging.rs"]
mod packaging;
#[path = "gateway/peer.rs"]
mod peer;
#[path = "gateway/reload.rs"]
mod reload;
#[allow(dead_code)]
#[path = "gateway/rig.rs"]
mod rig;
#[path = "gateway/routes.rs"]
mod routes;
#[path = "gateway/tokens.rs"]
mod tokens;
#[path = "gateway/webhooks.rs"]
mod webhooks;
#[path = "gateway/workers.rs"]
mod workers;
