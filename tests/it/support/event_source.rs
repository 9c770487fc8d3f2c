//! A third-party event stream client: `reqwest` for HTTP, `sse-stream` for the events.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use futures_util::StreamExt;
use reqwest::header::HeaderMap;
use sse_stream::SseStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{LIMIT, Tallycast, block_on};

/// An event as a browser would dispatch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Event {
    pub(crate) fn message(data: &str) -> Self {
        Self { name: None, id: None, data: data.to_owned() }
    }

    pub(crate) fn named(name: &str, data: &str) -> Self {
        Self { name: Some(name.to_owned()), id: None, data: data.to_owned() }
    }
}

/// Capacity of the queue of unread events. A test that publishes more before it reads becomes a slow reader.
const UNREAD: usize = 4096;

/// An open event stream, closed on drop.
pub(crate) struct EventSource {
    pub(crate) version: reqwest::Version,
    pub(crate) headers: HeaderMap,
    events: Receiver<Result<Event, String>>,
    /// Ends the client when it is dropped.
    _owner: oneshot::Sender<()>,
}

impl EventSource {
    /// Opens `path`. Every event published after this returns is received.
    pub(crate) fn open(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(reqwest::Client::builder(), tallycast, path)
    }

    /// Opens `path` over cleartext HTTP/2 with prior knowledge.
    pub(crate) fn open_http2(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(reqwest::Client::builder().http2_prior_knowledge(), tallycast, path)
    }

    pub(crate) fn open_with(client: reqwest::ClientBuilder, tallycast: &Tallycast, path: &str) -> Self {
        Self::open_url(client, tallycast.url(path))
    }

    pub(crate) fn open_url(client: reqwest::ClientBuilder, url: String) -> Self {
        let (opened, head) = sync_channel(1);
        let (sender, events) = sync_channel(UNREAD);
        let (owner, owner_gone) = oneshot::channel();
        // One thread per client, so that a client that waits for its test does not block others.
        std::thread::spawn(move || {
            block_on(async {
                let request = client.connect_timeout(LIMIT).build().unwrap().get(url).send();
                let response = timeout(LIMIT, request).await.expect("no response in time").unwrap();
                assert_eq!(response.status(), 200);
                opened.send((response.version(), response.headers().clone())).unwrap();
                tokio::select! {
                    () = forward(response, sender) => {}
                    _ = owner_gone => {}
                }
            });
        });
        let (version, headers) = head.recv().expect("the stream opens");
        Self { version, headers, events, _owner: owner }
    }

    /// Waits for the next event.
    #[track_caller]
    pub(crate) fn next(&self) -> Event {
        self.events.recv_timeout(LIMIT).expect("no event in time").expect("a body without errors")
    }

    /// The events received since the last call, without waiting.
    #[track_caller]
    pub(crate) fn received(&self) -> Vec<Event> {
        self.events.try_iter().map(|event| event.expect("a body without errors")).collect()
    }

    /// The remaining events until the server ends the stream gracefully.
    #[track_caller]
    pub(crate) fn rest(&self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match self.events.recv_timeout(LIMIT) {
                Ok(event) => events.push(event.expect("a body without errors")),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return events,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the stream did not end"),
            }
        }
    }
}

async fn forward(response: reqwest::Response, events: SyncSender<Result<Event, String>>) {
    let mut stream = SseStream::from_bytes_stream(response.bytes_stream());
    while let Some(event) = stream.next().await {
        let event = match event {
            // A comment.
            Ok(event) if event.data.is_none() => continue,
            Ok(event) => Ok(Event { name: event.event, id: event.id, data: event.data.unwrap_or_default() }),
            Err(error) => Err(format!("{error:?}")),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
