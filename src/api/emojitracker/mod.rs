//! The REST API of Emojitracker, for clients that need the state before the first event.
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/rankings` | all emoji with their scores, ranked |
//! | `GET /v1/details/<ID>` | one emoji, with its latest posts |
//! | `GET /v1/status` | whether the store is readable |

mod cache;
mod emoji;
mod error;
mod representations;
mod store;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use headers::{Age, HeaderMapExt};
use serde_json::json;

use crate::conditional::TaggedBody;
use crate::responses::{self, JSON};
use cache::{Cache, Cached};
use error::ApiError;
use representations::{Rankings, details_json};
use store::StoreError;

pub use store::{MemoryStore, Store, StoreStats};

/// The documented paths of this API.
pub(crate) const PATHS: [&str; 3] = ["/v1/rankings", "/v1/details/<ID>", "/v1/status"];

/// For current values: as long as the cache keeps them.
const CACHE_CURRENT: HeaderValue = HeaderValue::from_static("public, max-age=1");

/// The state of the handlers: the store, behind caches.
struct Api {
    store: Store,
    rankings: Cache<Arc<Rankings>, StoreError>,
    posts: Cache<Arc<[String]>, StoreError>,
    status: Cache<(), StoreError>,
}

/// The routes of the API, which reads from `store`.
pub(crate) fn router(store: Store) -> Router {
    let api = Api { store, rankings: Cache::new(), posts: Cache::new(), status: Cache::new() };
    Router::new()
        .route("/v1/rankings", get(rankings))
        .route("/v1/details/{id}", get(details))
        .route("/v1/status", get(status))
        .route("/v1/", any(no_such_path))
        .route("/v1/{*path}", any(no_such_path))
        .with_state(Arc::new(api))
}

impl Api {
    async fn read_rankings(&self) -> Result<Cached<Arc<Rankings>>, StoreError> {
        self.rankings.get("", async || Ok(Arc::new(Rankings::new(self.store.scores().await?)))).await
    }
}

async fn rankings(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let rankings = api.read_rankings().await?;
    Ok(respond(rankings.value.body.clone(), rankings.stale))
}

async fn details(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = id else { return Err(ApiError::unknown_path(&uri)) };
    // Read from the ranking that all requests share, so that invented IDs never reach the store.
    let rankings = api.read_rankings().await?;
    let ranked = rankings.value.by_id.get(&id).copied();
    if ranked.is_none() && !emoji::is_known(&id) {
        return Err(ApiError::unknown_emoji(&id));
    }
    let posts = api.posts.get(&id, async || Ok(api.store.posts(&id).await?.into())).await?;
    let body = TaggedBody::new(JSON, details_json(&id, ranked, &posts.value));
    Ok(respond(body, rankings.stale.max(posts.stale)))
}

async fn status(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let status = api.status.get("", async || api.store.ping().await).await?;
    if status.stale.is_some() {
        return Err(StoreError::unavailable().into());
    }
    Ok(responses::json(&json!({"ok": true})))
}

async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::unknown_path(&uri)
}

/// A body with its age if it is stale. Stale responses have the default `cache-control: no-cache`.
fn respond(body: TaggedBody, stale: Option<Duration>) -> Response {
    let mut response = body.into_response();
    match stale {
        None => drop(response.headers_mut().insert(CACHE_CONTROL, CACHE_CURRENT)),
        Some(age) => response.headers_mut().typed_insert(Age::from_secs(age.as_secs())),
    }
    response
}
