//! What the messages of each source cost: a measurement, which `script/measure ingest` runs with a release build. It prints a line of JSON
//! for each source.

#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::time::Instant;

use serde_json::json;

use crate::source_contract::{Broker, start};
use crate::support::{EventSource, LIMIT, Tallycast};

/// Messages of a run, and what they have.
const MESSAGES: usize = 200_000;
const BYTES: usize = 100;
/// Messages that are published at once.
const BATCH: usize = 500;

/// Publishes messages as fast as the broker takes them, and prints what they cost.
pub(crate) fn measure<B: Broker>(name: &str, broker: &B) {
    let tallycast = start(broker, &[]);
    // One reader, so that they are sent.
    let stream = EventSource::open(&tallycast, "/subscribe/c?max-rate=1/s");
    let payload = vec![b'x'; BYTES];
    let batch: Vec<&[u8]> = vec![&payload; BATCH];
    let (cpu, started) = (cpu_seconds(&tallycast), Instant::now());
    for _ in 0..MESSAGES / BATCH {
        broker.publish(&batch);
    }
    let done = || tallycast.counter("/decode/decoded") + tallycast.counter("/source/overflowed");
    while done() < MESSAGES as u64 && started.elapsed() < LIMIT {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(&tallycast) - cpu);
    let decoded = tallycast.counter("/decode/decoded");
    let record = json!({
        "source": name,
        "messages": MESSAGES,
        "bytes": BYTES,
        "decoded": decoded,
        "overflowed": tallycast.counter("/source/overflowed"),
        "per_second": (decoded as f64 / elapsed).round(),
        "cpu_per_message_us": (cpu / decoded as f64 * 1e8).round() / 100.0,
    });
    println!("{record}");
    drop(stream);
}

/// The processor time of the process so far.
fn cpu_seconds(tallycast: &Tallycast) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", tallycast.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
