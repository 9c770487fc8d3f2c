//! What a node is told about a session, and what it answers.

use serde::{Deserialize, Serialize};

/// A command to a node that has connections of a session, as the scripts write it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Command {
    /// The session.
    pub(super) session: String,
    /// The session has changed: its version, topics as lines, and grant as JSON.
    pub(super) version: Option<u64>,
    #[serde(default)]
    pub(super) topics: String,
    pub(super) grant: Option<String>,
    /// A message for its connections, as JSON.
    pub(super) send: Option<String>,
    /// The session has ended for this reason.
    pub(super) ended: Option<String>,
    /// The connection with this number is closed, for `reason`.
    pub(super) close: Option<u64>,
    #[serde(default)]
    pub(super) reason: String,
    /// The number of the request, and the life of the node that waits for its outcome.
    pub(super) request: Option<u64>,
    #[serde(default)]
    pub(super) reply: String,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acknowledgement {
    /// The number of the request.
    pub(super) acknowledged: u64,
    /// The life of the node that answers.
    pub(super) life: String,
    /// The connections that it was done for.
    pub(super) connections: usize,
}

/// What a node receives.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Received {
    Acknowledgement(Acknowledgement),
    Command(Command),
}

/// A message for the connections of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionMessage {
    /// The namespace that clients see it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The event name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The payload.
    pub data: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_commands_are_told_apart() {
        let read = |json: &str| serde_json::from_str::<Received>(json).unwrap();
        let acknowledgement = Acknowledgement { acknowledged: 7, life: "n#1".into(), connections: 2 };
        let json = serde_json::to_string(&acknowledgement).unwrap();
        assert_eq!(read(&json), Received::Acknowledgement(acknowledgement));
        let command = Command { session: "ann".into(), close: Some(3), reason: "newer".into(), ..Command::default() };
        assert_eq!(read(r#"{"session":"ann","close":3,"reason":"newer"}"#), Received::Command(command));
    }
}
