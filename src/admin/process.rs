//! What the process uses, as Linux tells it in `/proc` (proc(5)); elsewhere nothing is known.

use std::fs;

use serde::Serialize;

/// What the process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Memory that is resident.
    pub(super) memory_bytes: Option<u64>,
    /// Processor time since the start, in user and in kernel mode.
    pub(super) cpu_seconds: Option<f64>,
    /// File descriptors: connections, mostly.
    pub(super) open_files: Option<u64>,
    /// How many it may have.
    pub(super) max_files: Option<u64>,
}

/// What the process uses now.
pub(super) fn usage() -> Usage {
    use rustix::param::{clock_ticks_per_second, page_size};
    use rustix::process::{Resource, getrlimit};
    let resident = fs::read_to_string("/proc/self/statm").ok().and_then(|text| resident_pages(&text));
    let ticks = fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_ticks(&text));
    Usage {
        memory_bytes: resident.map(|pages| pages * page_size() as u64),
        cpu_seconds: ticks.map(|ticks| ticks as f64 / clock_ticks_per_second() as f64),
        open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        max_files: getrlimit(Resource::Nofile).current,
    }
}

/// The second number of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// `utime` and `stime` of `stat`: fields 14 and 15, the second of which is a name that may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u64>().ok();
    Some(field()? + field()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_though_the_name_has_spaces() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0 20 0 1 0 5";
        assert_eq!(cpu_ticks(stat), Some(123));
        assert_eq!(cpu_ticks("12 (a"), None);
        assert_eq!(resident_pages("100 20 3"), Some(20));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells() {
        let usage = usage();
        assert!(usage.memory_bytes > Some(100_000) && usage.open_files > Some(2) && usage.cpu_seconds.is_some());
    }
}
