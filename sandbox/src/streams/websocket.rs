//! Incremental parser of a WebSocket response: headers, then server frames (RFC 6455, §5.2).
//!
//! A broadcasting server sends each message in one frame; anything else is an error. Complete frames are parsed in place.

use anyhow::{Result, bail, ensure};

use super::{response_header::ResponseHeaderReader, sse::Event, stamp::Stamp, transport::Subprotocol};

/// The maximum size of a frame in bytes.
const MAX_FRAME_BYTES: u64 = 1024 * 1024;

/// A pong with a zero mask and no payload.
const PONG: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];

/// The server closed the connection with a close frame.
#[derive(Debug, thiserror::Error)]
#[error("the server closed the WebSocket: {reason}")]
pub(crate) struct ClosedByServer {
    /// The code (RFC 6455, §7.4). `None` if the frame has none.
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
}

/// An answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) is_refused: bool,
}

/// The parser of one connection.
#[derive(Debug)]
pub(crate) struct FrameParser {
    subprotocol: Subprotocol,
    /// `None` once the response headers are complete.
    headers: Option<ResponseHeaderReader>,
    /// The start of an incomplete frame.
    partial: Vec<u8>,
    pong_pending: bool,
    answers: Vec<Answer>,
}

impl FrameParser {
    pub(crate) fn new(subprotocol: Subprotocol) -> Self {
        Self {
            subprotocol,
            headers: Some(ResponseHeaderReader::default()),
            partial: Vec::new(),
            pong_pending: false,
            answers: Vec::new(),
        }
    }

    pub(crate) fn has_headers(&self) -> bool {
        self.headers.is_none()
    }

    pub(crate) fn take_reply(&mut self) -> Option<&'static [u8]> {
        std::mem::take(&mut self.pong_pending).then_some(PONG)
    }

    /// The answers to commands with an ID since the last call.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<()> {
        if let Some(headers) = &mut self.headers {
            let Some(((), rest)) = headers.feed(bytes, 101, |_| ())? else { return Ok(()) };
            self.headers = None;
            bytes = rest;
        }
        if self.partial.is_empty() {
            let left = self.frames(bytes, sink)?;
            self.partial.extend_from_slice(left);
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(bytes);
            let left = self.frames(&all, sink)?.len();
            all.drain(..all.len() - left);
            self.partial = all;
        }
        Ok(())
    }

    /// Parses all complete frames and returns the remaining bytes.
    fn frames<'b>(&mut self, mut bytes: &'b [u8], sink: &mut impl FnMut(Event)) -> Result<&'b [u8]> {
        while let Some((first, payload, rest)) = split(bytes)? {
            match first {
                0x81 => match self.answer(payload) {
                    Some(answer) => self.answers.push(answer),
                    None => sink(self.event(payload)),
                },
                0x89 => self.pong_pending = true,
                0x88 => {
                    let (code, reason) = match payload.split_first_chunk() {
                        Some((code, reason)) => (Some(u16::from_be_bytes(*code)), reason),
                        None => (None, payload),
                    };
                    bail!(ClosedByServer { code, reason: String::from_utf8_lossy(reason).into_owned() });
                }
                other => bail!("unsupported frame: first byte {other:#04x}"),
            }
            bytes = rest;
        }
        Ok(bytes)
    }

    fn answer(&self, payload: &[u8]) -> Option<Answer> {
        (self.subprotocol == Subprotocol::Json).then(|| Answer::parse(payload)).flatten()
    }

    fn event(&self, payload: &[u8]) -> Event {
        const DATA: &[u8] = b"\"data\":\"";
        const END: &[u8] = b"\"}";
        let data = match self.subprotocol {
            Subprotocol::Raw => Some(payload),
            // The payloads of this program contain no characters that JSON escapes.
            Subprotocol::Json => {
                memchr::memmem::find(payload, DATA).and_then(|at| payload[at + DATA.len()..].strip_suffix(END))
            }
        };
        let data = data.unwrap_or_default();
        Event { stamp: Stamp::parse(data), data_bytes: data.len() }
    }
}

impl Answer {
    /// The answer in a WebSocket message of tallycast; `None` if the message is an event.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        const ID: &[u8] = b"\"id\":";
        let is_refused = message.starts_with(b"{\"error\":");
        if !is_refused && !message.starts_with(b"{\"subscribed\":") {
            return None;
        }
        let at = memchr::memmem::rfind(message, ID)? + ID.len();
        let id = std::str::from_utf8(message[at..].strip_suffix(b"}")?).ok()?.parse().ok()?;
        Some(Self { id, is_refused })
    }
}

/// A masked text frame of a client with `text` of up to 65,535 bytes, under a mask of zeros.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    client_frame(0x81, text.as_bytes())
}

/// A masked client frame with `payload` of up to 65,535 bytes, under a mask of zeros.
pub(crate) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(MASKED | length),
        _ => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// First byte and payload of a frame, and the bytes that follow.
type Frame<'b> = (u8, &'b [u8], &'b [u8]);

/// Splits off the first frame; `None` if it is incomplete.
fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, length, rest @ ..] = bytes else { return Ok(None) };
    let (length, rest) = match length {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        128.. => bail!("invalid frame: server frames must not be masked"),
        length => (u64::from(*length), rest),
    };
    ensure!(length <= MAX_FRAME_BYTES, "frame too large: {length} bytes");
    Ok(rest.split_at_checked(length as usize).map(|(payload, rest)| (*first, payload, rest)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length @ ..126) => frame.push(length as u8),
            Ok(length) => frame.extend([&[126][..], &length.to_be_bytes()].concat()),
            Err(_) => frame.extend([&[127][..], &(payload.len() as u64).to_be_bytes()].concat()),
        }
        frame.extend_from_slice(payload);
        frame
    }

    proptest! {
        #[test]
        fn messages_are_parsed_for_any_split(
            lengths in proptest::collection::vec(prop_oneof![25..400_usize, Just(70_000)], 0..8),
            json in any::<bool>(),
            cut in 1..3000_usize,
        ) {
            let mut bytes = HEAD.to_vec();
            let mut expected = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let stamp = Stamp { sequence: number as u64, published: Duration::from_nanos(7) };
                let mut payload = Vec::new();
                stamp.write_payload(length, &mut payload)?;
                expected.push(Event { stamp: Some(stamp), data_bytes: length });
                let data = String::from_utf8(payload).map_err(|error| TestCaseError::fail(error.to_string()))?;
                let message = if json { format!(r#"{{"namespace":"/raw","event":null,"data":"{data}"}}"#) } else { data };
                bytes.extend(frame(0x81, message.as_bytes()));
                bytes.extend(frame(0x89, b""));
            }
            let mut parser = FrameParser::new(if json { Subprotocol::Json } else { Subprotocol::Raw });
            let mut events = Vec::new();
            for piece in bytes.chunks(cut) {
                parser.feed(piece, &mut |event| events.push(event)).map_err(|error| TestCaseError::fail(error.to_string()))?;
            }
            prop_assert!(parser.has_headers());
            prop_assert_eq!(parser.take_reply().is_some(), !expected.is_empty());
            prop_assert_eq!(events, expected);
        }
    }

    #[test]
    fn client_frames_are_masked_with_zeros() {
        assert_eq!(client_frame(0x88, &1000_u16.to_be_bytes()), [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        let long = text_frame(&"x".repeat(300));
        assert_eq!((&long[..8], long.len()), (&[0x81, 0xfe, 0x01, 0x2c, 0, 0, 0, 0][..], 308));
    }

    #[test]
    fn answers_are_told_from_events() {
        let answer = |text: &str| Answer::parse(text.as_bytes());
        assert_eq!(answer(r#"{"subscribed":["/a","/b"],"id":17}"#), Some(Answer { id: 17, is_refused: false }));
        assert_eq!(answer(r#"{"error":"no \"id\":3","id":4}"#), Some(Answer { id: 4, is_refused: true }));
        assert_eq!(answer(r#"{"namespace":"/a","event":null,"data":"x"}"#), None);
    }

    #[test]
    fn unexpected_frames_are_errors() {
        for (bytes, expected) in [
            (frame(0x88, b"\x03\xe9bye"), "the server closed the WebSocket: bye"),
            (frame(0x82, b"x"), "unsupported frame: first byte 0x82"),
            (vec![0x81, 0x80], "invalid frame: server frames must not be masked"),
            (vec![0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0], "frame too large: 72057594037927936 bytes"),
        ] {
            let mut parser = FrameParser::new(Subprotocol::Raw);
            let error = parser.feed(&[HEAD, &bytes].concat(), &mut |_| ()).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(expected));
        }
    }
}
