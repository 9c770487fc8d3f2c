//! Control from outside: closing connections, their topics and messages, grants, shutdown and acknowledgements.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{Lines, info, lines, ns, of, rest, settle, small_log, start, subscribe};
use crate::*;

/// A client of `topics` on a stream with room for `room` bytes, and the id of its connection.
async fn connect(handle: &Handle, topics: &str, room: usize, grant: Option<Grant>) -> (DuplexStream, ConnectionId) {
    let (ours, theirs) = tokio::io::duplex(room);
    let mut subscriber = Subscriber::new(info(topics), lines(), Sink::Stream(Box::new(theirs)));
    subscriber.grant = grant.map(Arc::new);
    let before = handle.connections().await.unwrap();
    handle.subscribe(subscriber).await.unwrap();
    loop {
        let now = handle.connections().await.unwrap();
        if let Some(new) = now.iter().find(|report| before.iter().all(|known| known.id != report.id)) {
            return (ours, new.id);
        }
        settle().await;
    }
}

async fn read_to_end(mut client: DuplexStream) -> String {
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn connection_is_closed_with_a_reason() {
    let fanout = start(Config::default());
    let handle = fanout.handle();
    let (client, id) = connect(&handle, "/a", 1024, None).await;
    let (other, other_id) = connect(&handle, "/a", 1024, None).await;
    handle.close(id, CloseReason::Requested("maintenance".into())).await.unwrap();
    assert_eq!(read_to_end(client).await, "Requested(\"maintenance\")\n");
    assert_eq!(handle.close(id, CloseReason::Shutdown).await, Err(ControlError::NotConnected(id)));
    let unknown = ConnectionId { shard: 99, ..other_id };
    assert_eq!(handle.close(unknown, CloseReason::Shutdown).await, Err(ControlError::NotConnected(unknown)));
    assert_eq!(handle.connections().await.unwrap().len(), 1);
    fanout.shutdown().await;
    assert_eq!(read_to_end(other).await, "end\n");
}

#[tokio::test]
async fn topics_are_replaced_between_messages_sent_before_and_after() {
    let fanout = start(Config::default());
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let (client, id) = connect(&handle, "/a", 8, None).await;
    let reader = tokio::spawn(read_to_end(client));
    for text in ["1", "2", "3"] {
        publisher.send(Message::text(ns("/a"), text)).await.unwrap();
    }
    handle.set_topics(id, of("/b")).await.unwrap();
    publisher.send(Message::text(ns("/a"), "4")).await.unwrap();
    publisher.send(Message::text(ns("/b"), "5")).await.unwrap();
    let report = handle.report().await.unwrap();
    assert_eq!((&report.connections[0].info.topics, &report.feeds[0].topics), (&of("/b"), &of("/b")));
    drop(publisher);
    fanout.shutdown().await;
    let read = reader.await.unwrap();
    assert!(!read.contains('4') && read.ends_with("/b 5\nend\n"), "{read}");
    assert_eq!(handle.set_topics(id, of("/a")).await, Err(ControlError::Unavailable(Unavailable)));
}

/// What the watch of a stream has seen.
struct Seen(std::sync::mpsc::SyncSender<String>);

impl StreamWatch for Seen {
    fn attached(&mut self, connection: ConnectionId) {
        self.0.send(format!("attached {connection}")).unwrap();
    }

    fn topics_changed(&mut self, topics: &Topics, grant: Option<&Grant>) {
        let subject = grant.and_then(|grant| grant.subject.as_deref()).unwrap_or("nobody else");
        self.0.send(format!("{topics} for {subject}")).unwrap();
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send("ended".to_owned());
    }
}

#[tokio::test]
async fn watch_sees_a_stream_from_its_id_to_its_end() {
    let fanout = start(Config::default());
    let handle = fanout.handle();
    let (sender, seen) = std::sync::mpsc::sync_channel(16);
    let (mut client, theirs) = tokio::io::duplex(1024);
    let mut subscriber = Subscriber::new(info("/a"), lines(), Sink::Stream(Box::new(theirs)));
    subscriber.watch = Some(Box::new(Seen(sender)));
    handle.subscribe(subscriber).await.unwrap();
    let id = loop {
        if let [report] = &handle.connections().await.unwrap()[..] {
            break report.id;
        }
        settle().await;
    };
    handle.set_topics(id, of("/b")).await.unwrap();
    let grant = Some(Arc::new(Grant::default().with_subject("ann")));
    handle.change(id, Subscription { topics: of("/c"), grant, resume: None }).await.unwrap();
    assert_eq!(handle.connections().await.unwrap()[0].subject.as_deref(), Some("ann"));
    handle.close(id, CloseReason::Requested("bye".into())).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(client).await, "Requested(\"bye\")\n");
    fanout.shutdown().await;
    let expected = [format!("attached {id}"), "/b for nobody else".into(), "/c for ann".into(), "ended".into()];
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn message_for_one_connection_keeps_its_place_even_when_the_reader_is_behind() {
    let fanout = start(Config { log_batches: 1000, ..Config::default() });
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let (client, id) = connect(&handle, "/a", 8, None).await;
    let (other, _) = connect(&handle, "/a", 1024, None).await;
    for round in 0..20 {
        publisher.send(Message::text(ns("/a"), round.to_string())).await.unwrap();
        while handle.stats().broadcast.get() <= round {
            settle().await;
        }
        handle.send(id, Message::text(ns("/me"), round.to_string())).await.unwrap();
    }
    let reading = tokio::spawn(read_to_end(client));
    drop(publisher);
    fanout.join().await;
    let expected: String = (0..20).map(|round| format!("/a {round}\n/me {round}\n")).collect();
    assert_eq!(reading.await.unwrap(), expected + "end\n");
    assert!(!read_to_end(other).await.contains("/me"));
}

#[tokio::test]
async fn reader_that_is_too_far_behind_takes_no_messages_of_its_own() {
    let fanout = start(Config { log_bytes: 250_000, ..Config::default() });
    let handle = fanout.handle();
    let (_client, id) = connect(&handle, "/a", 8, None).await;
    let large = Message::text(ns("/me"), "x".repeat(100_000));
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        outcomes.push(handle.send(id, large.clone()).await);
    }
    assert_eq!(outcomes[0], Ok(()));
    assert_eq!(outcomes[3], Err(ControlError::TooFarBehind(id)));
}

#[tokio::test]
async fn stream_ends_when_its_grant_expires() {
    let fanout = start(Config::default());
    let handle = fanout.handle();
    let expired = Grant::default().with_subject("bob").with_expiry(SystemTime::now());
    let lasting = Grant::default().with_expiry(SystemTime::now() + Duration::from_secs(3600));
    let (_other, other_id) = connect(&handle, "/a", 1024, Some(lasting)).await;
    let (client, theirs) = tokio::io::duplex(1024);
    let mut subscriber = Subscriber::new(info("/a"), lines(), Sink::Stream(Box::new(theirs)));
    subscriber.grant = Some(Arc::new(expired));
    handle.subscribe(subscriber).await.unwrap();
    assert_eq!(read_to_end(client).await, "GrantExpired\n");
    assert_eq!(handle.stats().expired.get(), 1);
    let left: Vec<ConnectionId> = handle.connections().await.unwrap().iter().map(|report| report.id).collect();
    assert_eq!(left, [other_id]);
}

#[tokio::test]
async fn body_of_an_expired_grant_ends_after_the_reason() {
    let fanout = start(Config::default());
    let (sender, receiver) = body();
    let sink = Sink::Body(sender);
    let mut subscriber = Subscriber::new(info("/a"), lines(), sink);
    subscriber.grant = Some(Arc::new(Grant::default().with_expiry(SystemTime::now())));
    fanout.handle().subscribe(subscriber).await.unwrap();
    assert_eq!(rest(receiver).await, "GrantExpired\n");
}

#[tokio::test]
async fn shutdown_delivers_sent_messages_although_publishers_exist() {
    let fanout = start(Config::default());
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let reader = tokio::spawn(rest(subscribe(&handle, "/a").await));
    for number in 0..10 {
        publisher.send(Message::text(ns("/a"), number.to_string())).await.unwrap();
    }
    handle.shutdown();
    handle.closed().await;
    let expected: String = (0..10).map(|number| format!("/a {number}\n")).collect();
    assert_eq!(reader.await.unwrap(), expected + "end\n");
    assert_eq!(publisher.send(Message::text(ns("/a"), "late")).await, Err(Closed));
    assert_eq!(publisher.try_send(Message::text(ns("/a"), "late")), Err(TrySendError::Closed));
    publisher.ready().await;
}

#[tokio::test]
async fn engine_outlives_its_owner_until_the_last_publisher_is_dropped() {
    let fanout = start(Config::default());
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let reader = tokio::spawn(rest(subscribe(&handle, "/a").await));
    drop(fanout);
    publisher.send(Message::text(ns("/a"), "1")).await.unwrap();
    drop(publisher);
    handle.closed().await;
    assert_eq!(reader.await.unwrap(), "/a 1\nend\n");
}

#[tokio::test]
async fn message_is_acknowledged_after_the_hub_took_it_and_not_when_it_is_lost() {
    let fanout = start(Config::default());
    let publisher = fanout.publisher();
    let (acknowledgement, receipt) = Acknowledgement::new();
    publisher.send_acknowledged(Message::text(ns("/a"), "1"), acknowledgement).await.unwrap();
    assert_eq!(receipt.await, Ok(()));
    let (acknowledgement, receipt) = Acknowledgement::new();
    fanout.shutdown().await;
    assert_eq!(publisher.send_acknowledged(Message::text(ns("/a"), "2"), acknowledgement).await, Err(Closed));
    assert_eq!(receipt.await, Err(NotAcknowledged));
}

#[tokio::test]
async fn framings_of_one_name_have_feeds_of_their_own() {
    let fanout = start(small_log(Policy::Disconnect));
    let handle = fanout.handle();
    for framing in [lines(), lines(), Arc::new(Lines { end: "other", interval: None }) as Arc<dyn Framing>] {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        handle.subscribe(Subscriber::new(info("/a"), framing, Sink::Stream(Box::new(theirs)))).await.unwrap();
        ours.write_all(b"x").await.unwrap();
        std::mem::forget(ours);
    }
    while handle.stats().connections.get() < 3 {
        settle().await;
    }
    assert_eq!(handle.stats().feeds.get(), 2);
}

#[tokio::test]
async fn drain_ends_streams_one_by_one_while_messages_are_delivered() {
    let fanout = start(Config { shards: 2, ..Config::default() });
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(connect(&handle, "/a", 1024, None).await);
    }
    // Its stream is full, so that it cannot get everything.
    let (behind, _) = connect(&handle, "/b", 1, None).await;
    publisher.send(Message::text(ns("/b"), "unread")).await.unwrap();
    handle.drain(Duration::from_secs(10), Duration::from_secs(3)).await.unwrap();
    // Most of the time is left when the first streams have ended.
    while handle.connections().await.unwrap().len() > 38 {
        settle().await;
    }
    let ids: Vec<ConnectionId> = handle.connections().await.unwrap().iter().map(|report| report.id).collect();
    assert!(ids.len() > 5, "{} of 41 streams are left", ids.len());
    publisher.send(Message::text(ns("/a"), "late")).await.unwrap();
    while handle.stats().broadcast.get() < 2 {
        settle().await;
    }
    // A second drain replaces the first.
    handle.drain(Duration::from_millis(50), Duration::from_secs(3)).await.unwrap();
    while handle.connections().await.unwrap().len() > 1 {
        settle().await;
    }
    let draining = "Draining { retry: 3s }\n";
    let mut orders = Vec::new();
    for (client, id) in clients {
        let read = read_to_end(client).await;
        if read == draining {
            orders.push(id);
        } else {
            assert_eq!(read, format!("/a late\n{draining}"));
            assert!(ids.contains(&id));
        }
    }
    assert!(orders.len() >= 3, "{orders:?}");
    drop(publisher);
    let read = tokio::spawn(read_to_end(behind));
    fanout.shutdown().await;
    assert_eq!(read.await.unwrap(), "/b unread\nend\n");
    assert_eq!(handle.drain(Duration::ZERO, Duration::ZERO).await, Err(Unavailable));
}

#[tokio::test]
async fn shutdown_completes_a_drain() {
    let fanout = start(Config { shards: 2, ..Config::default() });
    let handle = fanout.handle();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(&handle, "/a", 1024, None).await.0);
    }
    handle.drain(Duration::from_secs(3600), Duration::from_secs(3)).await.unwrap();
    fanout.shutdown().await;
    for client in clients {
        assert_eq!(read_to_end(client).await, "Draining { retry: 3s }\n");
    }
}
