//! The envelope of `?envelope=1`: a message as one JSON object with its namespace, its event name and its payload, the same over
//! event streams and WebSocket.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tallycast_fanout::{Data, Message};

/// The levels of objects and lists that a payload may have to be sent as JSON. Parsers of other projects have limits of their
/// own, and one that refuses a payload would refuse its envelope, namespace included.
const MAX_DEPTH: usize = 64;

/// The note in the place of messages that were left out for a reader that fell behind.
#[derive(Debug, Serialize)]
pub(crate) struct Skipped {
    /// How many there were.
    pub(crate) skipped: u64,
}

/// The sign that a stream is alive.
#[derive(Debug, Serialize)]
pub(crate) struct Heartbeat {
    /// The server's time, in milliseconds since 1970.
    time: u64,
}

impl Heartbeat {
    pub(crate) fn now() -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { time: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Appends the envelope of `message`. A payload that is JSON is copied, whatever its spaces and line breaks; any other is a
/// JSON string.
pub(crate) fn write_envelope(message: &Message, json: &mut Vec<u8>) {
    json.extend_from_slice(b"{\"namespace\":");
    write_json(&message.namespace.as_str(), json);
    if let Some(id) = message.id() {
        json.extend_from_slice(b",\"id\":");
        write_json(&id, json);
    }
    json.extend_from_slice(b",\"event\":");
    write_json(&message.event.as_deref(), json);
    json.extend_from_slice(b",\"data\":");
    let payload = message.payload();
    let is_json = match &message.data {
        Data::Text(text) => is_json(text),
        Data::Tally(_) | Data::Totals(_) | Data::TotalsState(_) | Data::Reset(_) => true,
    };
    if is_json {
        json.extend_from_slice(payload.as_bytes());
    } else {
        write_json(&payload, json);
    }
    json.push(b'}');
}

/// Appends `value` as JSON.
pub(crate) fn write_json(value: &impl Serialize, json: &mut Vec<u8>) {
    // Strings, numbers, and lists and structs of them always serialize, and writing to a vector cannot fail.
    let _ = serde_json::to_writer(json, value);
}

/// Whether `text` is JSON that every parser reads alike (RFC 8259, §8.2 and §9): no lone surrogates, no numbers beyond the range
/// of a double, and at most [`MAX_DEPTH`] levels.
fn is_json(text: &str) -> bool {
    let mut json = serde_json::Deserializer::from_str(text);
    Value { levels: MAX_DEPTH }.deserialize(&mut json).and_then(|()| json.end()).is_ok()
}

/// Any value with at most so many levels.
#[derive(Clone, Copy)]
struct Value {
    levels: usize,
}

impl Value {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1).ok_or_else(|| E::custom("too many levels"))?;
        Ok(Self { levels })
    }
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Not `deserialize_ignored_any`, which does not look into strings and numbers.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _value: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _value: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _value: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _value: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use tallycast_fanout::{Tally, TotalsState};

    fn envelope(message: &Message) -> String {
        let mut json = Vec::new();
        write_envelope(message, &mut json);
        String::from_utf8(json).unwrap()
    }

    fn data(text: &str) -> String {
        let json = envelope(&Message::text("/a".parse().unwrap(), text));
        json.strip_prefix(r#"{"namespace":"/a","event":null,"data":"#).unwrap().strip_suffix('}').unwrap().to_owned()
    }

    #[test]
    fn json_is_copied_and_other_text_is_a_string() {
        for json in [
            "{}",
            r#"{"b": [1.50,-0, 1e3, 12345678901234567890123], "a":"\u00e9"}"#,
            "26",
            "\"x\"",
            "null",
            " [\r\n\t1 ]\n",
        ] {
            assert_eq!(data(json), json);
        }
        for (text, string) in [
            ("", r#""""#),
            ("1F602", r#""1F602""#),
            ("00A9", r#""00A9""#),
            ("a \"b\"\n", r#""a \"b\"\n""#),
            ("{} {}", r#""{} {}""#),
            ("[1,]", r#""[1,]""#),
            ("{\"a\":1", r#""{\"a\":1""#),
            ("NaN", r#""NaN""#),
            ("1e999", r#""1e999""#),
            (r#""\ud800""#, r#""\"\\ud800\"""#),
            (r#"{"\ud800":1}"#, r#""{\"\\ud800\":1}""#),
            ("\u{feff}{}", "\"\u{feff}{}\""),
        ] {
            assert_eq!(data(text), string);
        }
    }

    #[test]
    fn deeply_nested_json_is_a_string() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(data(&nested(MAX_DEPTH)), nested(MAX_DEPTH));
        assert_eq!(data(&nested(MAX_DEPTH + 1)), format!("\"{}\"", nested(MAX_DEPTH + 1)));
        let objects = format!("{}1{}", "{\"a\":".repeat(MAX_DEPTH + 1), "}".repeat(MAX_DEPTH + 1));
        assert_eq!(data(&objects), serde_json::to_string(&objects).unwrap());
        // As deep as a payload may be.
        data(&"[".repeat(1 << 20));
    }

    #[test]
    fn counts_and_totals_are_objects() {
        let tally: Tally = [("1F602".to_owned(), 3)].into_iter().collect();
        let mut message = Message::tally("/eps".parse().unwrap(), tally);
        message.event = Some("snapshot".into());
        assert_eq!(envelope(&message), r#"{"namespace":"/eps","event":"snapshot","data":{"1F602":3}}"#);
        let state = Message::totals_state("/eps".parse().unwrap(), TotalsState::Known);
        assert_eq!(envelope(&state), r#"{"namespace":"/eps","event":null,"data":{"known":true}}"#);
    }

    /// Payloads: text, and JSON that another program could write.
    pub(crate) fn payloads() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        let json = leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        });
        let compact = json.clone().prop_map(|json| json.to_string());
        // Every line ends as it may.
        let pretty = (json, prop_oneof![Just("\n"), Just("\r"), Just("\r\n")])
            .prop_map(|(json, end)| serde_json::to_string_pretty(&json).unwrap().replace('\n', end));
        let nearly = "[\\[\\]{}\":,0-9eE.+\\\\u truefalsn\r\n-]{0,20}";
        prop_oneof![compact, pretty, "(.|\r|\n){0,40}", nearly]
    }

    /// The `data` that a reader should get for a payload.
    pub(crate) fn expected_data(payload: &str) -> serde_json::Value {
        serde_json::from_str(payload).unwrap_or_else(|_| payload.into())
    }

    proptest! {
        #[test]
        fn independent_parser_reads_the_same(
            namespace in "(/[^/\\x00-\\x1f\\x7f-\\x9f]{1,8}){1,3}",
            event in proptest::option::of(".{0,12}"),
            payload in payloads(),
        ) {
            let mut message = Message::text(namespace.parse().unwrap(), payload.clone());
            message.event = event.as_deref().map(Into::into);
            let parsed: serde_json::Value = serde_json::from_str(&envelope(&message)).unwrap();
            let expected = serde_json::json!({
                "namespace": message.namespace.as_str(), "event": event, "data": expected_data(&payload)
            });
            prop_assert_eq!(parsed, expected);
        }
    }
}
