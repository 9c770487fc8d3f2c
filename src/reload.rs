//! SIGHUP: reads the configuration again, changes what can change, and says what cannot.

use tallycast::config::{self, Command, EffectiveOption, Refusal};
use tallycast::decode::Routes;
use tallycast::source::Selector;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Changes what is logged; an error says that it could not.
pub(crate) type SetLog = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>;

/// What can change while the process runs.
pub(crate) struct Reload {
    /// The options that are effective now.
    pub(crate) options: Vec<EffectiveOption>,
    pub(crate) routes: watch::Sender<Routes>,
    pub(crate) selectors: watch::Sender<Vec<Selector>>,
    pub(crate) server: watch::Sender<tallycast_server::Config>,
    pub(crate) log: SetLog,
}

impl Reload {
    /// Reads the configuration at each of `hangups`, for ever.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            match config::read(std::env::args_os()) {
                Ok(Command::Run(config)) => self.apply(*config),
                Err(Refusal::Mistake(mistake)) => {
                    tracing::error!(mistake, "the configuration stays as it was");
                }
                // What was asked for at the start was to run.
                Ok(Command::Print(_) | Command::Healthcheck(_)) | Err(Refusal::Help(_)) => {}
            }
        }
    }

    fn apply(&mut self, config: config::Config) {
        let (changed, not_changed) = config::changed(&self.options, &config.options);
        if let Err(error) = (self.log)(config.log) {
            tracing::error!(%error, "cannot change what is logged");
        }
        self.selectors.send_replace(config.routes.selectors());
        self.routes.send_replace(config.routes);
        self.server.send_replace(config.server);
        let names = |names: &[String]| names.join(", ");
        if !not_changed.is_empty() {
            tracing::warn!(options = names(&not_changed), "these changed too, but need a restart");
        }
        tracing::info!(options = names(&changed), "read the configuration again");
        // Those that need a restart are told again until there is one.
        self.options.retain(|option| not_changed.contains(&option.name));
        self.options.extend(config.options.into_iter().filter(|option| !not_changed.contains(&option.name)));
    }
}
