//! The replies of `XREAD`, `XREVRANGE` and `XINFO STREAM`, in RESP2 and RESP3.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use redis::Value;
use tallycast_fanout::{EntryId, Position};

use super::progress::StreamInfo;
use crate::source::{Entry, RawEvent};
use crate::trace::EventTrace;

/// A reply has another form than Redis documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply to {0} has an unknown form")]
pub(super) struct UnknownReply(pub(super) &'static str);

/// An entry with its fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamEntry {
    pub(super) id: EntryId,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl StreamEntry {
    /// The memory of its texts, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The event of this entry of `sequence`. Its payload is the field `data`, or the only field, whatever its name.
    pub(super) fn into_event(mut self, sequence: Arc<str>, is_backlog: bool) -> RawEvent {
        let only = if self.fields.len() == 1 { self.fields.pop().map(|(_, value)| value) } else { None };
        let mut entry = Entry { is_backlog, ..Entry::new(Position { sequence, entry: self.id }) };
        entry.published_at = UNIX_EPOCH.checked_add(Duration::from_millis(self.id.major));
        let (mut data, mut trace) = (None, None);
        for (name, value) in self.fields {
            match &*name {
                b"data" => drop(data.get_or_insert(value)),
                b"event" => drop(entry.event.get_or_insert(value)),
                b"topic" => entry.topics.push(value),
                b"id" => drop(entry.id.get_or_insert(value)),
                b"retry" => drop(entry.retry.get_or_insert(value)),
                b"sender" => drop(entry.sender.get_or_insert(value)),
                b"private" => entry.is_private = true,
                b"traceparent" => trace = EventTrace::continuing(Some(&value)),
                _ => {}
            }
        }
        let payload = only.or(data);
        entry.has_payload = payload.is_some();
        RawEvent { trace, ..RawEvent::from_entry(payload.unwrap_or_default(), entry) }
    }
}

/// The entries of each key; keys without new ones are left out.
pub(super) fn read(reply: Value) -> Result<HashMap<Vec<u8>, Vec<StreamEntry>>, UnknownReply> {
    let streams = match reply {
        Value::Nil => return Ok(HashMap::new()),
        Value::Map(streams) => streams,
        Value::Array(streams) => streams.into_iter().map(pair).collect::<Option<_>>().ok_or(UnknownReply("XREAD"))?,
        _ => return Err(UnknownReply("XREAD")),
    };
    let stream = |(key, entries)| Some((bytes(key)?, self::entries(entries)?));
    streams.into_iter().map(stream).collect::<Option<_>>().ok_or(UnknownReply("XREAD"))
}

/// The entries of a range, in the order of the reply.
pub(super) fn range(reply: Value) -> Result<Vec<StreamEntry>, UnknownReply> {
    entries(reply).ok_or(UnknownReply("XREVRANGE"))
}

/// What is known of a stream.
pub(super) fn info(reply: Value) -> Result<StreamInfo, UnknownReply> {
    let fields = pairs(reply).ok_or(UnknownReply("XINFO"))?;
    let (mut length, mut last_generated, mut added, mut first) = (None, None, None, None);
    for (name, value) in fields {
        match bytes(name).as_deref() {
            Some(b"length") => length = number(&value),
            Some(b"last-generated-id") => last_generated = id(value),
            Some(b"entries-added") => added = number(&value),
            Some(b"first-entry") => first = entry(value).map(|entry| entry.id),
            _ => {}
        }
    }
    let (length, last_generated) = length.zip(last_generated).ok_or(UnknownReply("XINFO"))?;
    Ok(StreamInfo { length, last_generated, added, first })
}

fn entries(value: Value) -> Option<Vec<StreamEntry>> {
    let Value::Array(entries) = value else { return None };
    entries.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<StreamEntry> {
    let (id, fields) = pair(value)?;
    let fields = pairs(fields)?.into_iter().map(|(name, value)| Some((bytes(name)?, bytes(value)?)));
    Some(StreamEntry { id: self::id(id)?, fields: fields.collect::<Option<_>>()? })
}

fn pair(value: Value) -> Option<(Value, Value)> {
    let Value::Array(items) = value else { return None };
    <[Value; 2]>::try_from(items).ok().map(|[first, second]| (first, second))
}

/// The fields of a map, which RESP2 has as a list of names and values in turn.
fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    match value {
        Value::Map(pairs) => Some(pairs),
        Value::Array(items) if items.len() % 2 == 0 => {
            let mut items = items.into_iter();
            Some(std::iter::from_fn(|| items.next().zip(items.next())).collect())
        }
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn id(value: Value) -> Option<EntryId> {
    String::from_utf8(bytes(value)?).ok()?.parse().ok()
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn entry(id: &str, fields: &[&str]) -> Value {
        Value::Array(vec![text(id), Value::Array(fields.iter().map(|field| text(field)).collect())])
    }

    fn event(fields: &[&str]) -> RawEvent {
        range(Value::Array(vec![entry("1-2", fields)])).unwrap().remove(0).into_event("k".into(), false)
    }

    #[test]
    fn fields_of_an_entry_become_the_parts_of_an_event() {
        let parts = |fields: &[&str]| {
            let event = event(fields);
            let entry = event.entry.unwrap();
            assert_eq!((&*event.channel, entry.position.entry), ("k", EntryId::new(1, 2)));
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            let topics: Vec<String> = entry.topics.into_iter().map(text).collect();
            (entry.has_payload.then(|| text(event.payload)), entry.event.map(text), topics.join(" "))
        };
        let some = |text: &str| Some(text.to_owned());
        let all = parts(&["topic", "t", "data", "d", "other", "o", "event", "e"]);
        assert_eq!(all, (some("d"), some("e"), "t".to_owned()));
        assert_eq!(parts(&["payload", "p"]), (some("p"), None, String::new()));
        assert_eq!(parts(&["a", "1", "b", "2"]), (None, None, String::new()));
        assert_eq!(parts(&["topic", "t"]), (some("t"), None, String::new()));
        assert_eq!(parts(&["topic", "t", "payload", "p"]), (None, None, "t".to_owned()));
        assert_eq!(parts(&["topic", "t", "data", "d", "topic", "u", "data", "x"]), (some("d"), None, "t u".to_owned()));
        let update = ["data", "d", "id", "urn:a", "retry", "500", "private", "on", "sender", "ann", "sender", "bob"];
        let update = event(&update).entry.unwrap();
        assert_eq!((update.id, update.retry, update.is_private), (Some(b"urn:a".into()), Some(b"500".into()), true));
        assert_eq!(update.sender.as_deref(), Some(&b"ann"[..]));
    }

    #[test]
    fn both_protocols_are_read_alike() {
        let entries = || Value::Array(vec![entry("1-0", &["a", "b"])]);
        let resp2 = read(Value::Array(vec![Value::Array(vec![text("k"), entries()])])).unwrap();
        assert_eq!((resp2.len(), resp2[&b"k"[..]][0].bytes()), (1, 2));
        assert_eq!(read(Value::Map(vec![(text("k"), entries())])).unwrap(), resp2);
        assert_eq!(read(Value::Nil), Ok(HashMap::new()));
        assert_eq!(read(Value::Okay), Err(UnknownReply("XREAD")));
        let fields = || {
            let first = entry("3-0", &["a", "b"]);
            [("length", Value::Int(2)), ("last-generated-id", text("4-0")), ("first-entry", first), ("new", Value::Nil)]
        };
        let resp2 = fields().into_iter().flat_map(|(name, value)| [text(name), value]).collect();
        let resp3 = fields().into_iter().map(|(name, value)| (text(name), value)).collect();
        let (last_generated, first) = (EntryId::new(4, 0), Some(EntryId::new(3, 0)));
        let expected = StreamInfo { length: 2, last_generated, added: None, first };
        assert_eq!(info(Value::Array(resp2)), Ok(expected.clone()));
        assert_eq!(info(Value::Map(resp3)), Ok(expected));
        assert_eq!(info(Value::Array(vec![text("length"), Value::Int(1)])), Err(UnknownReply("XINFO")));
    }
}
