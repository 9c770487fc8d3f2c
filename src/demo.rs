//! The traffic of `tallycast demo`: the sandbox's generators in place of Redis. Scores, posts and prices come on channels. What bots say and
//! what users are notified of are published in streams, as by other programs.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sandbox::{Generator, Notice, Notices, Prices, Talk, Tick, Update, Utterance};
use serde_json::json;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::api::emojitracker::MemoryStore;
use crate::api::realtime;
use crate::decode::Target;
use crate::publishing::{MemoryPublisher, Publication, PublishedEvents, UpdateFields};
use crate::source::{RawEvent, Selector, SourceEvent, SourceId, SourceInputs};
use crate::totals::TotalsSnapshot;
use tallycast_fanout::{EntryId, Namespace, SequenceEvent, SequenceEventKind, Tally};

/// The number of posts that each emoji has at start.
const POSTS: u16 = 10;
/// Prices per second, of all companies together.
const PRICES: NonZeroU32 = NonZeroU32::new(400).unwrap();
/// What the channels of prices start with; the symbol of the company follows.
const PRICE_CHANNEL: &str = "prices.";

/// The channel, and key of the stream, in which bots talk.
const LOUNGE: &str = "lounge";
/// Time between two messages of bots.
const TALK_PERIOD: Duration = Duration::from_secs(4);
/// The key of the stream with the notices of all users.
const NOTICES: &str = "notices";
/// Time between two notices.
const NOTICE_PERIOD: Duration = Duration::from_secs(1);
/// Messages of bots, and notices, that there are at start.
const AT_START: usize = 8;

/// Generators, and the store that they fill.
#[derive(Debug)]
pub struct Demo {
    generator: Generator,
    prices: Prices,
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
        Self { generator, prices: Prices::new(seed), memory }
    }

    /// The scores and posts.
    pub fn memory(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.memory)
    }

    /// The events of an Emojitracker feeder at `rate` updates a second: the score of each update, then its post. They
    /// start with the scores as the totals of each of `namespaces`.
    /// Prices come among them, if a channel of theirs is among the `inputs`, and what is `published`. The streams of the `inputs` are empty
    /// at the start.
    pub fn events(
        self,
        rate: NonZeroU32,
        namespaces: Vec<Namespace>,
        inputs: &SourceInputs,
        published: PublishedEvents,
    ) -> impl Stream<Item = SourceEvent> + use<> {
        let Self { generator, prices, memory } = self;
        let scores: Tally = generator.standings().map(|(emoji, score)| (emoji.id.to_string(), score as i64)).collect();
        let mut start: Vec<SourceEvent> = Vec::new();
        for stream in &*inputs.streams.borrow() {
            for kind in [SequenceEventKind::Start { after: EntryId::ZERO }, SequenceEventKind::Current] {
                start.push(SequenceEvent { sequence: Arc::clone(&stream.sequence), kind }.into());
            }
        }
        for namespace in namespaces {
            start.push(TotalsSnapshot { namespace, totals: scores.clone() }.into());
        }
        let updates = async_stream::stream! {
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
        let all_prices = Selector::Prefix(PRICE_CHANNEL.to_owned());
        let has_prices = inputs
            .selectors
            .borrow()
            .iter()
            .any(|selector| selector.covers(&all_prices) || all_prices.covers(selector));
        let ticks = async_stream::stream! {
            let mut prices = prices;
            let opening: Vec<Tick> = prices.by_ref().take(sandbox::SYMBOLS).collect();
            let mut ticks = pin!(tokio_stream::once(opening).chain(sandbox::paced(prices, PRICES)));
            while has_prices && let Some(batch) = ticks.next().await {
                for Tick { symbol, json } in batch {
                    yield RawEvent::new(format!("{PRICE_CHANNEL}{symbol}"), json).into();
                }
            }
        };
        tokio_stream::iter(start).chain(updates.merge(ticks).merge(ReceiverStream::new(published)))
    }
}

/// Publishes what bots say and what users are notified of, where routes read these streams, until the source of `publisher` ends.
pub async fn run_bots(publisher: MemoryPublisher, seed: u64, inputs: SourceInputs) {
    let is_read = |key: &str| inputs.streams.borrow().iter().any(|stream| *stream.key == *key);
    let (talks, notifies) = (is_read(LOUNGE), is_read(NOTICES));
    let bots = async {
        tokio::join!(
            async {
                if talks {
                    talk(&publisher, Talk::new(seed)).await;
                }
            },
            async {
                if notifies {
                    notify(&publisher, Notices::new(seed)).await;
                }
            },
        )
    };
    tokio::select! {
        () = publisher.closed() => {}
        _ = bots => {}
    }
}

async fn talk(publisher: &MemoryPublisher, talk: Talk) {
    for (count, Utterance { speaker, text }) in talk.enumerate() {
        if count >= AT_START {
            sleep(TALK_PERIOD).await;
        }
        let (_, data) = realtime::message(LOUNGE, speaker, &text);
        // A message that the pipeline does not take in time is left out.
        let _ = publisher.add_entry(&LOUNGE.into(), &data).await;
    }
}

async fn notify(publisher: &MemoryPublisher, notices: Notices) {
    for (count, Notice { user, number, text }) in notices.enumerate() {
        if count >= AT_START {
            sleep(NOTICE_PERIOD).await;
        }
        let created_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let message = Publication {
            source: SourceId::DEFAULT,
            target: Target::Stream { key: NOTICES.into(), topic: Some(user.to_owned()) },
            event: None,
            data: json!({"number": number, "text": text, "createdAt": created_at}).to_string(),
            sender: None,
            update: UpdateFields::default(),
            idempotency_key: None,
        };
        // As above. Its number is missing then.
        let _ = publisher.publish(&[message]).await;
    }
}
