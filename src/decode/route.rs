//! A route, as configuration writes it: which channels it matches, and what their events become.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tallycast_fanout::{Namespace, NamespaceError, Retention};

use super::history::{History, HistoryError};
use super::sender::SENT;
use super::template::Template;
use crate::source::{Selector, SourceId};

/// What the pattern of a route for a stream starts with.
const STREAM: &str = "stream:";

/// Which events go where. Written
/// `PATTERN=NAMESPACE[,event=channel|NAME][,split=CHARS][,sender=FIELD][,tally=NAMESPACE][,history=BOUND][,private]`; the pattern is a
/// channel, a prefix and `*`, or `stream:` and the key of a stream. The namespace `*` stands for the topics that each entry of a stream
/// names. With `sender`, payloads are JSON objects in which that field names the sender. With `private`, only readers that are granted the
/// namespace receive its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub(super) source: RouteSource,
    pub(super) pattern: Pattern,
    pub(super) template: Template,
    pub(super) event: EventName,
    /// The field of a payload that names the sender.
    pub(super) sender: Option<String>,
    pub(super) tally: Option<Namespace>,
    /// Whether its messages are for those alone who are granted their topics.
    pub(super) is_private: bool,
    history: History,
    /// How long its messages are kept, if they are.
    pub(super) retention: Option<Arc<Retention>>,
    /// The same for each partition of its stream, if it has partitions.
    pub(super) partitions: Option<Vec<Arc<Retention>>>,
}

/// The source of a route, and its name unless it is the default one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RouteSource {
    pub(super) id: SourceId,
    pub(super) name: Option<Arc<str>>,
}

/// Where the events of a route come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Published on channels.
    Channels(Selector),
    /// The entries of the stream with this key.
    Stream(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EventName {
    None,
    Channel,
    Fixed(Arc<str>),
}

/// Why a text is not a [`Route`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// There is no `=` between pattern and namespace.
    #[error("expected PATTERN=NAMESPACE, such as v1:prices:*=/prices/*, found {0:?}")]
    NoNamespace(String),
    /// The pattern is empty.
    #[error("the pattern before '=' is empty; expected a channel, or a prefix and *")]
    EmptyPattern,
    /// `*` stands elsewhere than at the end of the pattern.
    #[error("in the pattern {0:?}, * may only stand at the end")]
    InnerWildcard(String),
    /// The pattern is for channels that carry the sender of a message of another channel.
    #[error("the pattern {0:?} starts with {SENT}, which is reserved: such channels carry the senders of messages")]
    Reserved(String),
    /// A pattern for streams has a `*`.
    #[error("the stream {0:?} has a *; expected the exact key of a Redis stream")]
    StreamWildcard(String),
    /// The namespace is invalid.
    #[error("the namespace {0:?}: {1}")]
    Namespace(String, NamespaceError),
    /// `*` is part of a segment, or there is more than one.
    #[error("in the namespace {0:?}, * or ** must be one whole segment, once")]
    Wildcard(String),
    /// The namespace has `*` and the pattern does not.
    #[error("the namespace {0:?} has a *, but the pattern has none that it could stand for")]
    NothingToStandFor(String),
    /// The namespace is `*`, and the pattern is for channels.
    #[error(
        "the namespace * stands for the topics of an entry, and {0:?} is a channel; expected stream: before the key of a stream"
    )]
    TopicsOfChannels(String),
    /// `split` is given and the namespace has no `*`.
    #[error("split={0:?} has nothing to split: the namespace {1:?} has no *")]
    NothingToSplit(String, String),
    /// The option is unknown.
    #[error(
        "unknown option {0:?}; expected event=channel, event=NAME, split=CHARS, sender=FIELD, tally=NAMESPACE, history=BOUND or private"
    )]
    Option(String),
    /// A bound of the history is invalid.
    #[error("history={0:?}: {1}")]
    History(String, HistoryError),
    /// The name of the event contains a control character.
    #[error("the event name {0:?} contains a control character")]
    EventName(String),
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let mut options = text.split(',');
        let route = options.next().unwrap_or_default();
        let (pattern, namespace) = route.split_once('=').ok_or_else(|| RouteError::NoNamespace(text.to_owned()))?;
        let pattern = self::pattern(pattern)?;
        let mut template = Template::parse(namespace)?;
        let (mut event, mut sender, mut tally, mut history) = (EventName::None, None, None, History::default());
        let mut is_private = false;
        for option in options {
            match option.split_once('=') {
                Some(("event", "none")) => event = EventName::None,
                Some(("event", "channel")) => event = EventName::Channel,
                Some(("event", name)) if name.contains(char::is_control) => {
                    return Err(RouteError::EventName(name.to_owned()));
                }
                Some(("event", name)) if !name.is_empty() => event = EventName::Fixed(name.into()),
                Some(("split", characters)) if !characters.is_empty() => {
                    if !template.split_at(characters) {
                        return Err(RouteError::NothingToSplit(characters.to_owned(), namespace.to_owned()));
                    }
                }
                Some(("sender", field)) if !field.is_empty() => sender = Some(field.to_owned()),
                Some(("tally", namespace)) => {
                    let parsed = namespace.parse();
                    tally = Some(parsed.map_err(|error| RouteError::Namespace(namespace.to_owned(), error))?);
                }
                Some(("history", bound)) => {
                    history.add(bound).map_err(|error| RouteError::History(bound.to_owned(), error))?;
                }
                None if option == "private" => is_private = true,
                _ => return Err(RouteError::Option(option.to_owned())),
            }
        }
        let source = RouteSource::default();
        let (retention, partitions) = (None, None);
        Ok(Self { source, pattern, template, event, sender, tally, is_private, history, retention, partitions }
            .with_retention())
    }
}

/// Parses a channel, a prefix and `*`, or the key of a stream.
fn pattern(pattern: &str) -> Result<Pattern, RouteError> {
    match pattern.strip_prefix(STREAM) {
        Some(key) => stream(key),
        None => selector(pattern).map(Pattern::Channels),
    }
}

fn stream(key: &str) -> Result<Pattern, RouteError> {
    match key {
        "" => Err(RouteError::EmptyPattern),
        key if key.contains('*') => Err(RouteError::StreamWildcard(key.to_owned())),
        key => Ok(Pattern::Stream(key.into())),
    }
}

fn selector(pattern: &str) -> Result<Selector, RouteError> {
    if pattern.is_empty() {
        return Err(RouteError::EmptyPattern);
    }
    let prefix = pattern.trim_end_matches('*');
    if prefix.contains('*') {
        return Err(RouteError::InnerWildcard(pattern.to_owned()));
    }
    let is_exact = prefix.len() == pattern.len();
    Ok(if is_exact { Selector::Exact(pattern.to_owned()) } else { Selector::Prefix(prefix.to_owned()) })
}

impl fmt::Display for Pattern {
    /// The pattern as routes write it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channels(selector) => selector.fmt(formatter),
            Self::Stream(key) => write!(formatter, "{STREAM}{key}"),
        }
    }
}

impl Route {
    /// The same route for the source that its pattern names, as in `NAME:pattern`; unchanged if it names none of `sources`.
    ///
    /// # Errors
    /// The pattern after the name is invalid.
    pub fn of_source(self, sources: &[(Arc<str>, SourceId)]) -> Result<Self, RouteError> {
        let text = self.pattern.to_string();
        let named = sources.iter().find_map(|(name, id)| {
            let rest = text.strip_prefix(&**name)?.strip_prefix(':')?;
            Some((RouteSource { id: *id, name: Some(Arc::clone(name)) }, rest))
        });
        match named {
            Some((source, rest)) => Ok(Self { source, pattern: pattern(rest)?, ..self }.with_retention()),
            None => Ok(self),
        }
    }

    /// The pattern as configuration writes it, with the name of its source.
    pub(super) fn shown_pattern(&self) -> String {
        match &self.source.name {
            Some(name) => format!("{name}:{}", self.pattern),
            None => self.pattern.to_string(),
        }
    }

    /// The sequence of the positions of the entries of its stream, if it is for one.
    pub(super) fn sequence(&self) -> Option<Arc<str>> {
        match (&self.pattern, &self.source.name) {
            (Pattern::Channels(_), _) => None,
            (Pattern::Stream(key), None) => Some(Arc::clone(key)),
            (Pattern::Stream(key), Some(name)) => Some(format!("{name}:{key}").into()),
        }
    }

    /// Whether it is for a source other than the default one.
    pub fn has_named_source(&self) -> bool {
        self.source.name.is_some()
    }

    /// The same route for a stream, whose key is the channel.
    ///
    /// # Errors
    /// The pattern has a `*`.
    pub fn into_stream(self) -> Result<Self, RouteError> {
        let pattern = match self.pattern {
            Pattern::Channels(Selector::Exact(key)) => stream(&key)?,
            Pattern::Channels(selector @ Selector::Prefix(_)) => {
                return Err(RouteError::StreamWildcard(selector.to_string()));
            }
            pattern @ Pattern::Stream(_) => pattern,
        };
        Ok(Self { pattern, ..self }.with_retention())
    }

    /// Whether the route is for a stream.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.pattern, Pattern::Stream(_))
    }

    /// Whether the route is for the stream of the default source with this key.
    pub fn is_of_stream(&self, key: &str) -> bool {
        self.source.id == SourceId::DEFAULT && matches!(&self.pattern, Pattern::Stream(own) if **own == *key)
    }

    /// Whether messages of `namespace` may come from the route.
    pub fn leads_to(&self, namespace: &Namespace) -> bool {
        !self.has_topics() && self.rest(namespace).is_some()
    }

    /// Whether each of its entries names its own topics, of any form.
    pub fn has_topics(&self) -> bool {
        self.template == Template::Topics
    }

    /// Whether all its messages are of `namespace` or below it.
    pub fn is_below(&self, namespace: &Namespace) -> bool {
        !self.has_topics() && namespace.contains(&self.template.literal_prefix())
    }

    /// Whether it is for the same channels, or the same stream, as `other`.
    pub fn has_pattern_of(&self, other: &Self) -> bool {
        (&self.source, &self.pattern) == (&other.source, &other.pattern)
    }

    /// Whether it makes the same namespaces as `other`.
    pub fn has_namespace_of(&self, other: &Self) -> bool {
        self.template == other.template
    }

    /// Whether the namespace depends on the text that `*` stands for.
    pub(super) fn has_wildcard(&self) -> bool {
        self.template.has_wildcard()
    }

    /// Checks that there is a text that the `*` of the namespace stands for, and that the pattern is not reserved.
    pub(super) fn check(&self) -> Result<(), RouteError> {
        match &self.pattern {
            Pattern::Channels(selector) if self.has_topics() => Err(RouteError::TopicsOfChannels(selector.to_string())),
            Pattern::Channels(selector) if Selector::Prefix(SENT.to_owned()).covers(selector) => {
                Err(RouteError::Reserved(selector.to_string()))
            }
            Pattern::Channels(Selector::Exact(_)) if self.has_wildcard() => {
                Err(RouteError::NothingToStandFor(self.template.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn with_retention(self) -> Self {
        let name = self.shown_pattern();
        let retention = self.history.retention(name, self.template.literal_prefix(), self.sequence());
        Self { retention, ..self }
    }

    /// The text that `*` would stand for in `namespace`; empty if there is no `*`. `None` if no text makes this namespace.
    pub(super) fn rest(&self, namespace: &Namespace) -> Option<String> {
        self.template.rest(namespace)
    }

    /// The namespace of an event; `rest` is the text that `*` stands for.
    pub(super) fn namespace(&self, rest: &str) -> Result<Namespace, NamespaceError> {
        self.template.namespace(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_say_what_was_expected() {
        let error = |text: &str| text.parse::<Route>().unwrap_err().to_string();
        let not_absolute = "eps".parse::<Namespace>().unwrap_err();
        assert_eq!(error("a"), "expected PATTERN=NAMESPACE, such as v1:prices:*=/prices/*, found \"a\"");
        assert_eq!(error("=/x"), "the pattern before '=' is empty; expected a channel, or a prefix and *");
        assert_eq!(error("a*b=/x"), "in the pattern \"a*b\", * may only stand at the end");
        assert_eq!(error("a=x"), format!("the namespace \"x\": {not_absolute}"));
        assert_eq!(error("a*=/x*"), "in the namespace \"/x*\", * or ** must be one whole segment, once");
        assert_eq!(error("a*=/*/*"), "in the namespace \"/*/*\", * or ** must be one whole segment, once");
        let options =
            "expected event=channel, event=NAME, split=CHARS, sender=FIELD, tally=NAMESPACE, history=BOUND or private";
        assert_eq!(error("a=/x,evnt=b"), format!("unknown option \"evnt=b\"; {options}"));
        assert_eq!(error("a=/x,sender="), format!("unknown option \"sender=\"; {options}"));
        assert_eq!(error("a*=/x,split=:"), "split=\":\" has nothing to split: the namespace \"/x\" has no *");
        assert_eq!(error("a=/x,tally=eps"), format!("the namespace \"eps\": {not_absolute}"));
        let bounds =
            "expected a duration such as 10m, a number of messages such as 1000, a size such as 64MiB, or last";
        assert_eq!(error("a=/x,history=ten"), format!("history=\"ten\": {bounds}"));
        let once = "expected at most one duration, one number of messages and one size for each route";
        assert_eq!(error("a=/x,history=1,history=2"), format!("history=\"2\": {once}"));
        assert_eq!(error("stream:=/x"), error("=/x"));
        assert_eq!(error("stream:a*=/x"), "the stream \"a*\" has a *; expected the exact key of a Redis stream");
    }

    #[test]
    fn history_is_a_retention_of_the_literal_prefix() {
        let retention = |text: &str| text.parse::<Route>().unwrap().retention;
        assert_eq!(retention("a*=/x/*"), None);
        let kept = retention("a*=/x/*/y,history=10m,history=1000").unwrap();
        assert_eq!((&*kept.name, kept.namespace.as_str(), &kept.sequence), ("a*", "/x", &None));
        assert_eq!((kept.max_age, kept.max_messages), (Some(std::time::Duration::from_secs(600)), Some(1000)));
        let kept = retention("stream:a=/**,history=last").unwrap();
        assert_eq!((&*kept.name, kept.namespace.as_str(), kept.sequence.as_deref()), ("stream:a", "/", Some("a")));
        assert_eq!((kept.last_values, kept.max_age, kept.max_messages, kept.max_bytes), (true, None, None, None));
    }

    #[test]
    fn route_for_a_channel_becomes_one_for_a_stream() {
        let into_stream = |text: &str| text.parse::<Route>().unwrap().into_stream();
        let streams = ["stream:a=/x/*,history=1", "stream:a:b=/x"].map(|text| text.parse::<Route>().unwrap());
        assert_eq!(into_stream("a=/x/*,history=1").unwrap(), streams[0]);
        assert_eq!(into_stream("a:b=/x").unwrap(), streams[1]);
        assert_eq!(into_stream("stream:a:b=/x").unwrap(), streams[1]);
        assert_eq!(into_stream("a*=/x"), Err(RouteError::StreamWildcard("a*".to_owned())));
    }

    proptest! {
        #[test]
        fn parsing_a_route_never_panics(text in "(stream:)?[a*=/,:.a-z]{0,30}(,history=[0-9a-zA-Z]{0,6})?") {
            let _ = text.parse::<Route>();
        }

        /// The namespace of a retention contains those of all messages that it keeps.
        #[test]
        fn retention_contains_the_namespaces_of_its_messages(
            template in "(/[ab]){0,2}(/\\*{1,2})?(/[ab]){0,2}",
            rest in "[ab:]{1,5}",
        ) {
            let template = if template.is_empty() { "/" } else { &template };
            let route = format!("stream:k={template},history=1").parse::<Route>().unwrap();
            if let Ok(namespace) = route.namespace(&rest) {
                let kept = &route.retention.as_ref().unwrap().namespace;
                prop_assert!(kept.contains(&namespace), "{} {}", kept, namespace);
            }
        }
    }
}
