//! The hub: puts messages and new readers into one order, keeps the totals, and hands all shards the same turns.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::framing::{Framings, Interned};
use crate::inbox;
use crate::publisher::{Acknowledgement, Envelope};
use crate::shard::Input;
use crate::totals::{Audience, Totals};
use crate::turn::{Outgoing, Turn};
use crate::{Config, Data, Message, Namespace, Stats, Subscriber};

/// The most messages that one turn takes from the inbox.
const TURN_MESSAGES: usize = 1024;
/// The memory of messages after which a turn is sent although more wait.
const TURN_BYTES: usize = 1024 * 1024;

/// Everything that the hub receives.
pub(crate) struct HubInboxes {
    pub(crate) messages: inbox::Receiver<Envelope>,
    pub(crate) subscribers: mpsc::Receiver<Subscriber>,
}

/// A reader on its way to its shard.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) subscriber: Subscriber,
    pub(crate) framing: Arc<Interned>,
    /// The namespace with whose totals it starts.
    pub(crate) totals: Option<Namespace>,
    /// These totals, ready for the wire.
    pub(crate) snapshot: Option<Bytes>,
}

/// Why the hub's loop woke.
enum LoopEvent {
    Messages(usize),
    Subscribers(usize),
    Shutdown,
}

pub(crate) struct Hub {
    config: Arc<Config>,
    stats: Arc<Stats>,
    shards: Vec<mpsc::Sender<Input>>,
    next_shard: usize,
    framings: Framings,
    totals: Totals,
    turn: Turn,
    /// The memory of the turn's messages.
    turn_bytes: usize,
    /// To be acknowledged when the current turn has been sent.
    acknowledgements: Vec<Acknowledgement>,
}

impl Hub {
    pub(crate) fn new(
        config: Arc<Config>,
        stats: Arc<Stats>,
        shards: Vec<mpsc::Sender<Input>>,
        totals: Totals,
    ) -> Self {
        Self {
            config,
            stats,
            shards,
            next_shard: 0,
            framings: Framings::default(),
            totals,
            turn: Turn::default(),
            turn_bytes: 0,
            acknowledgements: Vec::new(),
        }
    }

    /// Runs until every publisher has been dropped or `shutdown` is cancelled, and all messages have been sent; then ends
    /// the streams.
    pub(crate) async fn run(mut self, inboxes: HubInboxes, shutdown: CancellationToken) {
        let HubInboxes { messages: mut inbox, subscribers: mut joining } = inboxes;
        let mut messages = Vec::with_capacity(TURN_MESSAGES);
        let mut subscribers = Vec::new();
        let (mut handles_open, mut shutting_down) = (true, false);
        loop {
            let event = tokio::select! {
                biased;
                count = joining.recv_many(&mut subscribers, TURN_MESSAGES), if handles_open => LoopEvent::Subscribers(count),
                () = shutdown.cancelled(), if !shutting_down => LoopEvent::Shutdown,
                count = inbox.recv_many(&mut messages, TURN_MESSAGES) => LoopEvent::Messages(count),
            };
            match event {
                LoopEvent::Messages(0) => break,
                LoopEvent::Subscribers(0) => handles_open = false,
                LoopEvent::Subscribers(_) => {
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
                LoopEvent::Messages(_) => {}
            }
            // A subscriber that came before one of these messages was sent receives it, so look for subscribers again
            // now that the messages are here.
            for _ in 0..joining.len() {
                subscribers.extend(joining.try_recv());
            }
            for subscriber in subscribers.drain(..) {
                self.attach(subscriber).await;
            }
            for envelope in messages.drain(..) {
                match envelope {
                    Envelope::Message(message, acknowledgement) => {
                        self.publish(message);
                        self.acknowledgements.extend(acknowledgement);
                    }
                    Envelope::Sequence(_) => {}
                }
                if self.turn_bytes >= TURN_BYTES {
                    self.send_turn().await;
                }
            }
            self.send_turn().await;
            inbox.release();
        }
        let deadline = Instant::now() + self.config.close_timeout;
        for shard in &self.shards {
            // A shard that is gone has no streams to end.
            let _ = shard.send(Input::Shutdown(deadline)).await;
        }
    }

    /// Updates the totals with a message, and appends what readers get for it to the turn.
    fn publish(&mut self, message: Message) {
        let is_report = matches!(message.data, Data::Totals(_));
        let Self { totals, framings, turn, turn_bytes, stats, .. } = self;
        let slots = framings.slots();
        totals.update(message, |message, audience| {
            if audience == Audience::Everyone {
                stats.broadcast.add(1);
                if is_report {
                    stats.corrections.add(1);
                    tracing::info!(namespace = %message.namespace, "totals differ from what was sent; sending the difference");
                }
            }
            *turn_bytes += message.weight();
            turn.messages.push(Outgoing::new(message, audience, slots));
        });
    }

    /// Hands the turn to every shard, and waits for shards that are behind: their inboxes are short, so that under load the
    /// messages gather here and the next turn is larger.
    async fn send_turn(&mut self) {
        self.turn_bytes = 0;
        let turn = std::mem::take(&mut self.turn);
        if !turn.messages.is_empty() {
            let turn = Arc::new(turn);
            for shard in &self.shards {
                // A shard ends only with the hub; otherwise its readers are gone and need nothing.
                let _ = shard.send(Input::Turn(Arc::clone(&turn))).await;
            }
        }
        self.acknowledgements.drain(..).for_each(Acknowledgement::acknowledge);
    }

    /// Hands a subscriber to the next shard, with the totals that it starts with.
    async fn attach(&mut self, subscriber: Subscriber) {
        let (mut totals, mut snapshot) = (None, None);
        if subscriber.snapshot {
            totals = subscriber.info.topics.as_namespace();
            // Everything in the totals was sent in turns before; everything else comes after.
            snapshot = totals.as_ref().and_then(|namespace| self.totals.snapshot(namespace, &subscriber.framing));
            if snapshot.is_none() {
                self.stats.without_totals.add(1);
                return;
            }
        }
        let framing = self.framings.intern(&subscriber.framing);
        self.next_shard = (self.next_shard + 1) % self.shards.len();
        let attach = Attach { subscriber, framing, totals, snapshot };
        // As above.
        let _ = self.shards[self.next_shard].send(Input::Attach(Box::new(attach))).await;
    }
}
