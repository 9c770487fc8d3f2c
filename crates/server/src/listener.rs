//! Accepting connections: a listening socket for bursts, the detection of dead peers, and a policy for failures.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
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
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(send_buffer)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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

/// The next connection. A failure is reported to `failed` and does not end the listener.
pub(crate) async fn accept(listener: &TcpListener, mut failed: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
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

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
