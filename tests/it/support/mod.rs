//! Servers and clients for the tests.

mod browser;
mod curl;
mod event_source;
mod http;
mod http2;
mod jwks;
mod jwt;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
mod libraries;
mod nats;
pub(crate) mod nodes;
#[cfg(feature = "amqp")]
mod rabbitmq;
mod raw;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod running;
mod tallycast;
mod tls;
mod tokens;
mod websocket;

use std::time::{Duration, Instant};

pub(crate) use browser::Browser;
pub(crate) use curl::Curl;
pub(crate) use event_source::{Event, EventSource};
pub(crate) use http::get;
pub(crate) use http2::Http2;
pub(crate) use jwks::JwksServer;
pub(crate) use jwt::jwt;
pub(crate) use libraries::{NODE, PYTHON, Printer, ask_script, libraries};
pub(crate) use nats::NatsServer;
#[cfg(feature = "amqp")]
pub(crate) use rabbitmq::{RABBITMQ, RabbitServer};
pub(crate) use raw::Raw;
pub(crate) use redis::{Certificate, RedisServer, TempDir};
pub(crate) use redis_cluster::{RedisCluster, publish, publish_sharded};
pub(crate) use redis_sentinel::Sentinels;
pub(crate) use running::{Running, send};
pub(crate) use tallycast::{Ended, Tallycast, command, example, run};
pub(crate) use tls::{OpenSsl, TlsClient};
pub(crate) use tokens::{Answer, Keys, Library, SECRET, post, read, token};
pub(crate) use websocket::{WebSocket, upgrade};

/// The time limit of every wait, generous because test machines are busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` is true. `what` describes it in the failure message.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a future on the current thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
