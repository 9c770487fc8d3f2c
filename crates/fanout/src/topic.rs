//! Topics: namespaces with wildcards, which readers subscribe to, and sets of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::namespace::{decode, split};
use crate::{MAX_NAMESPACE_DEPTH, Namespace, NamespaceError};

/// The most topics of one reader. Transports may allow fewer.
pub const MAX_TOPICS: usize = 4096;
/// The most `*` in one topic: each may double the number of trie nodes that a message visits.
pub const MAX_WILDCARDS: usize = 4;

/// A set of namespaces that a reader subscribes to.
///
/// - `/price` is the namespace and everything below it.
/// - `/price/*` is every namespace one segment below `/price`, and nothing deeper. At most [`MAX_WILDCARDS`] segments may be `*`.
/// - `/*/asx/**` is every namespace of two segments whose second one is `asx`, and everything below. `**` only at the end.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    /// Literal segments, and `*`; a literal never contains `*`.
    path: Namespace,
    /// Whether everything below belongs to it too.
    recursive: bool,
}

/// Why a text is not a [`Topic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// It is not a valid namespace either.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// `*` is part of a segment, or encoded.
    #[error("* must be a whole segment, and ** the last one")]
    Wildcard,
    /// More than [`MAX_WILDCARDS`].
    #[error("a topic has at most {MAX_WILDCARDS} wildcards")]
    TooManyWildcards,
    /// A segment of a URL's path that other software could read as another one.
    #[error(
        "a path must not have the segments . or .., nor commas inside a topic; use ?topic= for a topic with a comma"
    )]
    Ambiguous,
    /// A set of topics is empty.
    #[error("expected at least one topic")]
    NoTopics,
    /// More than this many, which is at most [`MAX_TOPICS`].
    #[error("expected at most {0} topics, found more")]
    TooManyTopics(usize),
}

/// A segment of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment<'a> {
    Literal(&'a str),
    Any,
}

impl Topic {
    /// Reads the path of a URL: percent-encoding is decoded once, segment by segment; one trailing `/` is ignored.
    ///
    /// # Errors
    /// As for text, when the encoding is broken, and when other software could read another topic: an encoded `/`, `,` or `*`,
    /// and the segments `.` and `..`.
    pub fn from_url_path(path: &str) -> Result<Self, TopicError> {
        Self::from_segments(&path_segments(split(path)?)?)
    }

    /// Reads the path of a URL whose last segment may be several, separated by commas: `/price/A,B` is `/price/A` and
    /// `/price/B`. Reads each segment once, and nothing after the topic that is one too many. Not for the root.
    ///
    /// # Errors
    /// As [`from_url_path`](Self::from_url_path), when a name between commas is empty, and when there are more than `max`
    /// topics.
    pub fn several_from_url_path(path: &str, max: usize) -> Result<Vec<Self>, TopicError> {
        let path = path.strip_prefix('/').ok_or(NamespaceError::NotAbsolute)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let (parents, last) = path.rsplit_once('/').map_or((None, path), |(parents, last)| (Some(parents), last));
        let parents = path_segments(parents.into_iter().flat_map(|parents| parents.split('/')))?;
        let mut topics = Vec::new();
        for name in last.split(',') {
            if name.is_empty() {
                return Err(NamespaceError::EmptySegment.into());
            }
            if topics.len() == max {
                return Err(TopicError::TooManyTopics(max));
            }
            let name = path_segment(name)?;
            let segments: Vec<&str> = parents.iter().chain([&name]).map(String::as_str).collect();
            topics.push(Self::from_segments(&segments)?);
        }
        Ok(topics)
    }

    fn from_segments(segments: &[impl AsRef<str>]) -> Result<Self, TopicError> {
        let mut segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let rest = segments.last() == Some(&"**");
        if rest {
            segments.pop();
        }
        let wildcards = segments.iter().filter(|segment| **segment == "*").count();
        if segments.iter().any(|segment| *segment != "*" && segment.contains('*')) {
            return Err(TopicError::Wildcard);
        }
        if wildcards > MAX_WILDCARDS {
            return Err(TopicError::TooManyWildcards);
        }
        Ok(Self { path: Namespace::from_segments(segments)?, recursive: rest || wildcards == 0 })
    }

    /// What stands for it in the text of a set.
    fn parts(&self) -> [&str; 2] {
        [self.path.as_str(), if self.recursive { "\n" } else { "\r" }]
    }

    fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.path.segments().map(|segment| if segment == "*" { Segment::Any } else { Segment::Literal(segment) })
    }

    /// The literal segments, and `*`.
    pub(crate) fn path(&self) -> &Namespace {
        &self.path
    }

    /// Whether everything below belongs to it too.
    pub(crate) fn is_recursive(&self) -> bool {
        self.recursive
    }

    /// The topic as a namespace, if it has no wildcards.
    pub fn as_namespace(&self) -> Option<&Namespace> {
        let plain = self.segments().all(|segment| segment != Segment::Any);
        plain.then_some(&self.path)
    }

    /// The longest namespace that contains all of it: the segments before the first wildcard.
    pub fn literal_prefix(&self) -> Namespace {
        let literal = self.path.segments().take_while(|segment| *segment != "*");
        // The beginning of a valid namespace is valid.
        Namespace::from_segments(literal).unwrap_or_else(|_| Namespace::root())
    }

    /// Whether a reader of this topic receives what is sent to `namespace`.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        let mut theirs = namespace.segments();
        let fits = self.segments().all(|segment| match (segment, theirs.next()) {
            (Segment::Any, Some(_)) => true,
            (Segment::Literal(ours), Some(theirs)) => ours == theirs,
            (_, None) => false,
        });
        fits && (self.recursive || theirs.next().is_none())
    }
}

impl Topic {
    /// Whether a reader of this topic receives something that is sent to `namespace` or below it: the topic is in the
    /// namespace, contains it, or matches it by wildcards.
    pub fn overlaps(&self, namespace: &Namespace) -> bool {
        let mut ours = self.segments();
        // What remains of the topic afterwards is below the namespace.
        namespace.segments().all(|theirs| match ours.next() {
            Some(Segment::Any) => true,
            Some(Segment::Literal(ours)) => ours == theirs,
            None => self.recursive,
        })
    }

    /// Whether every namespace that `other` contains is also contained in this topic.
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.segments();
        let fits = self.segments().all(|segment| match (segment, theirs.next()) {
            (Segment::Any, Some(_)) => true,
            (ours, Some(theirs)) => ours == theirs,
            (_, None) => false,
        });
        fits && (self.is_recursive() || (theirs.next().is_none() && !other.is_recursive()))
    }
}

/// The decoded segments of a URL's path. Reads no more than a topic may have: the segments of a namespace and `**`.
fn path_segments<'a>(segments: impl Iterator<Item = &'a str>) -> Result<Vec<String>, TopicError> {
    let mut decoded = Vec::new();
    for segment in segments {
        if decoded.len() > MAX_NAMESPACE_DEPTH {
            return Err(NamespaceError::TooDeep.into());
        }
        decoded.push(path_segment(segment)?);
    }
    Ok(decoded)
}

/// The decoded segment of a URL's path.
fn path_segment(raw: &str) -> Result<String, TopicError> {
    let segment = decode(raw)?;
    if !matches!(raw, "*" | "**") && (matches!(&*segment, "." | "..") || segment.contains(',')) {
        return Err(TopicError::Ambiguous);
    }
    if segment.contains('*') && !matches!(raw, "*" | "**") {
        return Err(TopicError::Wildcard);
    }
    Ok(segment)
}

impl From<Namespace> for Topic {
    /// The namespace and everything below it. A segment `*` of the namespace becomes a wildcard.
    fn from(path: Namespace) -> Self {
        Self { path, recursive: true }
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    /// Reads a topic without percent-encoding; one trailing `/` is ignored.
    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::from_segments(&split(text)?.collect::<Vec<_>>())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.path == Namespace::root();
        let rest = self.recursive && self.as_namespace().is_none();
        write!(formatter, "{}{}", self.path, if rest && !root { "/**" } else { "" })
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), formatter)
    }
}

/// The topics of one reader: at most [`MAX_TOPICS`], without duplicates, in a canonical order. A message that several of
/// them contain is sent once. Cheap to clone.
// One text, because watch-lists have many topics and every connection may have its own: the path of each topic, and after it
// `RECURSIVE` or `EXACT`, which no path contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topics(Arc<str>);

/// Ends the path of a topic that everything below belongs to, too.
const RECURSIVE: char = '\n';
/// Ends the path of any other topic.
const EXACT: char = '\r';

impl Topics {
    /// A set of topics.
    ///
    /// # Errors
    /// When there are none or too many.
    pub fn new(mut topics: Vec<Topic>) -> Result<Self, TopicError> {
        topics.sort_unstable();
        topics.dedup();
        if topics.is_empty() {
            return Err(TopicError::NoTopics);
        }
        if topics.len() > MAX_TOPICS {
            return Err(TopicError::TooManyTopics(MAX_TOPICS));
        }
        Ok(Self(topics.iter().flat_map(Topic::parts).collect::<String>().into()))
    }

    /// No topics, for a reader that receives some later.
    pub fn none() -> Self {
        Self("".into())
    }

    /// The number of topics.
    pub fn len(&self) -> usize {
        self.0.matches([RECURSIVE, EXACT]).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topics.
    pub fn iter(&self) -> impl Iterator<Item = Topic> {
        self.0.split_inclusive([RECURSIVE, EXACT]).map(|text| Topic {
            path: Namespace::from_valid(text.trim_end_matches([RECURSIVE, EXACT])),
            recursive: text.ends_with(RECURSIVE),
        })
    }

    /// The memory that a subscription to these topics takes in the engine if no other reader has any of them, in bytes, at
    /// most, roughly.
    pub fn weight(&self) -> usize {
        /// Of a feed.
        const FEED: usize = 512;
        /// Of a topic: two nodes of the trie, and its place in the set.
        const TOPIC: usize = 256;
        /// The text of a topic is in the set and in the trie.
        const COPIES: usize = 2;
        FEED + TOPIC * self.len() + COPIES * (self.0.len() - self.len())
    }

    /// The namespace, if there is one topic and it has no wildcards.
    pub fn as_namespace(&self) -> Option<Namespace> {
        let mut topics = self.iter();
        let first = topics.next()?;
        if topics.next().is_some() { None } else { first.as_namespace().cloned() }
    }
}

impl From<Namespace> for Topics {
    fn from(namespace: Namespace) -> Self {
        Self(Topic::from(namespace).parts().concat().into())
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, topic) in self.iter().enumerate() {
            write!(formatter, "{}{topic}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(text: &str) -> Topic {
        text.parse().unwrap()
    }

    #[test]
    fn topic_covers_narrower_topics() {
        let covers = |wide: &str, narrow: &str| {
            let topic = |text: &str| text.parse::<Topic>().unwrap();
            topic(wide).covers(&topic(narrow))
        };
        assert!(covers("/", "/a") && covers("/a", "/a/*") && covers("/a", "/a") && covers("/*/b/**", "/a/b/c"));
        assert!(covers("/a/*", "/a/*") && covers("/*/*", "/a/*") && covers("/a/**", "/a/*/**"));
        assert!(!covers("/a", "/") && !covers("/a/b", "/a/*") && !covers("/a/*", "/*/*") && !covers("/a", "/ab"));
        assert!(!covers("/a/*", "/a/b"), "/a/b includes what is below it");
    }

    #[test]
    fn weight_grows_with_topics_and_their_length() {
        let weight = |topics: &[&str]| {
            Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap().weight()
        };
        assert_eq!(weight(&["/a"]), 512 + 256 + 2 * 2);
        assert_eq!(weight(&["/a", "/bcd"]), 512 + 2 * 256 + 2 * (2 + 4));
    }

    #[test]
    fn only_topics_without_wildcards_are_namespaces() {
        let namespace = |topics: &[&str]| {
            let topics = Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap();
            topics.as_namespace().map(|namespace| namespace.to_string())
        };
        assert_eq!(namespace(&["/a/b"]).as_deref(), Some("/a/b"));
        assert_eq!(namespace(&["/"]).as_deref(), Some("/"));
        assert_eq!(namespace(&["/a/*"]), None);
        assert_eq!(namespace(&["/a", "/b"]), None);
        assert_eq!(Topics::none().as_namespace(), None);
    }

    #[test]
    fn debug_output_is_the_quoted_text() {
        let topics = Topics::new(vec![topic("/b"), topic("/a/*")]).unwrap();
        assert_eq!(format!("{topics:?} {:?}", topic("/*/a/**")), "\"/a/*,/b\" \"/*/a/**\"");
        assert_eq!((topics.len(), Topics::none().len()), (2, 0));
    }

    #[test]
    fn wildcard_matches_one_segment() {
        let contains = |topic: &str, namespace: &str| self::topic(topic).contains(&namespace.parse().unwrap());
        assert!(contains("/price", "/price") && contains("/price", "/price/A/1"));
        assert!(
            contains("/price/*", "/price/A") && !contains("/price/*", "/price/A/1") && !contains("/price/*", "/price")
        );
        assert!(contains("/*/asx/**", "/price/asx") && contains("/*/asx/**", "/price/asx/A/1"));
        assert!(!contains("/*/asx/**", "/price/nyse/A"));
        assert!(contains("/**", "/raw") && contains("/", "/raw") && contains("/**", "/"));
        assert_eq!(topic("/price/**"), topic("/price"));
        assert_eq!(topic("/*/a/**").to_string(), "/*/a/**");
        assert_eq!((topic("/a/*/b").literal_prefix().as_str(), topic("/*").literal_prefix().as_str()), ("/a", "/"));
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let error = |path: &str| Topic::from_url_path(path).unwrap_err();
        assert_eq!(Topic::from_url_path("/a%20b/%F0%9F%98%82").unwrap(), topic("/a b/😂"));
        assert_eq!(Topic::from_url_path("/%2541").unwrap(), topic("/%41"));
        for path in ["/a%2Fb", "/a%0Ab"] {
            assert_eq!(error(path), NamespaceError::Forbidden.into(), "{path}");
        }
        for path in ["/a%", "/%zz", "/%ff"] {
            assert_eq!(error(path), NamespaceError::Encoding.into(), "{path}");
        }
        for path in ["/a/%2e%2E", "/./a", "/a%2Cb", "/a,b/c"] {
            assert_eq!(error(path), TopicError::Ambiguous, "{path}");
        }
        for path in ["/a*", "/%2A", "/%2a*", "/**/a", "/***"] {
            assert_eq!(error(path), TopicError::Wildcard, "{path}");
        }
        assert_eq!(error("/*/*/*/*/*"), TopicError::TooManyWildcards);
        assert_eq!(error("raw"), NamespaceError::NotAbsolute.into());
        assert_eq!(topic("/a,b").to_string(), "/a,b");
    }

    #[test]
    fn last_segment_of_a_path_may_be_several() {
        let several = |path: &str| Topic::several_from_url_path(path, 2);
        assert_eq!(several("/price/B,%41/").unwrap(), [topic("/price/B"), topic("/price/A")]);
        assert_eq!(several("/*,a").unwrap(), [topic("/*"), topic("/a")]);
        for path in ["/a,,b", "/a,", "//a", "/"] {
            assert_eq!(several(path), Err(NamespaceError::EmptySegment.into()), "{path}");
        }
        assert_eq!(several("a/b"), Err(NamespaceError::NotAbsolute.into()));
        assert_eq!(several("/a,b/c"), Err(TopicError::Ambiguous));
    }

    #[test]
    fn reading_a_path_stops_at_its_limits() {
        // What follows is not valid, and not reached.
        let many = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(Topic::several_from_url_path(&format!("/{}", many(5)), 5).unwrap().len(), 5);
        let more = format!("/{},%zz", many(6));
        assert_eq!(Topic::several_from_url_path(&more, 5), Err(TopicError::TooManyTopics(5)));
        let deep = format!("{}/%zz", "/a".repeat(MAX_NAMESPACE_DEPTH + 2));
        assert_eq!(Topic::from_url_path(&deep), Err(NamespaceError::TooDeep.into()));
        assert_eq!(Topic::several_from_url_path(&deep, 5), Err(NamespaceError::TooDeep.into()));
    }

    #[test]
    fn topic_sets_ignore_order_and_duplicates() {
        let set = |texts: &[&str]| Topics::new(texts.iter().map(|text| topic(text)).collect());
        assert_eq!(set(&["/b", "/a", "/b"]), set(&["/a", "/b/**"]));
        assert_eq!(set(&["/b", "/a"]).unwrap().to_string(), "/a,/b");
        assert_eq!(set(&[]), Err(TopicError::NoTopics));
        let many: Vec<Topic> = (0..=MAX_TOPICS).map(|number| topic(&format!("/{number}"))).collect();
        assert_eq!(Topics::new(many), Err(TopicError::TooManyTopics(MAX_TOPICS)));
    }

    /// Every namespace of up to four segments.
    fn all_namespaces() -> Vec<Namespace> {
        let mut all = vec![String::new()];
        for start in 0.. {
            if all.get(start).is_none_or(|path| path.len() == 8) {
                break;
            }
            all.extend(["a", "b", "c"].map(|segment| format!("{}/{segment}", all[start])));
        }
        all.iter().map(|path| if path.is_empty() { Namespace::root() } else { path.parse().unwrap() }).collect()
    }

    proptest! {
        /// A set has the topics that it was made of, whatever characters they have.
        #[test]
        fn sets_give_back_their_topics(texts in proptest::collection::vec("(/([ab]|\\*|é ,|\u{2028})){1,4}(/\\*\\*)?", 1..6)) {
            let mut topics: Vec<Topic> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            prop_assume!(!topics.is_empty());
            let set = Topics::new(topics.clone()).unwrap();
            topics.sort_unstable();
            topics.dedup();
            prop_assert_eq!(set.len(), topics.len());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), topics);
        }

        #[test]
        fn topic_overlaps_a_namespace_if_both_contain_one(
            topic in "(/[ab*]){0,3}(/\\*\\*)?",
            namespace in "(/[ab]){0,3}",
        ) {
            let topic: Topic = if topic.is_empty() { "/" } else { &topic }.parse().unwrap();
            let namespace: Namespace = if namespace.is_empty() { "/" } else { &namespace }.parse().unwrap();
            let common = all_namespaces().iter().any(|one| topic.contains(one) && namespace.contains(one));
            prop_assert_eq!(topic.overlaps(&namespace), common, "{} {}", topic, namespace);
        }

        #[test]
        fn display_and_parse_round_trip(text in "(/[a*,. ]{0,3}){0,6}") {
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
            }
        }

        #[test]
        fn decoding_never_panics(path in "[/%*,.0-9a-zA-Z\u{80}-\u{fff}]{0,40}") {
            let one = Topic::from_url_path(&path);
            if !path.contains(',') && path != "/" {
                prop_assert_eq!(Topic::several_from_url_path(&path, 1).map(|mut topics| topics.remove(0)), one);
            }
        }
    }
}
