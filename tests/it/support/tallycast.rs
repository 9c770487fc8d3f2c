//! The built binary as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{LIMIT, RedisServer, block_on, eventually};

/// The binary, with nothing of this process's environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallycast"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs a command that is to end by itself; what it prints must fit into a pipe.
pub(crate) fn run(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it did not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

/// The lines of a log, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

/// A running tallycast, which is killed with its owner.
pub(crate) struct Tallycast {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    pub(crate) address: SocketAddr,
}

/// A tallycast that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Tallycast {
    /// Serves what `redis` publishes, and is subscribed there.
    pub(crate) fn start(redis: &RedisServer, flags: &[&str]) -> Self {
        let tallycast = Self::start_unready(&redis.url(), flags);
        tallycast.until_ready();
        tallycast
    }

    /// Serves, but is perhaps not subscribed.
    pub(crate) fn start_unready(redis_url: &str, flags: &[&str]) -> Self {
        let mut command = command();
        command.arg("serve").env("REDIS_URL", redis_url).args(flags);
        Self::spawn(command)
    }

    /// Runs a shell that makes way for tallycast, with the variables that [`Tallycast::start`] would set.
    pub(crate) fn spawn_limited(mut shell: Command, redis: &RedisServer) -> Self {
        shell.env("REDIS_URL", redis.url());
        let tallycast = Self::spawn(shell);
        tallycast.until_ready();
        tallycast
    }

    /// Runs `command` on a free port of loopback.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_at(command, 0)
    }

    /// Runs `command` at `port` of loopback.
    pub(crate) fn spawn_at(mut command: Command, port: u16) -> Self {
        command.env("TALLYCAST_ADDRESS", "127.0.0.1").env("PORT", port.to_string()).env("TALLYCAST_SHARDS", "2");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
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

    /// The first line of the log, past or to come, that contains `text`.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{text:?} was never logged, but:\n{}", lines.join("\n"));
            lines = self.log.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and body of an ordinary page.
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

    /// One number of `/admin/counters.json`, such as `/hub/broadcast`.
    #[track_caller]
    pub(crate) fn counter(&self, pointer: &str) -> u64 {
        let counters = self.json("/admin/counters.json");
        counters.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {counters}"))
    }

    /// Waits until a counter has reached `value`.
    #[track_caller]
    pub(crate) fn until_counter(&self, pointer: &str, value: u64) {
        eventually(&format!("{pointer} is at least {value}"), || self.counter(pointer) >= value);
    }

    pub(crate) fn until_ready(&self) {
        eventually("/readyz says 200", || self.get("/readyz").0 == 200);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The memory that the process holds, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        self.reader.take().unwrap().join().unwrap();
        Ended { status, log: self.log() }
    }

    /// Asks the process to end and waits until it has.
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
            // Shown by the test harness beside the failure.
            eprintln!("--- log of tallycast\n{}\n---", self.log());
        }
    }
}

impl Ended {
    /// What the stages had counted at the end.
    pub(crate) fn counters(&self) -> Value {
        let (_, json) = self.log.rsplit_once("counters=").expect("the last line tells the counters");
        serde_json::from_str(json.lines().next().unwrap()).unwrap()
    }
}
