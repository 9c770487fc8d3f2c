//! Topics: what readers subscribe to. Namespaces with wildcards, single namespaces, and URI templates.

mod relations;
mod set;
mod template;
#[cfg(test)]
mod template_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::namespace::{decode, split};
use crate::{MAX_NAMESPACE_DEPTH, Namespace, NamespaceError};

pub use set::Topics;
pub(crate) use template::{Part, Template, matches_with_ends};

/// The most topics of one reader. Transports may allow fewer.
pub const MAX_TOPICS: usize = 4096;
/// The most `*` in one topic: each may double the number of trie nodes that a message visits.
pub const MAX_WILDCARDS: usize = 4;

/// The segment of a topic that stands for any segment.
const ANY: &str = "*";

/// A set of namespaces that a reader subscribes to.
///
/// - `/price` is the namespace and everything below it.
/// - `/price/*` is every namespace one segment below `/price`, and nothing deeper. At most [`MAX_WILDCARDS`] segments may be `*`.
/// - `/*/asx/**` is every namespace of two segments whose second one is `asx`, and everything below. `**` only at the end.
/// - `https://example.com/books/1` is the [name](Namespace), and nothing else.
///
/// Of names, `/` and `/**` contain all, and other paths none. [`exact`](Self::exact) and [`template`](Self::template) make topics that
/// have no text of their own here: shown, they are the text of the namespace or the template.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Kind);

/// What a topic is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Path {
        /// Literal segments, and `*`; a literal never contains `*`. Not a name.
        path: Namespace,
        /// Whether everything below belongs to it too.
        is_recursive: bool,
    },
    /// This namespace alone.
    Exact(Namespace),
    /// All namespaces whose text the template may stand for.
    Template(Template),
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
        let path = Namespace::from_segments(segments)?;
        Ok(Self(Kind::Path { path, is_recursive: rest || wildcards == 0 }))
    }

    /// The namespace alone, without anything below it.
    pub fn exact(namespace: Namespace) -> Self {
        Self(Kind::Exact(namespace))
    }

    /// All namespaces whose text a URI template (RFC 6570) may stand for, such as `https://example.com/books/{id}`. Each expression
    /// stands for any values, or for nothing; a prefix modifier, as in `{id:3}`, bounds nothing. `None` if the text is not a template, or has
    /// no expression, or more than 16.
    pub fn template(text: &str) -> Option<Self> {
        Template::parse(text).map(|template| Self(Kind::Template(template)))
    }

    /// Reads a topic selector of the Mercure protocol: `*` is everything, a text with a `{` that is a [template](Self::template) is one,
    /// and any other text is [exactly](Self::exact) the namespace of this text.
    ///
    /// # Errors
    /// When the text cannot be a namespace.
    pub fn selector(text: &str) -> Result<Self, NamespaceError> {
        if text == "*" {
            return Ok(Namespace::root().into());
        }
        Self::template(text).map_or_else(|| Namespace::from_topic(text).map(Self::exact), Ok)
    }

    /// Whether it is a [template](Self::template).
    pub fn is_template(&self) -> bool {
        matches!(self.0, Kind::Template(_))
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    /// The topic as a namespace, if it has no wildcards.
    pub fn as_namespace(&self) -> Option<&Namespace> {
        match &self.0 {
            Kind::Path { path, .. } => path.segments().all(|segment| segment != ANY).then_some(path),
            Kind::Exact(namespace) => Some(namespace),
            Kind::Template(_) => None,
        }
    }

    /// The longest namespace that contains all of it: the segments before the first wildcard.
    pub fn literal_prefix(&self) -> Namespace {
        match &self.0 {
            Kind::Path { path, .. } => {
                let literal = path.segments().take_while(|segment| *segment != ANY);
                // The beginning of a valid namespace is valid.
                Namespace::from_segments(literal).unwrap_or_else(|_| Namespace::root())
            }
            Kind::Exact(namespace) => namespace.clone(),
            // Names are in the root alone.
            Kind::Template(_) => Namespace::root(),
        }
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
    /// The namespace and everything below it. A segment `*` of the namespace becomes a wildcard. A name is itself.
    fn from(path: Namespace) -> Self {
        Self(if path.is_name() { Kind::Exact(path) } else { Kind::Path { path, is_recursive: true } })
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    /// Reads a topic without percent-encoding: a path, of which one trailing `/` is ignored, or an absolute IRI, such as
    /// `https://example.com/books/1`, which is a name.
    fn from_str(text: &str) -> Result<Self, TopicError> {
        if has_scheme(text) {
            return Ok(Self::exact(Namespace::from_topic(text)?));
        }
        Self::from_segments(&split(text)?.collect::<Vec<_>>())
    }
}

/// Whether a text begins as an absolute IRI does (RFC 3986, §3.1).
fn has_scheme(text: &str) -> bool {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    text.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme))
}

impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Path { path, is_recursive } => {
                let rest = *is_recursive && !path.is_root() && self.as_namespace().is_none();
                write!(formatter, "{path}{}", if rest { "/**" } else { "" })
            }
            Kind::Exact(namespace) => namespace.fmt(formatter),
            Kind::Template(template) => formatter.write_str(template.as_str()),
        }
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), formatter)
    }
}
