//! The clients of one server: a constant number that come and go.

use std::sync::Arc;

use anyhow::Context;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{behavior::Behaviors, client, counters::Counters, endpoint::Endpoint};

/// Clients that connect at the same time: far fewer than the usual listen backlog of 4,096.
const OPENING: usize = 64;

/// The clients of one server.
#[derive(Debug)]
pub(super) struct Fleet {
    size: watch::Sender<usize>,
    counters: Arc<Counters>,
}

impl Fleet {
    /// A fleet without clients, which runs on `runtime` until it is dropped.
    pub(super) fn start(runtime: &Handle, endpoint: Arc<Endpoint>, behaviors: Behaviors) -> Self {
        let (size, sizes) = watch::channel(0);
        let counters = Arc::<Counters>::default();
        runtime.spawn(run(endpoint, behaviors, sizes, Arc::clone(&counters)));
        Self { size, counters }
    }

    /// Changes the number of clients. With 0 all leave at once, without a farewell.
    pub(super) fn resize(&self, clients: usize) {
        self.size.send_replace(clients);
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }
}

async fn run(
    endpoint: Arc<Endpoint>,
    mut behaviors: Behaviors,
    mut sizes: watch::Receiver<usize>,
    counters: Arc<Counters>,
) {
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut clients = JoinSet::new();
    loop {
        let size = *sizes.borrow_and_update();
        if size == 0 {
            clients.shutdown().await;
        }
        while clients.len() < size {
            let behavior = behaviors.draw();
            clients.spawn(client::run(endpoint.clone(), behavior, counters.clone(), opening.clone()));
        }
        tokio::select! {
            changed = sizes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended.context("a client panicked").flatten() {
                    counters.fail(&error);
                }
            }
        }
    }
}
