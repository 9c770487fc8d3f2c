//! Events from NATS: of subjects, which are lost while no session is open, and of JetStream streams, which NATS keeps.
//!
//! Both are sources of their own, each with its connection and its supervisor, because they differ in what a lost connection means.

mod jetstream;
mod subjects;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::{Message, Subscriber};
use tokio::sync::watch;
use tokio_stream::Stream;

use super::{BoxError, Capabilities, Emitter, RawEvent, Selector, SendOutcome, SessionEnd, Source};
use crate::decode::channel_of_sender;
use crate::nats_client::{Connection, MAX_WAITING, NatsError};
use crate::rate_limited_log::RateLimitedLog;
use crate::trace::EventTrace;
use subjects::Subscriptions;

pub use crate::nats_client::{NatsUrl, UrlError};
pub use jetstream::JetStreamSource;
pub use subjects::{SubjectError, check_selector, check_stream};

/// Messages taken from the subscriptions before others have their turn.
const MAX_TURN: usize = 1024;
/// The name of the connections in the lists of the server.
const NAME: &str = "tallycast";
/// The header that names who sent a message.
const SENDER: &str = "sender";

/// Subjects of NATS as a [`Source`].
#[derive(Debug)]
pub struct NatsSource {
    url: NatsUrl,
    /// What to subscribe to, which may change.
    selectors: watch::Receiver<Vec<Selector>>,
    log: RateLimitedLog,
}

impl NatsSource {
    /// A source of the messages on subjects that any of `selectors` matches, which may change.
    pub fn new(url: NatsUrl, selectors: watch::Receiver<Vec<Selector>>) -> Self {
        Self { url, selectors, log: RateLimitedLog::new() }
    }
}

/// Whether there is something to subscribe to: NATS has headers for senders, and no channels.
fn has_subjects(selectors: &[Selector]) -> bool {
    !Subscriptions::<()>::default().select(selectors).is_empty()
}

impl Source for NatsSource {
    fn address(&self) -> String {
        self.url.to_string()
    }

    /// NATS forgets what it has delivered.
    fn capabilities(&self) -> Capabilities {
        Capabilities::PASSING
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if !has_subjects(&self.selectors.borrow()) {
            let mut selectors = self.selectors.clone();
            let has_selectors = async { selectors.wait_for(|selectors| has_subjects(selectors)).await.is_ok() };
            if !emitter.idle(has_selectors).await {
                return Ok(SessionEnd::Finished);
            }
        }
        self.selectors.borrow().iter().try_for_each(check_selector)?;
        let connection = Connection::open(&self.url, NAME).await?;
        let (subscriptions, selectors, log) = (Subscriptions::default(), &mut self.selectors, &mut self.log);
        let mut session =
            Session { connection, subscriptions, selectors, log, taken: 0, dropped: 0, recount: false, first: 0 };
        session.subscribe().await?;
        emitter.subscribed();
        Ok(session.run(emitter).await?)
    }
}

/// One connection, subscribed.
struct Session<'a> {
    connection: Connection,
    subscriptions: Subscriptions<Subscriber>,
    selectors: &'a mut watch::Receiver<Vec<Selector>>,
    log: &'a mut RateLimitedLog,
    /// Messages taken from the subscriptions.
    taken: u64,
    /// Messages that the library has dropped, because too many waited in a subscription.
    dropped: u64,
    /// What was dropped is unknown, because a subscription has ended.
    recount: bool,
    /// The subscription that was asked first for a message, modulo their number.
    first: usize,
}

/// How far the subscriptions were emptied.
enum Drained {
    Empty,
    Partly,
    /// The pipeline has ended.
    Closed,
}

/// Why a session's loop woke.
enum LoopEvent {
    /// By the subscription with this number; `None` if that has ended.
    Received(usize, Option<Message>),
    Failed(NatsError),
    PingDue,
    SelectorsChanged,
}

impl Session<'_> {
    /// Subscribes to what the selectors need and is not subscribed to yet.
    async fn subscribe(&mut self) -> Result<(), NatsError> {
        let before = self.subscriptions.len();
        let missing = self.subscriptions.select(&self.selectors.borrow_and_update());
        self.recount |= self.subscriptions.len() < before;
        for pattern in missing {
            let subscriber = self.connection.subscribe(&pattern.subject()).await?;
            tracing::debug!(subject = pattern.subject(), "subscribed to a subject");
            self.subscriptions.add(pattern, subscriber);
        }
        // Twice, so that a refusal has arrived.
        self.connection.ping().await?;
        self.connection.ping().await
    }

    /// Emits events until the connection ends.
    async fn run(mut self, emitter: &mut Emitter) -> Result<SessionEnd, NatsError> {
        let mut pings = tokio::time::interval(self.connection.limit());
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        pings.reset();
        loop {
            match self.drain(emitter).await? {
                Drained::Empty => {}
                Drained::Partly => {
                    // More may wait at each turn. A lost connection brings nothing else, so what it has brought is taken.
                    if let Err(error @ NatsError::Refused(_)) = self.connection.trouble() {
                        return Err(error);
                    }
                    if self.selectors.has_changed().unwrap_or(false) {
                        self.change_subscription().await?;
                    }
                    continue;
                }
                Drained::Closed => return Ok(SessionEnd::Finished),
            }
            let Self { connection, subscriptions, selectors, first, .. } = &mut self;
            let event = tokio::select! {
                error = connection.failed() => LoopEvent::Failed(error),
                (number, message) = std::future::poll_fn(|context| poll_next(subscriptions, first, context)) => {
                    LoopEvent::Received(number, message)
                }
                _ = pings.tick() => LoopEvent::PingDue,
                // Fails when the sender is gone, which disables this branch.
                Ok(()) = selectors.changed() => LoopEvent::SelectorsChanged,
            };
            match event {
                LoopEvent::Received(_, None) => return Ok(SessionEnd::Disconnected),
                LoopEvent::Received(number, Some(message)) => {
                    if self.emit(number, message, emitter)? == SendOutcome::Closed {
                        return Ok(SessionEnd::Finished);
                    }
                }
                LoopEvent::Failed(error) => return Err(error),
                LoopEvent::PingDue => self.connection.ping().await?,
                LoopEvent::SelectorsChanged => self.change_subscription().await?,
            }
        }
    }

    /// Subscribes to what other selectors than before need.
    async fn change_subscription(&mut self) -> Result<(), NatsError> {
        let invalid = self.selectors.borrow().iter().find_map(|selector| check_selector(selector).err());
        if let Some(error) = invalid {
            return Err(NatsError::Refused(error.to_string()));
        }
        self.subscribe().await?;
        tracing::info!("changed the subscription");
        Ok(())
    }

    /// Emits what has been received, and counts what was dropped before.
    async fn drain(&mut self, emitter: &mut Emitter) -> Result<Drained, NatsError> {
        // Messages that are counted by now are in the subscriptions, were taken, or are lost.
        let received = self.connection.received();
        // Otherwise a subscription would look empty when the task has had its share of time.
        let drained = tokio::task::unconstrained(std::future::poll_fn(|context| {
            Poll::Ready((0..MAX_TURN).find_map(|_| {
                match poll_next(&mut self.subscriptions, &mut self.first, context) {
                    // The loop finds the end.
                    Poll::Ready((_, None)) => Some(Ok(Drained::Empty)),
                    Poll::Ready((number, Some(message))) => match self.emit(number, message, emitter) {
                        Ok(SendOutcome::Closed) => Some(Ok(Drained::Closed)),
                        Ok(SendOutcome::Sent | SendOutcome::Dropped) => None,
                        Err(error) => Some(Err(error)),
                    },
                    Poll::Pending => {
                        self.count_dropped(received, emitter);
                        Some(Ok(Drained::Empty))
                    }
                }
            }))
        }));
        let drained = drained.await;
        match drained {
            Some(drained) => drained,
            None => {
                // How much still waits is unknown, but not more than there is room for: all beyond that was dropped.
                // What waited in a subscription that has ended cannot be told from that.
                if !self.recount {
                    let room = u64::try_from(self.subscriptions.len().saturating_mul(MAX_WAITING)).unwrap_or(u64::MAX);
                    self.count_dropped(received.saturating_sub(room), emitter);
                }
                tokio::task::yield_now().await;
                Ok(Drained::Partly)
            }
        }
    }

    fn emit(&mut self, number: usize, message: Message, emitter: &mut Emitter) -> Result<SendOutcome, NatsError> {
        self.taken += 1;
        // A message of another connection than this one: some before it may be lost.
        if !self.connection.is_first() {
            return Err(NatsError::Closed);
        }
        if !self.subscriptions.counts(number, &message.subject) {
            return Ok(SendOutcome::Sent);
        }
        let sender = message.headers.as_ref().and_then(|headers| headers.get(SENDER));
        let channel = channel_of_sender(&message.subject, sender.map(async_nats::HeaderValue::as_str));
        let traceparent = message.headers.as_ref().and_then(|headers| headers.get("traceparent"));
        let trace = EventTrace::continuing(traceparent.map(|value| value.as_str().as_bytes()));
        Ok(emitter.try_emit(RawEvent { trace, ..RawEvent::new(channel, message.payload) }))
    }

    /// Counts messages that the library has dropped, where at least `received` of all are known to be either taken or
    /// dropped.
    fn count_dropped(&mut self, received: u64, emitter: &Emitter) {
        let pings = self.connection.pings();
        let dropped = received.saturating_sub(self.taken + self.dropped + pings);
        self.dropped += dropped;
        // Taken in any case: otherwise the next messages that are dropped would not count.
        let recount = std::mem::take(&mut self.recount);
        if dropped == 0 || recount {
            return;
        }
        let stats = emitter.stats();
        stats.received.add(dropped);
        stats.overflowed.add(dropped);
        self.log.log(|suppressed| {
            tracing::warn!(
                dropped,
                suppressed,
                "messages of NATS arrive faster than they are taken; dropping the newest"
            );
        });
    }
}

/// The next message of any subscription, with its number. They take turns in being the first that is asked.
fn poll_next(
    subscriptions: &mut Subscriptions<Subscriber>,
    first: &mut usize,
    context: &mut Context<'_>,
) -> Poll<(usize, Option<Message>)> {
    let count = subscriptions.len();
    *first = first.wrapping_add(1);
    for number in (0..count).map(|offset| first.wrapping_add(offset) % count) {
        let Some(subscriber) = subscriptions.get_mut(number) else { continue };
        if let Poll::Ready(message) = Pin::new(subscriber).poll_next(context) {
            return Poll::Ready((number, message));
        }
    }
    Poll::Pending
}
