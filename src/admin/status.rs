//! What the process tells about itself, in the form of the Emojitracker Streaming API's admin status.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::WeakSender;
use tokio::sync::watch;

use crate::source::{BrokerState, SourceEvent, SourceStats};
use crate::tally::TallyInput;
use crate::{decode, tally};
use tallycast_fanout::{ConnectionReport, Handle, Namespace, NamespaceError, Unavailable};

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
    /// How many connections there are.
    pub connections_total: usize,
    /// How many of them were asked for.
    pub connections_matched: usize,
    /// Who is connected: of those asked for, the page asked for.
    pub connections: Vec<Connection>,
}

/// Which connections are asked for: the query of `GET /admin/status.json`. By default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    limit: Option<usize>,
    offset: usize,
    namespace: Option<Namespace>,
    /// In no particular order if nothing is said.
    sort: Option<Sort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Oldest,
    Newest,
}

/// Why a query is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a number.
    #[error("bad query: {0}={1}; expected a whole number")]
    Number(&'static str, String),
    /// No namespace.
    #[error("bad query: namespace={0}: {1}")]
    Namespace(String, NamespaceError),
    /// No order.
    #[error("bad query: sort={0}; expected sort=oldest or sort=newest")]
    Sort(String),
}

impl FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let mut query = Self::default();
        let number = |name, value: &str| value.parse().map_err(|_| QueryError::Number(name, value.to_owned()));
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "limit" => query.limit = Some(number("limit", &value)?),
                "offset" => query.offset = number("offset", &value)?,
                "namespace" if value.is_empty() => query.namespace = None,
                "namespace" => {
                    let parsed = value.parse();
                    query.namespace = Some(parsed.map_err(|error| QueryError::Namespace(value.into_owned(), error))?);
                }
                "sort" => {
                    query.sort = Some(match &*value {
                        "oldest" => Sort::Oldest,
                        "newest" => Sort::Newest,
                        _ => return Err(QueryError::Sort(value.into_owned())),
                    });
                }
                // Those of caches and proxies.
                _ => {}
            }
        }
        Ok(query)
    }
}

impl Query {
    /// The connections asked for out of `all`, and how many there would be without limit and offset.
    fn select(&self, mut all: Vec<ConnectionReport>) -> (Vec<ConnectionReport>, usize) {
        if let Some(namespace) = &self.namespace {
            all.retain(|report| report.info.topics.iter().any(|topic| namespace.contains(&topic.literal_prefix())));
        }
        match self.sort {
            None => {}
            Some(Sort::Oldest) => all.sort_by_key(|report| report.info.created_at),
            Some(Sort::Newest) => all.sort_by_key(|report| std::cmp::Reverse(report.info.created_at)),
        }
        let matched = all.len();
        let page = all.into_iter().skip(self.offset).take(self.limit.unwrap_or(usize::MAX)).collect();
        (page, matched)
    }
}

/// What waits before each stage.
#[derive(Debug, Clone)]
pub struct Inboxes {
    /// Before stage 2.
    pub decode: WeakSender<SourceEvent>,
    /// Before stage 3.
    pub tally: WeakSender<TallyInput>,
    /// What may wait before each.
    pub capacity: usize,
}

/// How much waits before each stage.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Depths {
    /// Before stage 2.
    pub decode: usize,
    /// Before stage 3.
    pub tally: usize,
    /// Before stage 4.
    pub hub: usize,
    /// What may wait before each.
    pub capacity: usize,
}

impl Inboxes {
    /// How much waits now; nothing does before a stage that has ended.
    pub fn depths(&self, hub: &Handle) -> Depths {
        fn depth<T>(inbox: &WeakSender<T>) -> usize {
            inbox.upgrade().map_or(0, |inbox| inbox.max_capacity() - inbox.capacity())
        }
        Depths { decode: depth(&self.decode), tally: depth(&self.tally), hub: hub.inbox().len, capacity: self.capacity }
    }
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
    pub handle: Handle,
    /// The HTTP server.
    pub server: Arc<tallycast_server::Stats>,
    /// What joins the stages.
    pub inboxes: Inboxes,
}

impl StatusSource {
    /// Whether events can come in.
    pub fn is_ready(&self) -> bool {
        *self.broker.borrow() == BrokerState::Subscribed
    }

    /// How the process is, in a word.
    pub(super) fn word(&self) -> &'static str {
        if self.is_ready() { "OK" } else { "DEGRADED" }
    }

    /// How the broker is, in a word.
    pub(super) fn broker_word(&self) -> &'static str {
        match *self.broker.borrow() {
            BrokerState::Connecting => "connecting",
            BrokerState::Subscribed => "subscribed",
            BrokerState::Lost => "lost",
        }
    }

    /// What every stage counts since the start, in the order of the flow: the answer of `GET /admin/counters.json`.
    pub fn counters(&self) -> Value {
        let Self { source, decode, tally, handle, server, .. } = self;
        let websocket = &server.websocket;
        let hub = handle.stats();
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
                "unanswered": hub.unanswered.get(),
                "corrections": hub.corrections.get(),
                "without_totals": hub.without_totals.get(),
            },
            "http": {
                "accepted": server.accepted.get(),
                "refused": server.refused.get(),
                "refused_address": server.refused_address.get(),
                "refused_rate": server.refused_rate.get(),
                "refused_namespace": server.refused_namespace.get(),
                "rate_unknown": server.rate_unknown.get(),
                "accept_errors": server.accept_errors.get(),
                "head_timeouts": server.head_timeouts.get(),
                "tls_failures": server.tls_failures.get(),
            },
            "websocket": {
                "opened": websocket.opened.get(),
                "refused_origin": server.refused_origin.get(),
                "refused_messages": websocket.refused.get(),
                "over_rate": websocket.over_rate.get(),
                "failed": websocket.failed.get(),
            },
        })
    }

    /// The status now, with the connections that `query` asks for.
    ///
    /// # Errors
    /// When the engine has ended or is too busy to tell of its connections.
    pub async fn status(&self, query: &Query) -> Result<Status, Unavailable> {
        let all = self.handle.connections().await?;
        let connections_total = all.len();
        let (connections, connections_matched) = query.select(all);
        Ok(Status {
            node: self.node.to_string(),
            status: self.word(),
            reported_at: unix_seconds(SystemTime::now()),
            startup_time: unix_seconds(self.started_at),
            msgs_broadcast: self.handle.stats().broadcast.get(),
            connections_total,
            connections_matched,
            connections: connections.into_iter().map(Connection::from).collect(),
        })
    }
}

impl From<ConnectionReport> for Connection {
    fn from(report: ConnectionReport) -> Self {
        let info = report.info;
        Self {
            request_path: info.request_path.to_string(),
            namespace: info.topics.to_string(),
            created_at: unix_seconds(info.created_at),
            client_ip: info.client_ip,
            user_agent: info.user_agent.to_string(),
            msgs_sent: report.messages_sent,
        }
    }
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    // A clock before 1970 is not worth failing for.
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use tallycast_fanout::ConnectionInfo;

    #[test]
    fn a_page_of_those_asked_for_is_given() {
        let report = |seconds: u64, namespace: &str| ConnectionReport {
            info: Arc::new(ConnectionInfo {
                request_path: format!("{seconds}").into(),
                topics: namespace.parse::<Namespace>().unwrap().into(),
                created_at: UNIX_EPOCH + Duration::from_secs(seconds),
                client_ip: Ipv4Addr::LOCALHOST.into(),
                user_agent: "".into(),
            }),
            id: "0-0-1".parse().unwrap(),
            subject: None,
            messages_sent: 0,
        };
        let all = vec![report(2, "/eps"), report(3, "/details/26"), report(1, "/details/27"), report(4, "/details/2")];
        let ask = |query: &str| {
            let (page, matched) = query.parse::<Query>().unwrap().select(all.clone());
            (page.iter().map(|report| report.info.request_path.to_string()).collect::<Vec<_>>().join(" "), matched)
        };
        assert_eq!(ask(""), ("2 3 1 4".to_owned(), 4));
        assert_eq!(ask("sort=oldest&limit=2&offset=1"), ("2 3".to_owned(), 4));
        assert_eq!(ask("namespace=%2Fdetails&sort=newest&limit=2"), ("4 3".to_owned(), 3));
        assert_eq!(ask("offset=9&other=1&namespace="), (String::new(), 4));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |query: &str| query.parse::<Query>().unwrap_err().to_string();
        assert_eq!(error("limit=-1"), "bad query: limit=-1; expected a whole number");
        assert_eq!(error("sort=age"), "bad query: sort=age; expected sort=oldest or sort=newest");
        assert_eq!(error("namespace=eps"), "bad query: namespace=eps: a namespace starts with '/'");
    }
}
