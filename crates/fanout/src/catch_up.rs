//! What one reader gets before it reads on in its feed's log: the rest of what was begun, bytes in order, such as a snapshot or
//! the rest of another feed, then a part of the history, then a summary of what it missed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::merges::GroupId;
use crate::replay::Replay;

/// Bytes that a chunk is charged for beside its own.
const CHUNK_OVERHEAD: usize = 64;

/// What one reader is to be sent before it reads on in the log.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    /// The rest of bytes that were begun.
    pub(crate) begun: Bytes,
    chunks: VecDeque<Chunk>,
    /// The size of all chunks but snapshots.
    carried: usize,
    /// What it gets from the history after the chunks.
    pub(crate) replay: Option<Box<Replay>>,
    /// Messages that the log dropped before the reader had them.
    pub(crate) skipped: u64,
    /// The group with whose sum the reader goes on.
    pub(crate) merged: Option<GroupId>,
}

/// Bytes that are ready for the wire, mostly shared with other readers.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    /// How many messages they hold.
    pub(crate) messages: u64,
    pub(crate) kind: ChunkKind,
}

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkKind {
    /// The totals that the reader starts with.
    Snapshot,
    /// Messages that keep their place.
    Messages,
    /// Replies to the client. Until they are written, nothing more is read from it.
    Replies,
}

impl Chunk {
    fn carried(&self) -> usize {
        match self.kind {
            // As large as the totals are, and at most one for each reader.
            ChunkKind::Snapshot => 0,
            ChunkKind::Messages | ChunkKind::Replies => self.bytes.len() + CHUNK_OVERHEAD,
        }
    }
}

impl CatchUp {
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.carried += chunk.carried();
        self.chunks.push_back(chunk);
    }

    /// Appends the first bytes of a reader, if there are any, and the part of the history that follows them.
    pub(crate) fn put_beginning(&mut self, chunk: Chunk, replay: Option<Replay>) {
        if !chunk.bytes.is_empty() {
            self.push(chunk);
        }
        self.replay = replay.map(Box::new);
    }

    /// Takes the next bytes that are in order.
    pub(crate) fn next_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.carried -= chunk.carried();
        Some(chunk)
    }

    /// The bytes that are kept for this reader, although the log may have dropped them: not the snapshot.
    pub(crate) fn carried(&self) -> usize {
        self.carried
    }

    /// Whether replies to the client wait.
    pub(crate) fn has_replies(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.kind == ChunkKind::Replies)
    }

    /// Whether nothing is left after what was begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.replay.is_none() && self.skipped == 0 && self.merged.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &'static str, kind: ChunkKind) -> Chunk {
        Chunk { bytes: Bytes::from_static(text.as_bytes()), messages: 1, kind }
    }

    #[test]
    fn chunks_come_in_order_and_all_but_snapshots_are_charged() {
        let mut catch_up = CatchUp::default();
        catch_up.push(chunk("snapshot", ChunkKind::Snapshot));
        catch_up.push(chunk("abc", ChunkKind::Messages));
        catch_up.push(chunk("de", ChunkKind::Replies));
        assert_eq!(catch_up.carried(), 3 + 2 + 2 * CHUNK_OVERHEAD);
        let mut next = || {
            let chunk = catch_up.next_chunk()?;
            Some((chunk.bytes, catch_up.carried()))
        };
        assert_eq!(next(), Some(("snapshot".into(), 3 + 2 + 2 * CHUNK_OVERHEAD)));
        assert_eq!(next(), Some(("abc".into(), 2 + CHUNK_OVERHEAD)));
        assert_eq!(next(), Some(("de".into(), 0)));
        assert_eq!(next(), None);
    }

    #[test]
    fn replies_wait_until_they_are_taken() {
        let mut catch_up = CatchUp::default();
        catch_up.push(chunk("abc", ChunkKind::Messages));
        assert!(!catch_up.has_replies());
        catch_up.push(chunk("de", ChunkKind::Replies));
        catch_up.next_chunk();
        assert!(catch_up.has_replies());
        catch_up.next_chunk();
        assert!(!catch_up.has_replies());
    }

    #[test]
    fn nothing_is_left_without_chunks_skipped_messages_and_sums() {
        let mut catch_up = CatchUp::default();
        assert!(catch_up.is_empty());
        catch_up.skipped = 1;
        assert!(!catch_up.is_empty());
        (catch_up.skipped, catch_up.merged) = (0, Some(1));
        assert!(!catch_up.is_empty());
        catch_up.merged = None;
        catch_up.push(chunk("abc", ChunkKind::Messages));
        assert!(!catch_up.is_empty());
        catch_up.next_chunk();
        assert!(catch_up.is_empty());
    }
}
