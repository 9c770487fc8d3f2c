//! One side of a WebSocket connection (RFC 6455) without its socket: bytes in, messages and answers out.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tungstenite::Error;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::frames::write_close;

/// The room that a connection keeps for what comes in, in bytes. Larger frames get theirs when they come.
const READ_BUFFER: usize = 256;

/// A server's side of one connection, after the handshake. Pings are answered and frames put together here; texts are
/// valid UTF-8 (§8.1), and what breaks the protocol ends the connection with the code that says so (§7.4.1).
#[derive(Debug)]
pub struct Protocol {
    context: WebSocketContext,
    /// What came in and was not looked at yet.
    unread: Vec<u8>,
}

/// What came from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message of text.
    Text(String),
    /// A message of bytes.
    Binary(Bytes),
    /// A ping, which has been answered, or a pong.
    Control,
    /// The end: the client has closed, or has broken the protocol; the answer to that is the last that is to be sent.
    End(End),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client has closed it.
    Closed,
    /// The client has broken the protocol, or sent more than it may.
    Failed,
}

impl Protocol {
    /// A connection whose client may send messages of `max_message` bytes, whole or in parts.
    pub fn new(max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self { context: WebSocketContext::new(Role::Server, Some(config)), unread: Vec::new() }
    }

    /// Takes in bytes from the client, for [`next`](Self::next) to look at.
    pub fn take_in(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next thing that came from the client; `None` when it has to send more first. What it is to be answered is
    /// appended to `replies`, ready for the wire. Nothing comes after the end.
    pub fn next(&mut self, replies: &mut Vec<u8>) -> Option<Received> {
        let mut wire = Wire { unread: &self.unread, read: 0, replies };
        let received = self.context.read(&mut wire);
        let read = wire.read;
        let received = match received {
            Ok(Message::Text(text)) => Some(Received::Text(text.as_str().to_owned())),
            Ok(Message::Binary(bytes)) => Some(Received::Binary(bytes)),
            Ok(Message::Close(_)) => {
                // Writes the answer; that this is the end is the error that it returns.
                let _ = self.context.flush(&mut wire);
                Some(Received::End(End::Closed))
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                // Writes the pong, and a vector takes it.
                let _ = self.context.flush(&mut wire);
                Some(Received::Control)
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                if let Some((code, reason)) = told(&error) {
                    write_close(code, reason, replies);
                }
                Some(Received::End(End::Failed))
            }
        };
        self.unread.drain(..read);
        if self.unread.is_empty() {
            // A connection that says nothing should cost nothing.
            self.unread = Vec::new();
        }
        received
    }
}

/// The code and the reason that a client is told (§7.4.1).
fn told(error: &Error) -> Option<(CloseCode, &'static str)> {
    match error {
        Error::Capacity(_) => Some((CloseCode::Size, "the message is larger than allowed here")),
        Error::Utf8(_) => Some((CloseCode::Invalid, "a text is not valid UTF-8")),
        Error::Protocol(_) => Some((CloseCode::Protocol, "this is against RFC 6455")),
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
    use crate::websocket::{Subprotocol, framing};
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
                    Received::End(_) => unreachable!("written below"),
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

    /// What an independent client reads in `bytes`.
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
        fn what_an_independent_client_writes_is_read_however_it_is_cut(
            messages in messages(),
            frame_size in 1..200_usize,
            cut in 1..5000_usize,
        ) {
            let mut protocol = Protocol::new(1 << 20);
            let (mut received, mut replies) = (Vec::new(), Vec::new());
            for piece in written(&messages, frame_size).chunks(cut) {
                protocol.take_in(piece);
                while let Some(one) = protocol.next(&mut replies) {
                    let end = matches!(one, Received::End(_));
                    received.push(one);
                    if end {
                        break;
                    }
                }
            }
            prop_assert_eq!(received.pop(), Some(Received::End(End::Closed)));
            prop_assert_eq!(&received, &messages);
            let replies = read(&replies);
            let pings = messages.iter().filter(|message| **message == Received::Control).count();
            prop_assert_eq!(replies.iter().filter(|reply| reply.is_pong()).count(), pings);
            prop_assert!(replies.last().is_some_and(|last| last.is_close()));
        }

        #[test]
        fn an_independent_client_reads_what_is_framed(
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
                let bytes = [framing.finish(batch), framing.keep_alive(), framing.closing(&CloseReason::Shutdown)].concat();
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
        fn no_bytes_make_it_panic_or_say_more_than_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut protocol = Protocol::new(100);
            let mut replies = Vec::new();
            protocol.take_in(&bytes);
            while let Some(received) = protocol.next(&mut replies) {
                if matches!(received, Received::End(_)) {
                    break;
                }
            }
            prop_assert!(replies.len() <= bytes.len() + 127);
        }
    }

    #[test]
    fn exact_bytes() {
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
        assert_eq!(framed(Subprotocol::Raw, &|framing, batch| framing.skipped(7, batch)), b"");
        assert_eq!(framing(Subprotocol::Raw).keep_alive(), &b"\x89\0"[..]);
    }

    #[test]
    fn a_message_may_be_as_large_as_the_limit() {
        let mut replies = Vec::new();
        let mut received = |text: &str, frame_size| {
            let mut protocol = Protocol::new(10);
            protocol.take_in(&written(&[Received::Text(text.to_owned())], frame_size));
            protocol.next(&mut replies)
        };
        assert_eq!(received("1234567890", 100), Some(Received::Text("1234567890".to_owned())));
        assert_eq!(received("1234567890", 3), Some(Received::Text("1234567890".to_owned())));
        assert_eq!(received("12345678901", 100), Some(Received::End(End::Failed)));
        assert_eq!(received("12345678901", 3), Some(Received::End(End::Failed)));
        let codes: Vec<_> =
            read(&replies).iter().filter_map(|message| Some(u16::from(message.as_close()?.0))).collect();
        assert_eq!(codes, [1009]);
    }
}
