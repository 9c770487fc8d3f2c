//! `POST /tickets`: a ticket in the place of a token, for URLs.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use super::method_not_allowed;
use crate::auth::{Auth, AuthError, Role, TICKET_LIFE, token_required};
use crate::responses;

/// The documented path.
pub(crate) const PATH: &str = "/tickets";

/// The route.
pub(crate) fn router(auth: Auth) -> Router {
    Router::new().route(PATH, post(make)).method_not_allowed_fallback(method_not_allowed).with_state(auth)
}

async fn make(State(auth): State<Auth>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let made = async {
        let Some(authenticated) = auth.authenticate(&method, &uri, &headers, Role::Subscriber).await? else {
            return Ok(token_required("a token is required"));
        };
        let ticket = auth.ticket(&authenticated).await?;
        Ok::<_, AuthError>(responses::json(&json!({"ticket": ticket, "expires_in": TICKET_LIFE.as_secs()})))
    };
    made.await.unwrap_or_else(AuthError::into_response)
}
