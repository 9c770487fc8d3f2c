//! Incremental parser of an event stream: response headers, chunked transfer coding, Server-Sent Events.
//!
//! Input may be split anywhere. Complete lines are parsed in place; only lines that span reads or chunks are copied.

use anyhow::{Result, bail, ensure};

use super::{
    decoder::Decoder,
    response_header::{ResponseHeaderReader, has_header},
    stamp::Stamp,
};

/// The maximum length of a line in bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The parts of an event that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The stamp at the start of the first `data` line.
    pub(crate) stamp: Option<Stamp>,
    /// Bytes of data, including one for each line break between `data` lines.
    pub(crate) data_bytes: usize,
}

/// The parser of one response.
#[derive(Debug, Default)]
pub(crate) struct StreamParser {
    state: State,
    headers: ResponseHeaderReader,
    decoder: Option<Decoder>,
    events: EventParser,
}

/// The element that the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Headers,
    /// A body without transfer coding, until the connection closes.
    Identity,
    ChunkSize(Option<u64>),
    ChunkExtension(u64),
    ChunkSizeLf(u64),
    ChunkData(u64),
    ChunkDataCr,
    ChunkDataLf,
    /// After the last chunk. Trailers are ignored.
    Ended,
}

impl StreamParser {
    /// Parses the next bytes and passes every completed event to `sink`.
    ///
    /// # Errors
    /// If the response is not a valid `200` response, or exceeds a limit.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<()> {
        if self.state == State::Headers {
            bytes = self.feed_headers(bytes)?;
        }
        while let Some((&byte, after)) = bytes.split_first() {
            match self.state {
                State::Headers => break,
                State::Identity => {
                    self.content(bytes, sink)?;
                    break;
                }
                State::ChunkSize(value) => {
                    self.state = match (char::from(byte).to_digit(16), value) {
                        (Some(digit), value) => {
                            let value = value.unwrap_or(0);
                            ensure!(value >> 56 == 0, "the chunk size is out of range");
                            State::ChunkSize(Some(value << 4 | u64::from(digit)))
                        }
                        (None, Some(size)) if byte == b'\r' => State::ChunkSizeLf(size),
                        (None, Some(size)) if matches!(byte, b';' | b' ' | b'\t') => State::ChunkExtension(size),
                        _ => bail!("expected a chunk size, found byte {byte:#04x}"),
                    };
                    bytes = after;
                }
                State::ChunkExtension(size) => {
                    if byte == b'\r' {
                        self.state = State::ChunkSizeLf(size);
                    }
                    bytes = after;
                }
                State::ChunkSizeLf(size) => {
                    ensure!(byte == b'\n', "expected LF after the chunk size");
                    self.state = if size == 0 { State::Ended } else { State::ChunkData(size) };
                    bytes = after;
                }
                State::ChunkData(left) => {
                    let available = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let (data, rest) = bytes.split_at(available);
                    self.content(data, sink)?;
                    let left = left - available as u64;
                    self.state = if left == 0 { State::ChunkDataCr } else { State::ChunkData(left) };
                    bytes = rest;
                }
                State::ChunkDataCr => {
                    ensure!(byte == b'\r', "the chunk is longer than its size");
                    self.state = State::ChunkDataLf;
                    bytes = after;
                }
                State::ChunkDataLf => {
                    ensure!(byte == b'\n', "expected LF after the chunk");
                    self.state = State::ChunkSize(None);
                    bytes = after;
                }
                State::Ended => break,
            }
        }
        Ok(())
    }

    /// Whether the response headers are complete.
    pub(crate) fn has_headers(&self) -> bool {
        self.state != State::Headers
    }

    /// Parses the headers and returns the bytes that follow.
    fn feed_headers<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8]> {
        let headers = self.headers.feed(bytes, 200, |headers| {
            (has_header(headers, "transfer-encoding", "chunked"), Decoder::from_headers(headers))
        })?;
        let Some(((is_chunked, decoder), rest)) = headers else { return Ok(&[]) };
        self.state = if is_chunked { State::ChunkSize(None) } else { State::Identity };
        self.decoder = decoder?;
        Ok(rest)
    }

    /// Parses content bytes without transfer coding.
    fn content(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<()> {
        match &mut self.decoder {
            Some(decoder) => self.events.feed(&decoder.decode(bytes)?, sink),
            None => self.events.feed(bytes, sink),
        }
    }
}

/// Parses events from the lines of a body.
#[derive(Debug, Default)]
pub(crate) struct EventParser {
    /// The start of an incomplete line.
    partial: Vec<u8>,
    /// The last byte was a CR; a following LF belongs to it.
    after_cr: bool,
    /// The data of the incomplete event.
    pending: Option<Event>,
}

impl EventParser {
    /// Parses the next bytes and passes every completed event to `sink`.
    ///
    /// # Errors
    /// If a line exceeds the limit.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<()> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                ensure!(self.partial.len() + bytes.len() <= MAX_LINE_BYTES, "a line exceeds {MAX_LINE_BYTES} bytes");
                self.partial.extend_from_slice(bytes);
                break;
            };
            self.after_cr = bytes[end] == b'\r';
            if self.partial.is_empty() {
                line(&mut self.pending, &bytes[..end], sink);
            } else {
                self.partial.extend_from_slice(&bytes[..end]);
                line(&mut self.pending, &self.partial, sink);
                self.partial.clear();
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }
}

/// Parses one line without its line end. Comments and the fields `event`, `id` and `retry` are ignored.
fn line(pending: &mut Option<Event>, line: &[u8], sink: &mut impl FnMut(Event)) {
    if line.is_empty() {
        if let Some(event) = pending.take() {
            sink(event);
        }
        return;
    }
    let data = match line.strip_prefix(b"data") {
        Some([]) => &[],
        Some([b':', b' ', data @ ..] | [b':', data @ ..]) => data,
        _ => return,
    };
    match pending {
        Some(event) => event.data_bytes += 1 + data.len(),
        None => {
            *pending = Some(Event { stamp: Stamp::parse(data), data_bytes: data.len() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// A simple reference parser: normalises line ends and parses line by line.
    fn naive_events(body: &str) -> Vec<Event> {
        let body = body.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<&str> = body.split('\n').collect();
        lines.pop();
        let mut events = Vec::new();
        let mut data: Option<String> = None;
        for line in lines {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    events.push(Event { stamp: naive_stamp(&data), data_bytes: data.len() });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            if field == "data" {
                let value = value.strip_prefix(' ').unwrap_or(value);
                data = Some(match data {
                    Some(before) => format!("{before}\n{value}"),
                    None => value.to_owned(),
                });
            }
        }
        events
    }

    fn naive_stamp(data: &str) -> Option<Stamp> {
        let (sequence, rest) = data.split('\n').next()?.split_once(' ')?;
        let time = rest.get(..16)?;
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        (sequence.len() == 8 && digits(sequence) && digits(time))
            .then_some(Stamp { sequence: sequence.parse().ok()?, published: Duration::from_nanos(time.parse().ok()?) })
    }

    /// `body` in chunks of the given sizes (repeated), with different forms of chunk headers.
    fn chunked(body: &[u8], sizes: &[usize], ends: bool) -> Vec<u8> {
        let mut out = HEAD.as_bytes().to_vec();
        let mut rest = body;
        for (number, size) in sizes.iter().cycle().enumerate() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            let header = match number % 3 {
                0 => format!("{:x}\r\n", chunk.len()),
                1 => format!("{:04X}\r\n", chunk.len()),
                _ => format!("{:x};name=value\r\n", chunk.len()),
            };
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
            rest = after;
        }
        if ends {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        out
    }

    fn parse(pieces: &[&[u8]]) -> Result<(StreamParser, Vec<Event>)> {
        let mut parser = StreamParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut |event| events.push(event))?;
        }
        Ok((parser, events))
    }

    /// Splits `bytes` at the given positions.
    fn split<'b>(bytes: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    fn any_line() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => Just(String::new()),
            4 => (0..100_000_000_u64, 0..10_u64.pow(16), "[a-z.]{0,30}")
                .prop_map(|(sequence, time, filler)| format!("data:{sequence:08} {time:016}{filler}")),
            1 => "data: ?[ -~é]{0,40}",
            1 => "data",
            1 => "(:|event:|id: |datum:|dat)[ -~]{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn parser_agrees_with_reference_for_any_split(
            lines in vec((any_line(), prop_oneof![4 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\r")]), 0..40),
            sizes in vec(1..200_usize, 1..5),
            cuts in vec(any::<Index>(), 0..30),
            ends in any::<bool>(),
        ) {
            let body: String = lines.iter().flat_map(|(line, end)| [line.as_str(), end]).collect();
            let expected = naive_events(&body);

            let bytes = chunked(body.as_bytes(), &sizes, ends);
            let (parser, events) = parse(&split(&bytes, &cuts)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(parser.has_headers());
            prop_assert_eq!(parser.state == State::Ended, ends);
            prop_assert_eq!(&events, &expected);

            let plain = [HEAD.replace("chunked", "identity").as_bytes(), body.as_bytes()].concat();
            let (_, events) = parse(&split(&plain, &cuts)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(&events, &expected);
        }
    }

    #[test]
    fn compressed_streams_are_decoded_block_by_block() -> Result<()> {
        use std::io::Write;
        let event = format!("data:{:08} {:016}\n\n", 3, 7);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(event.as_bytes())?;
        gzip.flush()?;
        let frames = [zstd::encode_all(event.as_bytes(), 1)?, zstd::encode_all(event.as_bytes(), 1)?].concat();
        for (coding, block, count) in [("gzip", gzip.get_ref(), 1), ("zstd", &frames, 2)] {
            let head = HEAD.replace("\r\n\r\n", &format!("\r\ncontent-encoding: {coding}\r\n\r\n"));
            let bytes = [head.as_bytes(), &chunked(block, &[5], false)[HEAD.len()..]].concat();
            let (_, events) = parse(&split(&bytes, &[]))?;
            assert_eq!(events, vec![Event { stamp: naive_stamp(event[5..].trim_end()), data_bytes: 25 }; count]);
        }
        Ok(())
    }

    #[test]
    fn invalid_responses_are_errors() {
        for (bytes, expected) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "unexpected response: 404 Not Found"),
            ("SSH-2.0-OpenSSH\r\n\r\n", "invalid HTTP response"),
            (&format!("{HEAD}xyz\r\n"), "expected a chunk size, found byte 0x78"),
            (&format!("{HEAD}\r\n"), "expected a chunk size, found byte 0x0d"),
            (&format!("{HEAD}3\r\nabcd\r\n"), "the chunk is longer than its size"),
            (&format!("{HEAD}3\rabc\r\n"), "expected LF after the chunk size"),
            (&format!("{HEAD}123456789abcdef01\r\n"), "the chunk size is out of range"),
        ] {
            let error = parse(&[bytes.as_bytes()]).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(expected), "{bytes:?}");
        }
    }
}
