//! The store of scores and posts: Redis, or memory in the demo.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use redis::{ErrorKind, RedisError};
use tallycast_fanout::Counter;

use crate::redis_client::RedisClient;
use crate::totals::count_of_score;

/// Posts kept and returned for each emoji, the newest ones.
const MAX_POSTS: usize = 10;

/// The memory in Redis, in bytes, of the elements that are read from a key: they take as much here.
const MAX_READ_BYTES: u64 = 64 * 1024 * 1024;

/// A failed read. Clients see the category of the error only, never an address or a key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store cannot be read: {0}")]
pub(super) struct StoreError(String);

impl StoreError {
    /// A store that was readable before.
    pub(super) fn unavailable() -> Self {
        Self("unavailable".to_owned())
    }

    /// The server has no store.
    fn absent() -> Self {
        Self("the server has no Redis".to_owned())
    }

    fn too_large(key: &str) -> Self {
        tracing::warn!(key, limit = MAX_READ_BYTES, "not read: the elements take too much memory");
        Self(format!("the data take more than {} MiB", MAX_READ_BYTES >> 20))
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self(error.category().to_owned())
    }
}

/// The store of scores and posts.
#[derive(Debug)]
pub enum Store {
    /// Redis, as an Emojitracker feeder writes it.
    Redis {
        /// The shared client for ordinary commands.
        client: RedisClient,
        /// The key of the sorted set of scores.
        scores: String,
        /// The number of members that are read, highest scores first.
        max_scores: usize,
        /// What is counted of them.
        stats: Arc<StoreStats>,
    },
    /// The memory of this process.
    Memory(Arc<MemoryStore>),
    /// There is none: no source is Redis.
    Absent,
}

/// What the store counts. Counters only grow.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Members of the sorted set left out of rankings because they are not UTF-8.
    pub skipped_members: Counter,
}

/// Scores and posts in this process.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    scores: HashMap<String, i64>,
    posts: HashMap<String, VecDeque<String>>,
}

impl MemoryStore {
    /// Adds to a score, and returns the sum.
    pub fn add(&self, id: &str, count: i64) -> i64 {
        let mut contents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let score = contents.scores.entry(id.to_owned()).or_default();
        *score += count;
        *score
    }

    /// Adds the newest post of an emoji.
    pub fn add_post(&self, id: &str, post: &str) {
        let mut contents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let posts = contents.posts.entry(id.to_owned()).or_default();
        posts.push_front(post.to_owned());
        posts.truncate(MAX_POSTS);
    }
}

impl Store {
    /// IDs and their scores, highest score first.
    pub(super) async fn scores(&self) -> Result<Vec<(String, i64)>, StoreError> {
        match self {
            Self::Redis { client, scores, max_scores, stats } => {
                check_size(client, scores, "ZCARD", *max_scores).await?;
                let mut command = redis::cmd("ZREVRANGE");
                command.arg(scores).arg(0).arg(max_scores - 1).arg("WITHSCORES");
                let all: Vec<(Vec<u8>, f64)> = client.read(&command).await?;
                let members = all.len();
                let text = |(id, score)| Some((String::from_utf8(id).ok()?, count_of_score(score)));
                let scores: Vec<_> = all.into_iter().filter_map(text).collect();
                stats.skipped_members.add((members - scores.len()) as u64);
                Ok(scores)
            }
            Self::Memory(memory) => {
                let contents = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
                let mut scores: Vec<(String, i64)> =
                    contents.scores.iter().map(|(id, score)| (id.clone(), *score)).collect();
                // The order of ZREVRANGE.
                scores.sort_unstable_by(|(a_id, a), (b_id, b)| b.cmp(a).then_with(|| b_id.cmp(a_id)));
                Ok(scores)
            }
            Self::Absent => Err(StoreError::absent()),
        }
    }

    /// The latest posts of an emoji, newest first.
    pub(super) async fn posts(&self, id: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Redis { client, .. } => {
                let key = format!("emojitrack_tweets_{id}");
                check_size(client, &key, "LLEN", MAX_POSTS).await?;
                let mut command = redis::cmd("LRANGE");
                command.arg(key).arg(0).arg(MAX_POSTS - 1);
                let posts: Vec<Vec<u8>> = client.read(&command).await?;
                Ok(posts.iter().map(|post| String::from_utf8_lossy(post).into_owned()).collect())
            }
            Self::Memory(memory) => {
                let contents = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(contents.posts.get(id).into_iter().flatten().cloned().collect())
            }
            Self::Absent => Err(StoreError::absent()),
        }
    }

    /// Whether the store answers.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Self::Redis { client, .. } => Ok(client.query(&redis::cmd("PING")).await?),
            Self::Memory(_) => Ok(()),
            Self::Absent => Err(StoreError::absent()),
        }
    }
}

/// Refuses to read the first `count` elements of a key that are too large, where `length` is the command for the number of
/// all. Redis measures as many elements as are read, so that a few large ones do not hide among small ones. Reads any from a
/// server that does not answer.
async fn check_size(client: &RedisClient, key: &str, length: &str, count: usize) -> Result<(), StoreError> {
    let mut command = redis::cmd("MEMORY");
    command.arg("USAGE").arg(key).arg("SAMPLES").arg(count);
    let bytes: Option<u64> = match client.read(&command).await {
        // Without permission, or without this command.
        Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => None,
        answer => answer?,
    };
    let Some(bytes) = bytes.filter(|bytes| *bytes > MAX_READ_BYTES) else { return Ok(()) };
    let mut command = redis::cmd(length);
    command.arg(key);
    let length: u64 = client.read(&command).await?;
    let count = u64::try_from(count).unwrap_or(u64::MAX).min(length);
    if bytes / length.max(1) * count > MAX_READ_BYTES {
        return Err(StoreError::too_large(key));
    }
    Ok(())
}
