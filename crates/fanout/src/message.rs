//! Messages, and the tallies that some of them carry instead of text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::Namespace;

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
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        (&self.namespace, &self.event, &self.data) == (&other.namespace, &other.event, &other.data)
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

    fn new(namespace: Namespace, data: Data) -> Self {
        Self { namespace, event: None, data, received_at: Instant::now() }
    }

    /// The payload as text: the text itself, or the tally's JSON.
    pub fn payload(&self) -> Cow<'_, str> {
        match &self.data {
            Data::Text(text) => Cow::Borrowed(text),
            Data::Tally(tally) | Data::Totals(tally) => Cow::Owned(tally.to_json()),
        }
    }
}

/// A count for each key. Merging two tallies adds them, so nothing is lost. A count is negative only in a correction, where
/// a total turned out to be less than what was counted before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tally(HashMap<String, i64>);

impl Tally {
    /// Counts `key` once more.
    pub fn count(&mut self, key: String) {
        *self.0.entry(key).or_default() += 1;
    }

    /// Adds all of `other`'s counts to this tally.
    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            match self.0.get_mut(key) {
                Some(sum) => *sum += count,
                None => {
                    self.0.insert(key.clone(), *count);
                }
            }
        }
    }

    /// Subtracts all of `other`'s counts from this tally.
    pub fn subtract(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            match self.0.get_mut(key) {
                Some(left) => *left -= count,
                None => {
                    self.0.insert(key.clone(), -count);
                }
            }
        }
    }

    /// Removes the keys whose count is zero.
    pub fn drop_zeros(&mut self) {
        self.0.retain(|_, count| *count != 0);
    }

    /// All keys with their counts, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(key, count)| (key.as_str(), *count))
    }

    /// The number of different keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of all counts.
    pub fn total(&self) -> i64 {
        self.0.values().sum()
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
            *tally.0.entry(key).or_default() += count;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
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
