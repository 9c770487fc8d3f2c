//! The table of routes: which route decides an event, and what the event becomes.

use std::sync::Arc;

use tallycast_fanout::{Kept, Message, Namespace, NamespaceError, Retention, Update};

use super::json_field::string_field;
use super::route::{EventName, Pattern, Route, RouteError};
use super::sender::{self, SENT};
use super::{MAX_PAYLOAD_BYTES, MAX_ROUTES, MAX_SENDER_BYTES, MAX_UPDATE_TOPICS};
use crate::source::{Entry, RawEvent, Selector, SourceId, StreamKey};
use crate::tally::Key;

/// The namespaces below are reserved for protocols (RFC 8615), so no route owns them.
const WELL_KNOWN: &str = "/.well-known/";
/// What the channels of tallycast itself start with: commands and events of sessions, of nodes, and the like.
pub(crate) const OWN_CHANNELS: &str = "tallycast:";

/// The table of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The most specific first.
    routes: Vec<Route>,
    /// Whether to subscribe to the channels that carry senders.
    with_senders: bool,
    /// The channels that no route has by a wider pattern.
    reserved: Vec<Selector>,
}

/// Why there is no table of some routes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// There are no routes, or too many.
    #[error("expected 1 to {MAX_ROUTES} routes, found {0}")]
    Count(usize),
    /// A route is invalid.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// An entry would have two places in the history, or none.
    #[error("several routes read the stream {0:?}; expected one route for each stream")]
    SameStream(Arc<str>),
}

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
    /// The channel is for programs alone, and no route names it.
    #[error("the channel is reserved, and no route names it")]
    Reserved,
    /// The payload is too large.
    #[error("the payload has more than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// An entry of a stream has no payload.
    #[error("the entry has several fields, and none of them is \"data\"")]
    NoPayload,
    /// The payload, event name, topic or sender is not text.
    #[error("the payload, event name, topic or sender is not UTF-8")]
    NotText,
    /// The event name of an entry would break lines.
    #[error("the event name contains a control character")]
    EventName,
    /// A sender is too long, or would break lines.
    #[error("the sender has more than {MAX_SENDER_BYTES} bytes, or contains a control character")]
    Sender,
    /// The name of a channel that carries a sender is incomplete.
    #[error("the channel starts with {SENT}, and no sender and channel follow; expected {SENT}SENDER:CHANNEL")]
    SentChannel,
    /// The namespace of the route needs the topic of an entry.
    #[error("the entry has no field \"topic\", which the * in the namespace of the route stands for")]
    NoTopic,
    /// An entry names too many topics.
    #[error("the entry has more than {MAX_UPDATE_TOPICS} fields \"topic\"")]
    TooManyTopics,
    /// A topic that an entry names is one that another route decides about.
    #[error("the entry names a topic that belongs to another route")]
    ForeignTopic,
    /// The id of an entry would break lines, or its pause is no number.
    #[error("the field \"id\" contains a control character, or \"retry\" is no number of milliseconds")]
    Update,
    /// An entry is for the history alone, and the route has none any more.
    #[error("the entry is for the history, and the route keeps none")]
    NoHistory,
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
    /// The list is empty, or has more than [`MAX_ROUTES`]; a namespace has a `*` and its pattern has none; a pattern is reserved; two
    /// routes are for the same stream.
    pub fn new(routes: Vec<Route>) -> Result<Self, RoutesError> {
        if routes.is_empty() { Err(RoutesError::Count(0)) } else { Self::of(routes) }
    }

    /// A table of perhaps no routes, for sources that need none.
    pub(crate) fn of(mut routes: Vec<Route>) -> Result<Self, RoutesError> {
        if routes.len() > MAX_ROUTES {
            return Err(RoutesError::Count(routes.len()));
        }
        routes.iter().try_for_each(Route::check)?;
        routes.sort_by_key(|route| std::cmp::Reverse(specificity(&route.pattern)));
        let owned: Vec<Namespace> = routes.iter().flat_map(Route::owned_namespaces).collect();
        routes.iter_mut().filter(|route| route.has_topics()).for_each(|route| route.leave_out(&owned));
        let routes = Self { routes, with_senders: false, reserved: vec![Selector::Prefix(OWN_CHANNELS.to_owned())] };
        let mut keys = std::collections::HashSet::new();
        match routes.routes.iter().filter_map(Route::sequence).find(|sequence| !keys.insert(Arc::clone(sequence))) {
            Some(sequence) => Err(RoutesError::SameStream(sequence)),
            None => Ok(routes),
        }
    }

    /// Whether the [selectors](Self::selectors) include the channels on which messages with a sender are published (see
    /// [`channel_of_sender`](super::channel_of_sender)). Not at first. Such messages are decoded in any case: a `*` may bring them, too.
    #[must_use]
    pub fn with_senders(self, with_senders: bool) -> Self {
        Self { with_senders, ..self }
    }

    /// Reserves channels for programs, as those that start with `tallycast:` are: only routes that name nothing else have them, so that a
    /// `*` does not show clients the names of sessions and what other clients send to the backend.
    #[must_use]
    pub fn with_reserved(mut self, channels: impl IntoIterator<Item = Selector>) -> Self {
        self.reserved.extend(channels);
        self
    }

    fn is_reserved(&self, channel: &str) -> bool {
        self.reserved.iter().any(|reserved| reserved.matches(channel))
    }

    /// The route that decides about a channel of a source, with its index and the part of the channel that a `*` stands for.
    pub(super) fn of_channel<'a>(&self, source: SourceId, channel: &'a str) -> Option<(usize, &Route, &'a str)> {
        let may_have = |route: &Route| {
            let mut reserved = self.reserved.iter().filter(|reserved| reserved.matches(channel));
            reserved.all(|reserved| route.is_within(reserved))
        };
        let mut routes = self.routes.iter().enumerate();
        routes.find_map(|(index, route)| {
            let rest = if route.source.id == source { route.strip(channel)? } else { return None };
            may_have(route).then_some((index, route, rest))
        })
    }

    /// The route of the stream of a source with this sequence, with its index.
    fn of_stream(&self, source: SourceId, sequence: &str) -> Option<(usize, &Route, &'static str)> {
        let is_for = |route: &Route| route.source.id == source && route.has_sequence(sequence);
        let mut routes = self.routes.iter().enumerate();
        routes.find_map(|(index, route)| is_for(route).then_some((index, route, "")))
    }

    /// The selectors that a source subscribes to. A selector that another covers is left out, because some brokers send an event once
    /// for each subscription that matches.
    pub fn selectors(&self, source: SourceId) -> Vec<Selector> {
        let mut kept: Vec<&Selector> = Vec::new();
        // The broadest first.
        for route in self.routes.iter().rev() {
            if let Pattern::Channels(selector) = &route.pattern
                && route.source.id == source
                && !kept.iter().any(|kept| kept.covers(selector))
            {
                kept.push(selector);
            }
        }
        let sent = Selector::Prefix(SENT.to_owned());
        // Without channels there are none with a sender. It covers none of the others, because it is reserved.
        if self.with_senders && !kept.is_empty() && !kept.iter().any(|kept| kept.covers(&sent)) {
            kept.push(&sent);
        }
        kept.into_iter().cloned().collect()
    }

    /// The channels of a source that routes name exactly, also where a selector covers them, without those that are counted for the namespaces
    /// in `with_totals`.
    pub fn exact_channels(&self, source: SourceId, with_totals: &[Namespace]) -> Vec<String> {
        let exact = |route: &Route| match &route.pattern {
            Pattern::Channels(Selector::Exact(channel)) => {
                let is_counted = route.tally.as_ref().is_some_and(|tally| with_totals.contains(tally));
                (!is_counted).then(|| channel.clone())
            }
            _ => None,
        };
        let mut channels: Vec<String> =
            self.routes.iter().filter(|route| route.source.id == source).filter_map(exact).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// The streams that a source reads.
    pub fn streams(&self, source: SourceId) -> Vec<StreamKey> {
        let stream = |route: &Route| match &route.pattern {
            Pattern::Stream(key) => Some(StreamKey {
                key: Arc::clone(key),
                sequence: route.sequence()?,
                retention: route.retention.clone(),
            }),
            Pattern::Channels(_) => None,
        };
        self.routes.iter().filter(|route| route.source.id == source).filter_map(stream).collect()
    }

    /// How long messages are kept: the retentions of all routes that have one.
    pub fn retentions(&self) -> Vec<Arc<Retention>> {
        let mut retentions: Vec<Arc<Retention>> = Vec::new();
        for retention in self.routes.iter().flat_map(Route::retentions) {
            // Of two routes with the same pattern, the first one decides.
            if !retentions.iter().any(|known| known.name == retention.name) {
                retentions.push(Arc::clone(retention));
            }
        }
        retentions
    }

    /// The stream with this sequence has as many partitions. Each is a sequence of its own then, and is kept by itself.
    pub fn set_partitions(&mut self, sequence: &str, count: u32) {
        for route in self.routes.iter_mut().filter(|route| route.has_sequence(sequence)) {
            let partition = |retention: &Arc<Retention>| {
                (0..count).map(|number| Arc::new(retention.of_partition(number))).collect()
            };
            route.partitions = Some(route.retention.as_ref().map(partition).unwrap_or_default());
        }
    }

    /// The route that decides about a namespace, beside those whose entries name their own topics. Such entries must not name
    /// these namespaces: their readers' positions, totals and limits belong to the other route.
    pub fn owner(&self, namespace: &Namespace) -> Option<String> {
        if namespace.is_name() || namespace.as_str().starts_with(WELL_KNOWN) {
            return None;
        }
        let owns = |route: &&Route| route.owned_namespaces().any(|owned| owned.contains(namespace));
        self.routes.iter().find(owns).map(Route::shown_pattern)
    }

    /// Whether the entries of some route name their own topics, of any form.
    pub fn has_topics(&self) -> bool {
        self.routes.iter().any(Route::has_topics)
    }

    /// The streams, and the channels of sources other than the default one, whose events are counted, each with the namespace of the
    /// tally.
    pub fn tallies_elsewhere(&self) -> impl Iterator<Item = (String, &Namespace)> {
        let routes = self.routes.iter().filter(|route| route.is_stream() || route.has_named_source());
        routes.filter_map(|route| Some((route.shown_pattern(), route.tally.as_ref()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// The patterns of all routes as configuration writes them, in the order of [`Decoded::route`].
    pub(super) fn patterns(&self) -> impl Iterator<Item = String> {
        self.routes.iter().map(Route::shown_pattern)
    }

    /// Decodes an event.
    ///
    /// # Errors
    /// No route matches, or channel or payload are invalid.
    pub fn decode(&self, event: RawEvent) -> Result<Decoded, DecodeError> {
        let RawEvent { source, channel, payload, received_at, entry, .. } = event;
        let (channel, sender) = if entry.is_some() { (&*channel, None) } else { sender::split_channel(&channel)? };
        let found = if entry.is_some() { self.of_stream(source, channel) } else { self.of_channel(source, channel) };
        let is_reserved = || entry.is_none() && self.is_reserved(channel);
        let (index, route, rest) =
            found.ok_or_else(|| if is_reserved() { DecodeError::Reserved } else { DecodeError::NoRoute })?;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::TooLarge);
        }
        let Addressed { namespace, kept, event, sender, mut update } = match entry {
            None => {
                let kept = route.retention.clone().map(|retention| Kept::new(retention, None));
                Addressed { namespace: route.namespace(rest)?, kept, event: None, sender, update: None }
            }
            Some(entry) if !entry.has_payload => return Err(DecodeError::NoPayload),
            Some(entry) if route.has_topics() => route.decode_update(*entry, self)?,
            Some(entry) => route.decode_entry(*entry)?,
        };
        let name = match (event, &route.event) {
            (Some(name), _) => Some(name),
            (None, EventName::None) => None,
            (None, EventName::Channel) if channel.contains(char::is_control) => {
                return Err(NamespaceError::Forbidden.into());
            }
            (None, EventName::Channel) => Some(channel.into()),
            (None, EventName::Fixed(name)) => Some(Arc::clone(name)),
        };
        if route.is_private {
            update.get_or_insert_default().is_private = true;
        }
        let text = text(payload)?;
        let sender = sender.or_else(|| route.sender_in(&text));
        // What is in the history was counted before.
        let tally = route.tally.as_ref().filter(|_| !kept.as_ref().is_some_and(|kept| kept.is_backlog));
        let key = tally.map(|namespace| Key { namespace: namespace.clone(), key: text.clone(), received_at });
        let kept = kept.map(Box::new);
        let message = Message { event: name, received_at, kept, sender, update, ..Message::text(namespace, text) };
        Ok(Decoded { message, key, route: index })
    }
}

/// What an event says of its message, besides the text.
struct Addressed {
    namespace: Namespace,
    kept: Option<Kept>,
    /// The event name of an entry.
    event: Option<Arc<str>>,
    /// The sender, if it is not in the payload.
    sender: Option<Arc<str>>,
    update: Option<Box<Update>>,
}

impl Route {
    /// The namespaces whose messages are this route's alone; none for a route whose entries name their own topics.
    pub(super) fn owned_namespaces(&self) -> impl Iterator<Item = Namespace> {
        let prefix = (!self.has_topics()).then(|| self.template.literal_prefix());
        prefix.into_iter().chain(self.tally.clone())
    }

    /// How long its messages are kept: one retention, or one for each partition.
    fn retentions(&self) -> impl Iterator<Item = &Arc<Retention>> {
        self.partitions.as_ref().map_or(self.retention.as_slice(), Vec::as_slice).iter()
    }

    /// How long the entries of a sequence are kept. That of a partition ends with its number.
    fn retention_of(&self, sequence: &str) -> Option<&Arc<Retention>> {
        let Some(partitions) = &self.partitions else { return self.retention.as_ref() };
        let (_, number) = sequence.rsplit_once('#')?;
        partitions.get(number.parse::<usize>().ok()?)
    }

    /// Keeps no messages of `namespaces`, which are those of other routes. Without the root, which would be everything.
    fn leave_out(&mut self, namespaces: &[Namespace]) {
        let except = || namespaces.iter().filter(|namespace| !namespace.is_root()).cloned().collect();
        let retention = self.retention.take();
        self.retention =
            retention.map(|retention| Arc::new(Retention { except: except(), ..Retention::clone(&retention) }));
    }

    /// The part of `channel` that a `*` stands for, if the route is for it.
    fn strip<'a>(&self, channel: &'a str) -> Option<&'a str> {
        match &self.pattern {
            Pattern::Channels(selector) => selector.strip(channel),
            Pattern::Stream(_) => None,
        }
    }

    /// Whether the entries of its stream have this sequence.
    fn has_sequence(&self, sequence: &str) -> bool {
        let Pattern::Stream(key) = &self.pattern else { return false };
        match &self.source.name {
            None => **key == *sequence,
            Some(name) => {
                let key_of = sequence.strip_prefix(&**name).and_then(|rest| rest.strip_prefix(':'));
                key_of == Some(&**key)
            }
        }
    }

    /// Whether it is for none but these channels.
    fn is_within(&self, channels: &Selector) -> bool {
        matches!(&self.pattern, Pattern::Channels(selector) if channels.covers(selector))
    }

    fn decode_entry(&self, mut entry: Entry) -> Result<Addressed, DecodeError> {
        let topic = match std::mem::take(&mut entry.topics).into_iter().next() {
            Some(topic) => text(topic)?,
            None if self.has_wildcard() => return Err(DecodeError::NoTopic),
            None => String::new(),
        };
        self.decode_common(entry, self.namespace(&topic)?, None)
    }

    /// An entry that names its own topics, none of which may belong to another of `routes`.
    fn decode_update(&self, mut entry: Entry, routes: &Routes) -> Result<Addressed, DecodeError> {
        let topics = std::mem::take(&mut entry.topics);
        if topics.len() > MAX_UPDATE_TOPICS {
            return Err(DecodeError::TooManyTopics);
        }
        let namespaces = topics.into_iter().map(|topic| {
            let namespace = Namespace::from_topic(&text(topic)?)?;
            if routes.owner(&namespace).is_some() { Err(DecodeError::ForeignTopic) } else { Ok(namespace) }
        });
        let mut namespaces = namespaces.collect::<Result<Vec<_>, _>>()?.into_iter();
        let namespace = namespaces.next().ok_or(DecodeError::NoTopic)?;
        let id = entry.id.take().map(text).transpose()?.filter(|id| !id.is_empty());
        if id.as_ref().is_some_and(|id| id.contains(char::is_control)) {
            return Err(DecodeError::Update);
        }
        let retry = entry.retry.take().map(text).transpose()?.map(|retry| retry.parse());
        let retry = retry.transpose().map_err(|_| DecodeError::Update)?;
        let update = Update {
            alternates: namespaces.collect(),
            is_private: entry.is_private,
            id: id.map(String::into_boxed_str),
            retry,
        };
        self.decode_common(entry, namespace, Some(Box::new(update)))
    }

    /// What all entries of streams have in common: how long they are kept, the event name and the sender.
    fn decode_common(
        &self,
        entry: Entry,
        namespace: Namespace,
        update: Option<Box<Update>>,
    ) -> Result<Addressed, DecodeError> {
        let Entry { position, event, sender, is_backlog, .. } = entry;
        let name = event.map(text).transpose()?.filter(|name| !name.is_empty());
        if name.as_ref().is_some_and(|name| name.contains(char::is_control)) {
            return Err(DecodeError::EventName);
        }
        let sender = sender.map(text).transpose()?.map_or(Ok(None), |name| sender::sender(&name))?;
        let kept = match self.retention_of(&position.sequence) {
            Some(retention) => {
                let mut kept = Kept::new(Arc::clone(retention), Some(position));
                kept.is_backlog = is_backlog;
                Some(kept)
            }
            None if is_backlog => return Err(DecodeError::NoHistory),
            None => None,
        };
        Ok(Addressed { namespace, kept, event: name.map(Arc::from), sender, update })
    }

    /// The sender that a payload names, if the route has them there. An invalid name is none: the payload is the publisher's alone.
    fn sender_in(&self, payload: &str) -> Option<Arc<str>> {
        let name = string_field(payload, self.sender.as_deref()?)?;
        sender::sender(&name).ok().flatten()
    }
}

fn text(bytes: Vec<u8>) -> Result<String, DecodeError> {
    String::from_utf8(bytes).map_err(|_| DecodeError::NotText)
}

/// Orders patterns: of two that match a channel, the greater one decides.
fn specificity(pattern: &Pattern) -> (bool, usize) {
    match pattern {
        Pattern::Channels(Selector::Exact(name)) => (true, name.len()),
        Pattern::Channels(Selector::Prefix(prefix)) => (false, prefix.len()),
        Pattern::Stream(key) => (true, key.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tallycast_fanout::{EntryId, Position};

    use super::*;

    fn routes(texts: &[&str]) -> Routes {
        Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn selected(routes: &Routes) -> Vec<String> {
        routes.selectors(SourceId::DEFAULT).iter().map(ToString::to_string).collect()
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
    fn messages_of_a_private_route_are_private() {
        let routes = routes(&["a:*=/a/*,private", "a:b:*=/b/*", "stream:s=/s,private"]);
        let is_private = |event| routes.decode(event).unwrap().message.is_private();
        assert!(is_private(event("a:c", "x")) && !is_private(event("a:b:c", "x")));
        let position = Position { sequence: "s".into(), ..entry().position };
        assert!(is_private(RawEvent::from_entry("x", Entry { position, ..entry() })));
        assert!("a=/a,private=1".parse::<Route>().is_err());
    }

    #[test]
    fn most_specific_route_decides_and_only_broadest_selectors_are_subscribed() {
        let routes = routes(&["a.*=/broad", "a.b.*=/narrow", "a.b.c=/exact", "z=/z"]);
        let of = |channel: &str| namespace(&routes, channel).unwrap();
        assert_eq!([of("a.x"), of("a.b.x"), of("a.b.c")], ["/broad", "/narrow", "/exact"]);
        assert_eq!(selected(&routes), ["a.*", "z"]);
    }

    #[test]
    fn contradicting_routes_are_refused() {
        let error = |texts: &[&str]| {
            let routes = texts.iter().map(|text| text.parse().unwrap()).collect();
            Routes::new(routes).unwrap_err().to_string()
        };
        assert_eq!(error(&["a=/*"]), "the namespace \"/*\" has a *, but the pattern has none that it could stand for");
        assert_eq!(
            error(&["stream:a=/x", "stream:a=/y"]),
            "several routes read the stream \"a\"; expected one route for each stream"
        );
        assert!(Routes::new(vec!["stream:a=/*".parse().unwrap(), "a=/x".parse().unwrap()]).is_ok());
        assert_eq!(error(&[]), "expected 1 to 256 routes, found 0");
    }

    fn entry() -> Entry {
        let position = Position { sequence: "a".into(), entry: EntryId::new(7, 1) };
        Entry::new(position)
    }

    #[test]
    fn entries_are_decoded_by_the_route_of_their_stream() {
        let routes =
            routes(&["a*=/channel", "stream:a=/x/**,event=e,tally=/t,history=10", "stream:b=/b,event=channel"]);
        assert_eq!(selected(&routes), ["a*"]);
        let streams = routes.streams(SourceId::DEFAULT);
        assert_eq!(streams.iter().map(|stream| &*stream.key).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(routes.retentions(), [streams[0].retention.clone().unwrap()]);
        let topics = vec![b"p:q".to_vec()];
        let decoded = routes.decode(RawEvent::from_entry("1", Entry { topics: topics.clone(), ..entry() })).unwrap();
        assert_eq!(
            decoded.message,
            Message { event: Some("e".into()), ..Message::text("/x/p/q".parse().unwrap(), "1") }
        );
        let kept = decoded.message.kept.unwrap();
        assert_eq!((kept.position, kept.is_backlog), (Some(entry().position), false));
        assert!(decoded.key.is_some());
        let backlog = Entry { topics: topics.clone(), event: Some(b"own".to_vec()), is_backlog: true, ..entry() };
        let decoded = routes.decode(RawEvent::from_entry("1", backlog)).unwrap();
        assert_eq!((decoded.message.event.as_deref(), decoded.key), (Some("own"), None));
        assert!(decoded.message.kept.unwrap().is_backlog);
        let in_b = Entry { position: Position { sequence: "b".into(), ..entry().position }, ..entry() };
        let decoded = routes.decode(RawEvent::from_entry("1", in_b.clone())).unwrap().message;
        assert_eq!((decoded.event.as_deref(), decoded.kept), (Some("b"), None));
        // The same key as a channel.
        assert_eq!(namespace(&routes, "a").unwrap(), "/channel");
        let error = |entry: Entry| routes.decode(RawEvent::from_entry("1", entry)).unwrap_err();
        assert_eq!(error(entry()), DecodeError::NoTopic);
        assert_eq!(error(Entry { topics: vec![vec![0xff]], ..entry() }), DecodeError::NotText);
        assert_eq!(error(Entry { topics, event: Some(b"a\nb".to_vec()), ..entry() }), DecodeError::EventName);
        assert_eq!(error(Entry { has_payload: false, ..entry() }), DecodeError::NoPayload);
        assert_eq!(error(Entry { is_backlog: true, ..in_b }), DecodeError::NoHistory);
        let unknown = Position { sequence: "ab".into(), ..entry().position };
        assert_eq!(error(Entry { position: unknown, ..entry() }), DecodeError::NoRoute);
    }

    #[test]
    fn entries_of_a_route_for_any_topics_are_updates() {
        let routes = routes(&["r*=/raw/*,tally=/eps", "stream:a=*,history=10"]);
        let decode = |entry: Entry| routes.decode(RawEvent::from_entry("1", entry)).map(|decoded| decoded.message);
        let topics = |topics: &[&str]| topics.iter().map(|topic| topic.as_bytes().to_vec()).collect::<Vec<_>>();
        let all = Entry {
            topics: topics(&["https://e.com/a", "/b", "c"]),
            id: Some(b"urn:x".to_vec()),
            retry: Some(b"500".to_vec()),
            is_private: true,
            event: Some(b"e".to_vec()),
            ..entry()
        };
        let message = decode(all.clone()).unwrap();
        let texts: Vec<&str> = message.topics().map(Namespace::as_str).collect();
        assert_eq!((&*texts, message.event.as_deref()), (&["https://e.com/a", "/b", "c"][..], Some("e")));
        let update = message.update.unwrap();
        assert_eq!((update.id.as_deref(), update.retry, update.is_private), (Some("urn:x"), Some(500), true));
        let public = decode(Entry { topics: topics(&["x"]), ..entry() }).unwrap().update.unwrap();
        assert_eq!((public.id.clone(), public.retry, public.is_private), (None, None, false));
        let error = |entry: Entry| decode(entry).unwrap_err();
        assert_eq!(error(entry()), DecodeError::NoTopic);
        assert_eq!(error(Entry { topics: topics(&["x", "/raw/y"]), ..entry() }), DecodeError::ForeignTopic);
        assert_eq!(error(Entry { topics: topics(&["/eps"]), ..entry() }), DecodeError::ForeignTopic);
        assert_eq!(
            error(Entry { topics: topics(&["x"; MAX_UPDATE_TOPICS + 1]), ..entry() }),
            DecodeError::TooManyTopics
        );
        assert_eq!(error(Entry { id: Some(b"a\nb".to_vec()), ..all.clone() }), DecodeError::Update);
        assert_eq!(error(Entry { retry: Some(b"x".to_vec()), ..all }), DecodeError::Update);
        // Readers of other routes' namespaces get no ids because of it.
        let retention = routes.retentions().remove(0);
        let except: Vec<&str> = retention.except.iter().map(Namespace::as_str).collect();
        assert_eq!((retention.namespace.as_str(), &*except), ("/", &["/raw", "/eps"][..]));
        assert_eq!(routes.owner(&"/raw/y".parse().unwrap()).as_deref(), Some("r*"));
        for free in ["/x", "/.well-known/mercure/subscriptions/x", "raw", "https://e.com/raw"] {
            assert_eq!(routes.owner(&Namespace::from_topic(free).unwrap()), None, "{free}");
        }
    }

    #[test]
    fn reserved_channels_need_a_route_of_their_own() {
        let all = || routes(&["*=/all/**", "app:*=/app/*"]);
        let events = "tallycast:sessions:events";
        assert_eq!(namespace(&all(), events), Err(DecodeError::Reserved));
        assert_eq!(namespace(&all(), &format!("tallycast:sent:ann:{events}")), Err(DecodeError::Reserved));
        assert_eq!(namespace(&all(), "tallycast"), Ok("/all/tallycast".to_owned()));
        for own in ["tallycast:sessions:events=/own", "tallycast:*=/own", "tallycast:sessions:*=/own"] {
            assert_eq!(namespace(&routes(&["*=/all/**", own]), events), Ok("/own".to_owned()), "{own}");
        }
        let reserved =
            all().with_reserved([Selector::Prefix("app:client-".to_owned()), Selector::Exact("e".to_owned())]);
        for channel in ["app:client-new", "app:client-data:ann", "e", events] {
            assert_eq!(namespace(&reserved, channel), Err(DecodeError::Reserved), "{channel}");
            assert!(reserved.namespace_of(channel, "").is_err());
        }
        assert_eq!(namespace(&reserved, "app:x"), Ok("/app/x".to_owned()));
        assert_eq!(namespace(&reserved, "events"), Ok("/all/events".to_owned()));
        let target = |routes: &Routes, name: &str| routes.target(&name.parse().unwrap(), None).is_ok();
        assert!(target(&all(), "/app/client-new") && !target(&reserved, "/app/client-new"));
        assert!(!target(&all(), "/all/tallycast/sessions/events") && target(&all(), "/all/a/b"));
    }

    fn sender_of(routes: &Routes, event: RawEvent) -> Option<String> {
        routes.decode(event).unwrap().message.sender.map(|sender| sender.to_string())
    }

    #[test]
    fn entries_have_the_sender_of_their_field() {
        let routes = routes(&["stream:a=/a,history=10", "stream:b=*"]);
        let (ann, some) = (Some(b"ann".to_vec()), Some("ann".to_owned()));
        let of_a = Entry { sender: ann.clone(), ..entry() };
        assert_eq!(sender_of(&routes, RawEvent::from_entry("1", of_a.clone())), some);
        assert_eq!(sender_of(&routes, RawEvent::from_entry("1", Entry { is_backlog: true, ..of_a })), some);
        let position = Position { sequence: "b".into(), entry: EntryId::new(7, 1) };
        let of_b = Entry { sender: ann, topics: vec![b"t".to_vec()], position, ..entry() };
        assert_eq!(sender_of(&routes, RawEvent::from_entry("1", of_b)), some);
        let of = |sender: &[u8]| {
            routes.decode(RawEvent::from_entry("1", Entry { sender: Some(sender.to_vec()), ..entry() }))
        };
        assert_eq!(of(b"").unwrap().message.sender, None);
        assert!(of(&[b'a'; MAX_SENDER_BYTES]).is_ok());
        assert_eq!(of(&[b'a'; MAX_SENDER_BYTES + 1]), Err(DecodeError::Sender));
        assert_eq!(of(b"a\nb"), Err(DecodeError::Sender));
        assert_eq!(of(&[0xff]), Err(DecodeError::NotText));
    }

    #[test]
    fn channels_that_carry_a_sender_are_decoded_as_the_others() {
        let routes = routes(&["chat:*=/chat/*,event=channel,tally=/count,history=10", "*=/any/*"]);
        let direct = routes.decode(event("chat:a:b", "hi")).unwrap();
        let sent = routes.decode(event("tallycast:sent:ann%3A1:chat:a:b", "hi")).unwrap();
        assert_eq!(sent.message.namespace.as_str(), "/chat/a:b");
        assert_eq!((&sent.message, sent.route), (&direct.message, direct.route));
        let key = sent.key.unwrap();
        assert_eq!((key.namespace.as_str(), &*key.key), ("/count", "hi"));
        assert_eq!((sent.message.sender.as_deref(), direct.message.sender), (Some("ann:1"), None));
        assert!(sent.message.kept.is_some());
        // Neither an event of the broadest route, nor of a channel with a sender in a sender.
        assert_eq!(routes.decode(event("tallycast:sent:ann", "hi")), Err(DecodeError::SentChannel));
        assert_eq!(routes.decode(event("tallycast:sent:%00:chat:a", "hi")), Err(DecodeError::Sender));
        let twice = routes.decode(event("tallycast:sent:ann:tallycast:sent:bob:c", "hi"));
        assert_eq!(twice, Err(DecodeError::Reserved));
        assert_eq!(namespace(&self::routes(&["a=/a"]), "tallycast:sent:ann:b"), Err(DecodeError::NoRoute));
        // Keys of streams are not reserved.
        let stream = Routes::new(vec!["stream:tallycast:sent:ann:b=/b".parse().unwrap()]).unwrap();
        let position = Position { sequence: "tallycast:sent:ann:b".into(), ..entry().position };
        assert_eq!(sender_of(&stream, RawEvent::from_entry("1", Entry { position, ..entry() })), None);
    }

    #[test]
    fn channels_that_carry_a_sender_are_selected_once_and_on_demand() {
        let with_senders = |texts: &[&str]| selected(&routes(texts).with_senders(true));
        assert_eq!(with_senders(&["a=/a", "b*=/b"]), ["b*", "a", "tallycast:sent:*"]);
        assert_eq!(with_senders(&["a=/a", "tally*=/b"]), ["tally*", "a"]);
        assert_eq!(with_senders(&["*=/a"]), ["*"]);
        assert_eq!(with_senders(&["stream:a=/a"]), [] as [&str; 0]);
        assert_eq!(selected(&routes(&["a=/a"]).with_senders(true).with_senders(false)), ["a"]);
        for pattern in ["tallycast:sent:*", "tallycast:sent:a*", "tallycast:sent:a:b"] {
            let refused = Routes::new(vec![format!("{pattern}=/a").parse().unwrap()]).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("the pattern {pattern:?} starts with tallycast:sent:,")), "{refused}");
        }
    }

    #[test]
    fn payload_names_the_sender_unless_something_else_does() {
        let routes = routes(&["a*=/a,sender=by", "stream:a=/a,sender=by", "b=/b"]);
        let some = |text: &str| Some(text.to_owned());
        let payload = r#"{"text":"hi","by":"ann"}"#;
        assert_eq!(sender_of(&routes, event("ab", payload)), some("ann"));
        assert_eq!(sender_of(&routes, event("b", payload)), None);
        assert_eq!(sender_of(&routes, event("tallycast:sent:bob:ab", payload)), some("bob"));
        assert_eq!(sender_of(&routes, RawEvent::from_entry(payload, entry())), some("ann"));
        let own = Entry { sender: Some(b"bob".to_vec()), ..entry() };
        assert_eq!(sender_of(&routes, RawEvent::from_entry(payload, own)), some("bob"));
        let long = format!(r#"{{"by":"{}"}}"#, "a".repeat(MAX_SENDER_BYTES + 1));
        for none in ["hi", r#"{"by":7}"#, r#"{"by":""}"#, r#"{"by":"a\nb"}"#, &long] {
            assert_eq!(sender_of(&routes, event("a", none)), None, "{none}");
        }
        assert_eq!(routes.decode(event("ab", payload)).unwrap().message.payload(), payload);
    }

    #[test]
    fn messages_of_a_route_with_history_are_kept() {
        let routes = routes(&["a*=/x/*,history=10m,tally=/t", "a*=/y,history=1", "b=/b"]);
        let decoded = routes.decode(event("ab", "1")).unwrap();
        let retentions = routes.retentions();
        assert_eq!(retentions.iter().map(|retention| &*retention.name).collect::<Vec<_>>(), ["a*"]);
        assert_eq!(*decoded.message.kept.unwrap(), Kept::new(Arc::clone(&retentions[0]), None));
        assert!(decoded.key.is_some());
        assert_eq!(routes.decode(event("b", "1")).unwrap().message.kept, None);
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
            let table = self::routes(&["stream:a=/a/*,split=:."]);
            let (topics, event) = (vec![channel.clone().into_bytes()], Some(channel.into_bytes()));
            if let Ok(decoded) = table.decode(RawEvent::from_entry(payload, Entry { topics, event, ..entry() })) {
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
            let subscribed = routes.selectors(SourceId::DEFAULT).iter().filter(|selector| selector.matches(&channel)).count();
            prop_assert_eq!(subscribed, usize::from(patterns.iter().any(|pattern| matches(pattern))));
        }
    }
}
