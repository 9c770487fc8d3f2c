//! Live statistics for the admin page: one event per second, sent by an engine of its own, so that readers of the public
//! streams never receive them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::alarms::{Look, Nodes, RULES, WINDOW, Watcher};
use super::history::{History, Sample};
use super::inspector::{Inspector, MAX_TAILS, TailObserver};
use super::status::{StatusSource, unix_seconds, unix_seconds_f64};
use super::{counters, parameter, process};
use crate::api::refusal::Refusal;
use crate::cluster::{Cluster, ClusterView};
use crate::responses::line;
use crate::source::SourceState;
use tallycast_fanout::{Fanout, FeedReport, Handle, Message, Namespace, Publisher, Topic};
use tallycast_server::StreamService;

/// The time between two events.
const PERIOD: Duration = Duration::from_secs(1);
/// Feeds in an event, those with the most readers.
const MAX_FEEDS: usize = 50;
/// Events that wait for the engine at most.
const INBOX: usize = 4;

/// Events of tails that wait for their engine, and the memory of those that wait for their readers.
const TAIL_INBOX: usize = 1024;
const TAIL_BYTES: usize = 8 * 1024 * 1024;

/// What the live statistics need besides the status.
#[derive(Debug)]
pub struct LiveConfig {
    /// What sees the messages of the engine.
    pub inspector: Arc<Inspector>,
    /// The nodes that share the broker, if they announce themselves.
    pub cluster: Option<Cluster>,
    /// The configuration of the HTTP server.
    pub server: watch::Receiver<tallycast_server::Config>,
    /// The kind of each source, such as `redis`, after its name.
    pub kinds: Vec<(Arc<str>, &'static str)>,
    /// Whether operators may only look.
    pub is_read_only: bool,
    /// The time between two snapshots of totals, if they are read from the broker.
    pub totals_interval: Option<Duration>,
    /// The time for streams to end at the shutdown.
    pub close_limit: Duration,
}

/// The live events and the past samples. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveStats {
    handle: Handle,
    streams: StreamService,
    inspector: Arc<Inspector>,
    tails: Handle,
    history: Arc<Mutex<History>>,
    cluster: Option<Cluster>,
    server: watch::Receiver<tallycast_server::Config>,
    kinds: Arc<[(Arc<str>, &'static str)]>,
    is_read_only: bool,
    totals_interval: Option<Duration>,
}

impl LiveStats {
    /// Starts the engine for live events, and the task that sends them until `shutdown` is cancelled.
    pub fn start(status: StatusSource, config: LiveConfig, shutdown: CancellationToken) -> Self {
        let LiveConfig { inspector, cluster, server, kinds, is_read_only, totals_interval, close_limit } = config;
        let fanout = Fanout::builder().inbox(INBOX).shards(1).close_timeout(close_limit).build();
        let mut config = tallycast_server::Config::default();
        // As all admin routes: pages of other origins may not read them.
        config.allowed_origins.clear();
        let streams = StreamService::new(fanout.handle()).config(config).websocket(false);
        let (handle, kinds) = (fanout.handle(), kinds.into());
        // Of its own, so that tails never displace the live events.
        let tails =
            Fanout::builder().inbox(TAIL_INBOX).total_log_bytes(TAIL_BYTES).shards(1).close_timeout(close_limit);
        let tails = tails.build();
        inspector.start(tails.publisher());
        let tails = tails.handle();
        let live = Self {
            handle,
            streams,
            inspector,
            tails,
            history: Arc::default(),
            cluster,
            server,
            kinds,
            is_read_only,
            totals_interval,
        };
        // The engine ends with the task, which holds its only publisher.
        tokio::spawn(live.clone().run(status, fanout.publisher(), shutdown));
        live
    }

    /// Waits until the last stream has ended, after the shutdown.
    pub async fn closed(&self) {
        self.handle.closed().await;
        self.tails.closed().await;
    }

    /// The nodes that this one knows, if nodes announce themselves.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Whether operators may only look.
    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// What sees the messages of the engine.
    pub(super) fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    /// The samples of a range, for `GET /admin/history.json`.
    ///
    /// # Errors
    /// For a range that there is not.
    pub(super) fn history(&self, range: &str) -> Result<Value, String> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).json(range)
    }

    async fn run(self, status: StatusSource, messages: Publisher, shutdown: CancellationToken) {
        let mut watcher = Watcher::new(RULES);
        let mut known_nodes = Nodes::default();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => break,
            }
            self.inspector.tick();
            let usage = process::usage();
            let sample = self.keep(&status, usage);
            let nodes = self.cluster.as_ref().map(Cluster::nodes);
            let look = Look {
                status: &status,
                usage,
                max_connections: self.server.borrow().max_connections,
                has_totals: self.totals_interval.is_some_and(|interval| interval * 2 < WINDOW),
                cluster: nodes.as_deref(),
                missing_nodes: nodes
                    .as_deref()
                    .and_then(|view| known_nodes.look(view.as_of.unwrap_or_default(), &view.nodes, view.nodes_total)),
            };
            status.alarms.set(watcher.evaluate(&look, now()));
            if self.handle.stats().connections.get() == 0 {
                continue;
            }
            // An engine too busy to report its feeds leaves the rest of the event valid.
            let feeds = status.handle.feeds().await.unwrap_or_default();
            let event = self.event(&status, usage, sample, feeds, nodes.as_deref()).to_string();
            // A full inbox means that the engine is behind; the next event replaces this one.
            let _ = messages.try_send(Message::text(Namespace::root(), event));
        }
        self.inspector.stop();
    }

    /// Keeps a sample for the history, and returns it.
    fn keep(&self, status: &StatusSource, usage: process::Usage) -> Sample {
        let hub = status.handle.stats();
        let sample = Sample {
            at: now(),
            received: status.source.received.get(),
            broadcast: hub.broadcast.get(),
            delivered: hub.delivered.get(),
            bytes: hub.bytes.get(),
            memory_bytes: usage.memory_bytes,
            cpu_seconds: usage.cpu_seconds,
            connections: hub.connections.get(),
            lost: status.lost(),
        };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).add(sample);
        sample
    }

    fn event(
        &self,
        status: &StatusSource,
        usage: process::Usage,
        sample: Sample,
        feeds: Vec<FeedReport>,
        cluster: Option<&ClusterView>,
    ) -> Value {
        let feeds_total = feeds.len();
        let feeds: Vec<Value> = feeds
        .into_iter()
        .take(MAX_FEEDS)
        .map(|FeedReport { topics, framing, policy, readers }| {
            json!({"namespace": topics.to_string(), "framing": framing, "policy": policy.to_string(), "readers": readers})
        })
        .collect();
        json!({
            "at": now(),
            "node": &*status.node,
            "read_only": self.is_read_only,
            "version": env!("CARGO_PKG_VERSION"),
            "status": status.state(),
            "started_at": unix_seconds(status.started_at),
            "broker": {
                "state": status.broker_state(),
                "subscriptions": status.source.subscriptions.get(),
                "gaps": status.source.gaps.get(),
                "gap_seconds": status.source.gap_milliseconds.get() as f64 / 1000.0,
            },
            "sources": self.sources(status),
            "alarms": status.alarms.raised(),
            "counters": status.counters(),
            "errors": counters::errors(status),
            "process": usage,
            "sample": sample,
            "inboxes": inboxes(status),
            "feeds": feeds,
            "feeds_total": feeds_total,
            "cluster": cluster,
        })
    }

    /// The state of each source.
    fn sources(&self, status: &StatusSource) -> Vec<Value> {
        let kind = |name| self.kinds.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let sources = status.states.by_name().into_iter();
        sources
        .map(|SourceState { name, state, since }| {
            json!({"name": &*name, "kind": kind(name), "state": state.word(), "since": unix_seconds(since)})
        })
        .collect()
    }
}

/// The number of items that wait in each inbox, and the capacity of each.
fn inboxes(status: &StatusSource) -> Value {
    let depths = status.inboxes.depths(&status.handle);
    let capacity = depths.iter().map(|(_, depth)| depth.capacity).max();
    let mut inboxes: Map<_, _> = depths.iter().map(|(stage, depth)| ((*stage).to_owned(), depth.len.into())).collect();
    inboxes.insert("capacity".to_owned(), capacity.into());
    inboxes.into()
}

fn now() -> f64 {
    unix_seconds_f64(SystemTime::now())
}

/// `GET /admin/events`: the stream of the live engine, as Server-Sent Events.
pub(super) async fn events(State(live): State<LiveStats>, request: Request) -> Response {
    live.streams.open(request, Namespace::root()).await.into_response()
}

/// `GET /admin/tail`: a stream with messages of a topic.
pub(super) async fn tail(State(live): State<LiveStats>, RawQuery(query): RawQuery, request: Request) -> Response {
    let Some(text) = parameter(&query, "namespace") else {
        return Refusal::BadRequest("bad query: expected namespace=/a".to_owned()).into_response();
    };
    let topic: Topic = match text.parse() {
        Ok(topic) => topic,
        Err(error) => return Refusal::BadRequest(format!("bad query: namespace={text}: {error}")).into_response(),
    };
    let Some(guard) = live.inspector.tail(topic) else {
        return Refusal::Unavailable(format!("{MAX_TAILS} tails are open, which is the limit")).into_response();
    };
    let namespace = guard.namespace();
    let mut config = tallycast_server::Config::default();
    config.allowed_origins.clear();
    let streams = StreamService::new(live.tails.clone()).config(config).websocket(false);
    // Dropped with the stream, or here if there is none.
    let streams = streams.observer(TailObserver(Arc::new(guard)));
    match namespace {
        Ok(namespace) => streams.open(request, namespace).await.into_response(),
        Err(error) => line(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
