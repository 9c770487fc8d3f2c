//! The time for which a connection may go without a complete request: idle between requests, and within request headers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::io::IoState;

/// The limit that a connection reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// Request headers did not arrive in time.
    Head,
    /// No request came in time.
    Idle,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first request. All of the time since the connection was accepted counts.
    First,
    /// The rest of the headers of a later one.
    Head,
    /// The next request.
    Idle,
    /// The end of a response. Other limits apply.
    Response,
}

/// The limits of one connection. hyper has only one limit for the wait and the headers together.
pub(crate) struct RequestTimer {
    state: Arc<IoState>,
    phase: Phase,
    /// The number of complete responses before this phase.
    complete: usize,
    deadline: Pin<Box<Sleep>>,
    /// From the first byte of a request. HTTP/2 has other frames than requests, so there all of the time is idle.
    head_timeout: Option<Duration>,
    idle_timeout: Duration,
}

impl RequestTimer {
    /// For HTTP/1: the headers of the first request must be there by `first_deadline`, those of each later one within
    /// `head_timeout` of its first byte, and that within `idle_timeout` of the response before.
    pub(crate) fn http1(
        state: Arc<IoState>,
        first_deadline: Instant,
        head_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        let deadline = Box::pin(sleep_until(first_deadline));
        Self { state, phase: Phase::First, complete: 0, deadline, head_timeout: Some(head_timeout), idle_timeout }
    }

    /// For HTTP/2: there must not be no request for `idle_timeout`.
    pub(crate) fn http2(state: Arc<IoState>, idle_timeout: Duration) -> Self {
        let deadline = Box::pin(sleep_until(Instant::now() + idle_timeout));
        Self { state, phase: Phase::Idle, complete: 0, deadline, head_timeout: None, idle_timeout }
    }

    /// Whether a limit is reached. To be called each time after the connection was polled, by the same task.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Expired> {
        let complete = self.state.complete();
        let phase = match (self.phase, self.head_timeout) {
            _ if self.state.is_busy(context) => Phase::Response,
            (Phase::First, _) if complete == 0 => Phase::First,
            (_, Some(_)) if self.state.has_read() => Phase::Head,
            _ => Phase::Idle,
        };
        // A request may have been answered since the last time.
        if (phase, complete) != (self.phase, self.complete) {
            (self.phase, self.complete) = (phase, complete);
            let limit = match phase {
                Phase::Head => self.head_timeout.unwrap_or(self.idle_timeout),
                _ => self.idle_timeout,
            };
            self.deadline.as_mut().reset(Instant::now() + limit);
        }
        if phase == Phase::Response || self.deadline.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(if phase == Phase::Idle { Expired::Idle } else { Expired::Head })
    }

    /// Sets the time that is left for a connection without a request to close gracefully.
    pub(crate) fn limit_close(&mut self, limit: Duration) {
        self.phase = Phase::Idle;
        self.idle_timeout = limit;
        self.deadline.as_mut().reset(Instant::now() + limit);
    }
}
