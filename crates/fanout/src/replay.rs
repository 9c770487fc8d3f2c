//! Replays: what a reader gets from the history before it reads on in its feed's log, in pieces that are made when its sink has
//! room for them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Budget;
use crate::catch_up::{Chunk, ChunkKind};
use crate::framing::Framing;
use crate::history::{Beginning, Filter, Query, SharedHistory, Span};
use crate::interest::Interest;
use crate::{Message, ResetReason};

/// The memory of the messages in a piece, if there are several.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that are kept for other readers at the same place. Readers that come back together want the same ones.
const CACHED_PIECES: usize = 64;

/// The part of the history that a reader has still to get.
#[derive(Debug)]
pub(crate) struct Replay {
    /// When it started; its topics may change.
    interest: Interest,
    /// What it read already.
    excluded: Option<Interest>,
    /// Made from them when it is first needed.
    filter: Option<Box<Filter>>,
    span: Span,
    /// Whether it waits in its shard for its next piece.
    pub(crate) is_queued: bool,
}

/// What pieces are made from.
pub(crate) struct ReplaySource<'a> {
    pub(crate) history: &'a SharedHistory,
    /// The id that the shard has come to, which may be behind the history's.
    pub(crate) position: Option<&'a str>,
    pub(crate) cache: &'a mut PieceCache,
    pub(crate) framing: &'a dyn Framing,
    /// The slot of the framing.
    pub(crate) slot: usize,
    pub(crate) budget: &'a Arc<Budget>,
}

/// Pieces that were made lately.
#[derive(Debug, Default)]
pub(crate) struct PieceCache(VecDeque<Piece>);

#[derive(Debug)]
struct Piece {
    interest: Interest,
    slot: usize,
    span: Span,
    /// The number to go on with.
    next: u64,
    bytes: Bytes,
    messages: u64,
}

impl Replay {
    pub(crate) fn new(interest: Interest, excluded: Option<Interest>, span: Span) -> Self {
        Self { interest, excluded, filter: None, span, is_queued: false }
    }

    /// Everything from number `next` up to `end`.
    pub(crate) fn between(interest: Interest, next: u64, end: u64) -> Self {
        Self::new(interest, None, Span { starts: Box::default(), next, end, last_values: false })
    }

    /// Goes on up to `end`.
    pub(crate) fn extend(&mut self, end: u64) {
        self.span.end = end;
    }

    /// Whether the reader has got everything.
    pub(crate) fn is_done(&self) -> bool {
        self.span.next >= self.span.end
    }

    /// The next piece, if it is not empty, and whether the reader has to be sent a reset first, which is in the piece.
    pub(crate) fn next_piece(&mut self, source: ReplaySource<'_>) -> (Option<Chunk>, bool) {
        let ReplaySource { history, position, cache, framing, slot, budget } = source;
        if let Some(piece) = cache.find(self, slot) {
            self.span.next = piece.next;
            return (chunk(piece.bytes.clone(), piece.messages), false);
        }
        let filter = self.filter.get_or_insert_with(|| Filter::new(&self.interest, self.excluded.as_ref()).into());
        let mut batch = Vec::new();
        let history = history.read();
        let query = Query {
            filter,
            starts: &self.span.starts,
            next: self.span.next,
            end: self.span.end,
            last_values: self.span.last_values,
        };
        if history.has_lost(&query) {
            let end = self.span.end;
            let Beginning { reset, replay, .. } = history.reset(&self.interest.topics, ResetReason::Lagged);
            drop(history);
            // Not more than its shard has come to.
            let none = Span { starts: Box::default(), next: end, end, last_values: false };
            self.span = replay.map_or(none, |span| Span { end, ..span });
            if let Some(mut reset) = reset {
                reset.move_back(position);
                framing.message(&Message::reset(reset), &mut batch);
            }
            return (chunk(finished(framing, batch, budget), 0), true);
        }
        let selected = history.select(&query, PIECE_BYTES);
        drop(history);
        let span = self.span.clone();
        self.span.next = selected.next;
        selected.messages.iter().for_each(|message| framing.message(message, &mut batch));
        let (bytes, messages) = (finished(framing, batch, budget), selected.messages.len() as u64);
        if self.excluded.is_none() && !bytes.is_empty() {
            let interest = self.interest.clone();
            cache.add(Piece { interest, slot, span, next: selected.next, bytes: bytes.clone(), messages });
        }
        (chunk(bytes, messages), false)
    }
}

/// Whether two spans with the same next number go on alike in every store.
fn is_same_place(one: &Span, other: &Span) -> bool {
    let number = |span: &Span, store: u32| {
        span.starts.iter().find(|start| start.store == store).map_or(0, |start| start.number).max(span.next)
    };
    one.starts.iter().chain(&other.starts).all(|start| number(one, start.store) == number(other, start.store))
}

/// A batch ready for the wire, charged to `budget`; empty if the batch is.
pub(crate) fn finished(framing: &dyn Framing, batch: Vec<u8>, budget: &Arc<Budget>) -> Bytes {
    if batch.is_empty() { Bytes::new() } else { budget.charge_bytes(framing.finish(batch)) }
}

fn chunk(bytes: Bytes, messages: u64) -> Option<Chunk> {
    (!bytes.is_empty()).then_some(Chunk { bytes, messages, kind: ChunkKind::Messages })
}

impl PieceCache {
    /// The piece that a replay needs next.
    fn find(&self, replay: &Replay, slot: usize) -> Option<&Piece> {
        let wanted = &replay.span;
        self.0.iter().find(|piece| {
            piece.slot == slot
                && (piece.span.next, piece.span.last_values) == (wanted.next, wanted.last_values)
                // A piece that ended early ends where all others do.
                && (piece.span.end == wanted.end || piece.next < piece.span.end && piece.next <= wanted.end)
                && is_same_place(&piece.span, wanted)
                && replay.excluded.is_none()
                && piece.interest == replay.interest
        })
    }

    fn add(&mut self, piece: Piece) {
        if self.0.len() == CACHED_PIECES {
            self.0.pop_front();
        }
        self.0.push_back(piece);
    }
}
