//! What the application answers about a client that it accepts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tallycast_fanout::{Topic, Topics};

/// The size of an answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The length of the name of a session, in bytes.
pub const MAX_SESSION_BYTES: usize = 256;

/// How a client may go on. What the application leaves out is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ConnectAnswer {
    /// The name of the client's session: not empty, without control characters, at most [`MAX_SESSION_BYTES`].
    pub session: Option<String>,
    /// The topics of the session, in place of those that the client asks for.
    pub topics: Option<Topics>,
    /// What the client may read. [`Topics::none`] is nothing.
    pub read: Option<Topics>,
    /// What the client may publish. [`Topics::none`] is nothing.
    pub publish: Option<Topics>,
    /// When the grant ends. It may be in the past.
    pub expires_at: Option<SystemTime>,
    /// How long the session outlives its last connection.
    pub ttl: Option<Duration>,
    /// What happens with several connections of the session.
    pub policy: Option<ConnectionPolicy>,
    /// Data about the client.
    pub payload: Option<Value>,
    /// Whether the application did not answer, and the client goes on without it: everything else is `None` then.
    pub is_fallback: bool,
}

/// Which connections a session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPolicy {
    /// Any number.
    Many,
    /// The one that was opened last; it ends the one before it.
    Newest,
    /// The one that was opened first; further ones are refused while it is open.
    First,
}

/// Why the body of a response is not a [`ConnectAnswer`]. Never repeats it, because it may contain what the client sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct AnswerError(String);

impl ConnectAnswer {
    /// The answer in place of an application that does not give one.
    pub(super) fn fallback() -> Self {
        Self { is_fallback: true, ..Self::default() }
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, AnswerError> {
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(body) else {
            return Err(AnswerError("expected a JSON object".to_owned()));
        };
        answer.retain(|_, value| !value.is_null());
        Ok(Self {
            session: member(&answer, "session", session, "a text of 1 to 256 bytes without control characters")?,
            topics: topics(&answer, "topics")?,
            read: topics(&answer, "read")?,
            publish: topics(&answer, "publish")?,
            expires_at: member(&answer, "expires", seconds, "seconds since 1970")?
                // A time that no clock can show never comes.
                .and_then(|since| UNIX_EPOCH.checked_add(since)),
            ttl: member(&answer, "ttl", duration, "seconds, or a text such as 60s or 5m")?,
            policy: member(&answer, "policy", policy, "many, newest or first")?,
            payload: answer.remove("payload"),
            is_fallback: false,
        })
    }
}

/// The value of a member, if there is one.
fn member<'a, T>(
    answer: &'a Map<String, Value>,
    name: &str,
    read: impl FnOnce(&'a Value) -> Option<T>,
    expected: &str,
) -> Result<Option<T>, AnswerError> {
    let value =
        answer.get(name).map(|value| read(value).ok_or_else(|| AnswerError(format!("{name}: expected {expected}"))));
    value.transpose()
}

fn session(value: &Value) -> Option<String> {
    let name = value.as_str()?;
    let is_valid = (1..=MAX_SESSION_BYTES).contains(&name.len()) && !name.contains(char::is_control);
    is_valid.then(|| name.to_owned())
}

fn seconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()?).ok()
}

fn duration(value: &Value) -> Option<Duration> {
    value.as_str().map_or_else(|| seconds(value), |text| humantime::parse_duration(text).ok())
}

fn policy(value: &Value) -> Option<ConnectionPolicy> {
    match value.as_str()? {
        "many" => Some(ConnectionPolicy::Many),
        "newest" => Some(ConnectionPolicy::Newest),
        "first" => Some(ConnectionPolicy::First),
        _ => None,
    }
}

fn topics(answer: &Map<String, Value>, name: &str) -> Result<Option<Topics>, AnswerError> {
    let Some(list) = member(answer, name, Value::as_array, "a list of topics")? else { return Ok(None) };
    if list.is_empty() {
        return Ok(Some(Topics::none()));
    }
    let parse = |(place, text): (usize, &Value)| -> Result<Topic, AnswerError> {
        let invalid = |reason: &dyn std::fmt::Display| AnswerError(format!("{name}[{place}]: {reason}"));
        let text = text.as_str().ok_or_else(|| invalid(&"expected a text"))?;
        text.parse().map_err(|error| invalid(&error))
    };
    let topics = list.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    Topics::new(topics).map(Some).map_err(|error| AnswerError(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(topics: &[&str]) -> Option<Topics> {
        Some(Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap())
    }

    #[test]
    fn every_member_is_optional() {
        let none = ConnectAnswer::default();
        let all = ConnectAnswer {
            session: Some("ann".to_owned()),
            topics: set(&["/a", "/b/*"]),
            read: set(&["/a/**", "https://example.com/1"]),
            publish: set(&["/chat/*"]),
            expires_at: UNIX_EPOCH.checked_add(Duration::from_secs(1_700_000_000)),
            ttl: Some(Duration::from_secs(60)),
            policy: Some(ConnectionPolicy::Newest),
            payload: Some(serde_json::json!({"role": "admin"})),
            is_fallback: false,
        };
        for (body, expected) in [
            ("{}", none.clone()),
            (r#" {"unknown": [1], "session": null, "topics": null, "payload": null} "#, none.clone()),
            (
                r#"{"session": "ann", "topics": ["/b/*", "/a"], "read": ["/a/**", "https://example.com/1"], "publish": ["/chat/*"],
                    "expires": 1700000000, "ttl": "60s", "policy": "newest", "payload": {"role": "admin"}}"#,
                all,
            ),
            (
                r#"{"topics": [], "read": [], "publish": []}"#,
                ConnectAnswer {
                    topics: Some(Topics::none()),
                    read: Some(Topics::none()),
                    publish: Some(Topics::none()),
                    ..none.clone()
                },
            ),
            (r#"{"ttl": 1.5}"#, ConnectAnswer { ttl: Some(Duration::from_millis(1500)), ..none.clone() }),
            (r#"{"ttl": "0s"}"#, ConnectAnswer { ttl: Some(Duration::ZERO), ..none.clone() }),
            (r#"{"policy": "many"}"#, ConnectAnswer { policy: Some(ConnectionPolicy::Many), ..none.clone() }),
            (r#"{"policy": "first"}"#, ConnectAnswer { policy: Some(ConnectionPolicy::First), ..none.clone() }),
            (
                r#"{"expires": 0.5}"#,
                ConnectAnswer { expires_at: Some(UNIX_EPOCH + Duration::from_millis(500)), ..none.clone() },
            ),
            (r#"{"expires": 1e19}"#, none.clone()),
            (r#"{"payload": 0}"#, ConnectAnswer { payload: Some(0.into()), ..none.clone() }),
        ] {
            assert_eq!(ConnectAnswer::parse(body.as_bytes()), Ok(expected), "{body}");
        }
    }

    #[test]
    fn error_names_the_member_and_never_its_value() {
        let long = format!(r#"{{"session": "{}"}}"#, "a".repeat(MAX_SESSION_BYTES + 1));
        let session = "session: expected a text of 1 to 256 bytes without control characters";
        for (body, expected) in [
            ("", "expected a JSON object"),
            ("[]", "expected a JSON object"),
            ("{", "expected a JSON object"),
            (r#"{"session": ""}"#, session),
            (r#"{"session": 1}"#, session),
            (r#"{"session": "a\nb"}"#, session),
            (&long, session),
            (r#"{"topics": "/hunter2"}"#, "topics: expected a list of topics"),
            (r#"{"topics": ["/a", "hunter2"]}"#, "topics[1]: a namespace must start with '/'"),
            (r#"{"read": [1]}"#, "read[0]: expected a text"),
            (r#"{"publish": ["/a*"]}"#, "publish[0]: * must be a whole segment, and ** the last one"),
            (r#"{"expires": "tomorrow"}"#, "expires: expected seconds since 1970"),
            (r#"{"expires": -1}"#, "expires: expected seconds since 1970"),
            (r#"{"ttl": "60"}"#, "ttl: expected seconds, or a text such as 60s or 5m"),
            (r#"{"ttl": -1}"#, "ttl: expected seconds, or a text such as 60s or 5m"),
            (r#"{"policy": "hunter2"}"#, "policy: expected many, newest or first"),
        ] {
            let error = ConnectAnswer::parse(body.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, expected, "{body}");
        }
    }
}
