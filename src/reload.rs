//! SIGHUP: reads the configuration again, applies what can change, and logs what needs a restart.

use std::sync::Arc;

use tallycast::admin::Token;
use tallycast::api::native::PublishKeys;
use tallycast::auth;
use tallycast::config::{self, Changes, Command, ConfigError, EffectiveOption};
use tallycast::decode::Routes;
use tallycast::source::{Selector, SourceId, SourceInputs, StreamKey};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::process::{FileLimit, LogFilter, warn_of_exposed_admin};
use crate::systemd::Notifier;

/// What can change while the process runs, as the stages receive it.
pub(crate) struct Reloadable {
    /// Of each source.
    pub(crate) sources: Vec<SourceInputs>,
    pub(crate) routes: watch::Receiver<Routes>,
    pub(crate) server: watch::Receiver<tallycast_server::Config>,
    pub(crate) admin_token: watch::Receiver<Option<Token>>,
    pub(crate) publish_keys: watch::Receiver<PublishKeys>,
    pub(crate) tokens: watch::Receiver<auth::Config>,
    pub(crate) options: watch::Receiver<Arc<[EffectiveOption]>>,
}

/// Changes it.
struct Reload {
    /// The effective options.
    options: Vec<EffectiveOption>,
    /// Of each source.
    sources: Vec<SourceSenders>,
    routes: watch::Sender<Routes>,
    server: watch::Sender<tallycast_server::Config>,
    files: FileLimit,
    admin_token: watch::Sender<Option<Token>>,
    publish_keys: watch::Sender<PublishKeys>,
    tokens: watch::Sender<auth::Config>,
    options_now: watch::Sender<Arc<[EffectiveOption]>>,
    log: LogFilter,
    notifier: Notifier,
}

/// What a source is to read.
struct SourceSenders {
    selectors: watch::Sender<Vec<Selector>>,
    streams: watch::Sender<Vec<StreamKey>>,
}

/// What it is at start.
pub(crate) struct Initial {
    /// The number of sources.
    pub(crate) sources: u8,
    pub(crate) options: Vec<EffectiveOption>,
    pub(crate) routes: Routes,
    pub(crate) server: tallycast_server::Config,
    pub(crate) admin_token: Option<Token>,
    pub(crate) publish_keys: PublishKeys,
    pub(crate) tokens: auth::Config,
}

/// Starts to reload the configuration at each SIGHUP.
pub(crate) fn start(
    initial: Initial,
    files: FileLimit,
    log: LogFilter,
    notifier: Notifier,
) -> std::io::Result<Reloadable> {
    let Initial { sources, options, routes, mut server, admin_token, publish_keys, tokens } = initial;
    files.clamp(&mut server);
    let hangups = signal(SignalKind::hangup())?;
    let inputs = (0..sources).map(SourceId).map(|source| {
        let (selectors, selectors_now) = watch::channel(routes.selectors(source));
        let (streams, streams_now) = watch::channel(routes.streams(source));
        (SourceSenders { selectors, streams }, SourceInputs { selectors: selectors_now, streams: streams_now })
    });
    let (sources, inputs) = inputs.unzip();
    let (routes, routes_now) = watch::channel(routes);
    let (server, server_now) = watch::channel(server);
    let (admin_token, admin_token_now) = watch::channel(admin_token);
    let (publish_keys, publish_keys_now) = watch::channel(publish_keys);
    let (tokens, tokens_now) = watch::channel(tokens);
    let (options_now, effective) = watch::channel(options.as_slice().into());
    let reload = Reload {
        options,
        sources,
        routes,
        server,
        files,
        admin_token,
        publish_keys,
        tokens,
        options_now,
        log,
        notifier,
    };
    tokio::spawn(reload.run(hangups));
    Ok(Reloadable {
        sources: inputs,
        routes: routes_now,
        server: server_now,
        admin_token: admin_token_now,
        publish_keys: publish_keys_now,
        tokens: tokens_now,
        options: effective,
    })
}

impl Reload {
    /// Reads the configuration at each of `hangups`, for ever.
    async fn run(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            self.notifier.reloading();
            match config::read(std::env::args_os()) {
                Ok(Command::Run(config)) => self.apply(*config),
                Err(ConfigError::Usage(error)) => {
                    tracing::error!(error, "invalid configuration, keeping the previous one");
                }
                // Impossible: the same arguments started the pipeline.
                Ok(Command::Print(_) | Command::CheckToken(..) | Command::Healthcheck(_) | Command::Client(_))
                | Err(ConfigError::Help(_)) => {}
            }
            self.notifier.reloaded();
        }
    }

    /// Applies routes before what they read, so that no event of a new channel or stream comes before its route.
    fn apply_routes(&self, routes: Routes) {
        self.routes.send_replace(routes.clone());
        for (id, source) in (0..).map(SourceId).zip(&self.sources) {
            let streams = routes.streams(id);
            source.selectors.send_replace(routes.selectors(id));
            source.streams.send_if_modified(|current| {
                let is_modified = *current != streams;
                *current = streams;
                is_modified
            });
        }
    }

    /// Streams without an authorizer cannot get one, and public ones must not stay so because a key is missing.
    fn apply_tokens(&self, tokens: auth::Config) {
        if tokens.is_enabled() == self.tokens.borrow().is_enabled() {
            self.tokens.send_replace(tokens);
        } else {
            tracing::error!(
                "the first --token-key or --token-jwks, and removing the last one, need a restart; the keys are unchanged"
            );
        }
    }

    fn apply(&mut self, mut config: config::Config) {
        self.files.clamp(&mut config.server);
        let changes = Changes::between(&self.options, &config.options);
        warn_of_exposed_admin(&config);
        if let Err(error) = self.log.reload(config.log) {
            tracing::error!(%error, "cannot change the log level");
        }
        if changes.need_restart.iter().any(|option| option == "source") {
            // Routes have the places of their sources, which may be others now.
            tracing::error!("--source has changed, which needs a restart; the routes are unchanged");
        } else {
            self.apply_routes(config.routes);
        }
        self.server.send_replace(config.server);
        self.admin_token.send_replace(config.admin_token);
        self.publish_keys.send_replace(config.publish_keys);
        self.apply_tokens(config.tokens);
        if !changes.need_restart.is_empty() {
            tracing::warn!(options = changes.need_restart.join(", "), "changed options need a restart");
        }
        tracing::info!(options = changes.applied.join(", "), "configuration reloaded");
        // The options that need a restart keep their values here, so that each reload names them again.
        let kept = |option: &EffectiveOption| changes.need_restart.contains(&option.name);
        let order: Vec<String> = config.options.iter().map(|option| option.name.clone()).collect();
        self.options.retain(kept);
        self.options.extend(config.options.into_iter().filter(|option| !kept(option)));
        self.options.sort_by_key(|option| order.iter().position(|name| *name == option.name));
        self.options_now.send_replace(self.options.as_slice().into());
    }
}
