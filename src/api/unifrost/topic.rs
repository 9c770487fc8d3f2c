//! Topics of the contract, which are texts, as topics of the engine, and back.

use tallycast_fanout::{Namespace, NamespaceError, Topic};

use crate::decode::OWN_CHANNELS;

/// The namespace that all topics are below.
pub const NAMESPACE: &str = "/unifrost";

/// Why a text is not a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidTopic {
    #[error("a topic must not be empty, nor have an empty segment between /")]
    Empty,
    #[error("a topic must not start with {OWN_CHANNELS}")]
    Reserved,
    #[error("a topic must not have control characters")]
    Forbidden,
    #[error("a topic is too long, or has too many segments between /")]
    TooLong,
}

/// The namespace of a text.
pub(super) fn namespace(text: &str) -> Result<Namespace, InvalidTopic> {
    if text.starts_with(OWN_CHANNELS) {
        return Err(InvalidTopic::Reserved);
    }
    let path = format!("{NAMESPACE}/{text}");
    let namespace: Namespace = path.parse().map_err(|error| match error {
        NamespaceError::EmptySegment => InvalidTopic::Empty,
        NamespaceError::TooLong | NamespaceError::TooDeep => InvalidTopic::TooLong,
        _ => InvalidTopic::Forbidden,
    })?;
    // A `/` at the end is ignored there, and the text would not come back.
    if namespace.as_str() == path { Ok(namespace) } else { Err(InvalidTopic::Empty) }
}

/// The topic of a text: its namespace alone, because topics of the contract have none below them.
pub(super) fn topic(text: &str) -> Result<Topic, InvalidTopic> {
    namespace(text).map(Topic::exact)
}

/// The text of a topic, as clients know it. Topics that are not of the contract, which a backend may give to a consumer, are paths.
pub(super) fn text(topic: &str) -> &str {
    topic.strip_prefix(NAMESPACE).and_then(|rest| rest.strip_prefix('/')).unwrap_or(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_valid_text_comes_back() {
        for valid in ["a", "a b", "news:de", "a/b", "*", "**", "ü\u{1f602}", "\"", "a.b,c", "unifrost"] {
            let topic = topic(valid).unwrap();
            assert_eq!(text(topic.as_namespace().unwrap().as_str()), valid);
        }
        assert_eq!([text("/news"), text("/unifrost"), text("/unifrosty/a")], ["/news", "/unifrost", "/unifrosty/a"]);
    }

    #[test]
    fn topics_are_for_one_namespace_alone() {
        let [a, star] = ["a", "*"].map(|text| topic(text).unwrap());
        let namespace = |text: &str| text.parse::<Namespace>().unwrap();
        assert!(a.contains(&namespace("/unifrost/a")) && !a.contains(&namespace("/unifrost/a/b")));
        assert!(star.contains(&namespace("/unifrost/*")) && !star.contains(&namespace("/unifrost/a")));
        assert!("/unifrost/a".parse::<Topic>().unwrap().covers(&a));
    }

    #[test]
    fn other_texts_are_refused() {
        for empty in ["", "/", "/a", "a/", "a//b"] {
            assert_eq!(topic(empty), Err(InvalidTopic::Empty), "{empty:?}");
        }
        assert_eq!(topic("a\nb"), Err(InvalidTopic::Forbidden));
        assert_eq!(topic(&"a".repeat(600)), Err(InvalidTopic::TooLong));
        assert_eq!(topic(&["a"; 20].join("/")), Err(InvalidTopic::TooLong));
        assert_eq!(topic("tallycast:sessions:events"), Err(InvalidTopic::Reserved));
    }
}
