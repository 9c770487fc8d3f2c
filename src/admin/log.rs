//! The last warnings and errors of the log, for `GET /admin/log.json`: those of level WARN and ERROR, whatever `--log` says. Their fields
//! are those of the log lines, so nothing is shown here that is secret there.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::status::unix_seconds_f64;

/// Records that are kept.
const MAX_RECORDS: usize = 200;
/// Their bytes together, about.
const MAX_BYTES: usize = 64 * 1024;
/// Bytes of a message or of the value of a field; longer ones are cut.
const MAX_TEXT_BYTES: usize = 1024;
/// Fields of a record; further ones are left out.
const MAX_FIELDS: usize = 16;
/// The field with the number of records left out since the last one, by `RateLimitedLog`.
const SUPPRESSED: &str = "suppressed";
/// The memory of a record beside its texts, and of a field beside its own, about.
const RECORD_OVERHEAD: usize = 128;
const FIELD_OVERHEAD: usize = 64;

/// The last warnings and errors. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RecentLog(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    /// The oldest first.
    records: VecDeque<Record>,
    bytes: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Record {
    /// When it was logged last, in seconds since the Unix epoch.
    at: f64,
    level: &'static str,
    target: &'static str,
    #[serde(flatten)]
    texts: Texts,
    /// How often it was logged, or left out of the log, without another one in between.
    count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Texts {
    message: String,
    fields: Map<String, Value>,
    /// Records like it that were not logged. Part of the count, so that it is no difference.
    #[serde(skip)]
    suppressed: u64,
}

impl RecentLog {
    /// The layer that keeps records, which belongs beside that of the output.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + Send + Sync + use<S> {
        Recorder(self.clone()).with_filter(LevelFilter::WARN)
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records, the newest first.
    pub(super) fn json(&self) -> Value {
        let records: Vec<Record> = self.lock().records.iter().rev().cloned().collect();
        json!({ "records": records })
    }
}

impl Records {
    fn add(&mut self, record: Record) {
        if let Some(last) = self.records.back_mut()
            && (last.level, last.target, &last.texts) == (record.level, record.target, &record.texts)
        {
            (last.at, last.count) = (record.at, last.count.saturating_add(record.count));
            return;
        }
        self.bytes += record.weight();
        self.records.push_back(record);
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.weight();
        }
    }
}

impl Record {
    fn weight(&self) -> usize {
        let fields = self.texts.fields.iter();
        let fields = fields.map(|(name, value)| FIELD_OVERHEAD + name.len() + value.as_str().map_or(0, str::len));
        RECORD_OVERHEAD + self.texts.message.len() + fields.sum::<usize>()
    }
}

/// Keeps what is logged.
#[derive(Debug)]
struct Recorder(RecentLog);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut texts = Texts::default();
        event.record(&mut texts);
        let count = std::mem::take(&mut texts.suppressed).saturating_add(1);
        let level = if *metadata.level() == Level::ERROR { "ERROR" } else { "WARN" };
        let at = unix_seconds_f64(SystemTime::now());
        self.0.lock().add(Record { at, level, target: metadata.target(), texts, count });
    }
}

impl Texts {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) => Value::String(cut(text)),
            value => value,
        };
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) if self.fields.len() < MAX_FIELDS => drop(self.fields.insert(name.to_owned(), value)),
            _ => {}
        }
    }
}

impl Visit for Texts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == SUPPRESSED {
            self.suppressed = value;
        } else {
            self.set(field, value);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES - '…'.len_utf8()));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{EnvFilter, registry};

    use super::*;

    /// What is kept of what `log` logs, beside an output that shows nothing.
    fn recorded(log: impl FnOnce()) -> Vec<Value> {
        let recent = RecentLog::default();
        let output = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(EnvFilter::new("off"));
        tracing::subscriber::with_default(registry().with(output).with(recent.layer()), log);
        recent.json()["records"].as_array().unwrap().clone()
    }

    #[test]
    fn warnings_and_errors_are_kept_whatever_the_output_shows() {
        let records = recorded(|| {
            tracing::info!("not kept");
            tracing::warn!(source = "redis://host", gap = ?std::time::Duration::from_secs(2), "restored");
            tracing::error!(count = 2_u64, ok = false, error = %"a \"b\"", "failed");
        });
        assert_eq!(records.len(), 2);
        assert_eq!((&records[0]["level"], &records[0]["message"]), (&"ERROR".into(), &"failed".into()));
        assert_eq!(records[0]["fields"], json!({"count": 2, "ok": false, "error": "a \"b\""}));
        assert_eq!(records[1]["fields"], json!({"source": "redis://host", "gap": "2s"}));
        assert!(records[1]["target"].as_str().unwrap().starts_with("tallycast::admin::log"));
    }

    #[test]
    fn equal_records_are_counted_while_no_other_comes_between() {
        let records = recorded(|| {
            for number in [1, 1, 1, 2, 1] {
                tracing::warn!(number, "again");
            }
        });
        let counts: Vec<_> = records.iter().map(|record| record["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [1, 1, 3]);
        let records = recorded(|| {
            for suppressed in [0_u64, 7, 2] {
                tracing::warn!(suppressed, "at a bounded rate");
            }
        });
        assert_eq!((records.len(), &records[0]["count"], &records[0]["fields"]), (1, &12.into(), &json!({})));
    }

    #[test]
    fn records_and_their_bytes_are_bounded() {
        let records = recorded(|| (0..MAX_RECORDS + 5).for_each(|number| tracing::warn!(number, "many")));
        assert_eq!((records.len(), records[0]["fields"]["number"].as_u64()), (MAX_RECORDS, Some(204)));
        let large = "😂".repeat(1000);
        let records = recorded(|| (0..MAX_RECORDS).for_each(|number| tracing::warn!(number, large, "{large}")));
        let bytes: usize = records.iter().map(|record| record["message"].as_str().unwrap().len()).sum();
        assert!((20..40).contains(&records.len()) && bytes < MAX_BYTES / 2, "{} records", records.len());
        assert!(records[0]["message"].as_str().unwrap().ends_with("😂…"));
    }
}
