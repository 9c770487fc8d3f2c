//! What operators ask for:
//!
//! | path | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process is alive |
//! | `GET /readyz` | 200 when the broker is subscribed, 503 otherwise |
//! | `GET /admin/status.json` | the node, its state and its connections |
//! | `GET /admin/counters.json` | what every stage counts |

mod report;
mod status;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use crate::sse_server::{Page, Pages, text_page};

pub use report::run as report;
pub use status::{Status, StatusSource};

/// The pages for operators.
#[derive(Debug, Clone)]
pub struct AdminPages(pub StatusSource);

impl Pages for AdminPages {
    fn paths(&self) -> &'static [&'static str] {
        &["/healthz", "/readyz", "/admin/status.json", "/admin/counters.json"]
    }

    async fn respond(&self, request: &Parts) -> Option<Page> {
        let path = request.uri.path();
        if !self.paths().contains(&path) {
            return None;
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut page = text_page(StatusCode::METHOD_NOT_ALLOWED, format!("{path} is read with GET\n"));
            page.headers_mut().insert(hyper::header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(page);
        }
        Some(match path {
            "/healthz" => text_page(StatusCode::OK, "alive\n"),
            "/readyz" if self.0.is_ready() => text_page(StatusCode::OK, "ready\n"),
            "/readyz" => text_page(StatusCode::SERVICE_UNAVAILABLE, "the broker is not subscribed\n"),
            "/admin/counters.json" => json(serde_json::to_string(&self.0.counters())),
            _ => match self.0.status().await {
                Ok(status) => json(serde_json::to_string(&status)),
                Err(error) => text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            },
        })
    }
}

fn json(text: serde_json::Result<String>) -> Page {
    match text {
        Ok(text) => {
            let mut page = text_page(StatusCode::OK, text);
            page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
            page
        }
        Err(error) => text_page(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
