//! Runs a source: one session after another, with pauses in between, until shutdown.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tallycast_fanout::inbox;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::broker::{BrokerStatus, StateBoard, StateSlot};
use super::{BoxError, BrokerState, Emitter, SessionEnd, Source, SourceEvent, SourceId, SourceStats};
use crate::trace::Tracer;

/// The first pause after a lost or failed session. Short, because most are restarts that are soon over. Jitter adds up
/// to as much again, so that many nodes do not return at the same moment.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
/// The longest pause, before jitter: events flow again within a second of the broker's return.
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// A session that was subscribed for this long was healthy: the pause after it is the shortest again. A connection that
/// is accepted and lost at once, over and over, is not.
const HEALTHY: Duration = Duration::from_secs(5);

/// What the default source is called where states have names.
pub(crate) const DEFAULT_NAME: &str = "default";

/// Runs a [`Source`] for as long as the pipeline runs. Set what differs from the defaults, then [`run`](Self::run) it.
#[derive(Debug, Clone)]
pub struct Supervisor {
    inbox: inbox::Sender<SourceEvent>,
    source: SourceId,
    state: StateSlot,
    stats: Arc<SourceStats>,
    require_broker: bool,
    tracer: Tracer,
    shutdown: CancellationToken,
}

/// Why a supervisor gave up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The first session failed, and the broker is required.
    #[error("cannot subscribe at {address}: {reason}")]
    Unavailable {
        /// Where, without secrets.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Why the supervisor's loop woke.
enum LoopEvent {
    SessionEnded(Result<SessionEnd, BoxError>),
    Shutdown,
}

impl Supervisor {
    /// A supervisor whose source emits into `inbox`, the inbox of [`decode::run`](crate::decode::run).
    pub fn new(inbox: inbox::Sender<SourceEvent>) -> Self {
        Self {
            inbox,
            source: SourceId::DEFAULT,
            state: StateBoard::default().slot(DEFAULT_NAME.into()),
            stats: Arc::default(),
            require_broker: false,
            tracer: Tracer::default(),
            shutdown: CancellationToken::new(),
        }
    }

    /// Reports the state of the broker through `state`.
    pub fn broker_state(self, state: watch::Sender<BrokerState>) -> Self {
        Self { state: StateBoard::reporting(state).slot(DEFAULT_NAME.into()), ..self }
    }

    /// Emits events as those of this source, which has a name unless it is the default one, and reports its state on a board beside those
    /// of other sources.
    pub fn source(self, source: SourceId, name: Option<Arc<str>>, board: &StateBoard) -> Self {
        let name = name.unwrap_or_else(|| DEFAULT_NAME.into());
        Self { source, state: board.slot(name), ..self }
    }

    /// Counts in `stats`.
    pub fn stats(self, stats: Arc<SourceStats>) -> Self {
        Self { stats, ..self }
    }

    /// Traces a sample of the events. Default: none.
    pub fn tracer(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Gives up when the first session cannot subscribe. Default: retries for ever.
    pub fn require_broker(self, require_broker: bool) -> Self {
        Self { require_broker, ..self }
    }

    /// Ends when `shutdown` is cancelled. Default: when the source or the pipeline ends.
    pub fn shutdown(self, shutdown: CancellationToken) -> Self {
        Self { shutdown, ..self }
    }

    pub(super) fn shutdown_token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Runs `source` until shutdown, until it [finishes](SessionEnd::Finished), or until the pipeline has ended. The
    /// inbox closes with it, so that the stages after it end too, once they have processed what it emitted.
    ///
    /// # Errors
    /// The first session could not subscribe, and the broker is [required](Self::require_broker).
    pub async fn run(self, mut source: impl Source) -> Result<(), SourceError> {
        let Self { inbox, source: id, state, stats, require_broker, tracer, shutdown } = self;
        let broker = BrokerStatus::new(source.address(), source.capabilities(), state, stats);
        let mut emitter = Emitter::new(inbox, id, broker).traced(tracer);
        let mut backoff = backoff();
        loop {
            let event = tokio::select! {
                end = source.run(&mut emitter) => LoopEvent::SessionEnded(end),
                () = shutdown.cancelled() => LoopEvent::Shutdown,
            };
            let reason = match event {
                LoopEvent::Shutdown | LoopEvent::SessionEnded(Ok(SessionEnd::Finished)) => return Ok(()),
                LoopEvent::SessionEnded(_) if emitter.is_closed() => return Ok(()),
                LoopEvent::SessionEnded(Ok(SessionEnd::Disconnected)) => "the connection was closed".to_owned(),
                LoopEvent::SessionEnded(Err(error)) => error.to_string(),
            };
            if require_broker && !emitter.broker.has_started() {
                return Err(SourceError::Unavailable { address: source.address(), reason });
            }
            if emitter.broker.session_ended(reason).is_some_and(|subscribed_for| subscribed_for >= HEALTHY) {
                backoff = self::backoff();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next().unwrap_or(BACKOFF_MAX)) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

/// Pauses between sessions, without end.
fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
