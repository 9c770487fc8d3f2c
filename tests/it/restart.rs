//! Restarts that nobody notices: connections are accepted all the time, and streams continue, while one process replaces another.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::resume::{Ids, Item, event_stream, ids, websocket};
use crate::support::{Ended, LIMIT, RedisServer, Tallycast, TempDir, command, eventually, run};

const FLAGS: [&str; 4] = ["--route", "stream:orders=/orders,history=1h", "--keep-alive", "1s"];
const RESTARTS: usize = 10;
const READERS: usize = 6;

fn serve(redis: &RedisServer, flags: &[&str]) -> Command {
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(FLAGS).args(flags);
    serve
}

/// The command with sockets passed as systemd does. The last one is made from standard input, the one before from standard output.
fn with_sockets(serve: &Command, sockets: Vec<OwnedFd>) -> Command {
    let redirections = match sockets.len() {
        1 => "3<&0",
        _ => "4<&0 3<&1",
    };
    let script = format!(
        "exec {redirections} 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES=web exec \"$0\" \"$@\"",
        sockets.len()
    );
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.arg("-c").arg(script).arg(serve.get_program()).args(serve.get_args());
    let mut sockets = sockets.into_iter().rev();
    shell.stdin(sockets.next().unwrap());
    if let Some(socket) = sockets.next() {
        shell.stdout(socket);
    }
    shell
}

fn passed(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().unwrap().into()
}

/// Clients that connect all the time until they are stopped.
pub(crate) struct Connectors {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Connectors {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let threads = [("/healthz", 0), ("/subscribe/orders", 0), ("/v1/rankings", 3)].map(|(path, pause)| {
            let pause = Duration::from_millis(pause);
            let (stop, answered, failures) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&failures));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match request(address, path, pause) {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.lock().unwrap().push(format!("{path}: {error}")),
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        });
        Self { stop, answered, failures, threads: threads.into() }
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops them; each of their requests must have been answered.
    pub(crate) fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failures: {:?}", failures.len(), failures.iter().take(5).collect::<Vec<_>>());
        self.answered.load(Ordering::Relaxed)
    }
}

/// Connects, and expects the head of a response with status 200.
pub(crate) fn connect(address: SocketAddr, path: &str) -> std::io::Result<()> {
    request(address, path, Duration::ZERO)
}

/// As [`connect`], with a pause before the request.
fn request(address: SocketAddr, path: &str, pause: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    std::thread::sleep(pause);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::Error::other(format!("closed after {:?}", String::from_utf8_lossy(&head)))),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    match head.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned())),
    }
}

/// Adds entries until it is stopped.
struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Publisher {
    fn start(redis: &RedisServer) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut connection = redis.connect();
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut number = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let _: String = redis::cmd("XADD")
                        .arg(&["orders", "*", "data", &number.to_string()])
                        .query(&mut connection)
                        .unwrap();
                    number += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { stop, thread }
    }

    /// Stops, and returns the ids of all entries.
    fn stop(self, redis: &RedisServer) -> Vec<Ids> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let entries: Vec<(String, HashMap<String, String>)> =
            redis::cmd("XRANGE").arg(&["orders", "-", "+"]).query(&mut redis.connect()).unwrap();
        entries.iter().map(|(id, _)| ids(id)).collect()
    }
}

/// Reads from the first entry on until it has `last`, and continues where a stream has ended. Returns the ids, and the number of streams.
async fn read(number: usize, address: SocketAddr, last: Arc<OnceLock<Ids>>) -> (Vec<Ids>, usize) {
    let mut got: Vec<Ids> = Vec::new();
    let mut position = "earliest".to_owned();
    for streams in 1.. {
        let (query, id) = ("topic=/orders", Some(&*position));
        let opened = match number % 4 {
            3 => timeout(LIMIT, websocket(address, query, id)).await,
            how => timeout(LIMIT, event_stream(address, query, id, how)).await,
        };
        let mut items = opened.unwrap().unwrap_or_else(|error| panic!("reader {number}: {error}"));
        while let Some(item) = timeout(LIMIT, items.next()).await.expect("no event and no heartbeat in time") {
            match item.unwrap_or_else(|error| panic!("reader {number}, stream {streams}, was cut off: {error}")) {
                Item::Message(id) => {
                    got.push(ids(&id));
                    position = id;
                }
                Item::Position(id) => position = id,
                Item::Reset(reset) => panic!("reader {number} was reset: {reset}"),
            }
            if last.get().is_some_and(|last| got.last() >= Some(last)) {
                return (got, streams);
            }
        }
    }
    unreachable!()
}

/// Restarts `tallycast` ten times by `replace`, which starts the next process and stops the one before. Returns the last one.
fn restart(
    redis: &RedisServer,
    mut tallycast: Tallycast,
    replace: impl Fn(Tallycast) -> (Tallycast, Ended),
) -> Tallycast {
    let address = tallycast.address;
    let publisher = Publisher::start(redis);
    let last = Arc::<OnceLock<Ids>>::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let readers: Vec<_> = (0..READERS).map(|number| runtime.spawn(read(number, address, Arc::clone(&last)))).collect();
    tallycast.until_counter("/hub/connections", READERS as u64);
    let connectors = Connectors::start(address);
    for _ in 0..RESTARTS {
        let before = connectors.answered();
        let (next, ended) = replace(tallycast);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        assert!(!ended.log.contains("cut off"), "{}", ended.log);
        assert_eq!(next.address, address);
        tallycast = next;
        eventually("connections were made during and after the restart", || connectors.answered() > before + 10);
    }
    assert!(connectors.stop() > RESTARTS * 10);
    let entries = publisher.stop(redis);
    last.set(*entries.last().unwrap()).unwrap();
    for (number, reader) in readers.into_iter().enumerate() {
        let (got, streams) = runtime.block_on(async { timeout(2 * LIMIT, reader).await.unwrap().unwrap() });
        assert!(got == entries, "reader {number} has another sequence than the stream");
        assert!(streams > RESTARTS / 2, "reader {number} had {streams} streams");
    }
    tallycast
}

#[test]
fn ten_restarts_by_handover_refuse_no_connection_and_lose_nothing() {
    let redis = RedisServer::start();
    let directory = TempDir::new();
    let path = directory.path().join("handover");
    let flags = ["--handover", path.to_str().unwrap(), "--drain-delay", "10m"];
    let start = || {
        let tallycast = Tallycast::spawn(serve(&redis, &flags));
        tallycast.until_ready();
        tallycast
    };
    let last = restart(&redis, start(), |before| {
        let next = start();
        // It needs no signal.
        let ended = before.wait();
        next.wait_for_log("taken over");
        (next, ended)
    });
    // None of the others has left anything.
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    drop(last);
}

#[test]
fn ten_restarts_with_a_passed_socket_refuse_no_connection_and_lose_nothing() {
    let redis = RedisServer::start();
    let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let start = || Tallycast::spawn(with_sockets(&serve(&redis, &[]), vec![passed(&socket)]));
    restart(&redis, start(), |before| {
        // Serves when it is ready.
        let next = start();
        (next, before.terminate())
    });
}

#[test]
fn processes_that_share_a_port_are_replaced_without_a_refused_connection() {
    let redis = RedisServer::start();
    let mut tallycast = Tallycast::spawn(serve(&redis, &["--reuse-port"]));
    let address = tallycast.address;
    let connectors = Connectors::start(address);
    for _ in 0..2 {
        let next = Tallycast::spawn_at(serve(&redis, &["--reuse-port"]), address.port());
        let before = connectors.answered();
        eventually("both accept connections", || {
            connectors.answered() > before + 20 && next.log().contains("serving") && next.counter("/http/accepted") > 3
        });
        let ended = tallycast.terminate();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        tallycast = next;
    }
    connectors.stop();
}

#[test]
fn process_that_is_not_ready_does_not_replace_the_one_that_serves() {
    let redis = RedisServer::start();
    let directory = TempDir::new();
    let path = directory.path().join("handover");
    let handover = ["--handover", path.to_str().unwrap()];
    let tallycast = Tallycast::spawn(serve(&redis, &handover));
    tallycast.until_ready();
    let mut next = serve(&redis, &handover);
    let next = run(next.env("REDIS_URL", "redis://127.0.0.1:1").args(["--ready-limit", "100ms"]));
    let log = String::from_utf8_lossy(&next.stderr).into_owned();
    assert_eq!(next.status.code(), Some(69), "{log}");
    assert!(
        log.contains("not ready within --ready-limit (100ms); the process that was to be replaced goes on"),
        "{log}"
    );
    tallycast.wait_for_log("this one goes on serving");
    assert_eq!(tallycast.get("/readyz").0, 200);
    // The next one is not held up.
    let next = Tallycast::spawn(serve(&redis, &handover));
    assert_eq!(next.address, tallycast.address);
    assert_eq!(tallycast.wait().status.code(), Some(0));
    // A killed process leaves its socket, and nobody behind it.
    drop(next);
    assert!(path.exists());
    let tallycast = Tallycast::spawn(serve(&redis, &handover));
    assert!(!tallycast.log().contains("taken over"), "{}", tallycast.log());
    assert_eq!(tallycast.terminate().status.code(), Some(0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn passed_sockets_must_be_listening_tcp_sockets() {
    let redis = RedisServer::start();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let datagrams = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    for (socket, expected) in [
        (connected.into(), "invalid socket 1 of LISTEN_FDS (web): expected a socket that listens"),
        (datagrams.into(), "invalid socket 1 of LISTEN_FDS (web): fd 3 is not a valid tcp socket"),
    ] {
        let ended = run(&mut with_sockets(&serve(&redis, &[]), vec![socket]));
        let log = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(69), "{log}");
        assert!(log.contains(expected), "{log}");
    }
    // Variables that are meant for another process.
    let mut other = serve(&redis, &[]);
    other.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    Tallycast::spawn(other);
}

/// Receives the next notification that is not a sign of life, and the number of those before it.
fn notification(supervisor: &UnixDatagram) -> (String, usize) {
    let mut buffer = [0; 4096];
    for signs_of_life in 0.. {
        let length = supervisor.recv(&mut buffer).expect("a notification in time");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text != "WATCHDOG=1" {
            return (text, signs_of_life);
        }
    }
    unreachable!()
}

#[test]
fn supervisor_passes_several_sockets_and_is_notified() {
    let redis = RedisServer::start();
    let directory = TempDir::new();
    let path = directory.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(LIMIT)).unwrap();
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let mut serve = serve(&redis, &["--drain-delay", "1s", "--drain", "2s", "--shutdown-limit", "3s"]);
    serve.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000");
    let tallycast = Tallycast::spawn_with_stdout(with_sockets(&serve, sockets.map(OwnedFd::from).into()));
    assert_eq!(notification(&supervisor).0, "READY=1\nSTATUS=serving");
    assert_eq!(tallycast.address, addresses[0]);
    for address in addresses {
        connect(address, "/healthz").unwrap();
    }
    eventually("signs of life arrive", || {
        tallycast.signal(Signal::HUP);
        let (text, signs_of_life) = notification(&supervisor);
        assert!(text.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{text}");
        assert_eq!(notification(&supervisor).0, "READY=1\nSTATUS=serving");
        signs_of_life > 0
    });
    tallycast.signal(Signal::TERM);
    assert_eq!(notification(&supervisor).0, "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=11000000");
    assert_eq!(tallycast.wait().status.code(), Some(0));
}
