//! Why a client may not connect.

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap};

/// The length of a reason, in bytes.
pub const MAX_REASON_BYTES: usize = 200;

/// Why a client may not connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The application refused it, or its request is too large to ask.
    #[error("{reason}")]
    Refused {
        /// 401 or 403.
        status: StatusCode,
        /// One line for the client, of at most [`MAX_REASON_BYTES`].
        reason: String,
    },
    /// The application does not answer. Answered with 503.
    #[error("the application that decides about connections does not answer; try again in a moment")]
    Unavailable,
}

impl ConnectError {
    /// The refusal of a response with `status`. Without a `body` that is a text, the reason is a default one.
    pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: Option<&[u8]>) -> Self {
        let reason = body.filter(|_| is_text(headers)).map(first_line).filter(|line| !line.is_empty());
        let default = match status {
            StatusCode::UNAUTHORIZED => "the application requires valid credentials",
            _ => "the application does not allow this connection",
        };
        Self::Refused { status, reason: reason.unwrap_or_else(|| default.to_owned()) }
    }

    /// The refusal of a request with too many headers or topics, about which the application cannot decide.
    pub(super) fn too_large() -> Self {
        Self::Refused {
            status: StatusCode::FORBIDDEN,
            reason: "the request has more headers or topics than the application can be asked about".to_owned(),
        }
    }
}

/// Whether a body is plain text, as it is without a type.
fn is_text(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/plain")
    })
}

fn first_line(body: &[u8]) -> String {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let mut line = String::from_utf8_lossy(line).replace(char::is_control, "\u{fffd}");
    line.truncate(line.floor_char_boundary(MAX_REASON_BYTES));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_the_first_line_of_a_text() {
        let long = "\u{e9}".repeat(150);
        for (kind, body, expected) in [
            (Some("text/plain; charset=utf-8"), Some(&b" session expired \r\nsecond line"[..]), "session expired"),
            (Some("TEXT/PLAIN"), Some(b"no"), "no"),
            (None, Some(b"no"), "no"),
            (None, Some(b"a\x1b[2Jb\x7f\xff"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}"),
            (None, Some(long.as_bytes()), &long[..MAX_REASON_BYTES]),
            (None, Some(b"\nsecond line"), "the application does not allow this connection"),
            (Some("text/html"), Some(b"<p>no"), "the application does not allow this connection"),
            (Some("text/plain"), None, "the application does not allow this connection"),
        ] {
            let headers = kind.map(|kind| (CONTENT_TYPE, kind.parse().unwrap())).into_iter().collect();
            let error = ConnectError::refused(StatusCode::FORBIDDEN, &headers, body);
            assert_eq!(error.to_string(), expected, "{body:?}");
        }
        let error = ConnectError::refused(StatusCode::UNAUTHORIZED, &HeaderMap::new(), None);
        assert_eq!(error.to_string(), "the application requires valid credentials");
    }
}
