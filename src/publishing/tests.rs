//! Publishing with a `redis-server` that the test starts.

use std::sync::Arc;

use ::redis::cmd;
use tallycast_fanout::inbox;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::decode::Routes;
use crate::redis_client::RedisClient;
use crate::redis_client::tests::{PATIENCE, Server};
use crate::source::redis::RedisSource;
use crate::source::{BrokerState, SourceEvent, SourceId, Supervisor};

fn message(target: Target, data: &str, key: Option<&str>) -> Publication {
    let event = matches!(target, Target::Stream { .. }).then(|| "e".to_owned());
    Publication {
        source: SourceId::DEFAULT,
        target,
        event,
        data: data.to_owned(),
        sender: None,
        update: UpdateFields::default(),
        idempotency_key: key.map(str::to_owned),
    }
}

fn stream(topic: Option<&str>) -> Target {
    Target::Stream { key: Arc::from("orders"), topic: topic.map(str::to_owned) }
}

#[tokio::test]
async fn messages_with_the_same_key_are_published_once() {
    let server = Server::start("publishing");
    let client = RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), Duration::from_secs(5));
    let publisher = Publisher::new(vec![Backend::Redis(RedisPublisher::new(client.clone()))]);
    let channel = Target::Channel("c".to_owned());
    let messages = [message(stream(Some("A")), "1", Some("k")), message(channel, "2", Some("l"))];
    let first = publisher.publish(&messages).await.unwrap();
    assert_eq!(first[1], None);
    let messages = [message(stream(Some("A")), "1", Some("k")), message(stream(None), "3", None)];
    let again = publisher.publish(&messages).await.unwrap();
    assert_eq!(again[0], first[0]);
    let entries: Vec<(String, Vec<String>)> =
        client.query(cmd("XRANGE").arg("orders").arg("-").arg("+")).await.unwrap();
    let fields: Vec<String> = entries.iter().map(|(_, fields)| fields.join(" ")).collect();
    assert_eq!(fields, ["data 1 event e topic A", "data 3 event e"]);
    let ids: Vec<Option<String>> = entries.into_iter().map(|(id, _)| Some(id)).collect();
    assert_eq!(ids, [first[0].clone(), again[1].clone()]);
    let period: i64 = client.query(cmd("PTTL").arg("tallycast:publish:k")).await.unwrap();
    assert!(period > 0 && period <= 600_000, "{period}");
}

#[tokio::test]
async fn entry_has_the_fields_of_an_update() {
    let server = Server::start("publishing-update");
    let client = RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), Duration::from_secs(5));
    let publisher = Publisher::new(vec![Backend::Redis(RedisPublisher::new(client.clone()))]);
    let update = UpdateFields {
        alternates: vec!["b".to_owned(), "c".to_owned()],
        id: Some("urn:x".to_owned()),
        retry: Some(7),
        is_private: true,
    };
    let sender = Some("ann".to_owned());
    publisher.publish(&[Publication { sender, update, ..message(stream(Some("a")), "1", None) }]).await.unwrap();
    let entries: Vec<(String, Vec<String>)> =
        client.query(cmd("XRANGE").arg("orders").arg("-").arg("+")).await.unwrap();
    assert_eq!(entries[0].1.join(" "), "data 1 event e sender ann topic a topic b topic c id urn:x retry 7 private on");
}

/// Publishes with a sender to a channel, and again with the same key; then without a sender.
async fn publish_with_sender(publisher: &Publisher) {
    let channel = || Target::Channel("chat".to_owned());
    let sender = Some("Zoë: 1".to_owned());
    let with_key = Publication { sender: sender.clone(), ..message(channel(), "1", Some("k")) };
    for message in [
        with_key.clone(),
        with_key,
        Publication { sender, ..message(channel(), "2", None) },
        message(channel(), "3", None),
    ] {
        assert_eq!(publisher.publish(&[message]).await.unwrap(), [None]);
    }
}

/// Routes for these messages.
fn routes() -> Routes {
    Routes::new(vec!["chat=/chat".parse().unwrap(), "*=/others/*".parse().unwrap()]).unwrap()
}

/// The message that an event becomes, in words.
fn received(event: Option<SourceEvent>) -> String {
    let Some(SourceEvent::Published(mut event)) = event else { panic!("not published: {event:?}") };
    if let Some(acknowledgement) = event.acknowledgement.take() {
        acknowledgement.acknowledge();
    }
    let message = routes().decode(event).unwrap().message;
    format!("{} {} of {}", message.namespace, message.payload(), message.sender.as_deref().unwrap_or("nobody"))
}

const RECEIVED: [&str; 3] = ["/chat 1 of Zoë: 1", "/chat 2 of Zoë: 1", "/chat 3 of nobody"];

#[tokio::test]
async fn sender_comes_back_from_a_channel_of_redis() {
    for pattern in ["chat=/chat", "*=/others/*"] {
        let server = Server::start("publishing-sender");
        let config = crate::source::redis::Config::new(server.url()).unwrap();
        let commands = config.commands();
        let publisher = Publisher::new(vec![Backend::Redis(RedisPublisher::new(commands.clone()))]);
        let routes = Routes::new(vec![pattern.parse().unwrap()]).unwrap().with_senders(true);
        let (_selectors, selectors) = watch::channel(routes.selectors(SourceId::DEFAULT));
        let (inbox, mut events) = inbox::channel(16, usize::MAX);
        let (state, mut states) = watch::channel(BrokerState::Connecting);
        let source = RedisSource::new(config, commands, selectors);
        let source = tokio::spawn(Supervisor::new(inbox).broker_state(state).run(source));
        timeout(PATIENCE, states.wait_for(|state| *state == BrokerState::Subscribed)).await.unwrap().unwrap();
        publish_with_sender(&publisher).await;
        for expected in RECEIVED {
            assert_eq!(received(timeout(PATIENCE, events.recv()).await.unwrap()), expected, "{pattern}");
        }
        source.abort();
    }
}

#[tokio::test]
async fn sender_comes_back_in_this_process() {
    let (publisher, mut events) = MemoryPublisher::new(Arc::default());
    let publisher = Publisher::new(vec![Backend::Memory(publisher)]);
    let published = tokio::spawn(async move {
        publish_with_sender(&publisher).await;
        let sender = Some("ann".to_owned());
        publisher.publish(&[Publication { sender, ..message(stream(None), "4", None) }]).await.unwrap();
    });
    for expected in RECEIVED {
        assert_eq!(received(timeout(PATIENCE, events.recv()).await.unwrap()), expected);
    }
    let event = timeout(PATIENCE, events.recv()).await.unwrap();
    let Some(SourceEvent::Published(event)) = event else { panic!("not published: {event:?}") };
    assert_eq!(event.entry.unwrap().sender.as_deref(), Some(&b"ann"[..]));
    event.acknowledgement.unwrap().acknowledge();
    published.await.unwrap();
}

#[tokio::test]
async fn counts_are_added_once_for_each_key() {
    let server = Server::start("counting");
    let client = RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), Duration::from_secs(5));
    let publisher = Publisher::new(vec![Backend::Redis(RedisPublisher::new(client.clone()))]);
    let counts = |key: Option<&str>| Counts {
        totals: "scores".to_owned(),
        channel: "c".to_owned(),
        counts: [("a".to_owned(), 2), ("b".to_owned(), 3)].into(),
        idempotency_key: key.map(str::to_owned),
    };
    let totals = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
    assert_eq!(publisher.count(&counts(None)).await.unwrap(), totals(2, 3));
    assert_eq!(publisher.count(&counts(Some("k"))).await.unwrap(), totals(4, 6));
    assert_eq!(publisher.count(&counts(Some("k"))).await.unwrap(), totals(4, 6));
    assert_eq!(publisher.count(&counts(None)).await.unwrap(), totals(6, 9));
}

#[tokio::test]
async fn nothing_is_published_while_redis_is_away() {
    let mut server = Server::start("publishing-outage");
    let client = RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), Duration::from_secs(5));
    let publisher = Publisher::new(vec![Backend::Redis(RedisPublisher::new(client))]);
    publisher.publish(&[message(stream(None), "1", None)]).await.unwrap();
    server.kill();
    assert!(publisher.publish(&[message(stream(None), "2", None)]).await.is_err());
    server.run(&[]);
    // The client learns of the end of its connection by the first request, at most.
    let mut published = publisher.publish(&[message(stream(None), "3", None)]).await;
    if published.is_err() {
        published = publisher.publish(&[message(stream(None), "3", None)]).await;
    }
    published.unwrap();
    publisher.publish(&[message(stream(None), "4", Some("k"))]).await.unwrap();
}
