//! Senders, and the names of channels that carry one: a message of Redis pub/sub has a payload and nothing else.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{DecodeError, MAX_SENDER_BYTES};

/// The start of the names of channels that carry a sender: it follows, percent-encoded, and then a colon and the channel.
pub(crate) const SENT: &str = "tallycast:sent:";
/// As a component of a URL is encoded. The text contains no colon.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The channel on which a message of `sender` is published, so that it becomes an event of `channel`: without a sender, or with an empty
/// one, the channel itself.
pub fn channel_of_sender<'a>(channel: &'a str, sender: Option<&str>) -> Cow<'a, str> {
    match sender {
        None | Some("") => Cow::Borrowed(channel),
        Some(sender) => Cow::Owned(format!("{SENT}{}:{channel}", utf8_percent_encode(sender, ENCODED))),
    }
}

/// The channel that an event belongs to, and its sender if the name of the channel carries one.
pub(super) fn split_channel(name: &str) -> Result<(&str, Option<Arc<str>>), DecodeError> {
    let Some(sent) = name.strip_prefix(SENT) else { return Ok((name, None)) };
    let (sender, channel) = sent.split_once(':').ok_or(DecodeError::SentChannel)?;
    let sender = percent_decode_str(sender).decode_utf8().map_err(|_| DecodeError::NotText)?;
    Ok((channel, self::sender(&sender)?))
}

/// The sender with this name; an empty name is none.
pub(super) fn sender(name: &str) -> Result<Option<Arc<str>>, DecodeError> {
    if name.len() > MAX_SENDER_BYTES || name.contains(char::is_control) {
        return Err(DecodeError::Sender);
    }
    Ok((!name.is_empty()).then(|| Arc::from(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn channel_carries_the_encoded_sender() {
        assert_eq!(channel_of_sender("a:b", Some("Zoë:1")), "tallycast:sent:Zo%C3%AB%3A1:a:b");
        assert_eq!(split_channel("tallycast:sent:Zo%C3%AB%3A1:a:b"), Ok(("a:b", Some("Zoë:1".into()))));
        // Publishers may leave out what is not needed.
        assert_eq!(split_channel("tallycast:sent:Zoë 1:a:b"), Ok(("a:b", Some("Zoë 1".into()))));
        for plain in ["a:b", "tallycast:sent", "x:tallycast:sent:a:b"] {
            assert_eq!(channel_of_sender(plain, None), plain);
            assert_eq!(channel_of_sender(plain, Some("")), plain);
            assert_eq!(split_channel(plain), Ok((plain, None)));
        }
        assert_eq!(split_channel("tallycast:sent::a"), Ok(("a", None)));
    }

    #[test]
    fn invalid_senders_are_rejected() {
        assert_eq!(split_channel("tallycast:sent:a"), Err(DecodeError::SentChannel));
        assert_eq!(split_channel("tallycast:sent:%ff:a"), Err(DecodeError::NotText));
        assert_eq!(split_channel("tallycast:sent:%0a:a"), Err(DecodeError::Sender));
        let longest = "a".repeat(MAX_SENDER_BYTES);
        assert_eq!(sender(&longest), Ok(Some(longest.as_str().into())));
        assert_eq!(sender(&format!("{longest}a")), Err(DecodeError::Sender));
        assert_eq!(sender("a\u{85}"), Err(DecodeError::Sender));
    }

    proptest! {
        #[test]
        fn sender_and_channel_survive_the_name_of_the_channel(sender in "\\PC{1,60}|[%:/a]{1,9}", channel in ".{0,20}|[%:a]{0,9}") {
            let name = channel_of_sender(&channel, Some(&sender));
            prop_assert_eq!(split_channel(&name), Ok((channel.as_str(), Some(Arc::from(sender.as_str())))));
        }

        #[test]
        fn splitting_a_channel_never_panics(name in "(tallycast:sent:)?[%:a-f0-9\\x00-\\x1fé]{0,12}") {
            if let Ok((channel, Some(sender))) = split_channel(&name) {
                prop_assert!(name.ends_with(channel) && !sender.is_empty() && !sender.contains(char::is_control));
            }
        }
    }
}
