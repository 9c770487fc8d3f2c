//! Two nodes that share a Redis stream, and readers that lose their streams at random moments and resume on a random node, by every
//! transport, while Redis and a node are killed: each reader's sequence is the stream's.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use redis::RedisError;
use serde_json::Value;
use sse_stream::SseStream;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::ClientBuilder;

use crate::support::{LIMIT, RedisServer, Tallycast, command};

const READERS: usize = 200;
const ENTRIES: usize = 4000;
const FLAGS: [&str; 4] = ["--route", "stream:orders=/orders/*,history=1h", "--keep-alive", "1s"];
const LEAVES: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&[&str]; 4] = [&["/orders"], &["/orders/a", "/orders/d"], &["/orders/*"], &["/orders/b"]];

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Ids = (u64, u64);

/// What a reader gets.
#[derive(Debug)]
pub(crate) enum Item {
    /// It has come to this id.
    Position(String),
    Message(String),
    /// It cannot continue.
    Reset(String),
}

pub(crate) type Items = Pin<Box<dyn Stream<Item = Result<Item, BoxError>> + Send>>;

/// One stream of a reader.
#[derive(Debug)]
struct Segment {
    topics: &'static [&'static str],
    /// The id after which it began.
    from: Option<Ids>,
    got: Vec<Ids>,
}

pub(crate) fn ids(text: &str) -> Ids {
    let (major, minor) = text.split_once('-').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % end as u64).unwrap()
    }
}

/// Opens an event stream over HTTP/1.1 or HTTP/2, compressed or not.
pub(crate) async fn event_stream(
    address: SocketAddr,
    query: &str,
    id: Option<&str>,
    how: usize,
) -> Result<Items, BoxError> {
    let client = reqwest::Client::builder().connect_timeout(LIMIT);
    let client = if how == 1 { client.http2_prior_knowledge() } else { client };
    let mut request = client.build()?.get(format!("http://{address}/subscribe?{query}"));
    if let Some(id) = id {
        request = request.header("last-event-id", id);
    }
    if how == 2 {
        request = request.header("accept-encoding", "gzip");
    }
    let response = request.send().await?.error_for_status()?;
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    let bytes = response.bytes_stream().map(move |bytes| -> std::io::Result<Bytes> {
        let bytes = bytes.map_err(std::io::Error::other)?;
        if how != 2 {
            return Ok(bytes);
        }
        decoder.write_all(&bytes)?;
        decoder.flush()?;
        Ok(std::mem::take(decoder.get_mut()).into())
    });
    let events = SseStream::from_bytes_stream(bytes).filter_map(async |event| match event {
        Err(error) => Some(Err(error.to_string().into())),
        Ok(event) => {
            let id = event.id?;
            Some(Ok(match event.event.as_deref() {
                Some("reset") => Item::Reset(event.data.unwrap_or_default()),
                None if event.data.is_some() => Item::Message(id),
                _ => Item::Position(id),
            }))
        }
    });
    Ok(Box::pin(events))
}

pub(crate) async fn websocket(address: SocketAddr, query: &str, id: Option<&str>) -> Result<Items, BoxError> {
    let id = id.map(|id| format!("&lastEventID={id}")).unwrap_or_default();
    let builder = ClientBuilder::new().uri(&format!("ws://{address}/ws?{query}{id}"))?;
    let (socket, _) = builder.connect_on(TcpStream::connect(address).await?).await?;
    Ok(Box::pin(socket.filter_map(async |message| {
        let message = match message {
            Ok(message) => message,
            Err(error) => return Some(Err(error.into())),
        };
        let json: Value = serde_json::from_str(message.as_text()?).unwrap();
        let id = || json["id"].as_str().unwrap().to_owned();
        Some(Ok(if json["reset"].is_object() {
            Item::Reset(json.to_string())
        } else if json["namespace"].is_string() {
            Item::Message(id())
        } else {
            Item::Position(id())
        }))
    })))
}

/// A reader that comes and goes until it has read up to the last entry.
async fn read(number: usize, nodes: [SocketAddr; 2], last: Arc<OnceLock<Ids>>) -> Vec<Segment> {
    let mut random = Random(number as u64);
    let mut segments = Vec::new();
    let mut position: Option<String> = None;
    loop {
        let topics =
            TOPICS[if segments.is_empty() || random.below(3) == 0 { random.below(TOPICS.len()) } else { number % 4 }];
        let query: Vec<String> = topics.iter().map(|topic| format!("topic={topic}")).collect();
        let (query, node, id) = (query.join("&"), nodes[random.below(2)], position.as_deref());
        let opened = match number % 4 {
            3 => timeout(LIMIT, websocket(node, &query, id)).await.unwrap(),
            how => timeout(LIMIT, event_stream(node, &query, id, how)).await.unwrap(),
        };
        let Ok(mut items) = opened else {
            // Its node is away.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut segment = Segment { topics, from: position.as_deref().map(ids), got: Vec::new() };
        let mut left = random.below(400);
        while left > 0 || last.get().is_some() {
            left = left.saturating_sub(1);
            match timeout(LIMIT, items.next()).await.expect("no event and no heartbeat in time") {
                Some(Ok(Item::Message(id))) => {
                    segment.got.push(ids(&id));
                    position = Some(id);
                }
                Some(Ok(Item::Position(id))) => {
                    segment.from.get_or_insert(ids(&id));
                    position = Some(id);
                }
                Some(Ok(Item::Reset(reset))) => panic!("reader {number} was reset: {reset}"),
                Some(Err(_)) | None => break,
            }
            let is_at_end =
                || last.get().zip(position.as_deref()).is_some_and(|(last, position)| ids(position) >= *last);
            if is_at_end() {
                segments.push(segment);
                return segments;
            }
        }
        // Without a position there is nothing to resume.
        if position.is_some() {
            segments.push(segment);
        }
    }
}

fn serve(redis: &RedisServer, port: u16) -> Tallycast {
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(FLAGS);
    Tallycast::spawn_at(serve, port)
}

/// Adds an entry; its outcome may be unknown while Redis is killed.
fn add(connection: &mut redis::Connection, number: usize) -> Result<String, RedisError> {
    let leaf = LEAVES[number * 7 % LEAVES.len()];
    redis::cmd("XADD").arg("orders").arg("*").arg(&["topic", leaf, "data", &number.to_string()]).query(connection)
}

#[test]
fn every_reader_has_the_sequence_of_the_stream_whatever_is_killed() {
    let mut redis = RedisServer::start_durable();
    let first = serve(&redis, 0);
    let mut second = serve(&redis, 0);
    [&first, &second].iter().for_each(|node| node.until_ready());
    let nodes = [first.address, second.address];
    let last = Arc::<OnceLock<Ids>>::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let readers: Vec<_> = (0..READERS).map(|number| runtime.spawn(read(number, nodes, Arc::clone(&last)))).collect();
    let mut connection = redis.connect();
    for number in 0..ENTRIES {
        while add(&mut connection, number).is_err() {
            connection = redis.connect();
        }
        match number {
            // Neither is ready again when the next entries come.
            1000 => {
                redis.kill();
                redis.run();
                connection = redis.connect();
            }
            2000 => {
                let port = second.address.port();
                drop(second);
                second = serve(&redis, port);
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    let entries: Vec<(String, HashMap<String, String>)> =
        redis::cmd("XRANGE").arg("orders").arg("-").arg("+").query(&mut connection).unwrap();
    let entries: Vec<(Ids, String)> =
        entries.into_iter().map(|(id, fields)| (ids(&id), format!("/orders/{}", fields["topic"]))).collect();
    assert!(entries.len() >= ENTRIES);
    last.set(entries.last().unwrap().0).unwrap();
    let read: Vec<Vec<Segment>> = runtime.block_on(async {
        let read = futures_util::future::try_join_all(readers);
        timeout(2 * LIMIT, read).await.expect("the readers do not come to the end").unwrap()
    });
    let mut resumed = 0;
    for (number, segments) in read.iter().enumerate() {
        for (place, segment) in segments.iter().enumerate() {
            let from = segment.from.unwrap_or_default();
            let contains = |namespace: &str| {
                segment.topics.iter().any(|topic| namespace.starts_with(topic.trim_end_matches("/*")))
            };
            let expected: Vec<Ids> =
                entries.iter().filter(|(id, namespace)| *id > from && contains(namespace)).map(|(id, _)| *id).collect();
            let is_last = place + 1 == segments.len();
            let due = if is_last { &expected[..] } else { &expected[..segment.got.len().min(expected.len())] };
            assert_eq!(segment.got, due, "reader {number}, stream {place} of {:?}", segment.topics);
            resumed += usize::from(place > 0);
        }
    }
    // Otherwise nothing was tested.
    assert!(resumed > 3 * READERS, "{resumed} streams were resumed");
    let resumed: u64 = [&first, &second].iter().map(|node| node.counter("/hub/resumed")).sum();
    assert!(resumed > READERS as u64, "{resumed}");
}
