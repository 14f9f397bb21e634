//! The gateway: what makes of the server a product that any backend can use, by one file.
//!
//! ```text
//!   clients ──▶ shards ── clients.rs: who may come, what to do with an event ──▶ rooms, acks
//!                 │ jobs with an answer                     ▲ commands
//!                 ▼                                         │
//!              control thread (tokio): auth, webhooks, workers, HTTP API, metrics, files
//! ```
//!
//! Nothing here runs on a shard but look-ups in `Rules` and what a route does to
//! rooms; whatever may wait is a job of the control thread. A reload swaps the rules as a whole.

mod api;
mod auth;
mod clients;
mod clock;
mod command;
pub mod config;
mod data_port;
mod doctor;
mod drain;
mod fetched;
mod keyhash;
mod life;
mod limits;
mod log;
mod metrics;
mod occupancy;
mod queues;
mod routes;
mod run;
mod secret;
mod seldom;
mod state;
mod trace;
mod webhooks;
mod workers;

pub use run::main;
