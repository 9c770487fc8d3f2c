//! The traffic of `tallycast demo`: the sandbox's generator in place of Redis, with the scores and posts that it generates.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;

use sandbox::{Generator, Update};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::api::emojitracker::MemoryStore;
use crate::publishing::PublishedEvents;
use crate::source::{RawEvent, SourceEvent, StreamKey};
use crate::totals::TotalsSnapshot;
use tallycast_fanout::{EntryId, Namespace, SequenceEvent, SequenceEventKind, Tally};

/// The number of posts that each emoji has at start.
const POSTS: u16 = 10;

/// A generator, and the store that it fills.
#[derive(Debug)]
pub struct Demo {
    generator: Generator,
    memory: Arc<MemoryStore>,
}

impl Demo {
    /// The traffic of `seed`. The store already has scores and posts before the first update.
    pub fn new(seed: u64) -> Self {
        let generator = Generator::new(seed).dated_now();
        let memory = Arc::<MemoryStore>::default();
        for (emoji, score) in generator.standings() {
            memory.add(&emoji.id, score as i64);
        }
        for Update { id, tweet } in generator.backlog(POSTS) {
            memory.add_post(&id, &tweet);
        }
        Self { generator, memory }
    }

    /// The scores and posts.
    pub fn memory(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.memory)
    }

    /// The events of an Emojitracker feeder at `rate` updates a second: the score of each update, then its post. They
    /// start with the scores as the totals of each of `namespaces`.
    /// What is `published` comes among them. The streams with the keys `streams` are empty at the start.
    pub fn events(
        self,
        rate: NonZeroU32,
        namespaces: Vec<Namespace>,
        streams: Vec<StreamKey>,
        published: PublishedEvents,
    ) -> impl Stream<Item = SourceEvent> {
        let Self { generator, memory } = self;
        let generated = async_stream::stream! {
            let scores: Tally =
                generator.standings().map(|(emoji, score)| (emoji.id.to_string(), score as i64)).collect();
            for StreamKey { sequence, .. } in streams {
                for kind in [SequenceEventKind::Start { after: EntryId::ZERO }, SequenceEventKind::Current] {
                    yield SequenceEvent { sequence: Arc::clone(&sequence), kind }.into();
                }
            }
            for namespace in namespaces {
                yield TotalsSnapshot { namespace, totals: scores.clone() }.into();
            }
            let mut updates = pin!(sandbox::paced(generator, rate));
            while let Some(batch) = updates.next().await {
                for Update { id, tweet } in batch {
                    memory.add(&id, 1);
                    memory.add_post(&id, &tweet);
                    yield RawEvent::new("stream.score_updates", id.as_bytes()).into();
                    yield RawEvent::new(format!("stream.tweet_updates.{id}"), tweet).into();
                }
            }
        };
        generated.merge(ReceiverStream::new(published))
    }
}
