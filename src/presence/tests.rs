//! Subscriptions of several nodes at a `redis-server` that the test starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Instant, SystemTime};

use futures_util::FutureExt;
use tallycast_fanout::{ConnectionInfo, Grant, Topic, Topics};
use tallycast_server::{StreamObserver, StreamWatch};

use super::*;
use crate::nodes::LEASES;
use crate::redis_client::tests::{PATIENCE, Server};

/// Acts at once. Leases last longer than a test; a test that needs one to expire says so to Redis.
const TIMING: Timing =
    Timing { flush: Duration::from_millis(5), lease: PATIENCE, grace: Duration::ZERO, look: Duration::from_millis(5) };

fn client(server: &Server) -> RedisClient {
    RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), PATIENCE)
}

/// A node, and its events.
struct Node {
    presence: Presence,
    events: PresenceEvents,
    stats: Arc<PresenceStats>,
    /// The counts among the events.
    counts: Vec<String>,
}

impl Node {
    fn start(name: &str, server: Option<&Server>) -> Self {
        let stats = Arc::<PresenceStats>::default();
        let (presence, events) =
            Presence::start_with(name, server.map(client), Arc::clone(&stats), Limits::default(), TIMING);
        Self { presence, events, stats, counts: Vec::new() }
    }

    fn open(&self, topics: &[&str]) -> Box<dyn StreamWatch> {
        self.open_with(topics, None)
    }

    fn open_with(&self, texts: &[&str], grant: Option<&Grant>) -> Box<dyn StreamWatch> {
        let info = ConnectionInfo {
            request_path: "/subscribe".into(),
            topics: topics(texts),
            created_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1234),
            client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            user_agent: "".into(),
        };
        self.presence.observer().opened(&info, grant)
    }

    /// Stops like a process that is killed.
    fn kill(&self) {
        self.presence.task.lock().unwrap().take().unwrap().abort();
    }

    /// The next events, each as a line without ids, sorted.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.push(line(&self.next().await));
        }
        lines.sort();
        lines
    }

    async fn next(&mut self) -> PresenceEvent {
        let mut events = tokio::time::timeout(PATIENCE, self.events.next(1)).await.expect("an event");
        events.pop().expect("the task runs")
    }

    async fn count(&self, topic: &str) -> u64 {
        self.presence.of_topic(topic, None, 1).await.map_or(u64::MAX, |page| page.count)
    }

    async fn until_count(&self, topic: &str, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(topic).await != count {
            assert!(Instant::now() < deadline, "{topic} has {}, not {count}", self.count(topic).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nothing is kept, once all events are published.
    async fn until_empty(&mut self) {
        assert!(self.events.next(1).now_or_never().is_none());
        let deadline = Instant::now() + PATIENCE;
        while self.presence.registry.size() != (0, 0) {
            assert!(Instant::now() < deadline, "{:?}", self.presence.registry.size());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this node has finished with a dead one.
    async fn until_inherited(&self) {
        while self.stats.inherited.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything that was due has been shared, announced and published. Returns the events.
    async fn settled(&mut self) -> Vec<PresenceEvent> {
        let mut events = Vec::new();
        let mut probe = Some(self.open(&["/probe"]));
        while probe.is_some() {
            let event = self.next().await;
            match event.topic() {
                "/probe" => drop(probe.take()),
                _ => events.push(event),
            }
        }
        loop {
            let event = self.next().await;
            match event.topic() {
                "/probe" => return events,
                _ => events.push(event),
            }
        }
    }

    /// Stops, and returns the last events, each as a line.
    async fn close(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let published = async {
            loop {
                let events = self.events.next(16).await;
                if events.is_empty() {
                    break;
                }
                lines.extend(events.iter().map(line));
            }
        };
        tokio::join!(self.presence.close(), published);
        lines
    }
}

fn topics(texts: &[&str]) -> Topics {
    if texts.is_empty() {
        return Topics::none();
    }
    Topics::new(texts.iter().map(|text| text.parse::<Topic>().unwrap()).collect()).unwrap()
}

fn line(event: &PresenceEvent) -> String {
    match event {
        PresenceEvent::Subscription { subscription, .. } => {
            format!("{} {} {}", event.name(), subscription.topic, subscription.node)
        }
        PresenceEvent::Count { topic, node, count } => format!("count {topic} {node} {count}"),
    }
}

/// Ends the lease of each node with this name, by the clock of Redis.
async fn expire(server: &Server, name: &str) {
    let client = client(server);
    let nodes: Vec<String> = client.query(redis::cmd("ZRANGE").arg(LEASES).arg(0).arg(-1)).await.unwrap();
    for node in nodes.iter().filter(|node| crate::nodes::name(node) == name) {
        client.query::<()>(redis::cmd("ZADD").arg(LEASES).arg(1).arg(node)).await.unwrap();
    }
}

#[tokio::test]
async fn nodes_know_each_others_subscriptions() {
    let server = Server::start("presence-nodes");
    let (mut a, mut b) = (Node::start("a", Some(&server)), Node::start("b", Some(&server)));
    let grant = Grant::default().with_subject("ada").with_payload(serde_json::json!({"user": 1}));
    let first = a.open_with(&["/x", "/y/*"], Some(&grant));
    let mut second = b.open(&["/x"]);
    for node in [&a, &b] {
        node.until_count("/x", 2).await;
        node.until_count("/y/*", 1).await;
    }
    assert_eq!(a.events(2).await, ["subscribed /x a", "subscribed /y/* a"]);
    // Pages of one, in a stable order.
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = a.presence.of_topic("/x", after.as_ref(), 1).await.unwrap();
        assert_eq!((page.count, page.listed, page.page.subscriptions.len()), (2, 2, 1));
        found.extend(page.page.subscriptions);
        after = page.page.next;
        if after.is_none() {
            break;
        }
    }
    let nodes: Vec<&str> = found.iter().map(|subscription| &*subscription.node).collect();
    assert_eq!(nodes, ["a", "b"]);
    let json = serde_json::to_value(SubscriptionJson::from(&found[0])).unwrap();
    let id = found[0].subscriber.id;
    let expected = serde_json::json!({
        "id": id.to_string(), "topic": "/x", "subject": "ada", "payload": {"user": 1}, "since": 1234, "node": "a"
    });
    assert_eq!(json, expected);
    assert_eq!(b.presence.get("/y/*", id).await.unwrap().unwrap().subscriber.since, 1234);
    assert!(b.presence.get("/z", id).await.unwrap().is_none());
    let page = b.presence.topics(None, 1).await.unwrap();
    assert_eq!((&*page.topics[0].topic, page.topics[0].count, page.next.as_deref()), ("/x", 2, Some("/x")));
    let page = b.presence.topics(Some("/x"), 1).await.unwrap();
    assert_eq!((&*page.topics[0].topic, page.topics[0].count, page.next), ("/y/*", 1, None));
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = b.presence.all(after.as_ref(), 1).await.unwrap();
        all.extend(page.subscriptions.iter().map(|found| format!("{} {}", found.topic, found.node)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(all, ["/x a", "/x b", "/y/* a"]);
    // A change of topics keeps the id.
    second.topics_changed(&topics(&["/z"]), None);
    a.until_count("/x", 1).await;
    a.until_count("/z", 1).await;
    drop(first);
    b.until_count("/x", 0).await;
    assert_eq!(a.events(2).await, ["unsubscribed /x a", "unsubscribed /y/* a"]);
    // A node that stops ends its own.
    assert_eq!(b.close().await.last().unwrap(), "unsubscribed /z b");
    a.settled().await;
    a.until_count("/z", 0).await;
    assert_eq!(a.close().await.len(), 0);
    let keys: Vec<String> = client(&server).query(redis::cmd("KEYS").arg("*")).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn renewed_grant_replaces_subject_and_payload() {
    let mut node = Node::start("a", None);
    let mut stream = node.open_with(&["/x"], Some(&Grant::default().with_subject("ada")));
    stream.topics_changed(&topics(&["/x"]), Some(&Grant::default().with_subject("bob")));
    let page = node.presence.of_topic("/x", None, 10).await.unwrap();
    let subjects: Vec<_> = page.page.subscriptions.iter().map(|found| found.subscriber.subject.as_deref()).collect();
    assert_eq!((page.count, &*subjects), (1, &[Some("bob")][..]));
    drop(stream);
    node.settled().await;
    node.until_empty().await;
}

/// The events with subscriptions, by topic and id: whether each began.
async fn transitions(node: &mut Node, count: usize) -> BTreeMap<(String, SubscriberId), Vec<bool>> {
    let mut found = BTreeMap::<_, Vec<bool>>::new();
    for _ in 0..count {
        let (subscription, active) = loop {
            match node.next().await {
                PresenceEvent::Subscription { subscription, active, .. } => break (subscription, active),
                count => node.counts.push(line(&count)),
            }
        };
        found.entry((subscription.topic.to_string(), subscription.subscriber.id)).or_default().push(active);
    }
    found
}

#[tokio::test]
async fn subscriptions_of_a_dead_node_end_once() {
    let server = Server::start("presence-dead");
    let mut dead = Node::start("dead", Some(&server));
    let mut heirs = [Node::start("b", Some(&server)), Node::start("c", Some(&server))];
    let texts: Vec<String> = (0..200).map(|topic| format!("/topic/{topic}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let _streams: Vec<_> = texts.chunks(50).map(|texts| dead.open(texts)).collect();
    let crowd: Vec<_> = (0..=MAX_LISTED).map(|_| dead.open(&["/crowd"])).collect();
    let connected = transitions(&mut dead, texts.len()).await;
    heirs[0].until_count("/crowd", crowd.len() as u64).await;
    while dead.counts.is_empty() {
        let count = line(&dead.next().await);
        dead.counts.push(count);
    }
    assert_eq!(dead.counts, ["count /crowd dead 101"]);
    dead.kill();
    expire(&server, "dead").await;
    // One of the two gets everything.
    let heir = loop {
        let heir = heirs.iter().position(|heir| heir.stats.events.get() > 0);
        match heir {
            Some(heir) => break heir,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let [first, second] = &mut heirs;
    let (heir, other) = if heir == 0 { (first, second) } else { (second, first) };
    let disconnected = transitions(heir, texts.len()).await;
    assert_eq!(disconnected.keys().collect::<BTreeSet<_>>(), connected.keys().collect());
    assert!(
        connected.values().all(|events| *events == [true]) && disconnected.values().all(|events| *events == [false])
    );
    for node in [&*heir, &*other] {
        node.until_count("/crowd", 0).await;
    }
    let late = [heir.settled().await, other.settled().await].concat();
    let counts: Vec<String> = heir.counts.iter().cloned().chain(late.iter().map(line)).collect();
    assert_eq!(counts, ["count /crowd dead 0"]);
    heir.until_inherited().await;
    let keys: Vec<String> = client(&server).query(redis::cmd("KEYS").arg("*dead*")).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn disconnect_that_a_dead_node_has_not_published_is_published_by_its_heir() {
    let server = Server::start("presence-unpublished");
    let (mut dead, mut heir) = (Node::start("dead", Some(&server)), Node::start("b", Some(&server)));
    let (first, second) = (dead.open(&["/x"]), dead.open(&["/y"]));
    dead.events(2).await;
    drop(second);
    // Received, and published.
    assert_eq!(dead.events(1).await, ["unsubscribed /y dead"]);
    drop(first);
    let lost = dead.next().await;
    assert_eq!(line(&lost), "unsubscribed /x dead");
    dead.kill();
    expire(&server, "dead").await;
    let event = heir.next().await;
    assert_eq!((line(&event), event.idempotency_key()), (line(&lost), lost.idempotency_key()));
    // The other one is not repeated.
    assert!(heir.settled().await.is_empty());
    heir.until_inherited().await;
}

#[tokio::test]
async fn node_that_was_only_cut_off_announces_itself_again() {
    let server = Server::start("presence-cut-off");
    let (mut a, mut b) = (Node::start("a", Some(&server)), Node::start("b", Some(&server)));
    let _first = a.open(&["/x"]);
    assert_eq!(a.events(1).await, ["subscribed /x a"]);
    expire(&server, "a").await;
    assert_eq!(b.events(1).await, ["unsubscribed /x a"]);
    // It notices when it has something to write.
    let _second = a.open(&["/y"]);
    assert_eq!(a.events(2).await, ["subscribed /x a", "subscribed /y a"]);
    b.until_count("/x", 1).await;
}

#[tokio::test]
async fn everything_is_shared_again_after_redis_has_lost_it() {
    let mut server = Server::start("presence-lost");
    let mut node = Node::start("a", Some(&server));
    let _first = node.open(&["/x"]);
    assert_eq!(node.events(1).await, ["subscribed /x a"]);
    server.kill();
    let second = node.open(&["/x"]);
    let deadline = Instant::now() + PATIENCE;
    while node.stats.failures.get() == 0 {
        assert!(Instant::now() < deadline, "no failure");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.presence.of_topic("/x", None, 1).await.unwrap_err(), Unavailable);
    assert_eq!(node.presence.topics(None, 1).await.unwrap_err(), Unavailable);
    assert_eq!(node.presence.all(None, 1).await.unwrap_err(), Unavailable);
    // Nobody has heard of this one.
    drop(node.open(&["/x"]));
    server.run(&[]);
    node.until_count("/x", 2).await;
    // Only the second one is new.
    drop(second);
    assert_eq!(node.events(2).await, ["subscribed /x a", "unsubscribed /x a"]);
    node.until_count("/x", 1).await;
    // Another node may have removed what belongs to this one.
    client(&server).query::<()>(&redis::cmd("FLUSHALL")).await.unwrap();
    let _third = node.open(&["/y"]);
    node.until_count("/x", 1).await;
    node.until_count("/y", 1).await;
}

#[tokio::test]
async fn popular_topics_are_counted() {
    let server = Server::start("presence-popular");
    let mut node = Node::start("a", Some(&server));
    let some: Vec<_> = (0..3).map(|_| node.open(&["/x"])).collect();
    let mut seen = transitions(&mut node, 3).await;
    let crowd: Vec<_> = (0..500).map(|_| node.open(&["/x"])).collect();
    node.until_count("/x", 503).await;
    let page = node.presence.of_topic("/x", None, 1000).await.unwrap();
    assert_eq!((page.count, page.listed, page.page.subscriptions.len()), (503, 100, 100));
    drop(crowd);
    drop(some);
    node.until_count("/x", 0).await;
    // Those that were announced end; the others are counts, the last of which is none.
    let mut counts = Vec::new();
    while seen.values().any(|events| events.len() < 2) || counts.last() != Some(&0) {
        match node.next().await {
            PresenceEvent::Subscription { subscription, active, .. } => {
                seen.get_mut(&("/x".to_owned(), subscription.subscriber.id)).expect("announced").push(active);
            }
            PresenceEvent::Count { count, .. } => counts.push(count),
        }
    }
    assert!(seen.values().all(|events| *events == [true, false]), "{seen:?}");
    assert_eq!(node.stats.silenced.get(), 97);
    node.settled().await;
    node.until_empty().await;
}

#[tokio::test]
async fn slow_receiver_holds_events_back_and_loses_none() {
    const STREAMS: usize = 3 * EVENTS;
    let mut node = Node::start("a", None);
    let texts: Vec<String> = (0..STREAMS).map(|topic| format!("/{topic}")).collect();
    let streams: Vec<_> = texts.iter().map(|text| node.open(&[text])).collect();
    while node.stats.events.get() < EVENTS as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(transitions(&mut node, STREAMS).await.len(), STREAMS);
    drop(streams);
    let ended = transitions(&mut node, STREAMS).await;
    assert!(ended.len() == STREAMS && ended.values().all(|events| *events == [false]));
}

#[tokio::test]
async fn close_ends_the_subscriptions_that_are_left() {
    let mut node = Node::start("a", None);
    let stream = node.open(&["/x"]);
    assert_eq!(node.events(1).await, ["subscribed /x a"]);
    assert_eq!(node.close().await, ["unsubscribed /x a"]);
    drop(stream);
    assert_eq!(node.stats.subscriptions.get(), 0);
}

/// What a stream costs: run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_stream() {
    const STREAMS: usize = 50_000;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let node = Node::start("a", None);
    for (what, topics) in [("one topic", 1), ("a topic each", STREAMS)] {
        let texts: Vec<String> = (0..topics).map(|topic| format!("/topic/{topic}")).collect();
        let infos: Vec<[&str; 1]> = (0..STREAMS).map(|stream| [&*texts[stream % topics]]).collect();
        let began = Instant::now();
        let streams: Vec<_> = infos.iter().map(|texts| node.open(texts)).collect();
        let opened = began.elapsed();
        let began = Instant::now();
        drop(streams);
        let ns = |time: Duration| time.as_nanos() / STREAMS as u128;
        println!("{what}: {} ns to open, {} ns to close", ns(opened), ns(began.elapsed()));
    }
}
