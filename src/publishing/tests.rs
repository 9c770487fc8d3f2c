//! Publishing with a `redis-server` that the test starts.

use std::sync::Arc;

use ::redis::cmd;

use super::*;
use crate::redis_client::RedisClient;
use crate::redis_client::tests::Server;

fn message(target: Target, data: &str, key: Option<&str>) -> Publication {
    let event = matches!(target, Target::Stream { .. }).then(|| "e".to_owned());
    Publication {
        target,
        event,
        data: data.to_owned(),
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
    let publisher = Publisher::Redis(RedisPublisher::new(client.clone()));
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
    let publisher = Publisher::Redis(RedisPublisher::new(client.clone()));
    let update = UpdateFields {
        alternates: vec!["b".to_owned(), "c".to_owned()],
        id: Some("urn:x".to_owned()),
        retry: Some(7),
        is_private: true,
    };
    publisher.publish(&[Publication { update, ..message(stream(Some("a")), "1", None) }]).await.unwrap();
    let entries: Vec<(String, Vec<String>)> =
        client.query(cmd("XRANGE").arg("orders").arg("-").arg("+")).await.unwrap();
    assert_eq!(entries[0].1.join(" "), "data 1 event e topic a topic b topic c id urn:x retry 7 private on");
}

#[tokio::test]
async fn counts_are_added_once_for_each_key() {
    let server = Server::start("counting");
    let client = RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), Duration::from_secs(5));
    let publisher = Publisher::Redis(RedisPublisher::new(client.clone()));
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
    let publisher = Publisher::Redis(RedisPublisher::new(client));
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
