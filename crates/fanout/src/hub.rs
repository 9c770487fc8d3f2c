//! The hub: appends each message to the batch of every feed that contains it, and hands all shards the same batches.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::feed::{FeedId, Feeds};
use crate::inbox;
use crate::publisher::{Acknowledgement, Envelope};
use crate::shard::{FeedChange, Input};
use crate::totals::{Audience, Totals};
use crate::{CloseReason, Config, Data, Message, Stats, Subscriber};

/// The most messages that one turn takes from the inbox.
const TURN_MESSAGES: usize = 1024;
/// Framed bytes after which a turn is sent although more messages wait.
const TURN_BYTES: usize = 1024 * 1024;

/// Everything that the hub receives.
pub(crate) struct HubInboxes {
    pub(crate) messages: inbox::Receiver<Envelope>,
    pub(crate) subscribers: mpsc::Receiver<Subscriber>,
    pub(crate) changes: mpsc::Receiver<FeedChange>,
}

/// Why the hub's loop woke.
enum LoopEvent {
    Changes(usize),
    Messages(usize),
    Subscribers(usize),
    Shutdown,
    /// A feed has lost its last reader.
    FeedRetired,
}

pub(crate) struct Hub {
    config: Arc<Config>,
    stats: Arc<Stats>,
    shards: Vec<mpsc::Sender<Input>>,
    next_shard: usize,
    feeds: Feeds,
    totals: Totals,
    /// Framed bytes of the current turn.
    turn_bytes: usize,
    /// Messages that readers get for the current one, and the feeds of one of them; empty in between.
    outgoing: Vec<(Message, Audience)>,
    found: Vec<FeedId>,
    /// To be acknowledged when the current turn has been sent.
    acknowledgements: Vec<Acknowledgement>,
}

impl Hub {
    pub(crate) fn new(
        config: Arc<Config>,
        stats: Arc<Stats>,
        shards: Vec<mpsc::Sender<Input>>,
        totals: Totals,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            config,
            stats,
            shards,
            next_shard: 0,
            feeds: Feeds::new(budget),
            totals,
            turn_bytes: 0,
            outgoing: Vec::new(),
            found: Vec::new(),
            acknowledgements: Vec::new(),
        }
    }

    /// Runs until every publisher has been dropped or `shutdown` is cancelled, and all messages have been sent; then ends
    /// the streams.
    pub(crate) async fn run(mut self, inboxes: HubInboxes, shutdown: CancellationToken) {
        let HubInboxes { messages: mut inbox, subscribers: mut joining, mut changes } = inboxes;
        let mut messages = Vec::with_capacity(TURN_MESSAGES);
        let mut changing = Vec::new();
        let mut subscribers = Vec::new();
        let retired = self.feeds.retired();
        let (mut handles_open, mut shards_open, mut shutting_down) = (true, true, false);
        loop {
            let event = tokio::select! {
                biased;
                count = joining.recv_many(&mut subscribers, TURN_MESSAGES), if handles_open => LoopEvent::Subscribers(count),
                count = changes.recv_many(&mut changing, TURN_MESSAGES), if shards_open => LoopEvent::Changes(count),
                () = shutdown.cancelled(), if !shutting_down => LoopEvent::Shutdown,
                count = inbox.recv_many(&mut messages, TURN_MESSAGES) => LoopEvent::Messages(count),
                () = retired.notify.notified() => LoopEvent::FeedRetired,
            };
            match event {
                LoopEvent::Messages(0) => break,
                LoopEvent::Subscribers(0) => handles_open = false,
                LoopEvent::Changes(0) => shards_open = false,
                LoopEvent::Subscribers(_) | LoopEvent::Changes(_) => {
                    // A rush of them must not keep the messages waiting.
                    while messages.len() < TURN_MESSAGES
                        && let Some(message) = inbox.try_recv()
                    {
                        messages.push(message);
                    }
                }
                LoopEvent::Shutdown => {
                    shutting_down = true;
                    // Messages that were sent are still received.
                    inbox.close();
                }
                LoopEvent::Messages(_) | LoopEvent::FeedRetired => {}
            }
            // A subscriber that came before one of these messages was sent receives it, so look for subscribers again
            // now that the messages are here.
            for _ in 0..joining.len() {
                subscribers.extend(joining.try_recv());
            }
            for subscriber in subscribers.drain(..) {
                self.attach(subscriber).await;
            }
            for change in changing.drain(..) {
                self.change_feed(change).await;
            }
            for Envelope { message, acknowledgement } in messages.drain(..) {
                self.publish(message).await;
                self.acknowledgements.extend(acknowledgement);
            }
            self.send_turn().await;
            inbox.release();
            self.feeds.remove_retired();
            self.count_feeds();
        }
        let deadline = Instant::now() + self.config.close_timeout;
        for shard in &self.shards {
            // A shard that is gone has no streams to end.
            let _ = shard.send(Input::Shutdown(deadline)).await;
        }
    }

    /// Updates the totals with a message, and appends what readers get for it to their feeds.
    async fn publish(&mut self, message: Message) {
        let is_report = matches!(message.data, Data::Totals(_));
        let mut outgoing = std::mem::take(&mut self.outgoing);
        self.totals.update(message, |message, audience| outgoing.push((message, audience)));
        for (message, audience) in outgoing.drain(..) {
            if audience == Audience::Everyone {
                self.stats.broadcast.add(1);
                if is_report {
                    self.stats.corrections.add(1);
                    tracing::info!(namespace = %message.namespace, "totals differ from what was sent; sending the difference");
                }
            }
            self.append(&message, audience).await;
        }
        self.outgoing = outgoing;
    }

    /// Appends a message to its feeds. One message may fill many turns, because each feed has a copy of its own.
    async fn append(&mut self, message: &Message, audience: Audience) {
        let mut found = std::mem::take(&mut self.found);
        self.feeds.find(message, audience, &mut found);
        for id in found.drain(..) {
            self.turn_bytes += self.feeds.append(id, message);
            if self.turn_bytes >= TURN_BYTES {
                self.send_turn().await;
            }
        }
        self.found = found;
    }

    /// Hands the batches to every shard, and waits for shards that are behind: their inboxes are short, so that under
    /// load the messages gather here and the next batch is larger.
    async fn send_turn(&mut self) {
        let batches = self.feeds.take_batches();
        self.turn_bytes = 0;
        if !batches.is_empty() {
            for shard in &self.shards {
                // A shard ends only with the hub; otherwise its readers are gone and need nothing.
                let _ = shard.send(Input::Turn(Arc::clone(&batches))).await;
            }
        }
        for feed in self.feeds.take_closing() {
            for shard in &self.shards {
                // As above.
                let _ = shard.send(Input::CloseFeed(feed, CloseReason::TotalsUnavailable)).await;
            }
        }
        self.acknowledgements.drain(..).for_each(Acknowledgement::acknowledge);
    }

    /// Finds or adds the subscriber's feed, and hands the subscriber to the next shard.
    async fn attach(&mut self, subscriber: Subscriber) {
        let mut snapshot = None;
        let namespace = subscriber.info.topics.as_namespace().filter(|_| subscriber.snapshot);
        if subscriber.snapshot {
            // Everything in the totals was sent in turns before; everything else comes after.
            snapshot = namespace.and_then(|namespace| self.totals.snapshot(namespace, &subscriber.framing));
            if snapshot.is_none() {
                self.stats.without_totals.add(1);
                return;
            }
        }
        let handle = self.feeds.join(&subscriber.info.topics, &subscriber.framing, namespace, &self.config.policies);
        self.count_feeds();
        self.next_shard = (self.next_shard + 1) % self.shards.len();
        // As above.
        let _ = self.shards[self.next_shard].send(Input::Attach(Box::new((handle, subscriber, snapshot)))).await;
    }

    /// Finds or adds the feed that a reader changes to, and answers its shard. The answer's place in the shard's inbox
    /// separates the messages of the old feed from those of the new one.
    async fn change_feed(&mut self, change: FeedChange) {
        let handle = self.feeds.join(&change.topics, &change.framing, change.totals.as_ref(), &self.config.policies);
        // As above.
        let _ = self.shards[change.shard].send(Input::ChangeFeed(Box::new((handle, change)))).await;
    }

    fn count_feeds(&self) {
        self.stats.feeds.set(self.feeds.len() as u64);
    }
}
