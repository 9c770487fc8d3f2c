//! The JSON of a message, and its way into the stream of its channel.

use std::time::SystemTime;

use serde::Serialize;
use uuid::Uuid;

use super::Realtime;
use super::channel::ChannelId;
use crate::api::refusal::Refusal;
use crate::decode::{MAX_PAYLOAD_BYTES, Target};
use crate::publishing::{Publication, UpdateFields};
use crate::source::SourceId;

/// The client that messages of the server are from. No other client may have this id.
pub(super) const SERVER: &str = "server-message";

/// A message, as clients and other programs receive it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    id: &'a str,
    channel_id: &'a str,
    client_id: &'a str,
    payload: &'a str,
    /// By RFC 3339.
    created_at: String,
}

/// A new message of now: its id, and its JSON.
pub(crate) fn message(channel: &str, client: &str, payload: &str) -> (String, String) {
    let id = Uuid::new_v4().to_string();
    let created_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let message = Message { id: &id, channel_id: channel, client_id: client, payload, created_at };
    // Texts always serialize.
    let data = serde_json::to_string(&message).unwrap_or_default();
    (id, data)
}

impl Realtime {
    /// Adds a message of a client to the stream of its channel. Returns its id.
    pub(super) async fn publish(&self, channel: &ChannelId, client: &str, payload: &str) -> Result<String, Refusal> {
        let (id, data) = message(channel.as_str(), client, payload);
        if data.len() > MAX_PAYLOAD_BYTES {
            return Err(Refusal::TooLarge(format!("a message has at most {MAX_PAYLOAD_BYTES} bytes as JSON")));
        }
        let publisher = &self.streams.publisher;
        let published = match self.channels.target(channel) {
            // As other programs write and expect it: the id is the name of the only field.
            Target::Stream { key, topic: None } => publisher.add_entry(&key, &id, &data).await,
            target => {
                let (update, sender) = (UpdateFields::default(), None);
                let message = Publication {
                    source: SourceId::DEFAULT,
                    target,
                    event: None,
                    data,
                    sender,
                    update,
                    idempotency_key: None,
                };
                publisher.publish(&[message]).await.map(drop)
            }
        };
        // The reason is in the log; its text names a header that this contract does not have.
        published.map_err(|_| Refusal::Unavailable("the broker did not take the message; try again".to_owned()))?;
        Ok(id)
    }
}
