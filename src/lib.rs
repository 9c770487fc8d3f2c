//! tallycast takes events from a broker, gives each a namespace, tallies the hot ones, and fans everything out to
//! browsers over Server-Sent Events and WebSocket.
//!
//! ```text
//! source ─mpsc→ decode ─mpsc→ hub ─mpsc→ shard 0 ─write→ its connections
//!                  └─mpsc→ tally (rate-limited) ─┘   └─mpsc→ shard 1 ─write→ ...
//! ```
//!
//! The stages are tasks that `main` connects with bounded channels. The engine and the HTTP server are crates of their
//! own, [`tallycast_fanout`] and [`tallycast_server`], which other programs can use without the rest.
//!
//! A program can also put a source of its own in front of the pipeline: implement [`source::Source`], and connect
//! [`source::Supervisor`], [`decode::run`] and [`tally::run`] as `examples/custom_source.rs` does.

// In the order of the flow.
pub mod admin;
#[cfg(feature = "amqp")]
mod amqp_client;
pub mod api;
mod assets;
pub mod auth;
pub mod client;
pub mod cluster;
mod conditional;
pub mod config;
pub mod connect_hook;
pub mod decode;
pub mod demo;
mod http_client;
#[cfg(feature = "nats")]
mod nats_client;
mod nodes;
pub mod presence;
pub mod publishing;
mod rate_limited_log;
pub mod redis_client;
mod responses;
pub mod routes;
pub mod sessions;
mod site;
mod size;
pub mod source;
pub mod tally;
pub mod totals;
pub mod trace;

// The Rust example of the page compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/how-to/embed-in-axum.md")]
struct EmbedInAxum;
