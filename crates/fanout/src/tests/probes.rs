//! Messages with a probe.

use tokio::sync::oneshot;

use super::*;

fn retention() -> Arc<Retention> {
    Arc::new(Retention {
        name: "kept".into(),
        namespace: ns("/a"),
        except: Box::default(),
        sequence: None,
        partition: None,
        max_messages: Some(10),
        max_bytes: None,
        max_age: None,
        last_values: false,
    })
}

fn followed(message: Message) -> (Message, oneshot::Receiver<Passage>) {
    let (sender, passage) = oneshot::channel();
    let probe = Probe::new(move |passage| sender.send(passage).unwrap());
    (Message { probe: Some(probe), ..message }, passage)
}

#[tokio::test]
async fn probe_reports_readers_of_its_message_when_all_shards_have_written_it() {
    let retention = retention();
    let config = Config { shards: 2, retentions: vec![Arc::clone(&retention)], ..Config::default() };
    let fanout = start(config);
    let handle = fanout.handle();
    let mut readers = Vec::new();
    for topics in ["/a", "/a", "/a,/b", "/b"] {
        readers.push(subscribe(&handle, topics).await);
    }
    let paced = subscribe_at(&handle, "/a", false, Some("1/h".parse().unwrap())).await;
    while handle.stats().connected.get() < 5 {
        settle().await;
    }
    // Kept in the history, which does not keep the probe.
    let kept = Some(Box::new(Kept::new(retention, None)));
    let (message, passage) = followed(Message { kept, ..Message::text(ns("/a"), "1") });
    let (unread, nowhere) = followed(Message::text(ns("/c"), "2"));
    fanout.publisher().send(message).await.unwrap();
    fanout.publisher().send(unread).await.unwrap();
    let passage = passage.await.unwrap();
    assert!(passage.hub_taken_at <= passage.hub_sent_at && passage.hub_taken_at.is_some());
    let total = |count: fn(&ShardPassage) -> usize| passage.shards.iter().map(count).sum::<usize>();
    assert_eq!((passage.shards.len(), total(|shard| shard.readers)), (2, 3));
    for shard in passage.shards {
        assert!(passage.hub_sent_at <= Some(shard.taken_at));
        assert_eq!(shard.first_write_at.is_some(), shard.readers > 0);
        assert!(shard.first_write_at <= shard.last_write_at);
        // Readers that have just come get the message with their first piece, which does not count.
        assert!(shard.readers > 0 || shard.bytes == 0);
    }
    let nowhere = nowhere.await.unwrap();
    assert_eq!(nowhere.shards.iter().map(|shard| (shard.readers, shard.bytes)).collect::<Vec<_>>(), [(0, 0), (0, 0)]);
    drop((readers, paced));
    fanout.shutdown().await;
}

#[tokio::test]
async fn probe_of_a_message_that_is_sent_to_nobody_reports_too() {
    let fanout = start(Config::default());
    let (message, passage) = followed(Message::totals(ns("/unknown"), Tally::default()));
    fanout.publisher().send(message).await.unwrap();
    let passage = passage.await.unwrap();
    assert!(passage.hub_taken_at.is_some() && passage.hub_sent_at.is_none() && passage.shards.is_empty());
    let (message, passage) = followed(Message::text(ns("/a"), "1"));
    drop(message);
    assert!(passage.await.unwrap().hub_taken_at.is_none());
    fanout.shutdown().await;
}
