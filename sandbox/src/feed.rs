//! `sandbox feed`: publishes made-up updates to Redis as an Emojitracker feeder does.

mod progress;
mod publisher;
mod server;

use std::future::Future;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::BoolishValueParser;
use sandbox::{Generator, MAX_RATE, paced};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;

use self::progress::Progress;
pub(crate) use self::publisher::FeedError;
use self::publisher::Publisher;
use self::server::Server;
use crate::target::Target;

/// Publish made-up Emojitracker updates to Redis, at an even rate
///
/// For each update, in one transaction: ZINCRBY emojitrack_score 1 <ID>, PUBLISH stream.score_updates <ID>, LPUSH and LTRIM
/// emojitrack_tweets_<ID> (the 10 newest posts stay), PUBLISH stream.tweet_updates.<ID> <post as JSON>. Where
/// emojitrack_score does not exist, it gets a score for each of 858 emoji first, and the lists of posts get 10 each; an
/// existing one is left as it is.
///
/// When Redis goes away, updates go on being made but are not published; how many these were is told when it is back.
/// SIGINT and SIGTERM end the run with exit code 0. A wrong option, or a server that is not meant, is exit code 64; a server
/// that stays away is 69.
#[derive(Args, Clone, Debug)]
pub(crate) struct FeedArgs {
    /// Where to publish: redis://[user:password@]host[:port][/database] or redis+unix:///path. Without --yes-really only
    /// this machine (localhost, 127.0.0.0/8, ::1, a socket) and host names without dots, as compose services have
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://localhost:6379",
        value_name = "URL",
        hide_env_values = true
    )]
    redis: String,

    /// Updates a second, at most 1,000,000
    #[arg(long, env = "FEED_RATE", default_value = "250", value_name = "PER_SECOND", value_parser = rate)]
    rate: NonZeroU32,

    /// The same seed gives the same updates
    #[arg(long, env = "FEED_SEED", default_value_t = 1, value_name = "NUMBER")]
    seed: u64,

    /// End after this time [default: do not end]
    #[arg(long, env = "FEED_DURATION", value_name = "SECONDS")]
    duration: Option<NonZeroU32>,

    /// End after this many updates, published or not [default: do not end]
    #[arg(long, env = "FEED_COUNT", value_name = "UPDATES")]
    count: Option<NonZeroU64>,

    /// Give up when Redis is away for longer than this
    #[arg(long, env = "FEED_OUTAGE_LIMIT", default_value = "300", value_name = "SECONDS")]
    outage_limit: NonZeroU32,

    /// Publish to a server that may be somebody's real one
    #[arg(long, env = "FEED_YES_REALLY", value_parser = BoolishValueParser::new())]
    yes_really: bool,
}

/// Publishes until told to end, by an option or a signal.
///
/// # Errors
/// A [`TargetError`](crate::target::TargetError) for a server that is not meant, a [`FeedError`] when Redis stays away or
/// refuses, others when the process cannot get what it needs to run.
pub(crate) fn run(args: &FeedArgs) -> Result<()> {
    let target = Target::new(&args.redis, args.yes_really)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(feed(args, &target))
}

async fn feed(args: &FeedArgs, target: &Target) -> Result<()> {
    let mut signalled = pin!(signalled().context("cannot handle signals")?);
    let mut progress = Progress::new(args.count.map(NonZeroU64::get))?;
    let generator = Generator::new(args.seed);
    let server = Server::new(target, seconds(args.outage_limit), generator.clone())?;

    let started = tokio::select! {
        biased;
        () = &mut signalled => None,
        publisher = Publisher::start(server, progress.lines()) => Some(publisher?),
    };
    let Some(mut publisher) = started else { return Ok(()) };
    progress.start(&format!("publishing {} updates/s to {target}, seed {}", args.rate, args.seed));
    let mut over = pin!(passed(args.duration.map(seconds)));
    let mut updates = pin!(paced(generator, args.rate));
    let mut left = args.count.map_or(u64::MAX, NonZeroU64::get);
    while left > 0 {
        let due = tokio::select! {
            biased;
            () = &mut signalled => None,
            () = &mut over => None,
            batch = updates.next() => batch,
        };
        let Some(mut batch) = due else { break };
        batch.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let count = batch.len() as u64;
        left -= count;
        let published = publisher.publish(&batch).await?;
        progress.count(count, published);
    }
    progress.finish();
    Ok(())
}

/// Ends at the first SIGINT or SIGTERM.
fn signalled() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn seconds(seconds: NonZeroU32) -> Duration {
    Duration::from_secs(seconds.get().into())
}

/// Ends after `duration`; without one never.
async fn passed(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .ok()
        .filter(|rate| *rate <= MAX_RATE)
        .ok_or_else(|| format!("expected a whole number from 1 to {MAX_RATE}"))
}
