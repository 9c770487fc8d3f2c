//! The client side of the streams: requests, and incremental parsers of the responses.

mod decoder;
mod response_header;
mod sse;
pub(crate) mod stamp;
mod transport;
mod websocket;

pub(crate) use self::response_header::{ResponseHeaderReader, UnexpectedStatus};
pub(crate) use self::sse::{Event, EventParser};
pub(crate) use self::transport::{Coding, Parser, Subprotocol, Transport};
pub(crate) use self::websocket::{Answer, ClosedByServer, client_frame, text_frame};
