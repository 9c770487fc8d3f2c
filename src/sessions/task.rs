//! Keeps the lease of this node, writes which connections have ended, ends sessions whose time is over, and clears up nodes that have died.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command::Command;
use super::local::{Gone, Known, Local, Registered};
use super::memory::MemoryStore;
use super::redis::{RedisStore, Refused};
use super::spec::{Policy, SessionName, StreamOptions};
use super::store::{ConnectError, Listed, Opening, Unavailable};
use super::{SessionStats, Timing, spec};
use crate::nodes::{NodeId, NodesError, Renewal};
use crate::rate_limited_log::RateLimitedLog;

/// Time between two turns, unless a connection ends.
const PERIOD: Duration = Duration::from_millis(200);
/// Renewals of a lease in its time.
const RENEWALS: u32 = 3;
/// Time for the last connections to be written at the shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Connections whose ends wait for Redis. With more, the node begins another life, and the ends of all of this one are written by its heir.
pub(super) const MAX_GONE: usize = 200_000;
/// Sessions whose state is read together.
const STATE_BATCH: usize = 256;
/// Connections that are registered again at the same time.
const REGISTRATIONS: usize = 256;
/// Ends that are written together.
const GONE_BATCH: usize = 1024;
/// Why a connection is closed that Redis no longer has, when its session is gone or another one has its name.
const ENDED: &str = "the session has ended";
/// And when its session keeps only the newest one.
const REPLACED: &str = "replaced by a newer connection";

/// The task of a node that shares its sessions.
pub(super) struct Task {
    pub(super) store: RedisStore,
    pub(super) local: Arc<Local>,
    pub(super) life: watch::Sender<NodeId>,
    pub(super) stats: Arc<SessionStats>,
    pub(super) timing: Timing,
    /// When the lease was renewed last; never before the first time, and after a failure.
    pub(super) renewed_at: Option<Instant>,
    /// Since when each renewal has succeeded.
    pub(super) steady_since: Option<Instant>,
    pub(super) looked_at: Option<Instant>,
    /// Whether this life had a lease.
    pub(super) has_begun: bool,
    pub(super) is_failing: bool,
    /// Ends of connections are forgotten, which an heir has to write.
    pub(super) needs_life: bool,
    /// Not all connections are registered under this life.
    pub(super) needs_registration: bool,
    /// Publications that Redis had refused at the last look.
    pub(super) refused: Option<u64>,
    pub(super) log: RateLimitedLog,
}

impl Task {
    pub(super) fn new(
        store: RedisStore,
        local: Arc<Local>,
        life: watch::Sender<NodeId>,
        stats: Arc<SessionStats>,
        timing: Timing,
    ) -> Self {
        Self {
            store,
            local,
            life,
            stats,
            timing,
            renewed_at: None,
            steady_since: None,
            looked_at: None,
            has_begun: false,
            is_failing: false,
            needs_life: false,
            needs_registration: false,
            refused: None,
            log: RateLimitedLog::new(),
        }
    }

    /// Runs until `stop` is cancelled, and then ends the lease if everything is written.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.local.ended.notified() => {}
                () = stop.cancelled() => break,
            }
            self.turn().await;
        }
        if timeout(CLOSE_LIMIT, self.leave()).await.is_err() {
            tracing::debug!("the connections of sessions could not be removed from Redis; another node does it");
        }
    }

    async fn leave(&mut self) {
        loop {
            match self.flush().await {
                Ok(()) => break,
                Err(_) => sleep(PERIOD).await,
            }
        }
        if self.needs_life {
            // Only when the lease expires does an heir write the ends that are forgotten.
            return;
        }
        let life = self.life.borrow().clone();
        if let Err(error) = self.store.nodes.leave(&life, &[super::redis::channel(life.as_str())]).await {
            tracing::debug!(%error, "the lease could not be ended; it expires");
        }
    }

    async fn turn(&mut self) {
        let outcome = self.try_turn().await;
        // While Redis is away, too: then the list grows.
        self.needs_life |= self.local.forget_gone_over(MAX_GONE);
        match outcome {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                self.stats.failures.add(1);
                (self.renewed_at, self.steady_since) = (None, None);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "cannot share sessions through Redis; retrying");
                }
                // The ends of connections must not make it try at once.
                sleep(PERIOD).await;
            }
        }
    }

    async fn try_turn(&mut self) -> Result<(), NodesError> {
        if self.needs_life {
            self.begin_life().await?;
        }
        self.renew().await?;
        self.needs_registration |= self.local.take_misplaced();
        // One connection that cannot be registered must not stop everything else.
        let registered = if self.needs_registration { self.register().await } else { Ok(()) };
        self.catch_up().await?;
        self.flush().await?;
        if self.looked_at.is_some_and(|at| at.elapsed() < self.timing.look) {
            return registered;
        }
        self.looked_at = Some(Instant::now());
        self.expire().await?;
        // After an outage of Redis, all nodes must have had the time to renew their leases.
        if self.steady_since.is_some_and(|since| since.elapsed() >= self.timing.grace) {
            self.inherit().await?;
        }
        registered
    }

    /// Renews the lease when it is due. If it was lost, the connections are registered again.
    async fn renew(&mut self) -> Result<(), NodesError> {
        let nodes = self.store.nodes.clone();
        if self.renewed_at.is_some_and(|at| at.elapsed() < nodes.lease() / RENEWALS) {
            return Ok(());
        }
        let began = Instant::now();
        let life = self.life.borrow().clone();
        match nodes.renew(&life, &[]).await? {
            Renewal::Kept(_) => {}
            Renewal::New if !self.has_begun => {}
            Renewal::New => {
                self.local.was_lost();
                self.register().await?;
            }
            Renewal::Ended => {
                tracing::warn!(node = %life, "other nodes took this one for dead; its sessions are registered again");
                self.begin_life().await?;
            }
        }
        self.has_begun = true;
        self.renewed_at = Some(began);
        self.steady_since.get_or_insert(began);
        Ok(())
    }

    /// Begins another life. What the last one has left is cleared up by its heir.
    async fn begin_life(&mut self) -> Result<(), NodesError> {
        let (began, life) = (Instant::now(), NodeId::new(self.life.borrow().name()));
        self.store.nodes.renew(&life, &[]).await?;
        (self.renewed_at, self.has_begun, self.needs_life) = (Some(began), true, false);
        self.life.send_replace(life);
        self.register().await
    }

    /// Registers all connections that are not registered under this life, some at a time. The lease goes on meanwhile.
    async fn register(&mut self) -> Result<(), NodesError> {
        // If it fails, those that are left have to be registered later.
        self.needs_registration = true;
        let life = self.life.borrow().clone();
        let all = self.local.begin_life(&life);
        let mut outcome = Ok(());
        for batch in all.chunks(REGISTRATIONS) {
            let mut tasks = JoinSet::new();
            for registered in batch {
                let (store, local) = (self.store.clone(), Arc::clone(&self.local));
                tasks.spawn(register(store, local, life.clone(), registered.clone()));
            }
            // One that fails does not keep the others from it.
            while let Some(registered) = tasks.join_next().await {
                // One that panics has no outcome.
                outcome = outcome.and(registered.unwrap_or(Ok(())));
            }
            // Fails if Redis is away.
            self.store.nodes.renew(&life, &[]).await?;
        }
        outcome?;
        self.needs_registration = false;
        Ok(())
    }

    /// Follows what was missed while the node did not listen: its sessions may have changed or ended. Not before they are registered,
    /// if Redis has lost its data.
    async fn catch_up(&mut self) -> Result<(), NodesError> {
        if !self.local.take_deafness() {
            return Ok(());
        }
        // Redis may have restarted since the lease was renewed, without any request that failed.
        self.renewed_at = None;
        self.renew().await.inspect_err(|_| self.local.was_deaf())?;
        let life = self.life.borrow().clone();
        for known in self.local.known(&life).chunks(STATE_BATCH) {
            self.compare(&life, known).await.inspect_err(|_| self.local.was_deaf())?;
        }
        Ok(())
    }

    /// Compares what is known of sessions with Redis.
    async fn compare(&self, life: &NodeId, known: &[Known]) -> Result<(), NodesError> {
        let names: Vec<String> = known.iter().map(|known| known.name.to_string()).collect();
        let states = self.store.get_registered(&names, life).await?;
        for (known, state) in known.iter().zip(states) {
            match state {
                Some((state, registered)) => self.follow(known, &state, &registered),
                // Still to be registered.
                None if known.registered.is_empty() => {}
                None => {
                    let ended = Some(ENDED.to_owned());
                    self.local.deliver(Command { session: known.name.to_string(), ended, ..Command::default() });
                }
            }
        }
        Ok(())
    }

    /// Closes connections that were removed meanwhile, and has the others read what their session says.
    fn follow(&self, known: &Known, state: &Listed, registered: &HashSet<u64>) {
        // First, so that they read nothing of a session to which they do not belong.
        let reason = if state.policy == Policy::Newest { REPLACED } else { ENDED };
        for number in known.registered.iter().filter(|number| !registered.contains(number)) {
            self.local.close(&known.name, *number, reason);
        }
        if state.version > known.version {
            self.local.deliver(Command {
                session: known.name.to_string(),
                version: Some(state.version),
                topics: spec::lines(state.topics.iter()),
                grant: serde_json::to_string(&state.grant).ok(),
                ..Command::default()
            });
        }
    }

    /// Writes which connections have ended.
    async fn flush(&mut self) -> Result<(), NodesError> {
        let mut gone = self.local.take_gone();
        while !gone.is_empty() {
            if let Err(error) = self.flush_some(&mut gone).await {
                self.local.put_back_gone(gone);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes the ends of some connections, and removes them from the list.
    async fn flush_some(&mut self, gone: &mut Vec<Gone>) -> Result<(), NodesError> {
        // A long list must not cost the lease.
        self.renew().await?;
        let batch: Vec<Gone> = gone.drain(..gone.len().min(GONE_BATCH)).collect();
        let Some(life) = batch.first().map(|gone| gone.life.clone()) else { return Ok(()) };
        let (ours, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(|gone| gone.life == life);
        // Those of another life have their turn later.
        gone.extend(others);
        let fields =
            |gone: &Gone| (gone.number, gone.name.to_string(), gone.position.as_deref().unwrap_or_default().to_owned());
        let written = self.store.disconnect(&life, &ours.iter().map(fields).collect::<Vec<_>>()).await;
        if written.is_err() {
            gone.extend(ours);
        }
        written
    }

    /// Ends sessions whose time is over.
    async fn expire(&mut self) -> Result<(), NodesError> {
        loop {
            let (has_more, refused) = self.store.expire().await?;
            self.note_refused(refused);
            if !has_more {
                return Ok(());
            }
        }
    }

    /// Makes it known if Redis has refused to publish something since the last look.
    fn note_refused(&mut self, Refused { count, error }: Refused) {
        let before = self.refused.replace(count);
        if before.is_some_and(|before| count > before) {
            self.stats.failures.add(1);
            self.log.log(|suppressed| {
                tracing::warn!(error, suppressed, "Redis has refused events of sessions, or commands to nodes");
            });
        }
    }

    /// Clears up nodes that have died.
    async fn inherit(&mut self) -> Result<(), NodesError> {
        let (nodes, life) = (self.store.nodes.clone(), self.life.borrow().clone());
        for dead in nodes.claim(&life).await? {
            while self.store.inherit(&dead).await? {}
            nodes.finish(&dead, &[super::redis::channel(dead.as_str())]).await?;
            tracing::info!(node = %dead, "a node has died; its connections of sessions have ended");
            self.stats.inherited.add(1);
        }
        Ok(())
    }
}

/// Registers a connection again, or closes it if its session does not take it.
async fn register(
    store: RedisStore,
    local: Arc<Local>,
    life: NodeId,
    Registered { name, number, former, spec }: Registered,
) -> Result<(), NodesError> {
    let Ok(session) = name.parse::<SessionName>() else { return Ok(()) };
    let options = StreamOptions::default();
    let opening = Opening { name: &session, spec: &spec, create: true, arrived: None, options };
    match store.connect(&life, number, &opening, former.as_ref()).await {
        Ok(connected) => {
            let grant = Arc::new(connected.grant);
            local.registered((&name, number, life), connected.version, &connected.topics, &grant);
        }
        // What cannot be read now can never be.
        Err(ConnectError::Unavailable(Unavailable(error))) if !matches!(error, NodesError::Json(_)) => {
            return Err(error);
        }
        Err(error) => local.close(&name, number, &error.to_string()),
    }
    Ok(())
}

/// The task of a node that shares nothing.
pub(super) async fn run_alone(store: MemoryStore, local: Arc<Local>, stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = local.ended.notified() => {}
            () = stop.cancelled() => return,
        }
        for Gone { number, name, position, .. } in local.take_gone() {
            store.disconnect(number, &name, position);
        }
        store.expire();
    }
}
