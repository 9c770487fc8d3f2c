//! Readers that get only some of the messages of their topics, and retentions that leave namespaces out.

use super::*;

const SEQUENCE: &str = "updates";

/// Keeps everything but what is in `/raw`.
fn retention() -> Arc<Retention> {
    Arc::new(Retention {
        name: "updates".into(),
        namespace: Namespace::root(),
        except: [ns("/raw")].into(),
        sequence: Some(SEQUENCE.into()),
        partition: None,
        max_messages: None,
        max_bytes: None,
        max_age: None,
        last_values: false,
    })
}

async fn started() -> Fanout {
    let fanout = Fanout::builder().inbox(64).retentions(vec![retention()]).build();
    for kind in [SequenceEventKind::Start { after: EntryId::ZERO }, SequenceEventKind::Current] {
        let event = SequenceEvent { sequence: SEQUENCE.into(), kind };
        fanout.publisher().send_sequence_event(event).await.unwrap();
    }
    settle().await;
    fanout
}

fn kept(namespace: &str, entry: u64, update: Option<Update>) -> Message {
    let position = Position { sequence: SEQUENCE.into(), entry: EntryId::new(entry, 0) };
    let kept = Some(Box::new(Kept::new(retention(), Some(position))));
    Message { kept, update: update.map(Box::new), ..Message::text(ns(namespace), "x") }
}

/// A reader of everything that may read these messages, from the beginning of the history on.
async fn subscribe_restricted(fanout: &Fanout, plain: Access) -> BodyReceiver {
    let (sender, receiver) = body();
    let mut subscriber = Subscriber::new(info("/"), lines(), Sink::Body(sender));
    let grant = Grant::default().with_plain(plain);
    let start = Start::After("earliest".into());
    let topics = &subscriber.info.topics;
    let resume = fanout.handle().resume(topics, None, Some(&grant), &start, Duration::from_secs(10)).await;
    subscriber.resume = resume.unwrap();
    subscriber.grant = Some(Arc::new(grant));
    fanout.handle().subscribe(subscriber).await.unwrap();
    receiver
}

#[tokio::test]
async fn messages_that_are_no_updates_need_permission() {
    let fanout = started().await;
    let messages = |first: u64| {
        let all = [("/open/a", None), ("/secret", None), ("/secret/x", Some(Update::default()))];
        all.into_iter().zip(first..).map(|((namespace, update), entry)| kept(namespace, entry, update))
    };
    for message in messages(1) {
        fanout.publisher().send(message).await.unwrap();
    }
    settle().await;
    let some = subscribe_restricted(&fanout, Access::Topics(of("/open"))).await;
    let none = subscribe_restricted(&fanout, Access::Topics(Topics::none())).await;
    let all = subscribe_restricted(&fanout, Access::All).await;
    for message in messages(4) {
        fanout.publisher().send(message).await.unwrap();
    }
    let (some, none, all, ()) = tokio::join!(rest(some), rest(none), rest(all), fanout.shutdown());
    let namespaces = |text: String| {
        let lines = text.lines().filter(|line| line.starts_with('/'));
        lines.map(|line| line.split('@').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(namespaces(some), "/open/a /secret/x /open/a /secret/x");
    assert_eq!(namespaces(none), "/secret/x /secret/x");
    assert_eq!(namespaces(all), "/open/a /secret /secret/x /open/a /secret /secret/x");
}

#[tokio::test]
async fn sender_does_not_receive_its_own_messages_live_or_from_the_history() {
    let fanout = started().await;
    let message =
        |entry: u64, sender: Option<&str>| Message { sender: sender.map(Into::into), ..kept("/chat", entry, None) };
    let subscribe = async |sender: &str| {
        let (stream, receiver) = body();
        let mut subscriber = Subscriber::new(info("/chat"), lines(), Sink::Body(stream));
        let grant = Grant::default().with_except_sender(sender);
        let (start, limit) = (Start::After("earliest".into()), Duration::from_secs(10));
        subscriber.resume = fanout.handle().resume(&of("/chat"), None, Some(&grant), &start, limit).await.unwrap();
        subscriber.grant = Some(Arc::new(grant));
        fanout.handle().subscribe(subscriber).await.unwrap();
        receiver
    };
    for (entry, sender) in (1..).zip([Some("ann"), Some("bob"), None]) {
        fanout.publisher().send(message(entry, sender)).await.unwrap();
    }
    settle().await;
    let (ann, bob, all) = (subscribe("ann").await, subscribe("bob").await, subscribe("").await);
    for (entry, sender) in (4..).zip([Some("ann"), Some("bob"), None]) {
        fanout.publisher().send(message(entry, sender)).await.unwrap();
    }
    let (ann, bob, all, ()) = tokio::join!(rest(ann), rest(bob), rest(all), fanout.shutdown());
    let entries = |text: String| {
        let lines = text.lines().filter_map(|line| line.strip_prefix("/chat@"));
        lines.map(|line| line.split('-').next().unwrap().to_owned()).collect::<String>()
    };
    assert_eq!([entries(ann), entries(bob), entries(all)], ["2356", "1346", "123456"]);
}

#[tokio::test]
async fn retention_does_not_concern_readers_of_what_it_leaves_out() {
    let fanout = started().await;
    fanout.publisher().send(kept("/news", 1, Some(Update::default()))).await.unwrap();
    settle().await;
    let handle = fanout.handle();
    assert!(handle.has_history(&of("/news")) && handle.has_history(&of("/")) && handle.has_history(&of("/*")));
    assert!(!handle.has_history(&of("/raw")) && !handle.has_history(&of("/raw/a,/raw/*")));
    let (raw, news) = (subscribe(&handle, "/raw").await, subscribe(&handle, "/news").await);
    let kind = SequenceEventKind::Gap { after: EntryId::new(7, 0), reason: ResetReason::Unknown };
    let gap = SequenceEvent { sequence: SEQUENCE.into(), kind };
    fanout.publisher().send_sequence_event(gap).await.unwrap();
    fanout.publisher().send(Message::text(ns("/raw"), "live")).await.unwrap();
    let (raw, news, ()) = tokio::join!(rest(raw), rest(news), fanout.shutdown());
    assert_eq!(raw, "/raw live\nend\n");
    assert!(news.starts_with("position 1-0\n") && news.contains("\"reason\":\"unknown\""), "{news}");
}
