//! One end of a TLS connection without its socket: records become plaintext, and plaintext becomes records.
//!
//! Between calls it keeps the part of a record that has come, plaintext that was not read, and ciphertext that was not sent. Each is
//! bounded, and mostly empty. The buffers for the work itself belong to the caller.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, InvalidMessage, ServerConfig};

/// The plaintext of a record (RFC 8446, §5.1), in bytes.
pub(crate) const MAX_PLAINTEXT: usize = 16 * 1024;
/// A record with its header, in bytes: those of TLS 1.2 may be 2048 longer than their plaintext (RFC 5246, §6.2.3).
const MAX_RECORD: usize = 5 + MAX_PLAINTEXT + 2048;
/// The records that rustls must have in one piece: those of one handshake message, which it limits to 64 KiB.
pub(crate) const MAX_RECORDS: usize = 64 * 1024 + MAX_RECORD;
/// What a record adds to its plaintext, in bytes: header, nonce, content type and tag. A key update may come before it.
const OVERHEAD: usize = 128;

/// One end of a TLS connection.
pub(crate) struct Session {
    connection: UnbufferedServerConnection,
    /// The beginning of a record, or of a handshake message in several: less than [`MAX_RECORDS`], and after the handshake less
    /// than one record.
    incoming: Box<[u8]>,
    /// Plaintext to be read: at most that of [`MAX_RECORD`] bytes and of the record that they complete.
    pub(super) plaintext: Bytes,
    /// Records to be sent: at most one with plaintext, and what rustls answers to the peer.
    pub(super) outgoing: Vec<u8>,
    /// The peer sends nothing more.
    pub(super) is_peer_closed: bool,
    /// The peer violated the protocol.
    has_failed: bool,
}

impl Session {
    /// A server before the handshake.
    ///
    /// # Errors
    /// When `config` cannot be used.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            incoming: Box::default(),
            plaintext: Bytes::new(),
            outgoing: Vec::new(),
            is_peer_closed: false,
            has_failed: false,
        })
    }

    /// Whether the handshake goes on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The protocol that ALPN chose.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Memory held between calls, in bytes, beside that of rustls.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn kept_bytes(&self) -> usize {
        self.incoming.len() + self.plaintext.len() + self.outgoing.capacity()
    }

    /// The part of a buffer for the next bytes from the peer.
    ///
    /// # Errors
    /// When the peer has filled it with a message that has no end.
    pub(crate) fn room(&self) -> Result<Range<usize>, Error> {
        let limit = if self.is_handshaking() { MAX_RECORDS } else { MAX_RECORD };
        let kept = self.incoming.len();
        if kept < limit {
            Ok(kept..limit.min(kept + MAX_RECORD))
        } else {
            Err(InvalidMessage::HandshakePayloadTooLarge.into())
        }
    }

    /// Takes bytes from the peer: those of `buffer` from the beginning of [`room`](Self::room) on.
    ///
    /// # Errors
    /// When the peer violated the protocol. The alert about it is to be sent.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let kept = std::mem::take(&mut self.incoming);
        buffer[..kept.len()].copy_from_slice(&kept);
        let consumed = self.advance(buffer, |_| Ok(()))?;
        if !self.is_peer_closed && consumed < buffer.len() {
            self.incoming = buffer[consumed..].into();
        }
        Ok(())
    }

    /// Appends the record with `plaintext` to `ciphertext`, after everything else that must be sent before it. At most
    /// [`MAX_PLAINTEXT`] bytes are taken; returns how many.
    ///
    /// # Errors
    /// When the connection has failed, or its keys are used up.
    pub(crate) fn encrypt(&mut self, plaintext: &[u8], ciphertext: &mut Vec<u8>) -> Result<usize, Error> {
        let plaintext = &plaintext[..plaintext.len().min(MAX_PLAINTEXT)];
        let mut taken = 0;
        self.advance_kept(|traffic| {
            append(ciphertext, plaintext.len() + OVERHEAD, |room| traffic.encrypt(plaintext, room))?;
            taken = plaintext.len();
            Ok(())
        })?;
        if !self.outgoing.is_empty() {
            // Answers that rustls had ready only now.
            self.outgoing.append(ciphertext);
        }
        Ok(taken)
    }

    /// Has `close_notify` sent after everything else: the end is not a truncation (RFC 8446, §6.1).
    pub(super) fn close(&mut self) {
        let mut last = Vec::new();
        // A connection that has failed has sent its alert.
        let _ = self.advance_kept(|traffic| append(&mut last, OVERHEAD, |room| traffic.queue_close_notify(room)));
        self.outgoing.append(&mut last);
    }

    /// Goes on without new bytes from the peer.
    fn advance_kept(
        &mut self,
        write: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut incoming = std::mem::take(&mut self.incoming);
        let consumed = self.advance(&mut incoming, write)?;
        self.incoming = if consumed == 0 { incoming } else { incoming[consumed..].into() };
        Ok(())
    }

    /// Processes `records` as far as they are complete, then writes if that is allowed. Returns how many bytes were processed.
    fn advance(
        &mut self,
        records: &mut [u8],
        mut write: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        if self.has_failed {
            return Err(Error::HandshakeNotComplete);
        }
        let mut consumed = 0;
        let mut plaintext = Vec::new();
        let ended = loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut records[consumed..]);
            let ended = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    let mut read = Ok(());
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => plaintext.extend_from_slice(record.payload),
                            Err(error) => read = Err(error),
                        }
                    }
                    read.err().map(Err)
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.outgoing, 0, |room| data.encode(room)).err().map(Err)
                }
                // It is in `outgoing`, which is sent before anything else.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_peer_closed = true;
                    None
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => Some(write(&mut traffic)),
                // More bytes are needed, or nothing more can be done. Early data is off.
                Ok(_) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
            consumed += discard;
            if let Some(ended) = ended {
                break ended;
            }
        };
        if !plaintext.is_empty() {
            let unread = std::mem::take(&mut self.plaintext);
            self.plaintext = if unread.is_empty() { plaintext } else { [&unread, &*plaintext].concat() }.into();
        }
        if let Err(error) = ended {
            self.has_failed = true;
            // The alert. rustls would go on with the records once there is nothing to send.
            while self.connection.wants_write()
                && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                    self.connection.process_tls_records(&mut records[consumed..]).state
                && append(&mut self.outgoing, 0, |room| data.encode(room)).is_ok()
            {}
            return Err(error);
        }
        Ok(consumed)
    }
}

/// Why something was not written.
enum NotWritten {
    /// This many bytes of room are needed.
    Room(usize),
    Failed(Error),
}

impl From<EncryptError> for NotWritten {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Room(size.required_size),
            EncryptError::EncryptExhausted => Self::Failed(Error::EncryptError),
        }
    }
}

impl From<EncodeError> for NotWritten {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Room(size.required_size),
            EncodeError::AlreadyEncoded => Self::Failed(Error::EncryptError),
        }
    }
}

/// Appends to `bytes` what `write` writes into the room that it gets: `room` bytes, or what it asks for.
fn append<E: Into<NotWritten>>(
    bytes: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), Error> {
    let start = bytes.len();
    loop {
        bytes.resize(start + room, 0);
        let (written, error) = match write(&mut bytes[start..]).map_err(E::into) {
            Ok(written) => (written, None),
            Err(NotWritten::Room(required)) if required > room => {
                room = required;
                continue;
            }
            Err(NotWritten::Room(_)) => (0, Some(Error::EncryptError)),
            Err(NotWritten::Failed(error)) => (0, Some(error)),
        };
        bytes.truncate(start + written);
        return error.map_or(Ok(()), Err);
    }
}
