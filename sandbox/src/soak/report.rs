//! The lines of a soak: one for each server and period, and one for each quiet point.

use std::time::Duration;

use anyhow::Result;
use indicatif::HumanCount;

use super::{
    checks::{QuietPoint, megabytes},
    counters::Counters,
    server::Sample,
};

/// The titles of [`busy_line`] and [`quiet_line`].
pub(super) const HEADING: &str = "    time  server  clients  streams   feeds     memory    files   cores   events/s     \
                                  opened  unavailable  failed";

/// The length of the part of [`HEADING`] that [`quiet_line`] has.
pub(super) const QUIET_COLUMNS: usize = 70;

/// What a server and its clients did since `earlier`, with `events` received meanwhile.
pub(super) fn busy_line(
    time: Duration,
    name: &str,
    earlier: &Sample,
    sample: &Sample,
    events: u64,
    clients: &Counters,
) -> Result<String> {
    let elapsed = sample.at.duration_since(earlier.at).as_secs_f64().max(f64::EPSILON);
    let usage = QuietPoint::new(earlier, sample)?;
    Ok(format!(
        "{} {:>10} {:>10} {:>12} {:>7}",
        line(time, name, clients.open(), &usage),
        count((events as f64 / elapsed).round() as u64),
        count(clients.opened.get()),
        count(clients.unavailable.get()),
        count(clients.failed.get()),
    ))
}

/// What a server uses at a quiet point.
pub(super) fn quiet_line(time: Duration, name: &str, usage: &QuietPoint) -> String {
    line(time, name, 0, usage)
}

fn line(time: Duration, name: &str, clients: u64, usage: &QuietPoint) -> String {
    format!(
        "{:>8}  {name:<6} {:>8} {:>8} {:>7} {:>7.1} MB {:>8} {:>7.2}",
        clock(time),
        count(clients),
        count(usage.streams),
        count(usage.feeds),
        megabytes(usage.memory),
        count(usage.files),
        usage.cores,
    )
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// Hours, minutes and seconds.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_titles() {
        let usage = QuietPoint { memory: 31_400_000, files: 1_020, streams: 612, feeds: 498, cores: 0.5 };
        let line = quiet_line(Duration::from_secs(3_723), "plain", &usage);
        assert_eq!(line, " 1:02:03  plain         0      612     498    31.4 MB    1,020    0.50");
        let titles: Vec<usize> = ["time", "clients", "streams", "feeds", "memory", "files", "cores"]
            .iter()
            .filter_map(|title| HEADING.find(title).map(|at| at + title.len()))
            .collect();
        assert_eq!(titles.len(), 7);
        for end in titles {
            assert!(end == line.len() || line.as_bytes()[end] == b' ', "{line}");
            assert_ne!(line.as_bytes()[end - 1], b' ', "{line}");
        }
    }
}
