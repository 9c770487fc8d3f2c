//! How readers get their messages from tallycast: what they ask for, and what reads the answer.

use anyhow::Result;
use clap::ValueEnum;

use super::{
    stream::{Event, StreamParser},
    websocket::FrameParser,
};

/// A way to read a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Server-Sent Events.
    EventStream,
    /// The same, compressed.
    Compressed(Coding),
    /// WebSocket.
    WebSocket(Subprotocol),
}

/// A compression of event streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

/// What WebSocket messages look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Subprotocol {
    /// A JSON object with namespace, event and data
    Json,
    /// The payload alone
    Raw,
}

impl Transport {
    /// The name of tallycast when it is read so.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EventStream => "tallycast",
            Self::Compressed(Coding::Gzip) => "tallycast gzip",
            Self::Compressed(Coding::Zstd) => "tallycast zstd",
            Self::WebSocket(Subprotocol::Json) => "tallycast WebSocket",
            Self::WebSocket(Subprotocol::Raw) => "tallycast WebSocket raw",
        }
    }

    /// A reader's request for `path`.
    pub(super) fn request(self, path: &str, host: &str) -> String {
        let wants = match self {
            Self::EventStream => "Accept: text/event-stream\r\n",
            Self::Compressed(Coding::Gzip) => "Accept: text/event-stream\r\nAccept-Encoding: gzip\r\n",
            Self::Compressed(Coding::Zstd) => "Accept: text/event-stream\r\nAccept-Encoding: zstd\r\n",
            Self::WebSocket(_) => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
        };
        let raw = self == Self::WebSocket(Subprotocol::Raw);
        let subprotocol = if raw { "Sec-WebSocket-Protocol: raw\r\n" } else { "" };
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sandbox-load\r\n{wants}{subprotocol}\r\n")
    }

    /// What reads the answer.
    pub(super) fn parser(self) -> Parser {
        match self {
            Self::EventStream | Self::Compressed(_) => Parser::EventStream(StreamParser::default()),
            Self::WebSocket(subprotocol) => Parser::WebSocket(FrameParser::new(subprotocol)),
        }
    }
}

/// Where one answer stands.
#[derive(Debug)]
pub(super) enum Parser {
    EventStream(StreamParser),
    WebSocket(FrameParser),
}

impl Parser {
    /// Takes the next bytes and gives every event that they complete to `sink`.
    ///
    /// # Errors
    /// When the bytes are not what was asked for, or say that the stream ends.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<()> {
        match self {
            Self::EventStream(parser) => parser.feed(bytes, sink),
            Self::WebSocket(parser) => parser.feed(bytes, sink),
        }
    }

    /// Whether the whole response head has come.
    pub(super) fn has_head(&self) -> bool {
        match self {
            Self::EventStream(parser) => parser.has_head(),
            Self::WebSocket(parser) => parser.has_head(),
        }
    }

    /// What is to be sent for what has come.
    pub(super) fn take_reply(&mut self) -> Option<&'static [u8]> {
        match self {
            Self::EventStream(_) => None,
            Self::WebSocket(parser) => parser.take_reply(),
        }
    }
}
