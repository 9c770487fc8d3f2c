//! What a session is: its name, topics, grant, policy and time to live.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tallycast_fanout::{Access, Grant, Namespace, Topic, TopicError, Topics};

use crate::auth::{in_common, to_set};

/// Bytes of a name.
pub const MAX_NAME_BYTES: usize = 256;
/// Bytes of a grant, as JSON.
pub const MAX_GRANT_BYTES: usize = 4 * 1024;
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The name of a session: 1 to [`MAX_NAME_BYTES`] bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionName(Arc<str>);

/// The text is not a [`SessionName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a session: 1 to {MAX_NAME_BYTES} bytes without control characters")]
pub struct InvalidName;

impl SessionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for SessionName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_valid = (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.contains(char::is_control);
        if is_valid { Ok(Self(text.into())) } else { Err(InvalidName) }
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What becomes of the connections of a session when another one opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// All stay.
    #[default]
    Many,
    /// The newest stays, and the others are closed.
    Newest,
    /// The first stays, and others are refused.
    First,
}

impl Policy {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Many => "many",
            Self::Newest => "newest",
            Self::First => "first",
        }
    }
}

/// A topic in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicText(pub Topic);

impl Serialize for TopicText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TopicText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let topic = text.parse().map_err(|error: TopicError| serde::de::Error::custom(format!("{text:?}: {error}")));
        topic.map(Self)
    }
}

/// What the clients of a session may do by themselves, and until when. Whatever the backend gives the session to read needs no
/// permission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionGrant {
    /// What they may subscribe to; `None`, which is `null` in JSON, for everything. Default: nothing.
    #[serde(skip_serializing_if = "is_nothing")]
    pub read: Option<Vec<TopicText>>,
    /// What they may publish to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<TopicText>,
    /// Of which topics they receive private messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<TopicText>,
    /// When their streams end, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Data about the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// Whether it is that of a token, which the next token replaces.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub token: bool,
}

impl Default for SessionGrant {
    /// Nothing, for ever.
    fn default() -> Self {
        Self {
            read: Some(Vec::new()),
            publish: Vec::new(),
            private: Vec::new(),
            expires: None,
            payload: None,
            token: false,
        }
    }
}

fn is_nothing(read: &Option<Vec<TopicText>>) -> bool {
    read.as_ref().is_some_and(Vec::is_empty)
}

impl SessionGrant {
    /// What the engine needs of it for a stream of `topics`. It limits nothing that the session reads; see [`may_read`](Self::may_read).
    pub(super) fn grant(&self, name: &SessionName, topics: &Topics, options: &StreamOptions) -> Grant {
        let private: Vec<Topic> = self.private.iter().map(|TopicText(topic)| topic.clone()).collect();
        let publish = self.publish.iter().map(|TopicText(topic)| topic.clone()).collect();
        let mut grant = Grant::default()
            .with_subject(name.shared())
            .with_publishable(Access::Topics(to_set(publish)))
            .with_private(in_common(&private, topics));
        grant.expires_at = self.expires_at().into_iter().chain(options.expires_at).min();
        grant.payload = self.payload.clone();
        // The hook may have named a session without a part for the sender.
        let sender = name.as_str().get(options.sender_at..).filter(|sender| !sender.is_empty());
        grant.except_sender = (!options.echo).then(|| sender.map_or_else(|| name.shared(), Arc::from));
        grant
    }

    /// Whether clients may subscribe to all of `topic` by themselves.
    pub fn may_read(&self, topic: &Topic) -> bool {
        self.read.as_ref().is_none_or(|read| read.iter().any(|TopicText(readable)| readable.covers(topic)))
    }

    /// Whether clients may publish to `namespace`.
    pub fn may_publish(&self, namespace: &Namespace) -> bool {
        self.publish.iter().any(|TopicText(publishable)| publishable.contains(namespace))
    }

    /// Whether it has expired.
    pub fn is_expired(&self) -> bool {
        self.expires_at().is_some_and(|expires_at| expires_at <= SystemTime::now())
    }

    /// When it expires. A time that no clock can show never comes.
    fn expires_at(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.expires?))
    }
}

/// What is special about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Whether it receives what its session publishes.
    pub echo: bool,
    /// Where in the name of its session the sender begins that its messages have, in bytes. Zero if the whole name is the sender.
    pub sender_at: usize,
    /// When it ends, if not before by the grant of the session.
    pub expires_at: Option<SystemTime>,
}

impl Default for StreamOptions {
    /// One that receives everything, for ever.
    fn default() -> Self {
        Self { echo: true, sender_at: 0, expires_at: None }
    }
}

/// A session as it is created.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSpec {
    /// What its connections read.
    pub topics: Topics,
    /// What its clients may do.
    pub grant: SessionGrant,
    /// What becomes of its connections when another one opens.
    pub policy: Policy,
    /// How long it outlives its last connection.
    pub ttl: Duration,
    /// The group that it belongs to while it has connections, and the sessions that may.
    pub group: Option<(String, usize)>,
    /// What is published when its last connection has gone, beside the event of all sessions.
    pub left: Option<Publication>,
}

/// A payload for a channel of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The channel.
    pub channel: String,
    /// The payload.
    pub payload: String,
}

impl SessionSpec {
    /// A session of `topics` that outlives its connections for `ttl`, whose clients may do nothing by themselves.
    pub fn new(topics: Topics, ttl: Duration) -> Self {
        Self { topics, grant: SessionGrant::default(), policy: Policy::default(), ttl, group: None, left: None }
    }
}

/// Begins the line of a namespace alone whose text is that of another topic. No text of a topic begins with it.
const EXACT: char = '=';

/// Topics as the stores keep them: a line each, which no topic has inside.
pub(super) fn lines(topics: impl IntoIterator<Item = Topic>) -> String {
    topics.into_iter().map(|topic| line(&topic)).collect::<Vec<_>>().join("\n")
}

fn line(topic: &Topic) -> String {
    let text = topic.to_string();
    let is_exact = topic.as_namespace().is_some_and(|namespace| *topic == Topic::exact(namespace.clone()));
    if is_exact && text.parse().as_ref() != Ok(topic) { format!("{EXACT}{text}") } else { text }
}

/// The opposite of [`lines`]. Lines that are no topics are left out: another version may have written them.
pub(super) fn topics(lines: &str) -> Topics {
    let topic = |line: &str| match line.strip_prefix(EXACT) {
        Some(text) => Namespace::from_topic(text).ok().map(Topic::exact),
        None => line.parse().ok(),
    };
    to_set(lines.split('\n').filter_map(topic).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_is_read_as_it_is_written() {
        let json = r#"{"read":["/a"],"publish":["/chat/*"],"expires":2000000000,"payload":{"user":1}}"#;
        let grant: SessionGrant = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&grant).unwrap(), json);
        let name: SessionName = "ann".parse().unwrap();
        let early = UNIX_EPOCH + Duration::from_secs(7);
        let options = StreamOptions { echo: false, sender_at: 0, expires_at: Some(early) };
        let granted = grant.grant(&name, &topics("/b"), &options);
        assert_eq!((granted.subject.as_deref(), granted.except_sender.as_deref()), (Some("ann"), Some("ann")));
        assert_eq!((&granted.readable, granted.expires_at), (&Access::All, Some(early)));
        assert_eq!(grant.grant(&name, &topics("/b"), &StreamOptions::default()).except_sender, None);
        for (sender_at, sender) in [(1, "nn"), (3, "ann"), (9, "ann")] {
            let granted = grant.grant(&name, &topics("/b"), &StreamOptions { sender_at, ..options });
            assert_eq!(granted.except_sender.as_deref(), Some(sender));
        }
        let topic = |text: &str| text.parse::<Topic>().unwrap();
        assert!(grant.may_read(&topic("/a/1/*")) && !grant.may_read(&topic("/b")) && !grant.may_read(&topic("/")));
        assert!(grant.may_publish(&"/chat/1".parse().unwrap()) && !grant.may_publish(&"/a".parse().unwrap()));
        assert!(!grant.is_expired() && SessionGrant { expires: Some(1), ..grant }.is_expired());
        let read = |json: &str| serde_json::from_str::<SessionGrant>(json).unwrap();
        assert_eq!((read("{}"), read(r#"{"read":null}"#).read), (SessionGrant::default(), None));
        assert!(!read("{}").may_read(&topic("/a")) && read(r#"{"read":null}"#).may_read(&topic("/a")));
        assert_eq!(serde_json::to_string(&read(r#"{"read":null}"#)).unwrap(), r#"{"read":null}"#);
        let error = serde_json::from_str::<SessionGrant>(r#"{"read":["a"]}"#).unwrap_err().to_string();
        assert!(error.starts_with("\"a\": a namespace must start with '/'"), "{error}");
    }

    #[test]
    fn grant_that_expires_after_all_time_does_not_expire() {
        let grant: SessionGrant = serde_json::from_str(&format!(r#"{{"expires":{}}}"#, u64::MAX)).unwrap();
        assert!(!grant.is_expired());
        let (name, early) = ("ann".parse().unwrap(), UNIX_EPOCH + Duration::from_secs(7));
        let expires_at = |options| grant.grant(&name, &topics("/a"), &options).expires_at;
        assert_eq!(expires_at(StreamOptions::default()), None);
        let options = StreamOptions { expires_at: Some(early), ..StreamOptions::default() };
        assert_eq!(expires_at(options), Some(early));
    }

    #[test]
    fn names_are_short_texts_of_one_line() {
        for name in ["a", "ws-hub:K 1", "ü"] {
            assert_eq!(name.parse::<SessionName>().unwrap().as_str(), name);
        }
        for name in ["", "a\nb", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert_eq!(name.parse::<SessionName>(), Err(InvalidName));
        }
    }

    #[test]
    fn topics_are_lines() {
        let set = topics("/b\n/a/*");
        assert_eq!(lines(set.iter()), "/a/*\n/b");
        assert!(topics("").is_empty() && topics(&lines(None)).is_empty());
        assert_eq!(topics("/a\nno topic\n/b"), topics("/a\n/b"));
        let exact = |text: &str| Topic::exact(Namespace::from_topic(text).unwrap());
        let both = to_set(vec![exact("/a"), "/a".parse().unwrap(), exact("a b"), exact("https://e/1"), exact("/*")]);
        assert_eq!(both.len(), 5);
        assert_eq!(topics(&lines(both.iter())), both);
        assert_eq!(lines([exact("/a"), exact("https://e/1")]), "=/a\nhttps://e/1");
    }
}
