//! A channel: its id, whether its clients read events or have WebSockets, and how many there may be.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tallycast_fanout::Namespace;

/// Bytes of the id of a channel.
pub const MAX_ID_BYTES: usize = 64;
/// Connections of a channel that names no number.
pub const DEFAULT_MAX: usize = 100;
/// The namespace that all channels are in.
const NAMESPACE: &str = "/realtime";

/// The id of a channel: letters, digits, `.`, `_`, `~` and `-`, which a path has as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(String);

/// The text is not a [`ChannelId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {MAX_ID_BYTES} letters, digits, '.', '_', '~' or '-'")]
pub struct InvalidId;

impl ChannelId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of the channel's messages: what tokens may read and publish.
    pub fn namespace(&self) -> Namespace {
        // An id is one valid segment.
        format!("{NAMESPACE}/{}", self.0).parse().unwrap_or_else(|_| Namespace::root())
    }
}

impl FromStr for ChannelId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        // Clients resolve dots in paths.
        let is_id =
            (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(is_allowed) && text != "." && text != "..";
        let is_segment = format!("{NAMESPACE}/{text}").parse::<Namespace>().is_ok();
        if is_id && is_segment { Ok(Self(text.to_owned())) } else { Err(InvalidId) }
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How the clients of a channel are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// By WebSockets: they send, too.
    #[serde(rename = "WS")]
    WebSocket,
    /// By event streams: they only read.
    #[serde(rename = "SSE")]
    Events,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its id.
    pub id: ChannelId,
    /// How its clients are connected.
    pub kind: Kind,
    /// How many may be, on all nodes together; at least one.
    pub max: usize,
}

/// The text is not a [`Channel`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The id is not valid.
    #[error("{0:?} before the first comma: {1}")]
    Id(String, InvalidId),
    /// The type is missing, or unknown.
    #[error("expected ID,type=WS or ID,type=SSE, such as chat,type=WS,max=100")]
    Kind,
    /// The number of connections is not valid.
    #[error("max={0:?}: expected a whole number of at least 1")]
    Max(String),
    /// There is something else.
    #[error("unknown option {0:?}: expected type= or max=")]
    Option(String),
}

impl FromStr for Channel {
    type Err = ChannelError;

    /// Reads `ID,type=WS|SSE[,max=COUNT]`.
    fn from_str(text: &str) -> Result<Self, ChannelError> {
        let mut options = text.split(',');
        let id = options.next().unwrap_or_default();
        let id = id.parse().map_err(|error| ChannelError::Id(id.to_owned(), error))?;
        let (mut kind, mut max) = (None, DEFAULT_MAX);
        for option in options {
            match option.split_once('=') {
                Some(("type", "WS")) => kind = Some(Kind::WebSocket),
                Some(("type", "SSE")) => kind = Some(Kind::Events),
                Some(("type", _)) => return Err(ChannelError::Kind),
                Some(("max", number)) => {
                    let parsed = number.parse().ok().filter(|max| *max > 0);
                    max = parsed.ok_or_else(|| ChannelError::Max(number.to_owned()))?;
                }
                _ => return Err(ChannelError::Option(option.to_owned())),
            }
        }
        Ok(Self { id, kind: kind.ok_or(ChannelError::Kind)?, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_has_an_id_a_type_and_a_limit() {
        let channel = |text: &str| text.parse::<Channel>();
        let chat = channel("chat,type=WS").unwrap();
        assert_eq!((chat.id.as_str(), chat.kind, chat.max), ("chat", Kind::WebSocket, DEFAULT_MAX));
        assert_eq!(chat.id.namespace().as_str(), "/realtime/chat");
        let news = channel("news-1.a_b~c,max=3,type=SSE").unwrap();
        assert_eq!((news.id.as_str(), news.kind, news.max), ("news-1.a_b~c", Kind::Events, 3));
        assert_eq!(channel("chat"), Err(ChannelError::Kind));
        assert_eq!(channel("chat,type=ws"), Err(ChannelError::Kind));
        assert_eq!(channel("chat,type=WS,max=0"), Err(ChannelError::Max("0".to_owned())));
        assert_eq!(channel("chat,type=WS,limit=1"), Err(ChannelError::Option("limit=1".to_owned())));
        // A colon would make the names of sessions ambiguous, and the others those of topics.
        for id in ["", "a:b", "a/b", "*", "a b", "ä", "..", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(matches!(channel(&format!("{id},type=WS")), Err(ChannelError::Id(..))), "{id:?}");
        }
    }
}
