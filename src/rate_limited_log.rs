//! Log lines that bad input could cause by the thousand, at a bounded rate.

use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// The shortest time between two lines of the same kind.
const PERIOD: Duration = Duration::from_secs(5);

/// Lets one line through every five seconds and counts the suppressed ones.
#[derive(Debug)]
pub(crate) struct RateLimitedLog {
    limiter: Option<DefaultDirectRateLimiter>,
    suppressed: u64,
}

impl RateLimitedLog {
    pub(crate) fn new() -> Self {
        // Only a period of zero has no quota.
        Self { limiter: Quota::with_period(PERIOD).map(RateLimiter::direct), suppressed: 0 }
    }

    /// Calls `write` with the number of lines suppressed since the last one, if a line may be written now.
    pub(crate) fn log(&mut self, write: impl FnOnce(u64)) {
        if self.limiter.as_ref().is_some_and(|limiter| limiter.check().is_ok()) {
            write(std::mem::take(&mut self.suppressed));
        } else {
            self.suppressed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_line_of_a_period_is_written() {
        let mut log = RateLimitedLog::new();
        let mut lines = Vec::new();
        for _ in 0..1000 {
            log.log(|suppressed| lines.push(suppressed));
        }
        assert_eq!(lines, [0]);
        assert_eq!(log.suppressed, 999);
    }
}
