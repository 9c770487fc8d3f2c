//! Stage 2: raw events -> messages. A table of routes gives each event a namespace; the table is pure, the stage's loop
//! is at the end.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::limited::LimitedLog;
use crate::source::{self, RawEvent};
use crate::tally::{self, Key};
use tallycast_fanout::{Counter, Data, Message, Namespace, NamespaceError, Publisher};

/// The most bytes a payload may have.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// The most routes there may be: an event is compared with each.
pub const MAX_ROUTES: usize = 256;
/// Events taken from the inbox at once.
const BATCH: usize = 1024;

/// Which events go where. Written `PATTERN=NAMESPACE[,event=channel|NAME][,split=CHARS][,tally=NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pattern: Pattern,
    template: Vec<Segment>,
    event: EventName,
    /// The characters at which what `*` stands for is split into segments; empty: not at all.
    split: String,
    tally: Option<Namespace>,
}

/// Channels: one, or all with the same beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Rest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum EventName {
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
    #[error("the pattern before '=' is empty; expected a channel, or the beginning of one and *")]
    EmptyPattern,
    /// `*` stands elsewhere than at the pattern's end.
    #[error("in the pattern {0:?}, * may only stand at the end")]
    InnerWildcard(String),
    /// The namespace is not valid.
    #[error("the namespace {0:?}: {1}")]
    Namespace(String, NamespaceError),
    /// `*` is part of a segment, or there is more than one.
    #[error("in the namespace {0:?}, * or ** must be one whole segment, once")]
    Wildcard(String),
    /// The namespace has `*` and the pattern has not.
    #[error("the namespace {0:?} has a *, but the pattern has none that it could stand for")]
    NothingToStandFor(String),
    /// `split` is given and the namespace has no `*`.
    #[error("split={0:?} has nothing to split: the namespace {1:?} has no *")]
    NothingToSplit(String, String),
    /// An option that there is not.
    #[error("unknown option {0:?}; expected event=channel, event=NAME, split=CHARS or tally=NAMESPACE")]
    Option(String),
    /// The event's name has a control character.
    #[error("the event name {0:?} has a control character")]
    EventName(String),
}

/// Why an event is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No route's pattern fits the channel.
    #[error("no route fits the channel")]
    NoRoute,
    /// The payload is too large.
    #[error("the payload has more than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// The payload is not text.
    #[error("the payload is not UTF-8")]
    NotText,
    /// The channel has no place among the namespaces.
    #[error("the channel makes no namespace: {0}")]
    Namespace(#[from] NamespaceError),
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let mut options = text.split(',');
        let route = options.next().unwrap_or_default();
        let (pattern, namespace) = route.split_once('=').ok_or_else(|| RouteError::NoNamespace(text.to_owned()))?;
        let pattern: Pattern = pattern.parse()?;
        let (template, mut split) = template(namespace)?;
        if template.contains(&Segment::Rest) && matches!(pattern, Pattern::Exact(_)) {
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
        Ok(Self { pattern, template, event, split, tally })
    }
}

impl FromStr for Pattern {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let beginning = text.trim_end_matches('*');
        if text.is_empty() {
            return Err(RouteError::EmptyPattern);
        }
        if beginning.contains('*') {
            return Err(RouteError::InnerWildcard(text.to_owned()));
        }
        let beginning_is_all = beginning.len() == text.len();
        Ok(if beginning_is_all { Self::Exact(text.to_owned()) } else { Self::Prefix(beginning.to_owned()) })
    }
}

/// Reads a namespace with `*` or `**` in it, and where `**` splits.
fn template(text: &str) -> Result<(Vec<Segment>, String), RouteError> {
    // The rest's place is checked when an event fills it.
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

impl Pattern {
    /// What `*` stands for in `channel`, if the channel fits.
    fn rest<'a>(&self, channel: &'a str) -> Option<&'a str> {
        match self {
            Self::Exact(exact) => (exact == channel).then_some(""),
            Self::Prefix(prefix) => channel.strip_prefix(prefix.as_str()),
        }
    }

    /// Whether every channel that fits `other` fits this too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(prefix), Self::Prefix(text) | Self::Exact(text)) => text.starts_with(prefix.as_str()),
            (Self::Exact(exact), Self::Exact(text)) => exact == text,
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }

    /// How narrow it is: of two patterns that fit a channel, the narrower one decides.
    fn narrowness(&self) -> (bool, usize) {
        match self {
            Self::Exact(exact) => (true, exact.len()),
            Self::Prefix(prefix) => (false, prefix.len()),
        }
    }
}

impl fmt::Display for Pattern {
    /// The pattern as `PSUBSCRIBE` takes it: what Redis would read as a wildcard is escaped.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Exact(text) | Self::Prefix(text)) = self;
        for character in text.chars() {
            if matches!(character, '?' | '[' | ']' | '\\' | '*') {
                formatter.write_str("\\")?;
            }
            write!(formatter, "{character}")?;
        }
        formatter.write_str(if matches!(self, Self::Prefix(_)) { "*" } else { "" })
    }
}

/// The table of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes(Vec<Route>);

/// There are no routes, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {MAX_ROUTES} routes, found {0}")]
pub struct RouteCountError(usize);

/// What an event becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// What is broadcast.
    pub message: Message,
    /// What is counted, if anything is.
    pub key: Option<Key>,
    /// The place in the table of the route that decided.
    pub route: usize,
}

impl Routes {
    /// The routes of the Emojitracker Streaming API.
    pub const DEFAULTS: [&str; 2] =
        ["stream.score_updates=/raw,tally=/eps", "stream.tweet_updates.*=/details/*,event=channel"];

    /// A table of `routes`. Of two routes that fit an event the one with the longer pattern decides, of two alike the
    /// first.
    ///
    /// # Errors
    /// When there is none, or more than [`MAX_ROUTES`].
    pub fn new(mut routes: Vec<Route>) -> Result<Self, RouteCountError> {
        if routes.is_empty() || routes.len() > MAX_ROUTES {
            return Err(RouteCountError(routes.len()));
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.pattern.narrowness()));
        Ok(Self(routes))
    }

    /// The patterns to subscribe to, for `PSUBSCRIBE`. A pattern that another covers is left out, because Redis would
    /// send an event once for each pattern that fits.
    pub fn patterns(&self) -> Vec<String> {
        let mut kept: Vec<&Pattern> = Vec::new();
        // From the broadest on.
        for route in self.0.iter().rev() {
            if !kept.iter().any(|pattern| pattern.covers(&route.pattern)) {
                kept.push(&route.pattern);
            }
        }
        kept.iter().map(ToString::to_string).collect()
    }

    /// What an event becomes.
    ///
    /// # Errors
    /// When no route fits, or channel or payload are not valid.
    pub fn decode(&self, event: RawEvent) -> Result<Decoded, DecodeError> {
        let (place, route, rest) = self
            .0
            .iter()
            .enumerate()
            .find_map(|(place, route)| Some((place, route, route.pattern.rest(&event.channel)?)))
            .ok_or(DecodeError::NoRoute)?;
        if event.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::TooLarge);
        }
        let namespace = route.namespace(rest)?;
        let name: Option<Arc<str>> = match &route.event {
            EventName::None => None,
            EventName::Channel if event.channel.contains(char::is_control) => {
                return Err(NamespaceError::Forbidden.into());
            }
            EventName::Channel => Some(event.channel.into()),
            EventName::Fixed(name) => Some(Arc::clone(name)),
        };
        let text = String::from_utf8(event.payload).map_err(|_| DecodeError::NotText)?;
        let received_at = event.received_at;
        let key =
            route.tally.as_ref().map(|namespace| Key { namespace: namespace.clone(), key: text.clone(), received_at });
        let message = Message { namespace, event: name, data: Data::Text(text), received_at };
        Ok(Decoded { message, key, route: place })
    }
}

impl Route {
    fn namespace(&self, rest: &str) -> Result<Namespace, NamespaceError> {
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

/// What the stage counts. All only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Events that became messages.
    pub decoded: Counter,
    /// Events that did not.
    pub rejected: Counter,
    /// Events that became messages, by the pattern of their route. Those of routes that are gone stay.
    by_route: Mutex<Vec<(String, Arc<Counter>)>>,
}

impl Stats {
    /// Events that became messages, by the pattern of their route.
    pub fn by_route(&self) -> Vec<(String, u64)> {
        let by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        by_route.iter().map(|(pattern, count)| (pattern.clone(), count.get())).collect()
    }

    /// The counts of `routes`, in their order.
    fn of(&self, routes: &Routes) -> Vec<Arc<Counter>> {
        let mut by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_pattern = |pattern: String| match by_route.iter().find(|(known, _)| *known == pattern) {
            Some((_, count)) => Arc::clone(count),
            None => {
                let count = Arc::<Counter>::default();
                by_route.push((pattern, Arc::clone(&count)));
                count
            }
        };
        routes.0.iter().map(|route| of_pattern(route.pattern.to_string())).collect()
    }
}

/// Decodes what comes in `inbox` until that ends. Waits while a later stage has no room. The routes may change meanwhile.
pub async fn run(
    mut routes: watch::Receiver<Routes>,
    mut inbox: mpsc::Receiver<source::Item>,
    hub: Publisher,
    tally: mpsc::Sender<tally::Item>,
    stats: Arc<Stats>,
) {
    let mut items = Vec::with_capacity(BATCH);
    let mut log = LimitedLog::new();
    let mut table = routes.borrow_and_update().clone();
    let mut counts = stats.of(&table);
    while inbox.recv_many(&mut items, BATCH).await > 0 {
        // Whoever could change them may be gone.
        if routes.has_changed().unwrap_or(false) {
            table = routes.borrow_and_update().clone();
            counts = stats.of(&table);
        }
        for item in items.drain(..) {
            let event = match item {
                source::Item::Event(event) => event,
                source::Item::Totals { namespace, totals } => {
                    // Behind the keys that it counts already, before those that it does not.
                    if tally.send(tally::Item::Totals { namespace, totals }).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            // Kept for the log, where a long one would be a nuisance.
            let channel: String = event.channel.chars().take(64).collect();
            let Decoded { message, key, route } = match table.decode(event) {
                Ok(decoded) => decoded,
                Err(error) => {
                    stats.rejected.add(1);
                    log.warn(|held_back| tracing::warn!(%error, channel, held_back, "an event was dropped"));
                    continue;
                }
            };
            stats.decoded.add(1);
            // As many as there are routes.
            counts[route].add(1);
            if let Some(key) = key
                && tally.send(tally::Item::Key(key)).await.is_err()
            {
                return;
            }
            if hub.send(message).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(texts: &[&str]) -> Routes {
        Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn event(channel: &str, payload: &str) -> RawEvent {
        RawEvent::new(channel.to_owned(), payload.as_bytes().to_vec())
    }

    fn namespace(routes: &Routes, channel: &str) -> Result<String, DecodeError> {
        routes.decode(event(channel, "x")).map(|decoded| decoded.message.namespace.to_string())
    }

    #[test]
    fn the_defaults_are_emojitrackers() {
        let routes = routes(&Routes::DEFAULTS);
        let score = routes.decode(event("stream.score_updates", "1F602")).unwrap();
        assert_eq!(score.message, Message::text("/raw".parse().unwrap(), "1F602"));
        let key = score.key.unwrap();
        assert_eq!((key.namespace.as_str(), &*key.key), ("/eps", "1F602"));
        let post = routes.decode(event("stream.tweet_updates.26", "{}")).unwrap();
        assert_eq!(post.message.namespace.as_str(), "/details/26");
        assert_eq!(post.message.event.as_deref(), Some("stream.tweet_updates.26"));
        assert_eq!(post.key, None);
        assert_eq!(routes.patterns(), ["stream.tweet_updates.*", "stream.score_updates"]);
    }

    #[test]
    fn the_rest_goes_where_the_route_says() {
        let of = |route: &str, channel: &str| namespace(&routes(&[route]), channel);
        assert_eq!(of("v1:prices:*=/prices/*", "v1:prices:ANZ.ASX").unwrap(), "/prices/ANZ.ASX");
        assert_eq!(of("v1:prices:*=/prices/*,split=:.", "v1:prices:ANZ.ASX").unwrap(), "/prices/ANZ/ASX");
        assert_eq!(of("v1:streaming:**=/**", "v1:streaming:price:ANZ.ASX").unwrap(), "/price/ANZ.ASX");
        assert_eq!(of("a*=/x/*/y", "ab").unwrap(), "/x/b/y");
        assert_eq!(of("a*=/x", "ab").unwrap(), "/x");
        assert_eq!(of("*=/", "anything").unwrap(), "/");
        assert_eq!(of("a*=/x/*", "a"), Err(NamespaceError::EmptySegment.into()));
        assert_eq!(of("a*=/x/*", "ab/c"), Err(NamespaceError::Forbidden.into()));
        assert_eq!(of("a=/x", "b"), Err(DecodeError::NoRoute));
    }

    #[test]
    fn the_narrowest_route_decides_and_only_the_broadest_is_subscribed() {
        let routes = routes(&["a.*=/broad", "a.b.*=/narrow", "a.b.c=/exact", "z=/z"]);
        let of = |channel: &str| namespace(&routes, channel).unwrap();
        assert_eq!([of("a.x"), of("a.b.x"), of("a.b.c")], ["/broad", "/narrow", "/exact"]);
        assert_eq!(routes.patterns(), ["a.*", "z"]);
    }

    #[test]
    fn wildcards_of_redis_are_escaped() {
        assert_eq!(routes(&[r"a?[b]\c*=/x"]).patterns(), [r"a\?\[b\]\\c*"]);
    }

    #[test]
    fn events_that_are_not_valid_are_refused() {
        let routes = routes(&["a*=/x,event=channel"]);
        let payload = |payload: Vec<u8>| routes.decode(RawEvent::new("a".to_owned(), payload));
        assert_eq!(payload(vec![0xff]), Err(DecodeError::NotText));
        assert_eq!(payload(vec![b'a'; MAX_PAYLOAD_BYTES + 1]), Err(DecodeError::TooLarge));
        assert!(payload(vec![b'a'; MAX_PAYLOAD_BYTES]).is_ok());
        assert_eq!(routes.decode(event("a\nb", "x")), Err(NamespaceError::Forbidden.into()));
    }

    #[test]
    fn mistakes_in_routes_are_named() {
        let error = |text: &str| text.parse::<Route>().unwrap_err().to_string();
        assert_eq!(error("a"), "expected PATTERN=NAMESPACE, such as v1:prices:*=/prices/*, found \"a\"");
        assert_eq!(error("=/x"), "the pattern before '=' is empty; expected a channel, or the beginning of one and *");
        assert_eq!(error("a*b=/x"), "in the pattern \"a*b\", * may only stand at the end");
        assert_eq!(error("a=x"), "the namespace \"x\": a namespace starts with '/'");
        assert_eq!(error("a*=/x*"), "in the namespace \"/x*\", * or ** must be one whole segment, once");
        assert_eq!(error("a*=/*/*"), "in the namespace \"/*/*\", * or ** must be one whole segment, once");
        assert_eq!(error("a=/*"), "the namespace \"/*\" has a *, but the pattern has none that it could stand for");
        let options = "expected event=channel, event=NAME, split=CHARS or tally=NAMESPACE";
        assert_eq!(error("a=/x,evnt=b"), format!("unknown option \"evnt=b\"; {options}"));
        assert_eq!(error("a*=/x,split=:"), "split=\":\" has nothing to split: the namespace \"/x\" has no *");
        assert_eq!(error("a=/x,tally=eps"), "the namespace \"eps\": a namespace starts with '/'");
    }

    proptest! {
        #[test]
        fn reading_a_route_never_panics(text in "[a*=/,:.a-z]{0,30}") {
            let _ = text.parse::<Route>();
        }

        /// Whatever comes, nothing that is passed on could break a line of the protocol's own.
        #[test]
        fn decoding_never_panics_and_names_are_clean(
            channel in "[ab][ab:./\\x00-\\x1f\\x7f\\u{80}-\\u{a0}]{0,6}",
            payload: String,
        ) {
            let routes = routes(&["a*=/a/*,split=:.,event=channel", "b*=/b,event=channel,tally=/eps"]);
            if let Ok(decoded) = routes.decode(event(&channel, &payload)) {
                prop_assert!(!decoded.message.namespace.as_str().contains(char::is_control));
                prop_assert!(!decoded.message.event.is_some_and(|name| name.contains(char::is_control)));
            }
        }

        /// The table agrees with a naive reading of the patterns: of those that fit, the longest.
        #[test]
        fn the_table_agrees_with_a_naive_one(
            patterns in proptest::collection::vec("[ab]{0,3}\\*?", 1..6),
            channel in "[ab]{0,4}",
        ) {
            let patterns: Vec<String> = patterns.into_iter().filter(|pattern| !pattern.is_empty()).collect();
            prop_assume!(!patterns.is_empty());
            let texts: Vec<String> =
                patterns.iter().enumerate().map(|(index, pattern)| format!("{pattern}=/{index}")).collect();
            let routes = routes(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let fits = |pattern: &str| match pattern.strip_suffix('*') {
                Some(prefix) => channel.starts_with(prefix),
                None => channel == pattern,
            };
            let expected = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| fits(pattern))
                .rev()
                .max_by_key(|(_, pattern)| (!pattern.ends_with('*'), pattern.trim_end_matches('*').len()))
                .map(|(index, _)| format!("/{index}"));
            prop_assert_eq!(namespace(&routes, &channel).ok(), expected);
            // Each channel that fits any route fits exactly one pattern that is subscribed.
            let subscribed = routes.patterns().iter().filter(|pattern| fits(pattern)).count();
            prop_assert_eq!(subscribed, usize::from(patterns.iter().any(|pattern| fits(pattern))));
        }
    }
}
