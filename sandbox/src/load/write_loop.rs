//! The baseline: the cost of fan-out alone.
//!
//! One thread receives a message from Redis, frames it once, and calls the blocking `write(2)` on every socket in turn
//! before it receives the next message. Messages are never batched, even if the loop lags. There are no routes, tallies,
//! keep-alives, slow-reader policies or connection records. With watch-lists, each message is written to the sockets that have
//! its symbol, which are found by one look-up in a table. Sockets have `TCP_NODELAY` set, because Nagle's algorithm
//! would delay small writes until earlier ones are acknowledged. A second thread accepts connections: it reads any
//! request, responds with the headers of a chunked event stream, and hands the socket over before the next message. It
//! sleeps while messages flow.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Socket, Type};

use super::{
    DEFAULT_CHANNEL, REDIS_LIMIT, loopback_redis,
    workload::{SYMBOL_CHANNELS, SYMBOL_PATHS},
};

/// The listen backlog.
const BACKLOG: i32 = 4096;

/// The maximum size of a request in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// The time limit of each read and write. Readers that block longer are dropped.
const SOCKET_LIMIT: Duration = Duration::from_secs(5);

/// The delay after a failed accept, which would otherwise fail again at once (for example without file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Response headers and first comment, as sent by tallycast.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: text/event-stream; charset=utf-8\r\n\
    cache-control: no-cache\r\n\
    connection: keep-alive\r\n\
    access-control-allow-origin: *\r\n\
    x-accel-buffering: no\r\n\
    transfer-encoding: chunked\r\n\r\n\
    3\r\n:\n\n\r\n";

/// Write every message to every reader with a blocking write(2): the baseline of `load`
#[derive(Args, Clone, Debug)]
pub(crate) struct WriteLoopArgs {
    /// Loopback port to listen on
    #[arg(long)]
    port: u16,

    /// Redis to subscribe to (loopback only)
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:6379", value_parser = loopback_redis)]
    redis: String,

    /// Channel to subscribe to, or the start of all channels and `*`
    #[arg(long, default_value = DEFAULT_CHANNEL)]
    channel: String,
}

/// The sockets, found by what they read.
#[derive(Debug, Default)]
struct Readers {
    /// Sockets without a watch-list.
    all: Vec<Arc<TcpStream>>,
    /// The sockets that have each symbol.
    by_symbol: HashMap<String, Vec<Arc<TcpStream>>>,
}

/// An accepted socket and the target of its request.
type Accepted = (TcpStream, String);

#[cfg(test)]
impl WriteLoopArgs {
    pub(super) fn new(port: u16, redis: String, channel: String) -> Self {
        Self { port, redis, channel }
    }
}

/// Serves until it is killed or Redis is unavailable.
///
/// # Errors
/// If the port is in use, or if Redis is unavailable.
pub(crate) fn run_write_loop(args: WriteLoopArgs) -> Result<()> {
    let mut connection = redis::Client::open(args.redis.as_str())?
        .get_connection_with_timeout(REDIS_LIMIT)
        .with_context(|| format!("cannot reach {}", args.redis))?;
    let mut messages = connection.as_pubsub();
    if args.channel.ends_with('*') {
        messages.psubscribe(&args.channel)?;
    } else {
        messages.subscribe(&args.channel)?;
    }

    // Subscribe before listening, so that clients receive every message from their connection on.
    let listener = listen(args.port).with_context(|| format!("cannot listen on 127.0.0.1:{}", args.port))?;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let accepted_sockets = Arc::clone(&accepted);
    thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&listener, &accepted_sockets))?;

    let mut readers = Readers::default();
    let mut chunk = Vec::new();
    loop {
        let message = messages.get_message().context("lost the connection to Redis")?;
        for (socket, target) in accepted.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            readers.add(socket, &target);
        }
        frame(message.get_payload_bytes(), &mut chunk)?;
        // A socket that fails is closed once all of its symbols have had a message.
        readers.of(message.get_channel_name()).retain(|socket| (&**socket).write_all(&chunk).is_ok());
    }
}

impl Readers {
    /// Adds a socket whose request had `target`.
    fn add(&mut self, socket: TcpStream, target: &str) {
        let socket = Arc::new(socket);
        match target.strip_prefix(SYMBOL_PATHS) {
            Some(symbols) => {
                for symbol in symbols.split(',') {
                    self.by_symbol.entry(symbol.to_owned()).or_default().push(Arc::clone(&socket));
                }
            }
            None => self.all.push(socket),
        }
    }

    /// The sockets that a message to `channel` is due on.
    fn of(&mut self, channel: &str) -> &mut Vec<Arc<TcpStream>> {
        match channel.strip_prefix(SYMBOL_CHANNELS).and_then(|symbol| self.by_symbol.get_mut(symbol)) {
            Some(readers) => readers,
            None => &mut self.all,
        }
    }
}

/// Frames one event as one chunk.
fn frame(payload: &[u8], chunk: &mut Vec<u8>) -> io::Result<()> {
    const FIELD: &[u8] = b"data:";
    const END: &[u8] = b"\n\n";
    chunk.clear();
    write!(chunk, "{:x}\r\n", FIELD.len() + payload.len() + END.len())?;
    for part in [FIELD, payload, END, b"\r\n"] {
        chunk.extend_from_slice(part);
    }
    Ok(())
}

/// Listens with [`BACKLOG`]: the backlog of `TcpListener::bind` (128) is too small for a burst of connections.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections. `accepted` is bounded by the number of files the process may open.
fn accept(listener: &TcpListener, accepted: &Mutex<Vec<Accepted>>) {
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                if let Ok(target) = respond(&socket) {
                    accepted.lock().unwrap_or_else(PoisonError::into_inner).push((socket, target));
                }
            }
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Reads the request and sends the response headers. Returns the target of the request.
fn respond(mut socket: &TcpStream) -> io::Result<String> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SOCKET_LIMIT))?;
    socket.set_write_timeout(Some(SOCKET_LIMIT))?;
    let mut request = [0; MAX_REQUEST_BYTES];
    let mut length = 0;
    while !request[..length].ends_with(b"\r\n\r\n") {
        match socket.read(&mut request[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    socket.write_all(RESPONSE)?;
    Ok(target(&request[..length]))
}

/// The target of a request.
fn target(request: &[u8]) -> String {
    String::from_utf8_lossy(request.split(|byte| *byte == b' ').nth(1).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_found_by_channel() -> io::Result<()> {
        let mut readers = Readers::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        for target in ["/subscribe/raw", "/subscribe/quotes/S0001,S0002", "/subscribe/quotes/S0002"] {
            readers.add(TcpStream::connect(listener.local_addr()?)?, target);
        }
        let mut count = |channel| readers.of(channel).len();
        assert_eq!([count("stream"), count("quotes.S0001"), count("quotes.S0002")], [1, 1, 2]);
        assert_eq!(target(b"GET /a,b?c HTTP/1.1\r\n"), "/a,b?c");
        Ok(())
    }

    #[test]
    fn message_is_framed_as_one_event_in_one_chunk() -> io::Result<()> {
        let mut chunk = b"left over".to_vec();
        frame(b"1F600", &mut chunk)?;
        assert_eq!(chunk, b"c\r\ndata:1F600\n\n\r\n");
        Ok(())
    }
}
