//! The transports of tallycast: request headers and response parser of each.

use anyhow::Result;
use clap::ValueEnum;

use super::{
    sse::{Event, StreamParser},
    websocket::{Answer, FrameParser},
};

/// A transport of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Server-Sent Events.
    EventStream,
    /// Compressed Server-Sent Events.
    Compressed(Coding),
    /// WebSocket.
    WebSocket(Subprotocol),
}

/// A content coding of event streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Coding {
    Gzip,
    Zstd,
}

/// The format of WebSocket messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subprotocol {
    /// A JSON object with namespace, event and data
    Json,
    /// The payload only
    Raw,
}

impl Transport {
    /// The name of the subject with this transport.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EventStream => "tallycast",
            Self::Compressed(Coding::Gzip) => "tallycast gzip",
            Self::Compressed(Coding::Zstd) => "tallycast zstd",
            Self::WebSocket(Subprotocol::Json) => "tallycast WebSocket",
            Self::WebSocket(Subprotocol::Raw) => "tallycast WebSocket raw",
        }
    }

    /// The HTTP request for `path`, with a bearer `token` if there is one.
    pub(crate) fn request(self, path: &str, host: &str, token: Option<&str>) -> String {
        let headers = match self {
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
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sandbox-load\r\n{headers}{subprotocol}{authorization}\r\n"
        )
    }

    /// A parser for the response.
    pub(crate) fn parser(self) -> Parser {
        match self {
            Self::EventStream | Self::Compressed(_) => Parser::EventStream(StreamParser::default()),
            Self::WebSocket(subprotocol) => Parser::WebSocket(FrameParser::new(subprotocol)),
        }
    }
}

/// The parser of one response.
#[derive(Debug)]
pub(crate) enum Parser {
    EventStream(StreamParser),
    WebSocket(FrameParser),
}

impl Parser {
    /// Parses the next bytes and passes every completed event to `sink`.
    ///
    /// # Errors
    /// If the response is invalid, or if the server closes the stream.
    pub(crate) fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event)) -> Result<()> {
        match self {
            Self::EventStream(parser) => parser.feed(bytes, sink),
            Self::WebSocket(parser) => parser.feed(bytes, sink),
        }
    }

    /// Whether the response headers are complete.
    pub(crate) fn has_headers(&self) -> bool {
        match self {
            Self::EventStream(parser) => parser.has_headers(),
            Self::WebSocket(parser) => parser.has_headers(),
        }
    }

    /// A pending reply to the server, such as a pong.
    pub(crate) fn take_reply(&mut self) -> Option<&'static [u8]> {
        match self {
            Self::EventStream(_) => None,
            Self::WebSocket(parser) => parser.take_reply(),
        }
    }

    /// The answers to commands with an ID since the last call.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        match self {
            Self::EventStream(_) => Vec::new(),
            Self::WebSocket(parser) => parser.take_answers(),
        }
    }
}
