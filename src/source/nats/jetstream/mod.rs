//! Messages of JetStream streams, over one connection for each session.
//!
//! The source keeps the place that it has read each stream to, so a session continues where the last one ended. A message is
//! passed on before its place is, and waits for room, so no receipts are needed: what is lost with the process is read again
//! by the next one.
//!
//! Each stream has a consumer, which the server forgets when it is not used. The source asks it for a bounded number of messages
//! and bytes at a time, so nothing piles up while it waits for room. A consumer numbers what it sends: if a number is missing, or
//! the consumer gives no sign of life, a new one continues after the last message that was read.

mod history;
mod message;
mod progress;
mod reader;
mod session;

use std::collections::HashMap;
use std::sync::Arc;

use tallycast_fanout::{EntryId, ResetReason, SequenceEvent, SequenceEventKind};
use tokio::sync::watch;

use super::{NAME, NatsUrl, SubjectError};
use crate::nats_client::{Connection, JetStream, NatsError};
use crate::source::{BoxError, Capabilities, Emitter, PipelineClosed, SessionEnd, Source, StreamKey};
use progress::Progress;
use session::Session;

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the stream {0:?}: {1}")]
    Stream(Arc<str>, NatsError),
    #[error("the stream {0:?}: its consumer sends what is not known: {1}")]
    Unknown(Arc<str>, String),
    #[error(transparent)]
    Name(#[from] SubjectError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    PipelineClosed(#[from] PipelineClosed),
}

/// JetStream as a [`Source`].
#[derive(Debug)]
pub struct JetStreamSource {
    url: NatsUrl,
    api: JetStream,
    /// The streams to read, which may change.
    keys: watch::Receiver<Vec<StreamKey>>,
    streams: Vec<Stream>,
}

/// A stream that is being read.
#[derive(Debug)]
struct Stream {
    key: StreamKey,
    /// The subjects that it takes messages of.
    subjects: Vec<String>,
    /// Where it has been read to; `None` before its start.
    progress: Option<Progress>,
    /// Its history has yet to be read, because there was none before.
    history_due: bool,
    /// Why it cannot be read, as last logged.
    last_logged: String,
}

impl JetStreamSource {
    /// A source of the messages of streams, which may change.
    pub fn new(url: NatsUrl, keys: watch::Receiver<Vec<StreamKey>>) -> Self {
        let api = JetStream::new(url.domain());
        Self { url, api, keys, streams: Vec::new() }
    }

    /// Adds the streams that are new, and removes those that no route reads any more.
    fn update_streams(&mut self) {
        let keys = self.keys.borrow_and_update().clone();
        let mut known: HashMap<Arc<str>, Stream> =
            self.streams.drain(..).map(|stream| (Arc::clone(&stream.key.key), stream)).collect();
        let mut added = Vec::new();
        for key in keys {
            let stream = match known.remove(&key.key) {
                Some(stream) => {
                    let is_new = stream.key.retention.is_none() && key.retention.is_some();
                    Stream { key, history_due: stream.history_due || is_new, ..stream }
                }
                None => {
                    added.push(Arc::clone(&key.key));
                    Stream { key, subjects: Vec::new(), progress: None, history_due: true, last_logged: String::new() }
                }
            };
            self.streams.push(stream);
        }
        if !added.is_empty() || !known.is_empty() {
            tracing::info!(?added, removed = ?known.into_keys().collect::<Vec<_>>(), "changed the streams to read");
        }
    }
}

impl Source for JetStreamSource {
    fn address(&self) -> String {
        self.url.to_string()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::LOG
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if !emitter.idle_while_empty(&self.keys).await {
            return Ok(SessionEnd::Finished);
        }
        self.update_streams();
        let connection = Connection::open(&self.url, NAME).await?;
        let error = Session::new(self, connection).run(emitter).await;
        for Stream { key, progress, .. } in &mut self.streams {
            if progress.as_mut().is_some_and(Progress::interrupt) {
                emitter.send(sequence_event(key, SequenceEventKind::Interrupted)).await?;
            }
        }
        Err(error.into())
    }
}

fn sequence_event(key: &StreamKey, kind: SequenceEventKind) -> SequenceEvent {
    SequenceEvent { sequence: Arc::clone(&key.sequence), kind }
}

fn gap(key: &StreamKey, after: u64, reason: ResetReason) -> SequenceEvent {
    sequence_event(key, SequenceEventKind::Gap { after: EntryId::new(after, 0), reason })
}
