//! A shard: one task that owns a share of the connections and writes to them. No lock is taken on its hot path.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::connection::{Connection, ConnectionInfo, Flushed, Heard, Missed, Sent, Subscriber};
use super::framing::Framing;
use super::inbound::Ending;
use super::log::{Batch, Log, Windows};
use super::policy::Policy;
use super::ready::ReadyList;
use super::stats::Stats;
use super::{Config, FeedHandle, FeedId, Topics};

/// How many connections are served before other tasks get a turn.
const WRITES_PER_YIELD: usize = 256;
/// How often silent and stalled connections are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Room for bytes that clients send.
const SCRATCH_BYTES: usize = 4096;
/// How often a client that speaks is answered before others get a turn.
const ROUNDS: usize = 16;

/// What the hub sends to its shards.
#[derive(Debug)]
pub(super) enum Input {
    /// One turn of the hub.
    Turn(Arc<[(FeedId, Batch)]>),
    /// A new reader, and the snapshot it begins with.
    Attach(Box<(Arc<FeedHandle>, Subscriber, Option<Bytes>)>),
    /// The feed that a reader asked for; the reader by its place and serial number.
    Change(Box<(Arc<FeedHandle>, usize, u64)>),
    /// Asks for the connections.
    Report(oneshot::Sender<Vec<ConnectionReport>>),
    /// Asks for the feeds.
    Feeds(oneshot::Sender<Vec<FeedReport>>),
    /// End every stream in good order; what is not written at the given moment is cut off.
    Close(tokio::time::Instant),
}

/// A reader's wish for another feed.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) shard: usize,
    pub(super) key: usize,
    pub(super) serial: u64,
    pub(super) topics: Topics,
    pub(super) framing: &'static dyn Framing,
}

/// The hub, as a shard sees it.
#[derive(Debug)]
pub(super) struct HubSide {
    /// The shard's number there.
    pub(super) number: usize,
    /// For its readers' wishes.
    pub(super) changes: mpsc::Sender<Change>,
}

/// One connection, for those who ask who is connected.
#[derive(Debug, Clone)]
pub struct ConnectionReport {
    /// What was known when it was taken in.
    pub info: Arc<ConnectionInfo>,
    /// Messages written to it.
    pub messages_sent: u64,
}

/// One feed, for those who ask what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedReport {
    /// What its readers subscribed to.
    pub topics: Topics,
    /// How messages become bytes for them.
    pub framing: &'static str,
    /// What happens to those that fall behind.
    pub policy: Policy,
    /// How many they are.
    pub readers: usize,
}

/// What a shard knows of a feed that it has readers of.
struct LocalFeed {
    handle: Arc<FeedHandle>,
    log: Log,
    readers: Vec<usize>,
    blocked: Vec<usize>,
    /// When the last batch came: a feed that is not silent has no silent readers.
    last_batch: Instant,
}

impl LocalFeed {
    fn new(handle: Arc<FeedHandle>) -> Self {
        Self { handle, log: Log::default(), readers: Vec::new(), blocked: Vec::new(), last_batch: Instant::now() }
    }
}

/// Why the shard's loop woke.
enum Wake {
    Inbox(usize),
    Ready,
    Tick,
}

pub(super) struct Shard {
    config: Arc<Config>,
    stats: Arc<Stats>,
    inbox: mpsc::Receiver<Input>,
    hub: HubSide,
    ready: Arc<ReadyList>,
    connections: Slab<Connection>,
    /// The number of the last connection.
    serial: u64,
    /// Wishes for another feed that the hub had no room for: at most one for each connection, which is not heard meanwhile.
    wishes: VecDeque<Change>,
    /// Clients that are being parted with; each still holds what its connection held.
    parting: JoinSet<()>,
    feeds: HashMap<FeedId, LocalFeed>,
    /// The bytes in all logs.
    log_bytes: usize,
    /// Nothing more is coming, so the logs' bounds, passed by no more than the closing bytes, cut nobody off.
    closing: bool,
    sent: Sent,
}

impl Shard {
    pub(super) fn new(config: Arc<Config>, stats: Arc<Stats>, inbox: mpsc::Receiver<Input>, hub: HubSide) -> Self {
        Self {
            config,
            stats,
            inbox,
            hub,
            ready: Arc::default(),
            connections: Slab::new(),
            serial: 0,
            wishes: VecDeque::new(),
            parting: JoinSet::new(),
            feeds: HashMap::new(),
            log_bytes: 0,
            closing: false,
            sent: Sent::default(),
        }
    }

    /// Serves until told to close, or until the hub is gone.
    pub(super) async fn run(mut self) {
        let mut inputs = Vec::new();
        let mut ready = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = tokio::select! {
                count = self.inbox.recv_many(&mut inputs, self.config.shard_inbox) => Wake::Inbox(count),
                () = self.ready.ready() => Wake::Ready,
                _ = tick.tick() => Wake::Tick,
            };
            match wake {
                Wake::Inbox(0) => return,
                Wake::Inbox(_) => {
                    if let Some(deadline) = self.take_inputs(&mut inputs).await {
                        return self.close(deadline, &mut ready).await;
                    }
                }
                Wake::Ready => self.serve_ready(&mut ready).await,
                Wake::Tick => self.tick().await,
            }
            self.pass_wishes_on();
            self.publish_sent();
        }
    }

    /// Takes in what came, then writes to each feed that got something. Returns when to close, if told to.
    async fn take_inputs(&mut self, inputs: &mut Vec<Input>) -> Option<tokio::time::Instant> {
        let mut touched = Vec::new();
        let mut received = Vec::new();
        let mut close = None;
        for input in inputs.drain(..) {
            match input {
                Input::Turn(batches) => {
                    for (id, batch) in batches.iter() {
                        let Some(feed) = self.feeds.get_mut(id) else { continue };
                        touched.push(*id);
                        received.extend(batch.received_at);
                        self.log_bytes += batch.bytes.len();
                        feed.log.push(batch.clone());
                    }
                }
                Input::Attach(attach) => self.attach(*attach),
                Input::Change(change) => {
                    // All that came before it is the old feed's.
                    self.write_feeds(&mut touched).await;
                    self.change_feed(*change);
                }
                Input::Report(answer) => {
                    // Who asked may have stopped waiting.
                    let _ = answer.send(self.report());
                }
                Input::Feeds(answer) => {
                    // As above.
                    let _ = answer.send(self.report_feeds());
                }
                Input::Close(deadline) => close = Some(deadline),
            }
        }
        self.write_feeds(&mut touched).await;
        let now = Instant::now();
        for received_at in received {
            self.stats.lag.observe(now.duration_since(received_at).as_secs_f64());
        }
        close
    }

    fn attach(&mut self, (handle, subscriber, snapshot): (Arc<FeedHandle>, Subscriber, Option<Bytes>)) {
        let id = handle.id;
        let feed = self.feeds.entry(id).or_insert_with(|| LocalFeed::new(handle));
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        self.serial += 1;
        let waker = self.ready.waker(key);
        let mut connection = Connection::new(subscriber, snapshot, id, feed.log.head(), self.serial, waker);
        connection.reader_slot = feed.readers.len();
        feed.readers.push(key);
        entry.insert(connection);
        self.stats.connections.add(1);
        self.stats.connected.add(1);
        self.serve(key);
    }

    /// Makes a reader one of the feed that it asked for, unless it has gone meanwhile.
    fn change_feed(&mut self, (handle, key, serial): (Arc<FeedHandle>, usize, u64)) {
        let connection = self.connections.get_mut(key).filter(|connection| connection.serial() == Some(serial));
        let Some(connection) = connection else { return handle.leave() };
        let old = connection.feed;
        if let Some(feed) = self.feeds.get(&old)
            && !connection.change_feed(&feed.log, &handle)
        {
            handle.leave();
            self.stats.slow_disconnected.add(1);
            return self.part(key, Some(Ending::TooSlow));
        }
        let (reader_slot, blocked) = (connection.reader_slot, connection.blocked.take());
        self.unlist(old, reader_slot, blocked);
        let feed = self.feeds.entry(handle.id).or_insert_with(|| LocalFeed::new(handle));
        let connection = &mut self.connections[key];
        connection.position = feed.log.head();
        connection.reader_slot = feed.readers.len();
        feed.readers.push(key);
        self.serve(key);
    }

    /// Gives every reader of each feed its new batches.
    async fn write_feeds(&mut self, touched: &mut Vec<FeedId>) {
        touched.sort_unstable();
        touched.dedup();
        for id in touched.drain(..) {
            self.write_feed(id).await;
        }
    }

    /// Gives every reader of a feed its new batches.
    async fn write_feed(&mut self, id: FeedId) {
        let now = Instant::now();
        let mut closed = Vec::new();
        let mut next = 0;
        // The lists change only below, after the loop: this task is the only one that changes them.
        while let Some(feed) = self.feeds.get_mut(&id) {
            feed.last_batch = now;
            let end = feed.readers.len().min(next + WRITES_PER_YIELD);
            for &key in &feed.readers[next..end] {
                let connection = &mut self.connections[key];
                if connection.blocked.is_some() {
                    continue;
                }
                match connection.flush(&feed.log, feed.handle.framing, &mut self.sent) {
                    Flushed::Current => connection.last_write = now,
                    Flushed::Blocked => {
                        connection.blocked = Some((feed.blocked.len(), now));
                        feed.blocked.push(key);
                    }
                    Flushed::Closed => closed.push(key),
                }
            }
            if end == feed.readers.len() {
                break;
            }
            next = end;
            tokio::task::yield_now().await;
        }
        for key in closed {
            self.remove(key);
        }
        self.trim(id);
    }

    /// Lets go of what no reader needs, and keeps the log within its bounds by the feed's policy.
    fn trim(&mut self, id: FeedId) {
        let Some(feed) = self.feeds.get_mut(&id) else { return };
        let before = feed.log.bytes();
        let slowest = feed.blocked.iter().map(|&key| self.connections[key].position).min();
        feed.log.release(slowest.unwrap_or(feed.log.head()));
        let others = self.log_bytes - before;
        let mut closed = Vec::new();
        let over = |log: &Log| {
            log.len() > self.config.log_batches
                || log.bytes() > self.config.log_bytes
                || (log.len() > 0 && others + log.bytes() > self.config.total_log_bytes)
        };
        while !self.closing && over(&feed.log) {
            let lapped = feed.log.base();
            let head = feed.log.head();
            let resume = match feed.handle.policy {
                Policy::Disconnect | Policy::Merge => head,
                // The newest batch is still to be read, unless it alone is past the bounds.
                Policy::Skip => (head - 1).max(lapped + 1),
            };
            let mut sum = None;
            for &key in &feed.blocked {
                let connection = &mut self.connections[key];
                if connection.position != lapped {
                    continue;
                }
                match feed.handle.policy {
                    Policy::Disconnect => {
                        self.stats.slow_disconnected.add(1);
                        closed.push(key);
                    }
                    Policy::Skip => {
                        self.stats.slow_skipped.add(1);
                        let kept: u64 = feed.log.since(resume).map(|batch| u64::from(batch.messages)).sum();
                        let all: u64 = feed.log.since(lapped).map(|batch| u64::from(batch.messages)).sum();
                        connection.missed.get_or_insert_default().skipped += all - kept;
                    }
                    Policy::Merge => {
                        self.stats.slow_merged.add(1);
                        let sum = sum.get_or_insert_with(|| sum_of(&feed.log));
                        if !add_missed(connection.missed.get_or_insert_default(), sum, self.config.merged_keys) {
                            self.stats.slow_disconnected.add(1);
                            closed.push(key);
                        }
                    }
                }
                connection.position = resume;
            }
            let slowest = feed.blocked.iter().map(|&key| self.connections[key].position).min();
            feed.log.release(slowest.unwrap_or(head).max(lapped + 1));
        }
        self.log_bytes = others + feed.log.bytes();
        for key in closed {
            self.part(key, Some(Ending::TooSlow));
        }
    }

    async fn serve_ready(&mut self, ready: &mut Vec<usize>) {
        self.ready.take(ready);
        for (served, key) in ready.drain(..).enumerate() {
            if served % WRITES_PER_YIELD == WRITES_PER_YIELD - 1 {
                tokio::task::yield_now().await;
            }
            self.serve(key);
        }
    }

    /// Reads and writes what a connection's socket allows. A waker may outlive its connection, so `key` may be free, or
    /// another connection's by now, which does no harm.
    fn serve(&mut self, key: usize) {
        let mut scratch = [0; SCRATCH_BYTES];
        for _ in 0..ROUNDS {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let heard = connection.hear(&mut scratch);
            match &heard {
                Heard::Gone => return self.remove(key),
                Heard::Goodbye => return self.part(key, None),
                Heard::Nothing | Heard::Replies | Heard::Subscribe(_) => {}
            }
            let written = self.write(key);
            match heard {
                Heard::Replies if written == Flushed::Current => {}
                Heard::Subscribe(topics) => return self.ask_for(key, topics),
                _ => return,
            }
        }
        if let Some(connection) = self.connections.get(key) {
            connection.wake();
        }
    }

    /// Writes to one connection what it has not got yet.
    fn write(&mut self, key: usize) -> Flushed {
        let Some(connection) = self.connections.get_mut(key) else { return Flushed::Closed };
        let Some(feed) = self.feeds.get_mut(&connection.feed) else { return Flushed::Closed };
        let now = Instant::now();
        let position = connection.position;
        let written = connection.flush(&feed.log, feed.handle.framing, &mut self.sent);
        match written {
            Flushed::Closed => self.remove(key),
            Flushed::Current => {
                connection.last_write = now;
                if let Some((slot, _)) = connection.blocked.take() {
                    unlist_blocked(feed, slot, &mut self.connections);
                    let id = feed.handle.id;
                    self.trim(id);
                }
            }
            Flushed::Blocked => match &mut connection.blocked {
                // Progress, however slow, is not a stall.
                Some((_, since)) if connection.position > position => *since = now,
                Some(_) => {}
                None => {
                    connection.blocked = Some((feed.blocked.len(), now));
                    feed.blocked.push(key);
                }
            },
        }
        written
    }

    /// Asks the hub for another feed.
    fn ask_for(&mut self, key: usize, topics: Topics) {
        let Some(connection) = self.connections.get(key) else { return };
        let Some(feed) = self.feeds.get(&connection.feed) else { return };
        let Some(serial) = connection.serial() else { return };
        let change = Change { shard: self.hub.number, key, serial, topics, framing: feed.handle.framing };
        self.wishes.push_back(change);
        self.pass_wishes_on();
    }

    /// Tells the hub what readers want, as far as there is room. It must not be waited for: it may wait for this shard.
    fn pass_wishes_on(&mut self) {
        while let Ok(room) = self.hub.changes.try_reserve()
            && let Some(wish) = self.wishes.pop_front()
        {
            room.send(wish);
        }
    }

    /// Lets go of a connection in good order if its client is one that speaks, and at once if not.
    fn part(&mut self, key: usize, ending: Option<Ending>) {
        let Some(connection) = self.take(key) else { return };
        if let Some(parting) = connection.part(ending) {
            self.parting.spawn(parting);
        }
    }

    /// Sends keep-alives after silence, and ends what has stalled or gone.
    async fn tick(&mut self) {
        let now = Instant::now();
        let silence = self.config.keep_alive;
        let mut closed = Vec::new();
        let mut unanswered = Vec::new();
        let mut silent = Vec::new();
        while self.parting.try_join_next().is_some() {}
        for (key, connection) in &self.connections {
            let Some(feed) = self.feeds.get(&connection.feed) else { continue };
            let stalled =
                connection.blocked.is_some_and(|(_, since)| now.duration_since(since) >= self.config.stall_limit);
            if stalled {
                self.stats.stalled.add(1);
                connection.discard_unsent();
            }
            if stalled || !connection.is_open() {
                closed.push(key);
            } else if connection.is_unanswered(now, self.config.answer_limit) {
                unanswered.push(key);
            } else if now.duration_since(feed.last_batch) >= silence && connection.is_silent(now, silence) {
                silent.push(key);
            }
        }
        for key in closed {
            self.remove(key);
        }
        for key in unanswered {
            self.stats.unanswered.add(1);
            self.part(key, Some(Ending::Unanswered));
        }
        for (served, key) in silent.into_iter().enumerate() {
            if served % WRITES_PER_YIELD == WRITES_PER_YIELD - 1 {
                tokio::task::yield_now().await;
            }
            self.keep_alive(key);
        }
    }

    fn keep_alive(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(feed) = self.feeds.get(&connection.feed) else { return };
        connection.put_keep_alive(feed.handle.framing.keep_alive());
        self.write(key);
    }

    fn remove(&mut self, key: usize) {
        drop(self.take(key));
    }

    /// Takes a connection off all lists.
    fn take(&mut self, key: usize) -> Option<Connection> {
        let connection = self.connections.try_remove(key)?;
        self.stats.connections.subtract(1);
        self.unlist(connection.feed, connection.reader_slot, connection.blocked);
        Some(connection)
    }

    /// Takes the reader that stands at `reader_slot`, and at the place that `blocked` tells, off the lists of feed `id`.
    fn unlist(&mut self, id: FeedId, reader_slot: usize, blocked: Option<(usize, Instant)>) {
        let Some(feed) = self.feeds.get_mut(&id) else { return };
        unlist(&mut feed.readers, reader_slot, &mut self.connections, |moved, to| moved.reader_slot = to);
        if let Some((slot, _)) = blocked {
            unlist_blocked(feed, slot, &mut self.connections);
        }
        feed.handle.leave();
        if feed.readers.is_empty() {
            self.log_bytes -= feed.log.bytes();
            self.feeds.remove(&id);
        } else if blocked.is_some() {
            self.trim(id);
        }
    }

    /// Ends every stream with its framing's closing bytes; those that cannot take them by `deadline` are cut off.
    async fn close(mut self, deadline: tokio::time::Instant, ready: &mut Vec<usize>) {
        self.closing = true;
        let ids: Vec<FeedId> = self.feeds.keys().copied().collect();
        for id in ids {
            if let Some(feed) = self.feeds.get_mut(&id) {
                let bytes = feed.handle.framing.closing();
                self.log_bytes += bytes.len();
                feed.log.push(Batch { bytes, messages: 0, windows: None, received_at: None });
            }
            self.write_feed(id).await;
        }
        self.drop_current();
        while !self.connections.is_empty() {
            if tokio::time::timeout_at(deadline, self.ready.ready()).await.is_err() {
                tracing::warn!(connections = self.connections.len(), "streams cut off at the shutdown time limit");
                break;
            }
            self.serve_ready(ready).await;
            self.drop_current();
        }
        while let Ok(Some(_)) = tokio::time::timeout_at(deadline, self.parting.join_next()).await {}
        self.publish_sent();
        self.stats.connections.subtract(self.connections.len() as u64);
    }

    /// Lets go of the connections that have got everything.
    fn drop_current(&mut self) {
        let current: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.blocked.is_none())
            .map(|(key, _)| key)
            .collect();
        for key in current {
            self.part(key, None);
        }
    }

    fn report(&self) -> Vec<ConnectionReport> {
        self.connections
            .iter()
            .map(|(_, connection)| ConnectionReport {
                info: Arc::clone(&connection.info),
                messages_sent: connection.messages_sent,
            })
            .collect()
    }

    fn report_feeds(&self) -> Vec<FeedReport> {
        self.feeds
            .values()
            .map(|feed| FeedReport {
                topics: feed.handle.topics.clone(),
                framing: feed.handle.framing.name(),
                policy: feed.handle.policy,
                readers: feed.readers.len(),
            })
            .collect()
    }

    fn publish_sent(&mut self) {
        let Sent { messages, bytes } = std::mem::take(&mut self.sent);
        self.stats.delivered.add(messages);
        self.stats.bytes.add(bytes);
    }
}

/// Takes place `slot` off `list`; `moved` is told the new place of the connection that fills the hole.
fn unlist(
    list: &mut Vec<usize>,
    slot: usize,
    connections: &mut Slab<Connection>,
    moved: impl FnOnce(&mut Connection, usize),
) {
    list.swap_remove(slot);
    if let Some(connection) = list.get(slot).and_then(|&key| connections.get_mut(key)) {
        moved(connection, slot);
    }
}

/// Takes place `slot` off a feed's list of blocked readers.
fn unlist_blocked(feed: &mut LocalFeed, slot: usize, connections: &mut Slab<Connection>) {
    unlist(&mut feed.blocked, slot, connections, |moved, to| {
        if let Some((slot, _)) = &mut moved.blocked {
            *slot = to;
        }
    });
}

/// All that a log holds, for readers that stand at its very beginning.
fn sum_of(log: &Log) -> Arc<Windows> {
    let mut sum = Windows::default();
    for batch in log.since(log.base()) {
        if let Some(windows) = &batch.windows {
            sum.merge(windows);
        }
    }
    Arc::new(sum)
}

/// Adds `sum` to what a reader missed; `false` when that would be more than `limit` keys.
fn add_missed(missed: &mut Missed, sum: &Arc<Windows>, limit: usize) -> bool {
    let windows = match missed.windows.take() {
        // Shared by all readers that fell behind at the same moment, until one falls behind again.
        None => Arc::clone(sum),
        Some(mut windows) => {
            Arc::make_mut(&mut windows).merge(sum);
            windows
        }
    };
    let within = windows.keys() <= limit;
    missed.windows = Some(windows);
    within
}
