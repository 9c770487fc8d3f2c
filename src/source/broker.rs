//! The state of the broker: what the process reports, counts and logs of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Capabilities, SourceStats};

/// The state of the broker. Of several sources, the greatest state is the one to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokerState {
    /// No route needs this source.
    Idle,
    /// Events flow.
    Subscribed,
    /// There has been no subscription yet.
    Connecting,
    /// The subscription was lost, and the supervisor tries to restore it.
    Lost,
}

impl BrokerState {
    /// The state in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Subscribed => "subscribed",
            Self::Connecting => "connecting",
            Self::Lost => "lost",
        }
    }

    /// Whether there should be a subscription, and there is none.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Connecting | Self::Lost)
    }
}

/// The states of several sources, and the worst of them, which is the one to report. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateBoard {
    states: Arc<Mutex<Vec<SourceState>>>,
    worst: watch::Sender<BrokerState>,
}

/// The state of a source.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// The name of the source.
    pub name: Arc<str>,
    /// Its state.
    pub state: BrokerState,
    /// When it came into this state.
    pub since: SystemTime,
}

/// Where one source reports its state.
#[derive(Debug, Clone)]
pub(super) struct StateSlot {
    board: StateBoard,
    place: usize,
}

impl StateBoard {
    /// A board that reports the worst state through `worst`.
    pub(super) fn reporting(worst: watch::Sender<BrokerState>) -> Self {
        Self { states: Arc::default(), worst }
    }

    /// The worst state, now and later.
    pub fn worst(&self) -> watch::Receiver<BrokerState> {
        self.worst.subscribe()
    }

    /// The worst state of each name, in the order of the sources.
    pub fn by_name(&self) -> Vec<SourceState> {
        let mut by_name: Vec<SourceState> = Vec::new();
        for source in self.states.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match by_name.iter_mut().find(|known| known.name == source.name) {
                Some(worst) if worst.state < source.state => *worst = source.clone(),
                Some(_) => {}
                None => by_name.push(source.clone()),
            }
        }
        by_name
    }

    /// A place for one more source, which has yet to connect. A broker that is several sources has several with its name.
    pub(super) fn slot(&self, name: Arc<str>) -> StateSlot {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.push(SourceState { name, state: BrokerState::Connecting, since: SystemTime::now() });
        StateSlot { board: self.clone(), place: states.len() - 1 }
    }
}

impl Default for StateBoard {
    /// A board without sources, for which the process waits.
    fn default() -> Self {
        Self::reporting(watch::Sender::new(BrokerState::Connecting))
    }
}

impl StateSlot {
    fn set(&self, state: BrokerState) {
        let mut states = self.board.states.lock().unwrap_or_else(PoisonError::into_inner);
        // Its board never shrinks.
        let own = &mut states[self.place];
        if own.state != state {
            (own.state, own.since) = (state, SystemTime::now());
        }
        let worst = states.iter().map(|source| source.state).max().unwrap_or(state);
        self.board.worst.send_replace(worst);
    }
}

/// Follows the broker through one session after another.
#[derive(Debug)]
pub(super) struct BrokerStatus {
    pub(super) address: String,
    pub(super) capabilities: Capabilities,
    pub(super) state: StateSlot,
    pub(super) stats: Arc<SourceStats>,
    /// The source has been subscribed or idle: the process has started as it should.
    has_started: bool,
    /// Since when the current session is subscribed, if it is.
    subscribed_at: Option<Instant>,
    /// When the last subscription was lost, if it was not restored yet.
    lost_at: Option<Instant>,
    /// Why there is no subscription, as last logged. The back-off bounds how often the reason can change.
    last_logged: String,
}

impl BrokerStatus {
    pub(super) fn new(address: String, capabilities: Capabilities, state: StateSlot, stats: Arc<SourceStats>) -> Self {
        let last_logged = String::new();
        Self {
            address,
            capabilities,
            state,
            stats,
            has_started: false,
            subscribed_at: None,
            lost_at: None,
            last_logged,
        }
    }

    /// The source has nothing to subscribe to, or has again.
    pub(super) fn idle(&mut self, is_idle: bool) {
        self.has_started = true;
        self.state.set(if is_idle { BrokerState::Idle } else { BrokerState::Connecting });
    }

    /// The session is subscribed.
    pub(super) fn subscribed(&mut self) {
        if self.subscribed_at.is_some() {
            return;
        }
        self.subscribed_at = Some(Instant::now());
        self.has_started = true;
        self.stats.subscriptions.add(1);
        self.state.set(BrokerState::Subscribed);
        let source = &self.address;
        match self.lost_at.take().map(|lost_at| lost_at.elapsed()) {
            Some(gap) => {
                self.stats.gaps.add(1);
                self.stats.gap_milliseconds.add(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
                tracing::warn!(source, ?gap, "subscription restored");
            }
            None => {
                let Capabilities { positions, durable, .. } = self.capabilities;
                tracing::info!(source, positions, durable, "subscribed");
            }
        }
    }

    /// The session ended, for `reason`. Returns how long it was subscribed, if it was.
    pub(super) fn session_ended(&mut self, reason: String) -> Option<Duration> {
        let source = &self.address;
        let subscribed_for = self.subscribed_at.take().map(|subscribed_at| subscribed_at.elapsed());
        if subscribed_for.is_some() {
            self.lost_at = Some(Instant::now());
            self.state.set(BrokerState::Lost);
            if self.capabilities.durable {
                tracing::warn!(source, reason, "subscription lost; events are delayed until it is restored");
            } else {
                tracing::warn!(source, reason, "subscription lost; events are lost until it is restored");
            }
            self.last_logged.clear();
        } else if reason == self.last_logged {
            tracing::debug!(source, reason, "still cannot subscribe");
        } else {
            tracing::warn!(source, reason, "cannot subscribe; retrying");
            self.last_logged = reason;
        }
        subscribed_for
    }

    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }
}
