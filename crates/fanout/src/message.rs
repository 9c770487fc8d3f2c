//! Messages, and the tallies that some of them carry instead of text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::{Kept, Namespace, Probe, Reset, Retention};

/// The memory that a key of a tally takes beside its text: its place in the table, the allocation, and a third of both for
/// room in the table.
const KEY_OVERHEAD: usize = 64;

/// The event name of a [`Reset`].
const RESET: &str = "reset";

/// A message to broadcast. Two messages are equal if they have the same bytes on the wire, whenever they came in.
#[derive(Debug, Clone)]
pub struct Message {
    /// Readers of this namespace, and of each of its parents, receive the message.
    pub namespace: Namespace,
    /// The event name, for transports that have one (the `event` field of SSE).
    pub event: Option<Arc<str>>,
    /// The payload.
    pub data: Data,
    /// When the event came in; for a tally, the oldest of those it counts. From here to the write is the lag.
    pub received_at: Instant,
    /// Set if the message is kept for readers that come later. It then has an id on the wire.
    pub kept: Option<Box<Kept>>,
    /// Who sent it, if readers may be [left out](crate::Grant::except_sender) because they did.
    pub sender: Option<Arc<str>>,
    /// Set if the message has other topics beside its namespace, or is for some of their readers only.
    pub update: Option<Box<Update>>,
    /// Set if the message is followed through the engine.
    pub probe: Option<Arc<Probe>>,
}

/// What a [`Message`] has that others do not: alternate topics, an id of its publisher, and whether it is private.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Readers of these namespaces receive the message, too. A reader that reads several of its topics receives it once.
    pub alternates: Box<[Namespace]>,
    /// Whether only those readers receive it whose [`Grant::private`](crate::Grant::private) contains one of its topics.
    pub is_private: bool,
    /// Its id, as its publisher gave it. Found by [`Start::AfterUpdate`](crate::Start::AfterUpdate), if the message is kept.
    pub id: Option<Box<str>>,
    /// How long a client waits before it reconnects, in milliseconds, for transports that can say so.
    pub retry: Option<u64>,
}

/// The payload of a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Text, sent unchanged; it may have several lines.
    Text(String),
    /// Counts, sent as one JSON object. A reader that falls behind may be sent the sum of several (see
    /// [`Policy::Merge`](crate::Policy::Merge)).
    Tally(Arc<Tally>),
    /// The sums of the namespace's tallies at this place among the messages, as reported by a source. Readers get the
    /// difference from what they were sent before, if there is one, as a [`Tally`].
    Totals(Arc<Tally>),
    /// Whether the namespace's totals are known from this place among the messages on. Sent as one JSON object, to the
    /// readers that started with the totals and to no others.
    TotalsState(TotalsState),
    /// Messages were lost at this place, or cannot be sent. Sent as one JSON object to readers of topics that overlap the
    /// namespace.
    Reset(Reset),
}

/// Whether the totals of a namespace are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TotalsState {
    /// The sum of what a reader was sent is the total. On the wire `{"known":true}`.
    Known,
    /// The totals are not known, or no longer kept, for this reason; tallies are still sent. New readers cannot start with
    /// the totals until a source reports them. On the wire `{"known":false,"reason":"…"}`.
    Unavailable(Arc<str>),
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        (&self.namespace, &self.event, &self.data, &self.update)
            == (&other.namespace, &other.event, &other.data, &other.update)
    }
}

impl Eq for Message {}

impl Message {
    /// A message of text without an event name.
    pub fn text(namespace: Namespace, text: impl Into<String>) -> Self {
        Self::new(namespace, Data::Text(text.into()))
    }

    /// A message of counts without an event name.
    pub fn tally(namespace: Namespace, tally: Tally) -> Self {
        Self::new(namespace, Data::Tally(Arc::new(tally)))
    }

    /// The sums of the tallies of `namespace`.
    pub fn totals(namespace: Namespace, totals: Tally) -> Self {
        Self::new(namespace, Data::Totals(Arc::new(totals)))
    }

    /// Whether the totals of `namespace` are known.
    pub fn totals_state(namespace: Namespace, state: TotalsState) -> Self {
        Self::new(namespace, Data::TotalsState(state))
    }

    /// The memory that the message takes, in bytes, roughly.
    pub fn weight(&self) -> usize {
        let data = match &self.data {
            Data::Text(text) => text.capacity(),
            Data::Tally(tally) | Data::Totals(tally) => tally.weight(),
            Data::TotalsState(_) | Data::Reset(_) => 0,
        };
        let update = self.update.as_ref().map_or(0, |update| update.weight());
        size_of::<Self>()
            + self.namespace.as_str().len()
            + self.event.as_ref().map_or(0, |event| event.len())
            + data
            + self.sender.as_ref().map_or(0, |sender| sender.len())
            + update
    }

    /// The namespaces whose readers receive the message: its own first, then the alternates.
    pub fn topics(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.namespace).chain(self.update.iter().flat_map(|update| &update.alternates))
    }

    /// Whether only readers receive it that are granted one of its topics.
    pub fn is_private(&self) -> bool {
        self.update.as_ref().is_some_and(|update| update.is_private)
    }

    /// Whether `sender` is its sender.
    pub(crate) fn is_from(&self, sender: Option<&Arc<str>>) -> bool {
        sender.is_some() && self.sender.as_ref() == sender
    }

    /// The id that its publisher gave it.
    pub(crate) fn update_id(&self) -> Option<&str> {
        self.update.as_ref()?.id.as_deref()
    }

    /// A reset for a single reader.
    pub(crate) fn reset(reset: Reset) -> Self {
        Self { event: Some(RESET.into()), ..Self::new(Namespace::root(), Data::Reset(reset)) }
    }

    /// A reset of the readers that `retention` concerns.
    pub(crate) fn reset_of(retention: Arc<Retention>, reset: Reset) -> Self {
        let namespace = retention.namespace.clone();
        Self { namespace, kept: Some(Box::new(Kept::new(retention, None))), ..Self::reset(reset) }
    }

    fn new(namespace: Namespace, data: Data) -> Self {
        Self {
            namespace,
            event: None,
            data,
            received_at: Instant::now(),
            kept: None,
            sender: None,
            update: None,
            probe: None,
        }
    }

    /// The id of the message on the wire, if it is kept for readers that come later.
    pub fn id(&self) -> Option<&str> {
        match &self.data {
            Data::Reset(reset) => Some(&*reset.position),
            _ => self.kept.as_ref().map(|kept| &*kept.id),
        }
        .filter(|id| !id.is_empty())
    }

    /// The payload as text: the text itself, or JSON.
    pub fn payload(&self) -> Cow<'_, str> {
        match &self.data {
            Data::Text(text) => Cow::Borrowed(text),
            Data::Tally(tally) | Data::Totals(tally) => Cow::Owned(tally.to_json()),
            Data::TotalsState(state) => Cow::Owned(state.to_json()),
            Data::Reset(reset) => Cow::Owned(reset.to_json()),
        }
    }
}

impl Update {
    /// The memory that it takes, in bytes, roughly.
    fn weight(&self) -> usize {
        let alternates =
            self.alternates.iter().map(|topic| size_of::<Namespace>() + topic.as_str().len()).sum::<usize>();
        size_of::<Self>() + alternates + self.id.as_ref().map_or(0, |id| id.len())
    }
}

impl Reset {
    fn to_json(&self) -> String {
        // Not from a map, whose keys would be sorted.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        format!("{{\"reason\":{},\"earliest\":{}}}", quoted(self.reason.as_str()), quoted(&self.earliest))
    }
}

impl TotalsState {
    fn to_json(&self) -> String {
        match self {
            Self::Known => serde_json::json!({"known": true}),
            Self::Unavailable(reason) => serde_json::json!({"known": false, "reason": &**reason}),
        }
        .to_string()
    }
}

/// A count for each key. Merging two tallies adds them, so nothing is lost. A count is negative only in a correction, where
/// a total turned out to be less than what was counted before.
///
/// Counts and sums that leave the range of `i64` stay at its end; none wraps. JavaScript reads integers beyond ±(2^53 − 1)
/// inexactly, so publishers for browsers keep their totals within that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tally {
    counts: HashMap<String, i64>,
    /// The length of all keys.
    #[serde(skip)]
    key_bytes: usize,
}

impl Tally {
    /// Counts `key` once more.
    pub fn count(&mut self, key: String) {
        self.add(key, 1);
    }

    fn add(&mut self, key: String, count: i64) {
        let key_bytes = key.len();
        match self.counts.entry(key) {
            Entry::Occupied(mut sum) => *sum.get_mut() = sum.get().saturating_add(count),
            Entry::Vacant(place) => {
                place.insert(count);
                self.key_bytes += key_bytes;
            }
        }
    }

    /// Adds all of `other`'s counts to this tally.
    pub fn merge(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Subtracts all of `other`'s counts from this tally.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Combines each of `other`'s counts with the count of the same key, or with zero.
    fn combine(&mut self, other: &Self, combined: impl Fn(i64, i64) -> i64) {
        for (key, count) in &other.counts {
            match self.counts.get_mut(key) {
                Some(sum) => *sum = combined(*sum, *count),
                None => self.add(key.clone(), combined(0, *count)),
            }
        }
    }

    /// Removes the keys whose count is zero.
    pub fn drop_zeros(&mut self) {
        let Self { counts, key_bytes } = self;
        counts.retain(|key, count| {
            let kept = *count != 0;
            if !kept {
                *key_bytes -= key.len();
            }
            kept
        });
    }

    /// All keys with their counts, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.counts.iter().map(|(key, count)| (key.as_str(), *count))
    }

    /// The number of different keys.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// The length of all keys, in bytes.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// The memory that the tally takes, in bytes, roughly.
    pub fn weight(&self) -> usize {
        self.key_bytes + self.counts.len() * KEY_OVERHEAD
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The sum of all counts.
    pub fn total(&self) -> i64 {
        let total: i128 = self.counts.values().map(|count| i128::from(*count)).sum();
        i64::try_from(total).unwrap_or(if total < 0 { i64::MIN } else { i64::MAX })
    }

    /// A JSON object of key -> count, valid whatever the keys contain.
    pub fn to_json(&self) -> String {
        #[expect(clippy::expect_used, reason = "a map of strings to integers always serialises, and a String takes it")]
        serde_json::to_string(self).expect("string keys and integer values")
    }
}

impl FromIterator<(String, i64)> for Tally {
    fn from_iter<I: IntoIterator<Item = (String, i64)>>(counts: I) -> Self {
        let mut tally = Self::default();
        for (key, count) in counts {
            tally.add(key, count);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_valid_for_any_key() {
        let key = "a\"\\\n\u{0}\u{2028}😂";
        let mut tally = Tally::default();
        tally.count(key.to_owned());
        tally.count(key.to_owned());
        let parsed: HashMap<String, u64> = serde_json::from_str(&tally.to_json()).unwrap();
        assert_eq!(parsed, HashMap::from([(key.to_owned(), 2)]));
    }

    #[test]
    fn state_of_the_totals_is_json() {
        assert_eq!(TotalsState::Known.to_json(), r#"{"known":true}"#);
        let unavailable = TotalsState::Unavailable("a \"set\"".into());
        assert_eq!(unavailable.to_json(), r#"{"known":false,"reason":"a \"set\""}"#);
    }

    proptest! {
        /// Counts and sums stay in their range, whatever is added and subtracted, and the length of the keys is known.
        #[test]
        fn arithmetic_saturates(
            tallies in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(("[ab]{0,2}", any_count()), 0..4)), 0..8),
        ) {
            let (mut tally, mut expected) = (Tally::default(), HashMap::<String, i64>::new());
            let saturated = |sum: i128| sum.clamp(i64::MIN.into(), i64::MAX.into());
            for (adds, counts) in tallies {
                let other: Tally = counts.iter().cloned().collect();
                if adds { tally.merge(&other) } else { tally.subtract(&other) }
                for (key, count) in other.iter() {
                    let sum = expected.entry(key.to_owned()).or_default();
                    let count = if adds { i128::from(count) } else { -i128::from(count) };
                    *sum = i64::try_from(saturated(i128::from(*sum) + count)).unwrap();
                }
                let total = expected.values().map(|count| i128::from(*count)).sum();
                prop_assert_eq!(i128::from(tally.total()), saturated(total));
                prop_assert_eq!(tally.key_bytes(), expected.keys().map(String::len).sum::<usize>());
                prop_assert_eq!(&tally, &expected.clone().into_iter().collect());
            }
            tally.drop_zeros();
            expected.retain(|_, count| *count != 0);
            prop_assert_eq!(tally.key_bytes(), expected.keys().map(String::len).sum::<usize>());
            prop_assert_eq!(&tally, &expected.into_iter().collect());
        }
    }

    fn any_count() -> impl Strategy<Value = i64> {
        prop_oneof![-3..4_i64, Just(i64::MAX), Just(i64::MIN), any::<i64>()]
    }

    #[test]
    fn counting_saturates() {
        let mut tally: Tally = [("a".to_owned(), i64::MAX)].into_iter().collect();
        tally.count("a".to_owned());
        assert_eq!(tally.total(), i64::MAX);
    }

    #[test]
    fn merging_adds_counts() {
        let mut left: Tally = [("a".to_owned(), 1), ("b".to_owned(), 2)].into_iter().collect();
        let right: Tally = [("b".to_owned(), 3), ("c".to_owned(), 4)].into_iter().collect();
        left.merge(&right);
        assert_eq!(left, [("a".to_owned(), 1), ("b".to_owned(), 5), ("c".to_owned(), 4)].into_iter().collect());
        assert_eq!(left.total(), 10);
        left.subtract(&right);
        left.drop_zeros();
        assert_eq!(left, [("a".to_owned(), 1), ("b".to_owned(), 2)].into_iter().collect());
    }
}
