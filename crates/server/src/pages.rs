//! What an embedder serves beside the streams.

use std::future::Future;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use tallycast_fanout::{Handle, Namespace};

/// A whole response.
pub type Page = Response<Full<Bytes>>;

/// What an embedder answers to a request.
#[derive(Debug)]
pub enum Reply {
    /// A whole response.
    Page(Page),
    /// A stream of `namespace` from an engine of the embedder's choice, at a path of the embedder's choice.
    Stream {
        /// The engine that sends it.
        gateway: Handle,
        /// What is sent.
        namespace: Namespace,
    },
}

impl From<Page> for Reply {
    fn from(page: Page) -> Self {
        Self::Page(page)
    }
}

/// What an embedder serves beside the streams below [`PREFIX`](super::PREFIX).
pub trait Pages: Send + Sync + 'static {
    /// The paths there are, for the answer to a client that asks for another.
    fn paths(&self) -> Vec<&'static str>;

    /// Answers a request whose path is not below [`PREFIX`](super::PREFIX); `None` if there is no such page.
    fn respond(&self, request: &Parts) -> impl Future<Output = Option<Reply>> + Send;
}

/// No pages: only streams are served.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPages;

impl Pages for NoPages {
    fn paths(&self) -> Vec<&'static str> {
        Vec::new()
    }

    async fn respond(&self, _request: &Parts) -> Option<Reply> {
        None
    }
}

/// A response of plain text that any origin may read and nobody stores.
pub fn text_page(status: StatusCode, text: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(text.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    page
}
