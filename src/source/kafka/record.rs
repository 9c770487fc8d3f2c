//! A record -> a [`RawEvent`]: its headers are what the fields are of an entry of a Redis stream.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers, Timestamp};
use tallycast_fanout::{EntryId, Position};

use crate::decode::channel_of_sender;
use crate::source::{Entry, RawEvent};
use crate::trace::EventTrace;

/// The event of a record of a stream: the entry `id` of the sequence of its partition. `stream` is the sequence of the whole stream,
/// by which routes are found. What a `*` stands for is the header `topic`, or without one the key.
///
/// `None` for a record without a value: in a compacted topic it says that its key is gone.
pub(super) fn of_stream(
    record: &BorrowedMessage<'_>,
    stream: &Arc<str>,
    partition: &Arc<str>,
    id: EntryId,
    is_backlog: bool,
) -> Option<RawEvent> {
    let payload = record.payload()?;
    let mut entry = Entry { is_backlog, ..Entry::new(Position { sequence: Arc::clone(partition), entry: id }) };
    entry.published_at = published_at(record.timestamp());
    let mut trace = None;
    let headers = record.headers();
    for header in headers.iter().flat_map(|headers| headers.iter()) {
        let value = header.value.unwrap_or_default();
        let set = |field: &mut Option<Vec<u8>>| {
            field.get_or_insert_with(|| value.to_vec());
        };
        match header.key {
            "event" => set(&mut entry.event),
            "topic" => entry.topics.push(value.to_vec()),
            "id" => set(&mut entry.id),
            "retry" => set(&mut entry.retry),
            "sender" => set(&mut entry.sender),
            "private" => entry.is_private = true,
            "traceparent" => trace = EventTrace::continuing(header.value),
            _ => {}
        }
    }
    if entry.topics.is_empty() {
        entry.topics.extend(record.key().map(<[u8]>::to_vec));
    }
    let mut event = RawEvent { trace, ..RawEvent::from_partition(stream, payload, entry) };
    if is_backlog {
        // As old as it is.
        event.received_at = published_at(record.timestamp()).and_then(received_then).unwrap_or(event.received_at);
    }
    Some(event)
}

/// The event of a record of a channel. Of its headers only the sender counts.
pub(super) fn of_channel(record: &BorrowedMessage<'_>) -> Option<RawEvent> {
    let payload = record.payload()?;
    let headers = record.headers();
    let mut headers = headers.iter().flat_map(|headers| headers.iter());
    let sender = headers.find(|header| header.key == "sender").and_then(|header| header.value);
    let sender = sender.map(String::from_utf8_lossy);
    Some(RawEvent::new(channel_of_sender(record.topic(), sender.as_deref()), payload))
}

/// When a record was published, by its own time, which may be that of its publisher or of its broker.
fn published_at(timestamp: Timestamp) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(timestamp.to_millis()?).ok()?))
}

/// A time of day on the clock of this process.
fn received_then(at: SystemTime) -> Option<Instant> {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.saturating_sub(at.duration_since(UNIX_EPOCH).ok()?);
    Instant::now().checked_sub(age)
}
