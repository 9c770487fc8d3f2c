//! Does in the engine what sessions on this node are to read, and answers those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::{CloseReason, ControlError, Handle, Message, Namespace, Subscription};
use tokio::task::JoinSet;

use super::SessionStats;
use super::command::{Acknowledgement, SessionMessage};
use super::local::{Local, Reply, Work};
use super::spec::SessionName;

/// Sessions that are served together.
const BATCH: usize = 256;
/// The pause before a connection is changed again that was busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The namespace of messages to a session that name none.
pub const MESSAGE_NAMESPACE: &str = "/session";

/// What came of the work for one session.
struct Done {
    name: Arc<str>,
    replies: Vec<Reply>,
    connections: usize,
    /// Some connections were busy, and have to be changed later.
    is_busy: bool,
}

/// Serves sessions until the process ends. `acknowledge` gets what is done for those who wait.
pub(super) async fn run<F: Future<Output = ()>>(
    local: Arc<Local>,
    engine: Handle,
    stats: Arc<SessionStats>,
    acknowledge: impl Fn(Vec<(String, Acknowledgement)>) -> F,
) {
    loop {
        let mut tasks = JoinSet::new();
        for work in local.work(BATCH).await {
            tasks.spawn(serve(Arc::clone(&local), engine.clone(), Arc::clone(&stats), work));
        }
        let mut answers = Vec::new();
        let mut is_busy = false;
        while let Some(done) = tasks.join_next().await {
            let Ok(Done { name, replies, connections, is_busy: busy }) = done else { continue };
            if busy {
                is_busy = true;
                local.put_back(&name, replies);
                continue;
            }
            let answer = |Reply { request, life }| (life, Acknowledgement::new(request, connections));
            answers.extend(replies.into_iter().map(answer));
        }
        if !answers.is_empty() {
            acknowledge(answers).await;
        }
        if is_busy {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }
}

impl Acknowledgement {
    /// That of a node which adds its life.
    fn new(request: u64, connections: usize) -> Self {
        Self { acknowledged: request, life: String::new(), connections }
    }
}

async fn serve(local: Arc<Local>, engine: Handle, stats: Arc<SessionStats>, work: Work) -> Done {
    let Work { name, version, topics, grant, changes, messages, closes, connections, replies } = work;
    let mut done = Done { name: Arc::clone(&name), replies, connections: connections.len(), is_busy: false };
    let Ok(session) = name.parse::<SessionName>() else { return done };
    for (number, id, options) in changes {
        let grant = Some(Arc::new(grant.grant(&session, &topics, &options)));
        match engine.change(id, Subscription { topics: topics.clone(), grant, resume: None }).await {
            Ok(()) => {
                stats.applied.add(1);
                local.applied(&name, number, version);
            }
            Err(ControlError::Busy(_) | ControlError::Unavailable(_)) => done.is_busy = true,
            // Its end is reported by its watch.
            Err(ControlError::NotConnected(_) | ControlError::TooFarBehind(_)) => {}
        }
    }
    for message in messages.iter().filter_map(|message| self::message(message)) {
        for id in &connections {
            match engine.send(*id, message.clone()).await {
                Ok(()) => stats.sent.add(1),
                Err(_) => stats.dropped.add(1),
            }
        }
    }
    for (id, reason) in closes {
        // Its end is reported by its watch.
        let _ = engine.close(id, CloseReason::Requested(reason)).await;
    }
    done
}

/// The message as the engine sends it.
fn message(SessionMessage { namespace, event, data }: &SessionMessage) -> Option<Message> {
    let namespace: Namespace = namespace.as_deref().unwrap_or(MESSAGE_NAMESPACE).parse().ok()?;
    let event = event.as_deref().filter(|event| !event.is_empty()).map(Into::into);
    Some(Message { event, ..Message::text(namespace, data.as_str()) })
}
