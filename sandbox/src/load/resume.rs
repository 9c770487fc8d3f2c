//! `sandbox load --resume`: clients that come back at once, each many messages behind, while others read live.
//!
//! A route with history keeps every message of the run. Live readers read from the start. When so many messages have been
//! published, all other clients connect at once and ask for everything since the earliest message. So each client, live or
//! not, is due every message of the run once and in order.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    LoadArgs,
    client::{Client, Roles},
    delivery::DeliveryStats,
    publisher::{self, Plan},
    readers::ReaderSetup,
    record,
    subject::{Setup, Stack, Subject},
};
use crate::{process, signals};

/// A client is current when it has everything but the messages of this time.
const CURRENT_WITHIN: Duration = Duration::from_millis(50);

/// The longest wait of a poll.
const POLL: Duration = Duration::from_millis(10);

/// The figures of a run.
#[derive(Debug, Serialize)]
struct Figures {
    /// Clients that come back.
    clients: usize,
    /// Messages that each of them is behind.
    behind: u64,
    live_readers: usize,
    rate: u32,
    payload_bytes: usize,
    /// From the first connection until all had response headers, and until all were current.
    connected_ms: f64,
    current_ms: f64,
    /// Messages that clients that came back received until then, per second.
    deliveries_per_second: f64,
    missing: u64,
    repeated: u64,
    unexpected: u64,
    /// Latencies of live readers before clients came, until all were current, and afterwards.
    live_before: Latencies,
    live_during: Latencies,
    live_after: Latencies,
    server_cpu_seconds: f64,
    peak_resident_bytes: u64,
    server_args: Vec<String>,
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Latencies {
    p50: f64,
    p99: f64,
    max: f64,
}

impl From<&Histogram<u64>> for Latencies {
    fn from(latency: &Histogram<u64>) -> Self {
        let milliseconds = |microseconds: u64| microseconds as f64 / 1000.0;
        Self {
            p50: milliseconds(latency.value_at_quantile(0.5)),
            p99: milliseconds(latency.value_at_quantile(0.99)),
            max: milliseconds(latency.max()),
        }
    }
}

/// What both groups of readers know of each other.
#[derive(Debug, Default)]
struct Shared {
    /// Messages that live readers have, each.
    live: AtomicU64,
    /// All clients that came back are current.
    current: AtomicBool,
    /// The number of all messages, once it is known.
    total: AtomicU64,
}

/// What the clients that came back have seen.
struct Resumed {
    connected: Duration,
    current: Duration,
    deliveries: u64,
    received: DeliveryStats,
}

/// Measures, and prints the figures.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run(setup: &Setup<'_>, behind: u64) -> Result<()> {
    let args = setup.args;
    let clients = args.connections;
    let total = u64::from(args.rate) * u64::from(args.seconds);
    ensure!(total > behind, "--rate times --seconds must exceed --resume, which is {behind}");
    let mut server_args = vec!["--route".to_owned(), format!("{}=/raw,history={total}", args.channel)];
    server_args.extend(args.server_args.iter().cloned());
    let started_with = LoadArgs { server_args: server_args.clone(), ..args.clone() };
    let setup = Setup { args: &started_with, ..setup.clone() };
    let subject = Subject::Tallycast(Stack::PLAIN);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?));
    let mut server = subject.start(&setup, address)?;
    let epoch = Instant::now();
    let readers = |readers: usize, parameter: Option<&str>| -> Result<ReaderSetup> {
        let plain = subject.reader_setup(args, address, Arc::clone(&setup.workload), None, epoch)?;
        let roles = Roles { readers, ..Roles::default() };
        Ok(ReaderSetup { roles, range: 0..readers, parameter: parameter.map(str::to_owned), ..plain })
    };
    let mut live = Client::new(readers(args.live_readers, None)?)?;
    live.connect(|_| server.ensure_running())?;

    let shared = Arc::<Shared>::default();
    let plan = Plan {
        redis: setup.redis.to_owned(),
        workload: Arc::clone(&setup.workload),
        schedule: args.schedule(args.rate),
        payload_bytes: args.payload_bytes,
        keep_times: false,
    };
    let mut publisher = Some(publisher::start(plan, epoch)?);
    let mut phases = Vec::new();
    let mut resuming = None;
    let mut drain_until = None;
    let live_readers = args.live_readers as u64;
    loop {
        live.poll_once(POLL)?;
        server.ensure_running()?;
        let delivered = live.received().readers.delivered / live_readers;
        shared.live.store(delivered, Ordering::Release);
        if resuming.is_none() && delivered >= behind {
            phases.push((live.received().readers.latency.clone(), server.cpu_time()?));
            let (setup, shared) = (readers(clients, Some("lastEventID=earliest"))?, Arc::clone(&shared));
            let rate = args.rate;
            resuming = Some(thread::spawn(move || resume(setup, clients as u64, rate, &shared)));
        }
        if phases.len() == 1 && shared.current.load(Ordering::Acquire) {
            phases.push((live.received().readers.latency.clone(), server.cpu_time()?));
        }
        if let Some(finished) = publisher.take_if(|publisher| publisher.is_finished()) {
            let published = finished.join().map_err(|_| anyhow!("the publisher panicked"))??;
            shared.total.store(published.messages, Ordering::Release);
            drain_until = Some(Instant::now() + Duration::from_secs(args.drain_seconds.into()));
        }
        let is_over = drain_until.is_some_and(|limit| Instant::now() >= limit);
        if is_over || resuming.as_ref().is_some_and(thread::JoinHandle::is_finished) {
            break;
        }
    }
    let resuming = resuming.context("too few messages were published before the end")?;
    // It ends by itself: nothing is published any more, and it has a time limit.
    let resumed = resuming.join().map_err(|_| anyhow!("the readers panicked"))??;
    let [(before, cpu_before), (during, cpu_during)] = &phases[..] else {
        return Err(anyhow!("the clients did not become current before the end"));
    };
    let difference = |later: &Histogram<u64>, earlier: &Histogram<u64>| -> Result<Latencies> {
        let mut latency = later.clone();
        latency.subtract(earlier)?;
        Ok(Latencies::from(&latency))
    };
    let received = &live.received().readers;
    let figures = Figures {
        clients,
        behind,
        live_readers: args.live_readers,
        rate: args.rate,
        payload_bytes: args.payload_bytes,
        connected_ms: resumed.connected.as_secs_f64() * 1000.0,
        current_ms: resumed.current.as_secs_f64() * 1000.0,
        deliveries_per_second: resumed.deliveries as f64 / resumed.current.as_secs_f64(),
        missing: resumed.received.missing + received.missing,
        repeated: resumed.received.duplicates + received.duplicates,
        unexpected: resumed.received.unexpected + received.unexpected,
        live_before: Latencies::from(before),
        live_during: difference(during, before)?,
        live_after: difference(&received.latency, during)?,
        server_cpu_seconds: (*cpu_during - *cpu_before).total().as_secs_f64(),
        peak_resident_bytes: server.memory()?.peak,
        server_args,
    };
    let json = serde_json::to_value(&figures)?;
    if let Some(file) = &args.record {
        record::append(file, &json)?;
    }
    let text = if args.json { format!("{}\n", serde_json::to_string_pretty(&json)?) } else { table(&figures) };
    io::stdout().write_all(text.as_bytes()).context("cannot print the figures")
}

/// Connects all clients that come back, and reads until they have every message.
fn resume(setup: ReaderSetup, clients: u64, rate: u32, shared: &Shared) -> Result<Resumed> {
    let slack = (f64::from(rate) * CURRENT_WITHIN.as_secs_f64()) as u64;
    let started = Instant::now();
    let mut client = Client::new(setup)?;
    let connected = client.connect(|_| Ok(()))?;
    let mut current = None;
    let mut complete_until = None;
    loop {
        signals::check()?;
        client.poll_once(POLL)?;
        if let (lost, Some(error)) = client.lost() {
            return Err(anyhow!("{lost} connections were lost: {error}"));
        }
        let delivered = client.received().readers.delivered;
        if current.is_none() && delivered >= clients * shared.live.load(Ordering::Acquire).saturating_sub(slack) {
            current = Some((started.elapsed(), delivered));
            shared.current.store(true, Ordering::Release);
        }
        let total = shared.total.load(Ordering::Acquire);
        if total > 0 {
            let limit = *complete_until.get_or_insert_with(|| Instant::now() + Duration::from_secs(60));
            if delivered >= clients * total || Instant::now() >= limit {
                break;
            }
        }
    }
    let (current, deliveries) = current.context("the clients never became current")?;
    let mut received = client.received().readers.clone();
    // What never came at the end is missing, too.
    let due = clients * shared.total.load(Ordering::Acquire);
    received.missing = received.missing.max(due.saturating_sub(received.delivered));
    Ok(Resumed { connected, current, deliveries, received })
}

fn table(figures: &Figures) -> String {
    let Figures { clients, behind, live_readers, rate, payload_bytes, .. } = figures;
    let latencies = |name: &str, Latencies { p50, p99, max }: &Latencies| {
        format!("  live readers {name:<22} p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms\n")
    };
    let mut text = format!(
        "{clients} clients come back at once, each {behind} messages of {payload_bytes} bytes behind; {live_readers} live readers, \
         {rate} messages/s\n"
    );
    text += &format!("  all connected after          {:.2} s\n", figures.connected_ms / 1000.0);
    text += &format!("  all current after            {:.2} s\n", figures.current_ms / 1000.0);
    text += &format!("  deliveries until then        {:.2} M/s\n", figures.deliveries_per_second / 1e6);
    text +=
        &format!("  missing, repeated, other     {}, {}, {}\n", figures.missing, figures.repeated, figures.unexpected);
    text += &latencies("before", &figures.live_before);
    text += &latencies("until all are current", &figures.live_during);
    text += &latencies("afterwards", &figures.live_after);
    text += &format!("  server CPU until then        {:.2} s\n", figures.server_cpu_seconds);
    text +=
        &format!("  server peak memory           {:.0} MiB\n", figures.peak_resident_bytes as f64 / 1024.0 / 1024.0);
    text
}
