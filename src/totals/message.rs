//! The messages of the script: their format, and what they say of a sorted set.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tallycast_fanout::Tally;

use super::score::count_of_score;

/// A message of the script: the number of the sorted set (from 1), the number of the reading, the status, and the members.
#[derive(Debug, Deserialize)]
pub(super) struct ScriptMessage(pub(super) usize, pub(super) u64, pub(super) Status, pub(super) Members);

/// What the script found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Status {
    /// All members.
    #[serde(rename = "")]
    Complete,
    /// More members than allowed.
    #[serde(rename = "members")]
    TooManyMembers,
    /// More bytes than allowed.
    #[serde(rename = "bytes")]
    TooManyBytes,
    /// Another kind of value.
    #[serde(rename = "type")]
    WrongType,
}

/// Members and scores in turn, as `ZRANGE ... WITHSCORES` returns them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) totals: Tally,
    /// Members that are left out because they are not UTF-8, so that no event can count them.
    pub(super) skipped: u64,
}

/// A JSON string with any bytes: Lua does not encode what is not UTF-8.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("members and scores in turn")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Members, A::Error> {
                let (mut counts, mut skipped) = (Vec::new(), 0);
                while let Some(Bytes(member)) = texts.next_element()? {
                    let Some(Bytes(score)) = texts.next_element()? else { break };
                    let score = std::str::from_utf8(&score).ok().and_then(|score| score.parse().ok());
                    match (String::from_utf8(member), score) {
                        (Ok(member), Some(score)) => counts.push((member, count_of_score(score))),
                        _ => skipped += 1,
                    }
                }
                Ok(Members { totals: counts.into_iter().collect(), skipped })
            }

            /// Lua encodes an empty list as an empty object, because it has only one kind of table.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Members::default())
            }
        }
        deserializer.deserialize_any(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(json: &[u8]) -> Members {
        serde_json::from_slice(json).unwrap()
    }

    fn counts(counts: &[(&str, i64)]) -> Tally {
        counts.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
    }

    #[test]
    fn scores_are_parsed_as_redis_writes_them() {
        let all = members(br#"["a","3","b","-1","c","1e+15","d","-inf","e\"\/\u0000","2.5"]"#);
        let expected = [("a", 3), ("b", -1), ("c", 10_i64.pow(15)), ("d", 1 - (1 << 53)), ("e\"/\0", 3)];
        assert_eq!(all, Members { totals: counts(&expected), skipped: 0 });
        assert_eq!(members(b"{}"), Members::default());
    }

    #[test]
    fn members_that_are_not_text_are_skipped_and_counted() {
        let all = members(b"[\"a\",\"3\",\"\xff\",\"1\",\"\xf0\x9f\x98\x82\",\"2\",\"b\xc3\",\"1\"]");
        assert_eq!(all, Members { totals: counts(&[("a", 3), ("😂", 2)]), skipped: 2 });
    }

    #[test]
    fn other_messages_are_errors() {
        for message in ["", "{}", "[1]", r#"[1,2,"other",{}]"#, r#"[-1,2,"",{}]"#, r#"[1,2,"",[1,2]]"#] {
            serde_json::from_str::<ScriptMessage>(message).unwrap_err();
        }
    }
}
