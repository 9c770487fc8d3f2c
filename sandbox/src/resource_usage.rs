//! CPU time and memory of processes from `/proc`, and the limit of open files.

use std::{
    fs, io,
    ops::{Add, Sub},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// The path for the CPU time of the calling thread, for [`cpu_time`].
pub(crate) const THIS_THREAD: &str = "/proc/thread-self/stat";

/// A generous number of files that a process opens besides its connections.
pub(crate) const OTHER_FILES: u64 = 100;

/// CPU time, with a resolution of a clock tick (10 ms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl CpuTime {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident anonymous pages: heap and stacks.
    pub(crate) user: u64,
    /// All resident pages.
    pub(crate) resident: u64,
    /// The peak of `resident`.
    pub(crate) peak: u64,
}

/// Memory of the kernel in bytes, for all programs on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    /// Bytes in the buffers of TCP sockets.
    pub(crate) tcp_buffers: u64,
    /// Objects, such as the sockets themselves.
    pub(crate) objects: u64,
}

/// Reads a `stat` file of `/proc`.
pub(crate) fn cpu_time(path: &str) -> Result<CpuTime> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_stat(&text, rustix::param::clock_ticks_per_second()).with_context(|| format!("unexpected format of {path}"))
}

/// Reads a `status` file of `/proc`.
pub(crate) fn memory(path: &str) -> Result<Memory> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_status(&text).with_context(|| format!("unexpected format of {path}"))
}

/// The current memory of the kernel.
pub(crate) fn kernel_memory() -> Result<KernelMemory> {
    const SOCKETS: &str = "/proc/net/sockstat";
    const MEMORY: &str = "/proc/meminfo";
    let read = |path| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let pages = parse_sockstat(&read(SOCKETS)?).with_context(|| format!("unexpected format of {SOCKETS}"))?;
    Ok(KernelMemory {
        tcp_buffers: pages * rustix::param::page_size() as u64,
        objects: parse_kib(&read(MEMORY)?, "Slab").with_context(|| format!("unexpected format of {MEMORY}"))?,
    })
}

/// The number of open file descriptors: the entries of an `fd` directory of `/proc`.
pub(crate) fn open_files(path: &str) -> Result<u64> {
    let files = fs::read_dir(path).with_context(|| format!("cannot read {path}"))?;
    Ok(files.count() as u64)
}

/// The first and last ephemeral port.
pub(crate) fn ephemeral_ports() -> Result<(u16, u16)> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let mut ports = text.split_whitespace().map(u16::from_str);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => Ok((first, last)),
        _ => Err(anyhow::anyhow!("unexpected format of {PATH}: {text:?}")),
    }
}

/// The TCP segments with data that this machine has sent, without repetitions.
pub(crate) fn segments_sent() -> Result<u64> {
    const PATH: &str = "/proc/net/netstat";
    let text = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    parse_netstat(&text, "TCPOrigDataSent").with_context(|| format!("unexpected format of {PATH}"))
}

/// The time of the monotonic clock, which is the same in all processes.
pub(crate) fn monotonic_time() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

/// The number of files that a process may open, from a `limits` file of `/proc`. `None` without a limit.
pub(crate) fn open_files_limit(path: &str) -> Result<Option<u64>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_limits(&text).with_context(|| format!("unexpected format of {path}"))
}

/// Raises the soft limit of open files to the hard limit, which child processes inherit. Returns it; `None` without a limit.
///
/// # Errors
/// If the system refuses, and there is no limit already.
pub(crate) fn raise_open_files() -> Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => Ok(limit.maximum),
        Err(error) => {
            let error = io::Error::from(error);
            ensure!(limit.current.is_some(), "cannot raise the limit of open files: {error}");
            Ok(limit.current)
        }
    }
}

/// Raises the limit of open files for `connections`.
///
/// # Errors
/// If the limit is too low.
pub(crate) fn allow_open_files(connections: u64) -> Result<()> {
    let allowed = raise_open_files()?;
    check_open_files("this program", connections, allowed)
}

/// Checks that a process that may open `allowed` files can have `connections`.
///
/// # Errors
/// If it cannot.
pub(crate) fn check_open_files(process: &str, connections: u64, allowed: Option<u64>) -> Result<()> {
    let Some(allowed) = allowed else { return Ok(()) };
    ensure!(
        connections.saturating_add(OTHER_FILES) <= allowed,
        "{process} cannot open {connections} connections: its limit of open files (`ulimit -Hn`) is {allowed}, which allows {}",
        allowed.saturating_sub(OTHER_FILES)
    );
    Ok(())
}

/// Parses fields 14 and 15, counted after the command name, which can contain any character.
fn parse_stat(text: &str, ticks_per_second: u64) -> Option<CpuTime> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(u64::from_str);
    let mut next = || {
        let ticks = ticks.next()?.ok()?;
        Some(Duration::from_nanos(ticks * 1_000_000_000 / ticks_per_second))
    };
    Some(CpuTime { user: next()?, system: next()? })
}

fn parse_status(text: &str) -> Option<Memory> {
    let bytes = |name| parse_kib(text, name);
    Some(Memory { user: bytes("RssAnon")?, resident: bytes("VmRSS")?, peak: bytes("VmHWM")? })
}

/// The line `name` of a file with one number of KiB per line, in bytes.
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The pages of memory that TCP uses.
fn parse_sockstat(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_once(" mem ")?.1.split_whitespace().next()?.parse().ok()
}

/// A value of the lines `TcpExt`: first the names, then the values.
fn parse_netstat(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let place = lines.next()?.split_whitespace().position(|found| found == name)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

/// The soft limit of open files. `Some(None)` if there is none.
fn parse_limits(text: &str) -> Option<Option<u64>> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        limit => Some(Some(limit.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_parentheses_in_command_name_is_parsed() {
        let text = "42 (a) b (c)) S 1 1 1 0 -1 4194560 100 0 0 0 250 7 0 0 20 0 4 0 100 1 1\n";
        assert_eq!(
            parse_stat(text, 100),
            Some(CpuTime { user: Duration::from_millis(2500), system: Duration::from_millis(70) })
        );
        assert_eq!(parse_stat("42 (a) S 1 1", 100), None);
    }

    #[test]
    fn status_is_parsed() {
        let text = "Name:\tx\nVmHWM:\t    3000 kB\nVmRSS:\t    2000 kB\nRssAnon:\t    1500 kB\nRssFile:\t   500 kB\n";
        assert_eq!(parse_status(text), Some(Memory { user: 1500 * 1024, resident: 2000 * 1024, peak: 3000 * 1024 }));
        assert_eq!(parse_status("VmRSS:\t 1 kB\n"), None);
    }

    #[test]
    fn sockstat_is_parsed() {
        let text = "sockets: used 9\nTCP: inuse 7 orphan 0 tw 3 alloc 8 mem 24\nUDP: inuse 0 mem 1\n";
        assert_eq!(parse_sockstat(text), Some(24));
        assert_eq!(parse_sockstat("UDP: inuse 0 mem 1\n"), None);
    }

    #[test]
    fn netstat_is_parsed() {
        let text = "TcpExt: SyncookiesSent TCPOrigDataSent X\nTcpExt: 0 812 3\nIpExt: A\nIpExt: 1\n";
        assert_eq!(parse_netstat(text, "TCPOrigDataSent"), Some(812));
        assert_eq!(parse_netstat(text, "A"), None);
    }

    #[test]
    fn limits_are_parsed_and_named() {
        let text = "Limit          Soft Limit  Hard Limit  Units\nMax open files 1024        20000       files\n";
        assert_eq!(parse_limits(text), Some(Some(1024)));
        assert_eq!(parse_limits("Max open files unlimited unlimited files\n"), Some(None));
        assert_eq!(parse_limits(""), None);
        assert!(check_open_files("tallycast", 924, Some(1024)).is_ok() && check_open_files("x", 1 << 40, None).is_ok());
        let error = check_open_files("tallycast", 925, Some(1024)).map_err(|error| error.to_string());
        let expected =
            "tallycast cannot open 925 connections: its limit of open files (`ulimit -Hn`) is 1024, which allows 924";
        assert_eq!(error, Err(expected.to_owned()));
    }

    #[test]
    fn own_process_is_readable() -> Result<()> {
        assert!(segments_sent()? < u64::MAX && open_files_limit("/proc/self/limits").is_ok());
        assert!(monotonic_time() > Duration::ZERO);
        assert!(kernel_memory()?.objects > 0);
        cpu_time(THIS_THREAD)?;
        assert!(open_files("/proc/self/fd")? > 2);
        let memory = memory("/proc/self/status")?;
        assert!(memory.user > 0 && memory.user < memory.resident && memory.resident <= memory.peak);
        let (first, last) = ephemeral_ports()?;
        assert!(first < last);
        Ok(())
    }
}
