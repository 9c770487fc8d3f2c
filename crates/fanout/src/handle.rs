//! The engine from outside: transports hand over subscribers, operators and backends look at connections and control them.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::history::{Filter, NotYet, SharedHistory};
use crate::inbox::{self, Depth};
use crate::interest::Interest;
use crate::publisher::Envelope;
use crate::report::{ConnectionReport, FeedReport, Report, merge_feeds};
use crate::shard::{Command, Input};
use crate::totals::StateNow;
use crate::{
    CloseReason, Grant, Message, Namespace, Resume, Start, Stats, Subscriber, Subscription, Topics, TotalsState,
};

/// Time for all shards to answer a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between checks whether a waiting reader can start.
const RESUME_INTERVAL: Duration = Duration::from_millis(50);

/// Time for an update to arrive whose id is not known yet. Most such ids are of updates that are not kept any more.
const UPDATE_PATIENCE: Duration = Duration::from_millis(500);

/// The share of the time that a reader waits for an unknown position, after which an engine that is relayed must have confirmed its own.
const CONFIRMATION_SHARE: u32 = 2;

/// Access to a running engine. Cheap to clone; does not keep the engine running.
#[derive(Debug, Clone)]
pub struct Handle {
    links: Arc<Links>,
}

/// Everything that connects handles to the engine's tasks.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) subscribers: mpsc::Sender<Subscriber>,
    pub(crate) inbox: inbox::WeakSender<Envelope>,
    pub(crate) shards: Vec<mpsc::Sender<Input>>,
    pub(crate) totals_states: HashMap<Namespace, StateNow>,
    pub(crate) history: Arc<SharedHistory>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Identifies a connection for as long as the engine runs; not used again after the connection has ended. Written
/// `shard-slot-generation`, such as `0-17-4021`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(crate) shard: usize,
    pub(crate) key: usize,
    pub(crate) generation: u64,
}

/// The text is not a [`ConnectionId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a connection id, such as 0-17-4021")]
pub struct ConnectionIdError;

/// Why a reader cannot start with a snapshot of the totals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The namespace is not in [`Config::totals`](crate::Config::totals).
    #[error("{0} has no totals; namespaces with totals: {1}")]
    NotKept(Namespace, String),
    /// No source has reported the totals within the time limit.
    #[error("the totals of {0} are not known yet")]
    NotKnown(Namespace),
    /// The totals are [unavailable](TotalsState::Unavailable), for this reason.
    #[error("the totals of {0} are unavailable: {1}")]
    Unavailable(Namespace, Arc<str>),
}

/// The source of some topics has not reported everything yet that is kept of them: it is starting, or its broker is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source is not connected yet")]
pub struct NotCurrent;

/// The engine has ended, or did not answer within two seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine is shutting down or overloaded")]
pub struct Unavailable;

/// Why a connection was not controlled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The connection has ended, or never existed.
    #[error("no connection {0}")]
    NotConnected(ConnectionId),
    /// The connection is already changing its topics; try again.
    #[error("connection {0} is changing its topics")]
    Busy(ConnectionId),
    /// The reader is too far behind to take more for itself alone.
    #[error("connection {0} is too far behind")]
    TooFarBehind(ConnectionId),
    /// As [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Handle {
    pub(crate) fn new(links: Links) -> Self {
        Self { links: Arc::new(links) }
    }

    /// Hands over a subscriber. It receives every message that is sent after this has returned.
    ///
    /// # Errors
    /// When the engine has ended; the subscriber and its connection are then dropped.
    pub async fn subscribe(&self, subscriber: Subscriber) -> Result<(), Unavailable> {
        self.links.subscribers.send(subscriber).await.map_err(|_| Unavailable)
    }

    /// Waits until the totals of `namespace` are known, so that a [`Subscriber::snapshot`] of them is available.
    ///
    /// # Errors
    /// When the engine keeps no totals of it, they are unavailable, or nothing is known within `limit`.
    pub async fn totals_known(&self, namespace: &Namespace, limit: Duration) -> Result<(), SnapshotError> {
        let totals = &self.links.totals_states;
        let Some(state) = totals.get(namespace) else {
            let mut kept: Vec<&str> = totals.keys().map(Namespace::as_str).collect();
            kept.sort_unstable();
            let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
            return Err(SnapshotError::NotKept(namespace.clone(), kept));
        };
        let mut state = state.clone();
        // An error is the end of the engine, or of the time; in both cases the state is what it was.
        let _ = tokio::time::timeout(limit, state.wait_for(Option::is_some)).await;
        let error = match &*state.borrow() {
            Some(TotalsState::Known) => return Ok(()),
            Some(TotalsState::Unavailable(reason)) => SnapshotError::Unavailable(namespace.clone(), Arc::clone(reason)),
            None => SnapshotError::NotKnown(namespace.clone()),
        };
        self.stats().without_totals.add(1);
        Err(error)
    }

    /// Whether the totals of `namespace` are kept, known or not.
    pub fn keeps_totals(&self, namespace: &Namespace) -> bool {
        self.links.totals_states.contains_key(namespace)
    }

    /// Whether some messages of `topics` are kept, so that they have ids.
    pub fn has_history(&self, topics: &Topics) -> bool {
        self.links.history.read().has(topics)
    }

    /// The id that a reader has reached which has got everything that is kept; `None` before the sources have reported everything
    /// there was when they started.
    pub fn position(&self) -> Option<Box<str>> {
        self.links.history.read().sequences.position()
    }

    /// A name that no other engine has.
    pub fn instance(&self) -> Arc<str> {
        Arc::clone(self.links.history.read().sequences.epoch())
    }

    /// The id that its publisher gave the newest update that is kept, if there is one.
    pub fn newest_update(&self) -> Option<Box<str>> {
        self.links.history.read().newest_update()
    }

    /// Whether the newest message of each namespace is kept for some of `topics`.
    pub fn has_last_values(&self, topics: &Topics) -> bool {
        self.links.history.read().has_last_values(topics)
    }

    /// Finds where a reader of `topics` with `grant` starts, but for those topics that `known` contains, which it reads already. Waits
    /// until the sources have reported everything there was when they started, and for a position that only other nodes know yet.
    /// `None` if none of its messages are kept.
    ///
    /// # Errors
    /// When the sources have not reported everything within `limit`. A position that is still unknown by then is a reset instead.
    pub async fn resume(
        &self,
        topics: &Topics,
        known: Option<&Topics>,
        grant: Option<&Grant>,
        start: &Start,
        limit: Duration,
    ) -> Result<Option<Resume>, NotCurrent> {
        let known = known.map(|known| Interest::new(known, grant));
        let filter = Filter::new(&Interest::new(topics, grant), known.as_ref());
        let begun_at = tokio::time::Instant::now();
        loop {
            let found = self.links.history.read().resume(&filter, start, Instant::now());
            let not_yet = match found {
                Ok(resume) => return Ok(resume),
                Err(not_yet) => not_yet,
            };
            // Not at every message: clients choose the position that they wait for.
            let next = tokio::time::Instant::now() + RESUME_INTERVAL;
            let limit = if not_yet == NotYet::UnknownUpdate { limit.min(UPDATE_PATIENCE) } else { limit };
            if next <= begun_at + limit {
                tokio::time::sleep_until(next).await;
                continue;
            }
            return match not_yet {
                NotYet::NotCurrent => Err(NotCurrent),
                // A position that an engine knows which this one relays must not become unknown because it comes late.
                NotYet::Ahead
                    if !self
                        .links
                        .history
                        .read()
                        .is_confirmed(&filter.topics, (begun_at + limit / CONFIRMATION_SHARE).into_std()) =>
                {
                    Err(NotCurrent)
                }
                NotYet::Ahead | NotYet::UnknownUpdate => {
                    Ok(Some(self.links.history.read().resume_unknown(&filter, start)))
                }
            };
        }
    }

    /// All connections and feeds.
    ///
    /// # Errors
    /// When the engine has ended or a shard does not answer within two seconds.
    pub async fn report(&self) -> Result<Report, Unavailable> {
        Ok(Report { connections: self.connections().await?, feeds: self.feeds().await? })
    }

    /// All connections, in no particular order.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub async fn connections(&self) -> Result<Vec<ConnectionReport>, Unavailable> {
        self.ask(Input::ReportConnections).await
    }

    /// All feeds, the one with the most readers first. Costs much less than [`report`](Self::report).
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub async fn feeds(&self) -> Result<Vec<FeedReport>, Unavailable> {
        Ok(merge_feeds(self.ask(Input::ReportFeeds).await?))
    }

    /// Ends a connection, with a close frame or a comment that gives the reason.
    ///
    /// # Errors
    /// When there is no such connection, or the engine does not answer within two seconds.
    pub async fn close(&self, connection: ConnectionId, reason: CloseReason) -> Result<(), ControlError> {
        self.command(connection, Command::Close(reason)).await
    }

    /// Replaces the topics that a connection reads; returns once it does. Messages sent before belong to the old topics,
    /// messages sent afterwards to the new ones.
    ///
    /// # Errors
    /// When there is no such connection, it is changing its topics already, it is too far behind, or the engine does not
    /// answer within two seconds.
    pub async fn set_topics(&self, connection: ConnectionId, topics: Topics) -> Result<(), ControlError> {
        self.change(connection, Subscription { topics, grant: None, resume: None }).await
    }

    /// As [`set_topics`](Self::set_topics); with a grant, also replaces that of the connection, and topics that it did not read before
    /// may start in their history.
    ///
    /// # Errors
    /// As for [`set_topics`](Self::set_topics).
    pub async fn change(&self, connection: ConnectionId, subscription: Subscription) -> Result<(), ControlError> {
        self.command(connection, Command::Change(subscription)).await
    }

    /// Sends a message to one connection, whatever its topics are.
    ///
    /// # Errors
    /// When there is no such connection, it is too far behind, or the engine does not answer within two seconds.
    pub async fn send(&self, connection: ConnectionId, message: Message) -> Result<(), ControlError> {
        self.command(connection, Command::Send(message)).await
    }

    /// The engine's counters.
    pub fn stats(&self) -> &Stats {
        &self.links.stats
    }

    /// Messages that wait for the hub.
    pub fn inbox(&self) -> Depth {
        self.links.inbox.depth()
    }

    /// Starts to end the streams that are open now, spread evenly over the time `over` and in random order, with
    /// [`CloseReason::Draining`]. Messages are still delivered. A [`shutdown`](Self::shutdown) ends the rest at once in the same
    /// way; and, as without a drain, the streams of readers that were behind when their turn came, and streams that opened later.
    ///
    /// # Errors
    /// When the engine has ended.
    pub async fn drain(&self, over: Duration, retry: Duration) -> Result<(), Unavailable> {
        for shard in &self.links.shards {
            shard.send(Input::Drain(over, CloseReason::Draining { retry })).await.map_err(|_| Unavailable)?;
        }
        Ok(())
    }

    /// Starts a graceful shutdown: the engine accepts no more messages, delivers those that were sent, then ends every
    /// stream. Publishers may still exist. [`closed`](Self::closed) waits for the end.
    pub fn shutdown(&self) {
        self.links.shutdown.cancel();
    }

    /// Waits until every stream has ended.
    pub async fn closed(&self) {
        self.links.tasks.wait().await;
    }

    /// Asks every shard and joins the answers.
    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<Vec<T>>) -> Input) -> Result<Vec<T>, Unavailable> {
        let all = async {
            let mut answers = Vec::with_capacity(self.links.shards.len());
            for shard in &self.links.shards {
                let (reply, answer) = oneshot::channel();
                shard.send(question(reply)).await.map_err(|_| Unavailable)?;
                answers.push(answer);
            }
            let mut joined = Vec::new();
            for answer in answers {
                joined.append(&mut answer.await.map_err(|_| Unavailable)?);
            }
            Ok(joined)
        };
        tokio::time::timeout(REPLY_TIMEOUT, all).await.unwrap_or(Err(Unavailable))
    }

    async fn command(&self, connection: ConnectionId, command: Command) -> Result<(), ControlError> {
        let shard = self.links.shards.get(connection.shard).ok_or(ControlError::NotConnected(connection))?;
        let answered = async {
            let (reply, answer) = oneshot::channel();
            shard.send(Input::Command(Box::new((connection, command, reply)))).await.map_err(|_| Unavailable)?;
            // A connection that ends before it is answered takes the reply with it.
            answer.await.unwrap_or(Err(ControlError::NotConnected(connection)))
        };
        tokio::time::timeout(REPLY_TIMEOUT, answered).await.unwrap_or(Err(Unavailable.into()))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, key, generation } = self;
        write!(formatter, "{shard}-{key}-{generation}")
    }
}

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let mut parts = text.split('-');
        let mut next = || parts.next()?.parse::<u64>().ok();
        let (Some(shard), Some(key), Some(generation)) = (next(), next(), next()) else {
            return Err(ConnectionIdError);
        };
        let place = |number: u64| usize::try_from(number).map_err(|_| ConnectionIdError);
        let id = Self { shard: place(shard)?, key: place(key)?, generation };
        // So that every connection has one spelling.
        if id.to_string() == text { Ok(id) } else { Err(ConnectionIdError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_are_read_as_they_are_written() {
        let id = ConnectionId { shard: 0, key: 17, generation: 4021 };
        assert_eq!((id.to_string().as_str(), "0-17-4021".parse()), ("0-17-4021", Ok(id)));
        for text in ["", "0-17", "0-17-4021-1", "00-17-1", "+0-1-1", "0--1", "a-b-c"] {
            assert_eq!(text.parse::<ConnectionId>(), Err(ConnectionIdError), "{text}");
        }
    }
}
