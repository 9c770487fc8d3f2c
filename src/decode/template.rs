//! The namespace of a route, in which `*` stands for a text that each event has.

use tallycast_fanout::{Namespace, NamespaceError};

use super::RouteError;

/// What the namespace of a route is written as if each event names its own topics.
const TOPICS: &str = "*";

/// Makes the namespaces of a route's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Template {
    /// A path.
    Path {
        segments: Vec<Segment>,
        /// The characters at which the text that `*` stands for is split into segments; empty for no splitting.
        split: String,
    },
    /// The text itself: a path, or a name such as an IRI.
    Topics,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    /// What `*` stands for in the pattern, or the topic of an entry of a stream.
    Rest,
}

impl Template {
    /// Reads a namespace that may contain `*` or `**`, or is `*`.
    pub(super) fn parse(text: &str) -> Result<Self, RouteError> {
        if text == TOPICS {
            return Ok(Self::Topics);
        }
        // The text that replaces `*` is checked for each event.
        let namespace: Namespace = text.parse().map_err(|error| RouteError::Namespace(text.to_owned(), error))?;
        let (mut segments, mut split) = (Vec::new(), String::new());
        for segment in namespace.segments() {
            segments.push(match segment {
                "*" => Segment::Rest,
                "**" => {
                    split = ":".to_owned();
                    Segment::Rest
                }
                literal if literal.contains('*') => return Err(RouteError::Wildcard(text.to_owned())),
                literal => Segment::Literal(literal.to_owned()),
            });
        }
        if segments.iter().filter(|segment| **segment == Segment::Rest).count() > 1 {
            return Err(RouteError::Wildcard(text.to_owned()));
        }
        Ok(Self::Path { segments, split })
    }

    /// Splits the text that `*` stands for at these characters. Returns whether there is a text to split.
    pub(super) fn split_at(&mut self, characters: &str) -> bool {
        match self {
            Self::Path { segments, split } if segments.contains(&Segment::Rest) => {
                characters.clone_into(split);
                true
            }
            Self::Path { .. } | Self::Topics => false,
        }
    }

    /// Whether the namespace depends on the text that `*` stands for.
    pub(super) fn has_wildcard(&self) -> bool {
        match self {
            Self::Path { segments, .. } => segments.contains(&Segment::Rest),
            Self::Topics => true,
        }
    }

    /// The namespace that contains those of all messages.
    pub(super) fn literal_prefix(&self) -> Namespace {
        let Self::Path { segments, .. } = self else { return Namespace::root() };
        let literals = segments.iter().map_while(|segment| match segment {
            Segment::Literal(literal) => Some(literal.as_str()),
            Segment::Rest => None,
        });
        // The segments are those of a valid namespace.
        Namespace::from_segments(literals).unwrap_or_else(|_| Namespace::root())
    }

    /// The text that `*` would stand for in `namespace`; empty if there is no `*`. `None` if no text makes this namespace.
    pub(super) fn rest(&self, namespace: &Namespace) -> Option<String> {
        let Self::Path { segments, split } = self else { return Some(namespace.as_str().to_owned()) };
        let theirs: Vec<&str> = namespace.segments().collect();
        let place = segments.iter().position(|segment| *segment == Segment::Rest);
        let rest = match place {
            Some(place) => {
                let after = segments.len() - place - 1;
                let joint = split.chars().next().map(String::from).unwrap_or_default();
                theirs.get(place..theirs.len().checked_sub(after)?)?.join(&joint)
            }
            None => String::new(),
        };
        // A segment may contain a character at which the text is split.
        (self.namespace(&rest).as_ref() == Ok(namespace)).then_some(rest)
    }

    /// The namespace of an event; `rest` is the text that `*` stands for.
    pub(super) fn namespace(&self, rest: &str) -> Result<Namespace, NamespaceError> {
        let Self::Path { segments: template, split } = self else { return Namespace::from_topic(rest) };
        let mut segments = Vec::new();
        for segment in template {
            match segment {
                Segment::Literal(literal) => segments.push(literal.as_str()),
                Segment::Rest if split.is_empty() => segments.push(rest),
                Segment::Rest => segments.extend(rest.split(|character| split.contains(character))),
            }
        }
        Namespace::from_segments(segments)
    }
}

impl std::fmt::Display for Template {
    /// As routes write it.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topics => formatter.write_str(TOPICS),
            Self::Path { segments, .. } => segments.iter().try_for_each(|segment| match segment {
                Segment::Literal(literal) => write!(formatter, "/{literal}"),
                Segment::Rest => formatter.write_str("/*"),
            }),
        }
    }
}
