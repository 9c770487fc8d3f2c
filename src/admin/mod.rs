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

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;

use crate::representation::refuse_other_methods;
use crate::sse_server::{Page, Reply, text_page};

pub use report::run as report;
pub use status::{Status, StatusSource};

/// The pages for operators.
#[derive(Debug, Clone)]
pub struct AdminPages(pub StatusSource);

impl AdminPages {
    /// The paths there are.
    pub fn paths(&self) -> &'static [&'static str] {
        &["/healthz", "/readyz", "/admin/status.json", "/admin/counters.json"]
    }

    /// Answers a request for one of them; nothing for another path.
    pub async fn respond(&self, request: &Parts) -> Option<Reply> {
        let path = request.uri.path();
        if !self.paths().contains(&path) {
            return None;
        }
        if let Some(refusal) = refuse_other_methods(request) {
            return Some(refusal.into());
        }
        let page = match path {
            "/healthz" => text_page(StatusCode::OK, "alive\n"),
            "/readyz" if self.0.is_ready() => text_page(StatusCode::OK, "ready\n"),
            "/readyz" => text_page(StatusCode::SERVICE_UNAVAILABLE, "the broker is not subscribed\n"),
            "/admin/counters.json" => json(serde_json::to_string(&self.0.counters())),
            _ => match self.0.status().await {
                Ok(status) => json(serde_json::to_string(&status)),
                Err(error) => text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            },
        };
        Some(page.into())
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
