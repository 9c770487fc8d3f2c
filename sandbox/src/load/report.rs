//! Output of the figures as a table or as JSON, both from one list of metrics.

use std::fmt::Write;

use indicatif::HumanCount;
use serde_json::{Map, Value, json};

use super::{
    LoadArgs,
    measurement::{LoadMeasurement, Measurement},
    sessions::SessionChanges,
    topic_changes::Changed,
};

/// Above this many cores the reading thread may have limited the result.
const BUSY_CLIENT_CORES: f64 = 0.9;

/// Below this share of the requested rate the publisher has lagged.
const MIN_RATE_SHARE: f64 = 0.98;

/// One row of the table and one member in JSON.
struct Metric {
    title: &'static str,
    /// The JSON key, which ends with the unit.
    key: &'static str,
    unit: Unit,
    /// Whether the ratio to the baseline is meaningful.
    has_ratio: bool,
    /// `None` if it was not measured.
    value: fn(&Measurement) -> Option<f64>,
}

/// The unit of a figure, which determines its format.
#[derive(Clone, Copy)]
enum Unit {
    Microseconds,
    Seconds,
    Bytes,
    Count,
    Percent,
    /// Small numbers with decimals.
    Decimal,
}

fn load(figures: &Measurement, value: impl Fn(&LoadMeasurement) -> f64) -> Option<f64> {
    figures.load.as_ref().map(value).filter(|value| value.is_finite())
}

#[rustfmt::skip]
const METRICS: &[Metric] = &[
    Metric { title: "connect time", key: "connect_us", unit: Unit::Microseconds, has_ratio: true, value: |f| Some(f.idle.connect_time.as_secs_f64() * 1e6) },
    Metric { title: "connections per second", key: "connects_per_second", unit: Unit::Count, has_ratio: true, value: |f| Some(f.idle.connect_rate) },
    Metric { title: "server CPU per connection (us)", key: "cpu_per_connect_us", unit: Unit::Decimal, has_ratio: true, value: |f| Some(f.idle.connect_cpu_us) },
    Metric { title: "user memory per idle connection", key: "idle_user_bytes", unit: Unit::Bytes, has_ratio: true, value: |f| Some(f.idle.user_bytes) },
    Metric { title: "resident memory per idle connection", key: "idle_resident_bytes", unit: Unit::Bytes, has_ratio: false, value: |f| Some(f.idle.resident_bytes) },
    Metric { title: "kernel memory per idle connection, both ends", key: "idle_kernel_bytes", unit: Unit::Bytes, has_ratio: false, value: |f| Some(f.idle.kernel_bytes) },
    Metric { title: "  TCP buffers", key: "idle_tcp_buffer_bytes", unit: Unit::Bytes, has_ratio: false, value: |f| Some(f.idle.tcp_buffer_bytes) },
    Metric { title: "peak resident memory", key: "peak_resident_bytes", unit: Unit::Bytes, has_ratio: true, value: |f| Some(f.peak_memory as f64) },
    Metric { title: "connections lost", key: "connections_lost", unit: Unit::Count, has_ratio: false, value: |f| Some(f.lost as f64) },
    Metric { title: "published per second", key: "published_per_second", unit: Unit::Count, has_ratio: false, value: |f| load(f, LoadMeasurement::publish_rate) },
    Metric { title: "deliveries per second", key: "deliveries_per_second", unit: Unit::Count, has_ratio: true, value: |f| load(f, LoadMeasurement::delivery_rate) },
    Metric { title: "delivered", key: "delivered_percent", unit: Unit::Percent, has_ratio: false, value: |f| load(f, |l| l.delivered_fraction() * 100.0) },
    Metric { title: "missing (sequence gaps)", key: "missing_count", unit: Unit::Count, has_ratio: false, value: |f| load(f, |l| if l.conflated.is_some() { f64::NAN } else { l.received.readers.missing as f64 }) },
    Metric { title: "left out for newer ones", key: "conflated_count", unit: Unit::Count, has_ratio: false, value: |f| load(f, |l| if l.conflated.is_some() { l.received.readers.missing as f64 } else { f64::NAN }) },
    Metric { title: "batches per second and reader", key: "batches_per_second", unit: Unit::Decimal, has_ratio: false, value: |f| load(f, |l| if l.conflated.is_some() { l.batch_rate() } else { f64::NAN }) },
    Metric { title: "duplicates", key: "duplicate_count", unit: Unit::Count, has_ratio: false, value: |f| load(f, |l| l.received.readers.duplicates as f64) },
    Metric { title: "out of order", key: "out_of_order_count", unit: Unit::Count, has_ratio: false, value: |f| load(f, |l| l.received.readers.out_of_order as f64) },
    Metric { title: "unexpected events", key: "unexpected_count", unit: Unit::Count, has_ratio: false, value: |f| load(f, |l| l.received.readers.unexpected as f64) },
    Metric { title: "latency p50", key: "latency_p50_us", unit: Unit::Microseconds, has_ratio: true, value: |f| load(f, |l| l.latency_us(0.5)) },
    Metric { title: "latency p99", key: "latency_p99_us", unit: Unit::Microseconds, has_ratio: true, value: |f| load(f, |l| l.latency_us(0.99)) },
    Metric { title: "latency max", key: "latency_max_us", unit: Unit::Microseconds, has_ratio: true, value: |f| load(f, |l| l.received.readers.latency.max() as f64) },
    Metric { title: "server CPU", key: "server_cpu_seconds", unit: Unit::Seconds, has_ratio: true, value: |f| load(f, |l| l.server_cpu.total().as_secs_f64()) },
    Metric { title: "server cores used", key: "server_cores", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, |l| l.cores(l.server_cpu)) },
    Metric { title: "server CPU per delivery (us)", key: "cpu_per_delivery_us", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, |l| l.us_per_delivery(l.server_cpu.total())) },
    Metric { title: "  user", key: "cpu_per_delivery_user_us", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, |l| l.us_per_delivery(l.server_cpu.user)) },
    Metric { title: "  system", key: "cpu_per_delivery_system_us", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, |l| l.us_per_delivery(l.server_cpu.system)) },
    Metric { title: "bytes on the wire per delivery", key: "wire_bytes_per_delivery", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, LoadMeasurement::bytes_per_delivery) },
    Metric { title: "deliveries per read(2)", key: "deliveries_per_read", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, LoadMeasurement::deliveries_per_read) },
    Metric { title: "deliveries per TCP segment (a write)", key: "deliveries_per_segment", unit: Unit::Decimal, has_ratio: true, value: |f| load(f, LoadMeasurement::deliveries_per_segment) },
    Metric { title: "peak kernel memory of TCP buffers", key: "peak_tcp_buffer_bytes", unit: Unit::Bytes, has_ratio: true, value: |f| load(f, |l| l.peak_tcp_buffers as f64) },
    Metric { title: "client cores used", key: "client_cores", unit: Unit::Decimal, has_ratio: false, value: |f| load(f, |l| l.cores(l.client_cpu)) },
    Metric { title: "topic changes answered per second", key: "changes_per_second", unit: Unit::Count, has_ratio: false, value: |f| f.changed.as_ref().map(Changed::answers_per_second) },
    Metric { title: "  time to answer p50", key: "change_p50_us", unit: Unit::Microseconds, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.latency.value_at_quantile(0.5) as f64) },
    Metric { title: "  time to answer p99", key: "change_p99_us", unit: Unit::Microseconds, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.latency.value_at_quantile(0.99) as f64) },
    Metric { title: "  time to answer max", key: "change_max_us", unit: Unit::Microseconds, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.latency.max() as f64) },
    Metric { title: "  server CPU per change (us)", key: "cpu_per_change_us", unit: Unit::Decimal, has_ratio: false, value: |f| f.changed.as_ref().and_then(|c| c.cpu).map(|cpu| cpu.as_secs_f64() * 1e6) },
    Metric { title: "  answered", key: "changes_answered", unit: Unit::Count, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.answered as f64) },
    Metric { title: "  refused", key: "changes_refused", unit: Unit::Count, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.refused as f64) },
    Metric { title: "  postponed, since one was not answered", key: "changes_postponed", unit: Unit::Count, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.postponed as f64) },
    Metric { title: "  messages lost around changes", key: "changes_lost_count", unit: Unit::Count, has_ratio: false, value: |f| f.changed.as_ref().map(|c| c.lost as f64) },
    Metric { title: "changes of sessions acknowledged per second", key: "session_changes_per_second", unit: Unit::Count, has_ratio: false, value: |f| f.session_changes.as_ref().and_then(SessionChanges::rate) },
    Metric { title: "  time to acknowledgement p50", key: "session_change_p50_us", unit: Unit::Microseconds, has_ratio: false, value: |f| f.session_changes.as_ref().map(|c| c.latency.value_at_quantile(0.5) as f64) },
    Metric { title: "  time to acknowledgement p99", key: "session_change_p99_us", unit: Unit::Microseconds, has_ratio: false, value: |f| f.session_changes.as_ref().map(|c| c.latency.value_at_quantile(0.99) as f64) },
    Metric { title: "  time to acknowledgement max", key: "session_change_max_us", unit: Unit::Microseconds, has_ratio: false, value: |f| f.session_changes.as_ref().map(|c| c.latency.max() as f64) },
    Metric { title: "  server CPU per change (us)", key: "cpu_per_session_change_us", unit: Unit::Decimal, has_ratio: false, value: |f| f.session_changes.as_ref().and_then(|c| c.cpu).map(|cpu| cpu.as_secs_f64() * 1e6) },
    Metric { title: "  acknowledged", key: "session_changes_acknowledged", unit: Unit::Count, has_ratio: false, value: |f| f.session_changes.as_ref().map(|c| c.acknowledged as f64) },
    Metric { title: "  failed", key: "session_changes_failed", unit: Unit::Count, has_ratio: false, value: |f| f.session_changes.as_ref().map(|c| c.failed as f64) },
    Metric { title: "  never acknowledged", key: "session_changes_unanswered", unit: Unit::Count, has_ratio: false, value: |f| f.session_changes.as_ref().map(|c| c.unanswered as f64) },
    Metric { title: "reconnections", key: "reconnections", unit: Unit::Count, has_ratio: false, value: |f| f.churned.as_ref().map(|c| c.returned as f64) },
    Metric { title: "  time to response headers p50", key: "reconnect_p50_us", unit: Unit::Microseconds, has_ratio: true, value: |f| f.churned.as_ref().map(|c| c.latency.value_at_quantile(0.5) as f64) },
    Metric { title: "  time to response headers p99", key: "reconnect_p99_us", unit: Unit::Microseconds, has_ratio: true, value: |f| f.churned.as_ref().map(|c| c.latency.value_at_quantile(0.99) as f64) },
    Metric { title: "  deliveries", key: "churning_delivered", unit: Unit::Count, has_ratio: false, value: |f| f.churned.as_ref().map(|c| c.received.delivered as f64) },
    Metric { title: "  missing (sequence gaps)", key: "churning_missing", unit: Unit::Count, has_ratio: false, value: |f| f.churned.as_ref().map(|c| c.received.missing as f64) },
    Metric { title: "  duplicates, out of order, unexpected", key: "churning_wrong_count", unit: Unit::Count, has_ratio: false, value: |f| f.churned.as_ref().map(|c| (c.received.duplicates + c.received.out_of_order + c.received.unexpected) as f64) },
    Metric { title: "slow readers", key: "slow_readers", unit: Unit::Count, has_ratio: false, value: |f| f.slow.as_ref().map(|s| s.count as f64) },
    Metric { title: "  closed by the server", key: "slow_readers_closed", unit: Unit::Count, has_ratio: false, value: |f| f.slow.as_ref().map(|s| s.closed as f64) },
    Metric { title: "  messages in socket buffers", key: "slow_readers_delivered", unit: Unit::Count, has_ratio: false, value: |f| f.slow.as_ref().map(|s| s.received.delivered as f64) },
    Metric { title: "  missing (sequence gaps)", key: "slow_readers_missing", unit: Unit::Count, has_ratio: false, value: |f| f.slow.as_ref().map(|s| s.received.missing as f64) },
];

/// An aligned table, followed by notes.
pub(super) fn table(args: &LoadArgs, figures: &[Measurement]) -> String {
    let mut lines = vec![heading(figures)];
    for metric in METRICS {
        let values: Vec<_> = figures.iter().map(metric.value).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let mut line = vec![metric.title.to_owned()];
        line.extend(values.iter().map(|value| value.map_or("-".to_owned(), |value| metric.unit.format(value))));
        for comparison in comparisons(figures.len()) {
            line.push(ratio(metric, &values, comparison).map_or(String::new(), format_ratio));
        }
        lines.push(line);
    }
    let mut text = format!("{}\n\n", title(args));
    text.push_str(&align(&lines));
    for note in figures.iter().flat_map(|figures| notes(args, figures)) {
        text.push_str("\nnote: ");
        text.push_str(&note);
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The figures as a JSON object.
pub(super) fn json(args: &LoadArgs, figures: &[Measurement]) -> Value {
    let mut subjects = Map::new();
    for figures in figures {
        let members =
            METRICS.iter().filter_map(|metric| Some((metric.key.to_owned(), number((metric.value)(figures)?))));
        subjects.insert(figures.subject.name().replace(' ', "_"), Value::Object(members.collect()));
    }
    let key = |place: usize| figures[place].subject.name().replace(' ', "_");
    let ratios: Map<String, Value> = comparisons(figures.len())
        .iter()
        .map(|comparison @ (subject, baseline)| {
            let members = METRICS.iter().filter_map(|metric| {
                let values: Vec<_> = figures.iter().map(metric.value).collect();
                Some((metric.key.to_owned(), number(ratio(metric, &values, comparison)?)))
            });
            (format!("{}:{}", key(*subject), key(*baseline)), Value::Object(members.collect()))
        })
        .collect();
    json!({
        "workload": args.workload,
        "connections": args.connections,
        "discarding": args.discarding,
        "slow_readers": args.slow_readers,
        "rate": if args.idle { None } else { Some(args.rate) },
        "seconds": args.seconds,
        "payload_bytes": args.payload_bytes,
        "path": args.target(),
        "watch_lists": args.watch_lists,
        "of": args.watch_lists.map(|_| args.of),
        "churn": args.churn,
        "max_rate": args.max_rate,
        "topic_changes": args.topic_changes,
        "sessions": args.sessions,
        "session_changes": args.session_changes,
        "tokens": args.tokens,
        "server_args": args.server_args,
        "subjects": subjects,
        "ratios": ratios,
        "notes": figures.iter().flat_map(|figures| notes(args, figures)).collect::<Vec<_>>(),
    })
}

/// A figure with as many digits as mean something.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 || value.abs() >= 1e5 {
        // Larger figures are counts, bytes and microseconds.
        return Value::from(value.round() as i64);
    }
    Value::from((value * 1e4).round() / 1e4)
}

fn title(args: &LoadArgs) -> String {
    let mut connections = HumanCount((args.connections + args.discarding) as u64).to_string();
    connections.push_str(if args.idle { " idle connections" } else { " connections" });
    if let Some(streams) = args.http2 {
        let _ = write!(connections, " (HTTP/2: streams, {streams} per connection)");
    }
    let target = args.target();
    let sessions = args.sessions.map_or(String::new(), |sessions| {
        let changes = args
            .session_changes
            .map_or(String::new(), |rate| format!(" whose topics change {} times per second", HumanCount(rate.into())));
        format!(", beside {} sessions{changes}", HumanCount(sessions as u64))
    });
    if args.idle {
        return format!("{connections} to {target}{sessions} for {} s", args.seconds);
    }
    let churn =
        if args.churn > 0 { format!(" and {} that reconnect once a second", args.churn) } else { String::new() };
    format!(
        "{connections}{churn} to {target} x {} messages/s of {} bytes for {} s{sessions}",
        HumanCount(args.rate.into()),
        args.payload_bytes,
        args.seconds
    )
}

/// The subjects to compare, each with a baseline: the second with the first, and the third with both.
fn comparisons(subjects: usize) -> &'static [(usize, usize)] {
    match subjects {
        0 | 1 => &[],
        2 => &[(1, 0)],
        _ => &[(1, 0), (2, 0), (2, 1)],
    }
}

/// The names of the subjects and ratios. With several ratios the subjects are numbered.
fn heading(figures: &[Measurement]) -> Vec<String> {
    let comparisons = comparisons(figures.len());
    let mut heading = vec![String::new()];
    heading.extend(figures.iter().enumerate().map(|(place, figures)| {
        let name = figures.subject.name();
        if comparisons.len() > 1 { format!("{}: {name}", place + 1) } else { name }
    }));
    heading.extend(comparisons.iter().map(|(subject, baseline)| {
        if comparisons.len() > 1 { format!("{}/{}", subject + 1, baseline + 1) } else { "ratio".to_owned() }
    }));
    heading
}

/// The value of a subject divided by that of its baseline.
fn ratio(metric: &Metric, values: &[Option<f64>], (subject, baseline): &(usize, usize)) -> Option<f64> {
    match (values.get(*baseline)?, values.get(*subject)?) {
        (Some(baseline), Some(value)) if metric.has_ratio && *baseline > 0.0 => Some(value / baseline),
        _ => None,
    }
}

/// Two decimals, or four for small ratios.
fn format_ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

/// Notes about conditions that limit the validity of the figures.
fn notes(args: &LoadArgs, figures: &Measurement) -> Vec<String> {
    let name = figures.subject.name();
    let mut notes = Vec::new();
    if let Some(reason) = &figures.first_error {
        notes.push(format!("{name}: connections were lost; the first error was: {reason}"));
    }
    if let (Some(changes), Some(rate)) = (&figures.session_changes, args.session_changes) {
        if changes.pushed_per_second() < f64::from(rate) * MIN_RATE_SHARE {
            notes.push(format!("{name}: the backend did not reach the requested rate of changes"));
        }
        if let Some(reason) = &changes.first_failure {
            notes.push(format!("{name}: changes of sessions failed; the first error was: {reason}"));
        }
        if changes.unanswered > 0 {
            notes.push(format!(
                "{name}: some changes of sessions were not acknowledged in time; latencies include acknowledged changes only"
            ));
        }
    }
    if let Some(load) = &figures.load {
        if load.publish_rate() < f64::from(args.rate) * MIN_RATE_SHARE {
            notes.push(format!("{name}: the publisher did not reach the requested rate"));
        }
        let client = load.cores(load.client_cpu) / load.client_processes as f64;
        let server = load.cores(load.server_cpu);
        if client > BUSY_CLIENT_CORES && client > server {
            notes
                .push(format!("{name}: the reading thread was busier than the server and may have limited the result"));
        }
        if let Some(newest) = load.conflated {
            notes.push(format!(
                "{name}: delivered is the share of the {} newest messages of readers and topics; older ones may be left out",
                HumanCount(newest.due)
            ));
        } else if load.received.readers.delivered < load.expected {
            notes.push(format!(
                "{name}: some messages were not delivered in time; latencies include delivered messages only"
            ));
        }
    }
    notes
}

impl Unit {
    fn format(self, value: f64) -> String {
        match self {
            Self::Microseconds if value < 1e3 => format!("{value:.0} us"),
            Self::Microseconds if value < 1e6 => format!("{:.2} ms", value / 1e3),
            Self::Microseconds => format!("{:.2} s", value / 1e6),
            Self::Seconds => format!("{value:.2} s"),
            Self::Bytes if value.abs() < 1e6 => format!("{value:.0} B"),
            Self::Bytes => format!("{:.1} MB", value / 1e6),
            Self::Count => HumanCount(value.round() as u64).to_string(),
            // Rounded down, so that a single missing delivery is not 100 %.
            Self::Percent => format!("{:.2} %", (value * 100.0).floor() / 100.0),
            Self::Decimal => format!("{value:.3}"),
        }
    }
}

/// Aligns the first column to the left and the others to the right.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if column == 0 { write!(row, "{cell:width$}") } else { write!(row, "  {cell:>width$}") };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let lines = [vec!["", "loop", "ratio"], vec!["latency", "1.50 ms", ""], vec!["delivered", "-"]];
        let lines: Vec<Vec<String>> =
            lines.iter().map(|line| line.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        assert_eq!(
            align(&lines),
            "              loop  ratio\n\
             latency    1.50 ms\n\
             delivered        -\n"
        );
    }

    #[test]
    fn numbers_have_readable_units() {
        for (unit, value, expected) in [
            (Unit::Microseconds, 412.4, "412 us"),
            (Unit::Microseconds, 1_234.0, "1.23 ms"),
            (Unit::Microseconds, 2_500_000.0, "2.50 s"),
            (Unit::Bytes, 870.6, "871 B"),
            (Unit::Bytes, 23_400_000.0, "23.4 MB"),
            (Unit::Count, 4_999_999.6, "5,000,000"),
            (Unit::Percent, 99.999, "99.99 %"),
            (Unit::Percent, 100.0, "100.00 %"),
            (Unit::Decimal, 0.1954, "0.195"),
        ] {
            assert_eq!(unit.format(value), expected);
        }
        assert_eq!([format_ratio(1.016), format_ratio(0.0478)], ["1.02", "0.0478"]);
    }
}
