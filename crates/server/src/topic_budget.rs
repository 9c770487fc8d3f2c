//! The memory of subscriptions: bounded for each client address, and in all. Topics that no other reader has take memory in
//! the engine for as long as the stream is open, whether anything is sent to them or not, and so does the path of the request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{Client, LimitError};
use crate::{Config, Stats};

/// The bytes of all open subscriptions.
#[derive(Debug, Default)]
pub(crate) struct TopicBudget(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_client: HashMap<Client, usize>,
}

/// The share of one stream, given back when dropped.
#[derive(Debug)]
pub(crate) struct TopicPermit {
    budget: Arc<TopicBudget>,
    client: Client,
    /// A subscription has far fewer than four billion.
    bytes: u32,
}

impl TopicPermit {
    /// A share of nothing yet, for a client at `address`. A client without an address counts in all only.
    pub(crate) fn new(budget: &Arc<TopicBudget>, address: IpAddr) -> Self {
        Self { budget: Arc::clone(budget), client: address.into(), bytes: 0 }
    }

    /// Charges a subscription of `bytes` in the place of the one before. Changes nothing if that is too much.
    pub(crate) fn replace(&mut self, bytes: usize, config: &Config, stats: &Stats) -> Result<(), LimitError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let (new, old) = (bytes as usize, self.bytes as usize);
        let mut used = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = used.by_client.get(&self.client).map_or(0, |used| *used) + new - old;
        let total = used.total + new - old;
        if new > old && of_client > config.max_topic_bytes_per_address && !self.client.is_unspecified() {
            stats.refused_topics_address.add(1);
            return Err(LimitError::AddressTopics);
        }
        if new > old && total > config.max_topic_bytes {
            stats.refused_topics.add(1);
            return Err(LimitError::Topics);
        }
        used.total = total;
        used.by_client.insert(self.client, of_client);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for TopicPermit {
    fn drop(&mut self) {
        let mut used = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes as usize;
        used.total -= bytes;
        if let Some(of_client) = used.by_client.get_mut(&self.client) {
            *of_client -= bytes;
            if *of_client == 0 {
                // Only clients with streams take memory.
                used.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_charged_per_address_and_in_all() {
        let (budget, stats) = (Arc::<TopicBudget>::default(), Stats::default());
        let (max_topic_bytes_per_address, max_topic_bytes) = (2000, 3000);
        let config = Config { max_topic_bytes, max_topic_bytes_per_address, ..Config::default() };
        let acquire = |address: &str| {
            let mut permit = TopicPermit::new(&budget, address.parse().unwrap());
            permit.replace(1000, &config, &stats).map(|()| permit)
        };
        let first = [acquire("10.0.0.1").unwrap(), acquire("10.0.0.1").unwrap()];
        assert_eq!(acquire("10.0.0.1").unwrap_err(), LimitError::AddressTopics);
        let mut second = acquire("10.0.0.2").unwrap();
        second.replace(1000, &config, &stats).expect("its own share is replaced");
        assert_eq!(acquire("10.0.0.2").unwrap_err(), LimitError::Topics);
        drop(first);
        let unknown = [acquire("0.0.0.0").unwrap(), acquire("0.0.0.0").unwrap()];
        assert_eq!(acquire("0.0.0.0").unwrap_err(), LimitError::Topics);
        assert_eq!((stats.refused_topics_address.get(), stats.refused_topics.get()), (1, 2));
        drop((unknown, second));
        let used = budget.0.lock().unwrap();
        assert_eq!((used.total, used.by_client.len()), (0, 0));
    }
}
