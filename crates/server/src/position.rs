//! Where a stream starts: the position that a request names, and how the engine finds it.

use std::time::Duration;

use http_body_util::Full;
use hyper::header::{ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use tallycast_fanout::{Grant, Resume, Start, Topics};

use crate::coding::Coding;
use crate::event_response::stream_headers;
use crate::event_stream::{EventFormat, EventStream, Notices};
use crate::query::{one_line, value};
use crate::response::WholeResponse;
use crate::streams::{Streams, try_again};

/// The id of the last event that a client has got (HTML standard, §9.2.4). Also in responses: the id before the first event.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The same in a query, for clients that cannot set headers, and polyfills.
const IN_QUERY: [&str; 4] = ["lastEventID", "last_event_id", "lastEventId", "Last-Event-ID"];
/// Asks for the newest messages, as many as this.
const LAST: &str = "last";
/// Asks for the messages of a time.
const SINCE: &str = "since";
/// The most messages that [`LAST`] may ask for.
const MAX_LAST: usize = 10_000;
/// The pause before clients come back whose position cannot be found yet.
const NOT_CURRENT_RETRY: Duration = Duration::from_secs(2);
/// The units of [`SINCE`], in milliseconds.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Where a client wants to start, by the request of a native stream: its header `last-event-id`, which goes before the query because a
/// browser sends it when it comes back, or `lastEventID`, `last` or `since` in the query.
///
/// # Errors
/// One line for the client, if the query is not valid.
pub fn requested(request: &Parts) -> Result<Option<Start>, String> {
    let header = request.headers.get(&LAST_EVENT_ID).map(HeaderValue::as_bytes).unwrap_or_default();
    if !header.is_empty() {
        return Ok(Some(Start::After(String::from_utf8_lossy(header).into())));
    }
    let query = request.uri.query().unwrap_or_default();
    if let Some(id) = IN_QUERY.iter().find_map(|name| value(query, name)).filter(|id| !id.is_empty()) {
        return Ok(Some(Start::After(id.into())));
    }
    match (value(query, LAST), value(query, SINCE)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(format!("bad query: {LAST} and {SINCE} exclude each other\n")),
        (Some(count), None) => {
            let number = count.parse().ok().filter(|number| (1..=MAX_LAST).contains(number));
            let error = || format!("bad query: {LAST}={}; expected a number from 1 to {MAX_LAST}\n", one_line(&count));
            number.map(|number| Some(Start::Newest(number))).ok_or_else(error)
        }
        (None, Some(time)) => {
            let error = || format!("bad query: {SINCE}={}; expected a time, such as 30s, 5m or 2h\n", one_line(&time));
            duration(&time).map(|time| Some(Start::Since(time))).ok_or_else(error)
        }
    }
}

/// A whole number and a unit.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let (_, milliseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    number.checked_mul(*milliseconds).map(Duration::from_millis)
}

impl Streams {
    /// Finds where a stream of `topics` with `grant` starts. While the source is not connected, the answer to a request for an event stream is
    /// one that ends at once: an EventSource comes back with the same position, and would give up after an error.
    pub(crate) async fn resume(
        &self,
        request: &Parts,
        topics: &Topics,
        grant: Option<&Grant>,
        start: Option<Start>,
        is_upgrade: bool,
    ) -> Result<Option<Resume>, WholeResponse> {
        let Some(start) = start else { return Ok(None) };
        let limit = self.config.borrow().resume_limit;
        self.handle.resume(topics, None, grant, &start, limit).await.map_err(|error| {
            if is_upgrade {
                return try_again(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
            }
            let config = self.config.borrow();
            let framing = EventStream::shared(EventFormat::Fields, Notices::Comments, Coding::Identity, false);
            let retry = framing.retry(config.retry.unwrap_or(NOT_CURRENT_RETRY));
            let body = [framing.opening(&error.to_string()), retry].concat();
            let mut response = Response::new(Full::new(body.into()));
            *response.headers_mut() = stream_headers(request, Coding::Identity, None, &config.allowed_origins);
            response
        })
    }
}

/// Adds the position before the first event to the headers of a response.
pub(crate) fn insert_position(headers: &mut HeaderMap, position: &str) {
    if let Ok(position) = HeaderValue::from_str(position)
        && !position.is_empty()
    {
        headers.insert(LAST_EVENT_ID, position);
        // A contract may expose others.
        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("last-event-id"));
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn of(query: &str, header: Option<&str>) -> Result<Option<Start>, String> {
        let mut request = Request::get(format!("/subscribe/a?{query}"));
        if let Some(id) = header {
            request = request.header(LAST_EVENT_ID, id);
        }
        requested(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn header_goes_before_the_query() {
        let after = |id: &str| Ok(Some(Start::After(id.into())));
        assert_eq!(of("lastEventID=1-0", Some("2-0")), after("2-0"));
        assert_eq!(of("lastEventID=1-0", Some("")), after("1-0"));
        for name in IN_QUERY {
            assert_eq!(of(&format!("a=b&{name}=1%2D0"), None), after("1-0"), "{name}");
        }
        assert_eq!(of("last=20", Some("2-0")), after("2-0"));
        assert_eq!(of("lastEventID=", None), Ok(None));
    }

    #[test]
    fn counts_and_times_are_read() {
        assert_eq!(of("last=20", None), Ok(Some(Start::Newest(20))));
        for (text, seconds) in [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("3000ms", 3)] {
            assert_eq!(of(&format!("since={text}"), None), Ok(Some(Start::Since(Duration::from_secs(seconds)))));
        }
        for query in ["last=0", "last=10001", "last=-1", "last=", "last=a%0Ab"] {
            assert!(of(query, None).unwrap_err().ends_with("expected a number from 1 to 10000\n"), "{query}");
        }
        for query in ["since=5", "since=m", "since=-5m", "since=1.5h", "since=5%20m", "since=99999999999999999999d"] {
            let error = of(query, None).unwrap_err();
            assert!(error.ends_with("expected a time, such as 30s, 5m or 2h\n"), "{query}");
        }
        assert_eq!(of("last=1&since=1m", None).unwrap_err(), "bad query: last and since exclude each other\n");
    }
}
