//! The readers: an epoll loop on one thread that opens streams and counts the events of all.
//!
//! It uses one thread, because it shares the machine with the measured server. Its CPU time is reported, to reveal runs
//! that were limited by the readers. A read that does not fill the buffer has emptied the socket, which saves a second
//! `read(2)`.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mio::{Events, Interest, Poll, Token, event::Event as Readiness, net::TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::delivery::DeliveryStats;
use crate::{
    resource_usage, signals,
    streams::{Parser, Transport},
};

/// Connections that wait for their response headers at a time: fewer than the usual listen backlog of 4,096.
const CONNECT_WINDOW: usize = 512;

/// The time limit for all connections to receive their response headers.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// The longest wait of one poll, so that signals and time limits are noticed.
const MAX_POLL_WAIT: Duration = Duration::from_millis(50);

/// Buffer size of one `read(2)` in bytes.
const READ_BYTES: usize = 256 * 1024;

/// Sockets handled per poll.
const EVENTS_PER_POLL: usize = 1024;

/// The receive buffer of a slow reader in bytes: small, so that the server's writes soon block.
const SLOW_RECEIVE_BUFFER: usize = 4096;

/// The TCP segment size of a slow reader, as on Ethernet. With the 64 KiB of loopback the server's send buffer accepts
/// 2.5 MB before a write blocks.
const SLOW_SEGMENT_BYTES: u32 = 1460;

/// How long the sockets of slow readers are drained at the end of a run.
const SLOW_DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// The readers.
#[derive(Debug)]
pub(super) struct Client {
    server: SocketAddr,
    transport: Transport,
    request: String,
    epoch: Instant,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    /// Connections per source address.
    per_address: usize,
    connections: Vec<Connection>,
    ready: usize,
    received: DeliveryStats,
    /// Bytes read from all sockets.
    bytes: u64,
    lost: usize,
    first_error: Option<String>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    state: State,
    /// Never reads after the response headers.
    is_slow: bool,
    parser: Parser,
    /// The sequence number of the next expected message.
    next_sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closed,
}

/// The buffer and counters used while reading.
struct ReadContext<'a> {
    buffer: &'a mut [u8],
    epoch: Instant,
    received: &'a mut DeliveryStats,
    bytes: &'a mut u64,
}

/// The result of the connections that did not read.
#[derive(Clone, Debug)]
pub(super) struct SlowReaders {
    pub(super) count: usize,
    /// Connections that the server closed.
    pub(super) closed: usize,
    /// Messages in their socket buffers at the end.
    pub(super) received: DeliveryStats,
}

impl Client {
    /// A client without connections. Stamps in messages count from `epoch`.
    pub(super) fn new(
        server: SocketAddr,
        path: &str,
        transport: Transport,
        epoch: Instant,
        payload_bytes: usize,
    ) -> Result<Self> {
        let (first, last) = resource_usage::ephemeral_ports()?;
        Ok(Self {
            server,
            transport,
            request: transport.request(path, &server.to_string()),
            epoch,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            // Leaves a quarter of the ports to other processes.
            per_address: (usize::from(last - first) * 3 / 4).max(1),
            connections: Vec::new(),
            ready: 0,
            received: DeliveryStats::new(payload_bytes)?,
            bytes: 0,
            lost: 0,
            first_error: None,
        })
    }

    /// Opens `readers` connections that read and `slow` ones that do not, and returns the time until all have received
    /// their response headers. `on_progress` is called after every poll with the number of these.
    ///
    /// # Errors
    /// If a connection fails, is closed or receives another response than a stream, or if the time limit expires.
    pub(super) fn connect(
        &mut self,
        readers: usize,
        slow: usize,
        mut on_progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Duration> {
        let total = readers + slow;
        let started = Instant::now();
        while self.ready < total {
            while self.connections.len() < total && self.connections.len() - self.ready < CONNECT_WINDOW {
                let is_slow = self.connections.len() >= readers;
                self.open(is_slow).with_context(|| format!("cannot open connection {}", self.connections.len() + 1))?;
            }
            self.poll_once(MAX_POLL_WAIT)?;
            if let Some(reason) = &self.first_error {
                bail!("a connection failed after {} were open: {reason}", self.ready);
            }
            ensure!(
                started.elapsed() < CONNECT_LIMIT,
                "only {} of {total} connections received response headers within {} s",
                self.ready,
                CONNECT_LIMIT.as_secs()
            );
            on_progress(self.ready)?;
        }
        Ok(started.elapsed())
    }

    /// Polls once, for at most `limit`, and reads from all readable sockets.
    ///
    /// # Errors
    /// If interrupted, or if polling fails. Failed connections are only counted.
    pub(super) fn poll_once(&mut self, limit: Duration) -> Result<()> {
        signals::check()?;
        match self.poll.poll(&mut self.events, Some(limit.min(MAX_POLL_WAIT))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled.context("cannot poll")?,
        }
        for readiness in &self.events {
            let connection = &mut self.connections[readiness.token().0];
            if connection.state == State::Closed {
                continue;
            }
            let was_ready = connection.parser.has_headers();
            let mut context = ReadContext {
                buffer: &mut self.buffer,
                epoch: self.epoch,
                received: &mut self.received,
                bytes: &mut self.bytes,
            };
            let result = connection.handle_readiness(readiness, &self.request, &mut context);
            if !was_ready && connection.parser.has_headers() {
                self.ready += 1;
            }
            if let Err(error) = result {
                connection.state = State::Closed;
                // Closing would deregister it too, but the stream is kept so that tokens stay indexes.
                let _ = self.poll.registry().deregister(&mut connection.stream);
                self.lost += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// The deliveries to the readers so far.
    pub(super) fn received(&self) -> &DeliveryStats {
        &self.received
    }

    /// Bytes read so far, including headers and framing.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of connections that ended early, and the error of the first.
    pub(super) fn lost(&self) -> (usize, Option<&str>) {
        (self.lost, self.first_error.as_deref())
    }

    /// Drains the sockets of the slow readers until each is closed or the time limit expires.
    pub(super) fn drain_slow_readers(&mut self, payload_bytes: usize) -> Result<SlowReaders> {
        let mut received = DeliveryStats::new(payload_bytes)?;
        let mut slow: Vec<&mut Connection> = self.connections.iter_mut().filter(|c| c.is_slow).collect();
        let count = slow.len();
        let deadline = Instant::now() + SLOW_DRAIN_LIMIT;
        while !slow.is_empty() && Instant::now() < deadline {
            // Retains open connections.
            slow.retain_mut(|connection| {
                let mut context = ReadContext {
                    buffer: &mut self.buffer,
                    epoch: self.epoch,
                    received: &mut received,
                    bytes: &mut self.bytes,
                };
                connection.state == State::Open && connection.read(true, &mut context).is_ok()
            });
            signals::sleep_until(Instant::now() + Duration::from_millis(10))?;
        }
        Ok(SlowReaders { count, closed: count - slow.len(), received })
    }

    /// Starts to connect.
    fn open(&mut self, is_slow: bool) -> Result<()> {
        let index = self.connections.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        if is_slow {
            socket.set_recv_buffer_size(SLOW_RECEIVE_BUFFER)?;
            socket.set_tcp_mss(SLOW_SEGMENT_BYTES)?;
        }
        let address = u32::try_from(index / self.per_address)?;
        if address > 0 {
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + address);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error.into()),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        self.connections.push(Connection {
            stream,
            state: State::Connecting,
            is_slow,
            parser: self.transport.parser(),
            next_sequence: 0,
        });
        Ok(())
    }
}

impl Connection {
    /// Sends the request or reads, as the socket allows.
    ///
    /// # Errors
    /// If the connection is unusable.
    fn handle_readiness(&mut self, readiness: &Readiness, request: &str, context: &mut ReadContext<'_>) -> Result<()> {
        if self.state == State::Connecting && (readiness.is_writable() || readiness.is_error()) {
            if let Some(error) = self.stream.take_error()? {
                return Err(anyhow!(error).context("cannot connect"));
            }
            // A new socket accepts so few bytes at once unless it is broken.
            let written = self.stream.write(request.as_bytes()).context("cannot send the request")?;
            ensure!(written == request.len(), "only a part of the request was sent");
            self.state = State::Open;
        }
        let reads = readiness.is_readable() || readiness.is_read_closed();
        let is_stalled = self.is_slow && self.parser.has_headers();
        if self.state == State::Open && reads && !is_stalled {
            self.read(readiness.is_read_closed(), context)?;
        }
        Ok(())
    }

    /// Reads until a read does not fill the buffer; with `until_blocked`, until `WouldBlock` or the end of the stream.
    fn read(&mut self, until_blocked: bool, context: &mut ReadContext<'_>) -> Result<()> {
        let ReadContext { buffer, epoch, received, bytes } = context;
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(io::Error::into(error)),
            };
            let now = epoch.elapsed();
            let next_sequence = &mut self.next_sequence;
            **bytes += length as u64;
            self.parser.feed(&buffer[..length], &mut |event| received.count(event, next_sequence, now))?;
            if let Some(reply) = self.parser.take_reply() {
                // So few bytes are accepted at once unless the connection is unusable.
                self.stream.write_all(reply).context("cannot answer a ping")?;
            }
            if length < buffer.len() && !until_blocked {
                return Ok(());
            }
        }
    }
}
