//! Notifications to systemd, or another supervisor with its protocol (sd_notify(3)): the process serves, reloads, stops, lives.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tallycast::config::Supervisor;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// Notifies the supervisor, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notifier(Option<Arc<(UnixDatagram, SocketAddr)>>);

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
            Ok::<_, std::io::Error>((socket, address))
        };
        match opened() {
            Ok(opened) => Self(Some(Arc::new(opened))),
            Err(error) => {
                tracing::warn!(%error, path = %path.to_string_lossy(), "invalid NOTIFY_SOCKET; the supervisor is not notified");
                Self(None)
            }
        }
    }

    /// Connections are accepted.
    pub(crate) fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// The configuration is read again; [`ready`](Self::ready) follows.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Sends signs of life, if the supervisor expects them, and tells that the process stops, and for how long at most, once
    /// `terminating` is cancelled. Runs until the process ends.
    pub(crate) async fn run(self, watchdog: Option<Duration>, terminating: CancellationToken, stop_limit: Duration) {
        let stopping = async {
            terminating.cancelled().await;
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
        let Some((socket, address)) = self.0.as_deref() else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(%error, state, "the supervisor was not notified");
        }
    }
}
