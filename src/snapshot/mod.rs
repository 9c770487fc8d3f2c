//! What there is before anything changes: the REST API of Emojitracker, for clients that come late.
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/rankings` | all emoji with their scores, ranked |
//! | `GET /v1/details/<ID>` | one emoji, with its newest posts |
//! | `GET /v1/status` | whether the store can be read |

mod cache;
mod emoji;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::representation::{Representation, refuse_other_methods};
use cache::{Cache, Copy};
use store::StoreError;
use tallycast_server::{Page, text_page};

pub use store::{Memory, Store};

/// The paths there are.
pub const PATHS: [&str; 3] = ["/v1/rankings", "/v1/details/<ID>", "/v1/status"];

/// For copies that are fresh: as long as the cache keeps them.
const CACHE_FRESH: &str = "public, max-age=1";
const CACHE_STALE: &str = "no-cache";

/// Serves the API from a store.
pub struct SnapshotPages {
    store: Store,
    rankings: Cache<Arc<Rankings>, StoreError>,
    posts: Cache<Arc<[String]>, StoreError>,
    status: Cache<(), StoreError>,
}

/// The ranking, once it was read.
struct Rankings {
    representation: Representation,
    /// Rank, from 1, and score by ID.
    places: HashMap<String, (usize, i64)>,
}

#[derive(Serialize)]
struct Ranked<'a> {
    char: &'a str,
    id: &'a str,
    name: String,
    score: i64,
}

#[derive(Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    ranked: Ranked<'a>,
    /// None for an emoji that was never seen.
    popularity_rank: Option<usize>,
    details: emoji::Details,
    /// As they were published; a post that is not JSON as a string of it.
    recent_tweets: Vec<Box<RawValue>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("no such path: {0}; there are {paths}", paths = PATHS.join(", "))]
    NoPath(String),
    #[error("no such emoji: {0}")]
    NoEmoji(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SnapshotPages {
    /// The API, read from `store`.
    pub fn new(store: Store) -> Self {
        Self { store, rankings: Cache::new(), posts: Cache::new(), status: Cache::new() }
    }

    /// Answers a request for a path below `/v1`; nothing for another.
    pub async fn respond(&self, request: &Parts) -> Option<Page> {
        let path = request.uri.path();
        let rest = path.strip_prefix("/v1/")?;
        if let Some(refusal) = refuse_other_methods(request) {
            return Some(refusal);
        }
        let answer = match (rest, rest.strip_prefix("details/")) {
            ("rankings", _) => self.rankings(request).await,
            ("status", _) => self.status(request).await,
            (_, Some(id)) => self.details(id, request).await,
            _ => Err(SnapshotError::NoPath(path.to_owned())),
        };
        Some(answer.unwrap_or_else(|error| error_page(&error)))
    }

    async fn rankings(&self, request: &Parts) -> Result<Page, SnapshotError> {
        let copy = self.read_rankings().await?;
        Ok(respond(&copy.value.representation, request, copy.stale))
    }

    async fn read_rankings(&self) -> Result<Copy<Arc<Rankings>>, StoreError> {
        self.rankings.get("", async || Ok(Arc::new(Rankings::new(self.store.scores().await?)))).await
    }

    async fn details(&self, id: &str, request: &Parts) -> Result<Page, SnapshotError> {
        // From the ranking that all callers share, so that made-up IDs do not reach the store.
        let rankings = self.read_rankings().await?;
        let place = rankings.value.places.get(id);
        if place.is_none() && !emoji::is_known(id) {
            return Err(SnapshotError::NoEmoji(id.chars().take(64).collect()));
        }
        let posts = self.posts.get(id, async || Ok(self.store.posts(id).await?.into())).await?;
        let details = Details {
            ranked: Ranked {
                char: emoji::character(id),
                id,
                name: emoji::name(id),
                score: place.map_or(0, |(_, score)| *score),
            },
            popularity_rank: place.map(|(rank, _)| *rank),
            details: emoji::details(id),
            recent_tweets: posts.value.iter().map(|post| as_json(post)).collect(),
        };
        let representation = Representation::json(to_json(&details));
        Ok(respond(&representation, request, rankings.stale.max(posts.stale)))
    }

    async fn status(&self, request: &Parts) -> Result<Page, SnapshotError> {
        let copy = self.status.get("", async || self.store.ping().await).await?;
        if copy.stale.is_some() {
            return Err(StoreError::away().into());
        }
        Ok(Representation::json(json!({"ok": true}).to_string()).respond(request, "no-cache"))
    }
}

impl Rankings {
    fn new(scores: Vec<(String, i64)>) -> Self {
        let ranked: Vec<Ranked<'_>> = scores
            .iter()
            .map(|(id, score)| Ranked { char: emoji::character(id), id, name: emoji::name(id), score: *score })
            .collect();
        let representation = Representation::json(to_json(&ranked));
        let places = scores.into_iter().zip(1..).map(|((id, score), rank)| (id, (rank, score))).collect();
        Self { representation, places }
    }
}

/// A post as it is if it is JSON, otherwise as a string.
fn as_json(post: &str) -> Box<RawValue> {
    serde_json::from_str(post)
        .or_else(|_| serde_json::value::to_raw_value(post))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn to_json(value: &impl Serialize) -> String {
    #[expect(clippy::expect_used, reason = "strings, integers and raw JSON always serialise")]
    serde_json::to_string(value).expect("string keys and plain values")
}

fn respond(representation: &Representation, request: &Parts, stale: Option<Duration>) -> Page {
    let Some(age) = stale else { return representation.respond(request, CACHE_FRESH) };
    let mut page = representation.respond(request, CACHE_STALE);
    page.headers_mut().insert(AGE, HeaderValue::from(age.as_secs()));
    page
}

fn error_page(error: &SnapshotError) -> Page {
    let body: Value = json!({"error": error.to_string()});
    let status = match error {
        SnapshotError::NoPath(_) | SnapshotError::NoEmoji(_) => StatusCode::NOT_FOUND,
        SnapshotError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut page = text_page(status, format!("{body}\n"));
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    page
}
