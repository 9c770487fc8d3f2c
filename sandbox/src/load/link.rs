//! The socket of one reader, with or without TLS, which counts the bytes that it reads.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use mio::net::TcpStream;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// A connection, open or being opened.
#[derive(Debug)]
pub(super) enum Link {
    Plain(CountingSocket),
    Tls(Box<StreamOwned<ClientConnection, CountingSocket>>),
}

/// A socket that counts the bytes that are read from it.
#[derive(Debug)]
pub(super) struct CountingSocket {
    socket: TcpStream,
    read: u64,
}

impl Link {
    /// A link over `socket`, encrypted if there is `tls`.
    ///
    /// # Errors
    /// If TLS cannot be used.
    pub(super) fn new(socket: TcpStream, tls: Option<&Arc<ClientConfig>>, server: IpAddr) -> Result<Self> {
        let socket = CountingSocket { socket, read: 0 };
        Ok(match tls {
            None => Self::Plain(socket),
            Some(config) => {
                let session = ClientConnection::new(Arc::clone(config), ServerName::IpAddress(server.into()))?;
                Self::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        })
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => &mut socket.socket,
            Self::Tls(stream) => &mut stream.sock.socket,
        }
    }

    /// Bytes read from the socket so far.
    pub(super) fn bytes_read(&self) -> u64 {
        match self {
            Self::Plain(socket) => socket.read,
            Self::Tls(stream) => stream.sock.read,
        }
    }

    /// Sends a few bytes: so few are accepted at once unless the connection is broken. During a TLS handshake they are sent
    /// at its end, by a later read.
    ///
    /// # Errors
    /// If the connection is unusable.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Plain(socket) => {
                let written = socket.socket.write(bytes)?;
                ensure!(written == bytes.len(), "only a part was sent");
            }
            Self::Tls(stream) => {
                stream.conn.writer().write_all(bytes)?;
                match stream.conn.complete_io(&mut stream.sock) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error).context("TLS"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether a read of `length` bytes into a buffer of `room` bytes has emptied the socket. A read of TLS returns at most
    /// a record, so only `WouldBlock` says so.
    pub(super) fn is_emptied_by(&self, length: usize, room: usize) -> bool {
        matches!(self, Self::Plain(_)) && length < room
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Read for CountingSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.socket.read(buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}

impl Write for CountingSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
