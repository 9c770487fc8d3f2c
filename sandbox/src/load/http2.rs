//! The readers over HTTP/2: one or several streams per connection, all on one thread.

use std::{
    cell::RefCell,
    io,
    net::Ipv4Addr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    task::{LocalSet, spawn_local},
    time::sleep,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    client::{CONNECT_LIMIT, MAX_POLL_WAIT, Received},
    readers::ReaderSetup,
    workload::{Newest, Progress},
};
use crate::{resource_usage, signals, streams::EventParser};

/// The HTTP/2 windows of a stream and of a connection in bytes: readers never make the server wait for them.
const WINDOW: u32 = 4 * 1024 * 1024;

/// The readers. Each stream counts as a connection, so that figures per connection can be compared.
pub(super) struct Http2Client {
    setup: ReaderSetup,
    streams_per_connection: usize,
    runtime: Runtime,
    tasks: LocalSet,
    state: Rc<RefCell<State>>,
}

/// What the tasks of all streams have in common.
struct State {
    received: Received,
    /// What each stream has received.
    progress: Vec<Progress>,
    ready: usize,
    lost: usize,
    first_error: Option<String>,
}

/// What opens one connection.
struct Opening {
    setup: ReaderSetup,
    source: Ipv4Addr,
    state: Rc<RefCell<State>>,
}

/// A socket that counts the bytes that are read from it.
struct CountingSocket {
    socket: TcpStream,
    state: Rc<RefCell<State>>,
}

/// A connection, with or without TLS.
trait Connection: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

impl Http2Client {
    /// A client without connections.
    ///
    /// # Errors
    /// If no runtime can be started.
    pub(super) fn new(setup: ReaderSetup, streams_per_connection: usize) -> Result<Self> {
        let received = Received::new(setup.payload_bytes)?;
        let progress = vec![setup.workload.start(false); setup.range.len()];
        Ok(Self {
            setup,
            streams_per_connection,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            tasks: LocalSet::new(),
            state: Rc::new(RefCell::new(State { received, progress, ready: 0, lost: 0, first_error: None })),
        })
    }

    /// Opens the streams and returns the time until all have received their response headers. `on_progress` is called
    /// from time to time with the number of these.
    ///
    /// # Errors
    /// If a stream fails or receives another response, or if the time limit expires.
    pub(super) fn connect(&mut self, mut on_progress: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
        let streams = self.setup.range.len();
        let (first, last) = resource_usage::ephemeral_ports()?;
        // Leaves a quarter of the ports to other processes.
        let per_address = (usize::from(last - first) * 3 / 4).max(1);
        let started = Instant::now();
        let mut opened = 0;
        loop {
            let ready = self.state.borrow().ready;
            while opened < streams && opened - ready < self.setup.connect_window {
                let first = self.setup.range.start + opened;
                opened = streams.min(opened + self.streams_per_connection);
                let indexes = first..self.setup.range.start + opened;
                let address = u32::try_from(first / self.streams_per_connection / per_address)?;
                let opening = Opening {
                    setup: self.setup.clone(),
                    source: Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + address),
                    state: Rc::clone(&self.state),
                };
                self.tasks.spawn_local(async move {
                    let state = Rc::clone(&opening.state);
                    if let Err(error) = opening.run(indexes).await {
                        state.borrow_mut().fail(&error);
                    }
                });
            }
            self.poll_once(Duration::from_millis(5))?;
            let state = self.state.borrow();
            if let Some(reason) = &state.first_error {
                bail!("a stream failed after {} were open: {reason}", state.ready);
            }
            on_progress(state.ready)?;
            if state.ready == streams {
                return Ok(started.elapsed());
            }
            ensure!(
                started.elapsed() < CONNECT_LIMIT,
                "only {} of {streams} streams received response headers within {} s",
                state.ready,
                CONNECT_LIMIT.as_secs()
            );
        }
    }

    /// Reads from all streams for `limit`.
    ///
    /// # Errors
    /// If interrupted. Failed streams are only counted.
    pub(super) fn poll_once(&mut self, limit: Duration) -> Result<()> {
        signals::check()?;
        // Timers are made inside the runtime.
        self.runtime.block_on(self.tasks.run_until(async { sleep(limit.min(MAX_POLL_WAIT)).await }));
        Ok(())
    }

    /// Calls `read` with what was read so far.
    pub(super) fn with_received<T>(&self, read: impl FnOnce(&Received) -> T) -> T {
        read(&self.state.borrow().received)
    }

    /// Forgets the bytes that were read so far.
    pub(super) fn reset_bytes(&mut self) {
        self.state.borrow_mut().received.bytes = 0;
    }

    /// Which of the newest of `messages` messages the streams have.
    pub(super) fn newest(&self, messages: u64) -> Newest {
        let ReaderSetup { workload, range, .. } = &self.setup;
        let counts = workload.counts(messages);
        let mut newest = Newest::default();
        for (index, progress) in range.clone().zip(&self.state.borrow().progress) {
            newest += workload.newest(index, progress, &counts);
        }
        newest
    }

    /// The number of streams that ended early, and the error of the first.
    pub(super) fn lost(&self) -> (usize, Option<String>) {
        let state = self.state.borrow();
        (state.lost, state.first_error.clone())
    }
}

impl State {
    fn fail(&mut self, error: &anyhow::Error) {
        self.lost += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }
}

impl Opening {
    /// Opens a connection with the streams `indexes`, and serves it until it ends.
    async fn run(self, indexes: std::ops::Range<usize>) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        if self.source != Ipv4Addr::LOCALHOST {
            socket.bind((self.source, 0).into())?;
        }
        let socket = socket.connect(self.setup.server).await.context("cannot connect")?;
        socket.set_nodelay(true)?;
        let socket = CountingSocket { socket, state: Rc::clone(&self.state) };
        let connection: Box<dyn Connection> = match &self.setup.tls {
            None => Box::new(socket),
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = ServerName::IpAddress(self.setup.server.ip().into());
                Box::new(connector.connect(name, socket).await.context("the TLS handshake failed")?)
            }
        };
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake::<_, &[u8]>(connection)
            .await
            .context("HTTP/2 handshake")?;
        let opening = Rc::new(self);
        for index in indexes {
            let (opening, requests) = (Rc::clone(&opening), requests.clone());
            spawn_local(async move {
                if let Err(error) = opening.stream(index, requests).await {
                    opening.state.borrow_mut().fail(&error);
                }
            });
        }
        // Its streams report their end themselves.
        connection.await.context("the HTTP/2 connection broke")
    }

    /// Opens and reads one stream, which ends only with an error.
    async fn stream(&self, index: usize, requests: h2::client::SendRequest<&'static [u8]>) -> Result<()> {
        let ReaderSetup { server, workload, tls, epoch, range, .. } = &self.setup;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{server}{}", self.setup.path(index));
        let mut request = http::Request::get(uri).header("accept", "text/event-stream");
        if let Some(token) = self.setup.token(index) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(())?;
        let (response, _) = requests.ready().await?.send_request(request, true)?;
        let response = response.await?;
        ensure!(response.status() == http::StatusCode::OK, "unexpected response: {}", response.status());
        self.state.borrow_mut().ready += 1;

        let mut body = response.into_body();
        let mut parser = EventParser::default();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            let now = epoch.elapsed();
            let State { received, progress, .. } = &mut *self.state.borrow_mut();
            let progress = &mut progress[index - range.start];
            let mut has_event = false;
            parser.feed(&data, &mut |event| {
                has_event = true;
                received.readers.count(event, now, |sequence| workload.receive(index, progress, sequence));
            })?;
            received.reads += u64::from(has_event);
        }
        bail!("the server ended the stream")
    }
}

impl AsyncRead for CountingSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        self.state.borrow_mut().received.bytes += (buffer.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountingSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
