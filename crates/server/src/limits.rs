//! Limits of connections in all, per address, of their rate, and of streams per namespace.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hyper::StatusCode;
use tokio::sync::watch;

use crate::Config;
use crate::Stats;
use crate::slots::{Slot, Slots};
use crate::topic_budget::{TopicBudget, TopicPermit};
use tallycast_fanout::{Grant, Namespace, NamespaceError, Topic, Topics};

/// Addresses whose rate of new connections is tracked. Connections from more are accepted and counted: against an attacker with so
/// many addresses only the limit of all connections helps.
const MAX_ADDRESSES: usize = 100_000;

/// How often addresses are forgotten that have used none of their rate lately.
const SWEEP: Duration = Duration::from_secs(1);

/// The limit of open streams in a namespace. Written `NAMESPACE=COUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceLimit {
    /// A stream counts if one of its topics receives what is sent to this namespace or below it: `/details/26`, `/details/*` and
    /// `/` count for `/details`.
    pub namespace: Namespace,
    /// Open streams.
    pub streams: usize,
}

/// The text is not a [`NamespaceLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceLimitError {
    /// The number is missing or not valid.
    #[error("expected NAMESPACE=COUNT, such as /details=1000, found {0:?}")]
    NoCount(String),
    /// The namespace is not valid.
    #[error("{0:?} before '=': {1}")]
    Namespace(String, NamespaceError),
}

impl FromStr for NamespaceLimit {
    type Err = NamespaceLimitError;

    fn from_str(text: &str) -> Result<Self, NamespaceLimitError> {
        let parts = text.rsplit_once('=').and_then(|(namespace, count)| Some((namespace, count.parse().ok()?)));
        let (namespace, streams) = parts.ok_or_else(|| NamespaceLimitError::NoCount(text.to_owned()))?;
        let parsed = namespace.parse().map_err(|error| NamespaceLimitError::Namespace(namespace.to_owned(), error))?;
        Ok(Self { namespace: parsed, streams })
    }
}

/// The limit that refuses a connection or a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("too many connections; try again in a moment.")]
    Connections,
    #[error("too many connections from your address; try again in a moment.")]
    Address,
    #[error("too many new connections from your address; try again in a moment.")]
    Rate,
    #[error("too many streams of {0}; try again in a moment.")]
    Namespace(Namespace),
    #[error("the open streams from your address have too many topics; try again in a moment, or subscribe to fewer.")]
    AddressTopics,
    #[error("all open streams together have too many topics; try again in a moment, or subscribe to fewer.")]
    Topics,
}

impl LimitError {
    /// The status of the response (RFC 9110, §15.6.4; RFC 6585, §4): whether the client itself is the cause.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Address | Self::Rate | Self::AddressTopics => StatusCode::TOO_MANY_REQUESTS,
            Self::Connections | Self::Namespace(_) | Self::Topics => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A client for the limits: an address, or for IPv6 the network of 64 bits that one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    /// Whether the address is not known.
    pub(crate) fn is_unspecified(self) -> bool {
        self.0.is_unspecified()
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address => address,
        })
    }
}

/// Counts open connections or streams per key.
#[derive(Debug)]
struct KeyedLimiter<K>(Mutex<HashMap<K, usize>>);

/// One that counts until it is dropped.
#[derive(Debug)]
struct KeyedPermit<K: Hash + Eq> {
    key: K,
    limiter: Arc<KeyedLimiter<K>>,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    fn acquire(self: &Arc<Self>, key: K, limit: usize) -> Option<KeyedPermit<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count < limit {
            *count += 1;
            return Some(KeyedPermit { key, limiter: Arc::clone(self) });
        }
        if *count == 0 {
            counts.remove(&key);
        }
        None
    }
}

impl<K: Hash + Eq> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut counts = self.limiter.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                // Only keys in use take memory.
                counts.remove(&self.key);
            }
        }
    }
}

/// The permits of a connection or stream, released when dropped. Allocates nothing while empty.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "every connection has one, and few have any permits")]
pub(crate) struct Permits(Option<Box<Vec<Box<dyn Any + Send + Sync>>>>);

impl Permits {
    pub(crate) fn add(&mut self, permit: impl Any + Send + Sync) {
        self.0.get_or_insert_default().push(Box::new(permit));
    }

    /// Adds all of `other`.
    pub(crate) fn join(&mut self, other: Self) {
        match &mut self.0 {
            Some(permits) => permits.extend(other.0.into_iter().flat_map(|permits| *permits)),
            None => self.0 = other.0,
        }
    }
}

/// The rate of new connections by address, for at most [`MAX_ADDRESSES`].
struct Rate {
    per_second: NonZeroU32,
    limiter: DefaultKeyedRateLimiter<Client>,
    /// When idle addresses were last forgotten.
    swept: Instant,
}

/// The permits for the topics of one stream: in namespaces that have limits, and for the memory that they take.
pub(crate) struct SubscriptionPermits {
    limits: Arc<Limits>,
    config: watch::Receiver<Config>,
    /// The length of the request's path, which is kept for operators.
    path_bytes: usize,
    held: Vec<KeyedPermit<Namespace>>,
    memory: TopicPermit,
}

impl SubscriptionPermits {
    /// No permits yet, for a client at `client` that requested a path of `path_bytes`.
    pub(crate) fn new(limits: Arc<Limits>, config: watch::Receiver<Config>, client: IpAddr, path_bytes: usize) -> Self {
        let memory = TopicPermit::new(&limits.topics, client);
        Self { limits, config, path_bytes, held: Vec::new(), memory }
    }

    /// Acquires the permits for a stream of `topics` with `grant` and releases the others. Changes nothing if one is not available.
    pub(crate) fn acquire(&mut self, topics: &Topics, grant: Option<&Grant>) -> Result<(), LimitError> {
        let config = self.config.borrow();
        let Limits { namespaces, stats, .. } = &*self.limits;
        let mut missing = Vec::new();
        let mut needed = Vec::new();
        let all: Vec<Topic> = topics.iter().collect();
        for NamespaceLimit { namespace, streams } in &config.namespace_limits {
            if !all.iter().any(|topic| topic.overlaps(namespace)) {
                continue;
            }
            needed.push(namespace.clone());
            if self.held.iter().any(|held| held.key == *namespace) {
                continue;
            }
            let Some(permit) = namespaces.acquire(namespace.clone(), *streams) else {
                stats.refused_namespace.add(1);
                return Err(LimitError::Namespace(namespace.clone()));
            };
            missing.push(permit);
        }
        let bytes = topics.weight() + grant.map_or(0, Grant::weight) + self.path_bytes;
        self.memory.replace(bytes, &config, stats)?;
        self.held.retain(|held| needed.contains(&held.key));
        self.held.append(&mut missing);
        Ok(())
    }

    /// The permits of a stream whose topics do not change: that for their memory, which every stream has, and the others
    /// added to `permits`.
    pub(crate) fn into_fixed(self, permits: &mut Permits) -> TopicPermit {
        if !self.held.is_empty() {
            permits.add(self.held);
        }
        self.memory
    }
}

impl std::fmt::Debug for SubscriptionPermits {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { held, memory, .. } = self;
        formatter.debug_struct("SubscriptionPermits").field("held", held).field("memory", memory).finish()
    }
}

/// The limits of one server.
pub(crate) struct Limits {
    connections: Arc<Slots>,
    addresses: Arc<KeyedLimiter<Client>>,
    namespaces: Arc<KeyedLimiter<Namespace>>,
    topics: Arc<TopicBudget>,
    rate: Mutex<Option<Rate>>,
    stats: Arc<Stats>,
}

impl Limits {
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        let (addresses, namespaces) =
            (Arc::new(KeyedLimiter(Mutex::default())), Arc::new(KeyedLimiter(Mutex::default())));
        Self {
            connections: Arc::default(),
            addresses,
            namespaces,
            topics: Arc::default(),
            rate: Mutex::default(),
            stats,
        }
    }

    /// Takes a slot for a connection or an HTTP/2 stream, unless there are too many. The caller counts a refusal.
    pub(crate) fn acquire_connection(&self, config: &Config) -> Option<Slot> {
        self.connections.acquire(config.max_connections)
    }

    /// Admits one more stream of a connection over HTTP/2 with a client at `address`, if it is known, or fails if a limit is
    /// reached.
    pub(crate) fn admit_stream(&self, address: Option<IpAddr>, config: &Config) -> Result<Permits, LimitError> {
        let mut permits = match address {
            Some(address) => self.admit_open(address.into(), config)?,
            None => Permits::default(),
        };
        let Some(slot) = self.acquire_connection(config) else {
            self.stats.refused.add(1);
            return Err(LimitError::Connections);
        };
        permits.add(slot);
        Ok(permits)
    }

    /// Admits a new connection from `address`, or fails if a limit is reached.
    pub(crate) fn admit(&self, address: IpAddr, config: &Config) -> Result<Permits, LimitError> {
        let client = Client::from(address);
        if !self.is_within_rate(client, config.rate_per_address) {
            self.stats.refused_rate.add(1);
            return Err(LimitError::Rate);
        }
        self.admit_open(client, config)
    }

    fn admit_open(&self, client: Client, config: &Config) -> Result<Permits, LimitError> {
        let Some(limit) = config.max_per_address else { return Ok(Permits::default()) };
        let permit = self.addresses.acquire(client, limit).ok_or(LimitError::Address);
        if permit.is_err() {
            self.stats.refused_address.add(1);
        }
        let mut permits = Permits::default();
        permits.add(permit?);
        Ok(permits)
    }

    fn is_within_rate(&self, client: Client, per_second: Option<NonZeroU32>) -> bool {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(per_second) = per_second else {
            *rate = None;
            return true;
        };
        // A changed limit starts afresh.
        drop(rate.take_if(|rate| rate.per_second != per_second));
        let Rate { limiter, swept, .. } = rate.get_or_insert_with(|| Rate {
            per_second,
            limiter: RateLimiter::hashmap(Quota::per_second(per_second)),
            swept: Instant::now(),
        });
        // Each sweep visits all of them.
        if swept.elapsed() >= SWEEP {
            *swept = Instant::now();
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        if limiter.len() >= MAX_ADDRESSES {
            self.stats.rate_unknown.add(1);
            return true;
        }
        limiter.check_key(&client).is_ok()
    }
}

/// Seconds after which to try again: not the same for all clients that are refused together.
pub(crate) fn retry_after() -> u64 {
    // The keys of a hasher are random for each instance.
    2 + RandomState::new().hash_one(0) % 9
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn limits() -> (Limits, Arc<Stats>) {
        let stats = Arc::<Stats>::default();
        (Limits::new(Arc::clone(&stats)), stats)
    }

    #[test]
    fn connections_are_limited_per_address_and_per_ipv6_network() {
        let (limits, stats) = limits();
        let config = Config { max_per_address: Some(2), ..Config::default() };
        let admit = |address: &str| limits.admit(address.parse().unwrap(), &config);
        let (first, _second) = (admit("10.0.0.1").unwrap(), admit("::ffff:10.0.0.1").unwrap());
        assert_eq!(admit("10.0.0.1").unwrap_err(), LimitError::Address);
        let _other = admit("10.0.0.2").unwrap();
        drop(first);
        let _third = admit("10.0.0.1").unwrap();
        let _network = [admit("2001:db8:0:1::1").unwrap(), admit("2001:db8:0:1:ffff::2").unwrap()];
        assert!(admit("2001:db8:0:1:2::").is_err() && admit("2001:db8:0:2::1").is_ok());
        assert_eq!(stats.refused_address.get(), 2);
        drop((_second, _third, _other, _network));
        assert!(limits.addresses.0.lock().unwrap().is_empty());
    }

    #[test]
    fn topics_of_a_grant_are_charged_as_those_of_the_stream() {
        let (limits, stats) = limits();
        let topics: Topics = "/a".parse::<Namespace>().unwrap().into();
        let config = Config { max_topic_bytes_per_address: 2 * topics.weight() - 1, ..Config::default() };
        let config = watch::channel(config).1;
        let mut permits = SubscriptionPermits::new(Arc::new(limits), config, Ipv4Addr::LOCALHOST.into(), 0);
        let grant = Grant::default().with_private(topics.clone());
        assert_eq!(permits.acquire(&topics, Some(&grant)).unwrap_err(), LimitError::AddressTopics);
        permits.acquire(&topics, Some(&Grant::default())).unwrap();
        assert_eq!(stats.refused_topics_address.get(), 1);
    }

    #[test]
    fn streams_are_limited_per_namespace() {
        let (limits, stats) = limits();
        let limit = |text: &str| text.parse::<NamespaceLimit>().unwrap();
        let config = Config { namespace_limits: vec![limit("/details=1"), limit("/=2")], ..Config::default() };
        let (limits, config) = (Arc::new(limits), watch::channel(config).1);
        let topics = |topic: &str| Topics::new(vec![topic.parse().unwrap()]).unwrap();
        let admit = |namespace: &str| {
            let mut permits =
                SubscriptionPermits::new(Arc::clone(&limits), config.clone(), Ipv4Addr::LOCALHOST.into(), 0);
            permits.acquire(&topics(namespace), None).map(|()| permits)
        };
        let mut first = admit("/details/26").unwrap();
        first.acquire(&topics("/details/28"), None).unwrap();
        assert_eq!(admit("/details/27").unwrap_err(), LimitError::Namespace("/details".parse().unwrap()));
        for parent_or_wildcard in ["/", "/*", "/*/27", "/*/**"] {
            let error = admit(parent_or_wildcard).unwrap_err();
            assert_eq!(error, LimitError::Namespace("/details".parse().unwrap()), "{parent_or_wildcard}");
        }
        let _raw = admit("/raw").unwrap();
        assert_eq!(admit("/eps").unwrap_err(), LimitError::Namespace(Namespace::root()));
        drop(first);
        let mut second = admit("/details/27").unwrap();
        assert_eq!(stats.refused_namespace.get(), 6);
        second.acquire(&topics("/eps"), None).unwrap();
        let third = admit("/details/29").unwrap_err();
        assert_eq!(third, LimitError::Namespace(Namespace::root()));
        assert!(second.acquire(&topics("/details/27"), None).is_ok(), "a refused stream holds no permit");
        assert_eq!(
            "/a".parse::<NamespaceLimit>().unwrap_err().to_string(),
            "expected NAMESPACE=COUNT, such as /details=1000, found \"/a\""
        );
    }

    #[test]
    fn tracked_addresses_are_bounded() {
        let (limits, stats) = limits();
        let config = Config { rate_per_address: NonZeroU32::new(1), ..Config::default() };
        for number in 0..1_000_000 {
            assert!(limits.admit(Ipv4Addr::from_bits(number).into(), &config).is_ok());
        }
        assert!(limits.rate.lock().unwrap().as_ref().unwrap().limiter.len() <= MAX_ADDRESSES);
        assert!(stats.rate_unknown.get() > 0);
        let (fresh, stats) = self::limits();
        assert!(fresh.admit(Ipv4Addr::LOCALHOST.into(), &config).is_ok());
        assert_eq!(fresh.admit(Ipv4Addr::LOCALHOST.into(), &config).unwrap_err(), LimitError::Rate);
        assert_eq!(stats.refused_rate.get(), 1);
    }

    #[test]
    fn retry_after_is_spread() {
        let seconds: std::collections::HashSet<u64> = (0..1000).map(|_| retry_after()).collect();
        assert!(seconds.iter().all(|seconds| (2..=10).contains(seconds)) && seconds.len() > 5);
    }
}
