//! What a message costs when it reaches one feed of few, and one feed of many: `cargo bench --bench feeds`.
//!
//! The cost is to depend on the feeds that a message reaches, not on how many there are. Prints the time for each message,
//! with 10 to 100,000 feeds, in turn, and the ratio of the last to the first; best of several rounds, because other programs run
//! too.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and ends with a panic")]

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tallycast_fanout::{BodyReceiver, ConnectionInfo, Fanout, Message, Namespace, Sink, Subscriber, body};

use support::PLAIN;

const FEEDS: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const MESSAGES: u32 = 50_000;
const ROUNDS: usize = 5;

fn subscriber(topic: &str) -> (Subscriber, BodyReceiver) {
    let (sender, receiver) = body();
    let info = ConnectionInfo {
        request_path: "".into(),
        topics: topic.parse::<Namespace>().unwrap().into(),
        created_at: SystemTime::now(),
        client_ip: Ipv4Addr::LOCALHOST.into(),
        user_agent: "".into(),
    };
    (Subscriber::new(info, Arc::clone(&PLAIN), Sink::Body(sender)), receiver)
}

/// The time of a message that reaches one feed of `feeds`.
async fn measure(feeds: usize) -> Duration {
    // Logs so long that a reader that waits for a CPU is not too slow.
    let fanout = Fanout::builder().inbox(1024).log_batches(usize::MAX).log_bytes(usize::MAX).build();
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let mut idle = Vec::with_capacity(feeds);
    for number in 1..feeds {
        let (subscriber, receiver) = subscriber(&format!("/details/{}/{number}", number % 1000));
        handle.subscribe(subscriber).await.unwrap();
        idle.push(receiver);
    }
    let (subscriber, mut reader) = subscriber("/details/0/read");
    handle.subscribe(subscriber).await.unwrap();
    while handle.stats().feeds.get() < feeds as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let namespace: Namespace = "/details/0/read".parse().unwrap();
    let started = Instant::now();
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            publisher.send(Message::text(namespace.clone(), "x")).await.unwrap();
        }
    });
    let mut received = 0;
    while received < MESSAGES as usize {
        received += reader.recv().await.unwrap().unwrap().len();
    }
    let taken = started.elapsed();
    sending.await.unwrap();
    taken / MESSAGES
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut best = [Duration::MAX; FEEDS.len()];
    for _ in 0..ROUNDS {
        for (place, feeds) in FEEDS.into_iter().enumerate() {
            best[place] = best[place].min(runtime.block_on(measure(feeds)));
        }
    }
    for (feeds, time) in FEEDS.into_iter().zip(best) {
        println!("{feeds:>7} feeds: {:.2} us a message", time.as_secs_f64() * 1e6);
    }
    println!("ratio: {:.2}", best[FEEDS.len() - 1].as_secs_f64() / best[0].as_secs_f64());
}
