//! The source with a `redis-server` that each test starts.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

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

    fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--loglevel", "warning", "--unixsocket"]).arg(self.socket());
        let command = command.current_dir(&self.directory).stdin(Stdio::null()).stdout(Stdio::null());
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

/// Long enough for a busy machine; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn no_event_is_lost_to_a_ping() {
    const EVENTS: u32 = 2000;
    let mut server = Server::absent("pings");
    server.run();
    let mut config = Config::new(server.url().parse().unwrap()).unwrap();
    let (_patterns, patterns) = watch::channel(vec!["n".to_owned()]);
    // Hardly an event comes that does not meet a ping.
    config.ping_interval = Duration::ZERO;
    let client = config.client.clone();
    let (inbox, mut events) = mpsc::channel(16);
    let (state, mut states) = watch::channel(BrokerState::Connecting);
    let (stats, shutdown) = (Arc::<SourceStats>::default(), CancellationToken::new());
    let source = tokio::spawn(run(config, patterns, inbox, state, Arc::clone(&stats), shutdown.clone()));
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

#[test]
fn pauses_are_jittered_within_their_bounds() {
    for _ in 0..1000 {
        let pause = jittered(BACKOFF_MAX);
        assert!(pause >= BACKOFF_MAX / 2 && pause <= BACKOFF_MAX, "{pause:?}");
    }
}
