//! Commands of a backend through the broker: a list in Redis, from which one node at a time takes them, in their order.
//!
//! A command is a JSON object with `session`, the members of a [`ChangeRequest`], or `send`, or `end`. Its outcome is published on the
//! channel that it names in `reply`, or on [`ACKNOWLEDGEMENTS`].

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command::SessionMessage;
use super::request::{ChangeRequest, RequestError, check_message, check_reason};
use super::store::SessionError;
use super::{EventTarget, Reached, SessionName, Sessions, pending};
use crate::nodes::script;
use crate::rate_limited_log::RateLimitedLog;
use crate::redis_client::RedisClient;

/// The list of commands.
pub const COMMANDS: &str = "tallycast:sessions:commands";
/// The channel of outcomes, unless a command names another one.
pub const ACKNOWLEDGEMENTS: &str = "tallycast:sessions:acknowledgements";
/// The key that says which node takes commands.
const CONSUMER: &str = "tallycast:sessions:consumer";
/// How long a node takes commands after it has last said so.
const CONSUMER_LEASE: Duration = Duration::from_secs(5);
/// Time between two attempts to become the node that takes them.
const CONSUMER_PERIOD: Duration = Duration::from_secs(1);
/// Commands that are taken together.
const BATCH: usize = 128;
/// Seconds that Redis waits for a command. A shutdown waits as long, so that none is lost that Redis has just handed out.
const WAIT_SECONDS: f64 = 0.5;
/// Time at a shutdown for that, and for the commands that were taken.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// Time for Redis to answer; longer than it waits.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a command.
const MAX_COMMAND_BYTES: usize = 512 * 1024;
/// Commands whose nodes are waited for at the same time.
const MAX_WAITING: usize = pending::MAX_WAITING / 4;

/// Has this node go on taking commands, or begin to if no other one does. Returns 1 if it does.
const CONSUME: &str = "
    local consumer = redis.call('GET', KEYS[1])
    if consumer and consumer ~= ARGV[1] then
        return 0
    end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1
";

/// A command.
#[derive(Debug, Deserialize)]
struct Request {
    session: String,
    /// Repeated in the outcome.
    #[serde(default)]
    id: Option<Value>,
    /// The channel of the outcome.
    #[serde(default)]
    reply: Option<String>,
    #[serde(default)]
    send: Option<SessionMessage>,
    /// The reason for which the session ends.
    #[serde(default)]
    end: Option<String>,
    #[serde(flatten)]
    change: serde_json::Map<String, Value>,
}

/// What came of a command.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<String>,
}

/// A step of a command.
enum Step {
    Change(Box<super::Change>),
    Send(SessionMessage),
    End(String),
}

/// Why a command is not followed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("expected one command: topics, add, remove and the like, or send, or end")]
    Several,
    #[error("expected at most {MAX_COMMAND_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] super::InvalidName),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Takes commands until `stop` is cancelled, whenever no other node does. `node` names this one.
pub async fn run(sessions: Sessions, client: RedisClient, node: Arc<str>, stop: CancellationToken) {
    let mut log = RateLimitedLog::new();
    while let Err(error) = take(&sessions, &client, &node, &stop).await {
        sessions.stats().failures.add(1);
        log.log(|suppressed| tracing::warn!(%error, suppressed, "cannot take commands for sessions; retrying"));
        if stop.run_until_cancelled(sleep(CONSUMER_PERIOD)).await.is_none() {
            break;
        }
    }
    // So that another node begins at once. Otherwise it does when the lease is over.
    let unlink = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end";
    let mut command = script(unlink, 1);
    command.arg(CONSUMER).arg(&*node);
    if let Err(error) = client.query::<()>(&command).await {
        tracing::debug!(%error, "another node takes commands for sessions only in a while");
    }
}

/// Takes commands while this node is the one that does, until `stop` is cancelled. Those that were taken by then are followed.
async fn take(
    sessions: &Sessions,
    client: &RedisClient,
    node: &str,
    stop: &CancellationToken,
) -> Result<(), RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
    let connecting = async {
        let server = client.server().await?;
        let connection = server.connect(&config).await?;
        Ok::<_, RedisError>((server, connection))
    };
    let Some(connected) = stop.run_until_cancelled(connecting).await else { return Ok(()) };
    let (server, mut connection) = connected?;
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut checked_at = Instant::now();
    loop {
        // After a failover of Sentinels, the old primary would go on answering, without any commands.
        if checked_at.elapsed() >= CONSUMER_LEASE {
            let Some(checked) = stop.run_until_cancelled(server.check()).await else { return Ok(()) };
            checked?;
            checked_at = Instant::now();
        }
        let consumes = stop.run_until_cancelled(consume(&mut connection, node)).await;
        let Some(consumes) = consumes else { return Ok(()) };
        if !consumes? {
            stop.run_until_cancelled(sleep(CONSUMER_PERIOD)).await;
            continue;
        }
        let Some(commands) = until_stopped(stop, next(&mut connection)).await else { return Ok(()) };
        let mut commands = commands?.into_iter();
        let all = async {
            for command in &mut commands {
                sessions.stats().commands.add(1);
                follow(sessions, &command, &waiting).await;
            }
        };
        if until_stopped(stop, all).await.is_none() {
            tracing::warn!(lost = commands.len(), "commands for sessions are lost in the shutdown");
        }
    }
}

/// Whether this node is the one that takes commands, for another while.
async fn consume(connection: &mut MultiplexedConnection, node: &str) -> Result<bool, RedisError> {
    let mut consume = script(CONSUME, 1);
    consume.arg(CONSUMER).arg(node).arg(crate::nodes::milliseconds(CONSUMER_LEASE));
    Ok(consume.query_async::<u8>(connection).await? == 1)
}

/// What comes of `future`, unless it takes too long after `stop` is cancelled.
async fn until_stopped<F: Future>(stop: &CancellationToken, future: F) -> Option<F::Output> {
    let is_over = async {
        stop.cancelled().await;
        sleep(STOP_LIMIT).await;
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = is_over => None,
    }
}

/// The next commands.
async fn next(connection: &mut MultiplexedConnection) -> Result<Vec<Vec<u8>>, RedisError> {
    let mut blocking = redis::cmd("BLPOP");
    let first: Option<(String, Vec<u8>)> = blocking.arg(COMMANDS).arg(WAIT_SECONDS).query_async(connection).await?;
    let Some((_, first)) = first else { return Ok(Vec::new()) };
    let more: Result<Option<Vec<Vec<u8>>>, _> =
        redis::cmd("LPOP").arg(COMMANDS).arg(BATCH - 1).query_async(connection).await;
    let more = more.unwrap_or_else(|error| {
        // The first one has left the list. If the connection is broken, the next call says so.
        tracing::debug!(%error, "cannot take more than one command for sessions");
        None
    });
    Ok([first].into_iter().chain(more.unwrap_or_default()).collect())
}

/// Follows one command. It is in the store when this returns, before the next one is; its outcome is published later.
async fn follow(sessions: &Sessions, text: &[u8], waiting: &Arc<Semaphore>) {
    let request = if text.len() > MAX_COMMAND_BYTES {
        Err(CommandError::TooLarge)
    } else {
        serde_json::from_slice::<Request>(text).map_err(CommandError::from)
    };
    let mut outcome = Outcome::default();
    let mut channel = ACKNOWLEDGEMENTS.to_owned();
    let parsed = request.and_then(|request| {
        outcome.id = request.id.clone();
        outcome.session = Some(request.session.clone());
        if let Some(reply) = &request.reply {
            channel.clone_from(reply);
        }
        parse(request)
    });
    // Closed never.
    let Ok(permit) = Arc::clone(waiting).acquire_owned().await else { return };
    let (stored, is_stored) = tokio::sync::oneshot::channel();
    let sessions = sessions.clone();
    tokio::spawn(async move {
        let result = match parsed {
            Ok((name, step)) => perform(&sessions, &name, step, stored).await,
            Err(error) => {
                drop(stored);
                Err(error)
            }
        };
        match result {
            Ok(Reached { connections, nodes, waiting, .. }) => {
                outcome = Outcome { ok: true, connections: Some(connections), nodes, waiting, ..outcome };
            }
            Err(error) => outcome.error = Some(error.to_string()),
        }
        if let Ok(json) = serde_json::to_string(&outcome)
            && let Err(error) = sessions.publish(&EventTarget::Channel(channel), &json).await
        {
            tracing::debug!(%error, "cannot publish the outcome of a command");
        }
        drop(permit);
    });
    // Fails if there is nothing to store.
    let _ = timeout(LIMIT, is_stored).await;
}

fn parse(request: Request) -> Result<(SessionName, Step), CommandError> {
    let Request { session, send, end, change, .. } = request;
    let name = session.parse()?;
    let step = match (send, end, change.is_empty()) {
        (Some(message), None, true) => {
            check_message(&message)?;
            Step::Send(message)
        }
        (None, Some(reason), true) => {
            check_reason(&reason)?;
            Step::End(reason)
        }
        (None, None, _) => {
            let change: ChangeRequest = serde_json::from_value(Value::Object(change))?;
            Step::Change(Box::new(change.change(false)?))
        }
        _ => return Err(CommandError::Several),
    };
    Ok((name, step))
}

/// Parses a command, for the fuzz target only. The error is what its sender would be told.
///
/// # Errors
/// When it is not valid.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn check(command: &[u8]) -> Result<(), String> {
    let request = serde_json::from_slice::<Request>(command).map_err(|error| error.to_string())?;
    parse(request).map(drop).map_err(|error| error.to_string())
}

/// Performs a step, and reports when it is in the store.
async fn perform(
    sessions: &Sessions,
    name: &SessionName,
    step: Step,
    stored: tokio::sync::oneshot::Sender<()>,
) -> Result<Reached, CommandError> {
    let stored = || {
        // Nobody waits any more.
        let _ = stored.send(());
    };
    Ok(match step {
        Step::Change(change) => sessions.change_then(name, &change, stored).await?,
        Step::Send(message) => sessions.send_then(name, &message, stored).await?,
        Step::End(reason) => sessions.end_then(name, &reason, stored).await?,
    })
}
