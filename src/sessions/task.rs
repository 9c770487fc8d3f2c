//! Keeps the lease of this node, writes which connections have ended, ends sessions whose time is over, and clears up nodes that have died.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command::Command;
use super::local::{Gone, Local, Registered};
use super::memory::MemoryStore;
use super::redis::RedisStore;
use super::spec::{SessionName, StreamOptions};
use super::store::{ConnectError, Opening, Unavailable};
use super::{SessionStats, Timing, spec};
use crate::nodes::{NodeId, NodesError, Renewal};

/// Time between two turns, unless a connection ends.
const PERIOD: Duration = Duration::from_millis(200);
/// Renewals of a lease in its time.
const RENEWALS: u32 = 3;
/// Time for the last connections to be written at the shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Connections whose ends wait for Redis. With more, the node begins another life, and the ends of all of this one are written by its heir.
const MAX_GONE: usize = 200_000;
/// Sessions whose state is read together.
const STATE_BATCH: usize = 256;
/// Connections that are registered again at the same time.
const REGISTRATIONS: usize = 256;
/// Ends that are written together.
const GONE_BATCH: usize = 4096;

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
        let life = self.life.borrow().clone();
        if let Err(error) = self.store.nodes.leave(&life, &[super::redis::channel(life.as_str())]).await {
            tracing::debug!(%error, "the lease could not be ended; it expires");
        }
    }

    async fn turn(&mut self) {
        match self.try_turn().await {
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
        self.renew().await?;
        self.catch_up().await?;
        self.flush().await?;
        if self.looked_at.is_some_and(|at| at.elapsed() < self.timing.look) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        while self.store.expire().await? {}
        // After an outage of Redis, all nodes must have had the time to renew their leases.
        if self.steady_since.is_some_and(|since| since.elapsed() >= self.timing.grace) {
            self.inherit().await?;
        }
        Ok(())
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
            Renewal::New => self.register(&life).await?,
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
        let life = NodeId::new(self.life.borrow().name());
        self.store.nodes.renew(&life, &[]).await?;
        self.life.send_replace(life.clone());
        self.register(&life).await
    }

    /// Registers all connections again, some at a time. The lease goes on meanwhile.
    async fn register(&self, life: &NodeId) -> Result<(), NodesError> {
        let all = self.local.begin_life(life);
        for batch in all.chunks(REGISTRATIONS) {
            let mut tasks = JoinSet::new();
            for registered in batch {
                let (store, local) = (self.store.clone(), Arc::clone(&self.local));
                tasks.spawn(register(store, local, life.clone(), registered.clone()));
            }
            while let Some(registered) = tasks.join_next().await {
                // One that panics has no outcome.
                registered.unwrap_or(Ok(()))?;
            }
            self.store.nodes.renew(life, &[]).await?;
        }
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
        let known = self.local.names();
        for known in known.chunks(STATE_BATCH) {
            let names: Vec<String> = known.iter().map(|(name, _)| name.to_string()).collect();
            let states = self.store.get(&names).await.inspect_err(|_| self.local.was_deaf())?;
            for ((name, version), state) in known.iter().zip(states) {
                let mut command = Command { session: name.to_string(), ..Command::default() };
                match state {
                    Some(state) if state.version > *version => {
                        command.version = Some(state.version);
                        command.topics = spec::lines(state.topics.iter());
                        command.grant = serde_json::to_string(&state.grant).ok();
                    }
                    Some(_) => continue,
                    // About to be registered.
                    None if *version == 0 => continue,
                    None => command.ended = Some("the session has ended".to_owned()),
                }
                self.local.deliver(command);
            }
        }
        Ok(())
    }

    /// Writes which connections have ended.
    async fn flush(&mut self) -> Result<(), NodesError> {
        let mut gone = self.local.take_gone();
        while !gone.is_empty() {
            let batch: Vec<Gone> = gone.drain(..gone.len().min(GONE_BATCH)).collect();
            let life = batch[0].life.clone();
            // Those of another life are its heir's.
            let (ours, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(|gone| gone.life == life);
            gone.extend(others);
            let fields = |gone: &Gone| {
                (gone.number, gone.name.to_string(), gone.position.as_deref().unwrap_or_default().to_owned())
            };
            let written = self.store.disconnect(&life, &ours.iter().map(fields).collect::<Vec<_>>()).await;
            if let Err(error) = written {
                gone.extend(ours);
                if self.local.put_back_gone(gone) > MAX_GONE {
                    self.local.take_gone();
                    self.begin_life().await?;
                }
                return Err(error);
            }
        }
        Ok(())
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
    Registered { name, number, spec }: Registered,
) -> Result<(), NodesError> {
    let Ok(session) = name.parse::<SessionName>() else { return Ok(()) };
    let options = StreamOptions::default();
    let opening = Opening { name: &session, spec: &spec, create: true, arrived: None, options };
    match store.connect(&life, number, &opening).await {
        Ok(connected) => {
            let grant = Arc::new(connected.grant);
            local.registered(&name, connected.version, &connected.topics, &grant);
        }
        Err(ConnectError::Unavailable(Unavailable(error))) => return Err(error),
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
