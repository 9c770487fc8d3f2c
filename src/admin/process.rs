//! Resource usage of the process, from `/proc` on Linux (proc(5)); unknown elsewhere.

use std::fs;

use serde::Serialize;

/// Resource usage of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Resident memory.
    pub(super) memory_bytes: Option<u64>,
    /// CPU time since the start, user and system.
    pub(super) cpu_seconds: Option<f64>,
    /// Open file descriptors, mostly connections.
    pub(super) open_files: Option<u64>,
    /// The limit of open file descriptors.
    pub(super) max_files: Option<u64>,
}

/// The resource usage now.
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
    fn fields_are_found_after_a_name_with_spaces() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0 20 0 1 0 5";
        assert_eq!(cpu_ticks(stat), Some(123));
        assert_eq!(cpu_ticks("12 (a"), None);
        assert_eq!(resident_pages("100 20 3"), Some(20));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn usage_is_known_on_linux() {
        let usage = usage();
        assert!(usage.memory_bytes > Some(100_000) && usage.open_files > Some(2) && usage.cpu_seconds.is_some());
    }
}
