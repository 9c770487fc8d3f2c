//! Tickets: single-use, short-lived stand-ins for tokens, for URLs. They are kept in Redis, so that any node takes what another
//! has made, under a hash: who reads the keys of Redis cannot use them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::redis_client::RedisClient;

/// How long a ticket is valid.
pub const TICKET_LIFE: Duration = Duration::from_secs(30);
/// The random bytes of a ticket.
const TICKET_BYTES: usize = 32;
/// The start of the names of tickets in Redis.
const KEYS: &str = "tallycast:ticket:";
/// Tickets that are kept in memory.
const MAX_IN_MEMORY: usize = 10_000;
/// Reads and deletes at once. `GETDEL` would need Redis 6.2.
const TAKE: &str = "local token = redis.call('GET', KEYS[1]) redis.call('DEL', KEYS[1]) return token";
/// The size of the tokens that are remembered for open WebSockets, in bytes.
const MAX_REMEMBERED_BYTES: usize = 16 * 1024 * 1024;

/// Why there is no ticket, or no token for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Unknown, used or expired.
    #[error("the ticket is unknown, used or older than {} s", TICKET_LIFE.as_secs())]
    Unknown,
    /// One subject asks for too many.
    #[error("too many tickets; try again in a moment")]
    TooMany,
    /// Redis is away, or there are too many tickets.
    #[error("tickets are not available; try again in a moment")]
    Unavailable,
}

/// Where tickets are kept.
#[derive(Debug, Clone)]
pub enum TicketStore {
    /// In Redis, for all nodes.
    Redis(RedisClient),
    /// In this process.
    Memory(Arc<MemoryTickets>),
}

/// The tokens of tickets by their names, and when each was made.
#[derive(Default)]
pub struct MemoryTickets(Mutex<HashMap<String, (Instant, Box<str>)>>);

/// `Debug` leaves the tokens out.
impl std::fmt::Debug for MemoryTickets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MemoryTickets").finish_non_exhaustive()
    }
}

/// Makes and takes tickets.
#[derive(Debug)]
pub(super) struct Tickets {
    store: TicketStore,
    random: SystemRandom,
    /// The tokens of tickets that opened a WebSocket: its later commands are judged by the request that opened it.
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    tokens: HashMap<String, Box<str>>,
    order: std::collections::VecDeque<String>,
    bytes: usize,
}

/// `Debug` leaves the tokens out.
impl std::fmt::Debug for Remembered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Remembered").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl TicketStore {
    /// Tickets that are kept in this process.
    pub fn in_memory() -> Self {
        Self::Memory(Arc::default())
    }

    async fn put(&self, name: String, token: &str) -> Result<(), TicketError> {
        match self {
            Self::Redis(client) => {
                let mut command = redis::cmd("SET");
                command.arg(&name).arg(token).arg("EX").arg(TICKET_LIFE.as_secs());
                client.query::<()>(&command).await.map_err(unavailable)
            }
            Self::Memory(tickets) => {
                let mut tickets = tickets.0.lock().unwrap_or_else(PoisonError::into_inner);
                if tickets.len() >= MAX_IN_MEMORY {
                    tickets.retain(|_, (made, _)| made.elapsed() < TICKET_LIFE);
                }
                if tickets.len() >= MAX_IN_MEMORY {
                    return Err(TicketError::Unavailable);
                }
                tickets.insert(name, (Instant::now(), token.into()));
                Ok(())
            }
        }
    }

    async fn take(&self, name: &str) -> Result<Box<str>, TicketError> {
        match self {
            Self::Redis(client) => {
                let mut command = redis::cmd("EVAL");
                command.arg(TAKE).arg(1).arg(name);
                let token: Option<String> = client.query(&command).await.map_err(unavailable)?;
                token.map(Into::into).ok_or(TicketError::Unknown)
            }
            Self::Memory(tickets) => {
                let taken = tickets.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                let fresh = taken.filter(|(made, _)| made.elapsed() < TICKET_LIFE);
                fresh.map(|(_, token)| token).ok_or(TicketError::Unknown)
            }
        }
    }
}

fn unavailable(error: redis::RedisError) -> TicketError {
    tracing::debug!(%error, "no ticket");
    TicketError::Unavailable
}

impl Tickets {
    pub(super) fn new(store: TicketStore) -> Self {
        Self { store, random: SystemRandom::new(), remembered: Mutex::default() }
    }

    /// A ticket for a token that is valid.
    pub(super) async fn make(&self, token: &str) -> Result<String, TicketError> {
        let mut bytes = [0; TICKET_BYTES];
        self.random.fill(&mut bytes).map_err(|_| TicketError::Unavailable)?;
        let ticket = URL_SAFE_NO_PAD.encode(bytes);
        self.store.put(name(&ticket), token).await?;
        Ok(ticket)
    }

    /// The token of a ticket, which cannot be used again; but with `remember`, [`recall`](Self::recall) still knows it.
    pub(super) async fn take(&self, ticket: &str, remember: bool) -> Result<Box<str>, TicketError> {
        let name = name(ticket);
        let token = self.store.take(&name).await?;
        if remember {
            self.remembered.lock().unwrap_or_else(PoisonError::into_inner).add(name, token.clone());
        }
        Ok(token)
    }

    /// The token of a ticket that opened the WebSocket whose client sends a command now.
    pub(super) fn recall(&self, ticket: &str) -> Result<Box<str>, TicketError> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.tokens.get(&name(ticket)).cloned().ok_or(TicketError::Unknown)
    }
}

impl Remembered {
    /// Adds a token, and forgets the oldest ones beyond the limit.
    fn add(&mut self, name: String, token: Box<str>) {
        let size = |name: &str, token: &str| 2 * name.len() + token.len();
        self.bytes += size(&name, &token);
        self.order.push_back(name.clone());
        self.tokens.insert(name, token);
        while self.bytes > MAX_REMEMBERED_BYTES
            && let Some(oldest) = self.order.pop_front()
            && let Some(token) = self.tokens.remove(&oldest)
        {
            self.bytes -= size(&oldest, &token);
        }
    }
}

/// The name in the store of a ticket.
fn name(ticket: &str) -> String {
    let hash = digest(&SHA256, ticket.as_bytes());
    format!("{KEYS}{}", URL_SAFE_NO_PAD.encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::tests::Server;

    async fn check(ours: &Tickets, theirs: &Tickets) {
        let ticket = ours.make("token").await.unwrap();
        assert_eq!(ticket.len(), 43);
        assert_eq!(theirs.take(&ticket, false).await.as_deref(), Ok("token"));
        assert_eq!(ours.take(&ticket, false).await, Err(TicketError::Unknown));
        assert_eq!(ours.take("", false).await, Err(TicketError::Unknown));
        let ticket = ours.make("token").await.unwrap();
        assert_eq!(theirs.recall(&ticket), Err(TicketError::Unknown));
        assert_eq!(theirs.take(&ticket, true).await.as_deref(), Ok("token"));
        assert_eq!(theirs.recall(&ticket).as_deref(), Ok("token"));
        assert_eq!(theirs.take(&ticket, true).await, Err(TicketError::Unknown));
    }

    #[tokio::test]
    async fn tickets_in_redis_are_for_one_use_on_any_node() {
        let server = Server::start("tickets");
        let node = || {
            let client = crate::redis_client::open(&server.url()).unwrap();
            Tickets::new(TicketStore::Redis(RedisClient::new(client, Duration::from_secs(5))))
        };
        let (ours, theirs) = (node(), node());
        check(&ours, &theirs).await;
        let ticket = ours.make("secret").await.unwrap();
        let TicketStore::Redis(client) = &ours.store else { unreachable!() };
        let keys: Vec<String> = client.query(redis::cmd("KEYS").arg("*")).await.unwrap();
        assert!(keys.len() == 1 && keys[0].starts_with(KEYS) && !keys[0].contains(&ticket), "{keys:?}");
        let life: i64 = client.query(redis::cmd("TTL").arg(&keys[0])).await.unwrap();
        assert!((1..=30).contains(&life), "{life}");
    }

    #[tokio::test]
    async fn tickets_in_memory_are_for_one_use_and_bounded() {
        let tickets = Tickets::new(TicketStore::in_memory());
        check(&tickets, &tickets).await;
        for _ in 0..MAX_IN_MEMORY {
            tickets.make("token").await.unwrap();
        }
        assert_eq!(tickets.make("token").await, Err(TicketError::Unavailable));
    }

    #[test]
    fn remembered_tokens_are_bounded() {
        let mut remembered = Remembered::default();
        for number in 0..40_000 {
            remembered.add(number.to_string(), "t".repeat(1024).into());
        }
        assert!(remembered.bytes <= MAX_REMEMBERED_BYTES && remembered.tokens.len() == remembered.order.len());
        assert!(remembered.tokens.contains_key("39999") && !remembered.tokens.contains_key("0"));
    }
}
