//! Traces: where the time of a sampled event goes, from its broker to its readers.
//!
//! The emitter of a source samples events ([`Tracer`]). A [`Trace`] goes with each of them through decode, tally and the engine, and notes
//! the times of the stages. When nothing has it any more, it is reported: as histograms, as a line of the log at debug, and to a collector
//! of OpenTelemetry ([`otlp`]), if there is one. Everything on the way is bounded, and nothing waits for a report.

mod context;
pub mod otlp;
mod record;
mod sampler;
mod stats;
mod task;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tallycast_fanout::{Namespace, Probe};
use tokio::sync::mpsc;

pub use context::TraceParent;
use record::{Delivery, Record};
use sampler::Sampler;
pub use stats::{STAGES, Stage, TraceStats};
pub use task::Tracing;

use crate::source::RawEvent;

/// Traces that wait to be reported.
const QUEUED: usize = 1024;

/// Samples events. Cheap to clone; clones share the sample.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    sampler: Sampler,
    finished: mpsc::Sender<Record>,
    stats: Arc<TraceStats>,
}

/// What an event says of traces.
#[derive(Debug)]
pub(crate) enum EventTrace {
    /// Its sender traces it, as the child of this span.
    Continues(TraceParent),
    /// It is traced.
    Sampled(Arc<Trace>),
}

impl EventTrace {
    /// The trace of an event with this `traceparent`, if the sender has sampled it.
    pub(crate) fn continuing(traceparent: Option<&[u8]>) -> Option<Box<Self>> {
        TraceParent::sampled(traceparent?).map(|parent| Box::new(Self::Continues(parent)))
    }
}

/// The times of one event. Reported when it is dropped.
#[derive(Debug)]
pub struct Trace {
    record: Mutex<Record>,
    shared: Arc<Shared>,
}

impl Tracer {
    /// Decides whether an event is traced that `source` has just received.
    #[inline]
    pub(crate) fn sample(&self, event: &mut RawEvent, source: &str) {
        let Some(shared) = &self.0 else {
            event.trace = None;
            return;
        };
        if shared.sampler.is_next() || event.trace.is_some() {
            Self::begin(shared, event, source);
        }
    }

    #[cold]
    fn begin(shared: &Arc<Shared>, event: &mut RawEvent, source: &str) {
        let parent = match event.trace.take().map(|trace| *trace) {
            Some(EventTrace::Continues(parent)) => Some(parent),
            _ => None,
        };
        // What is only for the history is not on its way to a reader.
        if event.entry.as_ref().is_some_and(|entry| entry.is_backlog) || !shared.sampler.has_budget() {
            return;
        }
        shared.stats.sampled.add(1);
        let record = Record::new(event, source, parent);
        let trace = Trace { record: Mutex::new(record), shared: Arc::clone(shared) };
        event.trace = Some(Box::new(EventTrace::Sampled(Arc::new(trace))));
    }
}

impl Trace {
    fn update(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that decode has taken the event from its inbox.
    pub(crate) fn decode_began(&self) {
        self.update(|record| record.decode_began_at = Some(Instant::now()));
    }

    /// Notes that the event has become a message, or why it has not.
    pub(crate) fn decoded(&self, outcome: Result<&Namespace, String>) {
        let outcome = outcome.cloned();
        self.update(|record| {
            record.decoded_at = Some(Instant::now());
            record.outcome = Some(outcome);
        });
    }

    /// Follows the message of the event.
    pub(crate) fn follow(self: &Arc<Self>, namespace: &Namespace) -> Arc<Probe> {
        follow(vec![Arc::clone(self)], namespace, None)
    }
}

/// Follows a tally that counts the events of `traces`.
pub(crate) fn follow_tally(traces: Vec<Arc<Trace>>, namespace: &Namespace) -> Arc<Probe> {
    follow(traces, namespace, Some(Instant::now()))
}

fn follow(traces: Vec<Arc<Trace>>, namespace: &Namespace, flushed_at: Option<Instant>) -> Arc<Probe> {
    let namespace = namespace.clone();
    Probe::new(move |passage| {
        for trace in &traces {
            let delivery = Delivery { namespace: namespace.clone(), flushed_at, passage: passage.clone() };
            trace.update(|record| record.deliveries.push(delivery));
        }
    })
}

impl Drop for Trace {
    fn drop(&mut self) {
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Of an event that was lost before decode there is nothing to say.
        let Some(record) = record.take_decoded() else { return };
        if self.shared.finished.try_send(record).is_err() {
            self.shared.stats.dropped.add(1);
        }
    }
}

/// A clock reading of this process as the time of day, by a pair of readings of the same moment.
fn time_of((instant, time): (Instant, SystemTime), at: Instant) -> SystemTime {
    match at.checked_duration_since(instant) {
        Some(later) => time + later,
        None => time - instant.duration_since(at),
    }
}
