//! `tallycast tail`: prints the messages of topics as they come, and comes back where it was when the connection ends.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use sse_stream::{Sse, SseStream};
use tallycast_fanout::Topic;
use tokio_stream::StreamExt;

use super::http::{encoded, open};
use super::{ClientError, ServerOptions, print};
use crate::config::Secret;

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time without anything, not even a heartbeat, after which a connection counts as lost. Servers send heartbeats every 15 s unless
/// told otherwise.
const SILENCE: Duration = Duration::from_secs(60);

/// Where to start: a time, `earliest`, or the id of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// A time, such as `5m`, which the server reads.
    Time(String),
    /// After the message with this id.
    Id(String),
}

/// The text is not a [`Since`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time such as 5m, earliest, or the id of a message")]
pub struct SinceError;

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
        if unit.len() < text.len() && ["ms", "s", "m", "h", "d"].contains(&unit) {
            return Ok(Self::Time(text.to_owned()));
        }
        let is_id = text == "earliest" || (text.contains('-') && text.bytes().all(|byte| byte.is_ascii_graphic()));
        if is_id { Ok(Self::Id(text.to_owned())) } else { Err(SinceError) }
    }
}

/// What to print.
#[derive(Debug)]
pub struct TailOptions {
    /// Where the server is.
    pub server: ServerOptions,
    /// The token that it needs.
    pub token: Option<Secret>,
    /// The topics.
    pub topics: Vec<Topic>,
    /// Where to start.
    pub since: Option<Since>,
    /// How many of the newest messages to start with.
    pub last: Option<usize>,
    /// Whether messages are printed as JSON.
    pub json: bool,
    /// The number of messages after which it ends.
    pub count: Option<u64>,
}

/// An event in an envelope.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    namespace: Option<String>,
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    skipped: Option<u64>,
    reset: Option<Reset>,
}

#[derive(Debug, Deserialize)]
struct Reset {
    reason: String,
}

/// Follows the stream over its connections.
struct Tail {
    options: TailOptions,
    position: Option<String>,
    pause: Option<Duration>,
    printed: u64,
}

/// How a connection ended.
enum End {
    /// As many messages were printed as were wanted.
    Enough,
    /// For this reason; another connection follows.
    Lost(String),
}

pub(super) async fn run(options: TailOptions) -> Result<(), ClientError> {
    let mut tail = Tail { options, position: None, pause: None, printed: 0 };
    tokio::select! {
        ended = tail.follow() => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

impl Tail {
    async fn follow(&mut self) -> Result<(), ClientError> {
        let pauses =
            || ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE).with_jitter();
        let mut left = pauses().without_max_times().build();
        let mut is_first = true;
        loop {
            let reason = match self.read().await {
                Ok(End::Enough) => return Ok(()),
                Ok(End::Lost(reason)) => {
                    left = pauses().without_max_times().build();
                    reason
                }
                Err(ClientError::Unavailable(reason)) if !is_first => reason,
                Err(error) => return Err(error),
            };
            is_first = false;
            note(&format!("{reason}; connecting again"));
            let pause = self.pause.take().or_else(|| left.next()).unwrap_or(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads one connection to its end.
    async fn read(&mut self) -> Result<End, ClientError> {
        let authorization = self.options.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
        let headers = [("last-event-id", self.position.as_deref()), ("authorization", authorization.as_deref())];
        let headers: Vec<(&str, &str)> = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let response = open(&self.options.server, "GET", &self.path(), &headers, String::new()).await?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let text = http_body_util::BodyExt::collect(http_body_util::Limited::new(body, 4096)).await;
            let text = text.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
            let line = text.lines().next().unwrap_or_default();
            let reason = if line.is_empty() { head.status.to_string() } else { line.to_owned() };
            let is_passing = head.status.is_server_error() || head.status == StatusCode::TOO_MANY_REQUESTS;
            return Err(if is_passing { ClientError::Unavailable(reason) } else { ClientError::Refused(reason) });
        }
        let mut events = SseStream::new(body);
        loop {
            match tokio::time::timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(event))) => {
                    if self.take(event)? {
                        return Ok(End::Enough);
                    }
                }
                Ok(Some(Err(error))) => return Ok(End::Lost(format!("the connection was lost ({error})"))),
                Ok(None) => return Ok(End::Lost("the server ended the stream".to_owned())),
                Err(_) => return Ok(End::Lost(format!("nothing came for {} s", SILENCE.as_secs()))),
            }
        }
    }

    /// Takes an event. Returns whether it was the last one.
    fn take(&mut self, event: Sse) -> Result<bool, ClientError> {
        if let Some(id) = event.id {
            self.position = Some(id);
        }
        if let Some(retry) = event.retry {
            self.pause = Some(Duration::from_millis(retry));
        }
        let Some(data) = event.data else { return Ok(false) };
        let envelope: Envelope<'_> = serde_json::from_str(&data)
            .map_err(|error| ClientError::Refused(format!("unexpected event {data:?}: {error}")))?;
        if let Some(Reset { reason }) = envelope.reset {
            note(&format!("messages were lost ({reason})"));
        }
        if let Some(skipped) = envelope.skipped {
            note(&format!("{skipped} messages were skipped: the connection is too slow"));
        }
        let Some(namespace) = envelope.namespace else { return Ok(false) };
        if self.options.json {
            print(data.replace('\n', " "))?;
        } else {
            let raw = envelope.data.map_or("null", RawValue::get);
            let text = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
            let event = envelope.event.as_deref().unwrap_or("-");
            print(format_args!("{} {} {}", printable(&namespace), printable(event), printable(&text)))?;
        }
        self.printed += 1;
        Ok(self.options.count.is_some_and(|count| self.printed >= count))
    }

    /// The path and query of the stream.
    fn path(&self) -> String {
        let topics = self.options.topics.iter().map(|topic| format!("topic={}", encoded(&topic.to_string())));
        let topics: Vec<String> = topics.collect();
        let mut path = format!("/subscribe?{}&envelope=1&notices=1", topics.join("&"));
        // The header takes precedence once there is a position.
        match &self.options.since {
            Some(Since::Time(time)) => path.push_str(&format!("&since={time}")),
            Some(Since::Id(id)) => path.push_str(&format!("&lastEventID={}", encoded(id))),
            None => {}
        }
        if let Some(last) = self.options.last {
            path.push_str(&format!("&last={last}"));
        }
        path
    }
}

/// A message is a line, and what was published must not control the terminal: control characters are shown as Rust writes them.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let shown = |character: char| {
        if character.is_control() { character.escape_default().to_string() } else { character.to_string() }
    };
    text.chars().map(shown).collect::<String>().into()
}

#[expect(clippy::print_stderr, reason = "notes for people; messages go to standard output")]
fn note(text: &str) {
    eprintln!("tallycast tail: {}", printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a \u{1b}[2J\r\n\u{9b}1mé😂"), "a \\u{1b}[2J\\r\\n\\u{9b}1mé😂");
        assert!(matches!(printable("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn start_is_a_time_or_an_id() {
        for time in ["5m", "30s", "100ms", "2h", "1d"] {
            assert_eq!(time.parse(), Ok(Since::Time(time.to_owned())));
        }
        for id in ["earliest", "1795647004127-0", "9c1f03d2a7b4e865-42", "a:1-0,b:2-0"] {
            assert_eq!(id.parse(), Ok(Since::Id(id.to_owned())));
        }
        for other in ["", "5", "m", "5 m", "yesterday", "a -1"] {
            assert_eq!(other.parse::<Since>(), Err(SinceError), "{other}");
        }
    }
}
