//! Notifications to systemd, or another supervisor with its protocol (sd_notify(3)): the process serves, reloads, stops, lives.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallycast::config::Supervisor;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// What it is told of a process that serves.
const SERVING: &str = "READY=1\nSTATUS=serving";

/// Notifies the supervisor, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notifier(Option<Arc<Link>>);

/// The way to the supervisor, and what it was told.
#[derive(Debug)]
struct Link {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The process serves.
    is_ready: AtomicBool,
    /// The process stops.
    is_stopping: AtomicBool,
}

impl Notifier {
    /// For the socket that the supervisor has named. One that cannot be used is logged, and nothing is notified.
    pub(crate) fn new(supervisor: &Supervisor) -> Self {
        let Some(path) = &supervisor.notify_socket else { return Self(None) };
        let opened = || {
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(path),
            }?;
            let socket = UnixDatagram::unbound()?;
            // A supervisor that hangs must not stop the process.
            socket.set_nonblocking(true)?;
            let (is_ready, is_stopping) = Default::default();
            Ok::<_, std::io::Error>(Link { socket, address, is_ready, is_stopping })
        };
        match opened() {
            Ok(link) => Self(Some(Arc::new(link))),
            Err(error) => {
                tracing::warn!(%error, path = %path.to_string_lossy(), "invalid NOTIFY_SOCKET; the supervisor is not notified");
                Self(None)
            }
        }
    }

    /// Connections are accepted.
    pub(crate) fn ready(&self) {
        if let Some(link) = &self.0 {
            link.is_ready.store(true, Ordering::Relaxed);
        }
        self.send(SERVING);
    }

    /// Whether the supervisor takes the process for one that serves. Before and afterwards, it is not told of reloads,
    /// because the end of one says that the process is ready.
    fn is_serving(&self) -> bool {
        let Some(link) = &self.0 else { return false };
        link.is_ready.load(Ordering::Relaxed) && !link.is_stopping.load(Ordering::Relaxed)
    }

    /// The configuration is read again; [`reloaded`](Self::reloaded) follows.
    pub(crate) fn reloading(&self) {
        if !self.is_serving() {
            return;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The configuration has been read again.
    pub(crate) fn reloaded(&self) {
        if self.is_serving() {
            self.send(SERVING);
        }
    }

    /// Sends signs of life, if the supervisor expects them, and tells that the process stops, and for how long at most, once
    /// `terminating` is cancelled. Runs until the process ends.
    pub(crate) async fn run(self, watchdog: Option<Duration>, terminating: CancellationToken, stop_limit: Duration) {
        let stopping = async {
            terminating.cancelled().await;
            if let Some(link) = &self.0 {
                link.is_stopping.store(true, Ordering::Relaxed);
            }
            let microseconds = stop_limit.as_micros();
            self.send(&format!("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={microseconds}"));
        };
        let living = async {
            // Twice as often as expected, as sd_watchdog_enabled(3) recommends.
            let Some(pause) = watchdog.map(|limit| limit / 2).filter(|pause| !pause.is_zero()) else { return };
            let mut ticks = interval(pause);
            loop {
                ticks.tick().await;
                self.send("WATCHDOG=1");
            }
        };
        tokio::join!(stopping, living);
    }

    fn send(&self, state: &str) {
        let Some(Link { socket, address, .. }) = self.0.as_deref() else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(%error, state, "the supervisor was not notified");
        }
    }
}
