//! What the process tells about itself, in the form of the Emojitracker Streaming API's admin status.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fanout::{ConnectionReport, Gateway, Unavailable};
use crate::source::{BrokerState, SourceStats};
use crate::{decode, sse_server, tally};

/// The answer of `GET /admin/status.json`. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The node's name: `<platform>-<env>-<instance>`.
    pub node: String,
    /// `OK`, or `DEGRADED` while the broker is not subscribed.
    pub status: &'static str,
    /// When this was told.
    pub reported_at: u64,
    /// When the process started.
    pub startup_time: u64,
    /// Messages that reached the hub since then.
    pub msgs_broadcast: u64,
    /// Who is connected.
    pub connections: Vec<Connection>,
}

/// One connection in [`Status`].
#[derive(Debug, Serialize)]
pub struct Connection {
    request_path: String,
    namespace: String,
    created_at: u64,
    client_ip: IpAddr,
    user_agent: String,
    msgs_sent: u64,
}

/// Where the status is gathered from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusSource {
    /// The node's name.
    pub node: Arc<str>,
    /// When the process started.
    pub started_at: SystemTime,
    /// How the broker is.
    pub broker: watch::Receiver<BrokerState>,
    /// Stage 1.
    pub source: Arc<SourceStats>,
    /// Stage 2.
    pub decode: Arc<decode::Stats>,
    /// Stage 3.
    pub tally: Arc<tally::Stats>,
    /// Stage 4.
    pub gateway: Gateway,
    /// The HTTP server.
    pub server: Arc<sse_server::Stats>,
}

impl StatusSource {
    /// Whether events can come in.
    pub fn is_ready(&self) -> bool {
        *self.broker.borrow() == BrokerState::Subscribed
    }

    /// What every stage counts since the start, in the order of the flow: the answer of `GET /admin/counters.json`.
    pub fn counters(&self) -> Value {
        let Self { source, decode, tally, gateway, server, .. } = self;
        let hub = gateway.stats();
        json!({
            "source": {
                "received": source.received.get(),
                "overflowed": source.overflowed.get(),
                "subscriptions": source.subscriptions.get(),
                "gaps": source.gaps.get(),
                "gap_milliseconds": source.gap_milliseconds.get(),
                "cuts": source.cuts.get(),
            },
            "decode": { "decoded": decode.decoded.get(), "rejected": decode.rejected.get() },
            "tally": { "counted": tally.counted.get(), "sent": tally.sent.get(), "flushes": tally.flushes.get() },
            "hub": {
                "broadcast": hub.broadcast.get(),
                "delivered": hub.delivered.get(),
                "bytes": hub.bytes.get(),
                "feeds": hub.feeds.get(),
                "connections": hub.connections.get(),
                "connected": hub.connected.get(),
                "slow_disconnected": hub.slow_disconnected.get(),
                "slow_skipped": hub.slow_skipped.get(),
                "slow_merged": hub.slow_merged.get(),
                "stalled": hub.stalled.get(),
                "corrections": hub.corrections.get(),
                "without_totals": hub.without_totals.get(),
            },
            "http": {
                "accepted": server.accepted.get(),
                "refused": server.refused.get(),
                "accept_errors": server.accept_errors.get(),
                "head_timeouts": server.head_timeouts.get(),
            },
        })
    }

    /// The status now.
    ///
    /// # Errors
    /// When the engine has ended or is too busy to tell of its connections.
    pub async fn status(&self) -> Result<Status, Unavailable> {
        let connections = self.gateway.connections().await?;
        Ok(Status {
            node: self.node.to_string(),
            status: if self.is_ready() { "OK" } else { "DEGRADED" },
            reported_at: unix_seconds(SystemTime::now()),
            startup_time: unix_seconds(self.started_at),
            msgs_broadcast: self.gateway.stats().broadcast.get(),
            connections: connections.into_iter().map(Connection::from).collect(),
        })
    }
}

impl From<ConnectionReport> for Connection {
    fn from(report: ConnectionReport) -> Self {
        let info = report.info;
        Self {
            request_path: info.request_path.to_string(),
            namespace: info.namespace.to_string(),
            created_at: unix_seconds(info.created_at),
            client_ip: info.client_ip,
            user_agent: info.user_agent.to_string(),
            msgs_sent: report.messages_sent,
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    // A clock before 1970 is not worth failing for.
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
