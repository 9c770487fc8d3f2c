//! What is counted of traces, and the stages that they measure.

use tallycast_fanout::{Counter, Histogram};

/// A stage of the way of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// At the broker, by its time and that of this machine.
    Broker,
    /// In the inbox of decode.
    DecodeWait,
    /// In decode.
    Decode,
    /// In the tally, until the flush.
    Tally,
    /// In the inbox of the hub.
    HubWait,
    /// In the hub: order, totals, history.
    Hub,
    /// In the inbox of a shard.
    ShardWait,
    /// In a shard, until it began to write to the first reader: matching, framing, and what it wrote before.
    Frame,
    /// From the first write to a reader of a shard to the last.
    Write,
}

/// All stages, in their order.
pub const STAGES: [Stage; 9] = [
    Stage::Broker,
    Stage::DecodeWait,
    Stage::Decode,
    Stage::Tally,
    Stage::HubWait,
    Stage::Hub,
    Stage::ShardWait,
    Stage::Frame,
    Stage::Write,
];

impl Stage {
    /// The name of its spans, and its label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::DecodeWait => "decode_wait",
            Self::Decode => "decode",
            Self::Tally => "tally",
            Self::HubWait => "hub_wait",
            Self::Hub => "hub",
            Self::ShardWait => "shard_wait",
            Self::Frame => "frame",
            Self::Write => "write",
        }
    }
}

/// What is counted of traces. Counters only grow.
#[derive(Debug, Default)]
pub struct TraceStats {
    /// Traces that began.
    pub sampled: Counter,
    /// Traces that the collector has taken.
    pub exported: Counter,
    /// Traces that were lost: a queue was full, or the collector did not take them.
    pub dropped: Counter,
    /// Seconds in each stage, in the order of [`STAGES`].
    stages: [Histogram; STAGES.len()],
}

impl TraceStats {
    /// Seconds that traced events have spent in a stage.
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }
}
