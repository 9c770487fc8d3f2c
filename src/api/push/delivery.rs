//! From the events of a request to their receipts: each is checked against the routes, compared with those taken before, and sent on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tallycast_fanout::{EntryId, Position};

use super::config::{MAX_CHANNEL_BYTES, PublishTarget};
use super::endpoint::{Destination, Endpoint};
use super::event::{Event, Rejection};
use super::seen::{Claim, ClaimGuard, EventKey};
use crate::decode::{DecodeError, OWN_CHANNELS, Target};
use crate::publishing::{Publication, Publisher, UpdateFields};
use crate::source::{Entry, PushQueue, RawEvent, SourceId};
use crate::trace::{EventTrace, TraceParent};

/// What became of the events of a request.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) taken: usize,
    pub(super) duplicates: usize,
    /// Those that were rejected: how many, and why the first of them was.
    pub(super) rejected: usize,
    pub(super) rejection: Option<Rejection>,
    /// Why the request is to be repeated, if it is.
    pub(super) retry: Option<String>,
}

/// An event on its way.
struct Outgoing {
    channel: String,
    payload: Vec<u8>,
    claim: Option<ClaimGuard>,
    key: Option<EventKey>,
}

impl Delivered {
    pub(super) fn reject(&mut self, rejection: Rejection) {
        self.rejected += 1;
        self.rejection.get_or_insert(rejection);
    }
}

impl Endpoint {
    /// Sends events on, and waits until all have been taken. `channel` is that of the path, which holds for all of them, and so is the trace
    /// of the sender.
    pub(super) async fn deliver(
        &self,
        channel: Option<&str>,
        events: Vec<Result<Event, Rejection>>,
        trace: Option<TraceParent>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let mut outgoing = Vec::with_capacity(events.len());
        let mut keys = HashSet::new();
        for event in events {
            let event = event.and_then(|event| self.addressed(channel, event));
            let (channel, Event { id, payload, .. }) = match event {
                Ok(addressed) => addressed,
                Err(rejection) => {
                    delivered.reject(rejection);
                    continue;
                }
            };
            let key = id.map(|id| id.on_channel(&channel));
            // A batch may have the same event twice.
            if key.is_some_and(|key| !keys.insert(key)) {
                delivered.duplicates += 1;
                continue;
            }
            let claim = match key.map(|key| self.seen.claim(key, Instant::now())) {
                None => None,
                Some(Claim::New(claim)) => Some(claim),
                Some(Claim::Taken) => {
                    delivered.duplicates += 1;
                    continue;
                }
                Some(Claim::Pending) => {
                    delivered.retry = Some("the same event has just arrived; try again in a moment".to_owned());
                    continue;
                }
            };
            outgoing.push(Outgoing { channel, payload, claim, key });
        }
        match &self.destination {
            _ if outgoing.is_empty() => {}
            Destination::Pipeline(queue) => emit(queue, outgoing, trace, &mut delivered).await,
            Destination::Broker(publisher, target) => {
                let is_stream = matches!(target, PublishTarget::Stream(_));
                let has_keys = publisher.has_idempotency_keys(SourceId::DEFAULT, is_stream);
                let publications = outgoing.iter().map(|event| self.publication(target, event, has_keys));
                let publications: Vec<_> = publications.collect();
                publish(publisher, &publications, outgoing, &mut delivered).await;
            }
        }
        delivered
    }

    /// The channel of an event that a route is for, and whose payload it takes.
    fn addressed(&self, of_path: Option<&str>, mut event: Event) -> Result<(String, Event), Rejection> {
        let channel = of_path.map(str::to_owned).or_else(|| event.channel.take());
        let channel = channel.ok_or_else(|| {
            Rejection::new(StatusCode::NOT_FOUND, "the request names no channel; expected /push/<source>/<channel>")
        })?;
        if channel.len() > MAX_CHANNEL_BYTES || channel.contains(char::is_control) {
            let expected = format!("channel: expected at most {MAX_CHANNEL_BYTES} bytes without control characters");
            return Err(Rejection::bad_request(expected));
        }
        // Commands and events of tallycast itself, and events with senders.
        if channel.starts_with(OWN_CHANNELS) {
            let reason = format!("channels that start with {OWN_CHANNELS} are reserved");
            return Err(Rejection::new(StatusCode::NOT_FOUND, reason));
        }
        // What decode says of it, which otherwise only its log would.
        let decoded = self.routes.borrow().decode(self.raw_event(&channel, event.payload.clone()));
        match decoded {
            Ok(_) => Ok((channel, event)),
            Err(error) => Err(Rejection::new(status(error), error.to_string())),
        }
    }

    /// The event as decode receives it: from this source, or from the broker.
    fn raw_event(&self, channel: &str, payload: Vec<u8>) -> RawEvent {
        match &self.destination {
            Destination::Pipeline(_) => RawEvent { source: self.source, ..RawEvent::new(channel, payload) },
            Destination::Broker(_, PublishTarget::Channel(target)) => RawEvent::new(target.as_str(), payload),
            Destination::Broker(_, PublishTarget::Prefix(prefix)) => {
                RawEvent::new(format!("{prefix}{channel}"), payload)
            }
            Destination::Broker(_, PublishTarget::Stream(key)) => {
                // Any position will do.
                let position = Position { sequence: Arc::clone(key), entry: EntryId::new(0, 1) };
                RawEvent::from_entry(payload, Entry { topics: vec![channel.into()], ..Entry::new(position) })
            }
        }
    }

    /// The event as the broker receives it, with an idempotency key if `has_keys`.
    fn publication(&self, target: &PublishTarget, event: &Outgoing, has_keys: bool) -> Publication {
        let channel = &event.channel;
        let target = match target {
            PublishTarget::Channel(target) => Target::Channel(target.clone()),
            PublishTarget::Prefix(prefix) => Target::Channel(format!("{prefix}{channel}")),
            PublishTarget::Stream(key) => Target::Stream { key: Arc::clone(key), topic: Some(channel.clone()) },
        };
        // All nodes together publish it once.
        let of_key = |key: EventKey| format!("push:{}:{}", self.name(), URL_SAFE_NO_PAD.encode(key.bytes()));
        Publication {
            source: SourceId::DEFAULT,
            target,
            event: None,
            // Decode has found it to be text.
            data: String::from_utf8_lossy(&event.payload).into_owned(),
            sender: None,
            update: UpdateFields::default(),
            idempotency_key: event.key.filter(|_| has_keys).map(of_key),
        }
    }
}

/// Puts events into the pipeline, and waits until the hub has taken them.
async fn emit(queue: &PushQueue, outgoing: Vec<Outgoing>, trace: Option<TraceParent>, delivered: &mut Delivered) {
    let mut receipts = Vec::with_capacity(outgoing.len());
    for Outgoing { channel, payload, claim, .. } in outgoing {
        let trace = trace.map(|parent| Box::new(EventTrace::Continues(parent)));
        match queue.emit(RawEvent { trace, ..RawEvent::new(channel, payload) }).await {
            Ok(receipt) => receipts.push((receipt, claim)),
            // The claim ends, and so do those after it.
            Err(error) => {
                delivered.retry = Some(error.to_string());
                break;
            }
        }
    }
    for (receipt, claim) in receipts {
        match receipt.await {
            Ok(()) => {
                delivered.taken += 1;
                claim.into_iter().for_each(|claim| claim.taken(Instant::now()));
            }
            Err(error) => delivered.retry = Some(error.to_string()),
        }
    }
}

/// Publishes events, all or none.
async fn publish(
    publisher: &Publisher,
    publications: &[Publication],
    outgoing: Vec<Outgoing>,
    delivered: &mut Delivered,
) {
    match publisher.publish(publications).await {
        Ok(_) => {
            delivered.taken += outgoing.len();
            outgoing.into_iter().filter_map(|event| event.claim).for_each(|claim| claim.taken(Instant::now()));
        }
        // Whatever is sent again is refused again. The claims end here.
        Err(error) if error.is_final() => {
            for _ in outgoing {
                delivered.reject(Rejection::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()));
            }
        }
        // Without what the error says of idempotency keys, which senders do not choose.
        Err(_) => delivered.retry = Some("the broker did not take it; try again".to_owned()),
    }
}

/// The status of the answer to an event that decode rejects.
fn status(error: DecodeError) -> StatusCode {
    match error {
        DecodeError::NoRoute | DecodeError::Reserved => StatusCode::NOT_FOUND,
        DecodeError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
