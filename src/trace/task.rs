//! The task that reports traces.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::otlp::{self, Exporter};
use super::record::Record;
use super::sampler::Sampler;
use super::{QUEUED, Shared, TraceStats, Tracer};

/// Everything that reports traces, until [`close`](Self::close).
#[derive(Debug)]
pub struct Tracing {
    /// What samples.
    pub tracer: Tracer,
    running: Option<(JoinHandle<()>, CancellationToken)>,
}

impl Tracing {
    /// Traces one of `one_in` events, or none without a number, and exports the traces to a collector if there is one.
    pub fn start(one_in: Option<NonZeroU32>, otlp: Option<otlp::Config>, node: &str, stats: &Arc<TraceStats>) -> Self {
        let Some(one_in) = one_in else { return Self { tracer: Tracer::default(), running: None } };
        let (finished, records) = mpsc::channel(QUEUED);
        let shared = Shared { sampler: Sampler::new(one_in), finished, stats: Arc::clone(stats) };
        let closing = CancellationToken::new();
        let exporter = otlp.map(|config| Exporter::start(config, node, Arc::clone(stats), closing.clone()));
        let task = tokio::spawn(run(records, exporter, Arc::clone(stats), closing.clone()));
        Self { tracer: Tracer(Some(Arc::new(shared))), running: Some((task, closing)) }
    }

    /// Reports what has ended by now, within two seconds.
    pub async fn close(self) {
        if let Some((task, closing)) = self.running {
            closing.cancel();
            // A task that failed has reported all that it can.
            let _ = task.await;
        }
    }
}

async fn run(
    mut records: mpsc::Receiver<Record>,
    exporter: Option<Exporter>,
    stats: Arc<TraceStats>,
    closing: CancellationToken,
) {
    loop {
        let record = tokio::select! {
            biased;
            record = records.recv() => record,
            () = closing.cancelled() => None,
        };
        let Some(record) = record else { break };
        report(&record, &stats);
        if let Some(exporter) = &exporter {
            exporter.export(record);
        }
    }
    if let Some(exporter) = exporter {
        exporter.close().await;
    }
}

/// Counts the times of the stages, and logs them.
fn report(record: &Record, stats: &TraceStats) {
    let spans = record.spans();
    for span in &spans {
        stats.stage(span.stage).observe(span.seconds());
    }
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let trace = format!("{:032x}", record.trace_id);
    let stages: Vec<String> = spans
        .iter()
        .map(|span| {
            let namespace = span.namespace.map(|namespace| format!(" {namespace}")).unwrap_or_default();
            let shard = span.shard.map(|shard| format!(" shard {shard}")).unwrap_or_default();
            format!("{}{namespace}{shard} {:?}", span.stage.name(), Duration::from_secs_f64(span.seconds()))
        })
        .collect();
    let error = record.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
    let (source, bytes, id) = (&record.source, record.bytes, record.event_id.as_deref());
    tracing::debug!(trace, source, bytes, id, error, stages = stages.join(", "), "traced");
}
