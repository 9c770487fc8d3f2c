//! Serving connections: attaching, reading, writing, changing feeds, closing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use super::{Decided, FeedChange, LocalFeed, Reply, Shard, WRITES_PER_YIELD};
use crate::connection::{Connection, FlushOutcome, ReadOutcome};
use crate::feed::{FeedHandle, FeedId};
use crate::inbound::Decision;
use crate::{CloseReason, ControlError, Message, Namespace, Subscriber, Subscription};

/// Room for bytes that clients send.
const SCRATCH_BYTES: usize = 4096;
/// Replies to one client before others get a turn.
const MAX_REPLIES: usize = 16;
/// Time for the decision about a change of topics.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

impl Shard {
    pub(super) fn attach(&mut self, (handle, subscriber, snapshot): (Arc<FeedHandle>, Subscriber, Option<Bytes>)) {
        let id = handle.id;
        let feed = self.feeds.entry(id).or_insert_with(|| LocalFeed::new(handle, &self.budgets));
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        self.generation += 1;
        let waker = self.ready.waker(key);
        let mut connection = Connection::new(subscriber, snapshot, id, feed.log.head(), self.generation, waker);
        feed.add_reader(key, &mut connection);
        let id = self.hub.connection_id(key, self.generation);
        let info = &connection.info;
        tracing::debug!(connection = %id, client = %info.client_ip, topics = %info.topics, "stream opened");
        entry.insert(connection);
        self.stats.connections.add(1);
        self.stats.connected.add(1);
        self.serve(key);
    }

    /// Makes a reader one of the feed that it changes to, unless it has gone.
    pub(super) fn change_feed(&mut self, (handle, change): (Arc<FeedHandle>, FeedChange)) {
        let FeedChange { key, generation, grant, reply, .. } = change;
        let id = self.hub.connection_id(key, generation);
        let answer = |outcome| {
            // The sender of the command may have stopped waiting.
            reply.map(|reply| reply.send(outcome));
        };
        let connection = self.connections.get_mut(key).filter(|connection| connection.generation == generation);
        let Some(connection) = connection else {
            handle.leave();
            return answer(Err(ControlError::NotConnected(id)));
        };
        let old = connection.feed;
        if let Some(feed) = self.feeds.get_mut(&old)
            && !connection.change_feed(&mut feed.view(&self.config, &self.budgets), &handle, grant)
        {
            handle.leave();
            self.stats.slow_disconnected.add(1);
            self.close_connection(key, Some(&CloseReason::SlowReader));
            return answer(Err(ControlError::TooFarBehind(id)));
        }
        let (reader_slot, blocked) = (connection.reader_slot, connection.blocked.take());
        self.remove_reader(old, reader_slot, blocked);
        let feed = self.feeds.entry(handle.id).or_insert_with(|| LocalFeed::new(handle, &self.budgets));
        let connection = &mut self.connections[key];
        connection.position = feed.log.head();
        feed.add_reader(key, connection);
        self.serve(key);
        answer(Ok(()));
    }

    /// Writes a feed's new batches to all its readers.
    pub(super) async fn write_feed(&mut self, id: FeedId) {
        let now = Instant::now();
        let mut disconnected = Vec::new();
        let mut next = 0;
        // The lists change only below, after the loop: this task is the only one that changes them.
        while let Some(feed) = self.feeds.get_mut(&id) {
            feed.last_batch = now;
            let end = feed.readers.len().min(next + WRITES_PER_YIELD);
            for place in next..end {
                let key = feed.readers[place];
                let connection = &mut self.connections[key];
                if connection.blocked.is_some() {
                    continue;
                }
                match connection.flush(&mut feed.view(&self.config, &self.budgets), &mut self.sent) {
                    FlushOutcome::Current => connection.last_write = now,
                    FlushOutcome::Blocked => {
                        connection.blocked = Some((feed.blocked.len(), now));
                        feed.blocked.push(key);
                    }
                    FlushOutcome::Disconnected => disconnected.push(key),
                }
            }
            if end == feed.readers.len() {
                break;
            }
            next = end;
            tokio::task::yield_now().await;
        }
        for key in disconnected {
            self.remove(key);
        }
        self.trim(id);
    }

    /// Serves the connections whose sockets have become readable or writable.
    pub(super) async fn serve_ready(&mut self, ready: &mut Vec<usize>) {
        self.ready.take(ready);
        for (served, key) in ready.drain(..).enumerate() {
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
            let outcome = connection.read_inbound(&mut scratch);
            match outcome {
                ReadOutcome::Disconnected => return self.remove(key),
                ReadOutcome::Close => return self.close_connection(key, None),
                ReadOutcome::Idle | ReadOutcome::Replies | ReadOutcome::Subscribe(_) | ReadOutcome::Authorize(_) => {}
            }
            let written = self.write(key);
            match outcome {
                ReadOutcome::Replies if written == FlushOutcome::Current => {}
                ReadOutcome::Subscribe(topics) => {
                    return self.request_change(key, Subscription { topics, grant: None }, None);
                }
                ReadOutcome::Authorize(decision) => return self.decide(key, decision),
                _ => return,
            }
        }
        if let Some(connection) = self.connections.get(key) {
            connection.wake();
        }
    }

    /// Writes to one connection what it has not got yet.
    pub(super) fn write(&mut self, key: usize) -> FlushOutcome {
        let Some(connection) = self.connections.get_mut(key) else { return FlushOutcome::Disconnected };
        let Some(feed) = self.feeds.get_mut(&connection.feed) else { return FlushOutcome::Disconnected };
        let now = Instant::now();
        let before = self.sent.bytes;
        let outcome = connection.flush(&mut feed.view(&self.config, &self.budgets), &mut self.sent);
        match outcome {
            FlushOutcome::Disconnected => self.remove(key),
            FlushOutcome::Current => {
                connection.last_write = now;
                if let Some((slot, _)) = connection.blocked.take() {
                    feed.remove_blocked(slot, &mut self.connections);
                    let id = feed.handle.id;
                    self.trim(id);
                }
            }
            FlushOutcome::Blocked => match &mut connection.blocked {
                // Progress, however slow, is not a stall.
                Some((_, since)) if self.sent.bytes > before => *since = now,
                Some(_) => {}
                None => feed.add_blocked(key, connection, now),
            },
        }
        outcome
    }

    /// Sends a message to one connection alone. Returns `false` if it is too far behind.
    pub(super) fn send_to(&mut self, key: usize, message: &Message) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(feed) = self.feeds.get_mut(&connection.feed) else { return false };
        let accepted = connection.put_message(message, &mut feed.view(&self.config, &self.budgets));
        if accepted {
            self.write(key);
        }
        accepted
    }

    /// Starts the decision about a client's change of topics.
    fn decide(&mut self, key: usize, decision: Decision) {
        let Some(connection) = self.connections.get(key) else { return };
        let generation = connection.generation;
        // A task of its own, so that a decision that panics is a refusal.
        let decision = AbortOnDropHandle::new(tokio::spawn(tokio::time::timeout(DECISION_TIMEOUT, decision)));
        self.decisions.spawn(async move {
            let outcome = match decision.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("the authorization took too long; try again".to_owned()),
                Err(_) => Err("the authorization failed; try again".to_owned()),
            };
            (key, generation, outcome)
        });
    }

    /// Follows a decision, unless the connection has gone.
    pub(super) fn apply_decision(&mut self, (key, generation, outcome): Decided) {
        let Some(connection) = self.connection(key, generation) else { return };
        match outcome {
            Ok(subscription) => self.request_change(key, subscription, None),
            Err(reason) if connection.refuse_change(&reason) => self.close_connection(key, None),
            Err(_) => self.serve(key),
        }
    }

    /// Asks the hub for the feed of other topics.
    pub(super) fn request_change(&mut self, key: usize, subscription: Subscription, reply: Option<Reply>) {
        let Some(connection) = self.connections.get(key) else { return };
        let Some(feed) = self.feeds.get(&connection.feed) else { return };
        let contains = |namespace: &&Namespace| subscription.topics.iter().any(|topic| topic.contains(namespace));
        let totals = feed.handle.totals.as_ref().filter(contains).cloned();
        self.pending_changes.push_back(FeedChange {
            shard: self.hub.shard,
            key,
            generation: connection.generation,
            topics: subscription.topics,
            framing: Arc::clone(&feed.handle.framing),
            totals,
            grant: subscription.grant,
            reply,
        });
        self.forward_changes();
    }

    /// Forwards feed changes to the hub, as far as it has room. Must not wait: the hub may be waiting for this shard.
    pub(super) fn forward_changes(&mut self) {
        while let Ok(room) = self.hub.changes.try_reserve()
            && let Some(change) = self.pending_changes.pop_front()
        {
            room.send(change);
        }
    }

    /// Closes a connection for `reason`, or without one because its client asked for it or has got its closing bytes. The
    /// client gets its last bytes if there are any; otherwise the connection ends at once.
    pub(super) fn close_connection(&mut self, key: usize, reason: Option<&CloseReason>) {
        let Some(connection) = self.connections.get(key) else { return };
        if let Some(reason) = reason {
            let id = self.hub.connection_id(key, connection.generation);
            let info = &connection.info;
            tracing::debug!(connection = %id, client = %info.client_ip, topics = %info.topics, %reason, "closing stream");
        }
        let framing = self.feeds.get(&connection.feed).map(|feed| Arc::clone(&feed.handle.framing));
        let closing = framing.zip(reason).map(|(framing, reason)| framing.closing(reason)).unwrap_or_default();
        let Some(connection) = self.take(key) else { return };
        if let Some(close) = connection.into_close(&closing, reason.is_some()) {
            self.closing_sinks.spawn(close);
        }
    }

    /// Closes all connections of a feed for `reason`.
    pub(super) fn close_feed(&mut self, id: FeedId, reason: &CloseReason) {
        let readers = self.feeds.get(&id).map(|feed| feed.readers.clone()).unwrap_or_default();
        for key in readers {
            self.close_connection(key, Some(reason));
        }
    }

    pub(super) fn remove(&mut self, key: usize) {
        drop(self.take(key));
    }

    /// Removes a connection from all lists.
    fn take(&mut self, key: usize) -> Option<Connection> {
        let connection = self.connections.try_remove(key)?;
        let id = self.hub.connection_id(key, connection.generation);
        let info = &connection.info;
        tracing::debug!(
            connection = %id,
            client = %info.client_ip,
            topics = %info.topics,
            messages_sent = connection.messages_sent,
            "stream ended"
        );
        self.stats.connections.subtract(1);
        if let Some(group) = connection.merge_group()
            && let Some(feed) = self.feeds.get_mut(&connection.feed)
        {
            feed.merges.leave(group);
        }
        self.remove_reader(connection.feed, connection.reader_slot, connection.blocked);
        Some(connection)
    }

    /// Removes the reader at `reader_slot`, and at the slot in `blocked`, from the lists of feed `id`.
    fn remove_reader(&mut self, id: FeedId, reader_slot: usize, blocked: Option<(usize, Instant)>) {
        let Some(feed) = self.feeds.get_mut(&id) else { return };
        feed.remove_reader(reader_slot, &mut self.connections);
        if let Some((slot, _)) = blocked {
            feed.remove_blocked(slot, &mut self.connections);
        }
        feed.handle.leave();
        if feed.readers.is_empty() {
            self.feeds.remove(&id);
        } else if blocked.is_some() {
            self.trim(id);
        }
    }
}
