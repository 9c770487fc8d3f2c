//! The built binary against a real Redis and clients that are not ours. What a test states, users may rely on.
//!
//! No port is fixed, no duration is asserted, and no test knows of another: each starts the servers it needs and they
//! end with it. Time limits only keep a test that fails from hanging.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test ends with a panic, and says why"
)]

mod admin;
mod autobahn;
mod broker;
mod cli;
mod compression;
mod config;
mod contract;
mod http;
mod limits;
mod pages;
mod shutdown;
mod slow;
mod snapshot;
mod status;
mod support;
mod tls;
mod topics;
mod websocket;
