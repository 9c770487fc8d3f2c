//! What a backend asks of a session: the JSON of requests over HTTP and of commands through the broker.

use std::time::Duration;

use serde::Deserialize;
use tallycast_fanout::Topic;

use super::command::SessionMessage;
use super::spec::{MAX_GRANT_BYTES, MAX_TTL, Policy, SessionGrant, TopicText};
use super::store::{Change, TopicsChange};
use super::{MAX_MESSAGE_BYTES, MAX_TOPIC_BYTES};

/// Bytes of a reason.
pub const MAX_REASON_BYTES: usize = 120;

/// A change of a session, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeRequest {
    /// All its topics.
    pub topics: Option<Vec<TopicText>>,
    /// Topics that it reads afterwards.
    pub add: Vec<TopicText>,
    /// Topics that it does not read afterwards.
    pub remove: Vec<TopicText>,
    /// What its clients may do.
    pub grant: Option<SessionGrant>,
    /// What becomes of its connections when another one opens.
    pub policy: Option<Policy>,
    /// Seconds for which it outlives its last connection.
    pub ttl: Option<u64>,
    /// Whether it is created if there is none.
    pub create: Option<bool>,
}

/// Why a request is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is not what is expected.
    #[error("{0}")]
    Json(String),
    /// It has all topics, and some to add or remove.
    #[error("expected topics, or add and remove")]
    Topics,
    /// It has more bytes of topics than a session may have.
    #[error("expected at most {MAX_TOPIC_BYTES} bytes of topics")]
    TopicBytes,
    /// Its time to live is too long.
    #[error("ttl: expected at most {} seconds", MAX_TTL.as_secs())]
    Ttl,
    /// Its grant is too large.
    #[error("grant: expected at most {MAX_GRANT_BYTES} bytes as JSON")]
    Grant,
    /// Its message is too large.
    #[error("data: expected at most {MAX_MESSAGE_BYTES} bytes")]
    Message,
    /// Its namespace is not valid.
    #[error("namespace: {0}")]
    Namespace(tallycast_fanout::NamespaceError),
    /// Its event name or its reason would break lines, or is too long.
    #[error("{0}: expected at most {MAX_REASON_BYTES} bytes without control characters")]
    Text(&'static str),
}

impl ChangeRequest {
    /// The change; of a session that is created if there is none, where the request does not say otherwise and `create` does.
    ///
    /// # Errors
    /// When it contradicts itself, or a part of it is too large.
    pub fn change(self, create: bool) -> Result<Change, RequestError> {
        let Self { topics, add, remove, grant, policy, ttl, create: explicit } = self;
        let plain = |topics: Vec<TopicText>| topics.into_iter().map(|TopicText(topic)| topic).collect::<Vec<Topic>>();
        let topics = match topics {
            Some(_) if !add.is_empty() || !remove.is_empty() => return Err(RequestError::Topics),
            Some(topics) => TopicsChange::Set(plain(topics)),
            None if add.is_empty() && remove.is_empty() => TopicsChange::Keep,
            None => TopicsChange::Change { add: plain(add), remove: plain(remove) },
        };
        let bytes = |topics: &[Topic]| topics.iter().map(|topic| topic.to_string().len() + 1).sum::<usize>();
        let is_too_long = match &topics {
            TopicsChange::Keep => false,
            TopicsChange::Set(topics) => bytes(topics) > MAX_TOPIC_BYTES,
            TopicsChange::Change { add, remove } => bytes(add).max(bytes(remove)) > MAX_TOPIC_BYTES,
        };
        if is_too_long {
            return Err(RequestError::TopicBytes);
        }
        let ttl = ttl.map(Duration::from_secs);
        if ttl.is_some_and(|ttl| ttl > MAX_TTL) {
            return Err(RequestError::Ttl);
        }
        let size = |grant: &SessionGrant| serde_json::to_string(grant).map_or(usize::MAX, |json| json.len());
        if grant.as_ref().is_some_and(|grant| size(grant) > MAX_GRANT_BYTES) {
            return Err(RequestError::Grant);
        }
        Ok(Change { create: explicit.unwrap_or(create), topics, grant, policy, ttl })
    }
}

/// Checks a message.
///
/// # Errors
/// When a part of it is too large, or would break lines.
pub fn check_message(message: &SessionMessage) -> Result<(), RequestError> {
    if message.data.len() > MAX_MESSAGE_BYTES {
        return Err(RequestError::Message);
    }
    if let Some(namespace) = &message.namespace {
        namespace.parse::<tallycast_fanout::Namespace>().map_err(RequestError::Namespace)?;
    }
    message.event.as_deref().map_or(Ok(()), |event| check_text("event", event))
}

/// Checks a reason for clients.
///
/// # Errors
/// When it is too long, or has several lines.
pub fn check_reason(reason: &str) -> Result<(), RequestError> {
    check_text("reason", reason)
}

fn check_text(name: &'static str, text: &str) -> Result<(), RequestError> {
    let is_valid = text.len() <= MAX_REASON_BYTES && !text.contains(char::is_control);
    if is_valid { Ok(()) } else { Err(RequestError::Text(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str) -> Result<Change, String> {
        let request: ChangeRequest = serde_json::from_str(json).map_err(|error| error.to_string())?;
        request.change(false).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_become_changes() {
        let topics = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Topic>>();
        let changed = change(r#"{"topics":["/a"],"policy":"newest","ttl":5,"create":true}"#).unwrap();
        let expected = Change {
            create: true,
            topics: TopicsChange::Set(topics(&["/a"])),
            grant: None,
            policy: Some(Policy::Newest),
            ttl: Some(Duration::from_secs(5)),
        };
        assert_eq!(changed, expected);
        let changed = change(r#"{"add":["/b"],"remove":["/a","/c/*"]}"#).unwrap();
        let (add, remove) = (topics(&["/b"]), topics(&["/a", "/c/*"]));
        assert_eq!(changed.topics, TopicsChange::Change { add, remove });
        assert_eq!(change("{}"), Ok(Change::default()));
    }

    #[test]
    fn invalid_requests_name_the_mistake() {
        let error = |json: &str| change(json).unwrap_err();
        assert_eq!(error(r#"{"topics":[],"add":["/a"]}"#), "expected topics, or add and remove");
        assert_eq!(error(r#"{"ttl":604801}"#), "ttl: expected at most 604800 seconds");
        assert!(error(r#"{"topics":["a"]}"#).starts_with("\"a\": a namespace must start with '/'"));
        assert!(error(r#"{"policy":"last"}"#).starts_with("unknown variant `last`, expected one of `many`"));
        assert!(error(r#"{"topcs":[]}"#).starts_with("unknown field `topcs`"));
        let long = "x".repeat(MAX_GRANT_BYTES);
        assert!(error(&format!(r#"{{"grant":{{"payload":"{long}"}}}}"#)).starts_with("grant: expected at most"));
        assert!(error(&format!(r#"{{"add":["/{}"]}}"#, "a/".repeat(100) + "a")).contains("namespace"));
        let message = |event: &str| SessionMessage { event: Some(event.to_owned()), ..SessionMessage::default() };
        assert_eq!(check_message(&message("a\nb")), Err(RequestError::Text("event")));
        assert_eq!(check_message(&message("a")), Ok(()));
        assert!(check_message(&SessionMessage { namespace: Some("a".into()), ..message("a") }).is_err());
        assert!(check_reason(&"x".repeat(MAX_REASON_BYTES + 1)).is_err() && check_reason("bye").is_ok());
    }
}
