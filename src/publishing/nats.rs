//! Publishing in NATS: on subjects, and in streams of JetStream.
//!
//! Messages of a request are published one after the other. NATS has no transactions: if it becomes unavailable meanwhile, those
//! before are published.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Publication, Unavailable};
use crate::decode::Target;
use crate::nats_client::{Connection, JetStream, NatsError, NatsUrl, is_subject};

/// The time after a failure to connect in which no other attempt is made.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the subjects of a stream are taken to be the same.
const SUBJECTS_AGE: Duration = Duration::from_secs(60);
/// Streams whose subjects are remembered.
const MAX_STREAMS: usize = 1024;
/// The name of the connection in the lists of the server.
const NAME: &str = "tallycast publisher";
/// The header by which JetStream knows messages that it has already.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// Publishes in NATS. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsPublisher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: NatsUrl,
    api: JetStream,
    link: Mutex<Link>,
    /// The subjects of streams, and when they were read.
    subjects: std::sync::Mutex<HashMap<Arc<str>, KnownSubjects>>,
}

type KnownSubjects = (Instant, Arc<[String]>);

/// The connection that requests share.
enum Link {
    None,
    Open(Arc<Connection>),
    /// It could not be made, for this reason.
    Failed(Instant, String),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::None => "None",
            Self::Open(_) => "Open",
            Self::Failed(..) => "Failed",
        })
    }
}

impl From<NatsError> for Unavailable {
    /// Clients never see an address, nor what the server says: that may name the subject of another client.
    fn from(error: NatsError) -> Self {
        tracing::debug!(%error, "cannot publish");
        Self::temporary(match error {
            NatsError::Connect(_) | NatsError::File(_) => "no connection".to_owned(),
            NatsError::Refused(_) => "NATS has refused something on the connection".to_owned(),
            other => other.to_string(),
        })
    }
}

impl NatsPublisher {
    /// Publishes at the servers of a URL. Connects when there is something to publish.
    pub fn new(url: NatsUrl) -> Self {
        let api = JetStream::new(url.domain());
        Self(Arc::new(Shared { url, api, link: Mutex::new(Link::None), subjects: std::sync::Mutex::default() }))
    }

    pub(super) async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        let connection = self.connection().await?;
        // Before the first one is published.
        let mut ready = Vec::with_capacity(messages.len());
        for message in messages {
            ready.push(self.prepare(&connection, message).await?);
        }
        let mut positions = Vec::with_capacity(messages.len());
        let mut is_confirmed = true;
        for (message, (subject, headers)) in messages.iter().zip(ready) {
            let payload = message.data.clone().into();
            match message.target {
                Target::Channel(_) => {
                    connection.publish(subject, headers, payload).await?;
                    is_confirmed = false;
                    positions.push(None);
                }
                Target::Stream { .. } => {
                    let number = JetStream::publish(&connection, subject, headers, payload).await?;
                    positions.push(Some(format!("{number}-0")));
                }
            }
        }
        if !is_confirmed {
            connection.ping().await?;
        }
        Ok(positions)
    }

    pub(super) async fn add_entry(&self, key: &str, field: &str, data: &str) -> Result<(), Unavailable> {
        let connection = self.connection().await?;
        let (subject, mut headers) = (self.subject(&connection, &key.into(), None).await?, HeaderMap::new());
        header(&mut headers, "field", field)?;
        JetStream::publish(&connection, subject, headers, data.to_owned().into()).await?;
        Ok(())
    }

    /// The subject and the headers of a message.
    async fn prepare(
        &self,
        connection: &Connection,
        message: &Publication,
    ) -> Result<(String, HeaderMap), Unavailable> {
        let Publication { source: _, target, event, data, sender, update, idempotency_key } = message;
        let mut headers = HeaderMap::new();
        let sender = sender.as_deref().filter(|sender| !sender.is_empty());
        sender.map_or(Ok(()), |sender| header(&mut headers, "sender", sender))?;
        let subject = match target {
            Target::Channel(_) if idempotency_key.is_some() => {
                let reason = "NATS knows no message of a subject again: an Idempotency-Key needs a JetStream stream";
                return Err(Unavailable::refused(reason));
            }
            Target::Channel(channel) if is_subject(channel) => channel.clone(),
            Target::Channel(channel) => {
                return Err(Unavailable::refused(format!("{channel:?} is not a NATS subject")));
            }
            Target::Stream { key, topic } => {
                let retry = update.retry.map(|retry| retry.to_string());
                let single = [
                    ("event", event.as_deref()),
                    ("id", update.id.as_deref()),
                    ("retry", retry.as_deref()),
                    ("private", update.is_private.then_some("on")),
                    (MESSAGE_ID, idempotency_key.as_deref()),
                ];
                let topics = topic.iter().chain(&update.alternates).map(|topic| ("topic", Some(topic.as_str())));
                for (name, value) in single.into_iter().chain(topics) {
                    value.map_or(Ok(()), |value| header(&mut headers, name, value))?;
                }
                self.subject(connection, key, topic.as_deref()).await?
            }
        };
        let max = connection.client().max_payload();
        if data.len() > max {
            return Err(Unavailable::refused(format!("the message is too large: NATS takes {max} bytes")));
        }
        Ok((subject, headers))
    }

    /// The subject of a message of a stream.
    async fn subject(
        &self,
        connection: &Connection,
        key: &Arc<str>,
        topic: Option<&str>,
    ) -> Result<String, Unavailable> {
        let is_fresh = |(at, subjects): &KnownSubjects| (at.elapsed() < SUBJECTS_AGE).then(|| Arc::clone(subjects));
        let known = lock(&self.0.subjects).get(key).and_then(is_fresh);
        let subjects = match known {
            Some(subjects) => subjects,
            None => {
                let checked = crate::source::nats::check_stream(key);
                checked.map_err(|error| Unavailable::refused(error.to_string()))?;
                let info = self.0.api.stream(connection, key).await?;
                let subjects: Arc<[String]> = info.subjects().into();
                let mut known = lock(&self.0.subjects);
                if known.len() >= MAX_STREAMS {
                    known.clear();
                }
                known.insert(Arc::clone(key), (Instant::now(), Arc::clone(&subjects)));
                subjects
            }
        };
        // It may be given subjects.
        let none = || Unavailable::temporary(format!("the stream {key:?} takes messages of other streams only"));
        let first = subjects.first().ok_or_else(none)?;
        Ok(subject_of(first, topic))
    }

    /// The connection, which is opened if there is none.
    async fn connection(&self) -> Result<Arc<Connection>, Unavailable> {
        let mut link = self.0.link.lock().await;
        match &*link {
            Link::Open(connection) if connection.trouble().is_ok() => return Ok(Arc::clone(connection)),
            Link::Failed(at, reason) if at.elapsed() < PAUSE => return Err(Unavailable::temporary(reason.as_str())),
            _ => {}
        }
        match Connection::open(&self.0.url, NAME).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *link = Link::Open(Arc::clone(&connection));
                // They may be another server's.
                lock(&self.0.subjects).clear();
                Ok(connection)
            }
            Err(error) => {
                let error = Unavailable::from(error);
                *link = Link::Failed(Instant::now(), error.reason.clone());
                Err(error)
            }
        }
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Adds a header, which is a single line.
fn header(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), Unavailable> {
    let value = HeaderValue::from_str(value)
        .map_err(|_| Unavailable::refused(format!("{name} has a line break, which NATS does not take")))?;
    headers.append(name, value);
    Ok(())
}

/// The subject of a message with this topic in a stream that takes those of `pattern`: the topic takes the place of the wildcard, if
/// it fits there. Otherwise it is in a header alone.
fn subject_of(pattern: &str, topic: Option<&str>) -> String {
    let is_wildcard = |word: &&str| ["*", ">"].contains(word);
    let wildcards: Vec<&str> = pattern.split('.').filter(is_wildcard).collect();
    let fits = |topic: &&str| match *wildcards {
        ["*"] => is_subject(topic) && !topic.contains('.'),
        [">"] => is_subject(topic),
        _ => false,
    };
    let replacement = topic.filter(fits).unwrap_or("_");
    let words: Vec<&str> = pattern.split('.').map(|word| if is_wildcard(&word) { replacement } else { word }).collect();
    words.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats_client::tests::{Server, api};
    use crate::publishing::{Backend, Publisher, UpdateFields};
    use crate::source::SourceId;

    #[test]
    fn topic_takes_the_place_of_the_wildcard() {
        for (pattern, topic, expected) in [
            ("orders.>", Some("eu.1"), "orders.eu.1"),
            ("orders.*", Some("eu"), "orders.eu"),
            ("orders.*", Some("eu.1"), "orders._"),
            ("orders.>", Some("a b"), "orders._"),
            ("orders.>", None, "orders._"),
            ("*.orders.>", Some("eu"), "_.orders._"),
            ("orders", Some("eu"), "orders"),
            (">", Some("eu.1"), "eu.1"),
        ] {
            assert_eq!(subject_of(pattern, topic), expected, "{pattern} {topic:?}");
        }
    }

    fn message(target: Target, data: &str) -> Publication {
        let update = UpdateFields {
            alternates: vec!["/b".to_owned()],
            id: Some("urn:1".to_owned()),
            retry: Some(5),
            is_private: true,
        };
        Publication {
            source: SourceId::DEFAULT,
            target,
            event: Some("e".to_owned()),
            data: data.to_owned(),
            sender: Some("ann".to_owned()),
            update,
            idempotency_key: None,
        }
    }

    fn stream(topic: &str) -> Target {
        Target::Stream { key: "ORDERS".into(), topic: Some(topic.to_owned()) }
    }

    #[tokio::test]
    async fn messages_are_published_with_headers_and_confirmed() {
        let mut server = Server::start("nats-publishing");
        let client = server.client().await;
        api(&client, "STREAM.CREATE.ORDERS", serde_json::json!({"name": "ORDERS", "subjects": ["orders.>"]})).await;
        let mut news = client.subscribe("news").await.unwrap();
        client.flush().await.unwrap();
        let publisher = Publisher::new(vec![Backend::Nats(NatsPublisher::new(server.url()))]);
        let news_item = message(Target::Channel("news".to_owned()), "1");
        let mut keyed = message(stream("eu.1"), "2");
        keyed.idempotency_key = Some("k".to_owned());
        let positions =
            publisher.publish(&[news_item.clone(), keyed.clone(), message(stream("us"), "3")]).await.unwrap();
        assert_eq!(positions, [None, Some("1-0".to_owned()), Some("2-0".to_owned())]);
        let received = tokio_stream::StreamExt::next(&mut news).await.unwrap();
        let headers = received.headers.unwrap();
        assert_eq!((&*received.payload, headers.get("sender").unwrap().as_str(), headers.len()), (&b"1"[..], "ann", 1));
        // The same message again.
        assert_eq!(publisher.publish(&[keyed.clone()]).await.unwrap(), [Some("1-0".to_owned())]);
        publisher.add_entry(&"ORDERS".into(), "id-7", "4").await.unwrap();
        let mut found = Vec::new();
        for number in 1..=3 {
            let message =
                api(&client, "STREAM.MSG.GET.ORDERS", serde_json::json!({"seq": number})).await["message"].clone();
            let headers =
                base64::Engine::decode(&base64::prelude::BASE64_STANDARD, message["hdrs"].as_str().unwrap()).unwrap();
            let mut headers: Vec<String> = String::from_utf8(headers).unwrap().lines().map(str::to_owned).collect();
            headers.retain(|line| !line.is_empty());
            headers.sort();
            found.push((message["subject"].as_str().unwrap().to_owned(), headers.join(",")));
        }
        let common = "event: e,id: urn:1,private: on,retry: 5,sender: ann";
        assert_eq!(
            found,
            [
                ("orders.eu.1".to_owned(), format!("NATS/1.0,Nats-Msg-Id: k,{common},topic: /b,topic: eu.1")),
                ("orders.us".to_owned(), format!("NATS/1.0,{common},topic: /b,topic: us")),
                ("orders._".to_owned(), "NATS/1.0,field: id-7".to_owned()),
            ]
        );
        // Nothing is published of a request that cannot be.
        let mut broken = message(stream("a"), "5");
        broken.event = Some("a\nb".to_owned());
        for (invalid, reason) in [
            (broken, "event has a line break"),
            (Publication { idempotency_key: Some("k".to_owned()), ..news_item.clone() }, "needs a JetStream stream"),
            (message(Target::Channel("a b".to_owned()), "x"), "is not a NATS subject"),
            (message(Target::Stream { key: "OTHER".into(), topic: None }, "x"), "stream not found"),
        ] {
            let error = publisher.publish(&[message(stream("a"), "5"), invalid]).await.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        server.kill();
        assert!(publisher.publish(std::slice::from_ref(&keyed)).await.is_err());
        server.run();
        let deadline = Instant::now() + crate::nats_client::tests::PATIENCE;
        let again = loop {
            match publisher.publish(&[message(stream("a"), "5")]).await {
                Ok(positions) => break positions,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(again, [Some("4-0".to_owned())]);
    }
}
