//! The server side of a WebSocket connection (RFC 6455) without its socket: bytes in, messages and replies out.

use std::io::{self, Cursor, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tungstenite::Error;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::frames::{CloseFrame, write_close};

/// The size of a connection's receive buffer, in bytes. It grows for larger frames.
const READ_BUFFER: usize = 256;
/// Frames that a message may always have.
const MIN_FRAMES: usize = 64;
/// A message may have one frame for each so many bytes of the largest message. More would cost much more time to parse than the
/// bytes do: a frame may be empty.
const BYTES_PER_FRAME: usize = 64;

/// The server side of one connection, after the handshake. It answers pings, joins frames to messages, checks that texts are
/// valid UTF-8 (§8.1), and ends a connection that violates the protocol with the right code (§7.4.1).
#[derive(Debug)]
pub struct Protocol {
    max_message: u32,
    /// `None` between messages: most clients seldom send, and a silent connection should hold no memory.
    receiving: Option<Box<Receiving>>,
}

/// The parser of a connection, and what it has not parsed.
#[derive(Debug)]
struct Receiving {
    context: WebSocketContext,
    /// Received and not yet parsed.
    unread: BytesMut,
    /// The bytes of the current frame that are still to be parsed.
    frame_left: u64,
    /// The frames of the message that is not complete yet.
    frames: usize,
    max_frames: usize,
}

/// Something received from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message of text.
    Text(String),
    /// A message of bytes.
    Binary(Bytes),
    /// A ping, which has been answered, or a pong.
    Control,
    /// The end. The replies to it are the last bytes to send.
    Close(CloseCause),
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCause {
    /// The client closed it.
    Client,
    /// The client violated the protocol, or sent a message that is too large or has too many frames.
    Violation,
}

impl Protocol {
    /// A connection whose client may send messages of up to `max_message` bytes, in one frame or several: at most one for each 64
    /// bytes of `max_message`, or 64.
    pub fn new(max_message: usize) -> Self {
        Self { max_message: u32::try_from(max_message).unwrap_or(u32::MAX), receiving: None }
    }

    /// Adds bytes from the client, for [`next`](Self::next) to parse. All but an incomplete frame is parsed once `next` has
    /// returned `None`, so a caller that waits for this holds no more than one message and what it has just added.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let receiving = self.receiving.get_or_insert_with(|| Box::new(Receiving::new(self.max_message as usize)));
            receiving.unread.extend_from_slice(bytes);
        }
    }

    /// The next thing received from the client; `None` if that is not complete yet. Appends the replies to `replies`, ready for
    /// the wire. Nothing follows [`Received::Close`].
    pub fn next(&mut self, replies: &mut Vec<u8>) -> Option<Received> {
        let received = self.receiving.as_mut()?.next(replies);
        if received.is_none() {
            self.receiving.take_if(|receiving| receiving.is_between_messages());
        }
        received
    }
}

impl Receiving {
    fn new(max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self {
            context: WebSocketContext::new(Role::Server, Some(config)),
            unread: BytesMut::new(),
            frame_left: 0,
            frames: 0,
            max_frames: (max_message / BYTES_PER_FRAME).max(MIN_FRAMES),
        }
    }

    /// Whether the next byte is the first of a message.
    fn is_between_messages(&self) -> bool {
        self.unread.is_empty() && self.frame_left == 0 && self.frames == 0
    }

    fn next(&mut self, replies: &mut Vec<u8>) -> Option<Received> {
        loop {
            // One frame at a time, because the library does not report the frames of an incomplete message.
            if self.frame_left == 0 {
                self.frame_left = frame_length(&self.unread)?;
            }
            let offered = usize::try_from(self.frame_left).unwrap_or(usize::MAX).min(self.unread.len());
            let mut wire = Wire { unread: &self.unread[..offered], read: 0, replies };
            let received = self.context.read(&mut wire);
            if matches!(received, Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) {
                // Writes the reply. Writing to a vector cannot fail; after a close frame, the error is that this is the end.
                let _ = self.context.flush(&mut wire);
            }
            let read = wire.read;
            self.unread.advance(read);
            self.frame_left -= read as u64;
            let received = match received {
                Ok(Message::Text(text)) => Received::Text(text.as_str().to_owned()),
                Ok(Message::Binary(bytes)) => Received::Binary(bytes),
                Ok(Message::Close(_)) => return Some(Received::Close(CloseCause::Client)),
                // Between the frames of a message there may be control frames (§5.4).
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => return Some(Received::Control),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.frame_left > 0 {
                        return None;
                    }
                    self.frames += 1;
                    if self.frames < self.max_frames {
                        continue;
                    }
                    let reason = "the message has too many frames";
                    write_close(CloseFrame { code: CloseCode::Policy, reason }, replies);
                    return Some(Received::Close(CloseCause::Violation));
                }
                Err(error) => {
                    if let Some(frame) = close_frame(&error) {
                        write_close(frame, replies);
                    }
                    return Some(Received::Close(CloseCause::Violation));
                }
            };
            self.frames = 0;
            return Some(received);
        }
    }
}

/// The length of the frame at the start of `bytes`, header included; `None` if the header is not complete yet.
fn frame_length(bytes: &[u8]) -> Option<u64> {
    let mut header = Cursor::new(bytes);
    match FrameHeader::parse(&mut header) {
        Ok(Some((_, payload))) => Some(payload.saturating_add(header.position())),
        Ok(None) => None,
        // The library finds the same error, and ends the connection.
        Err(_) => Some(bytes.len() as u64),
    }
}

/// The close frame for a violation (§7.4.1).
fn close_frame(error: &Error) -> Option<CloseFrame<'static>> {
    let frame = |code, reason| Some(CloseFrame { code, reason });
    match error {
        Error::Capacity(_) => frame(CloseCode::Size, "the message is too large"),
        Error::Utf8(_) => frame(CloseCode::Invalid, "a text is not valid UTF-8"),
        Error::Protocol(_) => frame(CloseCode::Protocol, "protocol error (RFC 6455)"),
        // It has ended already.
        _ => None,
    }
}

/// The socket, as the library sees it.
struct Wire<'a> {
    unread: &'a [u8],
    read: usize,
    replies: &'a mut Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.unread[self.read..];
        if left.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.read += count;
        Ok(count)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.replies.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_websockets::{ClientBuilder, Config};

    use super::*;
    use crate::Notices;
    use crate::websocket::{Subprotocol, envelope_framing, framing};
    use tallycast_fanout::{CloseReason, Message as Sent, Tally};

    /// More than any of the tests sends.
    const ROOM: usize = 1 << 22;

    fn messages() -> impl Strategy<Value = Vec<Received>> {
        let text = prop_oneof![".{0,40}", ".{120,130}", Just("x".repeat(65_536))].prop_map(Received::Text);
        let binary = proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Received::Binary(bytes.into()));
        proptest::collection::vec(prop_oneof![text, binary, Just(Received::Control)], 0..12)
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// What an independent client writes for `messages`, each in frames of at most `frame_size` bytes, and a close frame.
    fn written(messages: &[Received], frame_size: usize) -> Vec<u8> {
        block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(ROOM);
            let config = Config::default().frame_size(frame_size);
            let mut client = ClientBuilder::new().config(config).take_over(ours);
            for message in messages {
                let message = match message {
                    Received::Text(text) => tokio_websockets::Message::text(text.clone()),
                    Received::Binary(bytes) => tokio_websockets::Message::binary(bytes.clone()),
                    Received::Control => tokio_websockets::Message::ping("ping"),
                    Received::Close(_) => unreachable!("written below"),
                };
                client.send(message).await.unwrap();
            }
            client.send(tokio_websockets::Message::close(None, "")).await.unwrap();
            drop(client);
            let mut bytes = Vec::new();
            theirs.read_to_end(&mut bytes).await.unwrap();
            bytes
        })
    }

    /// The messages that an independent client reads in `bytes`.
    fn read(bytes: &[u8]) -> Vec<tokio_websockets::Message> {
        block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(ROOM);
            theirs.write_all(bytes).await.unwrap();
            theirs.shutdown().await.unwrap();
            let client = ClientBuilder::new().take_over(ours);
            client.filter_map(|message| std::future::ready(message.ok())).collect().await
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_of_independent_client_are_read_in_any_pieces(
            messages in messages(),
            frame_size in 8..200_usize,
            cut in 1..5000_usize,
        ) {
            let mut protocol = Protocol::new(1 << 20);
            let (mut received, mut replies) = (Vec::new(), Vec::new());
            for piece in written(&messages, frame_size).chunks(cut) {
                protocol.push(piece);
                while let Some(one) = protocol.next(&mut replies) {
                    let end = matches!(one, Received::Close(_));
                    received.push(one);
                    if end {
                        break;
                    }
                }
            }
            prop_assert_eq!(received.pop(), Some(Received::Close(CloseCause::Client)));
            prop_assert_eq!(&received, &messages);
            let replies = read(&replies);
            let pings = messages.iter().filter(|message| **message == Received::Control).count();
            prop_assert_eq!(replies.iter().filter(|reply| reply.is_pong()).count(), pings);
            prop_assert!(replies.last().is_some_and(|last| last.is_close()));
        }

        #[test]
        fn independent_client_reads_framed_messages(
            texts in proptest::collection::vec(prop_oneof![".{0,60}", Just("\u{1F602}\"\n".repeat(30_000))], 1..5),
            event in proptest::option::of(".{0,20}"),
        ) {
            for subprotocol in [Subprotocol::Json, Subprotocol::Raw] {
                let framing = framing(subprotocol);
                let mut batch = Vec::new();
                let mut expected = Vec::new();
                for text in &texts {
                    let mut message = Sent::text("/a/b".parse().unwrap(), text.clone());
                    message.event = event.as_deref().map(Into::into);
                    framing.message(&message, &mut batch);
                    expected.push(match subprotocol {
                        Subprotocol::Json => serde_json::json!({"namespace": "/a/b", "event": event, "data": text}),
                        Subprotocol::Raw => text.clone().into(),
                    });
                }
                let bytes = [framing.finish(batch), framing.keep_alive(None), framing.closing(&CloseReason::Shutdown)].concat();
                let mut read = read(&bytes);
                let close = read.pop().unwrap();
                prop_assert_eq!(close.as_close().map(|(code, _)| code.into()), Some(1001_u16));
                prop_assert!(read.pop().unwrap().is_ping());
                let read = read.iter().map(|message| match subprotocol {
                    Subprotocol::Json => serde_json::from_str(message.as_text().unwrap()).unwrap(),
                    Subprotocol::Raw => message.as_text().unwrap().into(),
                });
                prop_assert_eq!(read.collect::<Vec<serde_json::Value>>(), expected);
            }
        }

        #[test]
        fn independent_client_reads_envelopes(
            payloads in proptest::collection::vec(crate::envelope::tests::payloads(), 1..5),
            event in proptest::option::of(".{0,20}"),
        ) {
            let mut batch = Vec::new();
            let mut expected = Vec::new();
            for payload in &payloads {
                let mut message = Sent::text("/a/b".parse().unwrap(), payload.clone());
                message.event = event.as_deref().map(Into::into);
                envelope_framing(Notices::Comments).message(&message, &mut batch);
                let data = crate::envelope::tests::expected_data(payload);
                expected.push(serde_json::json!({"namespace": "/a/b", "event": event, "data": data}));
            }
            let read = read(&envelope_framing(Notices::Comments).finish(batch));
            let read = read.iter().map(|message| serde_json::from_str(message.as_text().unwrap()).unwrap());
            prop_assert_eq!(read.collect::<Vec<serde_json::Value>>(), expected);
        }

        #[test]
        fn any_bytes_are_parsed_with_bounded_replies(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut protocol = Protocol::new(100);
            let mut replies = Vec::new();
            protocol.push(&bytes);
            while let Some(received) = protocol.next(&mut replies) {
                if matches!(received, Received::Close(_)) {
                    break;
                }
            }
            prop_assert!(replies.len() <= bytes.len() + 127);
        }
    }

    #[test]
    fn frames_have_exact_bytes() {
        let framed = |subprotocol, fill: &dyn Fn(&dyn tallycast_fanout::Framing, &mut Vec<u8>)| {
            let mut batch = Vec::new();
            fill(&*framing(subprotocol), &mut batch);
            batch
        };
        let tally: Tally = [("1F602".to_owned(), 3)].into_iter().collect();
        let message = Sent::tally("/eps".parse().unwrap(), tally);
        let raw = framed(Subprotocol::Raw, &|framing, batch| framing.message(&message, batch));
        assert_eq!(raw, b"\x81\x0b{\"1F602\":3}");
        let json = framed(Subprotocol::Json, &|framing, batch| framing.message(&message, batch));
        assert_eq!(json, b"\x81\x38{\"namespace\":\"/eps\",\"event\":null,\"data\":\"{\\\"1F602\\\":3}\"}");
        let skipped = framed(Subprotocol::Json, &|framing, batch| framing.skipped(7, batch));
        assert_eq!(skipped, b"\x81\x0d{\"skipped\":7}");
        let mut envelope = Vec::new();
        envelope_framing(Notices::Comments).message(&message, &mut envelope);
        assert_eq!(envelope, b"\x81\x34{\"namespace\":\"/eps\",\"event\":null,\"data\":{\"1F602\":3}}");
        assert_eq!(framed(Subprotocol::Raw, &|framing, batch| framing.skipped(7, batch)), b"");
        assert_eq!(framing(Subprotocol::Raw).keep_alive(None), &b"\x89\0"[..]);
    }

    #[test]
    fn message_may_be_as_large_as_the_limit() {
        let mut replies = Vec::new();
        let mut received = |text: &str, frame_size| {
            let mut protocol = Protocol::new(10);
            protocol.push(&written(&[Received::Text(text.to_owned())], frame_size));
            protocol.next(&mut replies)
        };
        assert_eq!(received("1234567890", 100), Some(Received::Text("1234567890".to_owned())));
        assert_eq!(received("1234567890", 3), Some(Received::Text("1234567890".to_owned())));
        assert_eq!(received("12345678901", 100), Some(Received::Close(CloseCause::Violation)));
        assert_eq!(received("12345678901", 3), Some(Received::Close(CloseCause::Violation)));
        let codes: Vec<_> =
            read(&replies).iter().filter_map(|message| Some(u16::from(message.as_close()?.0))).collect();
        assert_eq!(codes, [1009]);
    }

    #[test]
    fn message_with_too_many_frames_ends_the_connection() {
        // A first frame of text without the end of the message, continuations, and a last one: all empty, under a mask of zeros.
        let frame = |first: u8| [first, 0x80, 0, 0, 0, 0];
        let message = |frames: usize| {
            let middle = frame(0x00).repeat(frames - 2);
            [&frame(0x01)[..], &middle, &frame(0x80)].concat()
        };
        let mut protocol = Protocol::new(100);
        let mut replies = Vec::new();
        // The count starts again with each message, and control frames in between do not count.
        for _ in 0..2 {
            protocol.push(&frame(0x01));
            protocol.push(&frame(0x8a));
            protocol.push(&message(MIN_FRAMES)[frame(0x01).len()..]);
            assert_eq!(protocol.next(&mut replies), Some(Received::Control));
            assert_eq!(protocol.next(&mut replies), Some(Received::Text(String::new())));
        }
        protocol.push(&message(MIN_FRAMES + 1));
        assert_eq!(protocol.next(&mut replies), Some(Received::Close(CloseCause::Violation)));
        assert_eq!(replies, b"\x88\x21\x03\xf0the message has too many frames");
        assert_eq!(Receiving::new(128 * BYTES_PER_FRAME).max_frames, 128);
    }
}
