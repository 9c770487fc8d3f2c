//! How many connections, and how many new ones, an address or a namespace may have.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::watch;

use super::Config;
use super::status::Stats;
use crate::websocket::Gatekeeper;
use tallycast_fanout::{Namespace, NamespaceError, Topics};

/// Addresses that the rate of new connections is known of. Others are let through and counted: who has so many addresses
/// is not held back by a limit for each, but by that for all.
const MAX_ADDRESSES: usize = 100_000;

/// How often addresses are forgotten that have been away long enough to be as good as new.
const SWEEP: Duration = Duration::from_secs(1);

/// At most so many streams below a namespace. Written `NAMESPACE=COUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceLimit {
    /// Streams count that have a topic in it.
    pub namespace: Namespace,
    /// How many there may be.
    pub streams: usize,
}

/// Why a text is not a [`NamespaceLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceLimitError {
    /// There is no number.
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

/// Why a connection or a stream is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("too many connections from your address; try again in a moment.")]
    Address,
    #[error("too many new connections from your address; try again in a moment.")]
    Rate,
    #[error("too many streams of {0}; try again in a moment.")]
    Namespace(Namespace),
}

/// A client, as limits see it: an address, or for IPv6 the network of 64 bits that one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address => address,
        })
    }
}

/// How many there are of each.
#[derive(Debug)]
struct Counts<K>(Mutex<HashMap<K, usize>>);

/// One of those counted; no longer when it is dropped.
#[derive(Debug)]
struct Counted<K: Hash + Eq> {
    key: K,
    counts: Arc<Counts<K>>,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    fn take(self: &Arc<Self>, key: K, limit: usize) -> Option<Counted<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count < limit {
            *count += 1;
            return Some(Counted { key, counts: Arc::clone(self) });
        }
        if *count == 0 {
            counts.remove(&key);
        }
        None
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                // Only addresses that are connected are known.
                counts.remove(&self.key);
            }
        }
    }
}

/// What is given back when a connection or stream ends. Takes no memory of its own while there is nothing.
#[derive(Debug, Default)]
pub(super) struct Admission(Vec<Box<dyn Any + Send + Sync>>);

impl Admission {
    pub(super) fn add(&mut self, held: impl Any + Send + Sync) {
        self.0.push(Box::new(held));
    }

    /// Takes over all of `other`.
    pub(super) fn join(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// New connections by address; at most [`MAX_ADDRESSES`] are known of.
struct Rate {
    per_second: NonZeroU32,
    limiter: DefaultKeyedRateLimiter<Client>,
    /// When those that are as good as new were last forgotten.
    swept: Instant,
}

/// The places that one stream takes in namespaces that have limits.
pub(super) struct Places {
    limits: Arc<Limits>,
    config: watch::Receiver<Config>,
    taken: Vec<Counted<Namespace>>,
}

impl Places {
    /// None.
    pub(super) fn new(limits: Arc<Limits>, config: watch::Receiver<Config>) -> Self {
        Self { limits, config, taken: Vec::new() }
    }

    /// Takes those that a stream of `topics` needs, and keeps no others; keeps what it had where one is not to be had.
    pub(super) fn take(&mut self, topics: &Topics) -> Result<(), Refusal> {
        let mut missing = Vec::new();
        let mut needed = Vec::new();
        for NamespaceLimit { namespace, streams } in &self.config.borrow().namespace_limits {
            if !topics.iter().any(|topic| namespace.contains(&topic.literal_prefix())) {
                continue;
            }
            needed.push(namespace.clone());
            if self.taken.iter().any(|taken| taken.key == *namespace) {
                continue;
            }
            let Some(counted) = self.limits.namespaces.take(namespace.clone(), *streams) else {
                self.limits.stats.refused_namespace.add(1);
                return Err(Refusal::Namespace(namespace.clone()));
            };
            missing.push(counted);
        }
        self.taken.retain(|taken| needed.contains(&taken.key));
        self.taken.append(&mut missing);
        Ok(())
    }

    /// Whether it holds none.
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

impl std::fmt::Debug for Places {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Places").field(&self.taken).finish()
    }
}

impl Gatekeeper for Places {
    fn admit(&mut self, topics: &Topics) -> Result<(), String> {
        self.take(topics).map_err(|refusal| refusal.to_string())
    }
}

/// The limits of one server.
pub(super) struct Limits {
    addresses: Arc<Counts<Client>>,
    namespaces: Arc<Counts<Namespace>>,
    rate: Mutex<Option<Rate>>,
    stats: Arc<Stats>,
}

impl Limits {
    pub(super) fn new(stats: Arc<Stats>) -> Self {
        let (addresses, namespaces) = (Arc::new(Counts(Mutex::default())), Arc::new(Counts(Mutex::default())));
        Self { addresses, namespaces, rate: Mutex::default(), stats }
    }

    /// Lets a new connection from `address` in, if the limits do.
    pub(super) fn admit(&self, address: IpAddr, config: &Config) -> Result<Admission, Refusal> {
        let client = Client::from(address);
        if !self.is_within_rate(client, config.rate_per_address) {
            self.stats.refused_rate.add(1);
            return Err(Refusal::Rate);
        }
        let Some(limit) = config.max_per_address else { return Ok(Admission::default()) };
        let counted = self.addresses.take(client, limit).ok_or(Refusal::Address);
        if counted.is_err() {
            self.stats.refused_address.add(1);
        }
        let mut admission = Admission::default();
        admission.add(counted?);
        Ok(admission)
    }

    fn is_within_rate(&self, client: Client, per_second: Option<NonZeroU32>) -> bool {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(per_second) = per_second else {
            *rate = None;
            return true;
        };
        // Another limit begins anew.
        drop(rate.take_if(|rate| rate.per_second != per_second));
        let Rate { limiter, swept, .. } = rate.get_or_insert_with(|| Rate {
            per_second,
            limiter: RateLimiter::hashmap(Quota::per_second(per_second)),
            swept: Instant::now(),
        });
        // Each sweep looks at all of them.
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

/// Seconds after which to try again: not the same for all who were refused together.
pub(super) fn retry_after() -> u64 {
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
    fn an_address_has_so_many_connections_and_ipv6_counts_by_network() {
        let (limits, stats) = limits();
        let config = Config { max_per_address: Some(2), ..Config::default() };
        let admit = |address: &str| limits.admit(address.parse().unwrap(), &config);
        let (first, _second) = (admit("10.0.0.1").unwrap(), admit("::ffff:10.0.0.1").unwrap());
        assert_eq!(admit("10.0.0.1").unwrap_err(), Refusal::Address);
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
    fn namespaces_have_so_many_streams() {
        let (limits, stats) = limits();
        let limit = |text: &str| text.parse::<NamespaceLimit>().unwrap();
        let config = Config { namespace_limits: vec![limit("/details=1"), limit("/=2")], ..Config::default() };
        let (limits, config) = (Arc::new(limits), watch::channel(config).1);
        let topics = |namespace: &str| namespace.parse::<Namespace>().unwrap().into();
        let admit = |namespace: &str| {
            let mut places = Places::new(Arc::clone(&limits), config.clone());
            places.take(&topics(namespace)).map(|()| places)
        };
        let mut first = admit("/details/26").unwrap();
        first.take(&topics("/details/28")).unwrap();
        assert_eq!(admit("/details/27").unwrap_err(), Refusal::Namespace("/details".parse().unwrap()));
        let _raw = admit("/raw").unwrap();
        assert_eq!(admit("/eps").unwrap_err(), Refusal::Namespace(Namespace::root()));
        drop(first);
        let mut second = admit("/details/27").unwrap();
        assert_eq!(stats.refused_namespace.get(), 2);
        second.take(&topics("/eps")).unwrap();
        let third = admit("/details/29").unwrap_err();
        assert_eq!(third, Refusal::Namespace(Namespace::root()));
        assert!(second.take(&topics("/details/27")).is_ok(), "what was refused holds nothing");
        assert_eq!(
            "/a".parse::<NamespaceLimit>().unwrap_err().to_string(),
            "expected NAMESPACE=COUNT, such as /details=1000, found \"/a\""
        );
    }

    #[test]
    fn a_million_addresses_are_not_all_kept() {
        let (limits, stats) = limits();
        let config = Config { rate_per_address: NonZeroU32::new(1), ..Config::default() };
        for number in 0..1_000_000 {
            assert!(limits.admit(Ipv4Addr::from_bits(number).into(), &config).is_ok());
        }
        assert!(limits.rate.lock().unwrap().as_ref().unwrap().limiter.len() <= MAX_ADDRESSES);
        assert!(stats.rate_unknown.get() > 0);
        let (fresh, stats) = self::limits();
        assert!(fresh.admit(Ipv4Addr::LOCALHOST.into(), &config).is_ok());
        assert_eq!(fresh.admit(Ipv4Addr::LOCALHOST.into(), &config).unwrap_err(), Refusal::Rate);
        assert_eq!(stats.refused_rate.get(), 1);
    }

    #[test]
    fn not_all_try_again_at_once() {
        let seconds: std::collections::HashSet<u64> = (0..1000).map(|_| retry_after()).collect();
        assert!(seconds.iter().all(|seconds| (2..=10).contains(seconds)) && seconds.len() > 5);
    }
}
