//! Which paths are those of the contract. At the root, they leave those of all other features alone.

use std::str::FromStr;

/// The beginnings of the paths at the root that belong to other features, whether these are on or off.
const RESERVED: [&str; 20] = [
    "/.well-known",
    "/admin",
    "/api",
    "/assets",
    "/count",
    "/healthz",
    "/metrics",
    "/publish",
    "/readyz",
    "/session",
    "/sessions",
    "/subscribe",
    "/subscriptions",
    "/tickets",
    "/unifrost",
    "/v1/details",
    "/v1/rankings",
    "/v1/status",
    "/web",
    "/ws-hub",
];
/// The segments of a stream's path.
const SEGMENTS: std::ops::RangeInclusive<usize> = 2..=6;
/// The first segment of the paths of WebSockets, which is never that of an event stream.
const WEBSOCKET: &str = "ws";
const STATUS: &str = "status";

/// The paths of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What they all start with, without a slash at its end.
    prefix: String,
}

/// Why a text is not a prefix of paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathsError {
    /// It is no path.
    #[error("expected a path such as / or /streaming, of letters, digits and - . _ ~ between the slashes")]
    Invalid,
    /// Another feature has it.
    #[error("{0} belongs to another feature; expected another path, such as /streaming")]
    Reserved(&'static str),
}

/// What a path of the contract is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// An event stream, with the segments that name its channels.
    Events(&'a str),
    /// A WebSocket, with the same.
    WebSocket(&'a str),
    /// The status.
    Status,
}

impl FromStr for Paths {
    type Err = PathsError;

    fn from_str(text: &str) -> Result<Self, PathsError> {
        let prefix = text.strip_suffix('/').unwrap_or(text);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain);
        if !text.starts_with('/') || (!prefix.is_empty() && !prefix[1..].split('/').all(is_segment)) {
            return Err(PathsError::Invalid);
        }
        let is_websocket = tallycast_server::WEBSOCKET_PREFIX;
        match reserved(prefix).or_else(|| is_below(prefix, is_websocket).then_some(is_websocket)) {
            Some(reserved) => Err(PathsError::Reserved(reserved)),
            None => Ok(Self { prefix: prefix.to_owned() }),
        }
    }
}

impl Paths {
    /// What `path` is, if it is one of the contract.
    pub(super) fn place<'a>(&self, path: &'a str) -> Option<Place<'a>> {
        let rest = path.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_stream = |segments: &str| SEGMENTS.contains(&segments.split('/').count()) && !segments.starts_with('/');
        match rest.split_once('/') {
            None if rest == STATUS => Some(Place::Status),
            Some((WEBSOCKET, segments)) => {
                // Clients know the path with two slashes, too.
                let segments = segments.strip_prefix('/').unwrap_or(segments);
                is_stream(segments).then_some(Place::WebSocket(segments))
            }
            _ if self.prefix.is_empty() && reserved(path).is_some() => None,
            _ => is_stream(rest).then_some(Place::Events(rest)),
        }
    }

    /// The path of the status.
    pub(crate) fn status(&self) -> String {
        format!("{}/{STATUS}", self.prefix)
    }

    /// Its paths as the answer to an unknown one lists them.
    pub(crate) fn listed(&self) -> [String; 3] {
        let prefix = &self.prefix;
        [format!("{prefix}/<p1>/.../<items>"), format!("{prefix}/{WEBSOCKET}/<p1>/.../<items>"), self.status()]
    }
}

/// The beginning of `path` that belongs to another feature, if one has it.
fn reserved(path: &str) -> Option<&'static str> {
    RESERVED.into_iter().find(|reserved| is_below(path, reserved))
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{emojitracker, mercure, native};
    use crate::{admin, assets};

    fn place<'a>(prefix: &str, path: &'a str) -> Option<Place<'a>> {
        prefix.parse::<Paths>().unwrap().place(path)
    }

    #[test]
    fn streams_have_two_to_six_segments() {
        for path in ["/a/b", "/v1/annoucement/news/asx/ANZ.ASX,BHP.ASX", "/a/b/c/d/e/f", "/v1/rankings2/x", "/status/a"]
        {
            assert_eq!(place("/", path), Some(Place::Events(&path[1..])), "{path}");
        }
        assert_eq!(place("/", "/a/b/"), Some(Place::Events("a/b")));
        // Refused with a reason, not passed on.
        assert_eq!(place("/", "/a//b"), Some(Place::Events("a//b")));
        for path in ["/", "/a", "/a/", "//a/b", "/a/b/c/d/e/f/g", "", "a/b"] {
            assert_eq!(place("/", path), None, "{path}");
        }
    }

    #[test]
    fn websockets_are_below_ws_with_one_slash_or_two() {
        for path in ["/ws/a/b", "/ws//a/b", "/ws/a/b/"] {
            assert_eq!(place("/", path), Some(Place::WebSocket("a/b")), "{path}");
        }
        for path in ["/ws", "/ws/", "/ws/eps", "/ws//eps", "/ws///a/b", "/ws/a/b/c/d/e/f/g"] {
            assert_eq!(place("/", path), None, "{path}");
        }
    }

    #[test]
    fn paths_may_have_a_prefix() {
        for prefix in ["/streaming", "/streaming/"] {
            assert_eq!(place(prefix, "/streaming/admin/b"), Some(Place::Events("admin/b")));
            assert_eq!(place(prefix, "/streaming/ws/a/b"), Some(Place::WebSocket("a/b")));
            assert_eq!(place(prefix, "/streaming/status"), Some(Place::Status));
            for path in ["/a/b", "/status", "/ws/a/b", "/streaming2/a/b", "/streaming"] {
                assert_eq!(place(prefix, path), None, "{path}");
            }
        }
        for invalid in ["", "a", "//", "/a//b", "/a b", "/%61", "/a/.."] {
            assert_eq!(invalid.parse::<Paths>(), Err(PathsError::Invalid), "{invalid}");
        }
        for (path, reserved) in [("/admin", "/admin"), ("/v1/details/x", "/v1/details"), ("/ws/a", "/ws")] {
            assert_eq!(path.parse::<Paths>(), Err(PathsError::Reserved(reserved)));
        }
    }

    #[test]
    fn paths_of_other_features_are_reserved() {
        let pages = [assets::BOARD, assets::ADMIN, "/assets/board.js", "/admin"];
        let streams =
            [tallycast_server::PREFIX, tallycast_server::WEBSOCKET_PREFIX, "/subscribe/eps", "/subscribe/a/b"];
        let native_paths = [
            native::tickets::PATH,
            native::SUBSCRIPTIONS_PATH,
            native::SESSION_PATH,
            native::SESSIONS_PATH,
            mercure::PATH,
        ];
        let contracts = ["/api/v1/channels", "/web/chat", "/ws-hub/status", "/unifrost/update"];
        let all: [&[&str]; 9] = [
            &pages,
            &contracts,
            &streams,
            &native_paths,
            &emojitracker::PATHS,
            &native::PATHS,
            &admin::PROBES,
            &admin::PREFIXES,
            &admin::PATHS,
        ];
        for path in all.concat() {
            assert_eq!(place("/", path), None, "{path}");
            assert_eq!(place("/", &format!("{}/a", path.trim_end_matches('/'))), None, "below {path}");
        }
    }
}
