//! Namespaces: the paths, and other names, that messages are sent to and that readers subscribe to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The most bytes a namespace may have, separators included.
pub const MAX_NAMESPACE_BYTES: usize = 512;
/// The most segments a namespace may have.
pub const MAX_NAMESPACE_DEPTH: usize = 16;
/// The most bytes a namespace may have that is a name.
pub const MAX_NAME_BYTES: usize = 2048;

/// Begins the internal text of a name, so that names and paths never mix: no path contains it.
pub(crate) const NAME_MARKER: char = '\u{1}';

/// A path of segments such as `/details/1F602`; the root is `/`. Or a name: any other text, such as `https://example.com/books/1`.
/// Cheap to clone.
///
/// A segment of a path is not empty and contains neither `/` nor control characters, and a name has no control characters. So two
/// namespaces are equal exactly if their texts are, and none can put a line break onto the wire. A path has at most
/// [`MAX_NAMESPACE_BYTES`] bytes and [`MAX_NAMESPACE_DEPTH`] segments, a name at most [`MAX_NAME_BYTES`].
///
/// A name is not below any path but the root, and nothing is below it: `foo` is not `/foo`, and `/a/` is a name beside the path `/a`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

/// Why a text is not a [`Namespace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// It does not start with `/`.
    #[error("a namespace must start with '/'")]
    NotAbsolute,
    /// Two separators follow each other.
    #[error("a namespace must not have an empty segment ('//')")]
    EmptySegment,
    /// A segment holds a control character, or an encoded separator.
    #[error("a namespace must not have control characters or an encoded '/'")]
    Forbidden,
    /// A percent-encoding is broken, or does not decode to UTF-8.
    #[error("invalid percent-encoding: expected '%' and two hexadecimal digits, decoded to UTF-8")]
    Encoding,
    /// Longer than [`MAX_NAMESPACE_BYTES`].
    #[error("a namespace has at most {MAX_NAMESPACE_BYTES} bytes")]
    TooLong,
    /// A name that is longer than [`MAX_NAME_BYTES`].
    #[error("a namespace that is not a path has at most {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    /// Deeper than [`MAX_NAMESPACE_DEPTH`].
    #[error("a namespace has at most {MAX_NAMESPACE_DEPTH} segments")]
    TooDeep,
}

impl Namespace {
    /// The namespace that is the parent of all others: `/`.
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// The namespace of any text: the path if `text` is exactly that of a path, and otherwise a name.
    ///
    /// # Errors
    /// When the text has control characters, or is a name of more than [`MAX_NAME_BYTES`].
    pub fn from_topic(text: &str) -> Result<Self, NamespaceError> {
        if let Ok(path) = text.parse::<Self>()
            && path.as_str() == text
        {
            return Ok(path);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NamespaceError::NameTooLong);
        }
        if text.contains(char::is_control) {
            return Err(NamespaceError::Forbidden);
        }
        Ok(Self([NAME_MARKER.encode_utf8(&mut [0; 4]), text].concat().into()))
    }

    /// An [internal text](Self::internal) that was a namespace before, or the beginning of one.
    pub(crate) fn from_valid(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, after a marker if it is a name.
    pub(crate) fn internal(&self) -> &str {
        &self.0
    }

    /// Whether it is a name, not a path.
    pub fn is_name(&self) -> bool {
        self.0.starts_with(NAME_MARKER)
    }

    /// Joins `segments` below the root.
    ///
    /// # Errors
    /// When a segment is empty, holds `/` or a control character, or the whole is too long or too deep.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, NamespaceError> {
        let mut path = String::new();
        for (index, segment) in segments.into_iter().enumerate() {
            if segment.is_empty() {
                return Err(NamespaceError::EmptySegment);
            }
            if segment.contains(|c: char| c == '/' || c.is_control()) {
                return Err(NamespaceError::Forbidden);
            }
            if index == MAX_NAMESPACE_DEPTH {
                return Err(NamespaceError::TooDeep);
            }
            if path.len() + 1 + segment.len() > MAX_NAMESPACE_BYTES {
                return Err(NamespaceError::TooLong);
            }
            path.push('/');
            path.push_str(segment);
        }
        Ok(if path.is_empty() { Self::root() } else { Self(path.into()) })
    }

    /// The segments, outermost first; none for the root. A name is one segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        let name = self.0.strip_prefix(NAME_MARKER);
        let path = if name.is_some() { "" } else { &*self.0 };
        name.into_iter().chain(path.split('/').filter(|segment| !segment.is_empty()))
    }

    /// Whether it is `/`.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// Whether a reader of this namespace receives what is sent to `other`: this is `other` or one of its parents.
    pub fn contains(&self, other: &Self) -> bool {
        if self.is_name() || other.is_name() {
            return self.is_root() || self == other;
        }
        let mut theirs = other.segments();
        self.segments().all(|segment| theirs.next() == Some(segment))
    }

    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        self.0.strip_prefix(NAME_MARKER).unwrap_or(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    /// Reads a namespace as written in configuration: no percent-encoding; one trailing `/` is ignored.
    fn from_str(text: &str) -> Result<Self, NamespaceError> {
        Self::from_segments(split(text)?)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// The segments of a path that begins with `/`; one `/` at its end is ignored.
pub(crate) fn split(path: &str) -> Result<impl Iterator<Item = &str>, NamespaceError> {
    let path = path.strip_prefix('/').ok_or(NamespaceError::NotAbsolute)?;
    let path = match path.strip_suffix('/') {
        Some("") => return Err(NamespaceError::EmptySegment),
        Some(path) => path,
        None => path,
    };
    // The root has no segments, though splitting an empty text gives one.
    Ok(path.split('/').skip(usize::from(path.is_empty())))
}

/// Decodes percent-encoding (RFC 3986, §2.1), once.
pub(crate) fn decode(segment: &str) -> Result<String, NamespaceError> {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            decoded.push(byte);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(NamespaceError::Encoding);
        };
        #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits are at most 255")]
        decoded.push((high * 16 + low) as u8);
        rest = &tail[2..];
    }
    String::from_utf8(decoded).map_err(|_| NamespaceError::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ns(text: &str) -> Namespace {
        text.parse().unwrap()
    }

    #[test]
    fn namespaces_match_by_whole_segments() {
        assert!(ns("/details").contains(&ns("/details/26")));
        assert!(ns("/details/26").contains(&ns("/details/26")));
        assert!(!ns("/details/26").contains(&ns("/details/2665")));
        assert!(!ns("/details/26").contains(&ns("/details")));
        assert!(Namespace::root().contains(&ns("/raw")));
    }

    #[test]
    fn one_trailing_slash_is_ignored() {
        assert_eq!(ns("/details/"), ns("/details"));
        assert_eq!(ns("/"), Namespace::root());
        assert_eq!("//".parse::<Namespace>(), Err(NamespaceError::EmptySegment));
        assert_eq!("/a//b".parse::<Namespace>(), Err(NamespaceError::EmptySegment));
    }

    #[test]
    fn segments_without_a_place_in_a_path_are_refused() {
        for segment in ["a/b", "\n", "a\u{7f}"] {
            assert_eq!(Namespace::from_segments([segment]), Err(NamespaceError::Forbidden), "{segment:?}");
        }
        assert_eq!(Namespace::from_segments(["a", ""]), Err(NamespaceError::EmptySegment));
        assert_eq!("a".parse::<Namespace>(), Err(NamespaceError::NotAbsolute));
        assert_eq!(Namespace::from_segments([]), Ok(Namespace::root()));
        assert_eq!(format!("{:?} {}", ns("/a b"), ns("/a b")), "\"/a b\" /a b");
        assert_eq!(ns("/a/b").segments().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn percent_encoding_is_decoded_once() {
        assert_eq!(decode("a%20%2541%F0%9F%98%82z").as_deref(), Ok("a %41😂z"));
        for segment in ["%", "%4", "%g0", "%0g", "%ff", "a%"] {
            assert_eq!(decode(segment), Err(NamespaceError::Encoding), "{segment}");
        }
    }

    #[test]
    fn bounds_are_enforced() {
        let deep = "/a".repeat(MAX_NAMESPACE_DEPTH);
        assert!(deep.parse::<Namespace>().is_ok());
        assert_eq!(format!("{deep}/a").parse::<Namespace>(), Err(NamespaceError::TooDeep));
        let long = format!("/{}", "a".repeat(MAX_NAMESPACE_BYTES - 1));
        assert!(long.parse::<Namespace>().is_ok());
        assert_eq!(format!("{long}a").parse::<Namespace>(), Err(NamespaceError::TooLong));
    }

    #[test]
    fn every_other_text_is_a_name_beside_the_paths() {
        let topic = |text: &str| Namespace::from_topic(text).unwrap();
        for path in ["/", "/a", "/a/b c", "/*"] {
            assert!(!topic(path).is_name() && topic(path).as_str() == path, "{path}");
        }
        let long = format!("/{}", "a".repeat(MAX_NAMESPACE_BYTES));
        for name in ["foo", "/a/", "//", "", "https://e/1", "/a//b", &long] {
            assert!(topic(name).is_name() && topic(name).as_str() == name, "{name}");
            assert_eq!(
                (topic(name).to_string().as_str(), topic(name).segments().collect::<Vec<_>>()),
                (name, vec![name])
            );
            assert!(Namespace::root().contains(&topic(name)) && topic(name).contains(&topic(name)), "{name}");
            assert!(!topic(name).contains(&ns("/a")) && !ns("/foo").contains(&topic(name)), "{name}");
        }
        assert!(
            topic("foo") != ns("/foo") && !ns("/a").contains(&topic("/a/")) && !topic("foo").contains(&topic("foo/a"))
        );
        assert_eq!(Namespace::from_topic("a\nb"), Err(NamespaceError::Forbidden));
        assert!(Namespace::from_topic(&"a".repeat(MAX_NAME_BYTES)).is_ok());
        assert_eq!(Namespace::from_topic(&"a".repeat(MAX_NAME_BYTES + 1)), Err(NamespaceError::NameTooLong));
    }

    proptest! {
        #[test]
        fn display_and_parse_round_trip(path in "(/[^\\x00]{0,8}){0,6}") {
            if let Ok(namespace) = path.parse::<Namespace>() {
                prop_assert_eq!(namespace.as_str().parse::<Namespace>().unwrap(), namespace.clone());
                prop_assert!(!namespace.as_str().contains(char::is_control));
            }
        }
    }
}
