//! Many readers on one thread: an epoll loop that opens streams and counts what they bring.
//!
//! One thread, since it shares the machine with what it measures: what it uses is reported, so that a run in which the
//! readers were the limit shows. A read that fills less than the buffer has emptied the socket, which saves the second
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

use super::{
    interrupt,
    received::Received,
    transport::{Parser, Transport},
    usage,
};

/// Connections that may wait for their response head at a time: fewer than a listener's usual backlog of 4,096.
const CONNECT_WINDOW: usize = 512;

/// For all connections to get their response head.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// The longest wait in one turn, so that nothing is blind to interrupts and limits.
const LONGEST_TURN: Duration = Duration::from_millis(50);

/// Bytes asked for in one `read(2)`.
const READ_BYTES: usize = 256 * 1024;

/// Sockets that one turn serves at most.
const EVENTS_PER_TURN: usize = 1024;

/// The receive buffer of a slow reader, in bytes: small, so that the server sees soon that it does not read.
const SLOW_RECEIVE_BUFFER: usize = 4096;

/// The segment size of a slow reader, as on an Ethernet. With the 64 KiB of loopback the server's own send buffer would
/// swallow 2.5 MB before a write would block.
const SLOW_SEGMENT_BYTES: u32 = 1460;

/// How long slow readers are read in the end to learn what the server did with them.
const SLOW_READ_OUT_LIMIT: Duration = Duration::from_secs(3);

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
    /// Connections from one source address before the next one is taken.
    per_address: usize,
    connections: Vec<Connection>,
    with_head: usize,
    received: Received,
    /// Bytes read from all sockets.
    bytes: u64,
    lost: usize,
    first_loss: Option<String>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    state: State,
    /// Never reads after the response head.
    is_slow: bool,
    parser: Parser,
    /// The sequence number of the message that should come next.
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closed,
}

/// What is needed to read, and where it is counted.
struct Reading<'a> {
    buffer: &'a mut [u8],
    epoch: Instant,
    received: &'a mut Received,
    bytes: &'a mut u64,
}

/// What became of the connections that did not read.
#[derive(Clone, Debug)]
pub(super) struct SlowReaders {
    pub(super) count: usize,
    /// How many of them the server closed.
    pub(super) closed: usize,
    /// What they found in their sockets in the end.
    pub(super) received: Received,
}

impl Client {
    /// A client without connections. Stamps in what it reads count from `epoch`.
    pub(super) fn new(
        server: SocketAddr,
        path: &str,
        transport: Transport,
        epoch: Instant,
        payload_bytes: usize,
    ) -> Result<Self> {
        let (first, last) = usage::outgoing_ports()?;
        Ok(Self {
            server,
            transport,
            request: transport.request(path, &server.to_string()),
            epoch,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_PER_TURN),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            // The other quarter is left to the rest of the machine.
            per_address: (usize::from(last - first) * 3 / 4).max(1),
            connections: Vec::new(),
            with_head: 0,
            received: Received::new(payload_bytes)?,
            bytes: 0,
            lost: 0,
            first_loss: None,
        })
    }

    /// Opens `readers` connections that read and `slow` that do not, and gives the time until all have their response
    /// head. `watch` is called every turn with the number that have it.
    ///
    /// # Errors
    /// When a connection fails, is closed, or gets another answer than a stream; or when the limit is over.
    pub(super) fn connect(
        &mut self,
        readers: usize,
        slow: usize,
        mut watch: impl FnMut(usize) -> Result<()>,
    ) -> Result<Duration> {
        let total = readers + slow;
        let started = Instant::now();
        while self.with_head < total {
            while self.connections.len() < total && self.connections.len() - self.with_head < CONNECT_WINDOW {
                let is_slow = self.connections.len() >= readers;
                self.open(is_slow)
                    .with_context(|| format!("connection {} cannot be opened", self.connections.len() + 1))?;
            }
            self.turn(LONGEST_TURN)?;
            if let Some(reason) = &self.first_loss {
                bail!("a connection failed after {} were open: {reason}", self.with_head);
            }
            ensure!(
                started.elapsed() < CONNECT_LIMIT,
                "only {} of {total} connections have a response head after {} s",
                self.with_head,
                CONNECT_LIMIT.as_secs()
            );
            watch(self.with_head)?;
        }
        Ok(started.elapsed())
    }

    /// Reads what has come, waiting for it at most `limit`.
    ///
    /// # Errors
    /// When interrupted, or when polling fails. A connection that fails is only counted.
    pub(super) fn turn(&mut self, limit: Duration) -> Result<()> {
        interrupt::check()?;
        match self.poll.poll(&mut self.events, Some(limit.min(LONGEST_TURN))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled.context("cannot poll")?,
        }
        for readiness in &self.events {
            let connection = &mut self.connections[readiness.token().0];
            if connection.state == State::Closed {
                continue;
            }
            let had_head = connection.parser.has_head();
            let mut reading = Reading {
                buffer: &mut self.buffer,
                epoch: self.epoch,
                received: &mut self.received,
                bytes: &mut self.bytes,
            };
            let served = connection.serve(readiness, &self.request, &mut reading);
            if !had_head && connection.parser.has_head() {
                self.with_head += 1;
            }
            if let Err(error) = served {
                connection.state = State::Closed;
                // Closing it would do the same, but the stream is kept so that tokens stay indexes.
                let _ = self.poll.registry().deregister(&mut connection.stream);
                self.lost += 1;
                self.first_loss.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// What the readers got so far.
    pub(super) fn received(&self) -> &Received {
        &self.received
    }

    /// Bytes that were read, with all that frames the messages.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many connections ended before their time, and why the first of them did.
    pub(super) fn lost(&self) -> (usize, Option<&str>) {
        (self.lost, self.first_loss.as_deref())
    }

    /// Reads what lies in the sockets of the slow readers, until each is empty and stays so for the limit, or ends.
    pub(super) fn read_slow_out(&mut self, payload_bytes: usize) -> Result<SlowReaders> {
        let mut received = Received::new(payload_bytes)?;
        let mut slow: Vec<&mut Connection> = self.connections.iter_mut().filter(|c| c.is_slow).collect();
        let count = slow.len();
        let deadline = Instant::now() + SLOW_READ_OUT_LIMIT;
        while !slow.is_empty() && Instant::now() < deadline {
            // What is retained is still open.
            slow.retain_mut(|connection| {
                let mut reading = Reading {
                    buffer: &mut self.buffer,
                    epoch: self.epoch,
                    received: &mut received,
                    bytes: &mut self.bytes,
                };
                connection.state == State::Open && connection.read(true, &mut reading).is_ok()
            });
            interrupt::sleep_until(Instant::now() + Duration::from_millis(10))?;
        }
        Ok(SlowReaders { count, closed: count - slow.len(), received })
    }

    /// Begins a connection.
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
            next: 0,
        });
        Ok(())
    }
}

impl Connection {
    /// Does what the socket is ready for.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    fn serve(&mut self, readiness: &Readiness, request: &str, reading: &mut Reading<'_>) -> Result<()> {
        if self.state == State::Connecting && (readiness.is_writable() || readiness.is_error()) {
            if let Some(error) = self.stream.take_error()? {
                return Err(anyhow!(error).context("cannot connect"));
            }
            // A new socket takes this little at once or is broken.
            let written = self.stream.write(request.as_bytes()).context("cannot send the request")?;
            ensure!(written == request.len(), "the request was sent in part only");
            self.state = State::Open;
        }
        let reads = readiness.is_readable() || readiness.is_read_closed();
        let is_stalled = self.is_slow && self.parser.has_head();
        if self.state == State::Open && reads && !is_stalled {
            self.read(readiness.is_read_closed(), reading)?;
        }
        Ok(())
    }

    /// Reads until the socket is empty; with `to_the_end`, until it says so itself, and so sees the end of the stream.
    fn read(&mut self, to_the_end: bool, reading: &mut Reading<'_>) -> Result<()> {
        let Reading { buffer, epoch, received, bytes } = reading;
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(io::Error::into(error)),
            };
            let now = epoch.elapsed();
            let next = &mut self.next;
            **bytes += length as u64;
            self.parser.feed(&buffer[..length], &mut |event| received.count(event, next, now))?;
            if let Some(reply) = self.parser.take_reply() {
                // This little is taken at once, or the connection is of no use any more.
                self.stream.write_all(reply).context("cannot answer a ping")?;
            }
            if length < buffer.len() && !to_the_end {
                return Ok(());
            }
        }
    }
}
