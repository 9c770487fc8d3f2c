//! Sessions: the streams of `sandbox load --sessions`, and the backend of `--session-changes`.
//!
//! Each session has one connection and one topic of its own, on which nothing is published. Each change replaces the topic of the
//! next session in turn. The backend puts changes into the list of commands at an even rate, whatever becomes of the ones
//! before, and subscribes to their outcomes.

use std::{
    collections::HashMap,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep_until, timeout};
use tokio_stream::StreamExt;

use super::{
    REDIS_LIMIT,
    delivery::{latencies, record},
    schedule::{BATCH_PERIOD, Schedule},
};
use crate::signals;

/// The list of commands of tallycast.
const COMMANDS: &str = "tallycast:sessions:commands";

/// The channel of their outcomes.
const ACKNOWLEDGEMENTS: &str = "tallycast:sessions:acknowledgements";

/// The maximum number of changes per round trip to Redis.
const MAX_BATCH: u64 = 1_000;

/// The longest wait for an outcome, so that signals and time limits are noticed.
const OUTCOME_POLL: Duration = Duration::from_millis(50);

/// The changes to make.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) redis: String,
    /// Number of sessions.
    pub(super) sessions: usize,
    pub(super) schedule: Schedule,
    /// How long to wait for outcomes after the last change.
    pub(super) drain: Duration,
}

/// What came of the changes.
#[derive(Clone, Debug)]
pub(super) struct SessionChanges {
    /// Changes that were put into the list.
    pub(super) pushed: u64,
    /// From the first change until the last response of Redis.
    pub(super) push_period: Duration,
    /// Changes that the connection of the session has followed.
    pub(super) acknowledged: u64,
    /// Changes with another outcome, and what was wrong with the first.
    pub(super) failed: u64,
    pub(super) first_failure: Option<String>,
    /// Changes without an outcome until the end.
    pub(super) unanswered: u64,
    /// From before the RPUSH until the arrival of the acknowledgement, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// From the first change until the last acknowledgement.
    pub(super) period: Duration,
    /// CPU time of the server for each change: what the run took more than the same without changes.
    pub(super) cpu: Option<Duration>,
}

/// The changes so far.
struct Backend {
    sessions: u64,
    /// When the changes without an outcome were sent, by their numbers.
    sent_at: HashMap<u64, Duration>,
    changes: SessionChanges,
}

/// What tallycast publishes about a command.
#[derive(Debug, Deserialize)]
struct Outcome {
    id: u64,
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    connections: usize,
}

/// The topic of session `session` after `changes` changes.
fn topic(session: u64, changes: u64) -> String {
    format!("/view/{session}/{changes}")
}

/// The path and query of the stream of session `session`.
pub(super) fn path(session: usize) -> String {
    format!("/session/s{session}?topic={}", topic(session as u64, 0))
}

/// The path of a plain stream of the same topic.
pub(super) fn plain_path(session: usize) -> String {
    format!("/subscribe{}", topic(session as u64, 0))
}

/// Empties Redis. The sessions of a server that was killed end a while later, which would disturb the measurement of the next.
///
/// # Errors
/// If Redis cannot be used.
pub(super) fn forget(redis: &str) -> Result<()> {
    let mut connection = redis::Client::open(redis)?.get_connection_with_timeout(REDIS_LIMIT)?;
    connection.set_read_timeout(Some(REDIS_LIMIT))?;
    connection.set_write_timeout(Some(REDIS_LIMIT))?;
    redis::cmd("FLUSHALL").exec(&mut connection).context("cannot empty Redis")
}

/// Starts to change topics on a separate thread, which ends by itself.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn start(plan: Plan) -> Result<JoinHandle<Result<SessionChanges>>> {
    thread::Builder::new()
        .name("backend".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(change_sessions(&plan))
        })
        .context("cannot start the backend")
}

async fn change_sessions(plan: &Plan) -> Result<SessionChanges> {
    let client = redis::Client::open(plan.redis.as_str())?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(REDIS_LIMIT)).set_response_timeout(Some(REDIS_LIMIT));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut commands = connecting.await.context("the backend cannot reach Redis")?;
    let subscribing = async {
        let mut outcomes = client.get_async_pubsub().await?;
        outcomes.subscribe(ACKNOWLEDGEMENTS).await?;
        anyhow::Ok(outcomes.into_on_message())
    };
    let mut outcomes = timeout(REDIS_LIMIT, subscribing).await?.context("the backend cannot subscribe to outcomes")?;

    let mut backend = Backend::new(plan.sessions)?;
    let started = Instant::now();
    let mut next_batch = started;
    let mut drain_until = None;
    loop {
        signals::check()?;
        let is_pushing = !plan.schedule.is_over(backend.changes.pushed, started.elapsed());
        if !is_pushing {
            let limit = *drain_until.get_or_insert_with(|| Instant::now() + plan.drain);
            if backend.sent_at.is_empty() || Instant::now() >= limit {
                return Ok(backend.finish());
            }
        }
        let wake = if is_pushing { next_batch } else { Instant::now() + OUTCOME_POLL };
        tokio::select! {
            outcome = outcomes.next() => {
                let outcome = outcome.context("Redis closed the subscription to outcomes")?;
                backend.take(outcome.get_payload_bytes(), started.elapsed())?;
            }
            () = sleep_until(wake.into()) => if is_pushing {
                let due = plan.schedule.due_count(started.elapsed()).min(backend.changes.pushed + MAX_BATCH);
                let earliest = Instant::now() + BATCH_PERIOD;
                backend.push(due, started, &mut commands).await?;
                next_batch = earliest.max(started + plan.schedule.due(due)).min(Instant::now() + OUTCOME_POLL);
            }
        }
    }
}

impl Backend {
    fn new(sessions: usize) -> Result<Self> {
        let changes = SessionChanges {
            pushed: 0,
            push_period: Duration::ZERO,
            acknowledged: 0,
            failed: 0,
            first_failure: None,
            unanswered: 0,
            latency: latencies()?,
            period: Duration::ZERO,
            cpu: None,
        };
        Ok(Self { sessions: sessions as u64, sent_at: HashMap::new(), changes })
    }

    /// Puts all changes up to number `due` into the list. Times count from `started`.
    async fn push(&mut self, due: u64, started: Instant, connection: &mut MultiplexedConnection) -> Result<()> {
        if due <= self.changes.pushed {
            return Ok(());
        }
        let mut push = redis::cmd("RPUSH");
        push.arg(COMMANDS);
        for id in self.changes.pushed..due {
            push.arg(self.send(id, started.elapsed()));
        }
        push.exec_async(connection).await.context("the backend cannot send commands")?;
        self.changes.push_period = started.elapsed();
        Ok(())
    }

    /// The command of change `id`, which is sent at `now`.
    fn send(&mut self, id: u64, now: Duration) -> String {
        let session = id % self.sessions;
        self.sent_at.insert(id, now);
        self.changes.pushed += 1;
        json!({ "session": format!("s{session}"), "id": id, "topics": [topic(session, id / self.sessions + 1)] })
            .to_string()
    }

    /// Records an outcome that arrived at `now`.
    ///
    /// # Errors
    /// If it is of no change that waits for one.
    fn take(&mut self, outcome: &[u8], now: Duration) -> Result<()> {
        let unexpected = || format!("unexpected outcome {}", String::from_utf8_lossy(outcome));
        let Outcome { id, ok, error, connections } = serde_json::from_slice(outcome).with_context(unexpected)?;
        let sent_at = self.sent_at.remove(&id).with_context(unexpected)?;
        let changes = &mut self.changes;
        if ok && connections == 1 {
            changes.acknowledged += 1;
            changes.period = now;
            record(&mut changes.latency, now.saturating_sub(sent_at));
        } else {
            changes.failed += 1;
            let reason = if ok { format!("{connections} connections have followed, expected 1") } else { error };
            changes.first_failure.get_or_insert(reason);
        }
        Ok(())
    }

    /// The result, without waiting for further outcomes.
    fn finish(self) -> SessionChanges {
        SessionChanges { unanswered: self.sent_at.len() as u64, ..self.changes }
    }
}

impl SessionChanges {
    /// Acknowledged changes per second. `None` if there are none.
    pub(super) fn rate(&self) -> Option<f64> {
        (self.acknowledged > 0).then(|| self.acknowledged as f64 / self.period.as_secs_f64())
    }

    /// Changes per second that were put into the list.
    pub(super) fn pushed_per_second(&self) -> f64 {
        self.pushed as f64 / self.push_period.as_secs_f64()
    }

    /// Sets the CPU time of each change: what `total` is above `without`, the same run without changes.
    pub(super) fn set_cpu(&mut self, total: Duration, without: Duration) {
        let acknowledged = u32::try_from(self.acknowledged).unwrap_or(u32::MAX);
        self.cpu = total.saturating_sub(without).checked_div(acknowledged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_gives_the_next_session_another_topic() -> Result<()> {
        let mut backend = Backend::new(2)?;
        let commands: Vec<String> = (0..3).map(|id| backend.send(id, Duration::ZERO)).collect();
        assert_eq!(
            commands,
            [
                r#"{"id":0,"session":"s0","topics":["/view/0/1"]}"#,
                r#"{"id":1,"session":"s1","topics":["/view/1/1"]}"#,
                r#"{"id":2,"session":"s0","topics":["/view/0/2"]}"#,
            ]
        );
        assert_eq!(path(1), "/session/s1?topic=/view/1/0");
        Ok(())
    }

    #[test]
    fn only_changes_that_the_connection_has_followed_are_acknowledged() -> Result<()> {
        let mut backend = Backend::new(4)?;
        (0..4).for_each(|id| drop(backend.send(id, Duration::from_secs(id))));
        let at = Duration::from_secs(5);
        backend.take(br#"{"id":1,"session":"s1","ok":true,"connections":1,"nodes":["a"]}"#, at)?;
        backend.take(br#"{"id":2,"session":"s2","ok":true,"connections":0,"waiting":["a"]}"#, at)?;
        backend.take(br#"{"id":0,"session":"s0","ok":false,"error":"no session \"s0\""}"#, at)?;
        let changes = backend.finish();
        assert_eq!((changes.pushed, changes.acknowledged, changes.failed, changes.unanswered), (4, 1, 2, 1));
        assert_eq!(changes.first_failure.as_deref(), Some("0 connections have followed, expected 1"));
        assert_eq!((changes.latency.len(), changes.period, changes.rate()), (1, at, Some(0.2)));
        assert_eq!(changes.latency.min(), Histogram::<u64>::lowest_equivalent(&changes.latency, 4_000_000));
        Ok(())
    }

    #[test]
    fn outcomes_of_unknown_changes_are_errors() -> Result<()> {
        let mut backend = Backend::new(1)?;
        backend.send(0, Duration::ZERO);
        let outcome = br#"{"id":0,"ok":true,"connections":1}"#;
        backend.take(outcome, Duration::ZERO)?;
        let errors =
            [&outcome[..], br#"{"ok":false,"error":"no"}"#].map(|outcome| backend.take(outcome, Duration::ZERO));
        assert!(errors.iter().all(Result::is_err));
        assert_eq!(backend.finish().acknowledged, 1);
        Ok(())
    }

    #[test]
    fn cpu_of_a_change_is_what_the_run_took_more() -> Result<()> {
        let mut changes = Backend::new(1)?.finish();
        changes.set_cpu(Duration::from_secs(3), Duration::from_secs(1));
        assert_eq!((changes.cpu, changes.rate()), (None, None));
        changes.acknowledged = 1_000;
        changes.set_cpu(Duration::from_secs(3), Duration::from_secs(1));
        assert_eq!(changes.cpu, Some(Duration::from_millis(2)));
        Ok(())
    }
}
