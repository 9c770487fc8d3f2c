//! Commands to a real `redis-server`, which unit tests of other modules start too.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A `redis-server` on a socket of its own, so that no two tests compete for a port. Ends with its owner.
pub(crate) struct Server {
    directory: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// A server that is not running yet. `name` is unique among the tests.
    pub(crate) fn absent(name: &str) -> Self {
        // A socket's path is limited to about a hundred bytes.
        let directory = PathBuf::from(format!("/tmp/tallycast-unit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory, child: None }
    }

    pub(crate) fn start(name: &str) -> Self {
        let mut server = Self::absent(name);
        server.run(&[]);
        server
    }

    /// Starts the server and waits until it accepts connections.
    pub(crate) fn run(&mut self, flags: &[&str]) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--loglevel", "warning", "--unixsocket"]).arg(self.socket());
        let command = command.args(flags).current_dir(&self.directory).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server must be installed"));
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not accept connections");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process without closing its connections, as a machine that hangs would.
    pub(crate) fn freeze(&self) {
        let id = self.child.as_ref().expect("it runs").id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), Signal::STOP).unwrap();
    }

    /// Lets a stopped process go on.
    pub(crate) fn thaw(&self) {
        let id = self.child.as_ref().expect("it runs").id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), Signal::CONT).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    pub(crate) fn url(&self) -> RedisUrl {
        format!("redis+unix://{}", self.socket().display()).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Long enough for a busy machine; only a failure takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

async fn ping(client: &RedisClient) -> RedisResult<String> {
    client.query(&redis::cmd("PING")).await
}

#[tokio::test]
async fn commands_work_again_as_soon_as_redis_does() {
    let mut server = Server::absent("restarts");
    let client = RedisClient::new(open(&server.url()).unwrap(), PATIENCE);
    for _ in 0..3 {
        assert!(ping(&client).await.unwrap_err().is_io_error());
        assert!(ping(&client).await.unwrap_err().is_io_error());
        server.run(&[]);
        assert_eq!(ping(&client).await.unwrap(), "PONG");
        // The broken connection goes unnoticed.
        server.kill();
        server.run(&[]);
        assert_eq!(ping(&client).await.unwrap(), "PONG");
        server.kill();
    }
}

#[tokio::test]
async fn refused_login_is_retried() {
    let mut server = Server::absent("login");
    server.run(&["--requirepass", "secret"]);
    let client = RedisClient::new(open(&format!("{}?pass=wrong", server.url()).parse().unwrap()).unwrap(), PATIENCE);
    for _ in 0..2 {
        assert!(!ping(&client).await.unwrap_err().is_io_error());
    }
    server.kill();
    server.run(&["--requirepass", "wrong"]);
    assert_eq!(ping(&client).await.unwrap(), "PONG");
}

#[tokio::test]
async fn commands_to_a_frozen_redis_fail_within_the_time_limit() {
    let mut server = Server::start("frozen");
    let client = RedisClient::new(open(&server.url()).unwrap(), Duration::from_millis(200));
    assert_eq!(ping(&client).await.unwrap(), "PONG");
    server.freeze();
    // The first has a connection, the second opens another.
    for _ in 0..2 {
        let error = timeout(PATIENCE, ping(&client)).await.expect("an answer").unwrap_err();
        assert!(error.is_timeout(), "{error}");
    }
    server.kill();
    server.run(&[]);
    assert_eq!(ping(&client).await.unwrap(), "PONG");
}
