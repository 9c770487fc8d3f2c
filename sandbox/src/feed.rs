//! `sandbox feed`: publishes synthetic updates to Redis like an Emojitracker feeder.

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

/// Publish synthetic Emojitracker updates to Redis at an even rate
///
/// Each update is one transaction: ZINCRBY emojitrack_score 1 <ID>, PUBLISH stream.score_updates <ID>, LPUSH and LTRIM
/// emojitrack_tweets_<ID> (keeps the 10 newest posts), PUBLISH stream.tweet_updates.<ID> <post as JSON>. If
/// emojitrack_score does not exist, it is created first with scores of 858 emoji and 10 posts for each. Existing scores
/// are not reset.
///
/// While Redis is unavailable, updates are generated but not published; their number is printed after the reconnect.
/// SIGINT and SIGTERM end the run with exit code 0. Exit code 64 is an invalid option or a remote server without
/// --yes-really, 69 is a server that stays unavailable.
#[derive(Args, Clone, Debug)]
pub(crate) struct FeedArgs {
    /// Redis URL: redis://[user:password@]host[:port][/database] or redis+unix:///path. Only this machine (localhost,
    /// 127.0.0.0/8, ::1, a Unix socket) and host names without dots, such as Compose services, unless --yes-really is set
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://localhost:6379",
        value_name = "URL",
        hide_env_values = true
    )]
    redis: String,

    /// Updates per second, at most 1,000,000
    #[arg(long, env = "FEED_RATE", default_value = "250", value_name = "PER_SECOND", value_parser = rate)]
    rate: NonZeroU32,

    /// Seed of the generator; the same seed gives the same updates, but for their dates and IDs
    #[arg(long, env = "FEED_SEED", default_value_t = 1, value_name = "NUMBER")]
    seed: u64,

    /// Date posts by a clock that starts at 2026-01-01 and advances by 4 ms per post, so that dates and IDs are the same, too
    #[arg(long, env = "FEED_SIMULATED_DATES", value_parser = BoolishValueParser::new())]
    simulated_dates: bool,

    /// Stop after this time [default: run until stopped]
    #[arg(long, env = "FEED_DURATION", value_name = "SECONDS")]
    duration: Option<NonZeroU32>,

    /// Stop after this many updates, published or not [default: run until stopped]
    #[arg(long, env = "FEED_COUNT", value_name = "UPDATES")]
    count: Option<NonZeroU64>,

    /// Write the initial scores and posts if there are none, and exit without publishing
    #[arg(long, env = "FEED_INITIAL_ONLY", value_parser = BoolishValueParser::new(), conflicts_with_all = ["duration", "count"])]
    initial_only: bool,

    /// Exit if Redis is unavailable for longer than this
    #[arg(long, env = "FEED_OUTAGE_LIMIT", default_value = "300", value_name = "SECONDS")]
    outage_limit: NonZeroU32,

    /// Allow publishing to a remote server
    #[arg(long, env = "FEED_YES_REALLY", value_parser = BoolishValueParser::new())]
    yes_really: bool,
}

/// Publishes until an option or a signal ends the run.
///
/// # Errors
/// A [`TargetError`](crate::target::TargetError) for an invalid or remote server, a [`FeedError`] if Redis stays
/// unavailable or rejects a command, and other errors if the runtime cannot start.
pub(crate) fn run(args: &FeedArgs) -> Result<()> {
    let target = Target::new(&args.redis, args.yes_really)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(feed(args, &target))
}

async fn feed(args: &FeedArgs, target: &Target) -> Result<()> {
    let mut shutdown = pin!(shutdown_signal().context("cannot handle signals")?);
    let mut progress = Progress::new(args.count.map(NonZeroU64::get))?;
    let generator = Generator::new(args.seed);
    let generator = if args.simulated_dates { generator } else { generator.dated_now() };
    let server = Server::new(target, seconds(args.outage_limit), generator.clone())?;

    let started = tokio::select! {
        biased;
        () = &mut shutdown => None,
        publisher = Publisher::start(server, progress.console()) => Some(publisher?),
    };
    let Some(mut publisher) = started else { return Ok(()) };
    if args.initial_only {
        progress.console().print(&format!("{target} has scores"));
        return Ok(());
    }
    progress.start(&format!("publishing {} updates/s to {target}, seed {}", args.rate, args.seed));
    let mut timeout = pin!(sleep(args.duration.map(seconds)));
    let mut updates = pin!(paced(generator, args.rate));
    let mut remaining = args.count.map_or(u64::MAX, NonZeroU64::get);
    while remaining > 0 {
        let due = tokio::select! {
            biased;
            () = &mut shutdown => None,
            () = &mut timeout => None,
            batch = updates.next() => batch,
        };
        let Some(mut batch) = due else { break };
        batch.truncate(usize::try_from(remaining).unwrap_or(usize::MAX));
        let count = batch.len() as u64;
        remaining -= count;
        let published = publisher.publish(&batch).await?;
        progress.count(count, published);
    }
    progress.finish();
    Ok(())
}

/// Resolves at the first SIGINT or SIGTERM.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
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

/// Resolves after `duration`, or never without one.
async fn sleep(duration: Option<Duration>) {
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
