//! Tokens -> grants: who may read and publish what.
//!
//! A JWT is verified by keys of the configuration or of its issuer, and its claims become a grant. Handlers that need no stream ask
//! [`Auth`] directly.

mod authorizer;
mod check;
mod claims;
pub mod credentials;
mod crypto;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod id_tokens;
mod jwks;
mod keys;
mod mint;
mod pem;
mod rates;
mod refusal;
mod stats;
mod template;
mod tickets;
mod verifier;

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use tallycast_fanout::Topic;
use tokio::sync::watch;
use tokio::time::Instant;

pub use authorizer::{AuthError, Authenticated, challenge};
pub(crate) use authorizer::{in_common, to_set};
pub use check::check;
pub use claims::{Claims, MercureClaims};
pub use error::{Role, TokenError};
pub use id_tokens::IdTokens;
pub use jwks::{JwksConfig, JwksOption, JwksOptionError, KeyServers};
pub use keys::{Key, KeyError, KeyOption, MIN_SECRET_BYTES, Scope};
pub use mint::mint;
pub use pem::PemError;
pub use rates::{RateError, SubjectRates};
pub(crate) use refusal::token_required;
pub use stats::AuthStats;
pub use template::{Template, TemplateError};
pub use tickets::{MemoryTickets, TICKET_LIFE, TicketError, TicketStore};

use claims::Rules;
use jwks::Jwks;
use tickets::Tickets;
use verifier::TokenHeader;

/// The topics that may be public.
pub const MAX_PUBLIC_TOPICS: usize = 1024;
/// How far the clocks of issuer and server may be apart, unless the configuration says something else.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(10);
/// The length of a token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The topics in each list of a token, those of templates included.
pub const MAX_TOKEN_TOPICS: usize = 256;
/// The tickets that each subject may have made.
const TICKETS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// How long a request waits for keys that are being fetched.
const FETCH_PATIENCE: Duration = Duration::from_secs(4);

/// How tokens are verified, and what they allow.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The keys.
    pub keys: Vec<Key>,
    /// The JWK sets.
    pub jwks: Vec<JwksConfig>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// The cookie that may hold a token.
    pub cookie: String,
    /// Whether the query may hold one.
    pub in_query: bool,
    /// What every token may read.
    pub read: Vec<Template>,
    /// What every token may publish.
    pub publish: Vec<Template>,
    /// What is readable without a token.
    pub public: Vec<Topic>,
    /// The messages per second that each subject may publish.
    pub publish_rate: NonZeroU32,
}

impl Config {
    /// Whether there is a key. Without one, everything is public.
    pub fn is_enabled(&self) -> bool {
        !self.keys.is_empty() || !self.jwks.is_empty()
    }

    fn rules(&self) -> Rules<'_> {
        Rules { leeway: self.leeway, read: &self.read, publish: &self.publish }
    }
}

/// Verifies tokens. Cheap to clone; clones share keys and counters.
#[derive(Debug, Clone)]
pub struct Auth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RwLock<Arc<State>>,
    stats: Arc<AuthStats>,
    tickets: Tickets,
    /// What each subject may publish, and how many tickets it may have.
    rates: RwLock<Arc<SubjectRates>>,
    ticket_rates: SubjectRates,
    /// Has the origins whose pages may use the cookie.
    server: watch::Receiver<tallycast_server::Config>,
}

/// What SIGHUP replaces.
#[derive(Debug)]
struct State {
    config: Config,
    jwks: Vec<Arc<Jwks>>,
}

impl Auth {
    /// Starts to fetch the JWK sets of the config, which may change: streams that are open stay open then, and JWK sets that are the
    /// same keep their keys. In a runtime. `server` has the allowed origins.
    pub fn start(
        mut config: watch::Receiver<Config>,
        tickets: TicketStore,
        server: watch::Receiver<tallycast_server::Config>,
        stats: Arc<AuthStats>,
    ) -> Self {
        let first = config.borrow_and_update().clone();
        let rates = RwLock::new(Arc::new(SubjectRates::new(first.publish_rate)));
        let state = RwLock::new(Arc::new(State::new(first, &[], &stats)));
        let ticket_rates = SubjectRates::new(TICKETS_PER_SECOND);
        let shared = Arc::new(Shared { state, stats, tickets: Tickets::new(tickets), rates, ticket_rates, server });
        let changing = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while config.changed().await.is_ok()
                && let Some(shared) = changing.upgrade()
            {
                let next = config.borrow_and_update().clone();
                Self(shared).reload(next);
            }
        });
        Self(shared)
    }

    fn reload(&self, config: Config) {
        if config.publish_rate != self.publish_rates().rate() {
            let rates = Arc::new(SubjectRates::new(config.publish_rate));
            *self.0.rates.write().unwrap_or_else(PoisonError::into_inner) = rates;
        }
        let state = State::new(config, &self.state().jwks, &self.0.stats);
        *self.0.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    /// Whether there is a key. Without one, everything is public, and no token is looked at.
    pub fn is_enabled(&self) -> bool {
        self.state().config.is_enabled()
    }

    /// What is readable without a token.
    pub fn public(&self) -> Vec<Topic> {
        self.state().config.public.clone()
    }

    /// Verifies a token. Waits a few seconds for keys that are being fetched.
    ///
    /// # Errors
    /// When it is not valid now, or its key is not for `role`.
    pub async fn verify(&self, token: &str, role: Role) -> Result<Claims, TokenError> {
        let verified = self.state().verify(token, role).await;
        self.0.stats.count(&verified);
        verified
    }

    /// Makes a ticket for the token of a request.
    ///
    /// # Errors
    /// When the subject asks for too many, or tickets are not available.
    pub async fn ticket(&self, authenticated: &Authenticated) -> Result<String, TicketError> {
        let rates = &self.0.ticket_rates;
        let taken = rates.take(rates.key(authenticated.rate_key()), 1);
        taken.map_err(|_| TicketError::TooMany)?;
        let ticket = self.0.tickets.make(&authenticated.token).await?;
        self.0.stats.tickets.add(1);
        Ok(ticket)
    }

    /// What each subject may publish.
    pub fn publish_rates(&self) -> Arc<SubjectRates> {
        Arc::clone(&self.0.rates.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.0.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn new(config: Config, running: &[Arc<Jwks>], stats: &Arc<AuthStats>) -> Self {
        let jwks = config.jwks.iter().map(|config| {
            let same = running.iter().find(|running| running.config == *config);
            same.map_or_else(|| Arc::new(Jwks::start(config.clone(), Arc::clone(stats))), Arc::clone)
        });
        Self { jwks: jwks.collect(), config }
    }

    async fn verify(&self, token: &str, role: Role) -> Result<Claims, TokenError> {
        Claims::read(&self.verified(token, role).await?, self.config.rules())
    }

    /// The claims of a token that is valid now.
    async fn verified(&self, token: &str, role: Role) -> Result<Map<String, Value>, TokenError> {
        let header = TokenHeader::read(token)?;
        let deadline = Instant::now() + FETCH_PATIENCE;
        let first = self.verified_now(token, &header, role);
        let Err(TokenError::Algorithm(_) | TokenError::UnknownKey | TokenError::Signature) = first else {
            return first;
        };
        // The issuer may have a new key, or none is known yet.
        let is_unknown = matches!(first, Err(TokenError::UnknownKey | TokenError::Algorithm(_)));
        let mut is_fetched = false;
        for jwks in &self.jwks {
            if jwks.keys().is_none() || (is_unknown && header.kid.is_some()) {
                is_fetched |= jwks.refresh(deadline).await;
            }
        }
        let second = if is_fetched { self.verified_now(token, &header, role) } else { first };
        let is_missing = || self.jwks.iter().any(|jwks| jwks.keys().is_none());
        match second {
            Err(TokenError::Algorithm(_) | TokenError::UnknownKey | TokenError::Signature) if is_missing() => {
                Err(TokenError::Unavailable)
            }
            verified => verified,
        }
    }

    fn verified_now(&self, token: &str, header: &TokenHeader, role: Role) -> Result<Map<String, Value>, TokenError> {
        let fetched: Vec<Arc<[Key]>> = self.jwks.iter().filter_map(|jwks| jwks.keys()).collect();
        let keys = self.config.keys.iter().chain(fetched.iter().flat_map(|keys| keys.iter()));
        verifier::verify(token, header, role, keys, self.config.leeway, SystemTime::now())
    }
}
