//! `GET /metrics`: the text format of OpenMetrics 1.0, which Prometheus reads.
//!
//! The stages count with atomics of their own; the encoder reads them at each scrape, as `definitions` says.

use std::fmt;

use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::counters::{Metric, Reading, Scrape, Values};
use super::definitions::SECTIONS;
use super::process;
use super::status::StatusSource;
use crate::responses;
use tallycast_fanout::{Histogram, Unavailable};

/// Before the name of every metric.
pub(super) const PREFIX: &str = "tallycast";

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The answer to a scrape.
///
/// # Errors
/// When the engine has ended or is too busy to report its feeds.
pub(super) async fn scrape(status: &StatusSource) -> Result<Response, Unavailable> {
    let feeds = status.handle.feeds().await?;
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape { status: status.clone(), feeds, usage: process::usage() }));
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        // Writing to a string cannot fail, so a name or a label is invalid; the tests would show it.
        text.push_str("# error: a metric is invalid\n# EOF\n");
    }
    Ok(responses::with_type(OPEN_METRICS, text))
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = SECTIONS.iter().flat_map(|section| section.metrics);
        metrics.try_for_each(|metric| self.encode_metric(metric, &mut encoder))
    }
}

/// The labels of a series, and its number.
type Series = (Vec<(&'static str, String)>, Number);

#[derive(Debug, Clone, Copy)]
enum Number {
    Count(u64),
    /// A counter that is a time.
    Seconds(f64),
    Gauge(f64),
}

impl Scrape {
    fn encode_metric(&self, metric: &Metric, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if let Values::Histogram(unit, get) = &metric.values {
            return encode_histograms(metric, unit.as_ref(), vec![(Vec::new(), get(&self.status))], encoder);
        }
        if let Values::Histograms(label, get) = &metric.values {
            let series = get(&self.status).into_iter().map(|(value, histogram)| (vec![(*label, value)], histogram));
            return encode_histograms(metric, Some(&Unit::Seconds), series.collect(), encoder);
        }
        let series = self.series(&metric.values);
        let kind = match series.first() {
            None => return Ok(()),
            Some((_, Number::Gauge(_))) => MetricType::Gauge,
            Some((_, Number::Count(_) | Number::Seconds(_))) => MetricType::Counter,
        };
        let mut to = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
        for (labels, number) in series {
            if labels.is_empty() {
                number.encode(&mut to)?;
            } else {
                number.encode(&mut to.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn series(&self, values: &Values) -> Vec<Series> {
        let read = |reading: &Reading| (reading.get)(&self.status);
        let alone = |number| vec![(Vec::new(), number)];
        let labelled = |label, value: &str, number| (vec![(label, value.to_owned())], number);
        match values {
            Values::Counter(reading) => alone(Number::Count(read(reading))),
            Values::Time(reading) => alone(Number::Seconds(read(reading) as f64 / 1000.0)),
            Values::Gauge(reading) => alone(Number::Gauge(read(reading) as f64)),
            Values::Counters(label, readings) => {
                readings.iter().map(|(value, reading)| labelled(*label, value, Number::Count(read(reading)))).collect()
            }
            Values::FoundCounters(label, _, find) => {
                find(self).iter().map(|(value, count)| labelled(*label, value, Number::Count(*count))).collect()
            }
            Values::FoundGauges(label, _, find) => {
                find(self).iter().map(|(value, count)| labelled(*label, value, Number::Gauge(*count as f64))).collect()
            }
            Values::State(get) => get(self).map(Number::Gauge).map(alone).unwrap_or_default(),
            Values::StateTime(get) => get(self).map(Number::Seconds).map(alone).unwrap_or_default(),
            Values::States(label, get) => {
                get(self).into_iter().map(|(value, number)| labelled(*label, value, Number::Gauge(number))).collect()
            }
            Values::FoundStates(label, get) => {
                get(self).into_iter().map(|(value, number)| labelled(*label, &value, Number::Gauge(number))).collect()
            }
            Values::Info(get) => vec![(get(self), Number::Gauge(1.0))],
            Values::Histogram(..) | Values::Histograms(..) => Vec::new(),
        }
    }
}

impl Number {
    fn encode(self, to: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => to.encode_counter::<NoLabelSet, _, u64>(&count, None),
            Self::Seconds(seconds) => to.encode_counter::<NoLabelSet, _, f64>(&seconds, None),
            Self::Gauge(number) => to.encode_gauge(&number),
        }
    }
}

/// Encodes one histogram without labels, or one for each set of labels.
fn encode_histograms(
    metric: &Metric,
    unit: Option<&Unit>,
    series: Vec<(Vec<(&'static str, &'static str)>, &Histogram)>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    // The encoder appends the unit to the name.
    let name = unit.map_or(metric.name, |unit| metric.name.trim_end_matches(&format!("_{}", unit.as_str())[..]));
    let mut to = encoder.encode_descriptor(name, metric.help, unit, MetricType::Histogram)?;
    for (labels, histogram) in series {
        let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        if labels.is_empty() {
            to.encode_histogram::<NoLabelSet>(histogram.sum(), count, &buckets, None)?;
        } else {
            to.encode_family(&labels)?.encode_histogram::<NoLabelSet>(histogram.sum(), count, &buckets, None)?;
        }
    }
    Ok(())
}
