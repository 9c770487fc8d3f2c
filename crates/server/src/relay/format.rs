//! The objects of a relay's stream: written for messages, and read again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tallycast_fanout::{
    Data, EntryId, Message, Namespace, Partition, RelayStart, RelayedRetention, Reset, ResetReason, Retention,
    SequenceName, Tally, TotalsState, Update, numbered_sequence,
};

use crate::envelope::write_json;

/// The version of the format. A server that reads another one ends the stream.
const VERSION: u32 = 1;
/// The most servers that messages may pass. A longer path is refused, whatever it is.
pub const MAX_RELAY_PATH: usize = 16;
/// The most sequences, retentions and namespaces of a start that are read.
const MAX_LIST: usize = 1024;
/// The most topics of a message that are read.
const MAX_TOPICS: usize = 1000;
/// The longest name of a sender that is read, in bytes.
const MAX_SENDER_BYTES: usize = 256;
/// A message that waited for less is as new as when it was received.
const MIN_AGE: Duration = Duration::from_millis(10);

/// An event of a relay's stream, as it is read.
#[derive(Debug)]
#[non_exhaustive]
pub enum RelayEvent {
    /// What comes first.
    Start(RelayStart),
    /// A message, or the totals of a namespace and what is known of them.
    Message(RelayedMessage),
    /// Messages were lost at this place. The stream goes on after `id`.
    Reset {
        /// Why.
        reason: ResetReason,
        /// The id of the newest message; empty if there is none.
        id: String,
        /// The name of the retention whose messages were lost. Without one, the stream could not go on where it should.
        retention: Option<String>,
    },
    /// The id that a reader has come to that has got everything before; `None` if it has none, or if the server waits for its own sources.
    Position(Option<String>),
    /// Messages were left out.
    Skipped,
    /// The stream ends, for this reason.
    End(String),
}

/// See [`RelayEvent::Message`].
#[derive(Debug)]
pub struct RelayedMessage {
    /// The message, which is not kept yet.
    pub message: Message,
    /// The name of its retention and its id, if it is kept.
    pub kept: Option<(String, String)>,
}

/// The text is no event of a relay's stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// It is not JSON, or not an object with the expected members.
    #[error("not an event of a relay's stream: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("version {0} of the relay format; expected version {VERSION}")]
    Version(u32),
    /// A member has a value that it cannot have.
    #[error("invalid {0} in an event of a relay's stream")]
    Value(&'static str),
}

/// A message on the wire.
#[derive(Default, Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tally: Option<&'a Tally>,
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<&'a Tally>,
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<&'a str>,
}

/// Any event, as it is read.
#[derive(Deserialize)]
struct Read {
    relay: Option<Start>,
    namespace: Option<String>,
    reset: Option<String>,
    id: Option<String>,
    retention: Option<String>,
    event: Option<String>,
    topics: Option<Vec<String>>,
    private: Option<bool>,
    update: Option<String>,
    retry: Option<u64>,
    sender: Option<String>,
    age: Option<u64>,
    data: Option<String>,
    tally: Option<HashMap<String, i64>>,
    totals: Option<HashMap<String, i64>>,
    known: Option<bool>,
    unavailable: Option<String>,
    position: Option<String>,
    skipped: Option<u64>,
    end: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Start {
    version: u32,
    path: Vec<String>,
    sequences: Vec<Sequence>,
    retentions: Vec<Kept>,
    totals: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Sequence {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    newest: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    except: Vec<String>,
    sequence: usize,
    trimmed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    last: bool,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Appends what comes first.
pub(super) fn write_start(start: &RelayStart, json: &mut Vec<u8>) {
    let sequence = |(name, newest): &(SequenceName, EntryId)| {
        let mut sequence =
            Sequence { name: None, epoch: None, topic: None, partition: None, newest: newest.to_string() };
        match name {
            SequenceName::Named(name) => sequence.name = Some(name.to_string()),
            SequenceName::Numbered(epoch) => sequence.epoch = Some(epoch.to_string()),
            SequenceName::Partition(of) => {
                (sequence.topic, sequence.partition) = (Some(of.topic.to_string()), Some(of.number));
            }
        }
        sequence
    };
    let retention = |RelayedRetention { retention, sequence, trimmed }: &RelayedRetention| Kept {
        name: retention.name.to_string(),
        namespace: retention.namespace.to_string(),
        except: retention.except.iter().map(ToString::to_string).collect(),
        sequence: *sequence,
        trimmed: trimmed.to_string(),
        messages: retention.max_messages,
        bytes: retention.max_bytes,
        milliseconds: retention.max_age.map(milliseconds),
        last: retention.last_values,
    };
    let start = Start {
        version: VERSION,
        path: start.path.iter().map(ToString::to_string).collect(),
        sequences: start.sequences.iter().map(sequence).collect(),
        retentions: start.retentions.iter().map(retention).collect(),
        totals: start.totals.iter().map(ToString::to_string).collect(),
    };
    json.extend_from_slice(b"{\"relay\":");
    write_json(&start, json);
    json.push(b'}');
}

/// Appends a message; with its sender only if `with_sender` is set.
pub(super) fn write_message(message: &Message, with_sender: bool, json: &mut Vec<u8>) {
    let kept = message.kept.as_deref();
    let mut written =
        Written { id: message.id(), retention: kept.map(|kept| &*kept.retention.name), ..Written::default() };
    match &message.data {
        Data::Reset(Reset { reason, .. }) => {
            written.reset = Some(reason.as_str());
            return write_json(&written, json);
        }
        Data::Text(text) => written.data = Some(text),
        Data::Tally(tally) => written.tally = Some(tally),
        Data::Totals(totals) => written.totals = Some(totals),
        Data::TotalsState(TotalsState::Known) => written.known = Some(true),
        Data::TotalsState(TotalsState::Unavailable(reason)) => written.unavailable = Some(reason),
    }
    written.namespace = Some(message.namespace.as_str());
    written.event = message.event.as_deref();
    if let Some(update) = &message.update {
        // Also where there are none: a message that is an update has another audience than one that is not.
        written.topics = Some(update.alternates.iter().map(Namespace::as_str).collect());
        written.private = update.is_private.then_some(true);
        written.update = update.id.as_deref();
        written.retry = update.retry;
    }
    written.sender = message.sender.as_deref().filter(|_| with_sender);
    let age = message.received_at.elapsed();
    written.age = (kept.is_some() && age >= MIN_AGE).then(|| milliseconds(age));
    write_json(&written, json);
}

impl RelayEvent {
    /// Reads the JSON of an event.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(json: &str) -> Result<Self, RelayError> {
        let read: Read = serde_json::from_str(json)?;
        if let Some(start) = read.relay {
            return start.read().map(Self::Start);
        }
        if let Some(reason) = read.reset {
            let reason = ResetReason::from_name(&reason).ok_or(RelayError::Value("reset"))?;
            return Ok(Self::Reset { reason, id: read.id.unwrap_or_default(), retention: read.retention });
        }
        if read.skipped.is_some() {
            return Ok(Self::Skipped);
        }
        if let Some(reason) = read.end {
            return Ok(Self::End(reason));
        }
        match read.namespace {
            Some(_) => read.message().map(Self::Message),
            None => Ok(Self::Position(read.position)),
        }
    }
}

impl Read {
    fn message(self) -> Result<RelayedMessage, RelayError> {
        let namespace = namespace(&self.namespace.unwrap_or_default())?;
        let mut message = match (self.data, self.tally, self.totals, self.unavailable, self.known) {
            (Some(text), ..) => Message::text(namespace, text),
            (_, Some(tally), ..) => Message::tally(namespace, tally.into_iter().collect()),
            (_, _, Some(totals), ..) => Message::totals(namespace, totals.into_iter().collect()),
            (_, _, _, Some(reason), _) => Message::totals_state(namespace, TotalsState::Unavailable(reason.into())),
            (.., Some(true)) => Message::totals_state(namespace, TotalsState::Known),
            _ => return Err(RelayError::Value("data")),
        };
        if self.event.as_deref().is_some_and(|event| event.contains(['\r', '\n'])) {
            return Err(RelayError::Value("event"));
        }
        message.event = self.event.map(Into::into);
        if self
            .sender
            .as_deref()
            .is_some_and(|sender| sender.len() > MAX_SENDER_BYTES || sender.contains(char::is_control))
        {
            return Err(RelayError::Value("sender"));
        }
        message.sender = self.sender.map(Into::into);
        if let Some(age) = self.age {
            let at = Instant::now().checked_sub(Duration::from_millis(age));
            message.received_at = at.unwrap_or(message.received_at);
        }
        if let Some(topics) = self.topics {
            if topics.len() > MAX_TOPICS {
                return Err(RelayError::Value("topics"));
            }
            let alternates = topics.iter().map(|topic| self::namespace(topic)).collect::<Result<_, _>>()?;
            let update = Update {
                alternates,
                is_private: self.private.unwrap_or_default(),
                id: self.update.map(Into::into),
                retry: self.retry,
            };
            message.update = Some(Box::new(update));
        }
        Ok(RelayedMessage { message, kept: self.retention.zip(self.id) })
    }
}

fn namespace(text: &str) -> Result<Namespace, RelayError> {
    Namespace::from_topic(text).map_err(|_| RelayError::Value("namespace"))
}

fn entry(text: &str) -> Result<EntryId, RelayError> {
    text.parse().map_err(|_| RelayError::Value("entry"))
}

impl Start {
    fn read(self) -> Result<RelayStart, RelayError> {
        if self.version != VERSION {
            return Err(RelayError::Version(self.version));
        }
        let is_long =
            [self.sequences.len(), self.retentions.len(), self.totals.len()].into_iter().any(|len| len > MAX_LIST);
        if is_long {
            return Err(RelayError::Value("start: it is too long"));
        }
        let mut names: Vec<(Arc<str>, Option<Partition>)> = Vec::new();
        let mut sequences = Vec::new();
        for Sequence { name, epoch, topic, partition, newest } in self.sequences {
            let is_text = |text: &String| !text.is_empty() && !text.contains('\u{0}');
            let texts = (name.filter(is_text), epoch.filter(is_text), topic.filter(is_text).zip(partition));
            let (name, local) = match texts {
                (Some(name), None, None) => (SequenceName::Named(name.as_str().into()), (name.into(), None)),
                (None, Some(epoch), None) => {
                    (SequenceName::Numbered(epoch.as_str().into()), (numbered_sequence(&epoch), None))
                }
                (None, None, Some((topic, number))) => {
                    let partition = Partition { topic: topic.into(), number };
                    (SequenceName::Partition(partition.clone()), (partition.sequence().into(), Some(partition)))
                }
                _ => return Err(RelayError::Value("sequence")),
            };
            names.push(local);
            sequences.push((name, entry(&newest)?));
        }
        let retention = |kept: Kept| {
            let (sequence, partition) = names.get(kept.sequence).ok_or(RelayError::Value("sequence"))?;
            let except = kept.except.iter().map(|text| namespace(text)).collect::<Result<_, _>>()?;
            let retention = Arc::new(Retention {
                name: kept.name.into(),
                namespace: namespace(&kept.namespace)?,
                except,
                sequence: Some(Arc::clone(sequence)),
                partition: partition.clone(),
                max_messages: kept.messages,
                max_bytes: kept.bytes,
                max_age: kept.milliseconds.map(Duration::from_millis),
                last_values: kept.last,
            });
            Ok(RelayedRetention { retention, sequence: kept.sequence, trimmed: entry(&kept.trimmed)? })
        };
        Ok(RelayStart {
            path: self.path.into_iter().map(Into::into).collect(),
            retentions: self.retentions.into_iter().map(retention).collect::<Result<_, RelayError>>()?,
            totals: self.totals.iter().map(|text| namespace(text)).collect::<Result<_, _>>()?,
            sequences,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(message: &Message) -> String {
        let mut json = Vec::new();
        write_message(message, true, &mut json);
        String::from_utf8(json).unwrap()
    }

    fn read(json: &str) -> Message {
        match RelayEvent::parse(json).unwrap() {
            RelayEvent::Message(RelayedMessage { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_have_only_the_members_that_they_need() {
        let mut message = Message::text("/a/b".parse().unwrap(), "x\ny");
        assert_eq!(written(&message), r#"{"namespace":"/a/b","data":"x\ny"}"#);
        message.sender = Some("ann".into());
        message.event = Some("created".into());
        let mut json = Vec::new();
        write_message(&message, false, &mut json);
        assert_eq!(json, br#"{"namespace":"/a/b","event":"created","data":"x\ny"}"#);
        assert_eq!(read(&written(&message)).sender.as_deref(), Some("ann"));
        let state = Message::totals_state("/eps".parse().unwrap(), TotalsState::Unavailable("too large".into()));
        assert_eq!(written(&state), r#"{"namespace":"/eps","unavailable":"too large"}"#);
    }

    #[test]
    fn other_texts_are_no_events() {
        for json in [
            "",
            "1",
            "{",
            r#"{"namespace":"/a"}"#,
            r#"{"namespace":"/a\u0001","data":"x"}"#,
            r#"{"namespace":"/a","data":1}"#,
            r#"{"namespace":"/a","data":"x","sender":"\n"}"#,
            r#"{"namespace":"/a","data":"x","event":"a\nb"}"#,
            r#"{"reset":"because"}"#,
            r#"{"relay":{"version":2,"path":[],"sequences":[],"retentions":[],"totals":[]}}"#,
            r#"{"relay":{"version":1,"path":[],"sequences":[{"newest":"1-0"}],"retentions":[],"totals":[]}}"#,
        ] {
            assert!(RelayEvent::parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn start_is_read_as_it_is_written() {
        let retention = |sequence: Arc<str>| Retention {
            name: "stream:orders".into(),
            namespace: "/orders".parse().unwrap(),
            except: ["/orders/x".parse().unwrap()].into(),
            sequence: Some(sequence),
            partition: None,
            max_messages: Some(5),
            max_bytes: None,
            max_age: Some(Duration::from_secs(60)),
            last_values: true,
        };
        let epoch: Arc<str> = "9c1f03d2a7b4e865".into();
        let retention = |sequence, name| RelayedRetention {
            retention: Arc::new(retention(name)),
            sequence,
            trimmed: EntryId::new(3, 1),
        };
        let start = RelayStart {
            path: vec!["a".into(), "b".into()],
            sequences: vec![
                (SequenceName::Numbered(Arc::clone(&epoch)), EntryId::new(42, 0)),
                (SequenceName::Named("orders".into()), EntryId::new(1732, 5)),
                (SequenceName::Partition(Partition { topic: "trades".into(), number: 1 }), EntryId::new(17, 0)),
            ],
            retentions: vec![retention(0, numbered_sequence(&epoch)), retention(1, "orders".into())],
            totals: vec!["/eps".parse().unwrap()],
        };
        let mut json = Vec::new();
        write_start(&start, &mut json);
        match RelayEvent::parse(std::str::from_utf8(&json).unwrap()).unwrap() {
            RelayEvent::Start(read) => assert_eq!(read, start),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn message_is_read_as_it_was_written(
            event in proptest::option::of("[^\r\n]{0,8}"),
            sender in proptest::option::of("\\PC{1,8}"),
            text in "(.|\r|\n|\u{0}){0,40}",
            tally in proptest::option::of(proptest::collection::hash_map(".{0,6}", any::<i64>(), 0..4)),
            update in proptest::option::of((any::<bool>(), proptest::option::of("\\PC{1,9}"), proptest::option::of(any::<u64>()))),
        ) {
            let namespace: Namespace = "/a/b".parse().unwrap();
            let mut message = match tally {
                Some(tally) => Message::tally(namespace, tally.into_iter().collect()),
                None => Message::text(namespace, text),
            };
            message.event = event.map(Into::into);
            message.sender = sender.map(Into::into);
            message.update = update.map(|(is_private, id, retry)| {
                let alternates = ["/c".parse().unwrap(), Namespace::from_topic("https://a/1").unwrap()].into();
                Box::new(Update { alternates, is_private, id: id.map(Into::into), retry })
            });
            let json = written(&message);
            prop_assert!(!json.contains(['\n', '\r']));
            let read = read(&json);
            prop_assert_eq!((&read, &read.sender), (&message, &message.sender));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,60}|\\{\"(relay|reset|namespace|id)\":.{0,30}\\}") {
            drop(RelayEvent::parse(&text));
        }
    }
}
