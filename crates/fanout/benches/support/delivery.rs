//! The time of a message that reaches one feed of many.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tallycast_fanout::{BodyReceiver, ConnectionInfo, Fanout, Grant, Message, Sink, Subscriber, Topics, body};

use crate::support::PLAIN;

const MESSAGES: u32 = 50_000;

/// What a reader reads, and what it was granted.
pub(crate) type Reader = (Topics, Option<Arc<Grant>>);

fn subscriber((topics, grant): Reader) -> (Subscriber, BodyReceiver) {
    let (sender, receiver) = body();
    let info = ConnectionInfo {
        request_path: "".into(),
        topics,
        created_at: SystemTime::now(),
        client_ip: Ipv4Addr::LOCALHOST.into(),
        user_agent: "".into(),
    };
    let mut subscriber = Subscriber::new(info, Arc::clone(&PLAIN), Sink::Body(sender));
    subscriber.grant = grant;
    (subscriber, receiver)
}

/// The time of a message of one byte that reaches `reader` and none of the `idle` ones. All have feeds of their own.
pub(crate) async fn measure(idle: impl Iterator<Item = Reader>, reader: Reader, message: Message) -> Duration {
    // Logs so long that a reader that waits for a CPU is not too slow.
    let fanout = Fanout::builder().inbox(1024).log_batches(usize::MAX).log_bytes(usize::MAX).build();
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let mut receivers = Vec::new();
    for reader in idle {
        let (subscriber, receiver) = subscriber(reader);
        handle.subscribe(subscriber).await.unwrap();
        receivers.push(receiver);
    }
    let (subscriber, mut reader) = subscriber(reader);
    handle.subscribe(subscriber).await.unwrap();
    while handle.stats().feeds.get() <= receivers.len() as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            let message = Message { received_at: Instant::now(), ..message.clone() };
            publisher.send(message).await.unwrap();
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
