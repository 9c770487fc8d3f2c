//! SIGHUP: reads the configuration again, applies what can change, and logs what needs a restart.

use tallycast::config::{self, Changes, Command, ConfigError, EffectiveOption};
use tallycast::decode::Routes;
use tallycast::source::Selector;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use crate::process::LogFilter;

/// What can change while the process runs.
pub(crate) struct Reload {
    /// The effective options.
    pub(crate) options: Vec<EffectiveOption>,
    pub(crate) routes: watch::Sender<Routes>,
    pub(crate) selectors: watch::Sender<Vec<Selector>>,
    pub(crate) server: watch::Sender<tallycast_server::Config>,
    pub(crate) log: LogFilter,
}

impl Reload {
    /// Reads the configuration at each of `hangups`, for ever.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            match config::read(std::env::args_os()) {
                Ok(Command::Run(config)) => self.apply(*config),
                Err(ConfigError::Usage(error)) => {
                    tracing::error!(error, "invalid configuration, keeping the previous one");
                }
                // Impossible: the same arguments started the pipeline.
                Ok(Command::Print(_) | Command::Healthcheck(_)) | Err(ConfigError::Help(_)) => {}
            }
        }
    }

    fn apply(&mut self, config: config::Config) {
        let changes = Changes::between(&self.options, &config.options);
        if let Err(error) = self.log.reload(config.log) {
            tracing::error!(%error, "cannot change the log level");
        }
        self.selectors.send_replace(config.routes.selectors());
        self.routes.send_replace(config.routes);
        self.server.send_replace(config.server);
        if !changes.need_restart.is_empty() {
            tracing::warn!(options = changes.need_restart.join(", "), "changed options need a restart");
        }
        tracing::info!(options = changes.applied.join(", "), "configuration reloaded");
        // The options that need a restart keep their values here, so that each reload names them again.
        let kept = |option: &EffectiveOption| changes.need_restart.contains(&option.name);
        self.options.retain(kept);
        self.options.extend(config.options.into_iter().filter(|option| !kept(option)));
    }
}
