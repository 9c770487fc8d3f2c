//! Prices of invented companies that move at random.

use rand::distr::weighted::WeightedIndex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Symbol, name and first price in cents of each company, the most traded first.
const COMPANIES: [(&str, &str, i64); SYMBOLS] = [
    ("ACME", "Acme Anvils", 14_250),
    ("BOLT", "Bolt & Nut Works", 3_820),
    ("CLOUD", "Cloud Nine Mattresses", 21_475),
    ("DRIFT", "Driftwood Furniture", 5_660),
    ("EMBER", "Ember Stoves", 9_105),
    ("FJORD", "Fjord Ferries", 7_340),
    ("GLOBE", "Globe Atlases", 4_215),
    ("HONEY", "Honeycomb Software", 31_890),
    ("IRIS", "Iris Optics", 12_640),
    ("JADE", "Jade Teahouses", 2_795),
    ("KELP", "Kelp Forest Foods", 1_880),
    ("LOTUS", "Lotus Bicycles", 8_450),
    ("MAPLE", "Maple Street Bank", 6_125),
    ("NOVA", "Nova Lamps", 10_930),
    ("ORBIT", "Orbit Elevators", 17_310),
    ("PLUM", "Plum Line Builders", 3_365),
    ("QUARTZ", "Quartz Watches", 25_500),
    ("RIVER", "River Barges", 4_940),
    ("SLATE", "Slate Roofing", 1_460),
    ("TULIP", "Tulip Nurseries", 890),
];

/// The number of companies.
pub const SYMBOLS: usize = 20;

/// How often the first company is traded for each trade of one that is rank times as rare, squared.
const TOP_WEIGHT: u64 = 1_000_000;

/// The largest step of a price: one part in this many.
const MAX_STEP: i64 = 500;

/// By how many cents a price of twice or none of the first one moves back towards it with each tick.
const PULL: i64 = 16;

/// The lowest price in cents.
const MIN_CENTS: i64 = 100;

/// A new price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// The symbol of the company.
    pub symbol: &'static str,
    /// A JSON object with the `name` of the company, the `price`, the price at the start, `open`, and `tick`, which counts the prices of
    /// the company from 1.
    pub json: String,
}

/// An endless iterator of ticks; the same seed gives the same ticks. It starts with one for each company; then the company of rank *n*
/// is traded *1/n²* as often as the first.
#[derive(Debug, Clone)]
pub struct Prices {
    rng: ChaCha8Rng,
    ranks: WeightedIndex<u64>,
    /// Price in cents and number of ticks by rank.
    prices: [(i64, u64); SYMBOLS],
    started: usize,
}

/// The members of a tick.
#[derive(Serialize)]
struct Quote {
    name: &'static str,
    price: f64,
    open: f64,
    tick: u64,
}

impl Prices {
    /// The prices at the first tick of `seed`.
    pub fn new(seed: u64) -> Self {
        let weights = (1..=SYMBOLS as u64).map(|rank| TOP_WEIGHT / (rank * rank));
        #[expect(clippy::expect_used, reason = "there are companies, no weight is 0, and their sum is small")]
        let ranks = WeightedIndex::new(weights).expect("every rank has a weight");
        let prices = COMPANIES.map(|(_, _, cents)| (cents, 0));
        Self { rng: ChaCha8Rng::seed_from_u64(seed), ranks, prices, started: 0 }
    }
}

impl Iterator for Prices {
    type Item = Tick;

    /// Never `None`.
    fn next(&mut self) -> Option<Tick> {
        let is_first = self.started < SYMBOLS;
        let rank = if is_first { self.started } else { self.rng.sample(&self.ranks) };
        let (symbol, name, open) = COMPANIES[rank];
        let (cents, tick) = &mut self.prices[rank];
        if is_first {
            self.started += 1;
        } else {
            let step = (*cents / MAX_STEP).max(1);
            let pull = (open - *cents) * PULL / open;
            *cents = (*cents + self.rng.random_range(-step..=step) + pull).max(MIN_CENTS);
        }
        *tick += 1;
        let euros = |cents: i64| cents as f64 / 100.0;
        let quote = Quote { name, price: euros(*cents), open: euros(open), tick: *tick };
        #[expect(clippy::expect_used, reason = "texts and finite numbers always serialize")]
        let json = serde_json::to_string(&quote).expect("a quote is valid JSON");
        Some(Tick { symbol, json })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    fn ticks(seed: u64, count: usize) -> Vec<Tick> {
        Prices::new(seed).take(count).collect()
    }

    #[test]
    fn seed_determines_the_ticks() {
        assert_eq!(ticks(7, 500), ticks(7, 500));
        assert_ne!(ticks(7, 500), ticks(8, 500));
    }

    #[test]
    fn every_company_comes_first_and_the_first_most_often() {
        let ticks = ticks(1, 20_000);
        let first: HashSet<&str> = ticks[..SYMBOLS].iter().map(|tick| tick.symbol).collect();
        assert_eq!(first.len(), SYMBOLS);
        let of = |symbol| ticks.iter().filter(|tick| tick.symbol == symbol).count();
        assert!(
            of("ACME") > 10_000 && of("ACME") > 2 * of("BOLT") && of("TULIP") > 1,
            "{} {}",
            of("ACME"),
            of("TULIP")
        );
    }

    #[test]
    fn prices_move_in_small_steps_and_ticks_are_counted() {
        let mut last: HashMap<&str, (f64, u64)> = HashMap::new();
        for Tick { symbol, json } in Prices::new(3).take(50_000) {
            let quote: Value = serde_json::from_str(&json).unwrap();
            let (price, tick) = (quote["price"].as_f64().unwrap(), quote["tick"].as_u64().unwrap());
            assert!(price >= 1.0 && !quote["name"].as_str().unwrap().is_empty());
            let (before, count) = last.insert(symbol, (price, tick)).unwrap_or((quote["open"].as_f64().unwrap(), 0));
            assert_eq!(tick, count + 1);
            assert!((price - before).abs() <= before / MAX_STEP as f64 + 0.05, "{symbol}: {before} to {price}");
            assert!((price / quote["open"].as_f64().unwrap() - 1.0).abs() < 0.3, "{symbol}: {price}");
        }
    }
}
