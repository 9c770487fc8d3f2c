//! The source with a `redis-server` that each test starts.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::*;

/// A `redis-server` at a socket of its own, so that no two tests can want the same port. Ends with its owner.
struct Server {
    directory: PathBuf,
    child: Option<Child>,
}

impl Server {
    fn absent(name: &str) -> Self {
        // A socket's path may have no more than about a hundred bytes, so a short one.
        let directory = PathBuf::from(format!("/tmp/tallycast-source-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory, child: None }
    }

    fn run(&mut self, flags: &[&str]) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--loglevel", "warning", "--unixsocket"]).arg(self.socket());
        let command = command.args(flags).current_dir(&self.directory).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server must be installed"));
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What is logged, kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Long enough for a busy machine; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn no_event_is_lost_to_a_ping() {
    const EVENTS: u32 = 2000;
    let mut server = Server::absent("pings");
    server.run(&[]);
    let mut config = Config::new(server.url().parse().unwrap(), vec!["n".to_owned()]).unwrap();
    // Hardly an event comes that does not meet a ping.
    config.ping_interval = Duration::ZERO;
    let client = config.client.clone();
    let (inbox, mut events) = mpsc::channel(16);
    let (state, mut states) = watch::channel(BrokerState::Connecting);
    let (stats, shutdown) = (Arc::<SourceStats>::default(), CancellationToken::new());
    let source = tokio::spawn(run(config, inbox, state, Arc::clone(&stats), shutdown.clone()));
    timeout(PATIENCE, states.wait_for(|state| *state == BrokerState::Subscribed)).await.unwrap().unwrap();
    let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
    for number in 0..EVENTS {
        let _: u32 = redis::cmd("PUBLISH").arg("n").arg(number).query_async(&mut publisher).await.unwrap();
        let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        let Item::Event(event) = event else { panic!("not an event: {event:?}") };
        assert_eq!((&*event.channel, event.payload), ("n", number.to_string().into_bytes()));
    }
    shutdown.cancel();
    source.await.unwrap().unwrap();
    assert_eq!((stats.received.get(), stats.gaps.get()), (u64::from(EVENTS), 0));
}

#[tokio::test]
async fn each_reason_for_having_no_subscription_is_told_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut server = Server::absent("reasons");
    let config = Config::new(server.url().parse().unwrap(), vec!["n".to_owned()]).unwrap();
    let (inbox, _events) = mpsc::channel(16);
    let (state, _states) = watch::channel(BrokerState::Connecting);
    let shutdown = CancellationToken::new();
    let source = tokio::spawn(run(config, inbox, state, Arc::default(), shutdown.clone()));
    let logged = async |text: &str| {
        let wait = async {
            while !log.text().contains(text) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "{text:?} is not in the log:\n{}", log.text());
    };
    logged("No such file").await;
    // It comes, and wants a password that the URL has not: another reason, which nobody would guess from the first.
    server.run(&["--requirepass", "secret"]);
    logged("NOAUTH").await;
    // Some more attempts.
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    shutdown.cancel();
    source.await.unwrap().unwrap();
    let text = log.text();
    assert_eq!([text.matches("No such file").count(), text.matches("NOAUTH").count()], [1, 1], "{text}");
}

#[test]
fn pauses_are_jittered_within_their_bounds() {
    for _ in 0..1000 {
        let pause = jittered(BACKOFF_MAX);
        assert!(pause >= BACKOFF_MAX / 2 && pause <= BACKOFF_MAX, "{pause:?}");
    }
}
