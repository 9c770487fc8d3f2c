//! Events from Redis pub/sub: one connection, supervised here.
//!
//! The connection speaks RESP2, which every Redis version and every proxy before one understands, so that there is one
//! way to subscribe. The client library gives events through a channel without bounds; `Session::pump` reads that
//! channel whatever else it waits for, so nothing can pile up in it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::{PubSubSink, PubSubStream};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisError};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{BrokerState, PipelineEnded, RawEvent, SourceStats, pass_on};
use crate::limited::LimitedLog;

/// The first pause after a lost or failed connection. Short, because most are restarts that are over soon.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause: events flow again within a second of the broker's return.
const BACKOFF_MAX: Duration = Duration::from_millis(800);
/// A session that lived this long was a healthy one: the pause after it starts small again.
const HEALTHY: Duration = Duration::from_secs(5);

/// What the source needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server.
    pub client: Client,
    /// The server's URL without its password, for the log.
    pub url: RedisUrl,
    /// The patterns to subscribe to.
    pub patterns: Vec<String>,
    /// Give up when the first connection fails.
    pub require_broker: bool,
    /// How long connecting and subscribing may take, each.
    pub connect_timeout: Duration,
    /// The silence after which the server is asked whether it is there.
    pub ping_interval: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
}

/// A Redis URL that was found to be valid. Its [`Display`](fmt::Display) hides the password.
#[derive(Clone)]
pub struct RedisUrl {
    info: ConnectionInfo,
    masked: String,
}

/// Not a URL of a Redis server. Does not repeat the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("expected a URL that starts with redis://, rediss:// or redis+unix://")]
    Scheme,
    /// The client library refuses it.
    #[error("not a Redis URL ({0}); expected redis://[user:password@]host[:port][/database]")]
    Malformed(String),
}

/// Why the source gave up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The first connection failed and the broker is required.
    #[error("cannot subscribe at {url}: {end}")]
    Unreachable {
        /// Where, without the password.
        url: String,
        /// Why.
        end: SessionEnd,
    },
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The process shuts down.
    #[error("shutting down")]
    Shutdown,
    /// The server closed the connection, or the network did.
    #[error("the connection was closed")]
    Closed,
    /// The server did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server refused.
    #[error("{0}")]
    Refused(#[from] RedisError),
}

impl FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if !["redis://", "rediss://", "redis+unix://", "unix://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(UrlError::Scheme);
        }
        // The library's detail is left out: it repeats a part of the URL.
        let info = text.into_connection_info().map_err(|error| UrlError::Malformed(error.category().to_owned()))?;
        Ok(Self { info, masked: mask(text) })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked)
    }
}

/// The URL with its password, and any query, replaced by `***`.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    // The URL of a socket has its password in the query. Elsewhere what looks like one may be part of the password.
    let (rest, socket_query) = if scheme.ends_with("unix") { hide_from_query(rest) } else { (rest, "") };
    // What comes before the last '@' could be a password with a '/' in it, so that is hidden too.
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        let (rest, query) = hide_from_query(rest);
        return format!("{scheme}://{rest}{query}{socket_query}");
    };
    let user = credentials.split([':', '/', '?', '#']).next().unwrap_or_default();
    let (host, query) = hide_from_query(host);
    format!("{scheme}://{user}:***@{host}{query}{socket_query}")
}

/// What comes before the query, and what to show in the query's place.
fn hide_from_query(text: &str) -> (&str, &'static str) {
    text.split_once('?').map_or((text, ""), |(before, _)| (before, "?***"))
}

impl Config {
    /// The defaults for a server and patterns.
    ///
    /// # Errors
    /// When TLS is asked for and its set-up fails.
    pub fn new(url: RedisUrl, patterns: Vec<String>) -> Result<Self, RedisError> {
        // Only the first call in a process can succeed, and it is enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive);
        Ok(Self {
            client: Client::open(url.info.clone().set_tcp_settings(tcp))?,
            url,
            patterns,
            require_broker: false,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
        })
    }
}

/// Passes on what Redis publishes, until `shutdown` is cancelled. Reconnects by itself.
///
/// # Errors
/// Only when [`Config::require_broker`] is set and the first connection fails.
pub async fn run(
    config: Config,
    inbox: mpsc::Sender<RawEvent>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
) -> Result<(), SourceError> {
    let mut session = Session { config, inbox, state, stats, log: LimitedLog::new(), lost_at: None };
    let mut pause = BACKOFF_MIN;
    let mut attempts = 0_u64;
    // Why there is no subscription, as last told. The pauses bound how often it can be another reason.
    let mut told = String::new();
    loop {
        let started = Instant::now();
        let subscribed_before = session.stats.subscriptions.get();
        let end = tokio::select! {
            end = session.run() => end,
            () = shutdown.cancelled() => SessionEnd::Shutdown,
        };
        let url = &session.config.url;
        let was_subscribed = session.stats.subscriptions.get() > subscribed_before;
        match end {
            SessionEnd::Shutdown => return Ok(()),
            end if attempts == 0 && !was_subscribed && session.config.require_broker => {
                return Err(SourceError::Unreachable { url: url.to_string(), end });
            }
            end if was_subscribed => {
                session.lost_at = Some(Instant::now());
                session.state.send_replace(BrokerState::Lost);
                tracing::warn!(%url, reason = %end, "lost the subscription; what is published meanwhile is lost");
                told.clear();
            }
            end => {
                let reason = end.to_string();
                if reason == told {
                    tracing::debug!(%url, reason, attempts, "still cannot subscribe");
                } else {
                    tracing::warn!(%url, reason, "cannot subscribe yet; trying on");
                    told = reason;
                }
            }
        }
        attempts = if was_subscribed { 1 } else { attempts + 1 };
        if was_subscribed && started.elapsed() >= HEALTHY {
            pause = BACKOFF_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Between half of `pause` and all of it, so that many nodes do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    // The hasher's keys are random for each instance.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    pause / 2 + pause / 2 * u32::from(random as u16) / u32::from(u16::MAX)
}

struct Session {
    config: Config,
    inbox: mpsc::Sender<RawEvent>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    log: LimitedLog,
    lost_at: Option<Instant>,
}

/// What happened to a session.
enum Happened {
    Event(redis::Msg),
    /// The server answered a ping.
    Answered,
    Ended(SessionEnd),
}

impl From<Option<redis::Msg>> for Happened {
    fn from(next: Option<redis::Msg>) -> Self {
        next.map_or(Self::Ended(SessionEnd::Closed), Self::Event)
    }
}

impl Session {
    /// One connection, from connecting to its end.
    async fn run(&mut self) -> SessionEnd {
        match self.subscribe().await {
            Ok((sink, events)) => {
                self.subscribed();
                self.pump(sink, events).await
            }
            Err(end) => end,
        }
    }

    async fn subscribe(&self) -> Result<(PubSubSink, PubSubStream), SessionEnd> {
        let limit = self.config.connect_timeout;
        let in_time = |_| SessionEnd::TimedOut(limit);
        let connection = timeout(limit, self.config.client.get_async_pubsub()).await.map_err(in_time)??;
        let (mut sink, events) = connection.split();
        timeout(limit, sink.psubscribe(&self.config.patterns)).await.map_err(in_time)??;
        Ok((sink, events))
    }

    fn subscribed(&mut self) {
        self.stats.subscriptions.add(1);
        self.state.send_replace(BrokerState::Subscribed);
        let url = &self.config.url;
        match self.lost_at.take().map(|lost_at| lost_at.elapsed()) {
            Some(gap) => {
                self.stats.gaps.add(1);
                self.stats.gap_milliseconds.add(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
                tracing::warn!(%url, ?gap, "subscribed again");
            }
            None => tracing::info!(%url, patterns = ?self.config.patterns, "subscribed"),
        }
    }

    /// Passes events on until the connection ends. A connection that is silent is asked whether it is alive: a server
    /// that froze, or a network that drops everything, would look just like one without news.
    async fn pump(&mut self, mut sink: PubSubSink, mut events: PubSubStream) -> SessionEnd {
        let Config { ping_interval, ping_timeout, .. } = self.config;
        loop {
            let happened = match timeout(ping_interval, events.next()).await {
                Ok(next) => next.into(),
                Err(_) => tokio::select! {
                    // First, because an event shows as well as an answer does that the server is there, even when this
                    // process was the one that stood still. The answer that is then not waited for does no harm.
                    biased;
                    next = events.next() => next.into(),
                    answer = timeout(ping_timeout, sink.ping::<redis::Value>()) => match answer {
                        Ok(Ok(_)) => Happened::Answered,
                        Ok(Err(error)) => Happened::Ended(SessionEnd::Refused(error)),
                        Err(_) => Happened::Ended(SessionEnd::TimedOut(ping_timeout)),
                    },
                },
            };
            match happened {
                Happened::Event(event) => {
                    let event = RawEvent {
                        channel: event.get_channel_name().to_owned(),
                        payload: event.get_payload_bytes().to_vec(),
                    };
                    if let Err(PipelineEnded) = pass_on(event, &self.inbox, &self.stats, &mut self.log) {
                        return SessionEnd::Shutdown;
                    }
                }
                Happened::Answered => {}
                Happened::Ended(end) => return end,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_are_hidden() {
        let shown = |url: &str| url.parse::<RedisUrl>().unwrap().to_string();
        assert_eq!(shown("redis://user:secret@host:6379/1"), "redis://user:***@host:6379/1");
        assert_eq!(shown("rediss://:se%2Fcret@host/#insecure"), "rediss://:***@host/#insecure");
        assert_eq!(shown("redis://localhost"), "redis://localhost");
        assert!(!format!("{:?}", "redis://:secret@host".parse::<RedisUrl>().unwrap()).contains("secret"));
    }

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        let shown = |url: &str| url.parse::<RedisUrl>().unwrap().to_string();
        assert_eq!(shown("redis+unix:///run/redis.sock"), "redis+unix:///run/redis.sock");
        assert_eq!(shown("unix:///run/redis.sock?db=1&user=u&pass=secret"), "unix:///run/redis.sock?***");
        for url in [
            "redis+unix:///run/redis.sock?user=a&pass=sec@ret",
            "unix://:secret@localhost/run/redis.sock?pass=secret",
            "redis://localhost/?password=secret@there",
            "redis://user:12?secret@host",
        ] {
            let shown = shown(url);
            assert!(!shown.contains("sec") && !shown.contains("ret") && !shown.contains("12"), "{url} -> {shown}");
        }
    }

    proptest! {
        #[test]
        fn no_url_gives_its_password_away(
            before in "rediss?://[a-z:@/?#&=]{0,12}|(redis\\+)?unix:///[a-z@?&=]{0,4}[?&]pass",
            separator in "[:=]",
            after in "[a-z0-9:@/?#&=]{0,6}",
            end in "(@[a-z]{1,4}(/[0-9])?)?",
        ) {
            // In upper case, which no other part has.
            let text = format!("{before}{separator}FIRST{after}LAST{end}");
            let Ok(url) = text.parse::<RedisUrl>() else { return Ok(()) };
            for secret in ["FIRST", "LAST"] {
                if url.info.redis_settings().password().is_some_and(|password| password.contains(secret)) {
                    prop_assert!(!url.to_string().contains(secret), "{} -> {}", text, url);
                }
            }
        }
    }

    #[test]
    fn mistakes_are_named_without_the_password() {
        let error = |url: &str| url.parse::<RedisUrl>().unwrap_err().to_string();
        assert_eq!(
            error("http://:secret@host"),
            "expected a URL that starts with redis://, rediss:// or redis+unix://"
        );
        for url in [
            "redis://:secret@host:port",
            "redis://:secret@host/notanumber",
            "redis://",
            "redis://a:1?protocol=secret@b",
        ] {
            let error = error(url);
            assert!(error.contains("expected redis://") && !error.contains("secret"), "{error}");
        }
    }

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
            assert_eq!(event, RawEvent { channel: "n".to_owned(), payload: number.to_string().into_bytes() });
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
}
