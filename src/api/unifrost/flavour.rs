//! The generations of the contract: how each writes what the server says.

use std::time::Duration;

use serde::Serialize;

/// The topic of the first event.
const INFO: &str = "/unifrost/info";
const GOCHAN_INFO: &str = "/httpsub/config";
/// The topic of errors in streams.
pub(super) const ERROR: &str = "/unifrost/error";
/// The last event of a consumer that has ended.
const CLOSED: &[u8] = b"data: [\"/unifrost/closed\",\"consumer closed\"]\n\n";
/// The code of a topic that a consumer does not get.
pub(super) const SUBSCRIPTION_FAILURE: &str = "subscription-failure";

/// A generation of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// gochan, the predecessor of unifrost.
    Gochan,
    /// unifrost before 0.1.
    Unifrost00,
    /// unifrost 0.1.
    Unifrost01,
}

/// A message of gochan.
#[derive(Serialize)]
struct GochanMessage<'a, T> {
    topic: &'a str,
    payload: T,
}

#[derive(Serialize)]
struct GochanInfo<'a> {
    session_id: &'a str,
}

/// The payload of the first event.
#[derive(Serialize)]
struct Info<'a, C> {
    config: C,
    subscriptions: &'a [String],
}

#[derive(Serialize)]
struct ClientConfig<'a> {
    client_id: &'a str,
    client_ttl_millis: u128,
}

#[derive(Serialize)]
struct ConsumerConfig<'a> {
    consumer_id: &'a str,
    consumer_ttl_millis: u128,
}

/// An error, as JSON.
#[derive(Serialize)]
struct ErrorJson<'a> {
    error: ErrorParts<'a>,
}

#[derive(Serialize)]
struct ErrorParts<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
}

impl Flavour {
    /// What the id of a consumer is called in requests and answers.
    pub(super) fn id_field(self) -> &'static str {
        match self {
            Self::Gochan => "session_id",
            Self::Unifrost00 => "client_id",
            Self::Unifrost01 => "consumer_id",
        }
    }

    /// What a consumer is called in errors.
    pub(super) fn consumer(self) -> &'static str {
        match self {
            Self::Gochan => "session",
            Self::Unifrost00 => "client",
            Self::Unifrost01 => "consumer",
        }
    }

    /// The first event of a stream.
    pub(super) fn first(self, id: &str, ttl: Duration, subscriptions: &[String]) -> Vec<u8> {
        let ttl = ttl.as_millis();
        let mut event = Vec::new();
        match self {
            Self::Gochan => {
                write_data(&GochanMessage { topic: GOCHAN_INFO, payload: GochanInfo { session_id: id } }, &mut event);
            }
            Self::Unifrost00 => {
                event.extend_from_slice(b"event: message\n");
                let config = ClientConfig { client_id: id, client_ttl_millis: ttl };
                write_data(&(INFO, Info { config, subscriptions }), &mut event);
            }
            Self::Unifrost01 => {
                let config = ConsumerConfig { consumer_id: id, consumer_ttl_millis: ttl };
                write_data(&(INFO, json(&Info { config, subscriptions })), &mut event);
            }
        }
        event
    }

    /// Appends the fields of a message that no other message has: its data, and the end of the event.
    pub(super) fn write_message(self, topic: &str, payload: &str, batch: &mut Vec<u8>) {
        match self {
            Self::Gochan => write_data(&GochanMessage { topic, payload }, batch),
            Self::Unifrost00 | Self::Unifrost01 => write_data(&(topic, payload), batch),
        }
    }

    /// Appends an error that concerns no topic.
    pub(super) fn write_error(self, code: &str, message: &str, batch: &mut Vec<u8>) {
        let error = ErrorJson { error: ErrorParts { code, message, topic: None } };
        match self {
            Self::Gochan => write_data(&error, batch),
            Self::Unifrost00 => write_data(&(ERROR, error), batch),
            Self::Unifrost01 => write_data(&(ERROR, json(&error)), batch),
        }
    }

    /// The last event of a consumer that has ended, if there is one.
    pub(super) fn closed(self) -> Option<&'static [u8]> {
        (self == Self::Unifrost01).then_some(CLOSED)
    }
}

/// The error about a topic, or about a request, as JSON.
pub(super) fn error_json(message: &str, topic: Option<&str>) -> String {
    json(&ErrorJson { error: ErrorParts { code: SUBSCRIPTION_FAILURE, message, topic } })
}

fn json(value: &impl Serialize) -> String {
    // Texts and numbers always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

/// Appends an event with JSON, which has no line breaks.
fn write_data(value: &impl Serialize, batch: &mut Vec<u8>) {
    batch.extend_from_slice(b"data: ");
    batch.extend_from_slice(json(value).as_bytes());
    batch.extend_from_slice(b"\n\n");
}
