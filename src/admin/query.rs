//! The query of `GET /admin/status.json`: filter, order and page of the connections.

use std::cmp::Reverse;
use std::str::FromStr;

use tallycast_fanout::{ConnectionReport, Namespace, NamespaceError};

/// Selects connections. By default all of them, in no particular order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusQuery {
    limit: Option<usize>,
    offset: usize,
    namespace: Option<Namespace>,
    sort: Option<Sort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Oldest,
    Newest,
}

/// An invalid query.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusQueryError {
    /// `limit` or `offset` is not a number.
    #[error("bad query: {0}={1}; expected a whole number")]
    Number(&'static str, String),
    /// `namespace` is not a valid namespace.
    #[error("bad query: namespace={0}: {1}")]
    Namespace(String, NamespaceError),
    /// `sort` is neither `oldest` nor `newest`.
    #[error("bad query: sort={0}; expected sort=oldest or sort=newest")]
    Sort(String),
}

impl FromStr for StatusQuery {
    type Err = StatusQueryError;

    fn from_str(text: &str) -> Result<Self, StatusQueryError> {
        let mut query = Self::default();
        let number = |name, value: &str| value.parse().map_err(|_| StatusQueryError::Number(name, value.to_owned()));
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "limit" => query.limit = Some(number("limit", &value)?),
                "offset" => query.offset = number("offset", &value)?,
                "namespace" if value.is_empty() => query.namespace = None,
                "namespace" => {
                    let parsed = value.parse();
                    query.namespace =
                        Some(parsed.map_err(|error| StatusQueryError::Namespace(value.into_owned(), error))?);
                }
                "sort" => {
                    query.sort = Some(match &*value {
                        "oldest" => Sort::Oldest,
                        "newest" => Sort::Newest,
                        _ => return Err(StatusQueryError::Sort(value.into_owned())),
                    });
                }
                // Added by caches and proxies.
                _ => {}
            }
        }
        Ok(query)
    }
}

impl StatusQuery {
    /// The newest `limit` connections.
    pub(super) fn newest(limit: usize) -> Self {
        Self { limit: Some(limit), sort: Some(Sort::Newest), ..Self::default() }
    }

    /// The selected connections, and their number without limit and offset.
    pub(super) fn select(&self, mut all: Vec<ConnectionReport>) -> (Vec<ConnectionReport>, usize) {
        if let Some(namespace) = &self.namespace {
            all.retain(|report| report.info.topics.iter().any(|topic| namespace.contains(&topic.literal_prefix())));
        }
        match self.sort {
            None => {}
            Some(Sort::Oldest) => all.sort_by_key(|report| report.info.created_at),
            Some(Sort::Newest) => all.sort_by_key(|report| Reverse(report.info.created_at)),
        }
        let matched = all.len();
        let page = all.into_iter().skip(self.offset).take(self.limit.unwrap_or(usize::MAX)).collect();
        (page, matched)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use tallycast_fanout::ConnectionInfo;

    #[test]
    fn query_filters_orders_and_pages_connections() {
        let report = |seconds: u64, namespace: &str| ConnectionReport {
            info: ConnectionInfo {
                request_path: format!("{seconds}").into(),
                topics: namespace.parse::<Namespace>().unwrap().into(),
                created_at: UNIX_EPOCH + Duration::from_secs(seconds),
                client_ip: Ipv4Addr::LOCALHOST.into(),
                user_agent: "".into(),
            },
            id: "0-0-1".parse().unwrap(),
            subject: None,
            messages_sent: 0,
        };
        let all = vec![report(2, "/eps"), report(3, "/details/26"), report(1, "/details/27"), report(4, "/details/2")];
        let select = |query: &str| {
            let (page, matched) = query.parse::<StatusQuery>().unwrap().select(all.clone());
            (page.iter().map(|report| report.info.request_path.to_string()).collect::<Vec<_>>().join(" "), matched)
        };
        assert_eq!(select(""), ("2 3 1 4".to_owned(), 4));
        assert_eq!(select("sort=oldest&limit=2&offset=1"), ("2 3".to_owned(), 4));
        assert_eq!(select("namespace=%2Fdetails&sort=newest&limit=2"), ("4 3".to_owned(), 3));
        assert_eq!(select("offset=9&other=1&namespace="), (String::new(), 4));
    }

    #[test]
    fn errors_name_the_parameter() {
        let error = |query: &str| query.parse::<StatusQuery>().unwrap_err().to_string();
        assert_eq!(error("limit=-1"), "bad query: limit=-1; expected a whole number");
        assert_eq!(error("sort=age"), "bad query: sort=age; expected sort=oldest or sort=newest");
        assert_eq!(error("namespace=eps"), "bad query: namespace=eps: a namespace must start with '/'");
    }
}
