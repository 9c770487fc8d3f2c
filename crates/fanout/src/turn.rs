//! A turn of the hub: messages that all shards get together, each framed once by the first shard that needs it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::budget::Budget;
use crate::framing::{Framing, Interned};
use crate::totals::Audience;
use crate::{Message, Probe};

/// The memory of a message from which on only one shard frames it.
const SHORT_BYTES: usize = 16 * 1024;

/// Messages in their order.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) messages: Vec<Outgoing>,
    /// Those that are followed, by their place among the messages. Nearly always none.
    pub(crate) probes: Vec<(usize, Arc<Probe>)>,
    /// The number after the last message that is kept of this turn and those before it.
    pub(crate) history_end: u64,
    /// The id that readers have reached who have got all of this turn, if that is a new one.
    pub(crate) position: Option<Arc<str>>,
    /// Whether the sources have reported everything that there is, as far as the engine knows.
    pub(crate) is_current: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self { messages: Vec::new(), probes: Vec::new(), history_end: 0, position: None, is_current: true }
    }
}

/// A message on its way to its readers.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: Arc<Message>,
    pub(crate) audience: Audience,
    /// Its number in the history, if it is kept.
    pub(crate) number: Option<u64>,
    /// Its frames, by the slot of the framing.
    frames: Box<[Frame]>,
}

/// A message in one framing.
#[derive(Debug, Clone, Default)]
struct Frame {
    /// To be part of a batch.
    part: OnceLock<Bytes>,
    /// A batch of its own, ready for the wire.
    whole: OnceLock<Bytes>,
}

impl Outgoing {
    /// A message that can be framed in `slots` framings.
    pub(crate) fn new(message: Arc<Message>, audience: Audience, number: Option<u64>, slots: usize) -> Self {
        Self { message, audience, number, frames: vec![Frame::default(); slots].into() }
    }

    /// The message as a part of a batch that is still to be [finished](Framing::finish).
    pub(crate) fn part(&self, Interned { framing, slot }: &Interned) -> Bytes {
        let frame = || framed(&**framing, &self.message).into();
        self.frames.get(*slot).map_or_else(frame, |cached| self.once(&cached.part, frame))
    }

    /// The message as a batch of its own, ready for the wire and charged to `budget`.
    pub(crate) fn whole(&self, Interned { framing, slot }: &Interned, budget: &Arc<Budget>) -> Bytes {
        let cached = self.frames.get(*slot);
        let frame = || {
            let part = cached.and_then(|cached| cached.part.get());
            let part = part.map_or_else(|| framed(&**framing, &self.message), |part| part.to_vec());
            budget.charge_bytes(framing.finish(part))
        };
        cached.map_or_else(frame, |cached| self.once(&cached.whole, frame))
    }

    /// Frames the message, unless another shard has. When two shards come to it at the same moment, both frame a short message,
    /// because that takes less time than to wait; one of them frames a long one.
    fn once(&self, cached: &OnceLock<Bytes>, frame: impl FnOnce() -> Bytes) -> Bytes {
        if cached.get().is_none() && self.message.weight() < SHORT_BYTES {
            // The other shard may have been faster.
            let _ = cached.set(frame());
            return cached.get().cloned().unwrap_or_default();
        }
        cached.get_or_init(frame).clone()
    }
}

fn framed(framing: &dyn Framing, message: &Message) -> Vec<u8> {
    let mut frame = Vec::new();
    framing.message(message, &mut frame);
    frame
}
