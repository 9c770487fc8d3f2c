//! The built binary as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;

use super::{LIMIT, RedisServer, block_on, eventually};

/// The binary with an empty environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallycast"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// An example of the package, built like the binary, with an empty environment.
pub(crate) fn example(name: &str) -> Command {
    let binaries = Path::new(env!("CARGO_BIN_EXE_tallycast")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if binaries.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the example {name} does not build");
    let mut command = Command::new(binaries.join("examples").join(name));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs a command to its end. Its output must fit into a pipe buffer.
pub(crate) fn run(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the process did not exit: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

/// The log lines received so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

/// A running tallycast process, killed on drop.
pub(crate) struct Tallycast {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    pub(crate) address: SocketAddr,
}

/// A tallycast process that has exited.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Tallycast {
    /// Starts a server for `redis` and waits until it is subscribed.
    pub(crate) fn start(redis: &RedisServer, flags: &[&str]) -> Self {
        let tallycast = Self::start_unready(&redis.url(), flags);
        tallycast.until_ready();
        tallycast
    }

    /// Starts a server without waiting for a subscription.
    pub(crate) fn start_unready(redis_url: &str, flags: &[&str]) -> Self {
        let mut command = command();
        command.arg("serve").env("REDIS_URL", redis_url).args(flags);
        Self::spawn(command)
    }

    /// Runs a shell command that executes tallycast, with the environment of [`Tallycast::start`].
    pub(crate) fn spawn_limited(mut shell: Command, redis: &RedisServer) -> Self {
        shell.env("REDIS_URL", redis.url());
        let tallycast = Self::spawn(shell);
        tallycast.until_ready();
        tallycast
    }

    /// Runs `command` on a free loopback port.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_at(command, 0)
    }

    /// Runs `command` on a loopback port.
    pub(crate) fn spawn_at(mut command: Command, port: u16) -> Self {
        command.stdout(Stdio::null()).env("PORT", port.to_string());
        Self::spawn_with_stdout(command)
    }

    /// Runs `command`, which has a standard output, and a port or sockets to listen on.
    pub(crate) fn spawn_with_stdout(mut command: Command) -> Self {
        command.env("TALLYCAST_ADDRESS", "127.0.0.1").env("TALLYCAST_SHARDS", "2");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Log>::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    log.lines.lock().unwrap().push(line);
                    log.changed.notify_all();
                }
            }
        });
        let mut tallycast = Self { child, log, reader: Some(reader), address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = tallycast.wait_for_log("serving address=");
        let (_, address) = line.split_once("address=").unwrap();
        tallycast.address = address.split(' ').next().unwrap().parse().unwrap();
        tallycast
    }

    /// Waits for a log line that contains `text` and returns the first one.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{text:?} was not logged:\n{}", lines.join("\n"));
            lines = self.log.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Requests `path` and returns status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let url = self.url(path);
        block_on(async {
            let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
            let response = client.get(url).send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A counter of `/admin/counters.json`, such as `/hub/broadcast`.
    #[track_caller]
    pub(crate) fn counter(&self, pointer: &str) -> u64 {
        let counters = self.json("/admin/counters.json");
        counters.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {counters}"))
    }

    /// Waits until a counter reaches `value`.
    #[track_caller]
    pub(crate) fn until_counter(&self, pointer: &str, value: u64) {
        eventually(&format!("{pointer} is at least {value}"), || self.counter(pointer) >= value);
    }

    pub(crate) fn until_ready(&self) {
        eventually("/readyz returns 200", || self.get("/readyz").0 == 200);
    }

    /// The writing end of standard input, for a command that has it piped.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is piped")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The server's side of its connections in the kernel, which keeps those that were closed while bytes of them are unread.
    pub(crate) fn kernel_connections(&self) -> usize {
        const TIME_WAIT: &str = "06";
        const LISTEN: &str = "0A";
        let port = format!(":{:04X}", self.address.port());
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.child.id())).unwrap();
        let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let connections = table.lines().skip(1).map(columns);
        connections.filter(|row| row[1].ends_with(&port) && ![TIME_WAIT, LISTEN].contains(&&*row[3])).count()
    }

    /// Lowers the limit on open files of the running process.
    pub(crate) fn limit_files(&self, limit: u64) {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        prlimit(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Resource::Nofile, limit).unwrap();
    }

    /// The resident memory of the process in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Waits until the process exits.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the process did not exit:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        self.reader.take().unwrap().join().unwrap();
        Ended { status, log: self.log() }
    }

    /// Sends SIGTERM and waits until the process exits.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Tallycast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // The test harness shows this with the failure.
            eprintln!("--- log of tallycast\n{}\n---", self.log());
        }
    }
}

impl Ended {
    /// The final counters of all stages.
    pub(crate) fn counters(&self) -> Value {
        let (_, json) = self.log.rsplit_once("counters=").expect("the last log line contains the counters");
        serde_json::from_str(json.lines().next().unwrap()).unwrap()
    }
}
