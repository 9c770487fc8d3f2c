//! The table of routes: which route decides an event, and what the event becomes.

use std::sync::Arc;

use tallycast_fanout::{Message, NamespaceError};

use super::route::{EventName, Route};
use super::{MAX_PAYLOAD_BYTES, MAX_ROUTES};
use crate::source::{RawEvent, Selector};
use crate::tally::Key;

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
    /// The message to broadcast.
    pub message: Message,
    /// The key to count, if the route has a tally.
    pub key: Option<Key>,
    /// The index in the table of the route that decided.
    pub route: usize,
}

/// Why an event is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No route matches the channel.
    #[error("no route matches the channel")]
    NoRoute,
    /// The payload is too large.
    #[error("the payload has more than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// The payload is not text.
    #[error("the payload is not UTF-8")]
    NotText,
    /// The route makes no valid namespace of the channel.
    #[error("the channel maps to an invalid namespace: {0}")]
    Namespace(#[from] NamespaceError),
}

impl Routes {
    /// The routes of the Emojitracker Streaming API.
    pub const DEFAULTS: [&str; 2] =
        ["stream.score_updates=/raw,tally=/eps", "stream.tweet_updates.*=/details/*,event=channel"];

    /// A table of `routes`. Of two routes that match a channel, the more specific one decides: an exact channel before a
    /// prefix, then the longer pattern, then the first in the list.
    ///
    /// # Errors
    /// The list is empty, or has more than [`MAX_ROUTES`].
    pub fn new(mut routes: Vec<Route>) -> Result<Self, RouteCountError> {
        if routes.is_empty() || routes.len() > MAX_ROUTES {
            return Err(RouteCountError(routes.len()));
        }
        routes.sort_by_key(|route| std::cmp::Reverse(specificity(&route.selector)));
        Ok(Self(routes))
    }

    /// The selectors to subscribe to. A selector that another covers is left out, because some brokers send an event once
    /// for each subscription that matches.
    pub fn selectors(&self) -> Vec<Selector> {
        let mut kept: Vec<&Selector> = Vec::new();
        // The broadest first.
        for route in self.0.iter().rev() {
            if !kept.iter().any(|selector| selector.covers(&route.selector)) {
                kept.push(&route.selector);
            }
        }
        kept.into_iter().cloned().collect()
    }

    /// The patterns of all routes as configuration writes them, in the order of [`Decoded::route`].
    pub(super) fn patterns(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|route| route.selector.to_string())
    }

    /// Decodes an event.
    ///
    /// # Errors
    /// No route matches, or channel or payload are invalid.
    pub fn decode(&self, event: RawEvent) -> Result<Decoded, DecodeError> {
        let (index, route, rest) = self
            .0
            .iter()
            .enumerate()
            .find_map(|(index, route)| Some((index, route, route.selector.strip(&event.channel)?)))
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
        let message = Message { event: name, received_at, ..Message::text(namespace, text) };
        Ok(Decoded { message, key, route: index })
    }
}

/// Orders selectors: of two that match a channel, the greater one decides.
fn specificity(selector: &Selector) -> (bool, usize) {
    match selector {
        Selector::Exact(name) => (true, name.len()),
        Selector::Prefix(prefix) => (false, prefix.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(texts: &[&str]) -> Routes {
        Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn selected(routes: &Routes) -> Vec<String> {
        routes.selectors().iter().map(ToString::to_string).collect()
    }

    fn event(channel: &str, payload: &str) -> RawEvent {
        RawEvent::new(channel, payload)
    }

    fn namespace(routes: &Routes, channel: &str) -> Result<String, DecodeError> {
        routes.decode(event(channel, "x")).map(|decoded| decoded.message.namespace.to_string())
    }

    #[test]
    fn defaults_are_the_emojitracker_routes() {
        let routes = routes(&Routes::DEFAULTS);
        let score = routes.decode(event("stream.score_updates", "1F602")).unwrap();
        assert_eq!(score.message, Message::text("/raw".parse().unwrap(), "1F602"));
        let key = score.key.unwrap();
        assert_eq!((key.namespace.as_str(), &*key.key), ("/eps", "1F602"));
        let post = routes.decode(event("stream.tweet_updates.26", "{}")).unwrap();
        assert_eq!(post.message.namespace.as_str(), "/details/26");
        assert_eq!(post.message.event.as_deref(), Some("stream.tweet_updates.26"));
        assert_eq!(post.key, None);
        assert_eq!(selected(&routes), ["stream.tweet_updates.*", "stream.score_updates"]);
    }

    #[test]
    fn rest_of_the_channel_replaces_the_wildcard() {
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
    fn most_specific_route_decides_and_only_broadest_selectors_are_subscribed() {
        let routes = routes(&["a.*=/broad", "a.b.*=/narrow", "a.b.c=/exact", "z=/z"]);
        let of = |channel: &str| namespace(&routes, channel).unwrap();
        assert_eq!([of("a.x"), of("a.b.x"), of("a.b.c")], ["/broad", "/narrow", "/exact"]);
        assert_eq!(selected(&routes), ["a.*", "z"]);
    }

    #[test]
    fn invalid_events_are_rejected() {
        let routes = routes(&["a*=/x,event=channel"]);
        let payload = |payload: Vec<u8>| routes.decode(RawEvent::new("a", payload));
        assert_eq!(payload(vec![0xff]), Err(DecodeError::NotText));
        assert_eq!(payload(vec![b'a'; MAX_PAYLOAD_BYTES + 1]), Err(DecodeError::TooLarge));
        assert!(payload(vec![b'a'; MAX_PAYLOAD_BYTES]).is_ok());
        assert_eq!(routes.decode(event("a\nb", "x")), Err(NamespaceError::Forbidden.into()));
    }

    proptest! {
        /// No decoded event contains a character that could break a line on the wire.
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

        /// The naive search takes the longest of all patterns that match.
        #[test]
        fn table_agrees_with_a_naive_search(
            patterns in proptest::collection::vec("[ab]{0,3}\\*?", 1..6),
            channel in "[ab]{0,4}",
        ) {
            let patterns: Vec<String> = patterns.into_iter().filter(|pattern| !pattern.is_empty()).collect();
            prop_assume!(!patterns.is_empty());
            let texts: Vec<String> =
                patterns.iter().enumerate().map(|(index, pattern)| format!("{pattern}=/{index}")).collect();
            let routes = routes(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let matches = |pattern: &str| match pattern.strip_suffix('*') {
                Some(prefix) => channel.starts_with(prefix),
                None => channel == pattern,
            };
            let expected = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| matches(pattern))
                .rev()
                .max_by_key(|(_, pattern)| (!pattern.ends_with('*'), pattern.trim_end_matches('*').len()))
                .map(|(index, _)| format!("/{index}"));
            prop_assert_eq!(namespace(&routes, &channel).ok(), expected);
            // Each channel that any route matches is selected exactly once.
            let subscribed = routes.selectors().iter().filter(|selector| selector.matches(&channel)).count();
            prop_assert_eq!(subscribed, usize::from(patterns.iter().any(|pattern| matches(pattern))));
        }
    }
}
