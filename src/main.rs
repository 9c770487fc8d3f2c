//! The pipeline: every channel, task and step of the shutdown, in the order of the flow.

#![expect(clippy::print_stdout, reason = "what was asked for goes to standard output; the log goes to standard error")]

mod healthcheck;
mod process;
mod reload;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use process::LogFilter;
use reload::Reload;
use tallycast::admin::{self, Admin, LiveStats, StageInboxes, StatusSource};
use tallycast::api::emojitracker::Store;
use tallycast::config::{self, Command, Config, EXIT_UNAVAILABLE, Source};
use tallycast::demo::Demo;
use tallycast::routes;
use tallycast::source::memory::MemorySource;
use tallycast::source::redis::RedisSource;
use tallycast::source::{BrokerState, Supervisor};
use tallycast::{decode, tally};
use tallycast_fanout::Fanout;
use tallycast_server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Gives memory back after a rush of clients, which the system's allocator does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The end of the live view.
type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

fn main() -> ExitCode {
    let config = match config::read(std::env::args_os()) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Healthcheck(port)) => return healthcheck::run(port),
        Err(error) => return error.print(),
    };
    let log = process::start_logging(config.log.clone(), config.log_format);
    match run(*config, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

#[tokio::main]
async fn run(config: Config, log: LogFilter) -> anyhow::Result<()> {
    process::raise_file_limit();
    let listener = tallycast_server::listen(config.address, config.send_buffer)
        .with_context(|| format!("cannot listen on {}", config.address))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let shutdown = process::shutdown_signal().context("cannot catch signals")?;
    let hangups = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;

    // What may change while the process runs.
    let (selectors, selectors_now) = watch::channel(config.routes.selectors());
    let (routes, routes_now) = watch::channel(config.routes);
    let (server, server_now) = watch::channel(config.server);
    tokio::spawn(Reload { options: config.options, routes, selectors, server, log }.run(hangups));

    // The stages and what joins them, in the order of the flow.
    let (events, decode_inbox) = mpsc::channel(config.inbox);
    let (keys, tally_inbox) = mpsc::channel(config.inbox);
    let (broker, broker_state) = watch::channel(BrokerState::Connecting);
    let fanout = Fanout::builder().config(config.fanout).inbox(config.inbox).build();
    let messages = fanout.publisher();
    let status = StatusSource {
        node: config.node.into(),
        started_at: SystemTime::now(),
        broker: broker_state,
        source: Arc::default(),
        decode: Arc::default(),
        tally: Arc::default(),
        handle: fanout.handle(),
        server: Arc::default(),
        inboxes: StageInboxes { decode: events.downgrade(), tally: keys.downgrade(), capacity: config.inbox },
    };
    let mut live_ended: Option<Ended> = None;
    let admin = config.admin.then(|| {
        let (live, ended) = LiveStats::start(status.clone(), config.shutdown_limit, shutdown.clone());
        live_ended = Some(Box::pin(ended));
        Admin { live, token: config.admin_token }
    });
    let mut reporter = JoinSet::new();
    let is_demo = matches!(config.source, Source::Demo(_));
    let supervisor =
        Supervisor::new(events).broker_state(broker).stats(Arc::clone(&status.source)).shutdown(shutdown.clone());
    let (source, store) = match config.source {
        Source::Redis(redis) => {
            let client = redis.commands();
            if let Some(interval) = config.status_interval {
                reporter.spawn(admin::report(client.clone(), interval, status.clone()));
            }
            let supervisor = supervisor.require_broker(redis.require_broker);
            let source = supervisor.run(RedisSource::new(*redis, client.clone(), selectors_now));
            let store = Store::Redis { client, scores: config.scores, max_scores: config.max_totals };
            (tokio::spawn(source), store)
        }
        Source::Demo(options) => {
            let demo = Demo::new(options.seed);
            let store = Store::Memory(demo.memory());
            let namespaces = config.totals.into_iter().map(|totals| totals.namespace).collect();
            let source = supervisor.run(MemorySource::new(demo.events(options.rate, namespaces)));
            (tokio::spawn(source), store)
        }
    };
    let decode =
        tokio::spawn(decode::run(routes_now, decode_inbox, messages.clone(), keys, Arc::clone(&status.decode)));
    let tally = tokio::spawn(tally::run(config.tally, tally_inbox, messages, Arc::clone(&status.tally)));
    // The engine ends below, once the stages before it have delivered everything.
    let server = Server::new(fanout.handle())
        .shutdown_engine(false)
        .config_watch(server_now)
        .stats(Arc::clone(&status.server))
        .fallback(routes::router(store, status.clone(), admin))
        .serve(listener)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    tracing::info!(%address, node = %status.node, "serving");
    if is_demo {
        println!(
            "tallycast demo: open http://localhost:{0} or curl http://localhost:{0}/subscribe/eps",
            address.port()
        );
    }

    // The source ends at a signal, or because the broker is required and absent. Each stage then ends when the one
    // before it has and its inbox is empty, so that all that was taken in is sent out.
    let outcome = source.await.context("the source failed")?.context("the broker is required");
    shutdown.cancel();
    let drain = async {
        decode.await.context("the decode stage failed")?;
        tally.await.context("the tally stage failed")?;
        fanout.join().await;
        if let Some(ended) = live_ended {
            ended.await;
        }
        server.await.context("the server failed")?.context("the server failed")
    };
    match tokio::time::timeout(config.shutdown_limit, drain).await {
        Ok(drained) => drained?,
        Err(_) => tracing::warn!("shut down at the time limit, with streams cut off"),
    }
    reporter.shutdown().await;
    tracing::info!(counters = %status.counters(), "stopped");
    outcome
}
