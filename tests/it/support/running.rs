//! A server that a test embeds, on an engine of its own.

use std::net::SocketAddr;

use tallycast_fanout::{Builder, Fanout, Handle, Message, Publisher};
use tallycast_server::Server;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{EventSource, LIMIT, Raw, block_on};

/// A server in a thread of its own.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Runs `serve` with a listener and a future that completes at [`Running::stop`].
    pub(crate) fn start<F: Future<Output = ()>>(
        serve: impl FnOnce(TcpListener, Box<dyn Future<Output = ()> + Send + Unpin>) -> F + Send + 'static,
    ) -> Self {
        let (sender, address) = std::sync::mpsc::sync_channel(1);
        let (shutdown, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            block_on(async {
                let listener = tallycast_server::listen(SocketAddr::from(([127, 0, 0, 1], 0)), 64 * 1024).unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let stopped = Box::pin(async {
                    let _ = stopped.await;
                });
                tokio::time::timeout(LIMIT, serve(listener, Box::new(stopped))).await.expect("the server did not end");
            });
        });
        let address = address.recv_timeout(LIMIT).unwrap();
        Self { address, shutdown: Some(shutdown), thread: Some(thread) }
    }

    /// A server on an engine of its own, set up by `setup`.
    pub(crate) fn server(setup: impl FnOnce(Server, Handle) -> Server + Send + 'static) -> (Self, Publisher, Handle) {
        Self::server_on(Fanout::builder(), setup)
    }

    /// A server on an engine of its own that `engine` starts, set up by `setup`.
    pub(crate) fn server_on(
        engine: Builder,
        setup: impl FnOnce(Server, Handle) -> Server + Send + 'static,
    ) -> (Self, Publisher, Handle) {
        let (sender, started) = std::sync::mpsc::sync_channel(1);
        let running = Self::start(move |listener, shutdown| async move {
            let fanout = engine.build();
            // The publisher outlives the server.
            sender.send((fanout.publisher(), fanout.handle())).unwrap();
            let server = setup(Server::new(fanout.handle()), fanout.handle());
            server.serve(listener).with_graceful_shutdown(shutdown).await.unwrap();
        });
        let (publisher, handle) = started.recv_timeout(LIMIT).unwrap();
        (running, publisher, handle)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn open(&self, path: &str) -> EventSource {
        EventSource::open_url(reqwest::Client::builder(), self.url(path))
    }

    /// Starts the graceful shutdown.
    pub(crate) fn signal(&mut self) {
        drop(self.shutdown.take());
    }

    /// Starts the graceful shutdown and waits until the server has ended.
    pub(crate) fn stop(mut self) {
        self.signal();
        self.thread.take().unwrap().join().unwrap();
    }

    /// The response to a request after which the connection ends.
    pub(crate) fn response(&self, request: &str) -> String {
        let mut connection = Raw::connect_to(self.address);
        connection.send(request);
        connection.read_to_end()
    }
}

/// Sends a message and waits until the engine has taken it.
pub(crate) fn send(publisher: &Publisher, namespace: &str, text: &str) {
    block_on(publisher.send(Message::text(namespace.parse().unwrap(), text))).unwrap();
}
