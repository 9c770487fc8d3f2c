//! `POST /count`: raises totals, and publishes each count.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};

use super::Publishing;
use super::request::{idempotency_key, namespace};
use crate::api::refusal::Refusal;
use crate::api::request::text;
use crate::publishing::Counts;
use crate::responses;

/// Keys in one request.
pub(crate) const MAX_KEYS: usize = 1000;
/// The sum of all counts in one request: each is published.
pub(crate) const MAX_SUM: u64 = 10_000;
/// The length of a key, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// Raises the totals of a namespace by the counts in the body.
pub(super) async fn count(
    State(publishing): State<Arc<Publishing>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut sum = 0;
    let outcome = async {
        let access = publishing.access(&method, &uri, &headers).await?;
        let namespace = namespace(&uri, "/count")?;
        access.check(&namespace)?;
        let totals = publishing.totals.iter().find(|totals| totals.namespace == namespace);
        let Some(totals) = totals else {
            return Err(Refusal::NotFound(format!("{namespace} has no totals; --totals names those that have some")));
        };
        let channel = publishing.routes.borrow().count_channel(&namespace).map(str::to_owned);
        let channel = channel.ok_or_else(|| {
            Refusal::NotFound(format!("no route for one channel has tally={namespace}; --route names one"))
        })?;
        let idempotency_key = idempotency_key(&headers)?;
        let body = text(&headers, body, publishing.max_body).await?;
        let counts = counts(&body)?;
        sum = counts.values().map(|count| u64::from(*count)).sum::<u64>() as usize;
        access.take(sum)?;
        let counts = Counts { totals: totals.key.clone(), channel, counts, idempotency_key };
        Ok(responses::json(&publishing.publisher.count(&counts).await?))
    };
    let outcome = outcome.await;
    publishing.counted(sum, outcome).into_response()
}

fn counts(body: &str) -> Result<BTreeMap<String, u32>, Refusal> {
    let expected = r#"expected counts of at least 1, such as {"1F602": 3}"#;
    let counts: BTreeMap<String, u32> =
        serde_json::from_str(body).map_err(|error| Refusal::BadRequest(format!("{expected}: {error}")))?;
    if counts.is_empty() || counts.values().any(|count| *count == 0) {
        return Err(Refusal::BadRequest(expected.to_owned()));
    }
    if counts.keys().any(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
        return Err(Refusal::BadRequest(format!("a key has 1 to {MAX_KEY_BYTES} bytes")));
    }
    let sum: u64 = counts.values().map(|count| u64::from(*count)).sum();
    if counts.len() > MAX_KEYS || sum > MAX_SUM {
        let found = format!("{} keys with a sum of {sum}", counts.len());
        return Err(Refusal::TooLarge(format!("{found}; a request has at most {MAX_KEYS} and {MAX_SUM}")));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_positive_and_bounded() {
        assert_eq!(counts(r#"{"b": 2, "a": 1}"#), Ok(BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])));
        let error = |body: &str| counts(body).unwrap_err().to_string();
        for body in ["", "[]", "{}", r#"{"a": 0}"#, r#"{"a": -1}"#, r#"{"a": 1.5}"#, r#"{"a": "1"}"#] {
            assert!(error(body).starts_with("expected counts of at least 1, such as"), "{body}");
        }
        assert_eq!(error(r#"{"": 1}"#), "a key has 1 to 1024 bytes");
        let sum = error(r#"{"a": 10000, "b": 1}"#);
        assert_eq!(sum, "2 keys with a sum of 10001; a request has at most 1000 and 10000");
        assert_eq!(
            error(r#"{"a": 4294967295, "b": 4294967295}"#).split(';').next(),
            Some("2 keys with a sum of 8589934590")
        );
    }
}
