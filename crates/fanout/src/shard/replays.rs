//! Replays: readers that get a part of the history first, a few pieces at a time, so that those that read live do not wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use super::feed::place;
use crate::budget::Budget;
use crate::catch_up::{Chunk, ChunkKind};
use crate::connection::FlushOutcome;
use crate::framing::Interned;
use crate::history::{Beginning, Span};
use crate::interest::Interest;
use crate::replay::{PieceCache, Replay, finished};
use crate::{Message, Resume, Subscription};

/// Pieces that are made before live messages get a turn.
const PIECES_PER_TURN: usize = 8;
/// The pause while as many bytes are on their way as may be.
const PAUSE: Duration = Duration::from_millis(5);

/// The readers that wait for their next piece: key and generation.
pub(super) type ReplayQueue = VecDeque<(usize, u64)>;

/// Waits until a piece may be made; for ever if no reader waits for one.
pub(super) async fn next_piece(queue: &ReplayQueue, budget: &Budget) {
    if queue.is_empty() {
        std::future::pending::<()>().await;
    } else if budget.is_exceeded() {
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shard {
    /// Has a reader wait for its next piece. It takes no live messages meanwhile.
    pub(super) fn enqueue_replay(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(feed) = self.feeds.get_mut(connection.feed) else { return };
        let now = Instant::now();
        connection.last_progress = now.into();
        if connection.blocked.is_none() {
            feed.add_blocked(place(key), connection, now);
        }
        let generation = connection.generation;
        if let Some(replay) = connection.replay().filter(|replay| !replay.is_queued) {
            replay.is_queued = true;
            self.replays.push_back((key, generation));
        }
    }

    /// Serves the readers that have waited for longest.
    pub(super) fn serve_replays(&mut self) {
        for _ in 0..PIECES_PER_TURN {
            if self.budgets.replayed.is_exceeded() {
                break;
            }
            let Some((key, generation)) = self.replays.pop_front() else { break };
            let Some(connection) = self.connection(key, generation) else { continue };
            let Some(replay) = connection.replay() else { continue };
            replay.is_queued = false;
            if self.write_with(key, true) == FlushOutcome::Current {
                self.retry_postponed();
                // Its client may have sent something that was not read until its replies were written.
                self.serve(key);
            }
        }
        if self.replays.is_empty() {
            self.replays = ReplayQueue::new();
            self.pieces = PieceCache::default();
        }
    }

    /// What a reader gets first, ready for the wire. `known` is what it read before.
    pub(super) fn first_bytes(
        &self,
        beginning: Beginning,
        framing: &Arc<Interned>,
        interest: Interest,
        known: Option<Interest>,
    ) -> (Chunk, Option<Replay>) {
        let Beginning { position, reset, replay } = beginning;
        let mut batch = Vec::new();
        match reset {
            Some(reset) => framing.framing.message(&Message::reset(reset), &mut batch),
            None if position.is_empty() => {}
            None => framing.framing.position(&position, &mut batch),
        }
        let bytes = finished(&*framing.framing, batch, &self.budgets.waiting);
        let chunk = Chunk { bytes, messages: 0, kind: ChunkKind::Messages };
        (chunk, replay.map(|span| Replay::new(interest, known, span)))
    }

    /// As [`first_bytes`](Self::first_bytes), for a reader that changes its topics, from where it starts on.
    pub(super) fn first_bytes_of_change(
        &self,
        resume: Resume,
        framing: &Arc<Interned>,
        interest: Interest,
        known: Interest,
    ) -> (Chunk, Option<Replay>) {
        let mut beginning = self.history.read().begin(&interest.topics, Some(resume));
        beginning.count(&self.stats);
        // The hub may be ahead.
        beginning.replay = beginning.replay.map(|span| Span { end: self.history_end, ..span });
        if let Some(reset) = &mut beginning.reset {
            reset.move_back(self.position.as_deref());
        }
        self.first_bytes(beginning, framing, interest, Some(known))
    }

    /// Changes the topics of a reader, as soon as it has got what it gets from the history, and its shard has come to the place
    /// where it wants to start. Returns `false` if it is closed or has to wait.
    pub(super) fn change_topics_when_ready(&mut self, key: usize, subscription: Subscription) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let is_ahead = subscription.resume.as_ref().is_some_and(|resume| resume.is_after(self.history_end));
        if !is_ahead && !connection.is_replaying() {
            return self.change_topics(key, subscription);
        }
        // Nothing is read from its client meanwhile, so there is at most one for each connection.
        connection.change_pending = true;
        let generation = connection.generation;
        self.postponed.push((key, generation, subscription));
        false
    }

    /// Changes the topics of readers that had to wait.
    pub(super) fn retry_postponed(&mut self) {
        for (key, generation, subscription) in std::mem::take(&mut self.postponed) {
            if self.connection(key, generation).is_some() && self.change_topics_when_ready(key, subscription) {
                self.serve(key);
            }
        }
    }
}
