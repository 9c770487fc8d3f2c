//! The supervisor and the emitter, with the real stages behind them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::Fanout;
use tallycast_fanout::inbox;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::broker::BrokerStatus;
use super::*;
use crate::decode::{self, Routes};
use crate::tally;

/// Long enough for a busy machine; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// One session of a [`Script`].
#[derive(Clone)]
enum Session {
    /// Fails before it is subscribed.
    Fail(&'static str),
    /// Is subscribed, and disconnected at once.
    Disconnect,
    /// Emits an event on this channel, and waits for its receipt before it disconnects.
    Emit(&'static str),
    /// Has nothing to subscribe to at first, and fails then.
    Idle,
    /// Has nothing to subscribe to.
    IdleForEver,
}

/// A durable source that runs one session after another, then finishes.
struct Script {
    sessions: VecDeque<Session>,
    receipts: Vec<Result<(), NotAcknowledged>>,
}

impl Script {
    fn new(sessions: &[Session]) -> Self {
        Self { sessions: sessions.iter().cloned().collect(), receipts: Vec::new() }
    }
}

/// Lets a test look at the source after its supervisor has ended.
impl Source for &mut Script {
    fn address(&self) -> String {
        "script".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { durable: true, ..Capabilities::PASSING }
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        match self.sessions.pop_front() {
            None => return Ok(SessionEnd::Finished),
            Some(Session::Fail(reason)) => return Err(reason.into()),
            Some(Session::Disconnect) => emitter.subscribed(),
            Some(Session::Idle) => {
                emitter.idle(std::future::ready(())).await;
                return Err("refused".into());
            }
            Some(Session::IdleForEver) => emitter.idle(std::future::pending()).await,
            Some(Session::Emit(channel)) => {
                emitter.subscribed();
                let receipt = emitter.emit(RawEvent::new(channel, "payload")).await?;
                self.receipts.push(receipt.await);
            }
        }
        Ok(SessionEnd::Disconnected)
    }
}

fn emitter(room: usize) -> (Emitter, inbox::Receiver<SourceEvent>, Arc<SourceStats>) {
    let (inbox, events) = inbox::channel(room, usize::MAX);
    let stats = Arc::<SourceStats>::default();
    let capabilities = Capabilities::PASSING;
    let state = StateBoard::default().slot("test".into());
    let broker = BrokerStatus::new("test".to_owned(), capabilities, state, Arc::clone(&stats));
    (Emitter::new(inbox, SourceId::DEFAULT, broker), events, stats)
}

/// Starts decode and tally in front of `fanout`, with a route for channels that start with `a`.
fn start_stages(fanout: &Fanout) -> (inbox::Sender<SourceEvent>, Arc<decode::Stats>) {
    let routes = Routes::new(vec!["a*=/a,tally=/counts".parse().unwrap()]).unwrap();
    let (events, decode_inbox) = inbox::channel(1, usize::MAX);
    let (keys, tally_inbox) = inbox::channel(1, usize::MAX);
    let stats = Arc::<decode::Stats>::default();
    let routes = watch::channel(routes).1;
    tokio::spawn(decode::run(routes, decode_inbox, fanout.publisher(), keys, Arc::clone(&stats)));
    tokio::spawn(tally::run(tally::Config::default(), tally_inbox, fanout.publisher(), Arc::default()));
    (events, stats)
}

#[tokio::test]
async fn sessions_follow_each_other_until_the_source_finishes() {
    let (inbox, _events) = inbox::channel(1, usize::MAX);
    let (state, states) = watch::channel(BrokerState::Connecting);
    let stats = Arc::<SourceStats>::default();
    let mut script =
        Script::new(&[Session::Fail("refused"), Session::Disconnect, Session::Fail("refused"), Session::Disconnect]);
    let supervisor = Supervisor::new(inbox).broker_state(state).stats(Arc::clone(&stats));
    timeout(PATIENCE, supervisor.run(&mut script)).await.unwrap().unwrap();
    assert_eq!(*states.borrow(), BrokerState::Lost);
    // The time before the first subscription is no gap.
    assert_eq!([stats.subscriptions.get(), stats.gaps.get()], [2, 1]);
    // The shortest pauses after the loss and the failure.
    assert!(stats.gap_milliseconds.get() >= 150);
}

#[tokio::test]
async fn pauses_grow_while_sessions_end_at_once() {
    let (inbox, _events) = inbox::channel(1, usize::MAX);
    let mut script = Script::new(&[const { Session::Disconnect }; 6]);
    let started = Instant::now();
    timeout(PATIENCE, Supervisor::new(inbox).run(&mut script)).await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(25 + 50 + 100 + 200 + 400 + 400));
}

#[tokio::test]
async fn required_broker_is_required_only_at_startup() {
    let (inbox, _events) = inbox::channel(1, usize::MAX);
    let mut script = Script::new(&[Session::Fail("refused")]);
    let error = Supervisor::new(inbox.clone()).require_broker(true).run(&mut script).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot subscribe at script: refused");
    let mut script = Script::new(&[Session::Disconnect, Session::Fail("refused")]);
    timeout(PATIENCE, Supervisor::new(inbox).require_broker(true).run(&mut script)).await.unwrap().unwrap();
}

#[tokio::test]
async fn broker_is_not_required_of_a_source_that_was_idle() {
    let (inbox, _events) = inbox::channel(1, usize::MAX);
    let mut script = Script::new(&[Session::Idle, Session::Fail("refused")]);
    timeout(PATIENCE, Supervisor::new(inbox).require_broker(true).run(&mut script)).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_sources_have_the_worse_of_their_states() {
    let (inbox, _events) = inbox::channel(1, usize::MAX);
    for (first, second, expected) in [
        (Session::IdleForEver, Session::Emit("a"), BrokerState::Subscribed),
        (Session::Emit("a"), Session::Fail("refused"), BrokerState::Connecting),
        (Session::Disconnect, Session::Emit("a"), BrokerState::Lost),
        (Session::IdleForEver, Session::Fail("refused"), BrokerState::Connecting),
    ] {
        let board = StateBoard::default();
        let mut states = board.worst();
        let supervisor = Supervisor::new(inbox.clone());
        let [one, other] = [0, 1].map(|id| supervisor.clone().source(SourceId(id), None, &board));
        // The last state of a script stays.
        let mut scripts = [first, second].map(|session| Script::new(&[session]));
        let [first, second] = &mut scripts;
        let sources = async { tokio::join!(one.run(first), other.run(second)) };
        tokio::select! {
            _ = async { tokio::join!(sources, std::future::pending::<()>()) } => {}
            state = timeout(PATIENCE, states.wait_for(|state| *state == expected)) => drop(state.unwrap().unwrap()),
        }
    }
}

#[tokio::test]
async fn shutdown_ends_a_session_that_waits() {
    let (inbox, _events) = inbox::channel(1, usize::MAX);
    let shutdown = CancellationToken::new();
    // The inbox has room for one event, and nothing acknowledges it.
    let mut script = Script::new(&[Session::Emit("a")]);
    let supervisor = Supervisor::new(inbox).shutdown(shutdown.clone());
    let (ended, ()) =
        timeout(PATIENCE, async { tokio::join!(supervisor.run(&mut script), async { shutdown.cancel() }) })
            .await
            .unwrap();
    ended.unwrap();
    assert_eq!(script.receipts, []);
}

#[tokio::test]
async fn try_emit_drops_and_counts_what_does_not_fit() {
    let (mut emitter, mut events, stats) = emitter(1);
    assert_eq!(emitter.try_emit(RawEvent::new("a", "1")), SendOutcome::Sent);
    assert_eq!(emitter.try_emit(RawEvent::new("a", "2")), SendOutcome::Dropped);
    assert_eq!([stats.received.get(), stats.overflowed.get()], [2, 1]);
    assert!(matches!(events.recv().await, Some(SourceEvent::Published(event)) if event.payload == b"1"));
    drop(events);
    assert_eq!(emitter.try_emit(RawEvent::new("a", "3")), SendOutcome::Closed);
}

#[tokio::test]
async fn emit_waits_for_room() {
    let (emitter, mut events, stats) = emitter(1);
    let _first = emitter.emit(RawEvent::new("a", "1")).await.unwrap();
    let mut second = Box::pin(emitter.emit(RawEvent::new("a", "2")));
    assert!(timeout(Duration::from_millis(20), &mut second).await.is_err());
    events.recv().await.unwrap();
    let _second = timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!([stats.received.get(), stats.overflowed.get()], [2, 0]);
}

#[tokio::test]
async fn an_event_is_acknowledged_only_after_the_stages_have_run() {
    let fanout = Fanout::builder().shards(1).build();
    let (inbox, mut waiting) = inbox::channel(1, usize::MAX);
    let stats = Arc::<SourceStats>::default();
    let capabilities = Capabilities { durable: true, ..Capabilities::PASSING };
    let state = StateBoard::default().slot("test".into());
    let emitter =
        Emitter::new(inbox, SourceId::DEFAULT, BrokerStatus::new("test".to_owned(), capabilities, state, stats));
    let mut receipt = emitter.emit(RawEvent::new("a", "1")).await.unwrap();
    assert!(timeout(Duration::from_millis(20), &mut receipt).await.is_err());
    let (decode_inbox, _stats) = start_stages(&fanout);
    decode_inbox.send(waiting.recv().await.unwrap()).await.unwrap();
    assert_eq!(timeout(PATIENCE, receipt).await.unwrap(), Ok(()));
    assert!(fanout.handle().stats().broadcast.get() >= 1);
}

#[tokio::test]
async fn valid_and_rejected_events_are_acknowledged() {
    let fanout = Fanout::builder().shards(1).build();
    let (inbox, stats) = start_stages(&fanout);
    let mut script = Script::new(&[Session::Emit("a1"), Session::Emit("no route"), Session::Emit("a2")]);
    timeout(PATIENCE, Supervisor::new(inbox).run(&mut script)).await.unwrap().unwrap();
    assert_eq!(script.receipts, [Ok(()); 3]);
    assert_eq!([stats.decoded.get(), stats.rejected.get()], [2, 1]);
}

#[tokio::test]
async fn an_event_that_the_ended_pipeline_loses_is_not_acknowledged() {
    let fanout = Fanout::builder().shards(1).build();
    let (inbox, _stats) = start_stages(&fanout);
    fanout.shutdown().await;
    // The second is never emitted: the supervisor ends with the pipeline.
    let mut script = Script::new(&[Session::Emit("a1"), Session::Emit("a2")]);
    timeout(PATIENCE, Supervisor::new(inbox).run(&mut script)).await.unwrap().unwrap();
    assert_eq!(script.receipts, [Err(NotAcknowledged)]);
}
