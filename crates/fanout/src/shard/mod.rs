//! A shard: one task that owns a share of the connections and writes to them. No lock is taken on its hot path.

mod drain;
mod feed;
mod feeds;
mod followed;
mod pacing;
mod replays;
mod serve;
mod slow_readers;
mod tick;
mod topic_sets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::budget::Budget;
use crate::connection::{Connection, Sent};
use crate::history::SharedHistory;
use crate::hub::Attach;
use crate::log::Batch;
use crate::ready::ReadyList;
use crate::replay::PieceCache;
use crate::report::{ConnectionReport, FeedReport};
use crate::turn::Turn;
use crate::{CloseReason, Config, ConnectionId, ControlError, Message, Stats, Subscription};
use drain::{Drain, next_step};
pub(crate) use feeds::FeedId;
use feeds::Feeds;
use followed::Followed;
use pacing::{Schedule, next_due};
use replays::{ReplayQueue, next_piece};

/// Connections that are served before other tasks get a turn.
const WRITES_PER_YIELD: usize = 32;
/// Connections that are served when their sockets have become ready, before live messages get a turn.
const READY_PER_TURN: usize = 256;
/// How often silent, stalled and expired connections are looked for.
const TICK: Duration = Duration::from_secs(1);

/// What a shard receives.
#[derive(Debug)]
pub(crate) enum Input {
    /// One turn of the hub.
    Turn(Arc<Turn>),
    /// New readers.
    Attach(Vec<Attach>),
    /// A command for one connection.
    Command(Box<(ConnectionId, Command, Reply)>),
    /// End the streams of relays.
    CloseRelays(CloseReason),
    /// Asks for all connections.
    ReportConnections(oneshot::Sender<Vec<ConnectionReport>>),
    /// Asks for all feeds.
    ReportFeeds(oneshot::Sender<Vec<FeedReport>>),
    /// End the streams that are open now one by one within this time, for this reason.
    Drain(Duration, CloseReason),
    /// End every stream gracefully; cut off what is not written at this moment.
    Shutdown(tokio::time::Instant),
}

/// A command for one connection.
#[derive(Debug)]
pub(crate) enum Command {
    Close(CloseReason),
    Change(Subscription),
    Send(Message),
}

/// Reports to the sender of a [`Command`] what became of it.
pub(crate) type Reply = oneshot::Sender<Result<(), ControlError>>;

/// A change of topics that was decided, or an operation that has ended, which changes nothing.
type Decided = (usize, u64, Result<Option<Subscription>, String>);

/// The budgets that all shards share.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    /// Of [`Config::total_log_bytes`].
    pub(crate) waiting: Arc<Budget>,
    /// Of [`Config::merged_bytes`].
    pub(crate) merged: Arc<Budget>,
    /// Of [`Config::replay_bytes`].
    pub(crate) replayed: Arc<Budget>,
}

/// Why the shard's loop woke.
enum LoopEvent {
    Inbox(usize),
    Ready,
    Decided(Decided),
    DrainStep,
    Due,
    Replay,
    Tick,
}

pub(crate) struct Shard {
    config: Arc<Config>,
    stats: Arc<Stats>,
    /// The shard's number in the ids of its connections.
    number: usize,
    inbox: mpsc::Receiver<Input>,
    ready: Arc<ReadyList>,
    connections: Slab<Connection>,
    /// The generation of the newest connection.
    generation: u64,
    /// Decisions about changes of topics, and operations: at most one for each connection.
    decisions: JoinSet<Decided>,
    /// Connections that close gracefully; each still holds its watch.
    closing_sinks: JoinSet<()>,
    feeds: Feeds,
    schedule: Schedule,
    history: Arc<SharedHistory>,
    /// The number after the last message of the history that the shard has come to.
    history_end: u64,
    /// The id that its readers have reached who have got everything.
    position: Option<Arc<str>>,
    /// Whether the sources have reported everything that there is.
    is_current: bool,
    replays: ReplayQueue,
    pieces: PieceCache,
    /// Changes of topics that have to wait.
    postponed: Vec<(usize, u64, Subscription)>,
    budgets: Budgets,
    drain: Option<Drain>,
    started_at: Instant,
    ticked_at: Instant,
    /// Only closing bytes are still to come, so the bounds of the logs no longer disconnect readers.
    closing: bool,
    sent: Sent,
    /// The messages with probes among those that are being written.
    followed: Vec<Followed>,
}

impl Shard {
    pub(crate) fn new(
        config: Arc<Config>,
        stats: Arc<Stats>,
        budgets: Budgets,
        history: Arc<SharedHistory>,
        number: usize,
        inbox: mpsc::Receiver<Input>,
    ) -> Self {
        let (history_end, now) = (history.read().head, Instant::now());
        Self {
            feeds: Feeds::new(config.policies.as_slice().into(), budgets.clone(), Arc::clone(&stats)),
            config,
            stats,
            number,
            inbox,
            ready: Arc::default(),
            connections: Slab::new(),
            generation: 0,
            decisions: JoinSet::new(),
            closing_sinks: JoinSet::new(),
            schedule: Schedule::new(),
            history,
            history_end,
            position: None,
            is_current: true,
            replays: ReplayQueue::new(),
            pieces: PieceCache::default(),
            postponed: Vec::new(),
            budgets,
            drain: None,
            started_at: now,
            ticked_at: now,
            closing: false,
            sent: Sent::default(),
            followed: Vec::new(),
        }
    }

    /// Runs until the hub orders the shutdown, or has gone.
    pub(crate) async fn run(mut self) {
        let mut inputs = Vec::new();
        let mut ready = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                count = self.inbox.recv_many(&mut inputs, self.config.shard_inbox) => LoopEvent::Inbox(count),
                () = self.ready.ready(&ready) => LoopEvent::Ready,
                Some(Ok(decided)) = self.decisions.join_next() => LoopEvent::Decided(decided),
                () = next_step(self.drain.as_ref()) => LoopEvent::DrainStep,
                () = next_due(&self.schedule) => LoopEvent::Due,
                () = next_piece(&self.replays, &self.budgets.replayed) => LoopEvent::Replay,
                _ = tick.tick() => LoopEvent::Tick,
            };
            match event {
                LoopEvent::Inbox(0) => return,
                LoopEvent::Inbox(_) => {
                    if let Some(deadline) = self.take_inputs(&mut inputs).await {
                        return self.shut_down(deadline, &mut ready).await;
                    }
                }
                LoopEvent::Ready => self.serve_ready(&mut ready).await,
                LoopEvent::Decided(decided) => self.apply_decision(decided),
                LoopEvent::DrainStep => self.drain_step().await,
                LoopEvent::Due => self.serve_due().await,
                LoopEvent::Replay => self.serve_replays(),
                LoopEvent::Tick => self.tick().await,
            }
            self.publish_sent();
        }
    }

    /// Takes in what came, then writes to each feed that got messages. Returns the deadline of a shutdown, if it is ordered.
    async fn take_inputs(&mut self, inputs: &mut Vec<Input>) -> Option<tokio::time::Instant> {
        let mut received = Vec::new();
        let mut shutdown = None;
        let mut turns = Vec::new();
        for input in inputs.drain(..) {
            if !matches!(input, Input::Turn(_)) {
                self.take_turns(&mut turns, &mut received).await;
            }
            match input {
                Input::Turn(turn) => turns.push(turn),
                Input::Attach(attaches) => {
                    for (served, attach) in attaches.into_iter().enumerate() {
                        if served % WRITES_PER_YIELD == WRITES_PER_YIELD - 1 {
                            tokio::task::yield_now().await;
                        }
                        self.attach(attach);
                    }
                }
                Input::Command(command) => {
                    // Everything sent before it comes before it.
                    self.write_feeds().await;
                    self.obey(*command);
                }
                Input::CloseRelays(reason) => {
                    self.write_feeds().await;
                    for feed in self.feeds.relays() {
                        self.close_feed(feed, &reason);
                    }
                }
                // Below, an error means that the one who asked has stopped waiting.
                Input::ReportConnections(reply) => {
                    let _ = reply.send(self.report_connections());
                }
                Input::ReportFeeds(reply) => {
                    let _ = reply.send(self.report_feeds());
                }
                Input::Drain(over, reason) => self.start_drain(over, reason),
                Input::Shutdown(deadline) => shutdown = Some(deadline),
            }
        }
        self.take_turns(&mut turns, &mut received).await;
        self.write_feeds().await;
        self.report_followed();
        self.retry_postponed();
        self.shed();
        let now = Instant::now();
        for received_at in received {
            self.stats.lag.observe(now.duration_since(received_at).as_secs_f64());
        }
        shutdown
    }

    /// Appends the messages of turns that follow each other to the logs of their feeds. Adds when the oldest came in.
    async fn take_turns(&mut self, turns: &mut Vec<Arc<Turn>>, received: &mut Vec<Instant>) {
        if let Some(newest) = turns.last() {
            (self.history_end, self.is_current) = (newest.history_end, newest.is_current);
        }
        if let Some(position) = turns.iter().rev().find_map(|turn| turn.position.as_ref()) {
            self.position = Some(Arc::clone(position));
        }
        let followed = self.follow(turns);
        if self.feeds.append(turns, &mut self.followed[followed..]) {
            let messages = turns.iter().flat_map(|turn| &turn.messages);
            received.extend(messages.map(|message| message.message.received_at).min());
        }
        turns.clear();
        for (feed, reason) in self.feeds.take_closing() {
            // As for commands.
            self.write_feeds().await;
            self.close_feed(feed, &reason);
        }
    }

    /// Carries out a command for one connection.
    fn obey(&mut self, (id, command, reply): (ConnectionId, Command, Reply)) {
        let outcome = match (self.connection(id.key, id.generation), command) {
            (None, _) => Err(ControlError::NotConnected(id)),
            (Some(_), Command::Close(reason)) => {
                self.close_connection(id.key, Some(&reason));
                Ok(())
            }
            (Some(connection), Command::Change(_)) if connection.change_pending || connection.is_replaying() => {
                Err(ControlError::Busy(id))
            }
            (Some(_), Command::Change(subscription)) => {
                if self.change_topics(id.key, subscription) {
                    self.serve(id.key);
                    Ok(())
                } else {
                    Err(ControlError::TooFarBehind(id))
                }
            }
            (Some(_), Command::Send(message)) => {
                if self.send_to(id.key, &message) {
                    Ok(())
                } else {
                    Err(ControlError::TooFarBehind(id))
                }
            }
        };
        // The sender may have stopped waiting.
        let _ = reply.send(outcome);
    }

    /// The id of one of the shard's connections.
    fn connection_id(&self, key: usize, generation: u64) -> ConnectionId {
        ConnectionId { shard: self.number, key, generation }
    }

    /// The connection at `key`, if it is still the one of that generation.
    fn connection(&mut self, key: usize, generation: u64) -> Option<&mut Connection> {
        self.connections.get_mut(key).filter(|connection| connection.generation == generation)
    }

    /// Ends every stream with its framing's closing bytes; cuts off those that cannot take them by `deadline`.
    async fn shut_down(mut self, deadline: tokio::time::Instant, ready: &mut Vec<usize>) {
        self.closing = true;
        self.finish_drain().await;
        let ids: Vec<FeedId> = self.feeds.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(feed) = self.feeds.get_mut(id) else { continue };
            let bytes = feed.key.framing.framing.closing(&CloseReason::Shutdown);
            if !feed.key.is_paced {
                feed.log.push(Batch { weight: bytes.len(), bytes, ..Batch::default() });
                self.write_feed(id, &mut 0).await;
                continue;
            }
            for key in feed.readers.to_vec() {
                self.put_unread(key as usize);
                if let Some(connection) = self.connections.get_mut(key as usize) {
                    connection.put_bytes(bytes.clone(), 0);
                }
                self.write(key as usize);
            }
        }
        self.close_current();
        while !self.connections.is_empty() {
            let next = async {
                tokio::select! {
                    () = self.ready.ready(ready) => LoopEvent::Ready,
                    () = next_piece(&self.replays, &self.budgets.replayed) => LoopEvent::Replay,
                }
            };
            match tokio::time::timeout_at(deadline, next).await {
                Ok(LoopEvent::Replay) => self.serve_replays(),
                Ok(_) => self.serve_ready(ready).await,
                Err(_) => {
                    tracing::warn!(connections = self.connections.len(), "streams cut off at the shutdown time limit");
                    break;
                }
            }
            self.close_current();
        }
        while let Ok(Some(_)) = tokio::time::timeout_at(deadline, self.closing_sinks.join_next()).await {}
        self.publish_sent();
        self.stats.connections.subtract(self.connections.len() as u64);
    }

    /// Closes the connections that have got everything.
    fn close_current(&mut self) {
        let is_current = |connection: &Connection| connection.blocked.is_none();
        let current: Vec<usize> =
            self.connections.iter().filter(|(_, connection)| is_current(connection)).map(|(key, _)| key).collect();
        for key in current {
            self.close_connection(key, None);
        }
    }

    fn report_connections(&self) -> Vec<ConnectionReport> {
        let report = |(key, connection): (usize, &Connection)| {
            let topics = self.feeds.get(connection.feed)?.key.interest.topics.clone();
            Some(ConnectionReport {
                id: self.connection_id(key, connection.generation),
                info: connection.origin.info(topics),
                subject: connection.subject(),
                messages_sent: connection.messages_sent,
            })
        };
        self.connections.iter().filter_map(report).collect()
    }

    fn report_feeds(&self) -> Vec<FeedReport> {
        self.feeds
            .iter()
            .map(|(_, feed)| FeedReport {
                topics: feed.key.interest.topics.clone(),
                framing: feed.key.framing.framing.name(),
                policy: feed.policy,
                readers: feed.readers.len(),
            })
            .collect()
    }

    fn publish_sent(&mut self) {
        let Sent { messages, bytes, .. } = std::mem::take(&mut self.sent);
        self.stats.delivered.add(messages);
        self.stats.bytes.add(bytes);
    }
}
