//! The readers: an epoll loop on one thread that opens streams and counts the events of all.
//!
//! It uses one thread, because it shares the machine with the measured server. Its CPU time is reported, to reveal runs
//! that were limited by the readers. A read that does not fill the buffer has emptied the socket, which saves a second
//! `read(2)`.

use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, event::Event as Readiness, net::TcpStream};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::{
    delivery::{DeliveryStats, histogram, latencies, record},
    link::Link,
    publisher::Published,
    readers::ReaderSetup,
    topic_changes::{Changed, TopicChanges},
    workload::{Newest, Progress, Workload},
};
use crate::{
    resource_usage, signals,
    streams::{Parser, text_frame},
};

/// Connections that wait for their response headers at a time: fewer than the usual listen backlog of 4,096.
pub(super) const CONNECT_WINDOW: usize = 512;

/// The time limit for all connections to receive their response headers.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// The longest wait of one poll, so that signals and time limits are noticed.
pub(super) const MAX_POLL_WAIT: Duration = Duration::from_millis(50);

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
    setup: ReaderSetup,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    /// Connections per source address.
    per_address: usize,
    connections: Vec<Connection>,
    ready: usize,
    received: Received,
    churn: Churn,
    topic_changes: Option<TopicChanges>,
    lost: usize,
    first_error: Option<String>,
}

/// The numbers of connections of each role. They are opened in this order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Roles {
    pub(super) readers: usize,
    pub(super) discarding: usize,
    pub(super) slow: usize,
    /// Connections of sessions, or plain ones of the same topics. They read and look at nothing.
    pub(super) sessions: usize,
    pub(super) churning: usize,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Reads from the start to the end.
    Reader,
    /// Reads, and looks at nothing after the response headers.
    Discarding,
    /// Never reads after the response headers.
    Slow,
    /// Reads, and is closed and opened again from time to time.
    Churning,
}

#[derive(Debug)]
struct Connection {
    index: usize,
    link: Link,
    state: State,
    role: Role,
    parser: Parser,
    progress: Progress,
    opened_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closed,
}

/// What was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Received {
    /// The deliveries to the readers.
    pub(super) readers: DeliveryStats,
    /// The deliveries to connections that leave and come back, which may miss messages while they are away.
    pub(super) churning: DeliveryStats,
    /// Bytes read from all sockets, including headers, framing and TLS.
    pub(super) bytes: u64,
    /// Calls of `read(2)`, or more with TLS, that completed an event.
    pub(super) reads: u64,
}

/// The state of the connections that leave and come back.
#[derive(Clone, Debug)]
struct Churn {
    /// The first of them, counted in this process. They are the last connections.
    first: usize,
    next: usize,
    started: Option<Instant>,
    returned: u64,
    /// From opening the socket until the response headers, in microseconds.
    latency: Histogram<u64>,
}

/// The buffer and counters used while reading.
struct ReadContext<'a> {
    buffer: &'a mut [u8],
    epoch: Instant,
    workload: &'a Workload,
    topic_changes: Option<&'a mut TopicChanges>,
    deliveries: &'a mut DeliveryStats,
    bytes: &'a mut u64,
    reads: &'a mut u64,
}

/// The result of the connections that did not read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SlowReaders {
    pub(super) count: usize,
    /// Connections that the server closed.
    pub(super) closed: usize,
    /// Messages in their socket buffers at the end.
    pub(super) received: DeliveryStats,
}

/// The result of the connections that left and came back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Churned {
    pub(super) returned: u64,
    #[serde(with = "histogram")]
    pub(super) latency: Histogram<u64>,
    pub(super) received: DeliveryStats,
}

impl Received {
    /// Nothing, for payloads of `payload_bytes` bytes.
    pub(super) fn new(payload_bytes: usize) -> Result<Self> {
        let stats = DeliveryStats::new(payload_bytes)?;
        Ok(Self { readers: stats.clone(), churning: stats, bytes: 0, reads: 0 })
    }

    /// Adds what other connections read.
    ///
    /// # Errors
    /// If latencies cannot be added.
    pub(super) fn add(&mut self, other: &Self) -> Result<()> {
        self.readers.add(&other.readers)?;
        self.churning.add(&other.churning)?;
        self.bytes += other.bytes;
        self.reads += other.reads;
        Ok(())
    }

    /// All delivered messages.
    pub(super) fn deliveries(&self) -> u64 {
        self.readers.delivered + self.churning.delivered
    }
}

impl SlowReaders {
    /// Adds the result of other connections.
    ///
    /// # Errors
    /// If latencies cannot be added.
    pub(super) fn add(&mut self, other: &Self) -> Result<()> {
        self.count += other.count;
        self.closed += other.closed;
        self.received.add(&other.received)
    }
}

impl Churned {
    /// Adds the result of other connections.
    ///
    /// # Errors
    /// If latencies cannot be added.
    pub(super) fn add(&mut self, other: &Self) -> Result<()> {
        self.returned += other.returned;
        self.latency.add(&other.latency)?;
        self.received.add(&other.received)
    }
}

impl Roles {
    /// All connections.
    pub(super) fn total(self) -> usize {
        self.first_churning() + self.churning
    }

    fn first_churning(self) -> usize {
        self.first_session() + self.sessions
    }

    fn first_session(self) -> usize {
        self.readers + self.discarding + self.slow
    }

    /// The session of connection `index`, if it is one of these.
    pub(super) fn session(self, index: usize) -> Option<usize> {
        index.checked_sub(self.first_session()).filter(|session| *session < self.sessions)
    }

    fn role(self, index: usize) -> Role {
        if index < self.readers {
            Role::Reader
        } else if index < self.readers + self.discarding {
            Role::Discarding
        } else if index < self.first_session() {
            Role::Slow
        } else if index < self.first_churning() {
            Role::Discarding
        } else {
            Role::Churning
        }
    }
}

impl Client {
    /// A client without connections.
    ///
    /// # Errors
    /// If the system does not say its ports, or there are no topics to change to.
    pub(super) fn new(setup: ReaderSetup) -> Result<Self> {
        let (first, last) = resource_usage::ephemeral_ports()?;
        let first_churning = setup.roles.first_churning().clamp(setup.range.start, setup.range.end);
        let changes = |rate| TopicChanges::new(rate, setup.range.len(), &setup.workload);
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            // Leaves a quarter of the ports to other processes.
            per_address: (usize::from(last - first) * 3 / 4).max(1),
            connections: Vec::new(),
            ready: 0,
            received: Received::new(setup.payload_bytes)?,
            churn: Churn {
                first: first_churning - setup.range.start,
                next: 0,
                started: None,
                returned: 0,
                latency: latencies()?,
            },
            topic_changes: setup.topic_changes.map(changes).transpose()?,
            lost: 0,
            first_error: None,
            setup,
        })
    }

    /// Opens the connections and returns the time until all have received their response headers. `on_progress` is called
    /// after every poll with the number of these.
    ///
    /// # Errors
    /// If a connection fails, is closed or receives another response than a stream, or if the time limit expires.
    pub(super) fn connect(&mut self, mut on_progress: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
        let total = self.setup.range.len();
        let started = Instant::now();
        while self.ready < total {
            while self.connections.len() < total && self.connections.len() - self.ready < self.setup.connect_window {
                let place = self.connections.len();
                let connection =
                    self.open(place, false).with_context(|| format!("cannot open connection {}", place + 1))?;
                self.connections.push(connection);
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
            let Received { readers, churning, bytes, reads } = &mut self.received;
            let mut context = ReadContext {
                buffer: &mut self.buffer,
                epoch: self.setup.epoch,
                workload: &self.setup.workload,
                topic_changes: self.topic_changes.as_mut(),
                deliveries: if connection.role == Role::Churning { churning } else { readers },
                bytes,
                reads,
            };
            let request = || {
                let path = self.setup.path(connection.index);
                let token = self.setup.token(connection.index);
                self.setup.stack.transport.request(&path, &self.setup.server.to_string(), token.as_deref())
            };
            let request = if connection.state == State::Connecting { request() } else { String::new() };
            let result = connection.handle_readiness(readiness, &request, &mut context);
            if !was_ready && connection.parser.has_headers() {
                self.ready += 1;
                if self.churn.started.is_some() {
                    self.churn.returned += 1;
                    record(&mut self.churn.latency, connection.opened_at.elapsed());
                }
            }
            if let Err(error) = result {
                connection.state = State::Closed;
                // Closing would deregister it too, but the stream is kept so that tokens stay indexes.
                let _ = self.poll.registry().deregister(connection.link.socket());
                self.lost += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// Sends the changes of topics that are due since the first call.
    ///
    /// # Errors
    /// If a connection is unusable.
    pub(super) fn change_topics(&mut self) -> Result<()> {
        let Some(changes) = &mut self.topic_changes else { return Ok(()) };
        while let Some((index, command)) = changes.next(&self.setup.workload, self.setup.epoch.elapsed()) {
            let connection = &mut self.connections[index];
            if connection.state == State::Open {
                connection.link.send(&text_frame(&command)).context("cannot change topics")?;
            }
        }
        Ok(())
    }

    /// Closes and reopens as many churning connections as are due since the first call: each once a second. A connection that
    /// has not received its response headers yet is left alone.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub(super) fn churn(&mut self) -> Result<()> {
        let count = self.connections.len() - self.churn.first;
        if count == 0 {
            return Ok(());
        }
        let elapsed = self.churn.started.get_or_insert_with(Instant::now).elapsed();
        let due = (elapsed.as_secs_f64() * count as f64) as usize;
        while self.churn.next < due {
            let place = self.churn.first + self.churn.next % count;
            self.churn.next += 1;
            if self.connections[place].parser.has_headers() {
                // Dropping the old connection closes and deregisters its socket.
                self.connections[place] = self.open(place, true).context("cannot reopen a connection")?;
                self.ready -= 1;
            }
        }
        Ok(())
    }

    /// What was read so far.
    pub(super) fn received(&self) -> &Received {
        &self.received
    }

    /// Forgets the bytes that were read so far.
    pub(super) fn reset_bytes(&mut self) {
        self.received.bytes = 0;
    }

    /// Which of the newest messages the readers have, once all of `published` are.
    pub(super) fn newest(&self, published: &Published) -> Newest {
        let workload = &self.setup.workload;
        if let Some(changes) = &self.topic_changes {
            return changes.newest(workload, &published.times);
        }
        let counts = workload.counts(published.messages);
        let readers = self.connections.iter().filter(|connection| connection.role == Role::Reader);
        let mut newest = Newest::default();
        readers.for_each(|reader| newest += workload.newest(reader.index, &reader.progress, &counts));
        newest
    }

    /// What came of the changes of topics, if there were some.
    pub(super) fn changed(&mut self, published: &Published) -> Option<Changed> {
        Some(self.topic_changes.as_mut()?.finish(&self.setup.workload, &published.times))
    }

    /// The result of the churning connections, if there are some.
    pub(super) fn churned(&self) -> Option<Churned> {
        let Churn { first, returned, ref latency, .. } = self.churn;
        let received = self.received.churning.clone();
        (first < self.connections.len()).then(|| Churned { returned, latency: latency.clone(), received })
    }

    /// The number of connections that ended early, and the error of the first.
    pub(super) fn lost(&self) -> (usize, Option<&str>) {
        (self.lost, self.first_error.as_deref())
    }

    /// Drains the sockets of the slow readers until each is closed or the time limit expires.
    pub(super) fn drain_slow_readers(&mut self) -> Result<SlowReaders> {
        let mut received = DeliveryStats::new(self.setup.payload_bytes)?;
        let is_slow = |connection: &&mut Connection| connection.role == Role::Slow;
        let mut slow: Vec<&mut Connection> = self.connections.iter_mut().filter(is_slow).collect();
        let count = slow.len();
        let deadline = Instant::now() + SLOW_DRAIN_LIMIT;
        while !slow.is_empty() && Instant::now() < deadline {
            // Retains open connections.
            slow.retain_mut(|connection| {
                let mut context = ReadContext {
                    buffer: &mut self.buffer,
                    epoch: self.setup.epoch,
                    workload: &self.setup.workload,
                    topic_changes: None,
                    deliveries: &mut received,
                    bytes: &mut self.received.bytes,
                    reads: &mut self.received.reads,
                };
                connection.state == State::Open && connection.read(true, &mut context).is_ok()
            });
            signals::sleep_until(Instant::now() + Duration::from_millis(10))?;
        }
        Ok(SlowReaders { count, closed: count - slow.len(), received })
    }

    /// Starts to connect what is connection `place` in this process. With `late`, it may miss the first messages.
    fn open(&self, place: usize, late: bool) -> Result<Connection> {
        let index = self.setup.range.start + place;
        let role = self.setup.roles.role(index);
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        if role == Role::Slow {
            socket.set_recv_buffer_size(SLOW_RECEIVE_BUFFER)?;
            socket.set_tcp_mss(SLOW_SEGMENT_BYTES)?;
        }
        let address = u32::try_from(index / self.per_address)?;
        if address > 0 {
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + address);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&self.setup.server.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error.into()),
            _ => {}
        }
        let mut link = Link::new(TcpStream::from_std(socket.into()), self.setup.tls.as_ref(), self.setup.server.ip())?;
        self.poll.registry().register(link.socket(), Token(place), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection {
            index,
            link,
            state: State::Connecting,
            role,
            parser: self.setup.stack.transport.parser(),
            progress: self.setup.workload.start(late),
            opened_at: Instant::now(),
        })
    }
}

impl Connection {
    /// Sends the request or reads, as the socket allows.
    ///
    /// # Errors
    /// If the connection is unusable.
    fn handle_readiness(&mut self, readiness: &Readiness, request: &str, context: &mut ReadContext<'_>) -> Result<()> {
        if self.state == State::Connecting && (readiness.is_writable() || readiness.is_error()) {
            if let Some(error) = self.link.socket().take_error()? {
                return Err(anyhow!(error).context("cannot connect"));
            }
            self.link.send(request.as_bytes()).context("cannot send the request")?;
            self.state = State::Open;
        }
        let reads = readiness.is_readable() || readiness.is_read_closed();
        let is_stalled = self.role == Role::Slow && self.parser.has_headers();
        if self.state == State::Open && reads && !is_stalled {
            self.read(readiness.is_read_closed(), context)?;
        }
        Ok(())
    }

    /// Reads until a read has emptied the socket; with `until_blocked`, until `WouldBlock` or the end of the stream.
    fn read(&mut self, until_blocked: bool, context: &mut ReadContext<'_>) -> Result<()> {
        let ReadContext { buffer, epoch, workload, topic_changes, deliveries, bytes, reads } = context;
        let Self { index, link, parser, progress, role, .. } = self;
        let before = link.bytes_read();
        let result = loop {
            let length = match link.read(buffer) {
                Ok(0) => break Err(anyhow!("the server closed the connection")),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break Err(error.into()),
            };
            if *role == Role::Discarding && parser.has_headers() {
                if !until_blocked && link.is_emptied_by(length, buffer.len()) {
                    break Ok(());
                }
                continue;
            }
            let now = epoch.elapsed();
            let mut has_event = false;
            parser.feed(&buffer[..length], &mut |event| {
                has_event = true;
                deliveries.count(event, now, |sequence| match topic_changes {
                    Some(changes) => changes.receive(*index, sequence, workload),
                    None => workload.receive(*index, progress, sequence),
                });
            })?;
            **reads += u64::from(has_event);
            if let Some(changes) = topic_changes {
                parser.take_answers().into_iter().try_for_each(|answer| changes.answer(*index, answer, now))?;
            }
            if let Some(reply) = parser.take_reply() {
                link.send(reply).context("cannot answer a ping")?;
            }
            if !until_blocked && link.is_emptied_by(length, buffer.len()) {
                break Ok(());
            }
        };
        **bytes += link.bytes_read() - before;
        result
    }
}
