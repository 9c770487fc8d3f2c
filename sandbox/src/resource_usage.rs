//! CPU time and memory of processes from `/proc`, and the limit of open files.

use std::{fs, io, ops::Sub, str::FromStr, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The path for the CPU time of the calling thread, for [`cpu_time`].
pub(crate) const THIS_THREAD: &str = "/proc/thread-self/stat";

/// A generous number of files that a process opens besides its connections.
const OTHER_FILES: u64 = 100;

/// CPU time, with a resolution of a clock tick (10 ms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl CpuTime {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
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

/// Raises the soft limit of open files to the hard limit, which child processes inherit.
///
/// # Errors
/// If the limit is too low for `connections`.
pub(crate) fn allow_open_files(connections: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            let error = io::Error::from(error);
            ensure!(limit.current.is_some(), "cannot raise the limit of open files: {error}");
            limit.current
        }
    };
    let required = connections.saturating_add(OTHER_FILES);
    if let Some(allowed) = allowed {
        ensure!(
            required <= allowed,
            "cannot open {connections} connections: the limit of open files (`ulimit -Hn`) is {allowed}, which \
             allows {}",
            allowed.saturating_sub(OTHER_FILES)
        );
    }
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
    fn own_process_is_readable() -> Result<()> {
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
