//! Past samples for charts, in several resolutions: the last ten minutes by the second, and a day in steps of some minutes.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Value, json};

/// Samples of each range.
const MAX_SAMPLES: usize = 600;
/// Seconds by which a sample may come early: the task that takes them is not exact.
const TOLERANCE: f64 = 0.5;
/// The ranges: the name, and the seconds between two samples.
const RANGES: [(&str, f64); 4] = [("10m", 1.0), ("1h", 6.0), ("6h", 36.0), ("24h", 144.0)];

/// One point of the charts. Counters grow from the start of the process.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Sample {
    /// Seconds since the Unix epoch.
    pub(super) at: f64,
    pub(super) received: u64,
    pub(super) broadcast: u64,
    pub(super) delivered: u64,
    pub(super) bytes: u64,
    pub(super) memory_bytes: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
    /// Open connections at this time.
    pub(super) connections: u64,
    /// Events and messages lost, times that readers skipped messages, and readers disconnected because they were slow.
    pub(super) lost: u64,
}

/// The samples of all ranges.
#[derive(Debug, Default)]
pub(super) struct History {
    ranges: [VecDeque<Sample>; RANGES.len()],
}

impl History {
    /// Adds a sample to each range in which one is due.
    pub(super) fn add(&mut self, sample: Sample) {
        for (samples, (_, interval)) in self.ranges.iter_mut().zip(RANGES) {
            let due = |newest: &Sample| newest.at + interval - TOLERANCE;
            // A clock that was set back must not stop the samples.
            if samples.back().is_none_or(|newest| sample.at >= due(newest) || sample.at < newest.at) {
                if samples.len() == MAX_SAMPLES {
                    samples.pop_front();
                }
                samples.push_back(sample);
            }
        }
    }

    /// The samples of the range with this name, the oldest first.
    ///
    /// # Errors
    /// For another name.
    pub(super) fn json(&self, range: &str) -> Result<Value, String> {
        let found = RANGES.iter().zip(&self.ranges).find(|((name, _), _)| *name == range);
        let ((_, interval), samples) = found.ok_or_else(|| {
            let names: Vec<&str> = RANGES.iter().map(|(name, _)| *name).collect();
            format!("bad query: range={}; expected one of {}", range.escape_debug(), names.join(", "))
        })?;
        Ok(json!({ "interval": interval, "samples": samples }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_covers_its_time_with_the_same_number_of_samples() {
        let mut history = History::default();
        for second in 0..100_000_u32 {
            // Not exactly by the second.
            let at = f64::from(second) * 1.001;
            history.add(Sample { at, received: second.into(), ..Sample::default() });
        }
        for (name, seconds) in [("10m", 600.0), ("1h", 3600.0), ("6h", 6.0 * 3600.0), ("24h", 24.0 * 3600.0)] {
            let json = history.json(name).unwrap();
            let samples = json["samples"].as_array().unwrap();
            let at = |index: usize| samples[index]["at"].as_f64().unwrap();
            assert_eq!(samples.len(), MAX_SAMPLES, "{name}");
            let covered = (at(599) - at(0)) / seconds;
            assert!((0.95..1.05).contains(&covered), "{name}: {covered}");
            assert!((at(1) - at(0) - json["interval"].as_f64().unwrap()).abs() < 1.0);
        }
        assert_eq!(history.json("2h").unwrap_err(), "bad query: range=2h; expected one of 10m, 1h, 6h, 24h");
    }

    #[test]
    fn samples_go_on_after_the_clock_was_set_back() {
        let mut history = History::default();
        for at in [1000.0, 1001.0, 10.0, 11.0] {
            history.add(Sample { at, ..Sample::default() });
        }
        assert_eq!(history.json("10m").unwrap()["samples"].as_array().unwrap().len(), 4);
    }
}
