//! Where scores and posts are read from.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use redis::RedisError;

use crate::redis_client::RedisClient;

/// The newest posts of an emoji that are told.
const POSTS: usize = 10;

/// Why something cannot be read. Does not tell clients more than they need to know.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store cannot be read: {0}")]
pub(super) struct StoreError(String);

impl StoreError {
    /// For a store that was read before.
    pub(super) fn away() -> Self {
        Self("it is away".to_owned())
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self(error.category().to_owned())
    }
}

/// Where scores and posts are.
#[derive(Debug)]
pub enum Store {
    /// In Redis, where an Emojitracker feeder puts them.
    Redis {
        /// Sends the commands.
        client: RedisClient,
        /// The key of the sorted set of scores.
        scores: String,
        /// Members of it that are read, those with the highest scores.
        max_scores: usize,
    },
    /// In this process.
    Memory(std::sync::Arc<Memory>),
}

/// Scores and posts in this process.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    scores: HashMap<String, i64>,
    posts: HashMap<String, VecDeque<String>>,
}

impl Memory {
    /// Adds to a score.
    pub fn add(&self, id: &str, count: i64) {
        let mut contents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *contents.scores.entry(id.to_owned()).or_default() += count;
    }

    /// Keeps a post among the newest of its emoji.
    pub fn post(&self, id: &str, post: &str) {
        let mut contents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let posts = contents.posts.entry(id.to_owned()).or_default();
        posts.push_front(post.to_owned());
        posts.truncate(POSTS);
    }
}

impl Store {
    /// IDs with their scores, the highest first.
    pub(super) async fn scores(&self) -> Result<Vec<(String, i64)>, StoreError> {
        match self {
            Self::Redis { client, scores, max_scores } => {
                let mut command = redis::cmd("ZREVRANGE");
                command.arg(scores).arg(0).arg(max_scores - 1).arg("WITHSCORES");
                let scores: Vec<(String, f64)> = client.query(&command).await?;
                Ok(scores.into_iter().map(|(id, score)| (id, score.round() as i64)).collect())
            }
            Self::Memory(memory) => {
                let contents = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
                let mut scores: Vec<(String, i64)> =
                    contents.scores.iter().map(|(id, score)| (id.clone(), *score)).collect();
                // As Redis ranks them.
                scores.sort_unstable_by(|(a_id, a), (b_id, b)| b.cmp(a).then_with(|| b_id.cmp(a_id)));
                Ok(scores)
            }
        }
    }

    /// The newest posts of an emoji, the newest first.
    pub(super) async fn posts(&self, id: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Redis { client, .. } => {
                let mut command = redis::cmd("LRANGE");
                command.arg(format!("emojitrack_tweets_{id}")).arg(0).arg(POSTS - 1);
                let posts: Vec<Vec<u8>> = client.query(&command).await?;
                Ok(posts.iter().map(|post| String::from_utf8_lossy(post).into_owned()).collect())
            }
            Self::Memory(memory) => {
                let contents = memory.0.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(contents.posts.get(id).into_iter().flatten().cloned().collect())
            }
        }
    }

    /// Whether it can be read at all.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Self::Redis { client, .. } => Ok(client.query(&redis::cmd("PING")).await?),
            Self::Memory(_) => Ok(()),
        }
    }
}
