//! Which namespace the messages of a channel have, for readers that know the channel.

use tallycast_fanout::{Namespace, NamespaceError};

use super::route::{Pattern, Route};
use super::routes::Routes;
use crate::source::{Selector, SourceId};

/// Why a channel has no namespace that stands for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Nothing of it is received.
    #[error("no route matches it")]
    NoRoute,
    /// The namespace would be invalid.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Readers of the namespace would receive the messages of other channels too.
    #[error("the route {0} sends several channels to {1}")]
    Shared(String, Namespace),
}

impl Route {
    /// Whether it is for all channels of the default source whose names start with `prefix`.
    pub fn covers_channels(&self, prefix: &str) -> bool {
        match &self.pattern {
            Pattern::Channels(selector) => {
                !self.has_named_source() && selector.covers(&Selector::Prefix(prefix.to_owned()))
            }
            Pattern::Stream(_) => false,
        }
    }
}

impl Routes {
    /// The namespace of the messages of `channel`, and whether the route that decides is for all channels whose names start with
    /// `prefix`.
    ///
    /// # Errors
    /// No route matches, the namespace would be invalid, or it is that of other channels too.
    pub fn namespace_of(&self, channel: &str, prefix: &str) -> Result<(Namespace, bool), ChannelError> {
        let (_, route, rest) = self.of_channel(SourceId::DEFAULT, channel).ok_or(ChannelError::NoRoute)?;
        let namespace = route.namespace(rest)?;
        if route.rest(&namespace).as_deref() != Some(rest) {
            return Err(ChannelError::Shared(route.pattern.to_string(), namespace));
        }
        Ok((namespace, route.covers_channels(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_stands_for_one_channel() {
        let routes = ["*=/all/**", "news:*=/news", "raw=/raw", "prices:*=/prices/*,split=:."];
        let routes = Routes::new(routes.iter().map(|route| route.parse().unwrap()).collect()).unwrap();
        let of =
            |channel: &str| routes.namespace_of(channel, "").map(|(namespace, covers)| (namespace.to_string(), covers));
        assert_eq!(of("a:b"), Ok(("/all/a/b".to_owned(), true)));
        assert_eq!(of("raw"), Ok(("/raw".to_owned(), false)));
        assert_eq!(of("prices:a:b"), Ok(("/prices/a/b".to_owned(), false)));
        assert!(matches!(of("prices:a.b"), Err(ChannelError::Shared(..))));
        assert!(matches!(of("news:a"), Err(ChannelError::Shared(..))));
        assert_eq!(of("a:"), Err(NamespaceError::EmptySegment.into()));
        let streams = Routes::new(vec!["stream:a=/a".parse().unwrap()]).unwrap();
        assert_eq!(streams.namespace_of("a", ""), Err(ChannelError::NoRoute));
    }

    #[test]
    fn route_covers_channels_of_a_prefix() {
        let covers = |route: &str, prefix| route.parse::<Route>().unwrap().covers_channels(prefix);
        assert!(covers("*=/a/*", "") && covers("*=/a/*", "dev:") && covers("dev:*=/a/*", "dev:"));
        assert!(!covers("dev:*=/a/*", "") && !covers("dev:a:*=/a/*", "dev:") && !covers("stream:dev:=/a", "dev:"));
    }
}
