//! Conditional requests (RFC 9110, §13): bodies with an entity tag, and the middleware that answers 304.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use headers::{ETag, HeaderMapExt, IfNoneMatch};

/// A response body with its entity tag. Cheap to clone.
///
/// The tag is weak: the compression layer sends the same body in several content codings.
#[derive(Debug, Clone)]
pub(crate) struct TaggedBody {
    content_type: &'static str,
    body: Bytes,
    tag: Option<ETag>,
}

impl TaggedBody {
    /// A body of `content_type`.
    pub(crate) fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        // The hasher's keys are fixed, so every node has the same tag for the same body.
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let tag = format!("W/\"{:016x}\"", hasher.finish()).parse().ok();
        Self { content_type, body, tag }
    }
}

impl IntoResponse for TaggedBody {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(tag) = self.tag {
            response.headers_mut().typed_insert(tag);
        }
        response
    }
}

/// Answers 304 in place of a body that the client has already, by `if-none-match` and the response's `etag`.
pub(crate) async fn not_modified(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let condition = request.headers().typed_get::<IfNoneMatch>().filter(|_| is_read);
    let mut response = next.run(request).await;
    let (Some(condition), Some(tag)) = (condition, response.headers().typed_get::<ETag>()) else {
        return response;
    };
    if response.status() != StatusCode::OK || condition.precondition_passes(&tag) {
        return response;
    }
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.body_mut() = Body::empty();
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING] {
        response.headers_mut().remove(name);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::header::{ETAG, IF_NONE_MATCH};
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn status(method: Method, if_none_match: &str) -> StatusCode {
        let body = TaggedBody::new("text/plain", "a");
        let app = Router::new().route("/", get(async || body).post(async || "b")).layer(from_fn(not_modified));
        let request = Request::builder().method(method).header(IF_NONE_MATCH, if_none_match);
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn entity_tag_matches_in_a_list_weak_or_strong() {
        let response = TaggedBody::new("text/plain", "a").into_response();
        let weak = response.headers()[ETAG].to_str().unwrap();
        let strong = weak.strip_prefix("W/").unwrap();
        for value in [weak, strong, "*", &format!("\"other\", {weak}")] {
            assert_eq!(status(Method::GET, value).await, StatusCode::NOT_MODIFIED, "{value}");
            assert_eq!(status(Method::HEAD, value).await, StatusCode::NOT_MODIFIED, "{value}");
            assert_eq!(status(Method::POST, value).await, StatusCode::OK, "{value}");
        }
        for value in ["\"other\"", "other"] {
            assert_eq!(status(Method::GET, value).await, StatusCode::OK, "{value}");
        }
    }
}
