//! Engines that relay others, and the readers of both.

use super::*;

const EPOCH: &str = "9c1f03d2a7b4e865";
/// Time for a position to become known.
const LIMIT: Duration = Duration::from_millis(300);

/// What is kept of an engine with this epoch.
fn retention(epoch: &str) -> Arc<Retention> {
    Arc::new(Retention {
        name: "kept".into(),
        namespace: ns("/kept"),
        except: Box::default(),
        sequence: Some(numbered_sequence(epoch)),
        partition: None,
        max_messages: None,
        max_bytes: None,
        max_age: None,
        last_values: false,
    })
}

fn message(retention: &Arc<Retention>, number: u64) -> Message {
    let position = Position { sequence: retention.sequence.clone().unwrap(), entry: EntryId::new(number, 0) };
    let mut message = Message::text(ns("/kept/a"), "x");
    message.kept = Some(Box::new(Kept::new(Arc::clone(retention), Some(position))));
    message
}

async fn event(fanout: &Fanout, epoch: &str, kind: SequenceEventKind) {
    let event = SequenceEvent { sequence: numbered_sequence(epoch), kind };
    fanout.publisher().send_sequence_event(event).await.unwrap();
}

async fn reached(fanout: &Fanout, epoch: &str, number: u64) {
    let kind = SequenceEventKind::Reached { entry: EntryId::new(number, 0), is_confirmed: true };
    event(fanout, epoch, kind).await;
}

/// An engine that has been told by another one what it keeps.
async fn relay() -> Fanout {
    let fanout = Fanout::builder().relays(1).inbox(64).build();
    fanout.publisher().set_retentions(vec![retention(EPOCH)]).await.unwrap();
    fanout.publisher().set_path(vec!["origin".into()], 1).await.unwrap();
    event(&fanout, EPOCH, SequenceEventKind::Start { after: EntryId::ZERO }).await;
    event(&fanout, EPOCH, SequenceEventKind::Current).await;
    reached(&fanout, EPOCH, 0).await;
    settle().await;
    fanout
}

async fn resume(fanout: &Fanout, id: &str) -> Result<Option<Resume>, NotCurrent> {
    let start = Start::After(id.into());
    fanout.handle().resume(&of("/kept"), None, None, &start, LIMIT).await
}

#[tokio::test]
async fn ids_are_those_of_the_engine_that_numbers_messages() {
    let fanout = relay().await;
    let mut reader = subscribe(&fanout.handle(), "/kept").await;
    for number in [1, 2, 5] {
        fanout.publisher().send(message(&retention(EPOCH), number)).await.unwrap();
    }
    let id = |number| format!("{EPOCH}-{number}");
    let expected = [format!("position {}", id(0)), format!("/kept/a@{} x", id(1)), format!("/kept/a@{} x", id(2))];
    let mut text = String::new();
    while text.lines().count() < 4 {
        text += std::str::from_utf8(&reader.recv().await.unwrap().unwrap()).unwrap();
    }
    assert_eq!(text.lines().take(3).collect::<Vec<_>>(), expected);
    assert_eq!(resume(&fanout, &id(2)).await.unwrap().unwrap().position(), id(2));
}

#[tokio::test]
async fn position_ahead_is_waited_for_and_unknown_only_once_that_is_confirmed() {
    let fanout = relay().await;
    let ahead = format!("{EPOCH}-7");
    // Nothing has come from the other engine since.
    assert_eq!(resume(&fanout, &ahead).await, Err(NotCurrent));
    assert_eq!(resume(&fanout, "0123456789abcdef-7").await, Err(NotCurrent), "it may have started again");
    let (found, ()) = tokio::join!(resume(&fanout, &ahead), async {
        tokio::time::sleep(LIMIT / 3).await;
        reached(&fanout, EPOCH, 7).await;
    });
    assert_eq!(found.unwrap().unwrap().position(), ahead);
    let ahead = format!("{EPOCH}-8");
    let (found, ()) = tokio::join!(resume(&fanout, &ahead), async {
        for _ in 0..6 {
            tokio::time::sleep(LIMIT / 6).await;
            reached(&fanout, EPOCH, 7).await;
        }
    });
    assert_ne!(found.unwrap().unwrap().position(), ahead, "it is reset");
}

#[tokio::test]
async fn readers_wait_until_it_is_known_what_is_kept_and_old_epochs_are_unknown_at_once() {
    let fanout = Fanout::builder().relays(1).inbox(64).build();
    assert_eq!(resume(&fanout, "1-0").await, Err(NotCurrent));
    fanout.publisher().set_path(Vec::new(), 1).await.unwrap();
    settle().await;
    assert_eq!(resume(&fanout, "1-0").await, Ok(None));
    let fanout = relay().await;
    let other = "0123456789abcdef";
    fanout.publisher().set_retentions(vec![retention(other)]).await.unwrap();
    event(&fanout, other, SequenceEventKind::Current).await;
    reached(&fanout, other, 3).await;
    settle().await;
    let resumed = resume(&fanout, &format!("{EPOCH}-7")).await.unwrap().unwrap();
    assert_eq!(resumed.position(), format!("{other}-3"));
}

/// [`Lines`] for relays.
#[derive(Debug)]
struct RelayLines;

impl Framing for RelayLines {
    fn name(&self) -> &'static str {
        "relay"
    }
    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        lines().message(message, batch);
    }
    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        lines().skipped(count, batch);
    }
    fn is_relay(&self) -> bool {
        true
    }
    fn relay_start(&self, start: &RelayStart, batch: &mut Vec<u8>) {
        let retentions: Vec<_> =
            start.retentions.iter().map(|relayed| format!("{} {}", relayed.retention.name, relayed.trimmed)).collect();
        let line = format!("start {} {:?} {:?} {:?}\n", start.path.len(), start.sequences, retentions, start.totals);
        batch.extend_from_slice(line.as_bytes());
    }
    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }
    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        lines().keep_alive(position)
    }
    fn closing(&self, reason: &CloseReason) -> Bytes {
        lines().closing(reason)
    }
}

#[tokio::test]
async fn relay_gets_the_state_of_the_engine_and_connects_again_when_that_changes() {
    let config = Config { totals: vec![ns("/eps"), ns("/other")], ..Config::default() };
    let fanout = Fanout::builder().config(config).policies(vec!["/=skip".parse().unwrap()]).inbox(64).build();
    fanout.publisher().set_retentions(vec![retention(EPOCH)]).await.unwrap();
    fanout.publisher().send(Message::totals(ns("/eps"), [("a".to_owned(), 3)].into_iter().collect())).await.unwrap();
    settle().await;
    let framing: Arc<dyn Framing> = Arc::new(RelayLines);
    let (sender, reader) = body();
    let subscriber = Subscriber::new(info("/kept,/eps"), framing, Sink::Body(sender));
    fanout.handle().subscribe(subscriber).await.unwrap();
    settle().await;
    let unavailable = TotalsState::Unavailable("x".into());
    fanout.publisher().send(Message::totals_state(ns("/eps"), unavailable)).await.unwrap();
    fanout.publisher().send(Message::totals_state(ns("/other"), TotalsState::Known)).await.unwrap();
    // The same again is no change.
    fanout.publisher().set_retentions(vec![retention(EPOCH)]).await.unwrap();
    fanout.publisher().send(Message::text(ns("/kept"), "y")).await.unwrap();
    settle().await;
    assert_eq!(fanout.handle().feeds().await.unwrap()[0].policy, Policy::Disconnect);
    fanout.publisher().set_path(vec!["origin".into()], 1).await.unwrap();
    let expected = format!(
        "start 1 [(Numbered(\"{EPOCH}\"), EntryId {{ major: 0, minor: 0 }})] [\"kept 0-0\"] [\"/eps\"]\n\
         /eps#snapshot {{\"a\":3}}\n/eps#totals {{\"known\":false,\"reason\":\"x\"}}\n/kept y\n\
         Requested(\"what this node relays has changed\")\n"
    );
    assert_eq!(rest(reader).await, expected);
}

#[tokio::test]
async fn relay_that_comes_while_totals_are_unavailable_gets_the_sums_that_later_ones_are_relative_to() {
    let config = Config { totals: vec![ns("/eps")], ..Config::default() };
    let fanout = Fanout::builder().config(config).inbox(64).build();
    let totals = |sum| Message::totals(ns("/eps"), [("a".to_owned(), sum)].into_iter().collect());
    let publisher = fanout.publisher();
    publisher.send(totals(3)).await.unwrap();
    let unavailable = TotalsState::Unavailable("x".into());
    publisher.send(Message::totals_state(ns("/eps"), unavailable)).await.unwrap();
    settle().await;
    let (sender, reader) = body();
    let subscriber = Subscriber::new(info("/eps"), Arc::new(RelayLines), Sink::Body(sender));
    fanout.handle().subscribe(subscriber).await.unwrap();
    settle().await;
    publisher.send(totals(5)).await.unwrap();
    settle().await;
    publisher.set_path(vec!["origin".into()], 0).await.unwrap();
    let text = rest(reader).await;
    let lines: Vec<&str> = text.lines().skip(1).take(4).collect();
    let expected = [
        "/eps#snapshot {\"a\":3}",
        "/eps#totals {\"known\":false,\"reason\":\"x\"}",
        "/eps {\"a\":2}",
        "/eps#totals {\"known\":true}",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn relay_gets_no_totals_that_its_grant_excludes() {
    let config = Config { totals: vec![ns("/eps"), ns("/other")], ..Config::default() };
    let fanout = Fanout::builder().config(config).inbox(64).build();
    let publisher = fanout.publisher();
    for namespace in ["/eps", "/other"] {
        publisher.send(Message::totals(ns(namespace), [("a".to_owned(), 3)].into_iter().collect())).await.unwrap();
    }
    settle().await;
    let (sender, reader) = body();
    let mut subscriber = Subscriber::new(info("/eps,/other"), Arc::new(RelayLines), Sink::Body(sender));
    subscriber.grant = Some(Arc::new(Grant::default().with_plain(Access::Topics(of("/eps")))));
    fanout.handle().subscribe(subscriber).await.unwrap();
    settle().await;
    for namespace in ["/eps", "/other"] {
        let unavailable = TotalsState::Unavailable("x".into());
        publisher.send(Message::totals_state(ns(namespace), unavailable)).await.unwrap();
    }
    settle().await;
    publisher.set_path(vec!["origin".into()], 0).await.unwrap();
    let text = rest(reader).await;
    assert!(text.contains("/eps#snapshot") && text.contains("/eps#totals") && !text.contains("/other"), "{text}");
}
