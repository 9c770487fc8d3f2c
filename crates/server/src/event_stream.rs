//! A message's bytes on the wire: the event stream format of the HTML standard, §9.2.5 and §9.2.6
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tallycast_fanout::{CloseReason, Data, Framing, Message};

use crate::Config;
use crate::coding::Coding;
use crate::envelope::{Heartbeat, Skipped, write_envelope, write_json};
use crate::wire::Wire;

const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// The part of a pause by which it varies in either direction: a half.
const RETRY_SPREAD: u64 = 2;

/// What an event has beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFormat {
    /// The event name, in the field `event`. The payload is the field `data`.
    #[default]
    Fields,
    /// Namespace and event name, in a JSON object with the payload, as JSON where it is JSON:
    /// `data:{"namespace":"/a","event":null,"data":...}`. There is no field `event`, so a browser's `onmessage` gets every event.
    Envelope,
}

/// How a stream says what is not a message: that it is alive, that messages were left out, and that its authorization has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notices {
    /// As comments, which a browser's EventSource hides.
    #[default]
    Comments,
    /// As events, whose names are `heartbeat`, `skipped` and `expired`.
    Events,
}

/// The framing of event streams, in a format, in a content coding, and with or without HTTP/1.1's chunked coding. Get it from
/// [`shared`](Self::shared): subscribers with the same framing share what is framed.
///
/// A message with an id has the field `id`. A reset is an event whose name is `reset`.
#[derive(Debug, PartialEq, Eq)]
pub struct EventStream {
    format: EventFormat,
    notices: Notices,
    wire: Wire,
    name: &'static str,
}

/// In the place of a message, in an envelope.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Notice<'a> {
    Reset(&'a RawValue),
    Heartbeat(Heartbeat),
    Expired(Expired<'a>),
}

/// The note that a stream ends because its authorization has expired, so that a client can get a new one.
#[derive(Serialize)]
struct Expired<'a> {
    reason: &'a str,
}

/// All framings.
static FRAMINGS: LazyLock<Vec<Arc<EventStream>>> = LazyLock::new(|| {
    let mut framings = Vec::new();
    for format in [EventFormat::Fields, EventFormat::Envelope] {
        for notices in [Notices::Comments, Notices::Events] {
            framings.extend(Wire::all().map(|wire| Arc::new(EventStream::new(format, notices, wire))));
        }
    }
    framings
});

impl EventStream {
    /// Only for the table of all framings: each has a name that is never freed.
    fn new(format: EventFormat, notices: Notices, wire: Wire) -> Self {
        let envelope = if format == EventFormat::Envelope { "+envelope" } else { "" };
        let notices_name = if notices == Notices::Events { "+notices" } else { "" };
        let name = format!("sse{envelope}{notices_name}{}", wire.suffix());
        Self { format, notices, wire, name: name.leak() }
    }

    /// The one framing of `format`, `notices` and `coding`. `chunked` is for HTTP/1.1, where the engine writes to the socket: each batch is
    /// a chunk. It is not for HTTP/1.0, and not for bodies that another layer frames.
    pub fn shared(format: EventFormat, notices: Notices, coding: Coding, chunked: bool) -> Arc<Self> {
        let wire = Wire { coding, chunked };
        let wanted = (format, notices, wire);
        let is_wanted = |framing: &&Arc<Self>| (framing.format, framing.notices, framing.wire) == wanted;
        FRAMINGS.iter().find(is_wanted).map_or_else(|| Arc::new(Self::new(format, notices, wire)), Arc::clone)
    }

    /// The first bytes after the response headers: a comment with `greeting`, so that clients see the response before the
    /// first event.
    pub fn opening(&self, greeting: &str) -> Bytes {
        let comment = format!(": {}\n\n", greeting.replace(['\r', '\n'], " "));
        self.wire.start(comment.into_bytes())
    }

    /// A field that has the client wait before it connects again: for about `pause`, a random time between half of it and one and
    /// a half times as long, so that clients that lose their streams together do not come back together.
    pub fn retry(&self, pause: Duration) -> Bytes {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2);
        let spread = pause / RETRY_SPREAD;
        // The keys of a hasher are random for each instance.
        let pause = pause - spread + RandomState::new().hash_one(0) % (2 * spread + 1);
        self.finish(format!("retry:{pause}\n\n").into_bytes())
    }

    /// Everything before the first event.
    pub(crate) fn preamble(&self, config: &Config) -> Bytes {
        let opening = self.opening(&config.greeting);
        match config.retry {
            Some(pause) => [opening, self.retry(pause)].concat().into(),
            None => opening,
        }
    }

    /// The event that a stream ends with whose authorization has expired.
    fn expired(&self, reason: &str) -> Vec<u8> {
        let mut batch = Vec::new();
        let expired = Expired { reason };
        match self.format {
            EventFormat::Fields => {
                batch.extend_from_slice(b"event:expired\n");
                write_object(|json| write_json(&expired, json), &mut batch);
            }
            EventFormat::Envelope => write_object(|json| write_json(&Notice::Expired(expired), json), &mut batch),
        }
        batch
    }
}

impl Framing for EventStream {
    fn name(&self) -> &'static str {
        self.name
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        if let Data::Reset(_) = message.data
            && self.format == EventFormat::Envelope
        {
            write_id(message.id(), batch);
            let reset = RawValue::from_string(message.payload().into_owned());
            // It is JSON.
            return reset.iter().for_each(|reset| write_object(|json| write_json(&Notice::Reset(reset), json), batch));
        }
        match self.format {
            EventFormat::Fields => {
                if let Some(event) = message.event.as_deref().filter(|event| !event.is_empty()) {
                    batch.extend_from_slice(b"event:");
                    write_value(&event.replace(['\r', '\n'], " "), batch);
                }
                write_id(message.id(), batch);
                write_data(&message.payload(), batch);
            }
            EventFormat::Envelope => {
                write_id(message.id(), batch);
                write_object(|json| write_envelope(message, json), batch);
            }
        }
    }

    fn skipped(&self, skipped: u64, batch: &mut Vec<u8>) {
        match (self.format, self.notices) {
            (EventFormat::Fields, Notices::Comments) => {
                batch.extend_from_slice(format!(": skipped {skipped}\n\n").as_bytes());
            }
            (EventFormat::Fields, Notices::Events) => {
                batch.extend_from_slice(b"event:skipped\n");
                write_object(|json| write_json(&Skipped { skipped }, json), batch);
            }
            (EventFormat::Envelope, _) => write_object(|json| write_json(&Skipped { skipped }, json), batch),
        }
    }

    fn position(&self, id: &str, batch: &mut Vec<u8>) {
        write_id(Some(id), batch);
        batch.push(b'\n');
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        self.wire.finish(batch)
    }

    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        let mut batch = Vec::new();
        if let Some(id) = position {
            self.position(id, &mut batch);
        }
        match (self.notices, self.format) {
            (Notices::Comments, _) => batch.extend_from_slice(KEEP_ALIVE),
            (Notices::Events, EventFormat::Fields) => {
                batch.extend_from_slice(b"event:heartbeat\n");
                write_object(|json| write_json(&Heartbeat::now(), json), &mut batch);
            }
            (Notices::Events, EventFormat::Envelope) => {
                write_object(|json| write_json(&Notice::Heartbeat(Heartbeat::now()), json), &mut batch);
            }
        }
        self.finish(batch)
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        let end = self.wire.end();
        match reason {
            CloseReason::Shutdown => Bytes::from_static(end),
            CloseReason::Draining { retry } => [&self.retry(*retry)[..], end].concat().into(),
            // A client that does not read would not receive it.
            CloseReason::SlowReader | CloseReason::PingTimeout => Bytes::new(),
            CloseReason::GrantExpired if self.notices == Notices::Events => {
                [&self.finish(self.expired(&reason.to_string()))[..], end].concat().into()
            }
            reason => {
                let comment = format!(": {}\n\n", reason.to_string().replace(['\r', '\n'], " "));
                [&self.finish(comment.into_bytes())[..], end].concat().into()
            }
        }
    }
}

/// An event whose data is the JSON that `write` appends.
fn write_object(write: impl FnOnce(&mut Vec<u8>), batch: &mut Vec<u8>) {
    let mut json = Vec::new();
    write(&mut json);
    // All that writes it writes UTF-8. Line breaks in it are spaces between tokens, so they may become others.
    write_data(&String::from_utf8_lossy(&json), batch);
}

/// The field `id`, if there is one. An id never has line breaks.
fn write_id(id: Option<&str>, batch: &mut Vec<u8>) {
    if let Some(id) = id {
        batch.extend_from_slice(b"id:");
        write_value(id, batch);
    }
}

/// The fields `data` of an event, and its end.
fn write_data(text: &str, batch: &mut Vec<u8>) {
    for line in data_lines(text) {
        batch.extend_from_slice(b"data:");
        write_value(line, batch);
    }
    batch.push(b'\n');
}

/// Ends the line of a field with its value. A parser removes one leading space, so a value that starts with one gets another.
fn write_value(value: &str, batch: &mut Vec<u8>) {
    if value.starts_with(' ') {
        batch.push(b' ');
    }
    batch.extend_from_slice(value.as_bytes());
    batch.push(b'\n');
}

/// The lines of a text, each of which is the value of a field `data`: ended by CR, LF or CRLF. A text that ends with a line end has an
/// empty last line.
pub fn data_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else {
            rest = None;
            return Some(text);
        };
        let (line, tail) = text.split_at(end);
        rest = Some(tail.strip_prefix("\r\n").unwrap_or(&tail[1..]));
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use proptest::prelude::*;

    use super::*;
    use tallycast_fanout::{Namespace, Tally};

    fn plain() -> Arc<EventStream> {
        EventStream::shared(EventFormat::Fields, Notices::Comments, Coding::Identity, false)
    }

    fn chunked() -> Arc<EventStream> {
        EventStream::shared(EventFormat::Fields, Notices::Comments, Coding::Identity, true)
    }

    fn envelope() -> Arc<EventStream> {
        EventStream::shared(EventFormat::Envelope, Notices::Comments, Coding::Identity, false)
    }

    #[test]
    fn framings_are_shared_and_have_unique_names() {
        let names: std::collections::HashSet<_> = FRAMINGS.iter().map(|framing| framing.name()).collect();
        assert_eq!(names.len(), FRAMINGS.len());
        for framing in FRAMINGS.iter() {
            let EventStream { format, notices, wire: Wire { coding, chunked }, .. } = **framing;
            assert!(Arc::ptr_eq(framing, &EventStream::shared(format, notices, coding, chunked)));
        }
    }

    fn framed(event: Option<&str>, text: &str) -> String {
        framed_by(&plain(), &Namespace::root(), event, text)
    }

    fn framed_by(framing: &EventStream, namespace: &Namespace, event: Option<&str>, text: &str) -> String {
        let mut message = Message::text(namespace.clone(), text);
        message.event = event.map(Arc::from);
        let mut batch = Vec::new();
        framing.message(&message, &mut batch);
        String::from_utf8(framing.finish(batch).to_vec()).unwrap()
    }

    #[test]
    fn events_have_exact_bytes() {
        assert_eq!(framed(None, "1F602"), "data:1F602\n\n");
        assert_eq!(framed(Some("stream.tweet_updates.26"), "{}"), "event:stream.tweet_updates.26\ndata:{}\n\n");
        assert_eq!(framed(None, ""), "data:\n\n");
        assert_eq!(framed(None, "a\rb\nc\r\nd\n\re"), "data:a\ndata:b\ndata:c\ndata:d\ndata:\ndata:e\n\n");
        assert_eq!(framed(None, "a\n"), "data:a\ndata:\n\n");
        assert_eq!(framed(None, " a"), "data:  a\n\n");
        assert_eq!(framed(Some("a\r\nb"), "c"), "event:a  b\ndata:c\n\n");
        assert_eq!(framed(Some(""), "c"), "data:c\n\n");
    }

    #[test]
    fn envelopes_have_exact_bytes() {
        let framed = |event, text| framed_by(&envelope(), &"/a/b".parse().unwrap(), event, text);
        assert_eq!(framed(None, "1F602"), "data:{\"namespace\":\"/a/b\",\"event\":null,\"data\":\"1F602\"}\n\n");
        let json = "data:{\"namespace\":\"/a/b\",\"event\":\"x\\ny\",\"data\":{\ndata:  \"a\": 1.50\ndata:}}\n\n";
        assert_eq!(framed(Some("x\ny"), "{\r\n \"a\": 1.50\r}"), json);
        let mut batch = Vec::new();
        envelope().skipped(7, &mut batch);
        assert_eq!(batch, b"data:{\"skipped\":7}\n\n");
        assert_eq!(envelope().keep_alive(None), plain().keep_alive(None));
    }

    #[test]
    fn chunks_have_exact_bytes() {
        assert_eq!(chunked().finish(b"data:1F602\n\n".to_vec()), "c\r\ndata:1F602\n\n\r\n");
        assert_eq!(chunked().keep_alive(None), "e\r\n: keep-alive\n\n\r\n");
        assert_eq!(chunked().opening("tallycast"), "d\r\n: tallycast\n\n\r\n");
        assert_eq!(chunked().closing(&CloseReason::Shutdown), "0\r\n\r\n");
        assert_eq!(plain().closing(&CloseReason::Shutdown), "");
        let expired = chunked().closing(&CloseReason::GrantExpired);
        assert_eq!(expired, "21\r\n: the authorization has expired\n\n\r\n0\r\n\r\n");
        assert_eq!(plain().closing(&CloseReason::Requested("a\nb".into())), ": a b\n\n");
        assert_eq!(plain().closing(&CloseReason::SlowReader), "");
        // The only pause of a millisecond is a millisecond.
        let draining = CloseReason::Draining { retry: Duration::from_millis(1) };
        assert_eq!(chunked().closing(&draining), "9\r\nretry:1\n\n\r\n0\r\n\r\n");
        assert_eq!(plain().closing(&draining), "retry:1\n\n");
    }

    #[test]
    fn expiry_is_an_event_where_notices_are() {
        let closing = |format, notices| {
            let framing = EventStream::shared(format, notices, Coding::Identity, true);
            String::from_utf8(framing.closing(&CloseReason::GrantExpired).to_vec()).unwrap()
        };
        let fields = "event:expired\ndata:{\"reason\":\"the authorization has expired\"}\n\n";
        assert_eq!(closing(EventFormat::Fields, Notices::Events), format!("3f\r\n{fields}\r\n0\r\n\r\n"));
        let envelope = "data:{\"expired\":{\"reason\":\"the authorization has expired\"}}\n\n";
        assert_eq!(closing(EventFormat::Envelope, Notices::Events), format!("3d\r\n{envelope}\r\n0\r\n\r\n"));
        let comment = "21\r\n: the authorization has expired\n\n\r\n0\r\n\r\n";
        for format in [EventFormat::Fields, EventFormat::Envelope] {
            assert_eq!(closing(format, Notices::Comments), comment);
        }
    }

    #[test]
    fn retry_varies_by_half() {
        let pause = |pause| {
            let bytes = plain().retry(pause);
            let text = std::str::from_utf8(&bytes).unwrap();
            text.strip_prefix("retry:").unwrap().strip_suffix("\n\n").unwrap().parse::<u64>().unwrap()
        };
        let pauses: std::collections::HashSet<u64> = (0..1000).map(|_| pause(Duration::from_secs(2))).collect();
        assert!(pauses.iter().all(|pause| (1000..=3000).contains(pause)), "{pauses:?}");
        assert!(
            pauses.len() > 500 && pauses.iter().any(|pause| *pause < 1500) && pauses.iter().any(|pause| *pause > 2500)
        );
        assert_eq!(pause(Duration::ZERO), 0);
        pause(Duration::MAX);
        let config = Config { retry: Some(Duration::from_millis(1)), ..Config::default() };
        assert_eq!(chunked().preamble(&config), "d\r\n: tallycast\n\n\r\n9\r\nretry:1\n\n\r\n");
        assert_eq!(chunked().preamble(&Config::default()), "d\r\n: tallycast\n\n\r\n");
    }

    #[test]
    fn tally_is_one_line_of_json() {
        let tally: Tally = [("1F602".to_owned(), 3)].into_iter().collect();
        let mut batch = Vec::new();
        plain().message(&Message::tally(Namespace::root(), tally), &mut batch);
        assert_eq!(batch, b"data:{\"1F602\":3}\n\n");
    }

    /// The event names and data that an independent parser reads in `bytes`.
    fn parse(bytes: Vec<u8>) -> Vec<(Option<String>, String)> {
        let body = http_body_util::StreamBody::new(stream::iter([Ok::<_, std::convert::Infallible>(
            hyper::body::Frame::data(Bytes::from(bytes)),
        )]));
        let events = sse_stream::SseStream::new(body).map(|event| event.unwrap());
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(events.filter(|event| std::future::ready(event.data.is_some())).collect::<Vec<_>>())
            .into_iter()
            .map(|event| (event.event, event.data.unwrap_or_default()))
            .collect()
    }

    proptest! {
        #[test]
        fn independent_parser_reads_the_same(
            event in proptest::option::of("[^\\x00]{1,12}"),
            text in "([a-z :\u{80}-\u{ffff}]|\r|\n|\r\n){0,40}",
        ) {
            let parsed = parse(framed(event.as_deref(), &text).into_bytes());
            // The standard joins the lines with LF, whatever ended them.
            let expected = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(parsed, vec![(event.map(|event| event.replace(['\r', '\n'], " ")), expected)]);
        }

        #[test]
        fn independent_parser_reads_the_same_envelope(
            namespace in "(/[^/\\x00-\\x1f\\x7f-\\x9f]{1,8}){1,3}",
            event in proptest::option::of("(.|\r|\n){0,12}"),
            payload in crate::envelope::tests::payloads(),
        ) {
            let namespace: Namespace = namespace.parse().unwrap();
            let framed = framed_by(&envelope(), &namespace, event.as_deref(), &payload);
            let parsed = parse(framed.into_bytes());
            prop_assert_eq!(parsed.len(), 1);
            // Without a name, so that EventSource calls `onmessage`.
            prop_assert_eq!(&parsed[0].0, &None);
            let read: serde_json::Value = serde_json::from_str(&parsed[0].1).unwrap();
            let data = crate::envelope::tests::expected_data(&payload);
            let expected = serde_json::json!({"namespace": namespace.as_str(), "event": event, "data": data});
            prop_assert_eq!(read, expected);
        }
    }
}
