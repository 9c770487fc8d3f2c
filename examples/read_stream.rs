//! Reads a stream of a server with `reqwest` and `sse-stream`, and resumes after each loss of the connection.
//!
//! `cargo run --example read_stream -- 'http://localhost:8001/subscribe/orders/*?envelope=1'`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "prints events for the user")]

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode};
use sse_stream::SseStream;

#[tokio::main]
async fn main() -> Result<(), reqwest::Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://localhost:8001/subscribe?envelope=1".to_owned());
    read(&url, |data| println!("{data}")).await
}

/// Reads until the server refuses the stream for good.
pub(crate) async fn read(url: &str, mut handle: impl FnMut(&str)) -> Result<(), reqwest::Error> {
    // The server sends something at least every 15 s. After three times as long, the connection is lost.
    let client = Client::builder().read_timeout(Duration::from_secs(45)).build()?;
    // At random, so that not all clients come back at once.
    let pauses =
        ExponentialBuilder::default().with_max_delay(Duration::from_secs(30)).without_max_times().with_jitter();
    let (mut last_event_id, mut pause) = (String::new(), pauses.build());
    loop {
        let request = client.get(url).header("last-event-id", &last_event_id);
        match request.send().await.and_then(Response::error_for_status) {
            Ok(response) => {
                let mut events = SseStream::from_bytes_stream(response.bytes_stream());
                while let Some(Ok(event)) = events.next().await {
                    event.data.iter().for_each(|data| handle(data));
                    last_event_id = event.id.unwrap_or(last_event_id);
                    pause = pauses.build();
                }
            }
            Err(error) if error.status().is_some_and(is_permanent) => return Err(error),
            Err(error) => eprintln!("reconnecting: {error}"),
        }
        tokio::time::sleep(pause.next().unwrap_or_default()).await;
    }
}

/// Whether another request would be refused in the same way.
fn is_permanent(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404)
}
