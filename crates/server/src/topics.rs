//! The topics that a request's path and query name.

use crate::query::{NearMiss, TOPIC, check_names, one_line};
use tallycast_fanout::{Namespace, Topic, TopicError, Topics};

/// Why a request does not name topics, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// In the path after the prefix, which may be empty.
    #[error("bad path{}: {error}", after(prefix))]
    Path { prefix: String, error: TopicError },
    /// In the query.
    #[error("bad query: topic={0}: {1}")]
    Query(String, TopicError),
    /// A parameter's name.
    #[error(transparent)]
    Name(#[from] NearMiss),
    /// In path and query together.
    #[error("bad path or query: {0}")]
    Count(TopicError),
}

fn after(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!(" after {prefix}") }
}

/// The topics of a request: those of its path after `prefix`, whose last segment may be several, separated by commas, and
/// those of each `topic` in its query: at most `max`. Without either, all.
pub(crate) fn topics(prefix: &str, path: &str, query: &str, max: usize) -> Result<Topics, RequestError> {
    check_names(query)?;
    let in_path = |error| RequestError::Path { prefix: prefix.to_owned(), error };
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut topics =
        if path.is_empty() { Vec::new() } else { Topic::several_from_url_path(path, max).map_err(in_path)? };
    for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == TOPIC) {
        if topics.len() == max {
            return Err(RequestError::Count(TopicError::TooManyTopics(max)));
        }
        let topic = value.parse();
        topics.push(topic.map_err(|error| RequestError::Query(one_line(&value), error))?);
    }
    if topics.is_empty() {
        topics.push(Namespace::root().into());
    }
    Topics::new(topics).map_err(RequestError::Count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, query: &str) -> String {
        topics("/subscribe", path, query, 3).map_or_else(|error| error.to_string(), |topics| topics.to_string())
    }

    #[test]
    fn topics_come_from_path_and_query() {
        assert_eq!(of("", ""), "/");
        assert_eq!(of("/", "a=b"), "/");
        assert_eq!(of("/price/B,A", ""), "/price/A,/price/B");
        assert_eq!(of("/price/A/", "topic=/raw&snapshot=0&topic=/details/*"), "/details/*,/price/A,/raw");
        assert_eq!(of("", "topic=%2Fa%2Cb+c&topic=/%D0%B1"), "/a,b c,/б");
        assert_eq!(of("/*/asx/**", ""), "/*/asx/**");
    }

    #[test]
    fn error_names_its_place() {
        assert_eq!(of("//", ""), "bad path after /subscribe: a namespace must not have an empty segment ('//')");
        assert_eq!(of("/a,,b", ""), "bad path after /subscribe: a namespace must not have an empty segment ('//')");
        assert_eq!(of("/a,", ""), "bad path after /subscribe: a namespace must not have an empty segment ('//')");
        assert_eq!(of("", "topics=/a"), "bad query: unknown parameter \"topics\"; did you mean topic?");
        assert_eq!(of("", "topic=raw"), "bad query: topic=raw: a namespace must start with '/'");
        assert_eq!(of("", "topic=%0Araw%0D"), "bad query: topic=\u{fffd}raw\u{fffd}: a namespace must start with '/'");
        let count = "expected at most 3 topics, found more";
        assert_eq!(of("/0,1,2,3", ""), format!("bad path after /subscribe: {count}"));
        assert_eq!(of("/a", &"topic=/a&".repeat(3)), format!("bad path or query: {count}"));
        // The invalid topic is not reached.
        assert_eq!(of("", &format!("{}topic=", "topic=/a&".repeat(3))), format!("bad path or query: {count}"));
        let error = |prefix| topics(prefix, "//", "", 3).unwrap_err().to_string();
        assert_eq!(error("/ws"), "bad path after /ws: a namespace must not have an empty segment ('//')");
        assert_eq!(error(""), "bad path: a namespace must not have an empty segment ('//')");
    }
}
