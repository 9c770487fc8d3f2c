//! `tallycast publish`: one message, or a message for each line of standard input.

use std::hash::{BuildHasher, RandomState};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use serde_json::Value;
use tallycast_fanout::Namespace;
use tokio::sync::mpsc;

use super::http::{Answer, ask};
use super::input::{Batch, Batches, Format, InputError, message};
use super::{ClientError, ServerOptions, print};
use crate::config::Secret;

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
    let format = namespace.map_or(Format::Messages, |namespace| Format::Data { namespace, event, json });
    let mut batches = match data {
        Some(data) => one(&format, &data),
        None => input(format),
    };
    let mut progress = Progress::new(from_input);
    let mut is_output_open = true;
    while let Some(batch) = batches.recv().await {
        let Batch { first_line, messages, body } = batch
            .map_err(|(line, error)| failed(&progress, from_input, line, ClientError::Refused(error.to_string())))?;
        let answer = persistently(&server, "/publish", &headers, &String::from_utf8_lossy(&body)).await;
        let answer = answer.map_err(|error| failed(&progress, from_input, first_line, error))?;
        progress.add(messages, false);
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        for id in answer["ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // That nobody reads the ids is no reason to leave the rest unpublished.
            is_output_open = is_output_open && print(id).is_ok();
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

/// Batches, and where and why they end early.
type Receiver = mpsc::Receiver<Result<Batch, (u64, InputError)>>;

/// A batch of one message, which may have several lines.
fn one(format: &Format, data: &str) -> Receiver {
    let message = message(format, data, &random(), 1).map_err(|error| (1, error));
    let (sender, batches) = mpsc::channel(1);
    // There is room for one.
    let _ = sender.try_send(message.map(|body| Batch { first_line: 1, messages: 1, body }));
    batches
}

/// The lines of standard input, as they come, with one batch read ahead.
fn input(format: Format) -> Receiver {
    let (sender, receiver) = mpsc::channel(1);
    // Reading cannot be cancelled, so it has a thread that ends with the process.
    std::thread::spawn(move || {
        let mut batches = Batches::new(std::io::stdin(), format, random());
        while let Some(batch) = batches.next().transpose() {
            let is_last = batch.is_err();
            if sender.blocking_send(batch).is_err() || is_last {
                return;
            }
        }
    });
    receiver
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
