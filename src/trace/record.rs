//! What is known of a traced event, and the stages that follow from it.

use std::time::{Duration, Instant, SystemTime};

use tallycast_fanout::{Namespace, Passage};
use uuid::Uuid;

use super::{Stage, TraceParent, time_of};
use crate::source::RawEvent;

/// The longest time at a broker: an id of a Redis stream need not be a time.
const MAX_BROKER_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Deliveries of an event: as a message, and in a tally.
const MAX_DELIVERIES: usize = 2;

/// A traced event.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) trace_id: u128,
    pub(super) parent: Option<TraceParent>,
    /// The address of its source, without secrets.
    pub(super) source: String,
    /// The size of its payload.
    pub(super) bytes: usize,
    /// Its id at the broker.
    pub(super) event_id: Option<String>,
    /// By the clock of the broker.
    pub(super) published_at: Option<SystemTime>,
    pub(super) received_at: Instant,
    /// The same moment on both clocks.
    clock: (Instant, SystemTime),
    pub(super) decode_began_at: Option<Instant>,
    pub(super) decoded_at: Option<Instant>,
    /// The namespace of its message, or why it has none.
    pub(super) outcome: Option<Result<Namespace, String>>,
    pub(super) deliveries: Vec<Delivery>,
}

/// A message on its way through the engine.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) namespace: Namespace,
    /// When the tally was flushed, if the message is one.
    pub(super) flushed_at: Option<Instant>,
    pub(super) passage: Passage,
}

/// The time in a stage.
#[derive(Debug)]
pub(super) struct Span<'a> {
    pub(super) stage: Stage,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    /// The namespace of the message that was in it, from tally on.
    pub(super) namespace: Option<&'a Namespace>,
    pub(super) shard: Option<usize>,
    pub(super) written: Option<Written>,
}

/// What a shard wrote.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) readers: usize,
    pub(super) blocked: usize,
    pub(super) bytes: u64,
}

impl Span<'_> {
    pub(super) fn seconds(&self) -> f64 {
        self.end.duration_since(self.start).unwrap_or_default().as_secs_f64()
    }
}

impl Record {
    pub(super) fn new(event: &RawEvent, source: &str, parent: Option<TraceParent>) -> Self {
        let entry = event.entry.as_ref();
        let clock = (Instant::now(), SystemTime::now());
        let is_plausible = |at: &SystemTime| clock.1.duration_since(*at).is_ok_and(|age| age < MAX_BROKER_TIME);
        Self {
            trace_id: parent.map_or_else(|| Uuid::new_v4().as_u128(), |parent| parent.trace_id),
            parent,
            source: source.to_owned(),
            bytes: event.payload.len(),
            event_id: entry.map(|entry| entry.position.entry.to_string()),
            published_at: entry.and_then(|entry| entry.published_at).filter(is_plausible),
            received_at: event.received_at,
            clock,
            decode_began_at: None,
            decoded_at: None,
            outcome: None,
            deliveries: Vec::with_capacity(MAX_DELIVERIES),
        }
    }

    /// The record, if decode has taken the event.
    pub(super) fn take_decoded(&mut self) -> Option<Self> {
        let outcome = Some(self.outcome.take()?);
        let (source, event_id) = (std::mem::take(&mut self.source), self.event_id.take());
        Some(Self { source, event_id, outcome, deliveries: std::mem::take(&mut self.deliveries), ..*self })
    }

    /// All stages, each delivery from its start to its end.
    pub(super) fn spans(&self) -> Vec<Span<'_>> {
        let mut spans = Vec::new();
        let time = |at| time_of(self.clock, at);
        let span = |stage, start: Instant, end: Instant| Span {
            stage,
            start: time(start),
            end: time(end),
            namespace: None,
            shard: None,
            written: None,
        };
        if let Some(start) = self.published_at {
            // Clocks of several machines differ: never negative.
            let end = time(self.received_at);
            spans.push(Span { start: start.min(end), ..span(Stage::Broker, self.received_at, self.received_at) });
        }
        let (Some(began_at), Some(decoded_at)) = (self.decode_began_at, self.decoded_at) else { return spans };
        spans.push(span(Stage::DecodeWait, self.received_at, began_at));
        spans.push(span(Stage::Decode, began_at, decoded_at));
        for Delivery { namespace, flushed_at, passage } in &self.deliveries {
            let namespace = Some(namespace);
            let of = |stage, start, end| Span { namespace, ..span(stage, start, end) };
            spans.extend(flushed_at.map(|at| of(Stage::Tally, decoded_at, at)));
            let Some(taken_at) = passage.hub_taken_at else { continue };
            spans.push(of(Stage::HubWait, flushed_at.unwrap_or(decoded_at), taken_at));
            let Some(sent_at) = passage.hub_sent_at else { continue };
            spans.push(of(Stage::Hub, taken_at, sent_at));
            for shard in &passage.shards {
                let of = |stage, start, end| Span { shard: Some(shard.shard), ..of(stage, start, end) };
                spans.push(of(Stage::ShardWait, sent_at, shard.taken_at));
                let Some((first, last)) = shard.first_write_at.zip(shard.last_write_at) else { continue };
                spans.push(of(Stage::Frame, shard.taken_at, first));
                let written = Written { readers: shard.readers, blocked: shard.blocked, bytes: shard.bytes };
                spans.push(Span { written: Some(written), ..of(Stage::Write, first, last) });
            }
        }
        spans
    }

    /// When it came in.
    pub(super) fn received(&self) -> SystemTime {
        time_of(self.clock, self.received_at)
    }
}

#[cfg(test)]
mod tests {
    use tallycast_fanout::EntryId;

    use super::*;
    use crate::source::Entry;

    #[test]
    fn stages_follow_each_other_and_none_is_negative() {
        let mut entry = Entry::new(tallycast_fanout::Position { sequence: "a".into(), entry: EntryId::new(7, 1) });
        let now = SystemTime::now();
        let published_at = |published_at| {
            let event = RawEvent::from_entry("text", Entry { published_at: Some(published_at), ..entry.clone() });
            Record::new(&event, "redis://a", None).published_at
        };
        // Neither a clock that is ahead, nor an id that is no time.
        assert_eq!(published_at(now + Duration::from_secs(60)), None);
        assert_eq!(published_at(SystemTime::UNIX_EPOCH + Duration::from_millis(7)), None);
        entry.published_at = Some(now - Duration::from_secs(5));
        let mut event = RawEvent::from_entry("text", entry);
        // The clock of the broker is ahead by less.
        event.received_at -= Duration::from_secs(6);
        let mut record = Record::new(&event, "redis://a", None);
        assert!(record.take_decoded().is_none());
        let at = |millis| event.received_at + Duration::from_millis(millis);
        (record.decode_began_at, record.decoded_at) = (Some(at(1)), Some(at(3)));
        let namespace: Namespace = "/raw".parse().unwrap();
        record.outcome = Some(Ok(namespace.clone()));
        let mut passage = Passage::default();
        (passage.hub_taken_at, passage.hub_sent_at) = (Some(at(20)), Some(at(21)));
        record.deliveries.push(Delivery { namespace: namespace.clone(), flushed_at: Some(at(17)), passage });
        record.deliveries.push(Delivery { namespace, flushed_at: None, passage: Passage::default() });
        let record = record.take_decoded().unwrap();
        let spans = record.spans();
        let stages: Vec<_> = spans.iter().map(|span| (span.stage.name(), (span.seconds() * 1000.0).round())).collect();
        let expected =
            [("broker", 0.0), ("decode_wait", 1.0), ("decode", 2.0), ("tally", 14.0), ("hub_wait", 3.0), ("hub", 1.0)];
        assert_eq!(stages, expected);
        assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start), "{spans:?}");
        assert_eq!((record.event_id.as_deref(), record.bytes), (Some("7-1"), 4));
    }
}
