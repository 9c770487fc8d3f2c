//! Lines of standard input -> request bodies for `POST /publish`, bounded in messages and bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tallycast_fanout::Namespace;

/// Messages in one request, and their size in bytes: half of what a server takes unless it is told otherwise. A line that is larger
/// has a request of its own.
const BATCH_MESSAGES: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
/// The size of a line in bytes: a payload as large as servers take, most of it escaped.
const MAX_LINE_BYTES: usize = 8 << 20;

/// What the lines are.
#[derive(Debug, Clone)]
pub(super) enum Format {
    /// The data of messages of one namespace.
    Data { namespace: Namespace, event: Option<String>, json: bool },
    /// Messages as JSON objects.
    Messages,
}

/// The messages of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The number of its first line, from 1.
    pub(super) first_line: u64,
    /// The number of messages.
    pub(super) messages: usize,
    /// Newline-delimited JSON.
    pub(super) body: Vec<u8>,
}

/// Why a line cannot be published.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("cannot read standard input: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("expected UTF-8")]
    NotUtf8,
    #[error("expected at most {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error("{expected}: {error}")]
    NotJson { expected: &'static str, error: serde_json::Error },
}

/// A line of the body.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Cow<'a, RawValue>,
    /// By which the server recognizes a message that is sent again.
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
}

/// Makes batches of lines, which are numbered from 1.
pub(super) struct Batches<R> {
    input: BufReader<R>,
    format: Format,
    /// The start of the ids, different for each run.
    prefix: String,
    /// The number of the last line that was read.
    line: u64,
    /// The line that did not go into the last batch, if there is one.
    pending: Option<Result<Vec<u8>, InputError>>,
}

impl<R: Read> Batches<R> {
    pub(super) fn new(input: R, format: Format, prefix: String) -> Self {
        Self { input: BufReader::with_capacity(BATCH_BYTES, input), format, prefix, line: 0, pending: None }
    }

    /// Waits for the next lines: as many as there are, but no more than fit into a request. None at the end of the input.
    ///
    /// # Errors
    /// For an invalid line, after the lines before it have been returned: its number, and what is wrong.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, (u64, InputError)> {
        let mut batch: Option<Batch> = None;
        loop {
            let is_ready = self.pending.is_some() || self.input.buffer().contains(&b'\n');
            let is_full = batch.as_ref().is_some_and(|batch| batch.messages == BATCH_MESSAGES || !is_ready);
            if is_full {
                return Ok(batch);
            }
            let Some(message) = self.pending.take().or_else(|| self.read().transpose()) else { return Ok(batch) };
            let message = match (message, &batch) {
                (Ok(message), Some(batch)) if batch.body.len() + message.len() <= BATCH_BYTES => message,
                (Ok(message), None) => message,
                (Err(error), None) => return Err((self.line, error)),
                (message, Some(_)) => {
                    self.pending = Some(message);
                    return Ok(batch);
                }
            };
            let batch = batch.get_or_insert(Batch { first_line: self.line, messages: 0, body: Vec::new() });
            batch.messages += 1;
            batch.body.extend_from_slice(&message);
        }
    }

    /// Reads a line and encodes its message. None at the end of the input.
    fn read(&mut self) -> Result<Option<Vec<u8>>, InputError> {
        loop {
            let mut line = Vec::new();
            let read = self.input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if line.len() > MAX_LINE_BYTES {
                return Err(InputError::TooLong);
            }
            let text = std::str::from_utf8(&line).map_err(|_| InputError::NotUtf8)?;
            let text = text.strip_suffix('\n').unwrap_or(text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            let is_text = matches!(self.format, Format::Data { json: false, .. });
            if text.trim().is_empty() && !is_text {
                continue;
            }
            return message(&self.format, text, &self.prefix, self.line).map(Some);
        }
    }
}

/// The line of a request for the message `text`, which is number `line` of the run.
pub(super) fn message(format: &Format, text: &str, prefix: &str, line: u64) -> Result<Vec<u8>, InputError> {
    let not_json = |expected| move |error| InputError::NotJson { expected, error };
    let own_id = || Some(Cow::Owned(format!("{prefix}-{line}")));
    let message = match format {
        Format::Data { namespace, event, json } => {
            let data: Option<&RawValue> = match json {
                true => Some(serde_json::from_str(text).map_err(not_json("expected JSON"))?),
                false => None,
            };
            let data = match data {
                // A JSON string would be sent as its text: the quotes belong to the data.
                Some(data) if !data.get().starts_with('"') => Cow::Borrowed(data),
                _ => Cow::Owned(serde_json::value::to_raw_value(text).map_err(not_json("expected text"))?),
            };
            let (namespace, event) = (namespace.as_str().into(), event.as_deref().map(Cow::Borrowed));
            Message { namespace, event, data, id: own_id() }
        }
        Format::Messages => {
            const EXPECTED: &str = "expected a JSON object";
            if !text.trim_start().starts_with('{') {
                // The parser of a message would take an array of its fields, too.
                serde_json::from_str::<BTreeMap<String, IgnoredAny>>(text).map_err(not_json(EXPECTED))?;
            }
            let message: Message<'_> = serde_json::from_str(text).map_err(not_json(EXPECTED))?;
            Message { id: message.id.or_else(own_id), ..message }
        }
    };
    let mut line = serde_json::to_vec(&message).map_err(not_json("expected a message"))?;
    // Between the tokens of the data.
    line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(json: bool) -> Format {
        Format::Data { namespace: "/a".parse().unwrap(), event: Some("x".to_owned()), json }
    }

    fn body(format: Format, input: &str) -> Result<String, String> {
        let mut batches = Batches::new(input.as_bytes(), format, "p".to_owned());
        let mut text = String::new();
        loop {
            match batches.next() {
                Ok(Some(batch)) => text.push_str(std::str::from_utf8(&batch.body).unwrap()),
                Ok(None) => return Ok(text),
                Err((line, error)) => return Err(format!("{text}line {line}: {error}")),
            }
        }
    }

    #[test]
    fn lines_become_messages_with_keys() {
        assert_eq!(
            body(format(false), "one\n\n2\"\r\nlast").unwrap(),
            "{\"namespace\":\"/a\",\"event\":\"x\",\"data\":\"one\",\"id\":\"p-1\"}\n\
             {\"namespace\":\"/a\",\"event\":\"x\",\"data\":\"\",\"id\":\"p-2\"}\n\
             {\"namespace\":\"/a\",\"event\":\"x\",\"data\":\"2\\\"\",\"id\":\"p-3\"}\n\
             {\"namespace\":\"/a\",\"event\":\"x\",\"data\":\"last\",\"id\":\"p-4\"}\n"
        );
        assert_eq!(
            body(format(true), "{\"b\": 1}\n\n\"s\"\n").unwrap(),
            "{\"namespace\":\"/a\",\"event\":\"x\",\"data\":{\"b\": 1},\"id\":\"p-1\"}\n\
             {\"namespace\":\"/a\",\"event\":\"x\",\"data\":\"\\\"s\\\"\",\"id\":\"p-3\"}\n"
        );
        assert_eq!(
            body(
                Format::Messages,
                "{\"namespace\":\"/b\",\"data\":[1.50]}\n{\"namespace\":\"/b\",\"data\":\"t\",\"id\":\"mine\"}"
            )
            .unwrap(),
            "{\"namespace\":\"/b\",\"data\":[1.50],\"id\":\"p-1\"}\n{\"namespace\":\"/b\",\"data\":\"t\",\"id\":\"mine\"}\n"
        );
    }

    #[test]
    fn invalid_line_is_named_after_the_lines_before_it() {
        let error = body(format(true), "1\n2\n{\n4\n").unwrap_err();
        assert!(error.contains("p-2") && error.contains("\nline 3: expected JSON: "), "{error}");
        let error = body(Format::Messages, "{\"namespace\":\"/b\",\"data\":1,\"dat\":2}\n").unwrap_err();
        assert!(error.starts_with("line 1: expected a JSON object: ") && error.contains("`dat`"), "{error}");
        for line in ["[\"/b\",null,1,null]", "1", "\"/b\""] {
            let error = body(Format::Messages, line).unwrap_err();
            assert!(
                error.starts_with("line 1: expected a JSON object: ") && error.contains("expected a map"),
                "{error}"
            );
        }
        let error = body(format(false), &"x".repeat(MAX_LINE_BYTES + 1)).unwrap_err();
        assert_eq!(error, "line 1: expected at most 8388608 bytes");
        let mut batches = Batches::new(&b"a\n\xff\n"[..], format(false), String::new());
        assert_eq!(batches.next().unwrap().unwrap().messages, 1);
        assert!(matches!(batches.next(), Err((2, InputError::NotUtf8))));
    }

    #[test]
    fn batches_are_bounded_in_messages_and_bytes() {
        let lines = "x\n".repeat(1250);
        let mut batches = Batches::new(lines.as_bytes(), format(false), "p".to_owned());
        let sizes: Vec<_> =
            std::iter::from_fn(|| batches.next().unwrap()).map(|b| (b.first_line, b.messages)).collect();
        assert_eq!(sizes, [(1, 500), (501, 500), (1001, 250)]);
        // Each alone is small enough for a server; two of them are not.
        let lines = ["a\n".to_owned(), format!("{}\n", "y".repeat(600_000)).repeat(3), "b\n".to_owned()].concat();
        let mut batches = Batches::new(lines.as_bytes(), format(false), "p".to_owned());
        let batches: Vec<_> = std::iter::from_fn(|| batches.next().unwrap()).collect();
        assert_eq!(batches.iter().map(|batch| batch.messages).sum::<usize>(), 5);
        assert!(batches.iter().all(|batch| batch.messages == 1 || batch.body.len() <= BATCH_BYTES));
        assert!(batches.windows(2).all(|two| two[0].first_line + two[0].messages as u64 == two[1].first_line));
    }

    #[test]
    fn input_that_pauses_is_sent() {
        // Each read returns one chunk.
        struct Chunks(Vec<&'static [u8]>);
        impl Read for Chunks {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.0.is_empty() {
                    return Ok(0);
                }
                let chunk = self.0.remove(0);
                buffer[..chunk.len()].copy_from_slice(chunk);
                Ok(chunk.len())
            }
        }
        let chunks = Chunks(vec![b"a\nb\nc", b"\nd\n", b"e"]);
        let mut batches = Batches::new(chunks, format(false), "p".to_owned());
        let sizes: Vec<_> =
            std::iter::from_fn(|| batches.next().unwrap()).map(|b| (b.first_line, b.messages)).collect();
        assert_eq!(sizes, [(1, 2), (3, 2), (5, 1)]);
    }
}
