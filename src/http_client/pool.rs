//! Requests to one server on connections that are kept for those that follow.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tower_service::Service;

use super::{Failure, Io, connect};

/// Connections that are kept while no request needs them.
const MAX_IDLE_CONNECTIONS: usize = 32;
/// How long each is kept: less than the 5 s after which Node.js and uvicorn close it, which a request could meet.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// The size of the headers of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Sends requests with absolute URLs. Cheap to clone; clones share the connections.
pub(crate) type Pool = Client<Connector, Full<Bytes>>;

/// A pool without connections. Without `tls`, requests are sent in plain text.
pub(crate) fn pool(tls: Option<Arc<ClientConfig>>) -> Pool {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .build(Connector(tls))
}

/// Opens the connections of a pool.
#[derive(Clone)]
pub(crate) struct Connector(Option<Arc<ClientConfig>>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move {
            let authority = url.authority().ok_or("expected an absolute URL")?;
            connect(authority, tls).await.map(TokioIo::new)
        })
    }
}

impl Connection for Box<dyn Io> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
