//! The inverse of the routes: where something has to be published, so that it becomes a message of a namespace.

use std::sync::Arc;

use tallycast_fanout::Namespace;

use super::route::{EventName, Pattern, Route};
use super::routes::Routes;
use super::sender::SENT;
use crate::source::{Selector, SourceId};

/// Where something is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// On a channel.
    Channel(String),
    /// In a stream.
    Stream {
        /// The key of the stream.
        key: Arc<str>,
        /// What the `*` of the route's namespace stands for, if it has one.
        topic: Option<String>,
    },
}

/// Why something cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing that is published becomes a message of the namespace.
    #[error("no route leads to {0}")]
    NoRoute(Namespace),
    /// The route gives its messages another event name, or none.
    #[error(
        "messages of {namespace} come from the route {route}, which gives them {found}; only routes for streams carry event names"
    )]
    Event {
        /// The namespace.
        namespace: Namespace,
        /// The pattern of the route.
        route: String,
        /// The event name that they have.
        found: String,
    },
}

impl Routes {
    /// Where a message of `namespace` with the name `event` has to be published, and at which source.
    ///
    /// # Errors
    /// No route leads to the namespace, or the route decides about event names itself.
    pub fn target(&self, namespace: &Namespace, event: Option<&str>) -> Result<(SourceId, Target), TargetError> {
        // Those whose entries name their own topics lead to whatever no other route owns.
        let (any, others): (Vec<_>, Vec<_>) = self.iter().partition(|route| route.has_topics());
        let any = any.into_iter().filter(|_| self.owner(namespace).is_none());
        let found = others.into_iter().chain(any).find_map(|route| Some((route, self.target_of(route, namespace)?)));
        let (route, target) = found.ok_or_else(|| TargetError::NoRoute(namespace.clone()))?;
        let name = match (&target, &route.event) {
            (Target::Stream { .. }, _) => return Ok((route.source.id, target)),
            (Target::Channel(_), EventName::None) => None,
            (Target::Channel(channel), EventName::Channel) => Some(channel.as_str()),
            (Target::Channel(_), EventName::Fixed(name)) => Some(&**name),
        };
        if event.is_none() || event == name {
            return Ok((route.source.id, target));
        }
        let found = name.map_or_else(|| "no event name".to_owned(), |name| format!("the event name {name:?}"));
        Err(TargetError::Event { namespace: namespace.clone(), route: route.shown_pattern(), found })
    }

    /// The channel of the default source on which each payload is a key that is counted in the tally of `namespace`.
    pub fn count_channel(&self, namespace: &Namespace) -> Option<&str> {
        let mut routes = self.iter().filter(|route| route.source.id == SourceId::DEFAULT);
        routes.find_map(|route| match &route.pattern {
            Pattern::Channels(Selector::Exact(channel)) if route.tally.as_ref() == Some(namespace) => {
                Some(channel.as_str())
            }
            _ => None,
        })
    }

    /// The target by which `route` leads to `namespace`, if it does and no other route decides there.
    fn target_of(&self, route: &Route, namespace: &Namespace) -> Option<Target> {
        let rest = route.rest(namespace)?;
        let channel = match &route.pattern {
            Pattern::Stream(key) => {
                let topic = route.has_wildcard().then_some(rest);
                return Some(Target::Stream { key: Arc::clone(key), topic });
            }
            Pattern::Channels(Selector::Exact(channel)) => channel.clone(),
            Pattern::Channels(Selector::Prefix(prefix)) => format!("{prefix}{rest}"),
        };
        // There it would become an event of another channel, with a sender of the publisher's choice.
        if channel.starts_with(SENT) {
            return None;
        }
        let decides = self.of_channel(route.source.id, &channel);
        decides.is_some_and(|(_, decides, _)| std::ptr::eq(decides, route)).then_some(Target::Channel(channel))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::RawEvent;

    fn routes(texts: &[&str]) -> Routes {
        Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn target(texts: &[&str], namespace: &str, event: Option<&str>) -> Result<Target, String> {
        let target = routes(texts).target(&namespace.parse().unwrap(), event);
        target.map(|(_, target)| target).map_err(|error| error.to_string())
    }

    fn channel(channel: &str) -> Result<Target, String> {
        Ok(Target::Channel(channel.to_owned()))
    }

    #[test]
    fn namespaces_lead_back_to_channels_and_streams() {
        assert_eq!(target(&["a:*=/x/*"], "/x/b", None), channel("a:b"));
        assert_eq!(target(&["a:*=/x/*"], "/x/b/c", None), Err("no route leads to /x/b/c".to_owned()));
        assert_eq!(target(&["a:**=/**"], "/x/b/c", None), channel("a:x:b:c"));
        assert_eq!(target(&["a:*=/x/*/y,split=.:"], "/x/b/c/y", None), channel("a:b.c"));
        assert_eq!(target(&["a=/x", "b=/x"], "/x", None), channel("a"));
        assert_eq!(target(&["a*=/x"], "/x", None), channel("a"));
        // Channels that carry senders are reserved.
        let name = "/tallycast:sent:ann:chat";
        assert_eq!(target(&["*=/*", "chat=/chat"], name, None), Err(format!("no route leads to {name}")));
        // Another route decides about the channel.
        assert_eq!(target(&["a:*=/x/*", "a:b=/y"], "/x/b", None), Err("no route leads to /x/b".to_owned()));
        let stream = |topic: Option<&str>| Ok(Target::Stream { key: "orders".into(), topic: topic.map(str::to_owned) });
        assert_eq!(target(&["stream:orders=/orders/*"], "/orders/A", Some("x")), stream(Some("A")));
        assert_eq!(target(&["stream:orders=/orders/**"], "/orders/A/1", None), stream(Some("A:1")));
        assert_eq!(target(&["stream:orders=/orders"], "/orders", None), stream(None));
        assert_eq!(routes(&Routes::DEFAULTS).count_channel(&"/eps".parse().unwrap()), Some("stream.score_updates"));
        assert_eq!(routes(&Routes::DEFAULTS).count_channel(&"/raw".parse().unwrap()), None);
    }

    #[test]
    fn event_names_are_those_of_the_route() {
        assert_eq!(target(&["a=/x,event=n"], "/x", Some("n")), channel("a"));
        assert_eq!(target(&["a*=/x/*,event=channel"], "/x/b", Some("ab")), channel("ab"));
        assert_eq!(
            target(&["a=/x"], "/x", Some("n")),
            Err("messages of /x come from the route a, which gives them no event name; only routes for streams carry event \
                 names"
                .to_owned())
        );
        assert!(target(&["a=/x,event=m"], "/x", Some("n")).unwrap_err().contains("the event name \"m\""));
    }

    proptest! {
        #[test]
        fn what_is_published_becomes_a_message_of_the_namespace(
            texts in proptest::collection::vec(
                "([ab:]{1,3}\\*?|stream:[ab])=(/[ab]){0,2}(/\\*{1,2})?(/[ab]){0,1}(,split=[:.])?", 1..4),
            namespace in "(/[ab.:]{1,2}){1,4}",
        ) {
            let parsed: Vec<Route> = texts
                .iter()
                .map(|text| text.replace("=,", "=/,"))
                .map(|text| if text.ends_with('=') { format!("{text}/") } else { text })
                .filter_map(|text| text.parse().ok())
                .collect();
            let Ok(routes) = Routes::new(parsed) else { return Ok(()) };
            let namespace: Namespace = namespace.parse().unwrap();
            let Ok((_, target)) = routes.target(&namespace, None) else { return Ok(()) };
            match target {
                Target::Channel(channel) => {
                    let decoded = routes.decode(RawEvent::new(channel, "x")).unwrap();
                    prop_assert_eq!(decoded.message.namespace, namespace);
                }
                Target::Stream { key, topic } => {
                    let route = routes.iter().find(|route| route.pattern == Pattern::Stream(Arc::clone(&key))).unwrap();
                    prop_assert_eq!(route.namespace(&topic.unwrap_or_default()).unwrap(), namespace);
                }
            }
        }
    }
}
