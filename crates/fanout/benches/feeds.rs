//! What a message costs when it reaches one feed of few, and one feed of many: `cargo bench --bench feeds`.
//!
//! The cost is to depend on the feeds that a message reaches, not on how many there are. Prints the time for each message,
//! with 10 to 100,000 feeds, in turn, and the ratio of the last to the first; best of several rounds, because other programs run
//! too.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and ends with a panic")]

#[path = "support/delivery.rs"]
mod delivery;
mod support;

use std::time::Duration;

use tallycast_fanout::{Message, Namespace};

const FEEDS: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const ROUNDS: usize = 5;

/// The time of a message that reaches one feed of `feeds`.
async fn measure(feeds: usize) -> Duration {
    let reader = |path: String| (path.parse::<Namespace>().unwrap().into(), None);
    let idle = (1..feeds).map(|number| reader(format!("/details/{}/{number}", number % 1000)));
    let read = "/details/0/read";
    delivery::measure(idle, reader(read.to_owned()), Message::text(read.parse().unwrap(), "x")).await
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut best = [Duration::MAX; FEEDS.len()];
    for _ in 0..ROUNDS {
        for (place, feeds) in FEEDS.into_iter().enumerate() {
            best[place] = best[place].min(runtime.block_on(measure(feeds)));
        }
    }
    for (feeds, time) in FEEDS.into_iter().zip(best) {
        println!("{feeds:>7} feeds: {:.2} us a message", time.as_secs_f64() * 1e6);
    }
    println!("ratio: {:.2}", best[FEEDS.len() - 1].as_secs_f64() / best[0].as_secs_f64());
}
