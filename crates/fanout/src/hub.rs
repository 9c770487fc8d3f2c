//! The hub: puts messages and new readers into one order, keeps the totals, and hands all shards the same turns.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::framing::{Framings, Interned};
use crate::history::{Beginning, SharedHistory};
use crate::inbox;
use crate::publisher::{Acknowledgement, Envelope};
use crate::recorder::Recorder;
use crate::shard::Input;
use crate::totals::{Audience, Totals};
use crate::turn::{Outgoing, Turn};
use crate::{CloseReason, Config, Data, Message, MessageTap, Namespace, SequenceEvent, Stats, Subscriber};

/// The most messages that one turn takes from the inbox.
const TURN_MESSAGES: usize = 1024;
/// The memory of messages after which a turn is sent although more wait.
const TURN_BYTES: usize = 1024 * 1024;
/// How often the history is looked through for messages that are too old.
const TICK: Duration = Duration::from_secs(1);

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
    /// What it gets before that, if some of its messages are kept.
    pub(crate) beginning: Option<Beginning>,
}

/// Why the hub's loop woke.
enum LoopEvent {
    Messages(usize),
    Subscribers(usize),
    Tick,
    Shutdown,
}

pub(crate) struct Hub {
    config: Arc<Config>,
    stats: Arc<Stats>,
    shards: Vec<mpsc::Sender<Input>>,
    next_shard: usize,
    /// New readers for each shard, until [`send_attaches`](Self::send_attaches).
    attaches: Vec<Vec<Attach>>,
    framings: Framings,
    totals: Totals,
    recorder: Recorder,
    turn: Turn,
    /// As the shards know it.
    history_end: u64,
    is_current: bool,
    /// The memory of the turn's messages.
    turn_bytes: usize,
    /// To be acknowledged when the current turn has been sent.
    acknowledgements: Vec<Acknowledgement>,
    tap: Option<Arc<dyn MessageTap>>,
}

impl Hub {
    pub(crate) fn new(
        config: Arc<Config>,
        stats: Arc<Stats>,
        shards: Vec<mpsc::Sender<Input>>,
        totals: Totals,
        history: Arc<SharedHistory>,
    ) -> Self {
        let mut recorder = Recorder::new(history, &config.retentions);
        recorder.set_undeclared(config.relays);
        Self {
            config,
            stats,
            attaches: shards.iter().map(|_| Vec::new()).collect(),
            shards,
            next_shard: 0,
            framings: Framings::default(),
            totals,
            recorder,
            turn: Turn::default(),
            history_end: 0,
            is_current: true,
            turn_bytes: 0,
            acknowledgements: Vec::new(),
            tap: None,
        }
    }

    pub(crate) fn with_tap(self, tap: Option<Arc<dyn MessageTap>>) -> Self {
        Self { tap, ..self }
    }

    /// Runs until every publisher has been dropped or `shutdown` is cancelled, and all messages have been sent; then ends
    /// the streams.
    pub(crate) async fn run(mut self, inboxes: HubInboxes, shutdown: CancellationToken) {
        let HubInboxes { messages: mut inbox, subscribers: mut joining } = inboxes;
        let mut messages = Vec::with_capacity(TURN_MESSAGES);
        let mut subscribers = Vec::new();
        let (mut handles_open, mut shutting_down) = (true, false);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                count = joining.recv_many(&mut subscribers, TURN_MESSAGES), if handles_open => LoopEvent::Subscribers(count),
                () = shutdown.cancelled(), if !shutting_down => LoopEvent::Shutdown,
                _ = tick.tick(), if self.recorder.keeps_messages() => LoopEvent::Tick,
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
                LoopEvent::Tick => self.recorder.trim(&self.stats),
                LoopEvent::Messages(_) => {}
            }
            // A subscriber that came before one of these messages was sent receives it, so look for subscribers again
            // now that the messages are here.
            for _ in 0..joining.len() {
                subscribers.extend(joining.try_recv());
            }
            for subscriber in subscribers.drain(..) {
                self.attach(subscriber);
            }
            self.send_attaches().await;
            for envelope in messages.drain(..) {
                match envelope {
                    Envelope::Message(message, acknowledgement) => {
                        self.publish(message);
                        self.acknowledgements.extend(acknowledgement);
                    }
                    Envelope::Sequence(event) => self.sequence_event(event).await,
                    Envelope::Retentions(retentions) => {
                        self.send_turn().await;
                        if self.recorder.declare(retentions) {
                            self.close_relays().await;
                        }
                    }
                    Envelope::Forget(retention, trimmed) => {
                        self.send_turn().await;
                        self.recorder.forget(&retention, trimmed);
                    }
                    Envelope::Path(path, declared) => {
                        self.send_turn().await;
                        self.recorder.set_undeclared(self.config.relays.saturating_sub(declared));
                        if self.recorder.set_path(path) {
                            self.close_relays().await;
                        }
                    }
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
    fn publish(&mut self, mut message: Message) {
        let Self { totals, framings, turn, turn_bytes, stats, recorder, .. } = self;
        if !recorder.assign_id(&mut message) {
            stats.repeated.add(1);
            return;
        }
        // Not kept with the message: it reports when the shards have written it.
        let probe = message.probe.take();
        let index = turn.messages.len();
        if let Some(probe) = &probe {
            probe.taken_by_hub();
        }
        let is_report = matches!(message.data, Data::Totals(_));
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
            let message = Arc::new(message);
            let number = recorder.record(&message);
            if !message.kept.as_ref().is_some_and(|kept| kept.is_backlog) {
                turn.messages.push(Outgoing::new(message, audience, number, slots));
            }
        });
        if let Some(probe) = probe
            && turn.messages.len() > index
        {
            turn.probes.push((index, probe));
        }
    }

    /// Follows what a source knows of a sequence. Readers of a sequence that has a gap get a reset at its place.
    async fn sequence_event(&mut self, event: SequenceEvent) {
        // What was sent before belongs to what is kept before.
        self.send_turn().await;
        for reset in self.recorder.sequence_event(event) {
            self.stats.resets.add(1);
            let slots = self.framings.slots();
            self.turn.messages.push(Outgoing::new(Arc::new(reset), Audience::Concerned, None, slots));
        }
    }

    /// Hands the turn to every shard, and waits for shards that are behind: their inboxes are short, so that under load the
    /// messages gather here and the next turn is larger.
    async fn send_turn(&mut self) {
        self.turn_bytes = 0;
        let mut turn = std::mem::take(&mut self.turn);
        // Before any shard can come to it.
        (turn.history_end, turn.position) = self.recorder.commit(&self.stats);
        turn.is_current = self.recorder.is_current();
        let is_changed = (turn.history_end, turn.is_current) != (self.history_end, self.is_current);
        if let Some(tap) = self.tap.as_deref().filter(|tap| tap.is_active()) {
            let for_everyone = turn.messages.iter().filter(|outgoing| outgoing.audience == Audience::Everyone);
            tap.messages(&mut for_everyone.map(|outgoing| &*outgoing.message));
        }
        if !turn.messages.is_empty() || is_changed || turn.position.is_some() {
            (self.history_end, self.is_current) = (turn.history_end, turn.is_current);
            if !turn.probes.is_empty() {
                let now = std::time::Instant::now();
                turn.probes.iter().for_each(|(_, probe)| probe.sent_by_hub(now));
            }
            let turn = Arc::new(turn);
            for shard in &self.shards {
                // A shard ends only with the hub; otherwise its readers are gone and need nothing.
                let _ = shard.send(Input::Turn(Arc::clone(&turn))).await;
            }
        }
        self.acknowledgements.drain(..).for_each(Acknowledgement::acknowledge);
    }

    /// Has relays connect again, because what they were told at their start is no longer true. They resume.
    async fn close_relays(&mut self) {
        for shard in &self.shards {
            // As above.
            let _ = shard
                .send(Input::CloseRelays(CloseReason::Requested("what this node relays has changed".into())))
                .await;
        }
    }

    /// What a relay gets first.
    fn relay_start(&mut self, Subscriber { info, framing, grant, .. }: &Subscriber) -> Vec<Bytes> {
        let topics = &info.topics;
        let mut totals = self.totals.of(topics);
        if let Some(grant) = grant {
            totals.retain(|namespace| grant.plain.contains(namespace));
        }
        let start = self.recorder.relay_start(topics, totals.clone());
        let mut batch = Vec::new();
        framing.relay_start(&start, &mut batch);
        let mut all = vec![framing.finish(batch)];
        all.extend(totals.iter().flat_map(|namespace| self.totals.relayed(namespace, framing)));
        all
    }

    /// Hands each shard its new readers at once: one by one they would wait for a shard that is busy, and keep the messages
    /// behind them waiting.
    async fn send_attaches(&mut self) {
        for (shard, attaches) in self.shards.iter().zip(&mut self.attaches) {
            if !attaches.is_empty() {
                // A shard ends only with the hub; otherwise its readers are gone and need nothing.
                let _ = shard.send(Input::Attach(std::mem::take(attaches))).await;
            }
        }
    }

    /// Has a subscriber join the next shard, with the totals that it starts with.
    fn attach(&mut self, mut subscriber: Subscriber) {
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
        if subscriber.framing.is_relay() {
            let mut start = self.relay_start(&subscriber);
            start.insert(0, std::mem::take(&mut subscriber.preamble));
            subscriber.preamble = self.totals.charge(start.concat().into());
        }
        let beginning = self.recorder.begin(&subscriber.info.topics, subscriber.resume.take(), &self.stats);
        if snapshot.is_none() && beginning.as_ref().is_some_and(|beginning| beginning.reset.is_some()) {
            totals = subscriber.info.topics.as_namespace();
            snapshot = totals.as_ref().and_then(|namespace| self.totals.snapshot(namespace, &subscriber.framing));
            totals = totals.filter(|_| snapshot.is_some());
        }
        let framing = self.framings.intern(&subscriber.framing);
        self.next_shard = (self.next_shard + 1) % self.shards.len();
        self.attaches[self.next_shard].push(Attach { subscriber, framing, totals, snapshot, beginning });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::tests::{info, lines, ns};
    use crate::{Sink, body};

    #[tokio::test]
    async fn shard_that_is_busy_gets_new_readers_and_what_follows_in_two_steps() {
        const READERS: usize = 100;
        let (sender, messages) = inbox::channel(1, 1024);
        let (joining, subscribers) = mpsc::channel(READERS);
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let (sender, reader) = body();
            joining.try_send(Subscriber::new(info("/a"), lines(), Sink::Body(sender))).unwrap();
            readers.push(reader);
        }
        let message = Message::text(ns("/a"), "x");
        sender.send(Envelope::Message(message, None)).await.unwrap();
        drop(sender);

        let config = Arc::new(Config::default());
        let (shard, mut inbox) = mpsc::channel(config.shard_inbox);
        let totals = Totals::new(&config, Budget::new(1024)).0;
        let hub = Hub::new(config, Arc::default(), vec![shard], totals, SharedHistory::new(1024));
        tokio::spawn(hub.run(HubInboxes { messages, subscribers }, CancellationToken::new()));
        assert!(matches!(inbox.recv().await, Some(Input::Attach(attaches)) if attaches.len() == READERS));
        assert!(matches!(inbox.recv().await, Some(Input::Turn(turn)) if turn.messages.len() == 1));
        assert!(matches!(inbox.recv().await, Some(Input::Shutdown(_))));
    }
}
