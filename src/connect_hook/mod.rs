//! The connect hook: an HTTP endpoint of the operator's application that decides about each client that opens a session stream.
//!
//! [`ConnectHook::ask`] sends the client's request as JSON, and reads its session, topics, rights and expiry from the answer.

mod answer;
mod refusal;
mod request;
mod stats;
#[cfg(test)]
mod tests;
mod url;

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

pub use answer::{ConnectAnswer, ConnectionPolicy, MAX_ANSWER_BYTES, MAX_SESSION_BYTES};
pub use refusal::{ConnectError, MAX_REASON_BYTES};
pub use request::{ConnectRequest, MAX_HEADER_BYTES, MAX_QUESTION_BYTES};
pub use stats::ConnectHookStats;
pub use url::{HookUrl, HookUrlError};

use crate::config::Secret;
use crate::http_client::pool::{Pool, pool};
use crate::http_client::{self, Trust};
use crate::rate_limited_log::RateLimitedLog;

/// The time limit if none is configured.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest time limit.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a question is repeated if nothing is configured.
pub const DEFAULT_RETRIES: usize = 1;
/// How often a question may be repeated.
pub const MAX_RETRIES: usize = 10;
/// Questions that the application is asked at the same time. Further ones wait.
pub const MAX_IN_FLIGHT: usize = 256;
/// The pause before a question is repeated for the first time, and as much jitter; it doubles each time.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Who is asked, and what happens without an answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The endpoint.
    pub url: HookUrl,
    /// The time limit for an answer, with all attempts and pauses; at most [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// How often a question is repeated after a failure.
    pub retries: usize,
    /// What happens without an answer.
    pub when_down: WhenDown,
    /// The header `authorization`.
    authorization: Option<HeaderValue>,
    tls: Option<Arc<ClientConfig>>,
}

/// What happens to clients while the application does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// They are refused with 503.
    #[default]
    Refuse,
    /// They go on as if there was no hook.
    Allow,
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The secret cannot be sent in a header.
    #[error("expected a secret of visible ASCII characters without spaces")]
    Secret,
    /// Both would be the header `authorization`.
    #[error("expected either a secret or a user in the URL, not both")]
    SecretAndUser,
    /// The certificates of the authorities cannot be read.
    #[error("{0}")]
    Authorities(String),
}

impl Config {
    /// Asks `url` with the default limits. `secret` is sent as a bearer token. `authorities` are those whose certificates the server of an
    /// `https://` URL may have, in PEM; without them, those that the system trusts.
    ///
    /// # Errors
    /// When the secret cannot be sent, or the authorities are not certificates.
    pub fn new(url: HookUrl, secret: Option<&Secret>, authorities: Option<&[u8]>) -> Result<Self, ConfigError> {
        let authorization = match (secret, url.basic()) {
            (Some(_), Some(_)) => return Err(ConfigError::SecretAndUser),
            (Some(secret), None) => {
                let value = HeaderValue::try_from(format!("Bearer {}", secret.expose()));
                let mut value = value.map_err(|_| ConfigError::Secret)?;
                value.set_sensitive(true);
                Some(value)
            }
            (None, basic) => basic.cloned(),
        };
        let trust = authorities.map_or(Trust::System, Trust::Authorities);
        let tls = url.is_tls().then(|| http_client::tls(&trust)).transpose();
        let tls = tls.map_err(|error| ConfigError::Authorities(error.to_string()))?;
        let (timeout, retries) = (DEFAULT_TIMEOUT, DEFAULT_RETRIES);
        Ok(Self { url, timeout, retries, when_down: WhenDown::default(), authorization, tls })
    }
}

/// Asks the application about clients. Cheap to clone; clones share connections, limits and counters.
#[derive(Clone)]
pub struct ConnectHook(Arc<Shared>);

struct Shared {
    config: Config,
    pool: Pool,
    in_flight: Semaphore,
    log: Mutex<RateLimitedLog>,
    stats: Arc<ConnectHookStats>,
}

impl fmt::Debug for ConnectHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ConnectHook").field(&self.0.config.url).finish()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Connection(String),
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {} KiB", MAX_ANSWER_BYTES / 1024)]
    TooLarge,
    #[error("invalid answer: {0}")]
    Invalid(#[from] answer::AnswerError),
}

impl Failure {
    /// The innermost error has the reason.
    fn connection(mut error: &dyn Error) -> Self {
        while let Some(source) = error.source() {
            error = source;
        }
        Self::Connection(error.to_string())
    }
}

impl ConnectHook {
    /// A hook without connections.
    pub fn new(config: Config, stats: Arc<ConnectHookStats>) -> Self {
        let (pool, log) = (pool(config.tls.clone()), Mutex::new(RateLimitedLog::new()));
        Self(Arc::new(Shared { config, pool, in_flight: Semaphore::new(MAX_IN_FLIGHT), log, stats }))
    }

    /// Asks the application about a client. In a runtime. Takes at most [`Config::timeout`]. The application may be asked several times
    /// about the same client.
    ///
    /// # Errors
    /// When the application refuses the client, or does not answer and the config says [`WhenDown::Refuse`].
    pub async fn ask(&self, request: &ConnectRequest<'_>) -> Result<ConnectAnswer, ConnectError> {
        let Shared { config, stats, .. } = &*self.0;
        let started = Instant::now();
        stats.asked.add(1);
        let decision = match request.to_json() {
            Some(question) => self.decision(question, started + config.timeout.min(MAX_TIMEOUT)).await,
            None => Ok(Err(ConnectError::too_large())),
        };
        stats.seconds.observe(started.elapsed().as_secs_f64());
        match decision {
            Ok(decision) => decision.inspect_err(|_| stats.refused.add(1)),
            Err(failure) => {
                stats.failed.add(1);
                self.log(&failure);
                match config.when_down {
                    WhenDown::Refuse => Err(ConnectError::Unavailable),
                    WhenDown::Allow => Ok(ConnectAnswer::fallback()),
                }
            }
        }
    }

    /// What the application has decided, after as many attempts as necessary and possible.
    async fn decision(
        &self,
        question: Bytes,
        deadline: Instant,
    ) -> Result<Result<ConnectAnswer, ConnectError>, Failure> {
        let Shared { config, in_flight, .. } = &*self.0;
        let _permit = timeout_at(deadline, in_flight.acquire()).await.map_err(|_| Failure::Timeout)?;
        let pauses = ExponentialBuilder::default().with_min_delay(RETRY_PAUSE).with_jitter();
        let mut pauses = pauses.with_max_times(config.retries.min(MAX_RETRIES)).build();
        loop {
            let failure = match self.attempt(question.clone(), deadline).await {
                Ok(decision) => return Ok(decision),
                Err(failure) => failure,
            };
            let Some(pause) = pauses.next() else { return Err(failure) };
            if timeout_at(deadline, sleep(pause)).await.is_err() {
                return Err(failure);
            }
        }
    }

    async fn attempt(
        &self,
        question: Bytes,
        deadline: Instant,
    ) -> Result<Result<ConnectAnswer, ConnectError>, Failure> {
        let Shared { config, pool, .. } = &*self.0;
        let mut request = Request::post(config.url.uri())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("tallycast/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &config.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(question)).map_err(|error| Failure::connection(&error))?;
        let response = timeout_at(deadline, pool.request(request)).await.map_err(|_| Failure::Timeout)?;
        let (head, body) = response.map_err(|error| Failure::connection(&error))?.into_parts();
        let body = timeout_at(deadline, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
        // A refusal counts whatever becomes of its reason.
        if let StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN = head.status {
            let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes);
            return Ok(Err(ConnectError::refused(head.status, &head.headers, body.as_deref())));
        }
        if head.status != StatusCode::OK {
            return Err(Failure::Status(head.status));
        }
        let body = body.map_err(|_| Failure::Timeout)?.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::TooLarge,
            false => Failure::connection(&*error),
        })?;
        Ok(Ok(ConnectAnswer::parse(&body.to_bytes())?))
    }

    /// Logs a failure, at a bounded rate: every client can cause one.
    fn log(&self, failure: &Failure) {
        let Config { url, when_down, .. } = &self.0.config;
        let effect = match when_down {
            WhenDown::Refuse => "clients are refused",
            WhenDown::Allow => "clients are allowed",
        };
        let mut log = self.0.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.log(|suppressed| tracing::warn!(%url, error = %failure, suppressed, "the connect hook failed; {effect}"));
    }
}
