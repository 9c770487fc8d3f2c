//! The JSON of rankings and details.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::emoji;
use crate::conditional::TaggedBody;
use crate::responses::JSON;

/// The ranking: its JSON, and an index.
pub(super) struct Rankings {
    pub(super) body: TaggedBody,
    pub(super) by_id: HashMap<String, Place>,
}

/// The place of an ID in the ranking.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// From 1.
    rank: usize,
    score: i64,
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
    /// None for an emoji without a score.
    popularity_rank: Option<usize>,
    details: emoji::Details,
    recent_tweets: Vec<Box<RawValue>>,
}

impl<'a> Ranked<'a> {
    fn new(id: &'a str, score: i64) -> Self {
        Self { char: emoji::character(id), id, name: emoji::name(id), score }
    }
}

impl Rankings {
    /// The ranking of IDs and scores, highest score first.
    pub(super) fn new(scores: Vec<(String, i64)>) -> Self {
        let ranked: Vec<Ranked<'_>> = scores.iter().map(|(id, score)| Ranked::new(id, *score)).collect();
        let body = TaggedBody::new(JSON, to_json(&ranked));
        let by_id = scores.into_iter().zip(1..).map(|((id, score), rank)| (id, Place { rank, score })).collect();
        Self { body, by_id }
    }
}

/// The JSON of one emoji with its latest posts.
pub(super) fn details_json(id: &str, place: Option<Place>, posts: &[String]) -> String {
    to_json(&Details {
        ranked: Ranked::new(id, place.map_or(0, |place| place.score)),
        popularity_rank: place.map(|place| place.rank),
        details: emoji::details(id),
        recent_tweets: posts.iter().map(|post| post_json(post)).collect(),
    })
}

/// A post as published if it is JSON, otherwise as a JSON string.
fn post_json(post: &str) -> Box<RawValue> {
    serde_json::from_str(post)
        .or_else(|_| serde_json::value::to_raw_value(post))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn to_json(value: &impl Serialize) -> String {
    #[expect(clippy::expect_used, reason = "strings, integers and raw JSON always serialize")]
    serde_json::to_string(value).expect("string keys and plain values")
}
