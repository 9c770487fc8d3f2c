//! Bytes that one reader gets before it reads on in its feed's log: a snapshot, and a summary of what it missed.

use std::sync::Arc;

use bytes::Bytes;

use crate::framing::Framing;
use crate::log::{Log, MergedTallies};

/// What one reader is to be sent before it reads on in the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct CatchUp {
    /// The totals, ready for the wire and shared by all readers that came in the same turn.
    pub(crate) snapshot: Option<Bytes>,
    /// Messages that the log dropped before the reader had them.
    pub(crate) skipped: u64,
    /// Tallies that the log dropped before the reader had them.
    pub(crate) merged: Option<Arc<MergedTallies>>,
}

/// The next bytes of a catch-up.
#[derive(Debug, Default)]
pub(crate) struct CatchUpBytes {
    /// Ready for the wire.
    pub(crate) bytes: Bytes,
    /// How many messages `bytes` holds.
    pub(crate) messages: u64,
    /// Whether `bytes` includes everything up to the log's head.
    pub(crate) to_head: bool,
}

impl CatchUp {
    /// Adds `sum` to what the reader missed. Returns whether the result has at most `limit` keys.
    pub(crate) fn merge(&mut self, sum: &Arc<MergedTallies>, limit: usize) -> bool {
        let merged = match self.merged.take() {
            // Shared by all readers that fell behind at the same moment, until one of them falls behind again.
            None => Arc::clone(sum),
            Some(mut merged) => {
                Arc::make_mut(&mut merged).merge(sum);
                merged
            }
        };
        let within = merged.keys() <= limit;
        self.merged = Some(merged);
        within
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.skipped == 0 && self.merged.is_none()
    }

    /// Takes the next bytes: the snapshot, then one batch for what it missed. Merged
    /// tallies include what the reader at `position` could still read from the log.
    pub(crate) fn next(&mut self, log: &Log, position: u64, framing: &dyn Framing) -> CatchUpBytes {
        if let Some(bytes) = self.snapshot.take() {
            return CatchUpBytes { bytes, messages: 1, to_head: false };
        }
        let mut next = CatchUpBytes::default();
        let mut batch = Vec::new();
        let mut control = Vec::new();
        let mut skipped = std::mem::take(&mut self.skipped);
        let merged = self.merged.take().map(|merged| {
            let mut sum = Arc::unwrap_or_clone(merged);
            for entry in log.since(position) {
                match &entry.merged {
                    Some(merged) => sum.merge(merged),
                    None => control.extend_from_slice(&entry.bytes),
                }
            }
            next.to_head = true;
            skipped += sum.skipped;
            sum
        });
        if skipped > 0 {
            framing.skipped(skipped, &mut batch);
        }
        for message in merged.iter().flat_map(|sum| &sum.tallies) {
            framing.message(message, &mut batch);
            next.messages += 1;
        }
        if !batch.is_empty() {
            next.bytes = framing.finish(batch);
        }
        if !control.is_empty() {
            next.bytes = [&next.bytes[..], &control[..]].concat().into();
        }
        next
    }
}
