//! One text in a JSON object, read without a copy of the others.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The string that is the field `name` of the JSON object `json`. `None` if it is no such object. As in JavaScript, the last one of
/// several fields of the same name counts.
pub(crate) fn string_field(json: &str, name: &str) -> Option<String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let text = Field(name).deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    text
}

/// Reads the field with this name.
#[derive(Clone, Copy)]
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(is_field) = fields.next_key_seed(IsName(self.0))? {
            if is_field {
                let value: &RawValue = fields.next_value()?;
                text = serde_json::from_str(value.get()).ok();
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(text)
    }
}

/// Whether the name of a field is this one.
struct IsName<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_strings_of_whole_objects_are_read() {
        let field = |json: &str| string_field(json, "by");
        let ann = Some("ann".to_owned());
        assert_eq!(field(r#"{"by": "ann"}"#), ann);
        assert_eq!(field(r#" {"a": {"by": "x"}, "b": [1, "by"], "b\u0079": "\u0061nn", "c": null} "#), ann);
        assert_eq!(field(r#"{"by": 7, "by": "ann"}"#), ann);
        for none in [
            r#"{"by": "ann", "by": 7}"#,
            r#"{"by": null}"#,
            r#"{"by": ["ann"]}"#,
            r#"{"by": {"by": "ann"}}"#,
            r#"{"BY": "ann"}"#,
            r#"{"by": "\ud800"}"#,
            r#"{"by": "ann"} {}"#,
            r#"{"by": "ann""#,
            r#"["by", "ann"]"#,
            r#""by""#,
            "ann",
            "",
        ] {
            assert_eq!(field(none), None, "{none}");
        }
        // Depth costs neither stack nor an error.
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(field(&format!(r#"{{"deep": {deep}, "by": "ann"}}"#)), ann);
        assert_eq!(field(&format!(r#"{{"by": {deep}}}"#)), None);
    }

    proptest! {
        /// A tree of the whole payload has the same text.
        #[test]
        fn field_is_that_of_the_parsed_object(json in r#"\{("(a|by|\\n)":("[a-z]{0,2}"|[0-9]|null|\{"by":"x"\}),?){0,4}\}|.{0,8}"#) {
            let tree = serde_json::from_str::<serde_json::Value>(&json).ok();
            let expected = tree.as_ref().and_then(|tree| tree.as_object()?.get("by")?.as_str());
            prop_assert_eq!(string_field(&json, "by"), expected.map(str::to_owned));
        }
    }
}
