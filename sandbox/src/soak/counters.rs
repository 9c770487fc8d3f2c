//! What the clients of one server count.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// The counters of the clients of one server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Clients that are connected.
    open: AtomicU64,
    /// Clients that were connected at some time.
    pub(super) opened: Counter,
    /// Events received.
    pub(super) events: Counter,
    /// Requests answered with 503, and streams that ended because their totals became unavailable.
    pub(super) unavailable: Counter,
    /// Clients that the server failed.
    pub(super) failed: Counter,
    first_failure: Mutex<Option<String>>,
}

/// A connected client.
#[derive(Debug)]
pub(super) struct OpenClient(Arc<Counters>);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Counts a client as connected until the result is dropped.
    pub(super) fn opened(self: &Arc<Self>) -> OpenClient {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.add();
        OpenClient(Arc::clone(self))
    }

    /// Connected clients.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a client that the server failed, and keeps the error of the first.
    pub(super) fn fail(&self, error: &anyhow::Error) {
        self.failed.add();
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{error:#}"));
    }

    /// The error of the first client that the server failed.
    pub(super) fn first_failure(&self) -> Option<String> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
