//! Log lines that bad input could bring by the thousand, at a bounded rate.

use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// The least time between two lines of the same kind.
const PERIOD: Duration = Duration::from_secs(5);

/// Lets one line through in five seconds and counts those it holds back.
#[derive(Debug)]
pub(crate) struct LimitedLog {
    limiter: Option<DefaultDirectRateLimiter>,
    held_back: u64,
}

impl LimitedLog {
    pub(crate) fn new() -> Self {
        // A period of zero would have no quota; this one has.
        Self { limiter: Quota::with_period(PERIOD).map(RateLimiter::direct), held_back: 0 }
    }

    /// Calls `line` with the number of lines held back since the last one, if a line may be written now.
    pub(crate) fn warn(&mut self, line: impl FnOnce(u64)) {
        if self.limiter.as_ref().is_some_and(|limiter| limiter.check().is_ok()) {
            line(std::mem::take(&mut self.held_back));
        } else {
            self.held_back += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_then_silence() {
        let mut log = LimitedLog::new();
        let mut lines = Vec::new();
        for _ in 0..1000 {
            log.warn(|held_back| lines.push(held_back));
        }
        assert_eq!(lines, [0]);
        assert_eq!(log.held_back, 999);
    }
}
