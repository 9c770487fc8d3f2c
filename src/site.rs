//! Everything that is served beside the streams, put together.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::Either;
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use tower_service::Service;

use crate::admin::AdminPages;
use crate::assets::Assets;
use crate::snapshot::{self, SnapshotPages};
use tallycast_fanout::{Handle, Namespace};
use tallycast_server::{PREFIX, Page, StreamBody, StreamService, WEBSOCKET_PREFIX, text_response};

/// All pages of the binary.
pub struct Site {
    /// The board, and the page for operators.
    pub assets: Assets,
    /// Rankings and details.
    pub snapshot: SnapshotPages,
    /// What operators ask for.
    pub admin: AdminPages,
}

/// An answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// A whole response.
    Page(Page),
    /// The stream of `namespace` from an engine of its own.
    Stream {
        /// The engine that sends it.
        handle: Handle,
        /// What is sent.
        namespace: Namespace,
    },
}

impl From<Page> for Reply {
    fn from(page: Page) -> Self {
        Self::Page(page)
    }
}

impl Site {
    fn paths(&self) -> Vec<&'static str> {
        let mut paths: Vec<_> = self.assets.paths().collect();
        paths.extend(snapshot::PATHS);
        paths.extend(self.admin.paths());
        paths
    }

    async fn respond(&self, request: &Parts) -> Option<Reply> {
        let path = request.uri.path();
        if AdminPages::is_protected(path)
            && let Some(refusal) = self.admin.refuse(request)
        {
            return Some(refusal.into());
        }
        if let Some(page) = self.assets.respond(request) {
            return Some(page.into());
        }
        if let Some(page) = self.snapshot.respond(request).await {
            return Some(page.into());
        }
        self.admin.respond(request).await
    }
}

/// The site as a tower service.
#[derive(Clone)]
pub struct SiteService(Arc<Site>);

impl From<Site> for SiteService {
    fn from(site: Site) -> Self {
        Self(Arc::new(site))
    }
}

impl Service<Request<Incoming>> for SiteService {
    type Response = Response<Either<http_body_util::Full<Bytes>, StreamBody>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let site = Arc::clone(&self.0);
        Box::pin(async move {
            let (request, body) = request.into_parts();
            let page = match site.respond(&request).await {
                Some(Reply::Page(page)) => page,
                Some(Reply::Stream { handle, namespace }) => {
                    let streams = StreamService::new(handle).websocket(false);
                    let response = streams.open(Request::from_parts(request, body), namespace).await;
                    return Ok(response.map(Either::Right));
                }
                None => not_found(request.uri.path(), &site.paths()),
            };
            Ok(page.map(Either::Left))
        })
    }
}

fn not_found(path: &str, pages: &[&str]) -> Page {
    let mut text = format!("no such path: {path}; there are {PREFIX}/<namespace>, {WEBSOCKET_PREFIX}/<namespace>");
    for page in pages {
        text.push_str(", ");
        text.push_str(page);
    }
    text.push('\n');
    text_response(StatusCode::NOT_FOUND, text)
}
