//! Serving connections: attaching, reading, writing, changing feeds, closing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use super::feed::{FeedKey, Readers, place};
use super::{Decided, FeedId, READY_PER_TURN, Shard, WRITES_PER_YIELD};
use crate::connection::{Connection, FlushOutcome, ReadOutcome};
use crate::hub::Attach;
use crate::interest::Interest;
use crate::replay::ReplaySource;
use crate::{CloseReason, Message, Namespace, Rate, Subscription, Topics};

/// Room for bytes that clients send.
const SCRATCH_BYTES: usize = 4096;
/// Replies to one client before others get a turn.
const MAX_REPLIES: usize = 16;
/// Time for the decision about a change of topics, or for an operation.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

impl Shard {
    pub(super) fn attach(&mut self, Attach { subscriber, framing, totals, snapshot, beginning }: Attach) {
        let is_paced = subscriber.max_rate.is_some();
        let interest = Interest::new(&subscriber.info.topics, subscriber.grant.as_deref());
        let beginning = beginning.map(|beginning| self.first_bytes(beginning, &framing, interest.clone(), None));
        let feed_id = self.feeds.join(FeedKey { interest, framing, totals, is_paced });
        let Some(feed) = self.feeds.get_mut(feed_id) else { return };
        feed.has_history = beginning.is_some();
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        self.generation += 1;
        let waker = self.ready.waker(key);
        let mut connection =
            Connection::new(subscriber, beginning, snapshot, feed_id, feed.log.head(), self.generation, waker);
        feed.add_reader(place(key), &mut connection);
        entry.insert(connection);
        self.stats.connections.add(1);
        self.stats.connected.add(1);
        let id = self.connection_id(key, self.generation);
        self.connections[key].attached(id);
        let (client, topics) = (self.connections[key].origin.client_ip, self.topics(feed_id));
        tracing::debug!(connection = %id, %client, %topics, "stream opened");
        self.serve(key);
    }

    /// Makes a reader one of the feed of other topics, with everything that it has not got of the old one. Returns `false` if
    /// that is too much: the connection is then closed.
    pub(super) fn change_topics(&mut self, key: usize, Subscription { topics, grant, resume }: Subscription) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let old = connection.feed;
        let Some(feed) = self.feeds.get_mut(old) else { return false };
        let contains = |namespace: &&Namespace| topics.iter().any(|topic| topic.contains(namespace));
        let totals = feed.key.totals.as_ref().filter(contains).cloned();
        let (known, framing) = (feed.key.interest.clone(), Arc::clone(&feed.key.framing));
        let interest = match &grant {
            Some(grant) => Interest::new(&topics, Some(grant)),
            None => known.of(topics.clone()),
        };
        let new = FeedKey { interest: interest.clone(), totals, ..feed.key.clone() };
        let has_history = self.history.read().has(&topics);
        let beginning = resume.map(|resume| self.first_bytes_of_change(resume, &framing, interest, known));
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(feed) = self.feeds.get_mut(old) else { return false };
        let mut view = feed.view(&self.config, &self.budgets, &self.stats);
        if !connection.change_topics(&topics, &mut view, grant.as_deref(), beginning) {
            self.stats.slow_disconnected.add(1);
            self.close_connection(key, Some(&CloseReason::SlowReader));
            return false;
        }
        let (reader_slot, rate, blocked) = (connection.reader_slot, connection.max_rate, connection.blocked.take());
        // First, so that a feed that stays the same is not removed in between.
        let id = self.feeds.join(new);
        if let Some(feed) = self.feeds.get_mut(id) {
            let connection = &mut self.connections[key];
            (connection.feed, connection.position) = (id, feed.log.head());
            feed.has_history = has_history;
            feed.add_reader(place(key), connection);
        }
        self.leave_feed(old, reader_slot, rate, blocked);
        true
    }

    /// Writes to every reader of each feed that got messages.
    pub(super) async fn write_feeds(&mut self) {
        let mut served = 0;
        for id in self.feeds.take_touched() {
            let before = (!self.followed.is_empty()).then(|| (Instant::now(), self.sent.bytes));
            self.write_feed(id, &mut served).await;
            if let Some((started_at, bytes)) = before {
                self.followed_written(id, started_at, self.sent.bytes - bytes);
            }
        }
    }

    /// Writes a feed's new batches to all its readers. `served` counts them, so that other tasks get a turn.
    pub(super) async fn write_feed(&mut self, id: FeedId, served: &mut usize) {
        let now = Instant::now();
        let (mut disconnected, mut replaying) = (Vec::new(), Vec::new());
        let mut next = 0;
        // The lists change only below, after the loop: this task is the only one that changes them.
        while let Some(feed) = self.feeds.get_mut(id) {
            let Readers::All(readers) = &feed.readers else { return self.write_paced(id, served).await };
            feed.last_batch = now;
            let count = readers.len();
            let end = count.min(next + WRITES_PER_YIELD - *served);
            for slot in next..end {
                let Readers::All(readers) = &feed.readers else { break };
                let key = readers[slot];
                let connection = &mut self.connections[key as usize];
                if connection.blocked.is_some() {
                    continue;
                }
                match connection.flush(&mut feed.view(&self.config, &self.budgets, &self.stats), &mut self.sent) {
                    FlushOutcome::Current => connection.last_progress = now.into(),
                    FlushOutcome::Blocked => feed.add_blocked(key, connection, now),
                    FlushOutcome::Replaying => replaying.push(key),
                    FlushOutcome::Disconnected => disconnected.push(key),
                }
            }
            *served += end - next;
            next = end;
            if *served == WRITES_PER_YIELD {
                *served = 0;
                tokio::task::yield_now().await;
            }
            if next == count {
                break;
            }
        }
        for key in disconnected {
            self.remove(key as usize);
        }
        for key in replaying {
            self.enqueue_replay(key as usize);
        }
        self.trim(id);
    }

    /// Serves connections whose sockets have become readable or writable. `ready` has those that are left from before, and
    /// afterwards those that are left now: a rush of them must not keep live messages waiting.
    pub(super) async fn serve_ready(&mut self, ready: &mut Vec<usize>) {
        if ready.is_empty() {
            self.ready.take(ready);
        }
        let count = ready.len().min(READY_PER_TURN);
        for (served, key) in ready.drain(..count).enumerate() {
            if served % WRITES_PER_YIELD == WRITES_PER_YIELD - 1 {
                tokio::task::yield_now().await;
            }
            self.serve(key);
        }
    }

    /// Reads and writes what a connection's socket allows. A waker may outlive its connection, so `key` may be free or
    /// belong to another connection by now, which does no harm.
    pub(super) fn serve(&mut self, key: usize) {
        let mut scratch = [0; SCRATCH_BYTES];
        for _ in 0..MAX_REPLIES {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(feed) = self.feeds.get(connection.feed) else { return };
            let outcome = connection.read_inbound(&feed.key.interest.topics, &mut scratch);
            match outcome {
                ReadOutcome::Disconnected => return self.remove(key),
                ReadOutcome::Close => return self.close_connection(key, None),
                ReadOutcome::Idle
                | ReadOutcome::Replies
                | ReadOutcome::Subscribe(_)
                | ReadOutcome::Authorize(_)
                | ReadOutcome::Perform(_) => {}
            }
            let written = self.write(key);
            match outcome {
                ReadOutcome::Replies if written == FlushOutcome::Current => {}
                // The last bytes of its feed are the last that it gets.
                ReadOutcome::Subscribe(_) if self.closing => return,
                ReadOutcome::Subscribe(topics) => {
                    let subscription = Subscription { topics, grant: None, resume: None };
                    if !self.change_topics_when_ready(key, subscription) {
                        return;
                    }
                }
                ReadOutcome::Authorize(decision) => {
                    return self.wait_for(key, async { decision.await.map(Some) }, "the authorization");
                }
                ReadOutcome::Perform(operation) => {
                    return self.wait_for(key, async { operation.await.map(|()| None) }, "the request");
                }
                _ => return,
            }
        }
        if let Some(connection) = self.connections.get(key) {
            connection.wake();
        }
    }

    /// Writes to one connection what it has not got yet.
    pub(super) fn write(&mut self, key: usize) -> FlushOutcome {
        self.write_with(key, false)
    }

    /// As [`write`](Self::write); with `next_piece`, also the next piece of what it gets from the history.
    pub(super) fn write_with(&mut self, key: usize, next_piece: bool) -> FlushOutcome {
        let Some(connection) = self.connections.get_mut(key) else { return FlushOutcome::Disconnected };
        let Some(feed) = self.feeds.get_mut(connection.feed) else { return FlushOutcome::Disconnected };
        let now = Instant::now();
        let (sent, unsent) = (self.sent.bytes, connection.unsent());
        let framing = Arc::clone(&feed.key.framing);
        let mut view = feed.view(&self.config, &self.budgets, &self.stats);
        view.replay = next_piece.then_some(ReplaySource {
            history: &self.history,
            position: self.position.as_deref(),
            cache: &mut self.pieces,
            framing: &*framing.framing,
            slot: framing.slot,
            budget: &self.budgets.replayed,
        });
        let outcome = connection.flush(&mut view, &mut self.sent);
        match outcome {
            FlushOutcome::Replaying => self.enqueue_replay(key),
            FlushOutcome::Disconnected => self.remove(key),
            FlushOutcome::Current => {
                connection.last_progress = now.into();
                if let Some(slot) = connection.blocked.take() {
                    let id = connection.feed;
                    let overdue = connection.max_rate.filter(|_| connection.is_overdue);
                    let position = connection.position;
                    feed.remove_blocked(slot, &mut self.connections);
                    if let Some(rate) = overdue {
                        self.schedule_overdue(id, rate, position);
                    }
                    self.trim(id);
                }
            }
            FlushOutcome::Blocked if connection.blocked.is_none() => feed.add_blocked(place(key), connection, now),
            // Progress, however slow, is not a stall.
            FlushOutcome::Blocked if self.sent.bytes > sent || connection.unsent() < unsent => {
                connection.last_progress = now.into()
            }
            FlushOutcome::Blocked => {}
        }
        outcome
    }

    /// Sends a message to one connection alone. Returns `false` if it is too far behind.
    pub(super) fn send_to(&mut self, key: usize, message: &Message) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(feed) = self.feeds.get_mut(connection.feed) else { return false };
        let accepted = connection.put_message(message, &mut feed.view(&self.config, &self.budgets, &self.stats));
        if accepted {
            self.write(key);
        }
        accepted
    }

    /// Starts what a client waits for, and which is called `what`.
    fn wait_for(
        &mut self,
        key: usize,
        outcome: impl Future<Output = Result<Option<Subscription>, String>> + Send + 'static,
        what: &'static str,
    ) {
        let Some(connection) = self.connections.get(key) else { return };
        let generation = connection.generation;
        // A task of its own, so that one that panics is a refusal.
        let task = AbortOnDropHandle::new(tokio::spawn(tokio::time::timeout(DECISION_TIMEOUT, outcome)));
        self.decisions.spawn(async move {
            let outcome = match task.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(format!("{what} took too long; try again")),
                Err(_) => Err(format!("{what} failed; try again")),
            };
            (key, generation, outcome)
        });
    }

    /// Follows what a client has waited for, unless the connection has gone.
    pub(super) fn apply_decision(&mut self, (key, generation, outcome): Decided) {
        let Some(connection) = self.connection(key, generation) else { return };
        match outcome {
            Ok(Some(subscription)) => {
                if self.change_topics_when_ready(key, subscription) {
                    self.serve(key);
                }
            }
            Ok(None) => {
                connection.complete_operation();
                self.serve(key);
            }
            Err(reason) if connection.refuse_change(&reason) => self.close_connection(key, None),
            Err(_) => self.serve(key),
        }
    }

    /// Closes a connection for `reason`, or without one because its client asked for it or has got its closing bytes. The
    /// client gets its last bytes if there are any; otherwise the connection ends at once.
    pub(super) fn close_connection(&mut self, key: usize, reason: Option<&CloseReason>) {
        if reason.is_some_and(|reason| *reason != CloseReason::SlowReader) {
            self.put_unread(key);
            self.write(key);
        }
        let Some(connection) = self.connections.get(key) else { return };
        if let Some(reason) = reason {
            let id = self.connection_id(key, connection.generation);
            let (client, topics) = (connection.origin.client_ip, self.topics(connection.feed));
            tracing::debug!(connection = %id, %client, %topics, %reason, "closing stream");
        }
        let framing = self.feeds.get(connection.feed).map(|feed| &feed.key.framing.framing);
        let closing = framing.zip(reason).map(|(framing, reason)| framing.closing(reason)).unwrap_or_default();
        let Some(connection) = self.take(key) else { return };
        if let Some(close) = connection.into_close(&closing, reason.is_some()) {
            self.closing_sinks.spawn(close);
        }
    }

    /// Closes all connections of a feed for `reason`.
    pub(super) fn close_feed(&mut self, id: FeedId, reason: &CloseReason) {
        let readers = self.feeds.get(id).map(|feed| feed.readers.to_vec()).unwrap_or_default();
        for key in readers {
            self.close_connection(key as usize, Some(reason));
        }
    }

    /// The topics of a feed, for the log.
    fn topics(&self, id: FeedId) -> Topics {
        self.feeds.get(id).map_or_else(Topics::none, |feed| feed.key.interest.topics.clone())
    }

    pub(super) fn remove(&mut self, key: usize) {
        drop(self.take(key));
    }

    /// Removes a connection from all lists.
    fn take(&mut self, key: usize) -> Option<Connection> {
        let connection = self.connections.try_remove(key)?;
        let id = self.connection_id(key, connection.generation);
        let (client, topics) = (connection.origin.client_ip, self.topics(connection.feed));
        let messages_sent = connection.messages_sent;
        tracing::debug!(connection = %id, %client, %topics, messages_sent, "stream ended");
        self.stats.connections.subtract(1);
        if let Some(group) = connection.merge_group()
            && let Some(feed) = self.feeds.get_mut(connection.feed)
        {
            feed.merges.leave(group);
        }
        self.leave_feed(connection.feed, connection.reader_slot, connection.max_rate, connection.blocked);
        Some(connection)
    }

    /// Removes the reader at `reader_slot`, and at the slot in `blocked`, from the lists of a feed; and the feed, if it was the
    /// last one.
    fn leave_feed(&mut self, id: FeedId, reader_slot: u32, rate: Option<Rate>, blocked: Option<u32>) {
        let Some(feed) = self.feeds.get_mut(id) else { return };
        let left = feed.remove_reader(reader_slot, rate, &mut self.connections);
        if let Some(slot) = blocked {
            feed.remove_blocked(slot, &mut self.connections);
        }
        if feed.readers.len() == 0 {
            self.feeds.remove(id);
        } else if blocked.is_some() || left.is_some() {
            self.trim(id);
        }
        if let Some(pace) = left {
            self.unschedule(id, &pace);
        }
    }
}
