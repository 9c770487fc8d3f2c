//! Accepting connections: listening sockets for bursts, new or of another process, the detection of dead peers, a policy for
//! failures, and the end of a socket whose port others listen on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, SockRef, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Config;

/// Connections that the kernel queues. A shorter queue stalls bursts on SYN retries.
const BACKLOG: u32 = 4096;
/// The pause after a failed accept. Without file descriptors only time helps, and a retry at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Keep-alive probes that a silent peer may leave unanswered. The first is sent after two pauses of silence, each of the others a
/// pause after the one before.
const PROBES: u32 = 6;

/// Listens on `address`. `send_buffer` is the size of the kernel's send buffer per connection in bytes, which Linux doubles for its
/// own bookkeeping. It bounds memory, and how old the events are that a slow reader receives.
///
/// # Errors
/// When the address is in use or not local, or the process has no file descriptors left.
pub fn listen(address: SocketAddr, send_buffer: u32) -> io::Result<TcpListener> {
    bind(address, send_buffer, false)?.listen(BACKLOG)
}

fn bind(address: SocketAddr, send_buffer: u32, reuse_port: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.set_send_buffer_size(send_buffer)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A port that several processes of the same user listen on at the same time, each by a socket of its own (`SO_REUSEPORT`). The
/// kernel spreads new connections over them. See [`Serve::sharing_port`](crate::Serve::sharing_port) for the end of one of them.
#[derive(Debug)]
pub struct SharedPort(TcpSocket);

impl SharedPort {
    /// Reserves `address`. No connections come before [`listen`](Self::listen). `send_buffer` is as for [`listen()`].
    ///
    /// # Errors
    /// As [`listen()`]; the address is in use if a socket is bound to it without `SO_REUSEPORT` or by another user.
    pub fn bind(address: SocketAddr, send_buffer: u32) -> io::Result<Self> {
        bind(address, send_buffer, true).map(Self)
    }

    /// The address, with the port that the kernel has chosen if none was given.
    ///
    /// # Errors
    /// Those of the kernel; none is known for a bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Listens: from now on the kernel gives this socket its part of the new connections.
    ///
    /// # Errors
    /// When another socket without `SO_REUSEPORT` listens on the port by now.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)
    }
}

/// Takes a listening socket that another process has opened: the supervisor that started this one, or the process that this one
/// replaces. All that have it share its queue of connections, so none is lost when one of them closes it. `send_buffer` is as for
/// [`listen()`].
///
/// # Errors
/// When it is not a TCP socket that listens.
pub fn inherit(socket: std::net::TcpListener, send_buffer: u32) -> io::Result<TcpListener> {
    let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    {
        let socket = SockRef::from(&socket);
        if socket.r#type()? != Type::STREAM || ![Domain::IPV4, Domain::IPV6].contains(&socket.domain()?) {
            return invalid("expected a TCP socket");
        }
        if !socket.is_listener()? {
            return invalid("expected a socket that listens; this one does not");
        }
        socket.set_send_buffer_size(usize::try_from(send_buffer).unwrap_or(usize::MAX))?;
        socket.set_nonblocking(true)?;
    }
    TcpListener::from_std(socket)
}

/// Has the kernel close the connections of `listener` whose peer has vanished: after [`Config::peer_timeout`] without an
/// acknowledgement, whether data waits for one or not. Accepted sockets inherit the options.
///
/// Linux counts a peer that accepts no data as vanished, too, so the time is not shorter than that for a slow reader.
pub(crate) fn detect_dead_peers(listener: &TcpListener, config: &Config) -> io::Result<()> {
    let timeout = config.peer_timeout.max(config.write_timeout);
    let pause = (timeout / (PROBES + 2)).max(Duration::from_secs(1));
    let keep_alive = TcpKeepalive::new().with_time(2 * pause).with_interval(pause).with_retries(PROBES);
    let socket = SockRef::from(listener);
    socket.set_tcp_keepalive(&keep_alive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(timeout))?;
    Ok(())
}

/// Has the kernel ignore new handshakes, while those that have begun continue, so that a socket can be closed without a connection
/// in its queue, which the kernel would reset. Clients repeat their first packet after a second: another socket of the same port
/// answers then.
///
/// The classic BPF program sees the TCP header: it drops packets with SYN and without ACK.
#[cfg(target_os = "linux")]
pub(crate) fn ignore_handshakes(listener: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    const LOAD_FLAGS: SockFilter = SockFilter::new(0x30, 0, 0, 13);
    const AND_SYN_ACK: SockFilter = SockFilter::new(0x54, 0, 0, 0x12);
    const SKIP_UNLESS_SYN_ALONE: SockFilter = SockFilter::new(0x15, 0, 1, 0x02);
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    const KEEP: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
    SockRef::from(listener).attach_filter(&[LOAD_FLAGS, AND_SYN_ACK, SKIP_UNLESS_SYN_ALONE, DROP, KEEP])
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn ignore_handshakes(_listener: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the kernel passes the queue of a socket that is closed on to another one of the same port (since Linux 5.14).
pub(crate) fn are_handshakes_migrated() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1")
}

/// The listening sockets of a server.
pub(crate) struct Acceptor {
    pub(crate) listeners: Vec<TcpListener>,
    /// The one that is asked first, so that each has its turn.
    next: usize,
}

impl Acceptor {
    pub(crate) fn new(listeners: Vec<TcpListener>) -> Self {
        Self { listeners, next: 0 }
    }

    /// The next connection. A failure is reported to `failed` and does not end the listener.
    pub(crate) async fn accept(&mut self, mut failed: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
        loop {
            match poll_fn(|context| self.poll_accept(context)).await {
                Ok((socket, peer)) => {
                    // Events are small and must not wait for an acknowledgement. A socket that refuses the option is about to close.
                    let _ = socket.set_nodelay(true);
                    return (socket, peer);
                }
                Err(error) if is_about_one_connection(&error) => failed(&error),
                Err(error) => {
                    failed(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        for _ in 0..self.listeners.len() {
            let listener = self.listeners.get(self.next);
            self.next = (self.next + 1) % self.listeners.len();
            if let Some(Poll::Ready(accepted)) = listener.map(|listener| listener.poll_accept(context)) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn closed_socket_of_a_shared_port_loses_no_connection() {
        const CLIENTS: usize = 20;
        let first = SharedPort::bind(([127, 0, 0, 1], 0).into(), 65_536).unwrap();
        let address = first.local_addr().unwrap();
        let first = first.listen().unwrap();
        let second = SharedPort::bind(address, 65_536).unwrap().listen().unwrap();
        ignore_handshakes(&first).unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        // All have begun their handshakes when the first one has completed, about half of them at either socket.
        let mut accepted = vec![second.accept().await.unwrap()];
        drop(first);
        while accepted.len() < CLIENTS {
            let next = timeout(Duration::from_secs(60), second.accept()).await;
            accepted.push(next.expect("each client repeats its handshake").unwrap());
        }
        for client in clients {
            client.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn sockets_of_one_server_take_turns() {
        let listeners = [(); 2].map(|()| listen(([127, 0, 0, 1], 0).into(), 65_536).unwrap());
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let mut acceptor = Acceptor::new(listeners.into());
        let mut clients = Vec::new();
        for address in [addresses[0], addresses[0], addresses[1]] {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let mut accepted = Vec::new();
        for _ in 0..2 {
            let (stream, _) = acceptor.accept(|error| panic!("{error}")).await;
            accepted.push(stream.local_addr().unwrap());
        }
        assert_eq!(accepted, addresses);
    }
}
