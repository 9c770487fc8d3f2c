//! A raw HTTP/2 client, which decides itself what it takes.

use std::future::poll_fn;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use hyper::Request;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{LIMIT, Tallycast};

/// A connection over cleartext HTTP/2 with prior knowledge.
pub(crate) struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

/// A response whose body is taken only as far as [`Http2Stream::take`] asks for it. Reset when dropped.
pub(crate) struct Http2Stream {
    pub(crate) status: u16,
    body: RecvStream,
}

impl Http2 {
    /// Connects. The client takes at most `window` bytes of a stream before it asks for more.
    pub(crate) fn connect(tallycast: &Tallycast, window: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = tallycast.address;
        let (sender, ended) = runtime.block_on(async {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut builder = Builder::new();
            let (sender, connection) = builder.initial_window_size(window).handshake(socket).await.unwrap();
            (sender, tokio::spawn(connection))
        });
        Self { runtime, sender, ended }
    }

    /// Requests `path` and waits for the response headers.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Http2Stream {
        self.get_all(path, 1).pop().unwrap()
    }

    /// Requests `path` on `count` streams at the same time, and waits for the headers of all responses.
    #[track_caller]
    pub(crate) fn get_all(&self, path: &str, count: usize) -> Vec<Http2Stream> {
        let uri = format!("http://localhost{path}");
        let responses = self.runtime.block_on(async {
            let mut pending = Vec::new();
            for _ in 0..count {
                let mut sender = self.sender.clone().ready().await?;
                let request = Request::get(&uri).body(()).unwrap();
                pending.push(sender.send_request(request, true)?.0);
            }
            let mut responses = Vec::new();
            for response in pending {
                let (head, body) = timeout(LIMIT, response).await.expect("no response in time")?.into_parts();
                responses.push(Http2Stream { status: head.status.as_u16(), body });
            }
            Ok::<_, h2::Error>(responses)
        });
        responses.unwrap()
    }

    /// Requests `path` with a body, and returns how many bytes of it the server is ready to receive.
    #[track_caller]
    pub(crate) fn send_capacity(&self, path: &str) -> usize {
        let request = Request::get(format!("http://localhost{path}")).body(()).unwrap();
        let capacity = self.runtime.block_on(async {
            let (_response, mut body) = self.sender.clone().ready().await?.send_request(request, false)?;
            body.reserve_capacity(1 << 30);
            timeout(LIMIT, poll_fn(|context| body.poll_capacity(context)))
                .await
                .expect("no capacity in time")
                .transpose()
        });
        capacity.unwrap().unwrap()
    }

    /// Takes the next bytes of a stream; `None` at its end.
    #[track_caller]
    pub(crate) fn take(&self, stream: &mut Http2Stream) -> Result<Option<Bytes>, h2::Error> {
        self.runtime.block_on(async {
            let data = timeout(LIMIT, stream.body.data()).await.expect("no data in time").transpose()?;
            if let Some(data) = &data {
                stream.body.flow_control().release_capacity(data.len())?;
            }
            Ok(data)
        })
    }

    /// Waits until the server has reset a stream that takes nothing, and returns the reason.
    #[track_caller]
    pub(crate) fn reset(&self, stream: &mut Http2Stream) -> Option<h2::Reason> {
        let read = async {
            while let Some(data) = stream.body.data().await {
                // What came before the reset.
                data?;
            }
            Ok::<_, h2::Error>(())
        };
        let outcome = self.runtime.block_on(async { timeout(LIMIT, read).await.expect("not reset in time") });
        outcome.expect_err("the stream is complete").reason()
    }

    /// Waits until the server has closed the connection, and returns whether it did so gracefully.
    #[track_caller]
    pub(crate) fn closed(mut self) -> bool {
        let ended = self.runtime.block_on(async { timeout(LIMIT, &mut self.ended).await.expect("not closed in time") });
        ended.unwrap().is_ok()
    }
}
