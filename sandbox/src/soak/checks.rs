//! What fails a soak: growth between quiet points, and losses.

use anyhow::Result;
use indicatif::HumanCount;

use super::server::Sample;

/// How much resident memory may grow in bytes: the allocator keeps some of each burst.
const MEMORY_TOLERANCE: u64 = 16 * 1024 * 1024;

/// How many more descriptors may be open than before the first client: connections to the broker that are opened on demand.
pub(super) const FILES_TOLERANCE: u64 = 8;

/// How many more cores may be in use without clients and messages.
const CORES_TOLERANCE: f64 = 0.1;

/// Counters that stay zero in a sound server with well-behaved clients, by their place in `counters.json`.
const LOSSES: [&str; 7] = [
    "/source/overflowed",
    "/decode/rejected",
    "/http/refused",
    "/http/accept_errors",
    "/websocket/refused_messages",
    "/websocket/over_rate",
    "/websocket/failed",
];

/// What a server uses without clients and messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct QuietPoint {
    /// Resident memory in bytes.
    pub(super) memory: u64,
    /// Open file descriptors.
    pub(super) files: u64,
    pub(super) streams: u64,
    pub(super) feeds: u64,
    /// Mean number of cores used.
    pub(super) cores: f64,
}

impl QuietPoint {
    /// Counts and memory of `sample`, and the CPU time since `earlier`.
    pub(super) fn new(earlier: &Sample, sample: &Sample) -> Result<Self> {
        Ok(Self {
            memory: sample.memory,
            files: sample.files,
            streams: sample.streams()?,
            feeds: sample.feeds()?,
            cores: sample.cores_since(earlier),
        })
    }

    /// Whether everything that is counted is as low as at `fresh`, before the first client.
    pub(super) fn has_returned_to(&self, fresh: &Self) -> bool {
        self.streams <= fresh.streams && self.feeds <= fresh.feeds && self.files <= fresh.files + FILES_TOLERANCE
    }
}

/// What has grown: a line for each. Counts are compared with `fresh`, before the first client; memory and CPU with the quiet
/// point after the first round.
pub(super) fn growth(fresh: &QuietPoint, first: &QuietPoint, last: &QuietPoint) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, before, after, tolerance) in [
        ("streams", fresh.streams, last.streams, 0),
        ("feeds", fresh.feeds, last.feeds, 0),
        ("open files", fresh.files, last.files, FILES_TOLERANCE),
    ] {
        if after > before + tolerance {
            lines.push(format!(
                "{what} grew from {} before the first client to {} after the last (tolerated: {tolerance} more)",
                HumanCount(before),
                HumanCount(after)
            ));
        }
    }
    if last.memory > first.memory + MEMORY_TOLERANCE {
        lines.push(format!(
            "memory without clients grew from {:.1} MB after the first round to {:.1} MB after the last (tolerated: {:.1} MB \
             more)",
            megabytes(first.memory),
            megabytes(last.memory),
            megabytes(MEMORY_TOLERANCE)
        ));
    }
    if last.cores > first.cores + CORES_TOLERANCE {
        lines.push(format!(
            "CPU use without clients grew from {:.2} cores after the first round to {:.2} cores after the last (tolerated: \
             {CORES_TOLERANCE} more)",
            first.cores, last.cores
        ));
    }
    lines
}

/// What was lost or refused: a line for each counter that is not zero.
pub(super) fn losses(sample: &Sample) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for pointer in LOSSES {
        let count = sample.counter(pointer)?;
        if count > 0 {
            let name = pointer.trim_start_matches('/').replace('/', ".");
            lines.push(format!("the counter {name} is {}, expected 0", HumanCount(count)));
        }
    }
    Ok(lines)
}

/// Bytes as megabytes.
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    const FRESH: QuietPoint = QuietPoint { memory: 10_000_000, files: 20, streams: 0, feeds: 0, cores: 0.0 };
    const FIRST: QuietPoint = QuietPoint { memory: 30_000_000, files: 24, cores: 0.02, ..FRESH };

    fn grown(last: QuietPoint) -> String {
        growth(&FRESH, &FIRST, &last).join("\n")
    }

    #[test]
    fn growth_within_the_tolerances_is_accepted() {
        assert_eq!(grown(FIRST), "");
        let memory = FIRST.memory + MEMORY_TOLERANCE;
        assert_eq!(grown(QuietPoint { memory, files: FRESH.files + FILES_TOLERANCE, cores: 0.1, ..FIRST }), "");
    }

    #[test]
    fn growth_beyond_the_tolerances_is_named() {
        for (last, expected) in [
            (QuietPoint { streams: 1, ..FIRST }, "streams grew from 0 before the first client to 1"),
            (QuietPoint { feeds: 1, ..FIRST }, "feeds grew from 0 before the first client to 1"),
            (QuietPoint { files: 29, ..FIRST }, "open files grew from 20 before the first client to 29"),
            (
                QuietPoint { memory: FIRST.memory + MEMORY_TOLERANCE + 1, ..FIRST },
                "memory without clients grew from 30.0 MB after the first round to 46.8 MB",
            ),
            (QuietPoint { cores: 0.13, ..FIRST }, "CPU use without clients grew from 0.02 cores"),
        ] {
            assert!(grown(last).starts_with(expected), "{expected:?}: {:?}", grown(last));
            assert_eq!(grown(last).lines().count(), 1);
        }
    }

    #[test]
    fn return_to_the_start_is_required_of_counts() {
        assert!(FIRST.has_returned_to(&FRESH));
        for busy in [
            QuietPoint { streams: 1, ..FIRST },
            QuietPoint { feeds: 1, ..FIRST },
            QuietPoint { files: FRESH.files + FILES_TOLERANCE + 1, ..FIRST },
        ] {
            assert!(!busy.has_returned_to(&FRESH), "{busy:?}");
        }
    }

    #[test]
    fn counters_of_losses_must_be_zero_and_known() -> Result<()> {
        let mut sample = Sample {
            at: Instant::now(),
            memory: 0,
            files: 0,
            cpu: crate::resource_usage::CpuTime::default(),
            counters: json!({
                "source": {"overflowed": 0},
                "decode": {"rejected": 0},
                "http": {"refused": 0, "accept_errors": 0},
                "websocket": {"refused_messages": 0, "over_rate": 0, "failed": 0},
            }),
        };
        assert_eq!(losses(&sample)?, Vec::<String>::new());
        sample.counters["websocket"]["over_rate"] = json!(1_200);
        assert_eq!(losses(&sample)?, ["the counter websocket.over_rate is 1,200, expected 0"]);
        sample.counters["source"] = json!({});
        assert_eq!(
            losses(&sample).err().map(|error| error.to_string()).as_deref(),
            Some("/admin/counters.json has no /source/overflowed")
        );
        Ok(())
    }
}
