//! Integration tests: the built binary against a real Redis and third-party clients. They define the behaviour that
//! users can rely on.
//!
//! Tests use free ports, assert no durations and are independent of each other: each starts the servers that it needs
//! and stops them at its end. Time limits only prevent a failing test from hanging.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests fail with a panic and a message"
)]

mod admin;
mod admin_api;
mod admin_page;
#[cfg(feature = "amqp")]
mod amqp;
mod autobahn;
mod board_page;
mod broker;
mod cli;
mod client_js;
mod client_pages;
mod cluster;
mod commands;
mod compression;
mod config;
mod connect_hook;
mod contract;
mod contract_websockets;
mod contracts;
mod custom_source;
mod dead_peers;
mod demo_pages;
mod embedding;
mod envelope;
mod history;
mod hostile;
mod http;
mod ingest;
#[cfg(feature = "kafka")]
mod kafka;
mod limits;
mod mercure;
mod mercure_clients;
mod nats;
mod presence;
mod proxies;
mod publish;
mod push;
mod rates;
mod realtime;
mod realtime_pages;
mod reconnect;
mod redis_topologies;
mod relay;
mod renewal;
mod restart;
mod resume;
mod send_multiple;
mod senders;
mod sessions;
mod shutdown;
mod slow;
mod snapshot;
mod source_contract;
mod sources;
mod status;
mod streams;
mod subscriptions;
mod support;
mod tls;
mod tls_streams;
mod token_keys;
mod token_places;
mod tokens;
mod tokens_browser;
mod topics;
mod totals;
mod traces;
mod unifrost;
mod websocket;
mod ws_hub;
