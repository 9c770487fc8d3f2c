//! Handing the listening sockets over to the next process: a Unix socket by which it gets them, and says when it serves.
//!
//! Both processes have the same sockets of the kernel, with one queue of connections, so that none is refused or reset whichever of
//! them closes its own first. The messages are:
//!
//! | from | message | when |
//! |---|---|---|
//! | the old process | `tallycast 1\n` with the sockets (`SCM_RIGHTS`) | at once |
//! | the new process | `ready\n` | it accepts connections |
//! | the old process | `draining\n` | it stops accepting connections |
//!
//! A new process that ends before `ready` changes nothing.

use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tallycast::config::MAX_READY_LIMIT;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The sockets that a process may listen on.
pub(crate) const MAX_SOCKETS: usize = 16;
/// Time for the other process to send or to take a message that is due.
const MESSAGE_LIMIT: Duration = Duration::from_secs(5);
/// A process that serves sends its sockets within less, unless it waits for another new process.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Time for a new process to become ready. It has a limit of its own, which is usually shorter; this one is for a process that hangs,
/// because further ones wait for it. `--ready-limit` may not be above it.
const SUCCESSOR_LIMIT: Duration = MAX_READY_LIMIT;

const GREETING: &[u8] = b"tallycast 1\n";
const READY: &[u8] = b"ready\n";
const DRAINING: &[u8] = b"draining\n";

/// The process that serves now, as the next one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Gets the sockets of the process that serves `path`. `None` if there is none.
    pub(crate) async fn connect(path: &Path) -> io::Result<Option<(Self, Vec<TcpListener>)>> {
        // A process that is just being replaced ends the connection: the next attempt reaches its successor.
        for _ in 0..3 {
            let stream = match UnixStream::connect(path).await {
                Ok(stream) => stream,
                // No process, or a socket that a killed one has left.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            check_peer(&stream)?;
            match receive_in_turn(&stream).await {
                Ok((0, _)) => {}
                Ok((_, sockets)) => return Ok(Some((Self(stream), sockets))),
                // It has ended without accepting the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the process that serves it hands nothing over"))
    }

    /// Has the old process drain. Returns when it accepts no more connections.
    pub(crate) async fn replace(mut self) -> io::Result<()> {
        let exchange = async {
            self.0.write_all(READY).await?;
            let mut answer = [0; DRAINING.len()];
            self.0.read_exact(&mut answer).await?;
            if answer == DRAINING { Ok(()) } else { Err(unexpected()) }
        };
        timeout(MESSAGE_LIMIT, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected message; expected another tallycast with the same protocol")
}

/// The other process must belong to the same user, or to root: it may stop this one.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    if user == 0 || user == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the process at the other end belongs to user {user}")))
}

/// The same as [`receive`], after other new processes.
async fn receive_in_turn(stream: &UnixStream) -> io::Result<(usize, Vec<TcpListener>)> {
    let mut receiving = std::pin::pin!(receive(stream));
    if let Ok(received) = timeout(AT_ONCE, &mut receiving).await {
        return received;
    }
    tracing::info!("waiting for another process that is taking over");
    timeout(SUCCESSOR_LIMIT, receiving).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Receives the greeting and its sockets. Returns the length of the greeting, 0 at the end of the connection.
async fn receive(stream: &UnixStream) -> io::Result<(usize, Vec<TcpListener>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut greeting = [0; GREETING.len()];
            let slices = &mut [IoSliceMut::new(&mut greeting)];
            let received = rustix::net::recvmsg(stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let mut sockets = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    sockets.extend(descriptors.map(TcpListener::from));
                }
            }
            if received.bytes > 0 && (greeting != GREETING || sockets.is_empty()) {
                return Err(unexpected());
            }
            Ok((received.bytes, sockets))
        })
        .await
}

/// Sends the greeting with `sockets`.
async fn send(stream: &UnixStream, sockets: &[OwnedFd]) -> io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
                return Err(io::Error::other("too many sockets"));
            }
            rustix::net::sendmsg(stream, &[IoSlice::new(GREETING)], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// The Unix socket at which this process waits for the next one.
#[derive(Debug)]
pub(crate) struct HandoverSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Where it is until this process serves.
    reserved: Option<PathBuf>,
    /// Its device and inode. The inode is not used for another file while the listener is open.
    identity: (u64, u64),
}

impl HandoverSocket {
    /// Makes the socket beside `path`, for this user alone, so that a path that cannot be used is known before anything else happens.
    pub(crate) fn reserve(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{}", std::process::id()));
        let reserved = path.with_file_name(name);
        // Left by a killed process with the same id.
        let _ = std::fs::remove_file(&reserved);
        let listener = UnixListener::bind(&reserved)?;
        let identity = identity(&reserved)?;
        let socket = Self { listener, path: path.to_owned(), reserved: Some(reserved.clone()), identity };
        std::fs::set_permissions(&reserved, Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// Puts it at its path, in place of that of the process before.
    pub(crate) fn publish(&mut self) -> io::Result<()> {
        if let Some(reserved) = &self.reserved {
            std::fs::rename(reserved, &self.path)?;
            self.reserved = None;
        }
        Ok(())
    }

    /// Hands `sockets` over to the process that comes next, and cancels `handed_over` when that one accepts connections. Ends then,
    /// or when `closing` is cancelled.
    pub(crate) async fn run(self, sockets: Vec<OwnedFd>, handed_over: CancellationToken, closing: CancellationToken) {
        let serve = async {
            loop {
                let offered = match self.listener.accept().await {
                    Ok((stream, _)) => timeout(SUCCESSOR_LIMIT, offer(stream, &sockets))
                        .await
                        .unwrap_or_else(|error| Err(error.into())),
                    Err(error) => Err(error),
                };
                match offered {
                    Ok(stream) => break stream,
                    Err(error) => {
                        tracing::warn!(%error, "no process has taken over; this one goes on serving");
                        // For failures that repeat.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        };
        let served = tokio::select! {
            // A process that serves by now is told so, also if this one was stopped at the same moment.
            biased;
            stream = serve => Some(stream),
            () = closing.cancelled() => None,
        };
        if let Some(mut stream) = served {
            tracing::info!("another process has taken over; draining");
            handed_over.cancel();
            closing.cancelled().await;
            // It need not be there any more.
            let _ = timeout(MESSAGE_LIMIT, stream.write_all(DRAINING)).await;
        }
    }
}

impl Drop for HandoverSocket {
    fn drop(&mut self) {
        let own = self.reserved.as_ref().unwrap_or(&self.path);
        // The next process may have put its own socket there, whether this one has heard of it or not.
        if identity(own).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(own);
        }
    }
}

/// The device and the inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Sends `sockets` to a new process, and waits until it is ready.
async fn offer(mut stream: UnixStream, sockets: &[OwnedFd]) -> io::Result<UnixStream> {
    check_peer(&stream)?;
    timeout(MESSAGE_LIMIT, send(&stream, sockets)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    tracing::info!("another process is about to take over");
    let mut answer = [0; READY.len()];
    stream.read_exact(&mut answer).await?;
    if answer == READY { Ok(stream) } else { Err(unexpected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_of_the_next_process_is_left_alone() {
        let directory = std::env::temp_dir().join(format!("tallycast-handover-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let [first, next] = [(); 2].map(|()| {
            let mut socket = HandoverSocket::reserve(&path).unwrap();
            socket.publish().unwrap();
            socket
        });
        drop(first);
        assert!(path.exists());
        drop(next);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }

    #[tokio::test]
    async fn connection_that_is_not_accepted_is_like_a_closed_one() {
        let path = std::env::temp_dir().join(format!("tallycast-unaccepted-{}", std::process::id()));
        let mut socket = HandoverSocket::reserve(&path).unwrap();
        socket.publish().unwrap();
        let closing = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(socket);
        };
        let (connected, ()) = tokio::join!(Predecessor::connect(&path), closing);
        // The next attempt has found no process.
        assert!(connected.unwrap().is_none());
    }
}
