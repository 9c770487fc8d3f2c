//! `GET /metrics`: what the stages count, in the text format of OpenMetrics 1.0, which Prometheus reads.
//!
//! The stages count with their own atomics, which cost nothing but an addition; here their values are named. Names and
//! what to do when one moves are in `docs/operations.md`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::process::{self, Usage};
use super::status::StatusSource;
use tallycast_fanout::{FeedReport, Histogram, Unavailable};
use tallycast_server::{Page, text_page};

/// Labels of one series.
type Labels<'a> = [(&'a str, &'a str)];

/// The answer to a scrape.
///
/// # Errors
/// When the engine has ended or is too busy to tell of its feeds.
pub(super) async fn page(status: &StatusSource) -> Result<Page, Unavailable> {
    let feeds = status.handle.feeds().await?;
    let mut registry = Registry::with_prefix("tallycast");
    registry.register_collector(Box::new(Scrape { status: status.clone(), feeds, usage: process::usage() }));
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        // Writing to a string cannot fail, so a name or label is wrong, which a test would show.
        let _ = write!(text, "# an error\n# EOF\n");
    }
    let mut page = text_page(StatusCode::OK, text);
    page.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    Ok(page)
}

/// What one scrape is told.
#[derive(Debug)]
struct Scrape {
    status: StatusSource,
    feeds: Vec<FeedReport>,
    usage: Usage,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Encoder(encoder);
        let StatusSource { source, decode, tally, handle, server, .. } = &self.status;
        let hub = handle.stats();

        let platform = [("version", env!("CARGO_PKG_VERSION")), ("node", &*self.status.node)];
        to.gauges("build_info", "Which build this is, always 1.", [(&platform[..], 1.0)])?;
        to.gauge("start_time_seconds", "When the process started, since the Unix epoch.", self.started_at())?;

        to.counter("source_events", "Events received from the broker.", source.received.get())?;
        to.counter(
            "source_overflowed",
            "Events and totals lost because the first inbox was full.",
            source.overflowed.get(),
        )?;
        to.counter("source_subscriptions", "Subscriptions made at the broker.", source.subscriptions.get())?;
        to.counter("source_gaps", "Times between a lost subscription and the next.", source.gaps.get())?;
        let gap = source.gap_milliseconds.get() as f64 / 1000.0;
        to.seconds("source_gap_seconds", "The length of all gaps.", gap)?;
        to.counter("source_cuts", "Times that totals were read from the broker.", source.cuts.get())?;
        let up = f64::from(u8::from(self.status.is_ready()));
        to.gauge("source_up", "Whether the broker is subscribed: 1 if it is.", up)?;

        let routes = decode.by_route();
        let routes: Vec<_> = routes.iter().map(|(route, count)| ([("route", &**route)], *count)).collect();
        to.counters("decode_events", "Events decoded, by route.", routes.iter().map(|(labels, n)| (&labels[..], *n)))?;
        to.counter("decode_rejected", "Events that fit no route or are not valid.", decode.rejected.get())?;

        to.counter("tally_keys", "Keys counted.", tally.counted.get())?;
        to.counter("tally_flushes", "Tallies sent.", tally.flushes.get())?;
        to.histogram("tally_flush_keys", "Different keys of a tally that was sent.", None, &tally.flush_keys)?;

        to.counter("hub_messages", "Messages that reached the hub.", hub.broadcast.get())?;
        to.counter("hub_corrections", "Times that totals differed from what was sent.", hub.corrections.get())?;
        to.counter("hub_without_totals", "Readers turned away as totals are not known.", hub.without_totals.get())?;
        to.gauge("hub_feeds", "Feeds with readers.", hub.feeds.get() as f64)?;
        to.counter("delivered_messages", "Messages written to connections.", hub.delivered.get())?;
        to.counter("delivered_bytes", "Bytes written to connections.", hub.bytes.get())?;
        let help = "From when a message came in to when it had been written to a feed's readers.";
        to.histogram("lag_seconds", help, Some(&Unit::Seconds), &hub.lag)?;

        let slow = [
            ([("policy", "disconnect")], hub.slow_disconnected.get()),
            ([("policy", "skip")], hub.slow_skipped.get()),
            ([("policy", "merge")], hub.slow_merged.get()),
            ([("policy", "stall")], hub.stalled.get()),
            ([("policy", "pong")], hub.unanswered.get()),
        ];
        let help = "Readers that fell behind the log, by what was done; stall: took nothing for too long; pong: left a ping unanswered.";
        to.counters("slow_readers", help, slow.iter().map(|(labels, n)| (&labels[..], *n)))?;

        let transports = self.transports();
        let transports = transports.iter().map(|(name, readers)| ([("transport", *name)], *readers as f64));
        let transports: Vec<_> = transports.collect();
        let help = "Open streams, by transport.";
        to.gauges("connections", help, transports.iter().map(|(labels, n)| (&labels[..], *n)))?;
        to.counter("connections_opened", "Streams opened.", hub.connected.get())?;
        to.counter("http_accepted", "Connections accepted.", server.accepted.get())?;
        let refused = [
            ([("limit", "connections")], server.refused.get()),
            ([("limit", "address")], server.refused_address.get()),
            ([("limit", "rate")], server.refused_rate.get()),
            ([("limit", "namespace")], server.refused_namespace.get()),
            ([("limit", "origin")], server.refused_origin.get()),
        ];
        let help = "Connections and streams refused, by the limit that they would have passed.";
        to.counters("http_refused", help, refused.iter().map(|(labels, n)| (&labels[..], *n)))?;
        let help = "New connections let in without a look at their rate: too many addresses made some.";
        to.counter("http_rate_unknown", help, server.rate_unknown.get())?;
        to.counter("http_accept_errors", "Failed attempts to accept a connection.", server.accept_errors.get())?;
        to.counter("http_head_timeouts", "Request heads that did not come in time.", server.head_timeouts.get())?;

        to.counter("http_tls_failures", "Failed TLS handshakes.", server.tls_failures.get())?;
        let websocket = &server.websocket;
        to.counter("websocket_opened", "WebSockets opened.", websocket.opened.get())?;
        let refused = [
            ([("reason", "message")], websocket.refused.get()),
            ([("reason", "rate")], websocket.over_rate.get()),
            ([("reason", "protocol")], websocket.failed.get()),
        ];
        let help = "Messages of clients refused; those over the rate, and against the protocol, end the connection.";
        to.counters("websocket_refused", help, refused.iter().map(|(labels, n)| (&labels[..], *n)))?;

        let depths = self.status.inboxes.depths(&self.status.handle);
        let depths =
            [("decode", depths.decode), ("tally", depths.tally), ("hub", depths.hub)].map(|(n, d)| ([("stage", n)], d));
        let help = "What waits before a stage.";
        to.gauges("inbox_depth", help, depths.iter().map(|(labels, depth)| (&labels[..], *depth as f64)))?;
        to.gauge("inbox_capacity", "What may wait before each stage.", self.status.inboxes.capacity as f64)?;

        let Usage { memory_bytes, cpu_seconds, open_files, max_files } = self.usage;
        if let Some(bytes) = memory_bytes {
            to.gauge("process_resident_memory_bytes", "Memory that is resident.", bytes as f64)?;
        }
        if let Some(seconds) = cpu_seconds {
            to.seconds("process_cpu_seconds", "Processor time, user and system.", seconds)?;
        }
        if let Some(files) = open_files {
            to.gauge("process_open_fds", "Open file descriptors.", files as f64)?;
        }
        if let Some(files) = max_files {
            to.gauge("process_max_fds", "File descriptors that there may be.", files as f64)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn started_at(&self) -> f64 {
        super::status::unix_seconds(self.status.started_at) as f64
    }

    /// Readers by framing, which tells transport and coding.
    fn transports(&self) -> BTreeMap<&'static str, usize> {
        // Those that most have, so that they are there from the start.
        let mut readers = BTreeMap::from([("sse", 0), ("sse+chunked", 0)]);
        for feed in &self.feeds {
            *readers.entry(feed.framing).or_default() += feed.readers;
        }
        readers
    }
}

/// Writes metrics by kind.
struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A counter that is a time.
    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (&'l Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (&'l Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, unit: Option<&Unit>, histogram: &Histogram) -> fmt::Result {
        // The encoder adds the unit to the name itself.
        let name = unit.map_or(name, |unit| name.trim_end_matches(&format!("_{}", unit.as_str())[..]));
        let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(
            histogram.sum(),
            count,
            &buckets,
            None,
        )
    }
}
