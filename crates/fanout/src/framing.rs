//! What a transport tells the engine: how messages become bytes on its wire.

use bytes::Bytes;

use super::Message;

/// How messages become bytes on one wire. Stateless and shared: the engine frames a message once for each feed, however
/// many connections read it.
///
/// Two framings are the same when their names are, so a transport gives each of its framings a name of its own.
pub trait Framing: Send + Sync + std::fmt::Debug {
    /// The framing's name, unique in the process.
    fn name(&self) -> &'static str;

    /// Appends one message to `batch`.
    fn message(&self, message: &Message, batch: &mut Vec<u8>);

    /// Appends a note that `count` messages were left out for a reader that fell behind.
    fn skipped(&self, count: u64, batch: &mut Vec<u8>);

    /// Makes what was appended to a batch ready for the wire, for example as one HTTP chunk. Never called with nothing.
    fn finish(&self, batch: Vec<u8>) -> Bytes;

    /// What is sent after a silence, ready for the wire.
    fn keep_alive(&self) -> Bytes;

    /// What ends a stream in good order, ready for the wire; empty where closing the connection is enough.
    fn closing(&self) -> Bytes;
}
