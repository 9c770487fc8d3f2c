//! What an embedder serves beside the streams.

use std::future::Future;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

/// A whole response.
pub type Page = Response<Full<Bytes>>;

/// The pages that an embedder serves beside the streams.
pub trait Pages: Send + Sync + 'static {
    /// The paths there are, for the answer to a client that asks for another.
    fn paths(&self) -> &'static [&'static str];

    /// Answers a request whose path is not below [`PREFIX`](super::PREFIX); `None` if there is no such page.
    fn respond(&self, request: &Parts) -> impl Future<Output = Option<Page>> + Send;
}

/// No pages: only streams are served.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPages;

impl Pages for NoPages {
    fn paths(&self) -> &'static [&'static str] {
        &[]
    }

    async fn respond(&self, _request: &Parts) -> Option<Page> {
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
