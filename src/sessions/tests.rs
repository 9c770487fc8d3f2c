//! Sessions of several nodes in a `redis-server` that the tests start, and of one in memory.

use std::time::Instant as StdInstant;

use tallycast_fanout::{
    BodyReceiver, CloseReason, ConnectionInfo, Fanout, Framing, Message, Namespace, Sink, Subscriber, Topic, body,
};
use tokio_stream::StreamExt;

use super::*;
use crate::redis_client::tests::{PATIENCE, Server};

/// `namespace payload` and a line end; the reason at the end.
#[derive(Debug)]
struct Lines;

impl Framing for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("{} {}\n", message.namespace.as_str(), message.payload()).as_bytes());
    }

    fn skipped(&self, _: u64, _: &mut Vec<u8>) {}

    fn finish(&self, batch: Vec<u8>) -> bytes::Bytes {
        batch.into()
    }

    fn keep_alive(&self, _: Option<&str>) -> bytes::Bytes {
        bytes::Bytes::new()
    }

    fn closing(&self, reason: &CloseReason) -> bytes::Bytes {
        format!("end: {reason}\n").into()
    }
}

/// A node with an engine of its own.
struct Node {
    fanout: Fanout,
    sessions: Sessions,
}

fn client(server: &Server) -> RedisClient {
    RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), PATIENCE)
}

fn timing() -> Timing {
    Timing { lease: Duration::from_secs(3), grace: Duration::from_millis(100), look: Duration::from_millis(100) }
}

impl Node {
    fn start(server: Option<&Server>, name: &str) -> Self {
        let fanout = Fanout::builder().shards(1).build();
        let mut config = Config::new(4);
        config.ttl = Duration::from_millis(1500);
        config.events = EventTarget::Stream("events".to_owned());
        let redis = server.map(client);
        let sessions = Sessions::start_with(name, redis, fanout.handle(), config, Arc::default(), timing());
        Self { fanout, sessions }
    }

    async fn connect(&self, name: &str, spec: &SessionSpec) -> Result<Stream, ConnectError> {
        let name: SessionName = name.parse().unwrap();
        let opening = Opening { name: &name, spec, create: true, arrived: None, options: StreamOptions::default() };
        let OpenSession { topics, grant, watch, is_new, position, .. } = self.sessions.connect(&opening).await?;
        let (sender, receiver) = body();
        let info = ConnectionInfo {
            request_path: "/".into(),
            topics,
            created_at: std::time::SystemTime::now(),
            client_ip: [127, 0, 0, 1].into(),
            user_agent: "".into(),
        };
        let mut subscriber = Subscriber::new(info, Arc::new(Lines), Sink::Body(sender));
        (subscriber.grant, subscriber.watch) = (Some(grant), Some(watch));
        self.fanout.handle().subscribe(subscriber).await.unwrap();
        Ok(Stream { receiver, is_new, position })
    }

    /// Stops as a process that is killed.
    fn kill(self) {
        self.sessions.0.stop.cancel();
        let tasks = std::mem::take(&mut *self.sessions.0.tasks.lock().unwrap());
        tasks.iter().for_each(JoinHandle::abort);
        std::mem::forget(self.fanout);
    }

    async fn publish(&self, namespace: &str, text: &str) {
        self.fanout.publisher().send(Message::text(ns(namespace), text)).await.unwrap();
    }
}

struct Stream {
    receiver: BodyReceiver,
    is_new: bool,
    position: Option<Box<str>>,
}

impl Stream {
    /// The next bytes.
    async fn next(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.receiver.recv()).await.expect("nothing came");
        next.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()).unwrap_or_default()
    }
}

fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

fn topic(text: &str) -> Topic {
    text.parse().unwrap()
}

fn spec(topics: &str) -> SessionSpec {
    SessionSpec::new(spec::topics(&topics.replace(' ', "\n")), Duration::from_millis(1500))
}

fn name(text: &str) -> SessionName {
    text.parse().unwrap()
}

fn set(topics: &str) -> Change {
    let topics = topics.split(' ').filter(|text| !text.is_empty()).map(topic).collect();
    Change { topics: TopicsChange::Set(topics), ..Change::default() }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = StdInstant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The events so far, as `event session` and, where there is one, the node.
async fn events(client: &RedisClient) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> =
        client.query(::redis::cmd("XRANGE").arg("events").arg("-").arg("+")).await.unwrap();
    let event = |(_, fields): (String, Vec<String>)| {
        let event: serde_json::Value = serde_json::from_str(&fields[1]).unwrap();
        let text = |field: &str| event[field].as_str().map(str::to_owned);
        [text("event"), text("session"), text("node")].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    entries.into_iter().map(event).collect()
}

/// What holds for every store.
async fn follows_its_backend(node: &Node, other: &Node) {
    let mut stream = node.connect("ann", &spec("/a")).await.unwrap();
    assert!(stream.is_new && stream.position.is_none());
    let changed = other.sessions.change(&name("ann"), &set("/b /c")).await.unwrap();
    assert_eq!((changed.connections, changed.nodes.len(), changed.waiting.len()), (1, 1, 0));
    assert_eq!(changed.topics, ["/b", "/c"]);
    node.publish("/a", "1").await;
    node.publish("/b", "2").await;
    assert_eq!(stream.next().await, "/b 2\n");
    let topics = TopicsChange::Change { add: vec![topic("/d")], remove: vec![topic("/b")] };
    let changed = other.sessions.change(&name("ann"), &Change { topics, ..Change::default() }).await.unwrap();
    assert_eq!(changed.topics, ["/c", "/d"]);
    let message = SessionMessage { data: "for you".into(), ..SessionMessage::default() };
    assert_eq!(other.sessions.send(&name("ann"), &message).await.unwrap().connections, 1);
    assert_eq!(stream.next().await, "/session for you\n");
    let listed = other.sessions.get(&name("ann")).await.unwrap().unwrap();
    assert_eq!((listed.topics.to_string(), listed.connections.len()), ("/c,/d".to_owned(), 1));
    // Bounds.
    let error = other.sessions.change(&name("ann"), &set("/1 /2 /3 /4 /5")).await.unwrap_err();
    assert_eq!(error.to_string(), "a session has at most 4 topics of 16384 bytes together");
    for unknown in [
        other.sessions.change(&name("bob"), &set("/a")).await,
        other.sessions.send(&name("bob"), &message).await,
        other.sessions.end(&name("bob"), "over").await,
    ] {
        assert_eq!(unknown.unwrap_err().to_string(), "no session \"bob\"");
    }
    assert_eq!(other.sessions.end(&name("ann"), "over").await.unwrap().connections, 1);
    assert_eq!(stream.next().await, "end: over\n");
    assert_eq!(node.sessions.get(&name("ann")).await.unwrap(), None);
}

#[tokio::test]
async fn session_follows_its_backend_on_another_node() {
    let server = Server::start("sessions-follow");
    let (node, other) = (Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    follows_its_backend(&node, &other).await;
    let client = client(&server);
    let expected = ["created ann", "connected ann one", "disconnected ann one", "ended ann"];
    assert_eq!(events(&client).await, expected);
    node.sessions.close().await;
    other.sessions.close().await;
    let keys: Vec<String> = client.query(::redis::cmd("KEYS").arg("tallycast:*")).await.unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn session_in_memory_follows_its_backend() {
    let node = Node::start(None, "demo");
    follows_its_backend(&node, &node).await;
}

async fn keeps_to_its_policy(node: &Node, other: &Node) {
    let with = |policy| SessionSpec { policy, ..spec("/a") };
    let first = node.connect("first", &with(Policy::First)).await.unwrap();
    let error = other.connect("first", &with(Policy::First)).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the session \"first\" has a connection already");
    drop(first);
    eventually("it is free again", async || other.connect("first", &with(Policy::First)).await.is_ok()).await;
    let mut old = node.connect("newest", &with(Policy::Newest)).await.unwrap();
    let new = other.connect("newest", &with(Policy::Newest)).await.unwrap();
    assert_eq!(old.next().await, "end: replaced by a newer connection\n");
    assert_eq!(node.sessions.get(&name("newest")).await.unwrap().unwrap().connections.len(), 1);
    drop(new);
    let group = |policy| SessionSpec { group: Some(("room".to_owned(), 2)), ..with(policy) };
    let one = node.connect("room:1", &group(Policy::Many)).await.unwrap();
    let _two = other.connect("room:2", &group(Policy::Many)).await.unwrap();
    let _again = other.connect("room:2", &group(Policy::Many)).await.unwrap();
    let error = other.connect("room:3", &group(Policy::Many)).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "there are 2 connections, which is the limit");
    drop(one);
    eventually("there is room", async || other.connect("room:3", &group(Policy::Many)).await.is_ok()).await;
}

#[tokio::test]
async fn connections_keep_to_the_policy_of_their_session() {
    let server = Server::start("sessions-policy");
    let (node, other) = (Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    keeps_to_its_policy(&node, &other).await;
    let node = Node::start(None, "demo");
    keeps_to_its_policy(&node, &node).await;
}

/// What a question says is what a connection would be told, and changes nothing.
async fn says_what_would_happen(node: &Node, other: &Node) {
    let group = |max: usize| Some(("asked", max));
    let first = SessionSpec { policy: Policy::First, group: Some(("asked".to_owned(), 1)), ..spec("/a") };
    let check = async |asked: &str, max| {
        let mut answers = Vec::new();
        for node in [node, other] {
            let answer = node.sessions.check(&name(asked), group(max)).await;
            answers.push(answer.map_err(|error| error.to_string()));
        }
        assert_eq!(answers[0], answers[1]);
        answers.swap_remove(0)
    };
    assert_eq!(check("asked-1", 1).await, Ok(()));
    let stream = node.connect("asked-1", &first).await.unwrap();
    assert_eq!(check("asked-1", 2).await, Err("the session \"asked-1\" has a connection already".to_owned()));
    assert_eq!(check("asked-2", 1).await, Err("there are 1 connections, which is the limit".to_owned()));
    assert_eq!(check("asked-2", 2).await, Ok(()));
    drop(stream);
    eventually("the place is free", async || check("asked-2", 1).await.is_ok()).await;
}

#[tokio::test]
async fn question_is_answered_as_a_connection_would_be() {
    let server = Server::start("sessions-check");
    let [node, other] = ["a", "b"].map(|name| Node::start(Some(&server), name));
    says_what_would_happen(&node, &other).await;
    let alone = Node::start(None, "alone");
    says_what_would_happen(&alone, &alone).await;
}

async fn outlives_its_connections(node: &Node) {
    drop(node.connect("ann", &spec("/a")).await.unwrap());
    let has_none = async || node.sessions.get(&name("ann")).await.unwrap().unwrap().connections.is_empty();
    eventually("it has no connection", has_none).await;
    node.sessions.change(&name("ann"), &set("/b")).await.unwrap();
    let mut stream = node.connect("ann", &spec("/a")).await.unwrap();
    assert!(!stream.is_new);
    node.publish("/b", "1").await;
    assert_eq!(stream.next().await, "/b 1\n");
    drop(stream);
    let is_gone = async || node.sessions.get(&name("ann")).await.unwrap().is_none();
    eventually("its time is over", is_gone).await;
    // A backend may create one before its client comes.
    let created = node.sessions.change(&name("bob"), &Change { create: true, ..set("/b") }).await.unwrap();
    assert!(created.is_new && created.connections == 0);
    let stream = node.connect("bob", &spec("/a")).await.unwrap();
    assert!(!stream.is_new);
    let page = node.sessions.list(None, 10).await.unwrap();
    assert_eq!((page.sessions.len(), page.sessions[0].topics.to_string(), page.next), (1, "/b".to_owned(), None));
}

#[tokio::test]
async fn session_outlives_its_connections_for_a_time() {
    let server = Server::start("sessions-ttl");
    outlives_its_connections(&Node::start(Some(&server), "one")).await;
    outlives_its_connections(&Node::start(None, "demo")).await;
    let events = events(&client(&server)).await;
    let of_ann: Vec<&str> = events.iter().map(String::as_str).filter(|event| event.contains("ann")).collect();
    let expected = [
        "created ann",
        "connected ann one",
        "disconnected ann one",
        "connected ann one",
        "disconnected ann one",
        "ended ann",
    ];
    assert_eq!(of_ann, expected);
}

#[tokio::test]
async fn lists_have_pages() {
    let server = Server::start("sessions-pages");
    for node in [Node::start(Some(&server), "one"), Node::start(None, "demo")] {
        for session in ["c", "a", "b", "d", "e"] {
            let create = Change { create: true, ttl: Some(Duration::from_secs(60)), ..set("/x") };
            node.sessions.change(&name(session), &create).await.unwrap();
        }
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let page = node.sessions.list(after.as_deref(), 2).await.unwrap();
            pages.push(page.sessions.iter().map(|session| session.name.clone()).collect::<String>());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, ["ab", "cd", "e"]);
    }
}

#[tokio::test]
async fn heir_ends_the_connections_of_a_dead_node_once() {
    let server = Server::start("sessions-heir");
    let (dead, one, two) =
        (Node::start(Some(&server), "dead"), Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    let long = |topics| SessionSpec { ttl: Duration::from_secs(60), ..spec(topics) };
    let _moves = dead.connect("moves", &long("/a")).await.unwrap();
    let _shared =
        (dead.connect("shared", &long("/a")).await.unwrap(), one.connect("shared", &long("/a")).await.unwrap());
    let _alone = dead.connect("alone", &long("/a")).await.unwrap();
    dead.kill();
    // Its client comes back elsewhere before the lease is over.
    let mut moved = two.connect("moves", &long("/a")).await.unwrap();
    assert!(!moved.is_new);
    let client = client(&server);
    let disconnected = async || events(&client).await.contains(&"disconnected alone dead".to_owned());
    eventually("the heir has ended the connection", disconnected).await;
    sleep(Duration::from_millis(300)).await;
    let events = events(&client).await;
    let count = |event: &str| events.iter().filter(|found| *found == event).count();
    assert_eq!(count("disconnected alone dead"), 1);
    assert!(!events.iter().any(|event| event.starts_with("disconnected shared")));
    assert!(!events.iter().any(|event| event.starts_with("disconnected moves")));
    assert_eq!(one.sessions.change(&name("moves"), &set("/b")).await.unwrap().nodes, ["two"]);
    two.publish("/b", "1").await;
    assert_eq!(moved.next().await, "/b 1\n");
    let inherited = one.sessions.stats().inherited.get() + two.sessions.stats().inherited.get();
    assert_eq!(inherited, 1);
}

#[tokio::test]
async fn sessions_survive_the_loss_of_redis() {
    let mut server = Server::start("sessions-lost");
    let (node, other) = (Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    let mut stream = node.connect("ann", &SessionSpec { policy: Policy::Newest, ..spec("/a") }).await.unwrap();
    let gone = node.connect("bob", &spec("/a")).await.unwrap();
    server.kill();
    drop(gone);
    assert!(other.sessions.change(&name("ann"), &set("/b")).await.is_err());
    node.publish("/a", "still here").await;
    assert_eq!(stream.next().await, "/a still here\n");
    server.run(&[]);
    // Nothing was kept: the connections are registered again, those that are still there.
    let changed =
        async || other.sessions.change(&name("ann"), &set("/b")).await.is_ok_and(|changed| changed.connections == 1);
    eventually("the session is there again", changed).await;
    node.publish("/b", "1").await;
    assert_eq!(stream.next().await, "/b 1\n");
    assert_eq!(node.sessions.get(&name("bob")).await.unwrap(), None);
    assert_eq!(node.sessions.get(&name("ann")).await.unwrap().unwrap().policy, Policy::Newest);
}

#[tokio::test]
async fn sessions_survive_a_restart_of_redis_that_no_request_notices() {
    let server = Server::start("sessions-restarted");
    let node = Node::start(Some(&server), "one");
    let mut stream = node.connect("ann", &spec("/a")).await.unwrap();
    let client = client(&server);
    let mut restart = ::redis::pipe();
    restart.cmd("FLUSHALL").ignore().cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
    let nodes = Nodes::new(client, LEASES, LEASE);
    nodes.send(&restart).await.unwrap();
    let changed =
        async || node.sessions.change(&name("ann"), &set("/b")).await.is_ok_and(|changed| changed.connections == 1);
    eventually("the session is there again", changed).await;
    node.publish("/b", "1").await;
    assert_eq!(stream.next().await, "/b 1\n");
}

#[tokio::test]
async fn node_that_was_taken_for_dead_registers_its_connections_again() {
    let server = Server::start("sessions-cut-off");
    let (node, other) = (Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    let _stream = node.connect("ann", &spec("/a")).await.unwrap();
    let client = client(&server);
    let life = node.sessions.0.life.borrow().to_string();
    client.query::<()>(::redis::cmd("ZADD").arg(LEASES).arg(1).arg(&life)).await.unwrap();
    let is_back = async || {
        let listed = other.sessions.get(&name("ann")).await.unwrap();
        node.sessions.0.life.borrow().to_string() != life && listed.is_some_and(|listed| listed.connections.len() == 1)
    };
    eventually("it has another life", is_back).await;
    let changed = async || other.sessions.change(&name("ann"), &set("/b")).await.unwrap().connections == 1;
    eventually("it is reached", changed).await;
    let expected = ["created ann", "connected ann one", "disconnected ann one", "connected ann one"];
    assert_eq!(events(&client).await, expected);
}

/// The only field of a connection that a session's hash has.
async fn connection_field(client: &RedisClient, session: &str) -> String {
    let key = format!("tallycast:session:{session}");
    let fields: Vec<String> = client.query(::redis::cmd("HKEYS").arg(key)).await.unwrap();
    fields.into_iter().find(|field| field.starts_with("c:")).unwrap()
}

#[tokio::test]
async fn connection_that_was_removed_while_its_node_did_not_listen_is_closed() {
    let server = Server::start("sessions-removed");
    let node = Node::start(Some(&server), "one");
    let newest = SessionSpec { policy: Policy::Newest, ..spec("/a") };
    let mut removed = node.connect("ann", &spec("/a")).await.unwrap();
    let mut replaced = node.connect("bob", &newest).await.unwrap();
    let mut kept = node.connect("eve", &newest).await.unwrap();
    let client = client(&server);
    let mut pipeline = ::redis::pipe();
    for session in ["ann", "bob"] {
        let field = connection_field(&client, session).await;
        pipeline.cmd("HDEL").arg(format!("tallycast:session:{session}")).arg(field).ignore();
    }
    pipeline.cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
    Nodes::new(client, LEASES, LEASE).send(&pipeline).await.unwrap();
    assert_eq!(removed.next().await, "end: the session has ended\n");
    assert_eq!(replaced.next().await, "end: replaced by a newer connection\n");
    node.publish("/a", "1").await;
    assert_eq!(kept.next().await, "/a 1\n");
}

#[tokio::test]
async fn node_that_cannot_write_too_many_ends_begins_another_life() {
    let server = Server::start("sessions-gone");
    let node = Node::start(Some(&server), "one");
    let first = SessionSpec { policy: Policy::First, ..spec("/a") };
    let mut stream = node.connect("ann", &first).await.unwrap();
    let gone = node.connect("bob", &first).await.unwrap();
    let Shared { local, life, .. } = &*node.sessions.0;
    let former = life.borrow().clone();
    server.freeze();
    drop(gone);
    let end = local::Gone { life: former.clone(), number: u64::MAX, name: "x".into(), position: None };
    local.put_back_gone(vec![end; task::MAX_GONE + 1]);
    let before = node.sessions.stats().failures.get();
    // Not the number of those that wait: the task has them while it writes.
    eventually("they cannot be written", async || node.sessions.stats().failures.get() > before).await;
    server.thaw();
    eventually("it has another life", async || *life.borrow() != former).await;
    let is_ended = async || node.sessions.get(&name("bob")).await.is_ok_and(|listed| listed.is_none());
    eventually("its heir has ended the connection", is_ended).await;
    assert_eq!(node.sessions.change(&name("ann"), &set("/b")).await.unwrap().connections, 1);
    node.publish("/b", "1").await;
    assert_eq!(stream.next().await, "/b 1\n");
    let events = events(&client(&server)).await;
    let of_ann: Vec<&String> = events.iter().filter(|event| event.contains("ann")).collect();
    assert_eq!(of_ann, ["created ann", "connected ann one"]);
}

#[tokio::test]
async fn registration_that_is_repeated_is_announced_once() {
    let server = Server::start("sessions-again");
    let node = Node::start(Some(&server), "one");
    let _stream = node.connect("bob", &spec("/a")).await.unwrap();
    let client = client(&server);
    let mut arrivals = client.pubsub().await.unwrap();
    arrivals.subscribe("arrivals").await.unwrap();
    let mut arrivals = arrivals.into_on_message();
    let Store::Redis(store) = &node.sessions.0.store else { panic!("it has a server") };
    let (life, name, spec) = (node.sessions.0.life.borrow().clone(), name("ann"), spec("/a"));
    let arrived = |payload: &str| Some(Publication { channel: "arrivals".into(), payload: payload.into() });
    for (number, payload) in [(1000, "first"), (1000, "again"), (1001, "second")] {
        let options = StreamOptions::default();
        let opening = Opening { name: &name, spec: &spec, create: true, arrived: arrived(payload), options };
        assert!(store.connect(&life, number, &opening, None).await.unwrap().was_heard);
    }
    for expected in ["first", "second"] {
        let message = tokio::time::timeout(PATIENCE, arrivals.next()).await.expect("no arrival").unwrap();
        assert_eq!(message.get_payload_bytes(), expected.as_bytes());
    }
    let events = events(&client).await;
    assert_eq!(events.iter().filter(|event| *event == "connected ann one").count(), 1);
}

#[tokio::test]
async fn events_that_redis_refuses_stop_nothing() {
    let server = Server::start("sessions-refused");
    let client = client(&server);
    client.query::<()>(::redis::cmd("SET").arg("events").arg("no stream")).await.unwrap();
    let node = Node::start(Some(&server), "one");
    let created = node.sessions.change(&name("bob"), &Change { create: true, ..set("/b") }).await.unwrap();
    assert!(created.is_new);
    sleep(Duration::from_millis(300)).await;
    drop(node.connect("ann", &spec("/a")).await.unwrap());
    for session in ["ann", "bob"] {
        let is_gone = async || node.sessions.get(&name(session)).await.unwrap().is_none();
        eventually("its time is over", is_gone).await;
    }
    let count: u64 = client.query(::redis::cmd("HGET").arg("tallycast:sessions:failures").arg("count")).await.unwrap();
    assert_eq!(count, 6);
    eventually("it is counted", async || node.sessions.stats().failures.get() > 0).await;
    assert_eq!(node.sessions.list(None, 10).await.unwrap().sessions, []);
}

#[tokio::test]
async fn commands_that_were_taken_are_followed_in_a_shutdown() {
    const COUNT: u64 = 20_000;
    let server = Server::start("sessions-queue-stop");
    let node = Node::start(Some(&server), "one");
    let (client, stop) = (client(&server), CancellationToken::new());
    let create = Change { create: true, ttl: Some(PATIENCE), ..set("/a") };
    let before = node.sessions.change(&name("ann"), &create).await.unwrap().version;
    let commands = vec![r#"{"session":"ann","add":["/b"]}"#; COUNT as usize];
    client.query::<()>(::redis::cmd("RPUSH").arg(queue::COMMANDS).arg(&commands[..])).await.unwrap();
    let queue = queue::run(node.sessions.clone(), self::client(&server), "node".into(), stop.clone());
    let queue = tokio::spawn(queue);
    eventually("some are taken", async || node.sessions.stats().commands.get() > 10).await;
    stop.cancel();
    queue.await.unwrap();
    let left: u64 = client.query(::redis::cmd("LLEN").arg(queue::COMMANDS)).await.unwrap();
    assert!(left > 0);
    let version = node.sessions.get(&name("ann")).await.unwrap().unwrap().version;
    assert_eq!(version - before + left, COUNT);
}

#[tokio::test]
async fn command_is_followed_although_no_others_can_be_taken_with_it() {
    let server = Server::start("sessions-queue-single");
    let node = Node::start(Some(&server), "one");
    let (client, stop) = (client(&server), CancellationToken::new());
    let create = Change { create: true, ttl: Some(PATIENCE), ..set("/a") };
    let before = node.sessions.change(&name("ann"), &create).await.unwrap().version;
    client.query::<()>(::redis::cmd("ACL").arg("SETUSER").arg("default").arg("-lpop")).await.unwrap();
    let commands = [r#"{"session":"ann","add":["/b"]}"#; 3];
    client.query::<()>(::redis::cmd("RPUSH").arg(queue::COMMANDS).arg(&commands[..])).await.unwrap();
    tokio::spawn(queue::run(node.sessions.clone(), self::client(&server), "node".into(), stop.clone()));
    let version = async || node.sessions.get(&name("ann")).await.unwrap().unwrap().version;
    eventually("all are followed", async || version().await == before + 3).await;
    stop.cancel();
}

#[tokio::test]
async fn commands_come_through_the_broker_in_their_order() {
    let server = Server::start("sessions-queue");
    let (node, other) = (Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    let (client, stop) = (client(&server), CancellationToken::new());
    for node in [&node, &other] {
        let sessions = node.sessions.clone();
        tokio::spawn(queue::run(sessions, self::client(&server), "node".into(), stop.clone()));
    }
    let mut outcomes = client.pubsub().await.unwrap();
    outcomes.subscribe(queue::ACKNOWLEDGEMENTS).await.unwrap();
    outcomes.subscribe("mine").await.unwrap();
    let mut outcomes = outcomes.into_on_message();
    let mut stream = node.connect("ann", &spec("/a")).await.unwrap();
    let commands = [
        r#"{"session":"ann","id":1,"topics":["/b"]}"#,
        r#"{"session":"ann","id":2,"add":["/c"],"remove":["/b"],"reply":"mine"}"#,
        r#"{"session":"ann","id":3,"send":{"data":"hello"}}"#,
        r#"{"session":"bob","id":"x","end":"over"}"#,
        r#"{"session":"ann","id":5,"end":"over","topics":[]}"#,
        "no JSON",
        r#"{"session":"ann","id":7,"end":"over"}"#,
    ];
    client.query::<()>(::redis::cmd("RPUSH").arg(queue::COMMANDS).arg(&commands[..])).await.unwrap();
    let mut received = Vec::new();
    while received.len() < commands.len() {
        let message = tokio::time::timeout(PATIENCE, outcomes.next()).await.expect("no outcome").unwrap();
        let outcome: serde_json::Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        received.push((message.get_channel_name().to_owned(), outcome));
    }
    let of = |id: serde_json::Value| {
        received
            .iter()
            .find(|(_, outcome)| outcome["id"] == id)
            .cloned()
            .unwrap_or_else(|| panic!("{id}: {received:?}"))
    };
    assert_eq!(of(1.into()).1, json!({"id": 1, "session": "ann", "ok": true, "connections": 1, "nodes": ["one"]}));
    assert_eq!(of(2.into()).0, "mine");
    assert_eq!(of("x".into()).1, json!({"id": "x", "session": "bob", "ok": false, "error": "no session \"bob\""}));
    assert!(of(5.into()).1["error"].as_str().unwrap().starts_with("expected one command"));
    assert!(of(serde_json::Value::Null).1["error"].as_str().unwrap().starts_with("expected"));
    assert_eq!(stream.next().await, "/session hello\n");
    assert_eq!(stream.next().await, "end: over\n");
    let counted = [&node, &other].map(|node| node.sessions.stats().commands.get());
    assert_eq!(counted.iter().sum::<u64>(), commands.len() as u64);
    stop.cancel();
}

#[tokio::test]
async fn requests_of_which_nobody_takes_note_do_not_wait() {
    let server = Server::start("sessions-missed");
    let (node, other) = (Node::start(Some(&server), "one"), Node::start(Some(&server), "two"));
    let _stream = node.connect("ann", &spec("/a")).await.unwrap();
    node.kill();
    let missed = async || {
        let changed = other.sessions.change(&name("ann"), &set("/b")).await.unwrap();
        (changed.connections, &*changed.nodes, &*changed.waiting) == (0, &[], &["one".to_owned()])
    };
    eventually("the dead node is named", missed).await;
}
