//! Child processes: started, monitored, and killed at the end of a run.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    resource_usage::{self, CpuTime, Memory},
    signals,
};

/// The time limit for a process to become ready.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The interval between readiness checks.
const START_POLL: Duration = Duration::from_millis(20);

/// The time limit of one readiness check.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The range to search for free ports: below the ephemeral port range of Linux.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The output buffer limit of Redis for slow subscribers: large enough for a whole run.
const REDIS_SUBSCRIBER_BACKLOG: &str = "pubsub 1gb 0 0";

/// The number of output lines of an exited process that an error shows.
const LOG_LINES: usize = 5;

/// A child process, killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in a file in `scratch`.
    pub(crate) fn start(name: impl Into<String>, command: &mut Command, scratch: &Scratch) -> Result<Self> {
        let name = name.into();
        let log = scratch.path().join(format!("{}.log", name.replace([' ', '/'], "-")));
        let output = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))?;
        Ok(Self { name, child, log })
    }

    /// Checks that the process is running.
    ///
    /// # Errors
    /// If the process has exited, with the end of its output.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ");
        bail!("{} exited unexpectedly ({status}): {tail}", self.name);
    }

    /// Kills the process and waits for its end.
    pub(crate) fn kill(&mut self) {
        // Both fail only if the process has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until `is_ready` returns true.
    pub(crate) fn wait_until_ready(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !is_ready() {
            self.ensure_running()?;
            ensure!(Instant::now() < deadline, "{} is not ready after {} s", self.name, START_LIMIT.as_secs());
            signals::sleep_until(Instant::now() + START_POLL)?;
        }
        // Another program on the same port may have answered.
        self.ensure_running()
    }

    /// CPU time of all threads since the process started.
    ///
    /// # Errors
    /// If the process has exited.
    pub(crate) fn cpu_time(&mut self) -> Result<CpuTime> {
        let time = resource_usage::cpu_time(&format!("/proc/{}/stat", self.child.id()));
        self.ensure_running()?;
        time
    }

    /// The number of open file descriptors.
    ///
    /// # Errors
    /// If the process has exited.
    pub(crate) fn open_files(&mut self) -> Result<u64> {
        let files = resource_usage::open_files(&format!("/proc/{}/fd", self.child.id()));
        self.ensure_running()?;
        files
    }

    /// The number of files that the process may open; `None` without a limit.
    ///
    /// # Errors
    /// If the process has exited.
    pub(crate) fn open_files_limit(&mut self) -> Result<Option<u64>> {
        let limit = resource_usage::open_files_limit(&format!("/proc/{}/limits", self.child.id()));
        self.ensure_running()?;
        limit
    }

    /// Current memory use.
    ///
    /// # Errors
    /// If the process has exited.
    pub(crate) fn memory(&mut self) -> Result<Memory> {
        let memory = resource_usage::memory(&format!("/proc/{}/status", self.child.id()));
        self.ensure_running()?;
        memory
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A temporary directory for this run, removed on drop.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn create() -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = env::temp_dir().join(format!("tallycast-load-{}-{}", std::process::id(), now.as_nanos()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, three short logs remain in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A free loopback port. No other call in this process returns it soon, because it is only used later.
pub(crate) fn free_port() -> Result<u16> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let span = PORTS.end - PORTS.start;
    // Concurrent runs have adjacent process IDs and start at distant ports.
    let start = std::process::id().wrapping_mul(31).wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
    let first = (start % u32::from(span)) as u16;
    (0..span)
        .map(|step| PORTS.start + (first + step) % span)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no free port on loopback")
}

/// A Redis without persistence on a port of its own, killed on drop.
#[derive(Debug)]
pub(crate) struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts a server on a free loopback port and waits until it answers.
    pub(crate) fn start(scratch: &Scratch) -> Result<Self> {
        let port = free_port()?;
        Ok(Self { process: start_redis(port, scratch)?, port })
    }

    pub(crate) fn url(&self) -> String {
        redis_url(self.port)
    }

    /// Kills the server, and starts it on the same port after `downtime`, without data.
    pub(crate) fn kill_and_restart(&mut self, downtime: Duration, scratch: &Scratch) -> Result<()> {
        self.process.kill();
        signals::sleep_until(Instant::now() + downtime)?;
        self.process = start_redis(self.port, scratch)?;
        Ok(())
    }
}

fn redis_url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

fn start_redis(port: u16, scratch: &Scratch) -> Result<Process> {
    let mut redis = Process::start(
        "redis-server",
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string()])
            .args(["--client-output-buffer-limit", REDIS_SUBSCRIBER_BACKLOG])
            .arg("--dir")
            .arg(scratch.path()),
        scratch,
    )?;
    let client = redis::Client::open(redis_url(port))?;
    redis.wait_until_ready(|| {
        client
            .get_connection_with_timeout(PROBE_LIMIT)
            .is_ok_and(|mut connection| redis::cmd("PING").exec(&mut connection).is_ok())
    })?;
    Ok(redis)
}

/// The path of this program.
pub(crate) fn this_program() -> Result<PathBuf> {
    env::current_exe().context("cannot find the path of this program")
}

/// The path of the tallycast binary: `given`, or the one next to this program.
///
/// # Errors
/// If it does not exist.
pub(crate) fn tallycast(given: Option<&Path>) -> Result<PathBuf> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => this_program()?.with_file_name("tallycast"),
    };
    ensure!(
        program.is_file(),
        "tallycast not found at {}: build it with `cargo build --release`, or set --server-bin",
        program.display()
    );
    Ok(program)
}

/// Whether `address` accepts connections.
pub(crate) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, PROBE_LIMIT).is_ok()
}

/// Whether `GET path` at `address` returns 200.
pub(crate) fn answers_ok(address: SocketAddr, path: &str) -> bool {
    let request = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
        stream.set_read_timeout(Some(PROBE_LIMIT))?;
        stream.set_write_timeout(Some(PROBE_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    request().unwrap_or(false)
}
