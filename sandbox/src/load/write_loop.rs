//! The baseline: what fan-out costs when nothing but the fan-out is done.
//!
//! One thread waits for a message from Redis, frames it once, and calls `write(2)` on every socket in turn, blocking where
//! a socket is full; then it waits for the next message. Messages are never joined into one write: a loop that has
//! fallen behind stays a plain loop. It has no routes, no tally, no keep-alive, no slow-reader policy and keeps no record of
//! its readers. Its sockets have `TCP_NODELAY` set, since Nagle's algorithm would hold back a small write while an
//! earlier one is not acknowledged. A second thread accepts: it reads the request head, whatever it asks for, answers
//! with the head of a chunked event stream, and hands the socket over before the next message; it sleeps while messages flow.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Socket, Type};

use super::{DEFAULT_CHANNEL, REDIS_LIMIT, loopback_redis};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The longest request head that is read, in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// For one read of a request, and for one write. A reader that takes nothing for so long is dropped.
const SOCKET_LIMIT: Duration = Duration::from_secs(5);

/// After a failed accept, which otherwise would fail again at once (no file left to open, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The response head and a first comment, as tallycast sends them.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: text/event-stream; charset=utf-8\r\n\
    cache-control: no-cache\r\n\
    connection: keep-alive\r\n\
    access-control-allow-origin: *\r\n\
    x-accel-buffering: no\r\n\
    transfer-encoding: chunked\r\n\r\n\
    3\r\n:\n\n\r\n";

/// Serve every message to every reader with one blocking write(2) each: the baseline of `load`
#[derive(Args, Clone, Debug)]
pub(crate) struct WriteLoopArgs {
    /// Port of loopback to listen on
    #[arg(long)]
    port: u16,

    /// Redis to subscribe to (loopback only)
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:6379", value_parser = loopback_redis)]
    redis: String,

    /// Channel whose messages go to every reader
    #[arg(long, default_value = DEFAULT_CHANNEL)]
    channel: String,
}

#[cfg(test)]
impl WriteLoopArgs {
    pub(super) fn new(port: u16, redis: String, channel: String) -> Self {
        Self { port, redis, channel }
    }
}

/// Serves until killed, or until Redis is gone.
///
/// # Errors
/// When the port is taken, or Redis cannot be reached or goes away.
pub(crate) fn run_write_loop(args: WriteLoopArgs) -> Result<()> {
    let mut connection = redis::Client::open(args.redis.as_str())?
        .get_connection_with_timeout(REDIS_LIMIT)
        .with_context(|| format!("cannot reach {}", args.redis))?;
    let mut messages = connection.as_pubsub();
    messages.subscribe(&args.channel)?;

    // Who can connect can be sure of every message from then on: the subscription comes first.
    let listener = listen(args.port).with_context(|| format!("cannot listen on 127.0.0.1:{}", args.port))?;
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let acceptor = Arc::clone(&arrived);
    thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&listener, &acceptor))?;

    let mut sockets: Vec<TcpStream> = Vec::new();
    let mut chunk = Vec::new();
    loop {
        let message = messages.get_message().context("Redis is gone")?;
        sockets.append(&mut arrived.lock().unwrap_or_else(PoisonError::into_inner));
        frame(message.get_payload_bytes(), &mut chunk)?;
        sockets.retain_mut(|socket| socket.write_all(&chunk).is_ok());
    }
}

/// One event as one chunk.
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

/// `TcpListener::bind` would listen with a backlog of 128, too few for a burst of connections.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// `arrived` is bounded by the number of files the process may open.
fn accept(listener: &TcpListener, arrived: &Mutex<Vec<TcpStream>>) {
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                if greet(&socket).is_ok() {
                    arrived.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
                }
            }
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Reads the request head and answers it.
fn greet(mut socket: &TcpStream) -> io::Result<()> {
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
    socket.write_all(RESPONSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_event_in_one_chunk() -> io::Result<()> {
        let mut chunk = b"left over".to_vec();
        frame(b"1F600", &mut chunk)?;
        assert_eq!(chunk, b"c\r\ndata:1F600\n\n\r\n");
        Ok(())
    }
}
