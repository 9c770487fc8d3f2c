//! Traces as the JSON of an `ExportTraceServiceRequest`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::record::{Record, Span, Written};
use super::Config;

/// The kinds of spans that are used.
const INTERNAL: u8 = 1;
const CONSUMER: u8 = 5;
/// The status of an event that was rejected.
const ERROR: u8 = 2;

/// What this process is: the resource of all its spans.
pub(super) fn resource(config: &Config, node: &str) -> Value {
    let own = [
        ("service.name", config.service.as_str()),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", node),
    ];
    let is_given = |key: &str| key != "service.name" && config.resource.iter().any(|(given, _)| given == key);
    let own = own.into_iter().filter(|(key, _)| !is_given(key));
    let given = config.resource.iter().filter(|(key, _)| key != "service.name");
    let given = given.map(|(key, value)| (key.as_str(), value.as_str()));
    json!({"attributes": own.chain(given).map(|(key, value)| text(key, value)).collect::<Vec<_>>()})
}

/// The request that exports `records`.
pub(super) fn request(resource: &Value, records: &[Record]) -> Vec<u8> {
    let spans: Vec<Value> = records.iter().flat_map(spans).collect();
    let scope = json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")});
    let request = json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]});
    request.to_string().into_bytes()
}

/// The spans of an event: one for all of its time, and one for each stage in it.
fn spans(record: &Record) -> Vec<Value> {
    let stages = record.spans();
    let start = stages.iter().map(|span| span.start).min().unwrap_or_else(|| record.received());
    let end = stages.iter().map(|span| span.end).max().unwrap_or(start);
    let root_id = span_id();
    let trace_id = format!("{:032x}", record.trace_id);
    let mut attributes =
        vec![text("tallycast.source", &record.source), number("messaging.message.body.size", record.bytes)];
    attributes.extend(record.event_id.as_ref().map(|id| text("messaging.message.id", id)));
    let mut root = json!({
        "traceId": trace_id,
        "spanId": root_id,
        "name": "message",
        "kind": CONSUMER,
        "startTimeUnixNano": nanos(start),
        "endTimeUnixNano": nanos(end),
    });
    if let Some(parent) = record.parent {
        root["parentSpanId"] = format!("{:016x}", parent.span_id).into();
    }
    match &record.outcome {
        Some(Ok(namespace)) => attributes.push(text("tallycast.namespace", namespace.as_str())),
        Some(Err(error)) => root["status"] = json!({"code": ERROR, "message": error}),
        None => {}
    }
    root["attributes"] = attributes.into();
    let child = |span: &Span<'_>| {
        json!({
            "traceId": trace_id,
            "spanId": span_id(),
            "parentSpanId": root_id,
            "name": span.stage.name(),
            "kind": INTERNAL,
            "startTimeUnixNano": nanos(span.start),
            "endTimeUnixNano": nanos(span.end),
            "attributes": child_attributes(span),
        })
    };
    let children: Vec<Value> = stages.iter().map(child).collect();
    std::iter::once(root).chain(children).collect()
}

fn child_attributes(span: &Span<'_>) -> Vec<Value> {
    let mut attributes = Vec::new();
    attributes.extend(span.namespace.map(|namespace| text("tallycast.namespace", namespace.as_str())));
    attributes.extend(span.shard.map(|shard| number("tallycast.shard", shard)));
    if let Some(Written { readers, blocked, bytes }) = span.written {
        attributes.push(number("tallycast.readers", readers));
        attributes.push(number("tallycast.readers.blocked", blocked));
        attributes.push(number("tallycast.bytes", bytes));
    }
    attributes
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Integers of 64 bits are strings in this encoding.
fn number(key: &str, value: impl std::fmt::Display) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

fn span_id() -> String {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    // Neither half alone is random in all bits.
    format!("{:016x}", (high ^ low).max(1))
}
