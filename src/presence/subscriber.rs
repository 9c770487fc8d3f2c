//! Who subscribes: the id of a stream, and what its grant says of its client.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use tallycast_fanout::Grant;

use super::{MAX_PAYLOAD_BYTES, MAX_SUBJECT_BYTES};

/// The start of the text of an id.
const PREFIX: &str = "urn:uuid:";
/// The memory of a listed subscription besides its texts, in bytes, at most, roughly.
const SUBSCRIPTION_BYTES: usize = 256;

/// The id of a stream for as long as it is open: a random UUID (RFC 9562, version 4), displayed as `urn:uuid:...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(u128);

/// Not the text of a [`SubscriberId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid id: expected urn:uuid: and a UUID in lower case")]
pub struct InvalidId;

/// Makes ids. The keys of its hasher are random, so no other process makes the same ones.
#[derive(Debug, Default)]
pub(super) struct Ids {
    random: RandomState,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn next(&self) -> SubscriberId {
        const VERSION: u128 = 0xf << 76;
        const VARIANT: u128 = 0b11 << 62;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [0_u64, 1].map(|half| u128::from(self.random.hash_one((number, half))));
        let random = high << 64 | low;
        SubscriberId(random & !VERSION & !VARIANT | 4 << 76 | 0b10 << 62)
    }
}

impl SubscriberId {
    /// The last one in their order.
    pub(super) const LAST: Self = Self(u128::MAX);
}

impl fmt::Display for SubscriberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |from: u32, bits: u32| self.0 >> from & ((1 << bits) - 1);
        let (a, b, c, d, e) = (part(96, 32), part(80, 16), part(64, 16), part(48, 16), part(0, 48));
        write!(formatter, "{PREFIX}{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl FromStr for SubscriberId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits: String = text.strip_prefix(PREFIX).ok_or(InvalidId)?.split('-').collect();
        let id = u128::from_str_radix(&digits, 16).map(Self).map_err(|_| InvalidId)?;
        // One spelling for each id.
        if id.to_string() == text { Ok(id) } else { Err(InvalidId) }
    }
}

impl Serialize for SubscriberId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'a> Deserialize<'a> for SubscriberId {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A stream that subscribes to topics.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subscriber {
    /// Its id.
    pub id: SubscriberId,
    /// The subject of its grant.
    pub subject: Option<Box<str>>,
    /// The payload of its grant.
    pub payload: Option<Box<RawValue>>,
    /// When it was opened, in milliseconds since the Unix epoch, by the clock of its node.
    pub since: u64,
}

impl Subscriber {
    pub(super) fn new(id: SubscriberId, since: SystemTime, grant: Option<&Grant>) -> Self {
        // A clock before 1970 counts as 1970.
        let since = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        Self { id, subject: None, payload: None, since }.with_grant(grant)
    }

    /// The same stream with another grant.
    pub(super) fn with_grant(&self, grant: Option<&Grant>) -> Self {
        let subject = grant.and_then(|grant| grant.subject.as_deref());
        let payload = grant.and_then(|grant| grant.payload.as_ref());
        let payload = payload.and_then(|payload| serde_json::value::to_raw_value(payload).ok());
        Self {
            subject: subject.map(|subject| subject[..subject.floor_char_boundary(MAX_SUBJECT_BYTES)].into()),
            payload: payload.filter(|payload| payload.get().len() <= MAX_PAYLOAD_BYTES),
            ..*self
        }
    }

    /// Whether nothing has changed in `self` since `other`.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let payload = |subscriber: &Self| subscriber.payload.as_ref().map(|payload| payload.get().to_owned());
        self.id == other.id && self.subject == other.subject && payload(self) == payload(other)
    }

    /// The memory that a listed subscription takes, at most, roughly.
    pub(super) fn size(&self) -> usize {
        let payload = self.payload.as_ref().map_or(0, |payload| payload.get().len());
        SUBSCRIPTION_BYTES + self.subject.as_ref().map_or(0, |subject| subject.len()) + payload
    }
}

/// A subscriber's subscription to one topic.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The topic, as [`Topic`](tallycast_fanout::Topic) displays it.
    pub topic: Arc<str>,
    /// The node that the stream is connected to.
    pub node: Arc<str>,
    /// The stream.
    pub subscriber: Arc<Subscriber>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_distinct_and_have_one_text() {
        let ids = Ids::default();
        let texts: HashSet<String> = (0..1000).map(|_| ids.next().to_string()).collect();
        assert_eq!(texts.len(), 1000);
        for text in &texts {
            assert_eq!(text.parse::<SubscriberId>().unwrap().to_string(), *text);
            let uuid = text.strip_prefix("urn:uuid:").unwrap();
            assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"), "{uuid}");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        }
        let text = ids.next().to_string();
        for invalid in [text.to_uppercase(), text.replace('-', ""), text[..text.len() - 1].to_owned(), String::new()] {
            assert_eq!(invalid.parse::<SubscriberId>(), Err(InvalidId), "{invalid}");
        }
    }

    #[test]
    fn texts_of_a_grant_are_bounded() {
        let subscriber = |grant: &Grant| Subscriber::new(Ids::default().next(), UNIX_EPOCH, Some(grant));
        let grant = Grant::default().with_subject("é".repeat(MAX_SUBJECT_BYTES));
        let long = subscriber(&grant.with_payload("x".repeat(MAX_PAYLOAD_BYTES).into()));
        assert_eq!(long.subject.unwrap().len(), MAX_SUBJECT_BYTES);
        assert!(long.payload.is_none());
        let short = subscriber(&Grant::default().with_payload(serde_json::json!({"user": 1})));
        assert_eq!(short.payload.unwrap().get(), r#"{"user":1}"#);
    }
}
