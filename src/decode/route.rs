//! A route, as configuration writes it: which channels it matches, and what their events become.

use std::str::FromStr;
use std::sync::Arc;

use tallycast_fanout::{Namespace, NamespaceError};

use crate::source::Selector;

/// Which events go where. Written `PATTERN=NAMESPACE[,event=channel|NAME][,split=CHARS][,tally=NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub(super) selector: Selector,
    template: Vec<Segment>,
    pub(super) event: EventName,
    /// The characters at which the text that `*` stands for is split into segments; empty for no splitting.
    split: String,
    pub(super) tally: Option<Namespace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// What `*` stands for in the pattern.
    Rest,
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
    /// The namespace is invalid.
    #[error("the namespace {0:?}: {1}")]
    Namespace(String, NamespaceError),
    /// `*` is part of a segment, or there is more than one.
    #[error("in the namespace {0:?}, * or ** must be one whole segment, once")]
    Wildcard(String),
    /// The namespace has `*` and the pattern does not.
    #[error("the namespace {0:?} has a *, but the pattern has none that it could stand for")]
    NothingToStandFor(String),
    /// `split` is given and the namespace has no `*`.
    #[error("split={0:?} has nothing to split: the namespace {1:?} has no *")]
    NothingToSplit(String, String),
    /// The option is unknown.
    #[error("unknown option {0:?}; expected event=channel, event=NAME, split=CHARS or tally=NAMESPACE")]
    Option(String),
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
        let selector = selector(pattern)?;
        let (template, mut split) = template(namespace)?;
        if template.contains(&Segment::Rest) && matches!(selector, Selector::Exact(_)) {
            return Err(RouteError::NothingToStandFor(namespace.to_owned()));
        }
        let (mut event, mut tally) = (EventName::None, None);
        for option in options {
            match option.split_once('=') {
                Some(("event", "none")) => event = EventName::None,
                Some(("event", "channel")) => event = EventName::Channel,
                Some(("event", name)) if name.contains(char::is_control) => {
                    return Err(RouteError::EventName(name.to_owned()));
                }
                Some(("event", name)) if !name.is_empty() => event = EventName::Fixed(name.into()),
                Some(("split", characters)) if !template.contains(&Segment::Rest) => {
                    return Err(RouteError::NothingToSplit(characters.to_owned(), namespace.to_owned()));
                }
                Some(("split", characters)) if !characters.is_empty() => split = characters.to_owned(),
                Some(("tally", namespace)) => {
                    let parsed = namespace.parse();
                    tally = Some(parsed.map_err(|error| RouteError::Namespace(namespace.to_owned(), error))?);
                }
                _ => return Err(RouteError::Option(option.to_owned())),
            }
        }
        Ok(Self { selector, template, event, split, tally })
    }
}

/// Parses a channel, or a prefix and `*`.
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

/// Parses a namespace that may contain `*` or `**`, and returns the characters at which `**` splits.
fn template(text: &str) -> Result<(Vec<Segment>, String), RouteError> {
    // The text that replaces `*` is checked for each event.
    let namespace: Namespace = text.parse().map_err(|error| RouteError::Namespace(text.to_owned(), error))?;
    let (mut template, mut split) = (Vec::new(), String::new());
    for segment in namespace.segments() {
        template.push(match segment {
            "*" => Segment::Rest,
            "**" => {
                split = ":".to_owned();
                Segment::Rest
            }
            literal if literal.contains('*') => return Err(RouteError::Wildcard(text.to_owned())),
            literal => Segment::Literal(literal.to_owned()),
        });
    }
    if template.iter().filter(|segment| **segment == Segment::Rest).count() > 1 {
        return Err(RouteError::Wildcard(text.to_owned()));
    }
    Ok((template, split))
}

impl Route {
    /// The namespace of an event; `rest` is the text that `*` stands for.
    pub(super) fn namespace(&self, rest: &str) -> Result<Namespace, NamespaceError> {
        let mut segments = Vec::new();
        for segment in &self.template {
            match segment {
                Segment::Literal(literal) => segments.push(literal.as_str()),
                Segment::Rest if self.split.is_empty() => segments.push(rest),
                Segment::Rest => segments.extend(rest.split(|character| self.split.contains(character))),
            }
        }
        Namespace::from_segments(segments)
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
        assert_eq!(error("a=/*"), "the namespace \"/*\" has a *, but the pattern has none that it could stand for");
        let options = "expected event=channel, event=NAME, split=CHARS or tally=NAMESPACE";
        assert_eq!(error("a=/x,evnt=b"), format!("unknown option \"evnt=b\"; {options}"));
        assert_eq!(error("a*=/x,split=:"), "split=\":\" has nothing to split: the namespace \"/x\" has no *");
        assert_eq!(error("a=/x,tally=eps"), format!("the namespace \"eps\": {not_absolute}"));
    }

    proptest! {
        #[test]
        fn parsing_a_route_never_panics(text in "[a*=/,:.a-z]{0,30}") {
            let _ = text.parse::<Route>();
        }
    }
}
