//! Keys -> the hash slots of a Redis Cluster (Redis Cluster specification, "Key distribution model"). Pure.

use redis::{Arg, Cmd, Pipeline};

/// The number of hash slots.
pub(crate) const SLOTS: u16 = 16384;

/// The slot of a key, or of a channel of sharded pub/sub.
pub(crate) fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// What decides about the slot: the text in the first pair of braces, or the whole key without one.
fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = || {
        let start = key.iter().position(|byte| *byte == b'{')? + 1;
        let length = key[start..].iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &key[start..start + length])
    };
    tag().unwrap_or(key)
}

/// A text that, in braces at the start of a key, puts it into the slot of `other`.
pub(crate) fn tag_of(other: &str) -> String {
    let tag = hash_tag(other.as_bytes());
    match str::from_utf8(tag) {
        Ok(tag) if !tag.is_empty() && !tag.contains('}') => tag.to_owned(),
        // No tag is possible with these bytes, so another one of the same slot is found; one of 16,384 numbers is.
        _ => {
            let slot = slot(other.as_bytes());
            let mut numbers = (0_u32..).map(|number| number.to_string());
            numbers.find(|number| self::slot(number.as_bytes()) == slot).unwrap_or_default()
        }
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    })
}

/// The slot that a command belongs to; `None` if any node can answer it. A channel counts as a key, so that what is published there
/// goes through one node, and keeps its order.
pub(super) fn of_command(command: &Cmd) -> Option<u16> {
    let mut arguments = command.args_iter().filter_map(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    let key = match arguments.next()? {
        b"EVAL" => match arguments.nth(1)? {
            b"0" => None,
            _ => arguments.next(),
        },
        b"MEMORY" | b"XINFO" => arguments.nth(1),
        _ => arguments.next(),
    };
    key.map(slot)
}

/// The slot that all commands of a pipeline belong to. Keys decide before channels: any node publishes on any channel.
pub(super) fn of_pipeline(pipeline: &Pipeline) -> Option<u16> {
    let publishes = |command: &&Cmd| command.args_iter().next() == Some(Arg::Simple(b"PUBLISH"));
    let with_keys = pipeline.cmd_iter().filter(|command| !publishes(command)).find_map(of_command);
    with_keys.or_else(|| pipeline.cmd_iter().find_map(of_command))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // The check value of the specification, and answers of `CLUSTER KEYSLOT`.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [("foo", 12182), ("{foo}bar", 12182), ("x{foo}{bar}", 12182), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(hash_tag(b"a{}{b}"), b"a{}{b}");
        assert_eq!(hash_tag(b"a{{b}}"), b"{b");
        assert_eq!(hash_tag(b"a{b"), b"a{b");
    }

    #[test]
    fn commands_go_where_their_keys_are() {
        let command = |arguments: &[&str]| {
            let mut command = redis::cmd(arguments[0]);
            command.arg(&arguments[1..]);
            command
        };
        let foo = Some(slot(b"foo"));
        for arguments in [
            &["XADD", "foo", "*", "data", "x"][..],
            &["EVAL", "return 1", "1", "foo", "bar"],
            &["MEMORY", "USAGE", "foo"],
            &["PUBLISH", "foo", "bar"],
        ] {
            assert_eq!(of_command(&command(arguments)), foo, "{arguments:?}");
        }
        for arguments in [&["PING"][..], &["EVAL", "return 1", "0", "foo"]] {
            assert_eq!(of_command(&command(arguments)), None, "{arguments:?}");
        }
        let mut pipeline = redis::pipe();
        pipeline.add_command(command(&["PUBLISH", "bar", "x"]));
        assert_eq!(of_pipeline(&pipeline), Some(slot(b"bar")));
        pipeline.add_command(command(&["XADD", "foo", "*", "data", "x"]));
        assert_eq!(of_pipeline(&pipeline), foo);
    }

    proptest! {
        #[test]
        fn a_tag_leads_to_the_slot_of_any_key(key in "[a{}]{0,6}") {
            prop_assert_eq!(slot(format!("{{{}}}:x", tag_of(&key)).as_bytes()), slot(key.as_bytes()), "{}", key);
        }
    }
}
