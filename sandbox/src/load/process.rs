//! The processes under measurement: started, watched, and killed when the measurement ends, however it ends.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    interrupt,
    usage::{self, CpuTime, Memory},
};

/// How long a process may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at whether it does.
const START_POLL: Duration = Duration::from_millis(20);

/// For one question to a starting process.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Where free ports are looked for: under the range from which Linux takes the ports of outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// What Redis may hold for a subscriber that reads too slowly: enough for a run of which nothing was read.
const REDIS_SUBSCRIBER_BACKLOG: &str = "pubsub 1gb 0 0";

/// How many lines of a dead process's output an error shows.
const LOG_LINES: usize = 5;

/// A child process; dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output going to a file in `scratch`.
    pub(super) fn start(name: &'static str, command: &mut Command, scratch: &Scratch) -> Result<Self> {
        let log = scratch.path().join(format!("{}.log", name.replace(' ', "-")));
        let output = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))?;
        Ok(Self { name, child, log })
    }

    /// # Errors
    /// When the process has ended, with the end of what it printed.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ");
        bail!("{} ended by itself ({status}): {tail}", self.name);
    }

    /// Waits until `is_ready` says so.
    pub(super) fn wait_until_ready(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !is_ready() {
            self.ensure_running()?;
            ensure!(Instant::now() < deadline, "{} is not ready after {} s", self.name, START_LIMIT.as_secs());
            interrupt::sleep_until(Instant::now() + START_POLL)?;
        }
        // What answered may have been another program on the same port.
        self.ensure_running()
    }

    /// CPU time of all threads since the process began.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn cpu_time(&mut self) -> Result<CpuTime> {
        let time = usage::cpu_time(&format!("/proc/{}/stat", self.child.id()));
        self.ensure_running()?;
        time
    }

    /// Memory held now.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn memory(&mut self) -> Result<Memory> {
        let memory = usage::memory(&format!("/proc/{}/status", self.child.id()));
        self.ensure_running()?;
        memory
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for this run; dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn create() -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = env::temp_dir().join(format!("tallycast-load-{}-{}", std::process::id(), now.as_nanos()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind, it holds three short logs in the system's directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port of loopback that nobody listens on.
pub(super) fn free_port() -> Result<u16> {
    let span = PORTS.end - PORTS.start;
    // Runs side by side begin at different places.
    let first = (std::process::id() % u32::from(span)) as u16;
    (0..span)
        .map(|step| PORTS.start + (first + step) % span)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no free port on loopback")
}

/// Starts a Redis that keeps nothing, and gives its URL.
pub(super) fn start_redis(scratch: &Scratch) -> Result<(Process, String)> {
    let port = free_port()?;
    let url = format!("redis://127.0.0.1:{port}");
    let mut redis = Process::start(
        "redis-server",
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string()])
            .args(["--client-output-buffer-limit", REDIS_SUBSCRIBER_BACKLOG])
            .arg("--dir")
            .arg(scratch.path()),
        scratch,
    )
    .context("a Redis server is needed: install redis-server, or name one with --redis")?;
    let client = redis::Client::open(url.as_str())?;
    redis.wait_until_ready(|| {
        client
            .get_connection_with_timeout(PROBE_LIMIT)
            .is_ok_and(|mut connection| redis::cmd("PING").exec(&mut connection).is_ok())
    })?;
    Ok((redis, url))
}

/// Whether something accepts connections at `address`.
pub(super) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, PROBE_LIMIT).is_ok()
}

/// Whether `GET path` at `address` is answered with 200.
pub(super) fn answers_ok(address: SocketAddr, path: &str) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
        stream.set_read_timeout(Some(PROBE_LIMIT))?;
        stream.set_write_timeout(Some(PROBE_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
