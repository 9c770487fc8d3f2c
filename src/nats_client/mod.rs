//! One connection to NATS, which ends when it is lost.
//!
//! The client library would connect again by itself, send everything that was published meanwhile, and subscribe again: events
//! lost in between would go unnoticed. So a [`Connection`] counts as lost as soon as the library has lost it, even if there
//! is another one already, and whoever uses it opens a new one.

mod jetstream;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, ServerAddr, ServerError, Subscriber,
};
use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;

pub(crate) use jetstream::{ApiError, JetStream, StreamInfo};
use url::Login;
pub use url::{NatsUrl, UrlError};

/// Messages that wait to be taken from one subscription. The library drops further ones.
pub(crate) const MAX_WAITING: usize = 16 * 1024;
/// Messages that wait to be sent. Further ones wait where they come from.
const MAX_OUTGOING: usize = 256;

/// Why NATS was of no use. Never has secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NatsError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0}")]
    File(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection was closed")]
    Closed,
    /// The server refuses something.
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Whether messages can be published on a subject with this name: words with dots in between, without white space and wildcards.
pub(crate) fn is_subject(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word != "*"
            && word != ">"
            && !word.contains(|letter: char| letter.is_whitespace() || letter.is_control())
    };
    text.split('.').all(is_word)
}

/// A connection. It is closed when it is dropped.
pub(crate) struct Connection {
    client: Client,
    /// What the server has complained about last, or that the connection is lost.
    trouble: watch::Receiver<Trouble>,
    /// Receives what [`ping`](Self::ping) sends.
    own: Mutex<Own>,
    own_subject: String,
    /// Pings that were sent, or are about to be.
    pings: AtomicU64,
    limit: Duration,
}

/// What pings take turns with.
struct Own {
    subscriber: Subscriber,
    /// The number of pings up to the last one that was answered.
    answered: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    None,
    Refused(String),
    Lost,
}

impl Connection {
    /// Connects to one of the servers. `name` is what the servers' lists of connections show.
    pub(crate) async fn open(url: &NatsUrl, name: &str) -> Result<Self, NatsError> {
        // Only the first call in a process can succeed, which is enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (sender, trouble) = watch::channel(Trouble::None);
        let sender = Arc::new(sender);
        let options = options(url).await?.name(name).event_callback(move |event| {
            let sender = Arc::clone(&sender);
            async move {
                match event {
                    Event::Disconnected | Event::Closed => drop(sender.send_replace(Trouble::Lost)),
                    Event::ServerError(error) => {
                        let text = match error {
                            ServerError::Other(text) => text,
                            other => other.to_string(),
                        };
                        tracing::debug!(error = text, "a NATS server complains");
                        sender.send_if_modified(|trouble| {
                            let is_first = *trouble == Trouble::None;
                            if is_first {
                                *trouble = Trouble::Refused(text);
                            }
                            is_first
                        });
                    }
                    _ => {}
                }
            }
        });
        let addresses: Vec<ServerAddr> = url
            .servers
            .iter()
            .map(|server| format!("{}://{server}", url.scheme()).parse())
            .collect::<Result<_, std::io::Error>>()
            .map_err(|error| NatsError::Connect(error.to_string()))?;
        let limit = url.limit;
        // One after the other.
        let limit_of_all = limit.saturating_mul(u32::try_from(addresses.len()).unwrap_or(u32::MAX));
        let client =
            timeout(limit_of_all, options.connect(addresses)).await.map_err(|_| NatsError::TimedOut(limit_of_all))?;
        let client = client.map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation => NatsError::Refused("the login is invalid".to_owned()),
            ConnectErrorKind::TimedOut => NatsError::TimedOut(limit),
            _ => NatsError::Connect(error.to_string()),
        })?;
        let own_subject = client.new_inbox();
        let own = client.subscribe(own_subject.clone()).await.map_err(|_| NatsError::Closed)?;
        let own = Mutex::new(Own { subscriber: own, answered: 0 });
        let connection = Self { client, trouble, own, own_subject, pings: AtomicU64::new(0), limit };
        connection.ping().await?;
        Ok(connection)
    }

    /// Waits until the server has taken everything that was sent before. A message to this connection itself goes there and
    /// back, because the library does not report the pings of the protocol. One answer is enough for everyone who waited
    /// for a turn when its message was sent.
    pub(crate) async fn ping(&self) -> Result<(), NatsError> {
        // Pings from this number on are sent after what the caller has sent. A mere load would not order the two.
        let earlier = self.pings.fetch_add(0, Ordering::AcqRel);
        let round_trip = async {
            let mut own = self.own.lock().await;
            if own.answered > earlier {
                return Ok(());
            }
            let number = self.pings.fetch_add(1, Ordering::AcqRel);
            let payload = Bytes::copy_from_slice(&number.to_be_bytes());
            self.client.publish(self.own_subject.clone(), payload.clone()).await.map_err(|_| NatsError::Closed)?;
            loop {
                match own.subscriber.next().await {
                    None => return Err(NatsError::Closed),
                    Some(answer) if answer.payload == payload => {
                        own.answered = number + 1;
                        return Ok(());
                    }
                    // Of a ping that was given up.
                    Some(_) => {}
                }
            }
        };
        tokio::select! {
            answer = timeout(self.limit, round_trip) => answer.map_err(|_| NatsError::TimedOut(self.limit))??,
            // A user who may not use its own subject gets no answer.
            error = self.failed() => return Err(error),
        }
        // What the server has complained about until then came before the answer, but takes another way here.
        tokio::task::yield_now().await;
        self.trouble()
    }

    /// Whether the connection is lost, or the server has refused something.
    pub(crate) fn trouble(&self) -> Result<(), NatsError> {
        if !self.is_first() {
            return Err(NatsError::Closed);
        }
        match &*self.trouble.borrow() {
            Trouble::None => Ok(()),
            Trouble::Refused(text) => Err(NatsError::Refused(text.clone())),
            Trouble::Lost => Err(NatsError::Closed),
        }
    }

    /// Whether the library still has its first connection, or none. What it receives by another one comes after a gap.
    pub(crate) fn is_first(&self) -> bool {
        self.client.statistics().connects.load(Ordering::Relaxed) <= 1
    }

    /// Waits until the connection is lost, or the server refuses something.
    pub(crate) async fn failed(&self) -> NatsError {
        let mut trouble = self.trouble.clone();
        // Fails when the library has ended.
        let _ = trouble.wait_for(|trouble| *trouble != Trouble::None).await;
        self.trouble().err().unwrap_or(NatsError::Closed)
    }

    pub(crate) async fn subscribe(&self, subject: &str) -> Result<Subscriber, NatsError> {
        self.client.subscribe(subject.to_owned()).await.map_err(|error| NatsError::Refused(error.to_string()))
    }

    /// Publishes a message on a subject. Whether the server has taken it is known after a [`ping`](Self::ping).
    pub(crate) async fn publish(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), NatsError> {
        let publishing = self.client.publish_with_headers(subject, headers, payload);
        let published = timeout(self.limit, publishing).await.map_err(|_| NatsError::TimedOut(self.limit))?;
        published.map_err(|error| match error.kind() {
            PublishErrorKind::Send => NatsError::Closed,
            _ => NatsError::Refused(error.to_string()),
        })
    }

    /// How long each answer may take.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Messages received by all subscriptions, those included that were dropped because too many waited.
    pub(crate) fn received(&self) -> u64 {
        self.client.statistics().in_messages.load(Ordering::Relaxed)
    }

    /// The number of messages that pings have received.
    pub(crate) fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Sends a request, and waits for the answer.
    pub(crate) async fn request(&self, subject: String, request: async_nats::Request) -> Result<Message, NatsError> {
        let limit = self.limit;
        let request = request.timeout(Some(limit));
        let answer = tokio::select! {
            answer = timeout(limit, self.client.send_request(subject, request)) => answer.map_err(|_| NatsError::TimedOut(limit))?,
            error = self.failed() => return Err(error),
        };
        answer.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::TimedOut => NatsError::TimedOut(limit),
            async_nats::RequestErrorKind::NoResponders => ApiError::NoResponders.into(),
            async_nats::RequestErrorKind::Other => NatsError::Closed,
            _ => NatsError::Refused(error.to_string()),
        })
    }
}

/// The options of a connection.
async fn options(url: &NatsUrl) -> Result<ConnectOptions, NatsError> {
    let file = |path: &std::path::Path, error: std::io::Error| {
        NatsError::File(format!("cannot read {}: {error}", path.display()))
    };
    let mut options = ConnectOptions::new()
        .connection_timeout(url.limit)
        .request_timeout(Some(url.limit))
        // It gives up a connection after three of these.
        .ping_interval(url.limit)
        .subscription_capacity(MAX_WAITING)
        .client_capacity(MAX_OUTGOING)
        // One attempt for each server.
        .max_reconnects(url.servers.len())
        .ignore_discovered_servers()
        .reconnect_delay_callback(|_| Duration::ZERO);
    options = match &url.login {
        Login::None => options,
        Login::Password { user, password } => options.user_and_password(user.clone(), password.expose().to_owned()),
        Login::Token(token) => options.token(token.expose().to_owned()),
        Login::Seed(seed) => options.nkey(seed.expose().to_owned()),
        Login::SeedFile(path) => {
            let seed = tokio::fs::read_to_string(path).await.map_err(|error| file(path, error))?;
            options.nkey(seed.trim().to_owned())
        }
        Login::Credentials(path) => {
            let credentials = tokio::fs::read_to_string(path).await.map_err(|error| file(path, error))?;
            let invalid = |_| NatsError::File(format!("{}: expected a JWT and the seed of its key", path.display()));
            options.credentials(&credentials).map_err(invalid)?
        }
    };
    if url.tls.is_required {
        options = options.require_tls(true);
    }
    if url.tls.is_first {
        options = options.tls_first();
    }
    if let Some(authority) = &url.tls.authority {
        options = options.add_root_certificates(authority.clone());
    }
    if let Some((certificate, key)) = &url.tls.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if let Some(inbox) = &url.inbox {
        options = options.custom_inbox_prefix(inbox);
    }
    Ok(options)
}

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
mod subject_tests {
    use super::*;

    #[test]
    fn subjects_are_words_with_dots_in_between() {
        for (text, expected) in
            [("a", true), ("a.b:c/d", true), ("a*.b", true), ("", false), ("a..b", false), (".a", false), ("a.", false)]
        {
            assert_eq!(is_subject(text), expected, "{text:?}");
        }
        for text in ["a b", "a.*", ">", "a.>.b", "a\r\nPUB x 1", "a\u{a0}b"] {
            assert!(!is_subject(text), "{text:?}");
        }
    }
}
