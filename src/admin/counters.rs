//! What a metric is defined by, and what follows from the definitions: `/admin/counters.json` and the errors on the admin
//! page here, `/metrics` in `metrics`, the tables of `docs/operations.md` in `docs`.

use prometheus_client::registry::Unit;
use serde::Serialize;
use serde_json::{Map, Value};

use super::definitions::SECTIONS;
use super::process::Usage;
use super::status::StatusSource;
use tallycast_fanout::{FeedReport, Histogram};

/// The metrics of one part of the process: a table in `docs/operations.md`.
pub(super) struct Section {
    #[cfg_attr(not(test), expect(dead_code, reason = "for the docs, which a test compares"))]
    pub(super) title: &'static str,
    pub(super) metrics: &'static [Metric],
}

/// The definition of a metric.
pub(super) struct Metric {
    /// The name in `/metrics`, without the prefix `tallycast_` and the suffix `_total`.
    pub(super) name: &'static str,
    pub(super) values: Values,
    /// What it measures: the help text in `/metrics`, and a column in the docs.
    pub(super) help: &'static str,
    /// What to expect, what a change means and what to do about it: a column in the docs.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the docs, which a test compares"))]
    pub(super) watch: &'static str,
}

/// Type and values of a metric.
pub(super) enum Values {
    /// A number that only grows.
    Counter(Reading),
    /// A time that only grows, read in milliseconds; `/metrics` has seconds.
    Time(Reading),
    /// A number that grows and shrinks.
    Gauge(Reading),
    /// A counter for each value of a label.
    Counters(&'static str, &'static [(&'static str, Reading)]),
    /// A counter for each value of a label, found at the time of the scrape, and what `counters.json` has instead.
    FoundCounters(&'static str, Reading, fn(&Scrape) -> Vec<(String, u64)>),
    /// A gauge for each value of a label, found at the time of the scrape, and what `counters.json` has instead.
    FoundGauges(&'static str, Reading, fn(&Scrape) -> Vec<(String, u64)>),
    /// How often values of each size were observed. In `/metrics` only, like all that follow.
    Histogram(Option<Unit>, fn(&StatusSource) -> &Histogram),
    /// A histogram for each value of a label, in seconds.
    Histograms(&'static str, fn(&StatusSource) -> Vec<(&'static str, &Histogram)>),
    /// A gauge; nothing if its value is unknown.
    State(fn(&Scrape) -> Option<f64>),
    /// A time in seconds that only grows; nothing if its value is unknown.
    StateTime(fn(&Scrape) -> Option<f64>),
    /// A gauge for each value of a label, found at the time of the scrape.
    FoundStates(&'static str, fn(&Scrape) -> Vec<(String, f64)>),
    /// A gauge for each value of a label.
    States(&'static str, fn(&Scrape) -> Vec<(&'static str, f64)>),
    /// Texts, as labels of a gauge that is always 1.
    Info(fn(&Scrape) -> Vec<(&'static str, String)>),
}

/// One number, and its place in `/admin/counters.json`.
pub(super) struct Reading {
    pub(super) object: &'static str,
    pub(super) key: &'static str,
    pub(super) get: fn(&StatusSource) -> u64,
    /// Its title on the admin page, under "Errors and limits".
    error: Option<&'static str>,
}

/// What one scrape of `/metrics` reads.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) status: StatusSource,
    pub(super) feeds: Vec<FeedReport>,
    pub(super) usage: Usage,
}

/// A number of errors, for the admin page.
#[derive(Debug, Serialize)]
pub(super) struct ErrorCount {
    title: &'static str,
    count: u64,
}

impl Reading {
    pub(super) const fn new(object: &'static str, key: &'static str, get: fn(&StatusSource) -> u64) -> Self {
        Self { object, key, get, error: None }
    }

    /// A number of errors, with its title on the admin page.
    pub(super) const fn error(self, title: &'static str) -> Self {
        Self { error: Some(title), ..self }
    }
}

impl Metric {
    /// All numbers of this metric that `counters.json` has.
    pub(super) fn readings(&self) -> impl Iterator<Item = &Reading> {
        let (one, several): (_, &[_]) = match &self.values {
            Values::Counter(reading) | Values::Time(reading) | Values::Gauge(reading) => (Some(reading), &[]),
            Values::FoundCounters(_, reading, _) | Values::FoundGauges(_, reading, _) => (Some(reading), &[]),
            Values::Counters(_, labelled) => (None, labelled),
            _ => (None, &[]),
        };
        one.into_iter().chain(several.iter().map(|(_, reading)| reading))
    }
}

fn readings() -> impl Iterator<Item = &'static Reading> {
    SECTIONS.iter().flat_map(|section| section.metrics).flat_map(Metric::readings)
}

/// What every stage has counted since the start: the answer of `GET /admin/counters.json`.
pub(super) fn json(status: &StatusSource) -> Value {
    let mut objects = Map::new();
    for Reading { object, key, get, .. } in readings() {
        let numbers = objects.entry(*object).or_insert_with(|| Map::new().into());
        if let Some(numbers) = numbers.as_object_mut() {
            numbers.insert((*key).to_owned(), get(status).into());
        }
    }
    objects.into()
}

/// All errors, in the order of the docs.
pub(super) fn errors(status: &StatusSource) -> Vec<ErrorCount> {
    readings()
        .filter_map(|reading| reading.error.map(|title| ErrorCount { title, count: (reading.get)(status) }))
        .collect()
}
