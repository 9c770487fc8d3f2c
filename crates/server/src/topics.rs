//! Which topics a request asks for.

use super::PREFIX;
use tallycast_fanout::{NamespaceError, Topic, TopicError, Topics};

/// Why a request asks for no topics, and where it does not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// In the path.
    #[error("bad path after {PREFIX}: {0}")]
    Path(TopicError),
    /// In the query.
    #[error("bad query: topic={0}: {1}")]
    Query(String, TopicError),
}

/// The topics of a request: those of its path after [`PREFIX`], whose last segment may be several that are separated by
/// commas, and those of each `topic` in its query. A path of nothing means all, unless the query says what.
pub(super) fn topics(path: &str, query: &str) -> Result<Topics, RequestError> {
    let mut topics = Vec::new();
    for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "topic") {
        let topic = value.parse();
        topics.push(topic.map_err(|error| RequestError::Query(value.into_owned(), error))?);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() {
        let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
        for one in last.split(',') {
            if one.is_empty() {
                return Err(RequestError::Path(NamespaceError::EmptySegment.into()));
            }
            topics.push(Topic::from_url_path(&format!("{parents}/{one}")).map_err(RequestError::Path)?);
        }
    } else if topics.is_empty() {
        topics.push(Topic::from_url_path("/").map_err(RequestError::Path)?);
    }
    Topics::new(topics).map_err(RequestError::Path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, query: &str) -> String {
        topics(path, query).map_or_else(|error| error.to_string(), |topics| topics.to_string())
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
    fn mistakes_are_named_with_their_place() {
        assert_eq!(of("//", ""), "bad path after /subscribe: a namespace has no empty segment ('//')");
        assert_eq!(of("/a,,b", ""), "bad path after /subscribe: a namespace has no empty segment ('//')");
        assert_eq!(of("/a,", ""), "bad path after /subscribe: a namespace has no empty segment ('//')");
        assert_eq!(of("", "topic=raw"), "bad query: topic=raw: a namespace starts with '/'");
        let many = (0..65).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(of(&format!("/{many}"), ""), "bad path after /subscribe: expected 1 to 64 topics, found 65");
    }
}
