//! Requests that wait until nodes have acted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::command::Acknowledgement;
use super::store::SessionError;
use crate::nodes::MAX_NODES;

/// Requests that may wait at the same time.
pub(super) const MAX_WAITING: usize = 4096;
/// Time for the nodes to act.
const LIMIT: Duration = Duration::from_secs(2);

/// The requests of this node that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Mutex<HashMap<u64, mpsc::Sender<Acknowledgement>>>,
    newest: AtomicU64,
}

/// A request that waits until it is dropped.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pending: &'a Pending,
    pub(super) number: u64,
    answers: mpsc::Receiver<Acknowledgement>,
}

impl Pending {
    /// Begins to wait.
    pub(super) fn request(&self) -> Result<Request<'_>, SessionError> {
        let number = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answers) = mpsc::channel(MAX_NODES);
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            return Err(SessionError::Busy(MAX_WAITING));
        }
        waiting.insert(number, sender);
        Ok(Request { pending: self, number, answers })
    }

    /// Passes an answer on. A request that does not wait any more needs none.
    pub(super) fn complete(&self, answer: Acknowledgement) {
        if let Some(sender) = self.lock().get(&answer.acknowledged) {
            let _ = sender.try_send(answer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Acknowledgement>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request<'_> {
    /// The answers of the nodes that were told, each once, as far as they come in time.
    pub(super) async fn answers(mut self, told: &[String]) -> Vec<Acknowledgement> {
        let deadline = Instant::now() + LIMIT;
        let mut answers: Vec<Acknowledgement> = Vec::new();
        while answers.len() < told.len() {
            let Ok(Some(answer)) = timeout_at(deadline, self.answers.recv()).await else { break };
            if told.contains(&answer.life) && !answers.iter().any(|known| known.life == answer.life) {
                answers.push(answer);
            }
        }
        answers
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.number);
    }
}
