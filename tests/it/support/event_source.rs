//! A client that is not ours: `reqwest` speaks HTTP, `sse-stream` reads the events.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use futures_util::StreamExt;
use reqwest::header::HeaderMap;
use sse_stream::SseStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{LIMIT, Tallycast, block_on};

/// An event that a browser would dispatch.
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

/// Events that may wait for the test to take them. A test that publishes more before it reads is a slow reader.
const UNREAD: usize = 4096;

/// An open event stream; closed with its owner.
pub(crate) struct EventSource {
    pub(crate) version: reqwest::Version,
    pub(crate) headers: HeaderMap,
    events: Receiver<Result<Event, String>>,
    /// Ends the client when it is dropped.
    _owner: oneshot::Sender<()>,
}

impl EventSource {
    /// Opens `path`; every event published after this has returned is received.
    pub(crate) fn open(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(reqwest::Client::builder(), tallycast, path)
    }

    /// The same by HTTP/2, without TLS and without asking first.
    pub(crate) fn open_http2(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(reqwest::Client::builder().http2_prior_knowledge(), tallycast, path)
    }

    pub(crate) fn open_with(client: reqwest::ClientBuilder, tallycast: &Tallycast, path: &str) -> Self {
        let url = tallycast.url(path);
        let (opened, head) = sync_channel(1);
        let (sender, events) = sync_channel(UNREAD);
        let (owner, owner_gone) = oneshot::channel();
        // A thread for each client, so that one that must wait for its test keeps no other waiting.
        std::thread::spawn(move || {
            block_on(async {
                let request = client.connect_timeout(LIMIT).build().unwrap().get(url).send();
                let response = timeout(LIMIT, request).await.expect("no answer").unwrap();
                assert_eq!(response.status(), 200);
                opened.send((response.version(), response.headers().clone())).unwrap();
                tokio::select! {
                    () = pass_on(response, sender) => {}
                    _ = owner_gone => {}
                }
            });
        });
        let (version, headers) = head.recv().expect("a stream");
        Self { version, headers, events, _owner: owner }
    }

    /// The next event.
    #[track_caller]
    pub(crate) fn next(&self) -> Event {
        self.events.recv_timeout(LIMIT).expect("an event was to come").expect("a body without errors")
    }

    /// What has come and was not taken yet.
    #[track_caller]
    pub(crate) fn received(&self) -> Vec<Event> {
        self.events.try_iter().map(|event| event.expect("a body without errors")).collect()
    }

    /// What is still to come until the server ends the stream in good order.
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

async fn pass_on(response: reqwest::Response, events: SyncSender<Result<Event, String>>) {
    let mut stream = SseStream::from_bytes_stream(response.bytes_stream());
    while let Some(event) = stream.next().await {
        let event = match event {
            // A comment, which dispatches nothing.
            Ok(event) if event.data.is_none() => continue,
            Ok(event) => Ok(Event { name: event.event, id: event.id, data: event.data.unwrap_or_default() }),
            Err(error) => Err(format!("{error:?}")),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
