//! What the clients do: transport, topics and lifetime, drawn from a seeded generator.

use std::{net::Ipv4Addr, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::catalogue;

use crate::streams::{Coding, Subprotocol, Transport};

/// The kinds of clients, all equally frequent.
const KINDS: [Kind; 7] = [
    Kind::Http1(Transport::EventStream),
    Kind::Http1(Transport::Compressed(Coding::Gzip)),
    Kind::Http1(Transport::Compressed(Coding::Zstd)),
    Kind::Http1(Transport::WebSocket(Subprotocol::Json)),
    Kind::Http1(Transport::WebSocket(Subprotocol::Raw)),
    Kind::TopicChanges,
    Kind::Http2,
];

/// The maximum number of streams that an HTTP/2 client has open.
const MAX_STREAMS: usize = 8;

/// The number of /24 networks that clients connect from.
const SOURCE_NETWORKS: u8 = 4;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One stream on a connection.
    Http1(Transport),
    /// A WebSocket that changes its topics.
    TopicChanges,
    /// A connection with several event streams.
    Http2,
}

/// The behavior of one client.
#[derive(Clone, Debug)]
pub(super) struct Behavior {
    pub(super) kind: Kind,
    /// The address that the client connects from, one of many on the loopback interface.
    pub(super) source: Ipv4Addr,
    /// The client reads nothing after the response headers.
    pub(super) is_stalled: bool,
    /// How long the client stays.
    pub(super) lifetime: Duration,
    /// The number of streams of an HTTP/2 client.
    pub(super) streams: usize,
    /// Chooses topics.
    pub(super) topics: TopicChooser,
}

/// Draws behaviors.
#[derive(Debug)]
pub(super) struct Behaviors {
    rng: ChaCha8Rng,
    mean_lifetime: Duration,
    stalled_percent: u8,
}

/// Draws topics.
#[derive(Clone, Debug)]
pub(super) struct TopicChooser(ChaCha8Rng);

impl Behaviors {
    /// Behaviors of clients that stay for `mean_lifetime` on average, of which `stalled_percent` stall.
    pub(super) fn new(seed: u64, mean_lifetime: Duration, stalled_percent: u8) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), mean_lifetime, stalled_percent }
    }

    /// The behavior of the next client.
    pub(super) fn draw(&mut self) -> Behavior {
        let rng = &mut self.rng;
        let is_stalled = rng.random_range(0..100) < self.stalled_percent;
        Behavior {
            kind: KINDS[rng.random_range(0..KINDS.len())],
            source: Ipv4Addr::new(127, 0, rng.random_range(1..=SOURCE_NETWORKS), rng.random_range(1..=254)),
            is_stalled,
            lifetime: self.mean_lifetime.mul_f64(rng.random_range(0.0..2.0)),
            streams: rng.random_range(1..=MAX_STREAMS),
            topics: TopicChooser(ChaCha8Rng::seed_from_u64(rng.random())),
        }
    }
}

impl TopicChooser {
    /// A request path for a stream.
    pub(super) fn path(&mut self) -> String {
        match self.0.random_range(0..8) {
            0 => "/subscribe".to_owned(),
            1 => "/subscribe/raw".to_owned(),
            2 => "/subscribe/eps".to_owned(),
            3 => "/subscribe/eps?snapshot=1".to_owned(),
            4 => "/subscribe/details/*".to_owned(),
            5 => format!("/subscribe/details/{}", self.id()),
            6 => format!("/subscribe/details/{},{}", self.id(), self.id()),
            _ => format!("/subscribe?topic=/raw&topic=/details/{}", self.id()),
        }
    }

    /// A topic that only few clients read.
    pub(super) fn topic(&mut self) -> String {
        format!("/details/{}", self.id())
    }

    /// How long an HTTP/2 client keeps one of its streams.
    pub(super) fn stream_lifetime(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(self.0.random_range(0.0..2.0))
    }

    /// A chooser that draws other topics.
    pub(super) fn fork(&mut self) -> Self {
        Self(ChaCha8Rng::seed_from_u64(self.0.random()))
    }

    fn id(&mut self) -> &'static str {
        let emoji = catalogue();
        &emoji[self.0.random_range(0..emoji.len())].id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn_and_the_share_of_stalled_clients_is_kept() {
        let mean = Duration::from_secs(10);
        let mut behaviors = Behaviors::new(1, mean, 20);
        let drawn: Vec<Behavior> = (0..5_000).map(|_| behaviors.draw()).collect();
        assert!(KINDS.iter().all(|kind| drawn.iter().any(|behavior| behavior.kind == *kind)));
        let stalled = drawn.iter().filter(|behavior| behavior.is_stalled).count();
        assert!((800..1_200).contains(&stalled), "{stalled}");
        let sum: Duration = drawn.iter().map(|behavior| behavior.lifetime).sum();
        assert!((9.5..10.5).contains(&(sum.as_secs_f64() / 5_000.0)), "{sum:?}");
        assert!(Behaviors::new(1, mean, 0).draw().lifetime < 2 * mean);
    }
}
