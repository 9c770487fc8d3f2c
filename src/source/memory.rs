//! Events from inside the process, for `tallycast demo`.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};

use super::{BoxError, Capabilities, Emitter, SendOutcome, SessionEnd, Source, SourceEvent};

/// Emits the events of a stream, and finishes with it.
pub struct MemorySource<S>(Pin<Box<S>>);

impl<S> MemorySource<S> {
    /// A source of `events`.
    pub fn new(events: S) -> Self {
        Self(Box::pin(events))
    }
}

impl<S: Stream<Item = SourceEvent> + Send> Source for MemorySource<S> {
    fn address(&self) -> String {
        "memory".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::PASSING
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        emitter.subscribed();
        while let Some(event) = self.0.next().await {
            // A dropped event is counted, and the next may fit.
            if emitter.try_emit(event) == SendOutcome::Closed {
                break;
            }
        }
        Ok(SessionEnd::Finished)
    }
}
