//! How the process comes to its listening sockets: it opens them, or gets those of systemd or of the process that it replaces. And when
//! it accepts connections by them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use listenfd::ListenFd;
use tallycast::config::{Restart, Supervisor};
use tallycast::source::BrokerState;
use tallycast_server::{Serve, Server, SharedPort, inherit, listen};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::drain::Steps;
use crate::handover::{HandoverSocket, MAX_SOCKETS, Predecessor};

/// How often it is looked whether the source has ended.
const POLL: Duration = Duration::from_millis(50);

/// The sockets that the process was started with (`LISTEN_FDS`).
pub(crate) struct Passed(Vec<std::net::TcpListener>);

impl Passed {
    /// Takes the sockets that are meant for this process, and removes the variables. To be called before the process has threads.
    pub(crate) fn take(supervisor: &Supervisor) -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        ensure!(
            passed.len() <= MAX_SOCKETS,
            "invalid LISTEN_FDS: {} sockets; expected at most {MAX_SOCKETS}",
            passed.len()
        );
        let mut sockets = Vec::new();
        for place in 0..passed.len() {
            let socket = passed.take_tcp_listener(place).with_context(|| invalid(place, supervisor))?;
            sockets.extend(socket);
        }
        Ok(Self(sockets))
    }
}

/// The beginning of an error about the socket at `place`.
fn invalid(place: usize, supervisor: &Supervisor) -> String {
    let name = supervisor.socket_names.get(place).map(|name| format!(" ({name})")).unwrap_or_default();
    format!("invalid socket {} of LISTEN_FDS{name}", place + 1)
}

/// Where the sockets are from.
enum Sockets {
    /// The process has opened them for itself.
    Own(Vec<TcpListener>),
    /// Its port may have sockets of other processes.
    SharedPort(SharedPort),
    /// Other processes have them, too.
    Passed(Vec<TcpListener>),
    /// The process to replace has them, too.
    HandedOver(Vec<TcpListener>, Predecessor),
}

/// The listening sockets before they are used.
pub(crate) struct Listening {
    sockets: Sockets,
    handover: Option<HandoverSocket>,
    address: SocketAddr,
    ready_limit: Duration,
}

/// The listening sockets of a process that may accept connections.
pub(crate) struct Accepting {
    listeners: Vec<TcpListener>,
    shares_port: bool,
    handover: Option<HandoverSocket>,
    predecessor: Option<Predecessor>,
}

impl Listening {
    /// Opens the sockets, or gets them.
    pub(crate) async fn open(
        Passed(passed): Passed,
        supervisor: &Supervisor,
        restart: &Restart,
        address: SocketAddr,
        send_buffer: u32,
    ) -> anyhow::Result<Self> {
        let mut handover = None;
        let sockets = if !passed.is_empty() {
            let mut listeners = Vec::new();
            for (place, socket) in passed.into_iter().enumerate() {
                listeners.push(inherit(socket, send_buffer).with_context(|| invalid(place, supervisor))?);
            }
            tracing::info!(
                sockets = listeners.len(),
                names = supervisor.socket_names.join(":"),
                "listening on the sockets of LISTEN_FDS; --address, --port, --handover and --reuse-port have no effect"
            );
            Sockets::Passed(listeners)
        } else if let Some(path) = &restart.handover {
            let at = || format!("cannot use --handover {}", path.display());
            handover = Some(HandoverSocket::reserve(path).with_context(at)?);
            match handed_over(path, send_buffer).await.with_context(at)? {
                Some((listeners, predecessor)) => Sockets::HandedOver(listeners, predecessor),
                None => Sockets::Own(vec![listen(address, send_buffer).with_context(|| cannot_listen(address))?]),
            }
        } else if restart.reuse_port {
            Sockets::SharedPort(SharedPort::bind(address, send_buffer).with_context(|| cannot_listen(address))?)
        } else {
            Sockets::Own(vec![listen(address, send_buffer).with_context(|| cannot_listen(address))?])
        };
        let address = match &sockets {
            Sockets::Own(listeners) | Sockets::Passed(listeners) | Sockets::HandedOver(listeners, _) => {
                listeners.first().map_or_else(|| Err(io::ErrorKind::NotFound.into()), TcpListener::local_addr)
            }
            Sockets::SharedPort(port) => port.local_addr(),
        };
        let address = address.context("the listener has no address")?;
        Ok(Self { sockets, handover, address, ready_limit: restart.ready_limit })
    }

    /// The address of the first socket.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process is ready, if another one may be serving meanwhile.
    ///
    /// # Errors
    /// When it replaces a process that serves and is not ready in time, so that the other one goes on.
    pub(crate) async fn when_ready<T>(
        self,
        mut broker: watch::Receiver<BrokerState>,
        source: &JoinHandle<T>,
        steps: &Steps,
    ) -> anyhow::Result<Accepting> {
        let Self { sockets, handover, address, ready_limit } = self;
        let obstacle = match &sockets {
            Sockets::Own(_) => None,
            Sockets::SharedPort(_) | Sockets::Passed(_) | Sockets::HandedOver(..) => {
                tokio::select! {
                    state = timeout(ready_limit, broker.wait_for(|state| *state == BrokerState::Subscribed)) => match state {
                        Ok(_) => None,
                        Err(_) => Some(format!("not ready within --ready-limit ({ready_limit:?})")),
                    },
                    () = ended(source) => Some("the source has ended".to_owned()),
                    () = steps.terminating.cancelled() => Some("stopped before it was ready".to_owned()),
                }
            }
        };
        let (listeners, shares_port) = match sockets {
            Sockets::Own(listeners) | Sockets::Passed(listeners) => (listeners, false),
            Sockets::SharedPort(port) => (vec![port.listen().with_context(|| cannot_listen(address))?], true),
            Sockets::HandedOver(listeners, predecessor) => match obstacle {
                Some(obstacle) => bail!("{obstacle}; the process that was to be replaced goes on serving"),
                None => {
                    return Ok(Accepting { listeners, shares_port: false, handover, predecessor: Some(predecessor) });
                }
            },
        };
        if let Some(reason) = obstacle {
            tracing::warn!(reason, "accepting connections although not ready");
        }
        Ok(Accepting { listeners, shares_port, handover, predecessor: None })
    }
}

/// Completes when `task` has ended.
async fn ended<T>(task: &JoinHandle<T>) {
    while !task.is_finished() {
        sleep(POLL).await;
    }
}

fn cannot_listen(address: SocketAddr) -> String {
    format!("cannot listen on {address}")
}

/// The sockets of the process that serves `path`, if there is one.
async fn handed_over(path: &Path, send_buffer: u32) -> io::Result<Option<(Vec<TcpListener>, Predecessor)>> {
    let Some((predecessor, sockets)) = Predecessor::connect(path).await? else { return Ok(None) };
    tracing::info!(
        sockets = sockets.len(),
        "taking over from the process that serves; --address and --port have no effect"
    );
    let sockets = sockets.into_iter().map(|socket| inherit(socket, send_buffer)).collect::<io::Result<_>>()?;
    Ok(Some((sockets, predecessor)))
}

impl Accepting {
    /// The server on these sockets, to be awaited.
    pub(crate) fn serve(&mut self, server: Server, steps: &Steps) -> anyhow::Result<Serve> {
        if let Some(handover) = self.handover.take() {
            let sockets = self.listeners.iter().map(|listener| listener.as_fd().try_clone_to_owned());
            let sockets: Vec<OwnedFd> = sockets.collect::<io::Result<_>>().context("cannot hand sockets over")?;
            let mut handover = handover;
            handover.publish().context("cannot use --handover")?;
            tokio::spawn(handover.run(sockets, steps.handed_over.clone(), steps.closing.clone()));
        }
        let mut listeners = std::mem::take(&mut self.listeners).into_iter();
        let first = listeners.next().context("no socket to listen on")?;
        let settled = steps.settled.clone();
        let serve = listeners.fold(server.serve(first), Serve::and_listener).sharing_port(self.shares_port);
        Ok(serve.when_settled(move || settled.cancel()).with_graceful_shutdown(steps.closing.clone().cancelled_owned()))
    }

    /// Has the process before drain, if there is one.
    pub(crate) async fn replace(self) {
        if let Some(predecessor) = self.predecessor {
            match predecessor.replace().await {
                Ok(()) => tracing::info!("taken over: the process before accepts no more connections"),
                // It has ended, or shares the sockets until someone stops it.
                Err(error) => tracing::warn!(%error, "the process before did not confirm that it drains"),
            }
        }
    }
}
