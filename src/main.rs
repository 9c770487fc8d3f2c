//! The pipeline: every channel, task and step of the shutdown, in flow order.

#![expect(clippy::print_stdout, reason = "requested output goes to standard output; the log goes to standard error")]

mod broker;
mod drain;
mod greeting;
mod handover;
mod healthcheck;
mod listening;
mod process;
mod reload;
mod systemd;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use greeting::Greeting;
use listening::{Listening, Passed};
use process::LogFilter;
use systemd::Notifier;
use tallycast::admin::{Admin, Inspector, LiveConfig, LiveStats, RecentLog, StageInboxes, StatusSource};
use tallycast::api::contracts::{self, Contracts};
use tallycast::api::mercure::{self, Hub};
use tallycast::api::native::Publishing;
use tallycast::api::presence_events;
use tallycast::api::push;
use tallycast::auth::Auth;
use tallycast::config::{
    self, Command, Config, EXIT_UNAVAILABLE, EffectiveOption, SourceConfig, SourceKind, Supervisor as Systemd,
};
use tallycast::presence::Presence;
use tallycast::routes::{Services, Subscriptions};
use tallycast::source::{StateBoard, Supervisor};
use tallycast::trace::Tracing;
use tallycast::{decode, routes, tally};
use tallycast_fanout::{Fanout, inbox};
use tallycast_server::Server;
use tokio::runtime::Runtime;

/// Returns memory to the system after a rush of clients, which the system's allocator does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let config = match config::read(std::env::args_os()) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Healthcheck(address)) => return healthcheck::run(address),
        Ok(Command::CheckToken(config, token)) => return process::check_token(*config, &token),
        Ok(Command::Client(command)) => return process::run_client(*command),
        Err(error) => return error.print(),
    };
    let (log, recent_log) = process::start_logging(config.log.clone(), config.log_format);
    let systemd = Systemd::from_env();
    let outcome = Passed::take(&systemd).and_then(|passed| {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let outcome = runtime.block_on(run(*config, (log, recent_log), systemd, passed));
        // Dropping it would wait for a stage that is computing when the time for the shutdown is over.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

async fn run(
    config: Config,
    (log, recent_log): (LogFilter, RecentLog),
    systemd: Systemd,
    passed: Passed,
) -> anyhow::Result<()> {
    let files = process::raise_file_limit();
    process::warn_of_exposed_admin(&config);
    let listening = Listening::open(passed, &systemd, &config.restart, config.address, config.send_buffer).await?;
    let address = listening.address();
    let is_tls = config.server.tls.is_some();
    let steps = drain::Steps::default();
    let notifier = Notifier::new(&systemd);
    let stop_limit = config.drain.limit() + config.shutdown_limit;
    tokio::spawn(notifier.clone().run(systemd.watchdog, steps.terminating.clone(), stop_limit));
    process::cancel_at_signal(steps.terminating.clone()).context("cannot catch signals")?;
    let totals = config.broker.totals.clone();
    let (kinds, totals_interval) = (config.broker.kinds(), config.broker.totals_interval());
    let shown_key = config.demo_key.filter(|_| config.options.iter().any(EffectiveOption::is_default_route));
    let initial = reload::Initial {
        // The configuration allows no more.
        sources: u8::try_from(config.broker.sources.len()).unwrap_or(u8::MAX),
        options: config.options,
        routes: config.routes,
        server: config.server,
        admin_token: config.admin_token,
        publish_keys: config.publish_keys,
        tokens: config.tokens,
    };
    let reloadable = reload::start(initial, files, log, notifier.clone()).context("cannot catch SIGHUP")?;
    let is_demo = matches!(config.broker.sources[..], [SourceConfig { kind: SourceKind::Demo(_), .. }]);

    // The channels, and the engine behind them.
    let (events, decode_inbox) = inbox::channel(config.inbox, config.inbox_bytes);
    let (keys, tally_inbox) = inbox::channel(config.inbox, config.inbox_bytes);
    let inspector = Arc::<Inspector>::default();
    let fanout = Fanout::builder().config(config.fanout).tap(Arc::clone(&inspector) as _).build();
    let inboxes = StageInboxes { decode: events.downgrade(), tally: keys.downgrade() };
    let status =
        StatusSource::new(config.node, StateBoard::default(), fanout.handle(), inboxes, steps.terminating.clone());
    tokio::spawn(steps.clone().run(config.drain, fanout.handle()));

    // The stages.
    let tracing = Tracing::start(config.trace_sample, config.otlp, &status.node, &status.trace);
    let supervisor = Supervisor::new(events)
        .stats(Arc::clone(&status.source))
        .tracer(tracing.tracer.clone())
        .shutdown(steps.shutdown.clone());
    let broker::Started { source, store, push, redis, publisher, tickets, reports, cluster } =
        broker::start(config.broker, supervisor, &reloadable.routes, reloadable.sources, &status, &steps.shutdown);
    if redis.is_none() && !is_demo {
        tracing::warn!(
            "no Redis: sessions, subscriptions and tickets are those of this process alone, and there are no status reports; name a server \
             with --redis-url if you need them"
        );
    }
    let live = LiveConfig {
        inspector,
        cluster: cluster.clone(),
        server: reloadable.server.clone(),
        kinds,
        is_read_only: config.admin_read_only,
        totals_interval,
        close_limit: config.shutdown_limit,
    };
    let live = config.admin.then(|| LiveStats::start(status.clone(), live, steps.shutdown.clone()));
    let auth =
        reloadable.tokens.borrow().is_enabled().then(|| {
            Auth::start(reloadable.tokens.clone(), tickets, reloadable.server.clone(), Arc::clone(&status.auth))
        });
    let (presence, presence_events) = config
        .subscriptions
        .then(|| Presence::start(&status.node, redis.clone(), Arc::clone(&status.presence)))
        .unzip();
    // Dropped where no route leads to their topics.
    let presence_events = presence_events.filter(|_| reloadable.routes.borrow().has_topics()).map(|events| {
        let (routes, publisher) = (reloadable.routes.clone(), publisher.clone());
        let shutdown = steps.shutdown.clone();
        tokio::spawn(presence_events::run(events, routes, publisher, config.mercure.is_some(), shutdown))
    });
    let mercure = auth.clone().zip(config.mercure).map(|(auth, config)| {
        Arc::new(Hub {
            config,
            auth,
            publisher: publisher.clone(),
            routes: reloadable.routes.clone(),
            engine: fanout.handle(),
            presence: presence.clone(),
            stats: Arc::clone(&status.publishing),
        })
    });
    let contracts = Contracts::start(
        config.contracts,
        contracts::Shared {
            status: status.clone(),
            redis,
            publisher: publisher.clone(),
            auth: auth.clone(),
            cluster: cluster.clone(),
            routes: reloadable.routes.clone(),
            server: reloadable.server.clone(),
            shutdown: steps.shutdown.clone(),
        },
    );
    let push = push::start(
        push,
        &push::Shared {
            publisher: publisher.clone(),
            routes: reloadable.routes.clone(),
            max_body: config.max_publish_bytes,
            key_servers: config.key_servers,
            stats: Arc::clone(&status.push),
            auth_stats: Arc::clone(&status.auth),
        },
    );
    let push = push.context("a push source cannot start")?;
    let publishing = Publishing {
        publisher,
        auth: auth.clone(),
        keys: reloadable.publish_keys,
        routes: reloadable.routes.clone(),
        totals,
        max_body: config.max_publish_bytes,
        stats: Arc::clone(&status.publishing),
    };
    let decode = decode::run(reloadable.routes, decode_inbox, fanout.publisher(), keys, Arc::clone(&status.decode));
    let decode = tokio::spawn(decode);
    let tally = tally::run(config.tally, tally_inbox, fanout.publisher(), Arc::clone(&status.tally));
    let tally = tokio::spawn(tally);
    let subscriptions =
        presence.clone().map(|presence| Subscriptions { presence, token: reloadable.admin_token.clone() });
    let admin = live.clone().map(|live| Admin {
        live,
        options: reloadable.options,
        sessions: contracts.session_list(),
        log: recent_log,
        token: reloadable.admin_token,
        trusts_machine: is_demo || address.ip().to_canonical().is_loopback(),
    });
    let services = Services {
        store,
        publishing,
        push,
        mercure: mercure.clone(),
        contracts: contracts.clone(),
        subscriptions,
        status: status.clone(),
        admin,
        demo: is_demo,
        server: reloadable.server.clone(),
    };
    let mut server = Server::new(fanout.handle())
        // The engine ends below, after the stages before it.
        .shutdown_engine(false)
        .config_watch(reloadable.server)
        .stats(Arc::clone(&status.server))
        .fallback(routes::router(services));
    if let Some(auth) = auth {
        server = server.authorizer(auth);
    }
    if let Some(hub) = mercure {
        server = server.contract(mercure::Subscriptions(hub));
    }
    server = contracts.add_to(server);
    if let Some(presence) = &presence {
        server = server.observer(presence.observer());
    }
    // Where another process may be serving, this one first waits until it is ready, too.
    let mut accepting = match listening.when_ready(status.broker.clone(), &source, &steps).await {
        Ok(accepting) => accepting,
        Err(error) => {
            // Why the source has ended, if it has, says more.
            if source.is_finished() {
                source.await.context("the source failed")?.context("the broker is required")?;
            }
            return Err(error);
        }
    };
    let server = tokio::spawn(accepting.serve(server, &steps)?.into_future());
    tracing::info!(%address, node = %status.node, "serving");
    notifier.ready();
    accepting.replace().await;
    if is_demo {
        let is_terminal = std::io::stdout().is_terminal();
        print!("{}", Greeting { address, is_tls, has_admin: config.admin, key: shown_key, is_terminal });
    }

    // The shutdown. The source ends after a signal and the drain, or because the broker is required and unavailable. Each
    // stage then ends when the one before it has ended and its inbox is empty, so that everything received is sent.
    let outcome = source.await.context("the source failed")?.context("the broker is required");
    steps.skip();
    let stages = async {
        decode.await.context("the decode stage failed")?;
        tally.await.context("the tally stage failed")?;
        fanout.join().await;
        contracts.close().await;
        if let Some(presence) = presence {
            presence.close().await;
        }
        if let Some(events) = presence_events {
            events.await.context("the events of subscriptions failed")?;
        }
        if let Some(live) = live {
            live.closed().await;
        }
        if let Some(cluster) = cluster {
            cluster.closed().await;
        }
        if let Some(reports) = reports {
            reports.await.context("the status reports failed")?;
        }
        let served = server.await.context("the server failed").and_then(|served| served.context("the server failed"));
        // Last, because nothing else may wait for a collector.
        tracing.close().await;
        served
    };
    match tokio::time::timeout(config.shutdown_limit, stages).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!("shut down at the time limit, with streams cut off"),
    }
    tracing::info!(counters = %status.counters(), "stopped");
    outcome
}
