//! tallycast takes events from a broker, gives each a namespace, tallies the hot ones, and fans everything out to
//! browsers over Server-Sent Events and WebSocket.
//!
//! ```text
//! Redis PSUBSCRIBE ─mpsc→ decode/namespace ─mpsc→ hub ─mpsc→ shard 0 ─write→ its connections
//!                                └─mpsc→ tally (rate-limited) ─┘   └─mpsc→ shard 1 ─write→ ...
//! ```
//!
//! The stages are tasks that `main` joins by bounded channels. The engine and the HTTP server are crates of their own,
//! [`tallycast_fanout`] and [`tallycast_server`], which other programs can use without the rest.

// In the order of the flow.
pub mod admin;
pub mod assets;
pub mod config;
pub mod decode;
pub mod demo;
mod rate_limited_log;
pub mod redis_client;
pub mod representation;
pub mod site;
pub mod snapshot;
pub mod source;
pub mod tally;
pub mod totals;
