//! Events that others push over HTTP (`api::push`), which no connection to a broker brings.

use tokio::sync::{mpsc, oneshot};

use super::{BoxError, Capabilities, Emitter, PipelineClosed, RawEvent, Receipt, SessionEnd, Source};

/// The events that wait for the source. Each belongs to a request, whose sender waits for the answer.
const QUEUED: usize = 64;

/// Emits what is pushed.
#[derive(Debug)]
pub struct PushSource {
    name: String,
    events: mpsc::Receiver<Pushed>,
}

/// Where the requests put their events.
#[derive(Debug, Clone)]
pub struct PushQueue(mpsc::Sender<Pushed>);

#[derive(Debug)]
struct Pushed {
    event: RawEvent,
    receipt: oneshot::Sender<Receipt>,
}

impl PushSource {
    /// What it can do: senders keep what was not taken, and send it again, at a time of their choice.
    pub const CAPABILITIES: Capabilities =
        Capabilities { positions: false, durable: true, ordered: false, acknowledges: true };

    /// A source with this name, and its queue.
    pub fn new(name: &str) -> (Self, PushQueue) {
        let (sender, events) = mpsc::channel(QUEUED);
        (Self { name: name.to_owned(), events }, PushQueue(sender))
    }
}

impl Source for PushSource {
    fn address(&self) -> String {
        format!("push/{}", self.name)
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        emitter.subscribed();
        while let Some(Pushed { event, receipt }) = self.events.recv().await {
            // Its request has ended: the sender will push the event again.
            if receipt.is_closed() {
                continue;
            }
            match emitter.emit(event).await {
                Ok(emitted) => drop(receipt.send(emitted)),
                Err(PipelineClosed) => return Ok(SessionEnd::Finished),
            }
        }
        // The server has ended, which other sources may outlive for a moment.
        std::future::pending().await
    }
}

impl PushQueue {
    /// Puts an event into the pipeline. The receipt resolves as that of [`Emitter::emit`]. Waits while others are in front.
    ///
    /// # Errors
    /// The pipeline has ended.
    pub async fn emit(&self, event: RawEvent) -> Result<Receipt, PipelineClosed> {
        let (receipt, emitted) = oneshot::channel();
        self.0.send(Pushed { event, receipt }).await.map_err(|_| PipelineClosed)?;
        emitted.await.map_err(|_| PipelineClosed)
    }
}
