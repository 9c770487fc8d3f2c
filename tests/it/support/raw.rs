//! A plain TCP socket, for byte-exact tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::{LIMIT, Tallycast};

/// A connection for writing and reading raw bytes.
pub(crate) struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    pub(crate) fn connect(tallycast: &Tallycast) -> Self {
        Self::connect_to(tallycast.address)
    }

    pub(crate) fn connect_to(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&address, LIMIT).unwrap())
    }

    /// Connects with a small receive buffer, so that unread data soon blocks the server.
    pub(crate) fn connect_with_small_buffer(tallycast: &Tallycast) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&tallycast.address.into()).unwrap();
        Self::new(socket.into())
    }

    /// Connects from another loopback address.
    pub(crate) fn connect_from(tallycast: &Tallycast, source: [u8; 4]) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&tallycast.address.into()).unwrap();
        Self::new(socket.into())
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream: BufReader::with_capacity(64 * 1024, stream) }
    }

    /// Connects and sends `request`.
    pub(crate) fn request(tallycast: &Tallycast, request: &str) -> Self {
        let mut raw = Self::connect(tallycast);
        raw.send(request);
        raw
    }

    /// Opens a stream and reads its headers and first comment. Every event published after this returns is received.
    pub(crate) fn subscribe(tallycast: &Tallycast, path: &str) -> Self {
        Self::connect(tallycast).subscribed(path)
    }

    /// Opens a stream on this connection; see [`Raw::subscribe`].
    pub(crate) fn subscribed(mut self, path: &str) -> Self {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        self.expect("d\r\n: tallycast\n\n\r\n");
        self
    }

    pub(crate) fn send(&mut self, bytes: &str) {
        self.send_bytes(bytes.as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends `bytes`. Returns `false` if the connection has been closed.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Reads the bytes of `expected` and fails on any difference.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &str) {
        let mut read = vec![0; expected.len()];
        self.stream.read_exact(&mut read).unwrap_or_else(|error| panic!("{error} instead of {expected:?}"));
        assert_eq!(String::from_utf8_lossy(&read), expected);
    }

    /// Whether there is something to read, or the connection has ended.
    pub(crate) fn has_input(&mut self) -> bool {
        self.stream.get_ref().set_nonblocking(true).unwrap();
        let input = self.stream.fill_buf().map(|_| ());
        self.stream.get_ref().set_nonblocking(false).unwrap();
        input.is_ok()
    }

    /// Reads `count` bytes.
    #[track_caller]
    pub(crate) fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut read = vec![0; count];
        self.stream.read_exact(&mut read).unwrap();
        read
    }

    /// Reads a line including its line end; empty at the end of the stream.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    /// Reads the status line and headers of a response, including the empty line.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let line = self.line();
            assert!(!line.is_empty(), "the connection ended within the headers {head:?}");
            head.push_str(&line);
        }
        head
    }

    /// Reads one chunk of a chunked body; the last one is empty.
    #[track_caller]
    pub(crate) fn chunk(&mut self) -> String {
        let size = self.line();
        let size = usize::from_str_radix(size.trim_end_matches("\r\n"), 16)
            .unwrap_or_else(|_| panic!("expected a chunk size, found {size:?}"));
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk).unwrap();
        self.expect("\r\n");
        String::from_utf8(chunk).unwrap()
    }

    /// Reads all chunks including the last, and then the end of the connection.
    #[track_caller]
    pub(crate) fn chunks_to_end(&mut self) -> String {
        let mut body = String::new();
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                break;
            }
            body.push_str(&chunk);
        }
        assert_eq!(self.read_to_end(), "", "after the last chunk");
        body
    }

    /// Reads until the server closes the connection.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> String {
        String::from_utf8(self.bytes_to_end()).unwrap()
    }

    /// Reads bytes until the server closes the connection.
    #[track_caller]
    pub(crate) fn bytes_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        rest
    }

    /// Reads bytes until the connection is closed or reset.
    pub(crate) fn bytes_until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // Bytes before a reset count.
        let _ = self.stream.read_to_end(&mut rest);
        rest
    }

    /// Whether the connection is closed or reset after at most `limit` bytes.
    pub(crate) fn ends_within(&mut self, limit: u64) -> bool {
        match std::io::copy(&mut (&mut self.stream).take(limit + 1), &mut std::io::sink()) {
            Ok(read) => read <= limit,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
