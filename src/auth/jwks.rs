//! JWK sets: fetched from the issuer, kept while it is away, and fetched again before they are stale and for an unknown key, at
//! a bounded rate. One task for each URL, so there is one request at a time.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CACHE_CONTROL};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, StatusCode, Uri};
use jsonwebtoken::Algorithm;
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::keys::{self, Key, Options};
use super::{AuthStats, Scope};
use crate::http_client::{self, Failure, Trust};

/// The size of a JWK set, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// Time for a request, from its start to the end of the answer.
const FETCH_LIMIT: Duration = Duration::from_secs(15);
/// The shortest time between two requests, whatever causes them.
const MIN_PERIOD: Duration = Duration::from_secs(10);
/// How long a set is fresh: what the answer says within bounds, or this.
const DEFAULT_AGE: Duration = Duration::from_secs(10 * 60);
const MIN_AGE: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// A JWK set as written in an option: a URL, and options after commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksOption {
    url: JwksUrl,
    algorithms: Option<Vec<Algorithm>>,
    scope: Scope,
}

/// Where a set is: `https://`, or `http://` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct JwksUrl {
    is_tls: bool,
    authority: Authority,
    path: PathAndQuery,
}

/// The text is not a [`JwksOption`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JwksOptionError(String);

impl std::str::FromStr for JwksOption {
    type Err = JwksOptionError;

    fn from_str(text: &str) -> Result<Self, JwksOptionError> {
        let (url, options) = Options::split(text, &["iss", "aud", "for", "alg"]).map_err(JwksOptionError)?;
        let after =
            ", and options after commas: alg=ALGORITHM, iss=ISSUER, aud=AUDIENCE, for=subscribers or for=publishers";
        let option =
            Self::new(url, options.scope).map_err(|JwksOptionError(expected)| JwksOptionError(expected + after))?;
        Ok(Self { algorithms: options.algorithms, ..option })
    }
}

impl JwksOption {
    /// The set at `url`, with keys of any algorithm, for tokens of `scope`.
    ///
    /// # Errors
    /// The URL is of another kind.
    pub fn new(url: &str, scope: Scope) -> Result<Self, JwksOptionError> {
        let url = JwksUrl::parse(url).ok_or_else(|| {
            let expected = "expected an https:// URL without a password (http:// for this machine only)";
            JwksOptionError(expected.to_owned())
        })?;
        Ok(Self { url, algorithms: None, scope })
    }
}

impl JwksUrl {
    fn parse(text: &str) -> Option<Self> {
        let parts = text.parse::<Uri>().ok()?.into_parts();
        let (scheme, authority) = (parts.scheme?, parts.authority?);
        let is_tls = scheme == Scheme::HTTPS;
        let is_local = || {
            let host = authority.host().trim_matches(['[', ']']);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let is_allowed = !authority.as_str().contains('@') && (is_tls || (scheme == Scheme::HTTP && is_local()));
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        is_allowed.then_some(Self { is_tls, authority, path })
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}{}", if self.is_tls { "https" } else { "http" }, self.authority, self.path)
    }
}

/// How the servers of issuers are known.
#[derive(Debug, Clone)]
pub struct KeyServers {
    tls: Arc<ClientConfig>,
    /// The authorities whose certificates are accepted, in PEM; `None` for those of the system.
    authorities: Option<Arc<[u8]>>,
}

impl KeyServers {
    /// Servers with certificates of these authorities, in PEM; `None` for those of the system.
    ///
    /// # Errors
    /// The text has no certificates.
    pub fn new(authorities: Option<Arc<[u8]>>) -> Result<Self, Failure> {
        let trust = authorities.as_deref().map_or(Trust::System, Trust::Authorities);
        Ok(Self { tls: http_client::tls(&trust)?, authorities })
    }
}

/// Where a set is fetched from, and what its keys are for.
#[derive(Debug, Clone)]
pub struct JwksConfig {
    option: JwksOption,
    scope: Arc<Scope>,
    servers: KeyServers,
}

impl PartialEq for JwksConfig {
    fn eq(&self, other: &Self) -> bool {
        let authorities = |config: &Self| config.servers.authorities.clone();
        (&self.option, &self.scope, authorities(self)) == (&other.option, &other.scope, authorities(other))
    }
}

impl JwksConfig {
    /// The set of `option`. `defaults` holds where the option says nothing.
    pub fn new(option: JwksOption, defaults: &Scope, servers: KeyServers) -> Self {
        let scope = Arc::new(option.scope.or(defaults));
        Self { option, scope, servers }
    }

    /// Fetches the keys, and says how long they are fresh.
    ///
    /// # Errors
    /// When the issuer is away, or answers with something else.
    pub(super) async fn fetch(&self) -> Result<(Vec<Key>, Duration), Failure> {
        let url = &self.option.url;
        let request =
            Request::get(url.path.as_str()).header(ACCEPT, "application/json").body(Full::<Bytes>::default())?;
        let fetched = async {
            let response =
                http_client::send(&url.authority, url.is_tls.then(|| Arc::clone(&self.servers.tls)), request).await?;
            let (head, body) = response.into_parts();
            if head.status != StatusCode::OK {
                return Err(format!("answered with {}", head.status).into());
            }
            let fresh = head.headers.get(CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
            let body = Limited::new(body, MAX_BYTES).collect().await?.to_bytes();
            let keys = keys::of_set(&body, &self.scope, self.option.algorithms.as_deref())?;
            if keys.is_empty() {
                return Err("the set has no key that can be used".into());
            }
            Ok::<_, Failure>((keys, fresh.unwrap_or(DEFAULT_AGE).clamp(MIN_AGE, MAX_AGE)))
        };
        timeout(FETCH_LIMIT, fetched).await.map_err(|_| "no answer in time")?
    }
}

/// The directive `max-age` of `cache-control`.
fn max_age(header: &str) -> Option<Duration> {
    let mut directives = header.split(',').filter_map(|directive| directive.trim().split_once('='));
    let (_, seconds) = directives.find(|(name, _)| name.eq_ignore_ascii_case("max-age"))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

/// A set that is kept fresh by a task, which ends with it.
#[derive(Debug)]
pub(super) struct Jwks {
    pub(super) config: JwksConfig,
    shared: Arc<Shared>,
    /// The number of attempts to fetch it that have ended.
    attempts: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: RwLock<Option<Arc<[Key]>>>,
    /// The start of the last attempt, and whether it is still running.
    last: RwLock<Option<(Instant, bool)>>,
    wanted: Notify,
}

impl Drop for Jwks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Jwks {
    /// Starts to fetch a set.
    pub(super) fn start(config: JwksConfig, stats: Arc<AuthStats>) -> Self {
        let shared = Arc::<Shared>::default();
        let (ended, attempts) = watch::channel(0);
        let task = tokio::spawn(run(config.clone(), Arc::clone(&shared), ended, stats));
        Self { config, shared, attempts, task }
    }

    /// The keys, once they have been fetched.
    pub(super) fn keys(&self) -> Option<Arc<[Key]>> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the set fetched again, unless that was done a moment ago, and waits for it until `deadline`. Whether it was.
    pub(super) async fn refresh(&self, deadline: Instant) -> bool {
        let mut attempts = self.attempts.clone();
        // An attempt that ends from here on counts.
        attempts.mark_unchanged();
        match *self.shared.last.read().unwrap_or_else(PoisonError::into_inner) {
            None | Some((_, true)) => {}
            Some((at, false)) if at.elapsed() < MIN_PERIOD => return false,
            Some((_, false)) => self.shared.wanted.notify_one(),
        }
        timeout_at(deadline, attempts.changed()).await.is_ok()
    }
}

/// Fetches the set for ever.
async fn run(config: JwksConfig, shared: Arc<Shared>, ended: watch::Sender<u64>, stats: Arc<AuthStats>) {
    let url = config.option.url.to_string();
    let mut is_away = false;
    loop {
        let started = Instant::now();
        let note = |is_running| {
            *shared.last.write().unwrap_or_else(PoisonError::into_inner) = Some((started, is_running));
        };
        note(true);
        let fresh = match config.fetch().await {
            Ok((keys, fresh)) => {
                stats.jwks_fetched.add(1);
                let count = keys.len();
                let is_first =
                    shared.keys.write().unwrap_or_else(PoisonError::into_inner).replace(keys.into()).is_none();
                if is_first || is_away {
                    tracing::info!(url, keys = count, "fetched the keys of tokens");
                }
                is_away = false;
                fresh
            }
            Err(error) => {
                stats.jwks_failed.add(1);
                // Once for each outage.
                if !is_away {
                    tracing::warn!(url, %error, "cannot fetch the keys of tokens; those fetched before stay in use");
                }
                is_away = true;
                MIN_PERIOD
            }
        };
        note(false);
        ended.send_modify(|attempts| *attempts += 1);
        // Before it is stale. A request for an unknown key that came meanwhile was answered by this attempt.
        let next = started + (fresh * 9 / 10).max(MIN_PERIOD);
        let earliest = started + MIN_PERIOD;
        tokio::select! {
            () = sleep_until(next) => {}
            () = async { shared.wanted.notified().await; sleep_until(earliest).await } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_https_or_of_this_machine() {
        for text in
            ["https://a/jwks", "https://a:8443/k?x=1", "http://localhost:1/k", "http://127.0.0.1/k", "http://[::1]:1/k"]
        {
            assert_eq!(JwksUrl::parse(text).map(|url| url.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "a",
            "/k",
            "http://example.org/k",
            "https://user:word@a/k",
            "ftp://a/k",
            "http://127.0.0.1.example.org/",
        ] {
            assert_eq!(JwksUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn options_follow_the_url() {
        let option: JwksOption = "https://a/k?b=1,2,iss=https://a,alg=RS256+ES256,for=subscribers".parse().unwrap();
        assert_eq!(option.url.to_string(), "https://a/k?b=1,2");
        assert_eq!(option.scope.issuers, ["https://a"]);
        assert_eq!(option.algorithms, Some(vec![Algorithm::RS256, Algorithm::ES256]));
        for text in ["https://a,iss=", "https://a,for=all", "https://a,alg=none", "http://a"] {
            assert!(text.parse::<JwksOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn freshness_is_read_from_the_answer() {
        assert_eq!(max_age("public, max-age=300, must-revalidate"), Some(Duration::from_secs(300)));
        assert_eq!(max_age("Max-Age=\"60\""), Some(Duration::from_secs(60)));
        assert_eq!((max_age("no-store"), max_age("max-age=x"), max_age("s-maxage=5")), (None, None, None));
    }
}
