//! The messages that clients may send: changes of their topics.

use serde::Deserialize;

use tallycast_fanout::{Topic, TopicError, Topics};

/// A message of a client. With both fields the topics change in one step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    subscribe: Option<Vec<String>>,
    unsubscribe: Option<Vec<String>>,
}

/// Why a message is not understood, or cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It is not a command.
    #[error(r#"expected {{"subscribe": ["/topic", ...]}} or {{"unsubscribe": ["/topic", ...]}}: {0}"#)]
    Json(#[from] serde_json::Error),
    /// It has neither field.
    #[error(r#"expected {{"subscribe": ["/topic", ...]}} or {{"unsubscribe": ["/topic", ...]}}"#)]
    Nothing,
    /// A topic is not valid.
    #[error("bad topic {0:?}: {1}")]
    Topic(String, TopicError),
    /// It unsubscribes from a topic that the client does not read.
    #[error("not subscribed to {0}; subscribed to [{1}]")]
    NotSubscribed(Topic, Topics),
    /// There would be too many.
    #[error(transparent)]
    Count(TopicError),
}

/// The topics that a client that reads `topics` asks for with the message `text`.
pub(crate) fn apply_command(text: &str, topics: &Topics) -> Result<Topics, CommandError> {
    let Command { subscribe, unsubscribe } = serde_json::from_str(text)?;
    if subscribe.is_none() && unsubscribe.is_none() {
        return Err(CommandError::Nothing);
    }
    let parsed = |texts: Option<Vec<String>>| {
        let parse = |text: String| text.parse::<Topic>().map_err(|error| CommandError::Topic(text, error));
        texts.unwrap_or_default().into_iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let mut wanted: Vec<Topic> = topics.iter().cloned().collect();
    for topic in parsed(unsubscribe)? {
        let Some(place) = wanted.iter().position(|one| *one == topic) else {
            return Err(CommandError::NotSubscribed(topic, topics.clone()));
        };
        wanted.swap_remove(place);
    }
    wanted.append(&mut parsed(subscribe)?);
    if wanted.is_empty() { Ok(Topics::none()) } else { Topics::new(wanted).map_err(CommandError::Count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, topics: &[&str]) -> String {
        let topics = Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap();
        apply_command(text, &topics).map_or_else(|error| error.to_string(), |topics| topics.to_string())
    }

    #[test]
    fn topics_are_added_and_removed() {
        assert_eq!(of(r#"{"subscribe": ["/raw", "/eps"]}"#, &["/eps"]), "/eps,/raw");
        assert_eq!(of(r#"{"unsubscribe": ["/eps"]}"#, &["/eps", "/raw"]), "/raw");
        assert_eq!(of(r#"{"unsubscribe": ["/eps"], "subscribe": ["/details/*"]}"#, &["/eps"]), "/details/*");
        assert_eq!(of(r#"{"unsubscribe": ["/eps"]}"#, &["/eps"]), "");
        assert_eq!(of(r#"{"subscribe": []}"#, &["/eps"]), "/eps");
    }

    #[test]
    fn errors_name_the_mistake() {
        let expected = r#"expected {"subscribe": ["/topic", ...]} or {"unsubscribe": ["/topic", ...]}"#;
        assert_eq!(of("{}", &["/"]), expected);
        assert_eq!(of("hello", &["/"]), format!("{expected}: expected value at line 1 column 1"));
        assert_eq!(
            of(r#"{"publish": 1}"#, &["/"]),
            format!("{expected}: unknown field `publish`, expected `subscribe` or `unsubscribe` at line 1 column 10")
        );
        assert_eq!(of(r#"{"subscribe": ["raw"]}"#, &["/"]), "bad topic \"raw\": a namespace must start with '/'");
        assert_eq!(of(r#"{"unsubscribe": ["/raw"]}"#, &["/"]), "not subscribed to /raw; subscribed to [/]");
        let many: Vec<String> = (0..64).map(|number| format!("\"/{number}\"")).collect();
        let many = format!("{{\"subscribe\": [{}]}}", many.join(","));
        assert_eq!(of(&many, &["/"]), "expected 1 to 64 topics, found 65");
    }
}
