//! The traffic of `tallycast demo`: the sandbox's generator in the place of Redis, and the scores and posts that it makes.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;

use sandbox::{Generator, Update};
use tokio_stream::{Stream, StreamExt};

use crate::snapshot::Memory;
use crate::source::{Item, RawEvent};
use tallycast_fanout::{Namespace, Tally};

/// The newest posts of each emoji that there are from the start.
const POSTS: u16 = 10;

/// A generator and the store that it fills.
#[derive(Debug)]
pub struct Demo {
    generator: Generator,
    memory: Arc<Memory>,
}

impl Demo {
    /// The traffic of `seed`. The store has its scores and posts from before the first update.
    pub fn new(seed: u64) -> Self {
        let generator = Generator::new(seed);
        let memory = Arc::<Memory>::default();
        for (emoji, score) in generator.standings() {
            memory.add(&emoji.id, score as i64);
        }
        for Update { id, tweet } in generator.backlog(POSTS) {
            memory.post(&id, &tweet);
        }
        Self { generator, memory }
    }

    /// The scores and posts.
    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// What an Emojitracker feeder would publish for `rate` updates a second: of each the score, then the post. Before
    /// that, the scores as the totals of `totals`.
    pub fn items(self, rate: NonZeroU32, totals: Vec<Namespace>) -> impl Stream<Item = Item> {
        let Self { generator, memory } = self;
        async_stream::stream! {
            let scores: Tally =
                generator.standings().map(|(emoji, score)| (emoji.id.to_string(), score as i64)).collect();
            for namespace in totals {
                yield Item::Totals { namespace, totals: scores.clone() };
            }
            let mut updates = pin!(sandbox::paced(generator, rate));
            while let Some(batch) = updates.next().await {
                for Update { id, tweet } in batch {
                    memory.add(&id, 1);
                    memory.post(&id, &tweet);
                    let score = RawEvent::new("stream.score_updates".to_owned(), id.as_bytes().to_vec());
                    yield Item::Event(score);
                    yield Item::Event(RawEvent::new(format!("stream.tweet_updates.{id}"), tweet.into_bytes()));
                }
            }
        }
    }
}
