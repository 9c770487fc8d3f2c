//! Taking connections in: a listening socket fit for bursts, and a policy for when accepting fails.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel holds until they are accepted. A smaller queue would stall a burst on SYN retries.
const BACKLOG: u32 = 4096;
/// The pause after a failed accept: out of file descriptors, only time helps, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address`. `send_buffer` is what the kernel may hold of what a client has not read yet, in bytes (Linux
/// doubles it for its own book-keeping): it bounds both memory and how old the data is that a slow reader reads.
///
/// # Errors
/// When the address is taken or not ours, or the process has no file descriptors left.
pub fn listen(address: SocketAddr, send_buffer: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(send_buffer)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The next connection. A failure is told to `failed` and does not end the listener.
pub(super) async fn accept(listener: &TcpListener, mut failed: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                // Events are small and must not wait for an acknowledgement. A socket that refuses is as good as closed.
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
