//! `tallycast publish`: one message, or a message for each line of standard input.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tallycast_fanout::Namespace;
use tokio::sync::mpsc;

use super::http::{Answer, ask};
use super::{ClientError, ServerOptions, print};
use crate::config::Secret;

/// Messages in one request, and their size in bytes: half of what a server takes unless it is told otherwise.
const BATCH_MESSAGES: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
/// Lines that are read ahead.
const READ_AHEAD: usize = 4096;
/// Pauses between attempts, and the time after which a request is given up.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const GIVE_UP: Duration = Duration::from_secs(60);
/// The time between two reports of progress.
const PROGRESS: Duration = Duration::from_millis(200);

/// What to publish.
#[derive(Debug)]
pub struct PublishOptions {
    /// Where the server is.
    pub server: ServerOptions,
    /// The publishing key.
    pub key: Option<Secret>,
    /// The namespace of the messages; without one, each line of standard input is a message as JSON.
    pub namespace: Option<Namespace>,
    /// The message; without one, each line of standard input is a message.
    pub data: Option<String>,
    /// The event name.
    pub event: Option<String>,
    /// Whether the messages are JSON.
    pub json: bool,
}

/// How far the input has been published.
struct Progress {
    published: u64,
    started: Instant,
    reported: Instant,
    is_shown: bool,
}

impl Progress {
    fn new(is_shown: bool) -> Self {
        let now = Instant::now();
        Self { published: 0, started: now, reported: now, is_shown: is_shown && std::io::stderr().is_terminal() }
    }

    #[expect(clippy::print_stderr, reason = "progress, for people at a terminal")]
    fn add(&mut self, messages: usize, is_end: bool) {
        self.published += messages as u64;
        if self.is_shown && (is_end || self.reported.elapsed() >= PROGRESS) {
            self.reported = Instant::now();
            let rate = self.published as f64 / self.started.elapsed().as_secs_f64().max(0.001);
            eprint!("\rpublished {} messages, {rate:.0}/s{}", self.published, if is_end { "\n" } else { "" });
        }
    }
}

pub(super) async fn run(options: PublishOptions) -> Result<(), ClientError> {
    let PublishOptions { server, key, namespace, data, event, json } = options;
    let authorization = authorization(key.as_ref());
    let mut headers = vec![("content-type", "application/x-ndjson")];
    headers.extend(authorization.iter().map(|value| ("authorization", value.as_str())));
    let from_input = data.is_none();
    let mut lines = match data {
        Some(data) => {
            let (sender, lines) = mpsc::channel(1);
            // There is room for one.
            let _ = sender.try_send(Ok(data));
            lines
        }
        None => input(),
    };
    let run = random();
    let mut progress = Progress::new(from_input);
    let (mut read, mut number) = (Vec::new(), 0_u64);
    while lines.recv_many(&mut read, BATCH_MESSAGES).await > 0 {
        let mut waiting = read.drain(..).peekable();
        while waiting.peek().is_some() {
            let mut body = String::new();
            let first = number + 1;
            while body.len() < BATCH_BYTES
                && let Some(line) = waiting.next()
            {
                number += 1;
                let line = line.map_err(|error| ClientError::Refused(format!("standard input: {error}")))?;
                let item = item(namespace.as_ref(), event.as_deref(), json, &line, &format!("{run}-{number}"));
                let item = item.map_err(|error| failed(&progress, from_input, number, ClientError::Refused(error)))?;
                body.push_str(&item);
                body.push('\n');
            }
            let answer = persistently(&server, "/publish", &headers, &body).await;
            let answer = answer.map_err(|error| failed(&progress, from_input, first, error))?;
            progress.add(usize::try_from(number + 1 - first).unwrap_or(usize::MAX), false);
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            let ids = answer["ids"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for id in ids {
                print(id)?;
            }
        }
    }
    progress.add(0, true);
    Ok(())
}

/// An error with how far the input was published.
fn failed(progress: &Progress, from_input: bool, line: u64, error: ClientError) -> ClientError {
    if !from_input {
        return error;
    }
    let text = |reason: String| format!("published {} messages; line {line} was not: {reason}", progress.published);
    match error {
        ClientError::Unavailable(reason) => ClientError::Unavailable(text(reason)),
        ClientError::Refused(reason) => ClientError::Refused(text(reason)),
        ClientError::OutputClosed => ClientError::OutputClosed,
    }
}

/// A line of a request. Without a namespace, the line is a message already.
fn item(
    namespace: Option<&Namespace>,
    event: Option<&str>,
    is_json: bool,
    line: &str,
    id: &str,
) -> Result<String, String> {
    let Some(namespace) = namespace else {
        let mut item: serde_json::Map<String, Value> =
            serde_json::from_str(line).map_err(|error| format!("expected a JSON object: {error}"))?;
        item.entry("id").or_insert_with(|| id.into());
        return Ok(Value::from(item).to_string());
    };
    let data = if is_json {
        let json: &RawValue = serde_json::from_str(line).map_err(|error| format!("expected JSON: {error}"))?;
        json.get().to_owned()
    } else {
        json!(line).to_string()
    };
    let event = event.map(|event| format!(",\"event\":{}", json!(event))).unwrap_or_default();
    Ok(format!("{{\"namespace\":{},\"id\":{}{event},\"data\":{data}}}", json!(namespace.as_str()), json!(id)))
}

/// Sends a request until it is answered, for a while. It has idempotency keys, so it is obeyed once.
pub(super) async fn persistently(
    server: &ServerOptions,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<String, ClientError> {
    let started = Instant::now();
    let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
    let mut pauses = pauses.with_jitter().without_max_times().build();
    loop {
        match ask(server, path, headers, body.to_owned()).await? {
            Answer::Ok(answer) => return Ok(answer),
            Answer::Refused(reason) => return Err(ClientError::Refused(reason)),
            Answer::TryAgain(reason, _) if started.elapsed() >= GIVE_UP => {
                return Err(ClientError::Unavailable(reason));
            }
            Answer::TryAgain(_, pause) => {
                let pause = pause.or_else(|| pauses.next()).unwrap_or(LONGEST_PAUSE);
                tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            }
        }
    }
}

/// The lines of standard input, as they come.
fn input() -> mpsc::Receiver<std::io::Result<String>> {
    let (sender, lines) = mpsc::channel(READ_AHEAD);
    // Reading cannot be cancelled, so it has a thread that ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The header with the publishing key.
pub(super) fn authorization(key: Option<&Secret>) -> Option<String> {
    key.map(|key| format!("Bearer {}", key.expose()))
}

/// A text that no other run has.
pub(super) fn random() -> String {
    // The keys of a hasher are random for each instance.
    let random = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_messages() {
        let namespace: Namespace = "/a b".parse().unwrap();
        let of = |event, is_json, line| item(Some(&namespace), event, is_json, line, "x-1");
        assert_eq!(of(None, false, "a \"b\"").unwrap(), r#"{"namespace":"/a b","id":"x-1","data":"a \"b\""}"#);
        assert_eq!(
            of(Some("e"), true, "{\"b\": 1.50}").unwrap(),
            r#"{"namespace":"/a b","id":"x-1","event":"e","data":{"b": 1.50}}"#
        );
        assert!(of(None, true, "{").unwrap_err().starts_with("expected JSON: "));
        let own = item(None, None, false, r#"{"namespace":"/a","data":1,"id":"own"}"#, "x-1").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&own).unwrap(), json!({"namespace": "/a", "data": 1, "id": "own"}));
        let other = item(None, None, false, r#"{"namespace":"/a","data":1}"#, "x-1").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&other).unwrap()["id"], "x-1");
        assert!(item(None, None, false, "[]", "x-1").unwrap_err().starts_with("expected a JSON object: "));
    }
}
