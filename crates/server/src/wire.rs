//! How the body of a stream is sent: its content coding, and HTTP/1.1's chunked coding (RFC 9112, §7.1).

use std::io::Write;

use bytes::Bytes;

use crate::coding::Coding;

/// RFC 9112, §7.1: the chunk of length zero that ends a chunked body, without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The bytes of a chunk beside its data, at most: its length in hexadecimal digits, and two line ends.
const CHUNK_OVERHEAD: usize = 20;

/// The codings between a framing and the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wire {
    pub(crate) coding: Coding,
    /// Whether each batch is a chunk: for HTTP/1.1, where the engine writes to the socket.
    pub(crate) chunked: bool,
}

impl Wire {
    /// Every combination.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let codings = std::iter::once(Coding::Identity).chain(Coding::FOR_STREAMS);
        codings.flat_map(|coding| [false, true].map(|chunked| Self { coding, chunked }))
    }

    /// What the name of a framing has beside that of its format.
    pub(crate) fn suffix(self) -> String {
        let coding = self.coding.name().map(|name| format!("+{name}")).unwrap_or_default();
        let chunked = if self.chunked { "+chunked" } else { "" };
        format!("{coding}{chunked}")
    }

    /// The first bytes of a body.
    pub(crate) fn start(self, bytes: Vec<u8>) -> Bytes {
        let block = if bytes.is_empty() { bytes } else { self.coding.block(bytes) };
        self.chunk([self.coding.start(), &block].concat())
    }

    /// Further bytes of a body, which can follow any others.
    pub(crate) fn finish(self, bytes: Vec<u8>) -> Bytes {
        if bytes.is_empty() { Bytes::new() } else { self.chunk(self.coding.block(bytes)) }
    }

    /// The bytes that end a body.
    pub(crate) fn end(self) -> &'static [u8] {
        if self.chunked { LAST_CHUNK } else { b"" }
    }

    /// Bytes that are in their content coding already.
    fn chunk(self, bytes: Vec<u8>) -> Bytes {
        // An empty chunk would end the body.
        if !self.chunked || bytes.is_empty() {
            return bytes.into();
        }
        let mut chunk = Vec::with_capacity(bytes.len() + CHUNK_OVERHEAD);
        // Writing to a vector cannot fail.
        let _ = write!(chunk, "{:x}\r\n", bytes.len());
        chunk.extend_from_slice(&bytes);
        chunk.extend_from_slice(b"\r\n");
        chunk.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_not_a_chunk() {
        for wire in Wire::all() {
            assert_eq!(wire.finish(Vec::new()), "");
        }
        let chunked = Wire { coding: Coding::Identity, chunked: true };
        assert_eq!((chunked.start(Vec::new()), chunked.start(b":\n\n".to_vec())), ("".into(), "3\r\n:\n\n\r\n".into()));
    }
}
