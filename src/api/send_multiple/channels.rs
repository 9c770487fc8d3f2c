//! The channels that the path and the query of a request name.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use tallycast_fanout::Namespace;

use crate::auth::credentials::query_value;
use crate::decode::{ChannelError, Routes};

/// Query parameters that are lists, and what the last parts of their channels start with. With any of them, the whole path comes before
/// the last part.
const LISTS: [(&str, &str); 5] = [
    ("organisation_code", "org_"),
    ("branch_code", "branch_"),
    ("advisor_code", "advisor_"),
    ("account", ""),
    ("account_id", ""),
];
/// Between the parts of a channel.
const SEPARATOR: &str = ":";

/// Why a request does not name channels. The client sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the path has an empty segment; expected /p1/p2/.../items with 2 to 6 segments")]
    EmptySegment,
    #[error("the path has invalid percent-encoding; expected UTF-8")]
    Encoding,
    #[error("{0} has an empty item; expected a list such as A,B")]
    EmptyItem(&'static str),
    #[error("expected at most {0} channels, found more (--max-topics)")]
    TooMany(usize),
    #[error("no messages of the channel {0:?} can be read: {1}")]
    Channel(String, ChannelError),
}

/// A channel of a request, as the routes map it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) namespace: Namespace,
    /// Whether the route of all channels of the contract decides about it, and not one that is more specific.
    pub(super) is_own: bool,
}

/// The channels of a request, at most `max`, without `prefix`: `segments` of the path, and the lists of the query.
pub(super) fn channels(segments: &str, query: &str, max: usize) -> Result<BTreeSet<String>, RequestError> {
    let decoded = segments.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
    let mut channels = BTreeSet::new();
    let mut add = |parents: &[String], start: &str, name: &'static str, list: &str| {
        for item in list.split(',') {
            if item.is_empty() {
                return Err(RequestError::EmptyItem(name));
            }
            let last = format!("{start}{item}");
            channels.insert(parents.iter().map(String::as_str).chain([&*last]).collect::<Vec<_>>().join(SEPARATOR));
            if channels.len() > max {
                return Err(RequestError::TooMany(max));
            }
        }
        Ok(())
    };
    let lists = LISTS.into_iter().filter_map(|(name, start)| Some((name, start, query_value(query, name)?)));
    let mut has_lists = false;
    for (name, start, list) in lists {
        has_lists = true;
        add(&decoded, start, name, &list)?;
    }
    if let (false, Some((items, parents))) = (has_lists, decoded.split_last()) {
        add(parents, "", "the last segment of the path", items)?;
    }
    Ok(channels)
}

/// A segment of a path, as text.
fn decode(segment: &str) -> Result<String, RequestError> {
    if segment.is_empty() {
        return Err(RequestError::EmptySegment);
    }
    percent_decode_str(segment).decode_utf8().map(Into::into).map_err(|_| RequestError::Encoding)
}

/// Finds out by the routes where messages of `channel` go, whose name follows `prefix` in Redis.
pub(super) fn mapped(routes: &Routes, prefix: &str, channel: &str) -> Result<Channel, RequestError> {
    let mapped = routes.namespace_of(&format!("{prefix}{channel}"), prefix);
    let (namespace, is_own) = mapped.map_err(|error| RequestError::Channel(channel.to_owned(), error))?;
    Ok(Channel { namespace, is_own })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(segments: &str, query: &str) -> Result<Vec<String>, String> {
        channels(segments, query, 4).map(|found| found.into_iter().collect()).map_err(|error| error.to_string())
    }

    fn found(segments: &str, query: &str) -> String {
        of(segments, query).unwrap().join(" ")
    }

    #[test]
    fn last_segment_is_a_list() {
        assert_eq!(
            found("v1/annoucement/news/asx/ANZ.ASX,BHP.ASX", "token=a"),
            "v1:annoucement:news:asx:ANZ.ASX v1:annoucement:news:asx:BHP.ASX"
        );
        // As pages send it.
        assert_eq!(found("a/b%20c/X%2CY,X", ""), "a:b c:X a:b c:Y");
        assert_eq!(found("a,b/c", "organisation_code=&account"), "a,b:c");
        assert_eq!(found("a/b:c+d", ""), "a:b:c+d");
    }

    #[test]
    fn lists_of_the_query_follow_the_whole_path() {
        let query = "organisation_code=1,2&branch_code=3&advisor_code=4";
        assert_eq!(found("v1/order", query), "v1:order:advisor_4 v1:order:branch_3 v1:order:org_1 v1:order:org_2");
        assert_eq!(found("v1/order", "account=5%2C6&account_id=6,7"), "v1:order:5 v1:order:6 v1:order:7");
        assert_eq!(found("a/b/c/d/e/f", "account=7"), "a:b:c:d:e:f:7");
        // The first one counts.
        assert_eq!(found("a/b,c", "account=1&account=2"), "a:b,c:1");
    }

    #[test]
    fn error_says_what_was_expected() {
        let error = |segments: &str, query: &str| of(segments, query).unwrap_err();
        assert_eq!(error("a//b", ""), "the path has an empty segment; expected /p1/p2/.../items with 2 to 6 segments");
        assert_eq!(error("a/%ff", ""), "the path has invalid percent-encoding; expected UTF-8");
        let expected = "has an empty item; expected a list such as A,B";
        assert_eq!(error("a/b,", ""), format!("the last segment of the path {expected}"));
        assert_eq!(error("a/b", "branch_code=1,,2"), format!("branch_code {expected}"));
        let count = "expected at most 4 channels, found more (--max-topics)";
        assert_eq!(error("a/1,2,3,4,5", ""), count);
        assert_eq!(error("a/b", "account=1,2&account_id=3&branch_code=1,2"), count);
        // Each channel counts once.
        assert_eq!(found("a/1,2,3,4,1", ""), "a:1 a:2 a:3 a:4");
    }

    #[test]
    fn routes_decide_about_namespaces() {
        let routes = ["dev:*=/send-multiple/**", "dev:private:*=/private/*", "dev:news:*=/news"];
        let routes = Routes::new(routes.iter().map(|route| route.parse().unwrap()).collect()).unwrap();
        let of = |channel: &str| {
            mapped(&routes, "dev:", channel)
                .map(|found| (found.namespace.to_string(), found.is_own))
                .map_err(|e| e.to_string())
        };
        assert_eq!(of("v1:a:ANZ.ASX"), Ok(("/send-multiple/v1/a/ANZ.ASX".to_owned(), true)));
        assert_eq!(of("private:a:b"), Ok(("/private/a:b".to_owned(), false)));
        let error = |channel: &str| of(channel).unwrap_err();
        assert_eq!(
            error("a::b"),
            "no messages of the channel \"a::b\" can be read: a namespace must not have an empty segment ('//')"
        );
        assert!(error("a:b/c").ends_with("a namespace must not have control characters or an encoded '/'"));
        assert!(error("a:b\n").contains("\"a:b\\n\""), "{}", error("a:b\n"));
        assert_eq!(
            error("news:a"),
            "no messages of the channel \"news:a\" can be read: the route dev:news:* sends several channels to /news"
        );
    }
}
