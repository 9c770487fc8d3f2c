//! The status of the process, in the format of the Emojitracker Streaming API.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::actions::ActionStats;
use super::alarms::Alarms;
use super::counters;
use super::query::StatusQuery;
use super::sessions::beginning;
use crate::api::emojitracker::StoreStats;
use crate::api::native::SESSION_PATH;
use crate::api::push::PushStats;
use crate::api::ws_hub::WsHubStats;
use crate::auth::AuthStats;
use crate::cluster::{ClusterStats, NodeReport};
use crate::connect_hook::ConnectHookStats;
use crate::presence::PresenceStats;
use crate::publishing::PublishStats;
use crate::sessions::SessionStats;
use crate::source::{BrokerState, SourceEvent, SourceStats, StateBoard};
use crate::tally::TallyInput;
use crate::trace::TraceStats;
use crate::{decode, tally};
use tallycast_fanout::inbox::{Depth, WeakSender};
use tallycast_fanout::{ConnectionReport, Counter, Handle, Unavailable};

/// The answer of `GET /admin/status.json`. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The node's name: `<platform>-<env>-<instance>`.
    pub node: String,
    /// `OK`, or `DEGRADED` while the broker is not subscribed.
    pub status: &'static str,
    /// The time of this report.
    pub reported_at: u64,
    /// The start time of the process.
    pub startup_time: u64,
    /// Messages that reached the hub since the start.
    pub msgs_broadcast: u64,
    /// The number of open connections.
    pub connections_total: usize,
    /// The number of connections that match the query.
    pub connections_matched: usize,
    /// The requested page of the matching connections.
    pub connections: Vec<ConnectionStatus>,
}

/// The inboxes of the stages, without keeping them open.
#[derive(Debug, Clone)]
pub struct StageInboxes {
    /// The inbox of decode.
    pub decode: WeakSender<SourceEvent>,
    /// The inbox of tally.
    pub tally: WeakSender<TallyInput>,
}

impl StageInboxes {
    /// What waits in the inbox of each stage; nothing for a stage that has ended.
    pub fn depths(&self, hub: &Handle) -> [(&'static str, Depth); 3] {
        [("decode", self.decode.depth()), ("tally", self.tally.depth()), ("hub", hub.inbox())]
    }
}

/// A connection in [`Status`].
#[derive(Debug, Serialize)]
pub struct ConnectionStatus {
    request_path: String,
    namespace: String,
    created_at: u64,
    client_ip: IpAddr,
    user_agent: String,
    msgs_sent: u64,
    /// Identifies the connection on this node.
    id: String,
    /// The subject of the client's grant.
    subject: Option<String>,
}

/// The sources of the status and of all metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusSource {
    /// The node's name.
    pub node: Arc<str>,
    /// The start time of the process.
    pub started_at: SystemTime,
    /// The states of the sources.
    pub states: StateBoard,
    /// The worst of them.
    pub broker: watch::Receiver<BrokerState>,
    /// The counters of the source.
    pub source: Arc<SourceStats>,
    /// The counters of push sources.
    pub push: Arc<PushStats>,
    /// The counters of decode.
    pub decode: Arc<decode::Stats>,
    /// The counters of tally.
    pub tally: Arc<tally::Stats>,
    /// The engine.
    pub handle: Handle,
    /// The counters of the HTTP server.
    pub server: Arc<tallycast_server::Stats>,
    /// The counters of the REST API's store.
    pub store: Arc<StoreStats>,
    /// The counters of publishing.
    pub publishing: Arc<PublishStats>,
    /// The counters of tokens and tickets.
    pub auth: Arc<AuthStats>,
    /// The counters of the connect hook.
    pub connect_hook: Arc<ConnectHookStats>,
    /// The counters of sessions.
    pub sessions: Arc<SessionStats>,
    /// The counters of the contract of ws-hub.
    pub ws_hub: Arc<WsHubStats>,
    /// The counters of subscriptions.
    pub presence: Arc<PresenceStats>,
    /// The counters of traces.
    pub trace: Arc<TraceStats>,
    /// The counters of the cluster view.
    pub cluster: Arc<ClusterStats>,
    /// The inboxes of the stages.
    pub inboxes: StageInboxes,
    /// The alarms that are raised.
    pub alarms: Arc<Alarms>,
    /// The counters of what operators have done.
    pub actions: Arc<ActionStats>,
    /// Cancelled when the process has been told to stop.
    pub terminating: CancellationToken,
}

impl StatusSource {
    /// A process that starts now, with counters of its own for each stage.
    pub fn new(
        node: impl Into<Arc<str>>,
        states: StateBoard,
        handle: Handle,
        inboxes: StageInboxes,
        terminating: CancellationToken,
    ) -> Self {
        Self {
            node: node.into(),
            started_at: SystemTime::now(),
            broker: states.worst(),
            states,
            source: Arc::default(),
            push: Arc::default(),
            decode: Arc::default(),
            tally: Arc::default(),
            handle,
            server: Arc::default(),
            store: Arc::default(),
            publishing: Arc::default(),
            auth: Arc::default(),
            connect_hook: Arc::default(),
            sessions: Arc::default(),
            ws_hub: Arc::default(),
            presence: Arc::default(),
            trace: Arc::default(),
            cluster: Arc::default(),
            inboxes,
            alarms: Arc::default(),
            actions: Arc::default(),
            terminating,
        }
    }

    /// Whether each source is subscribed at its broker, or has nothing to subscribe to.
    pub fn is_ready(&self) -> bool {
        *self.broker.borrow() == BrokerState::Subscribed
    }

    /// `OK` or `DEGRADED`.
    pub(super) fn state(&self) -> &'static str {
        if self.is_ready() { "OK" } else { "DEGRADED" }
    }

    /// The state of the source, in a word.
    pub(super) fn broker_state(&self) -> &'static str {
        self.broker.borrow().word()
    }

    /// What was lost since the start: events and messages, times that readers skipped some, and readers that were disconnected because
    /// they were slow.
    pub(super) fn lost(&self) -> u64 {
        let hub = self.handle.stats();
        let of_readers = [&hub.slow_disconnected, &hub.slow_skipped, &hub.slow_latest, &hub.shed, &hub.stalled];
        let of_process = [&self.source.overflowed, &self.push.rejected, &self.sessions.dropped, &self.ws_hub.lost];
        of_readers.into_iter().chain(of_process).map(Counter::get).sum()
    }

    /// The counters of every stage since the start: the answer of `GET /admin/counters.json`.
    pub fn counters(&self) -> Value {
        counters::json(self)
    }

    /// The state of this node now, for the other nodes.
    pub fn node_report(&self) -> NodeReport {
        let hub = self.handle.stats();
        NodeReport {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: self.state().to_owned(),
            draining: self.terminating.is_cancelled(),
            startup_time: unix_seconds(self.started_at),
            connections: hub.connections.get(),
            msgs_broadcast: hub.broadcast.get(),
        }
    }

    /// The status now, with the connections that `query` selects.
    ///
    /// # Errors
    /// When the engine has ended or is too busy to report its connections.
    pub async fn status(&self, query: &StatusQuery) -> Result<Status, Unavailable> {
        let all = self.handle.connections().await?;
        let connections_total = all.len();
        let (connections, connections_matched) = query.select(all);
        Ok(Status {
            node: self.node.to_string(),
            status: self.state(),
            reported_at: unix_seconds(SystemTime::now()),
            startup_time: unix_seconds(self.started_at),
            msgs_broadcast: self.handle.stats().broadcast.get(),
            connections_total,
            connections_matched,
            connections: connections.into_iter().map(ConnectionStatus::from).collect(),
        })
    }
}

/// Bytes of a connection's topics in [`Status`]: more than a request target can name, but a WebSocket client can subscribe to more.
const MAX_NAMESPACE_BYTES: usize = 4096;
/// The beginning of the names of sessions of ws-hub.
const WS_HUB: &str = "ws-hub:";

impl ConnectionStatus {
    /// Cuts each text to `bytes` at most.
    pub(super) fn cut(&mut self, bytes: usize) {
        for text in
            [&mut self.request_path, &mut self.namespace, &mut self.user_agent].into_iter().chain(&mut self.subject)
        {
            text.truncate(text.floor_char_boundary(bytes));
        }
    }

    /// Leaves only the beginning of the name of its session, by which anyone could open it.
    pub(super) fn hide_session(&mut self) {
        if let Some(name) = self.request_path.strip_prefix(SESSION_PATH).and_then(|rest| rest.strip_prefix('/')) {
            self.request_path = format!("{SESSION_PATH}/{}", beginning(name));
        }
        // Those of ws-hub are on its pages as well.
        self.subject = self.subject.take().map(|name| if name.starts_with(WS_HUB) { name } else { beginning(&name) });
    }
}

impl From<ConnectionReport> for ConnectionStatus {
    fn from(report: ConnectionReport) -> Self {
        let info = report.info;
        let mut namespace = info.topics.to_string();
        namespace.truncate(namespace.floor_char_boundary(MAX_NAMESPACE_BYTES));
        Self {
            request_path: info.request_path.to_string(),
            namespace,
            created_at: unix_seconds(info.created_at),
            client_ip: info.client_ip,
            user_agent: info.user_agent.to_string(),
            msgs_sent: report.messages_sent,
            id: report.id.to_string(),
            subject: report.subject.map(|subject| subject.to_string()),
        }
    }
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    since_epoch(time).as_secs()
}

/// As [`unix_seconds`], with fractions.
pub(super) fn unix_seconds_f64(time: SystemTime) -> f64 {
    since_epoch(time).as_secs_f64()
}

fn since_epoch(time: SystemTime) -> Duration {
    // A clock before 1970 counts as 1970.
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
