//! The flags of the connect hook, and their values -> the config of `connect_hook`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::effective::EffectiveOption;
use super::errors::ConfigError;
use super::secret::Secret;
use super::values::{connect_retries, connect_timeout, connect_url, duration_text, publish_key};
use crate::connect_hook::{self, Config, DEFAULT_RETRIES, DEFAULT_TIMEOUT, HookUrl, WhenDown};

/// The options that have no effect without `--connect-url`.
const NEED_URL: [&str; 5] = ["connect-timeout", "connect-retries", "connect-when-down", "connect-secret", "connect-ca"];

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connect hook")]
pub(super) struct ConnectOptions {
    /// Endpoint of your application that is asked about each client that opens a session stream. It answers with the session, its
    /// topics, what the client may read and publish, and until when. http:// or https://, with user and password if needed
    /// [default: none]
    #[arg(long, env = "TALLYCAST_CONNECT_URL", value_name = "URL", hide_env_values = true, value_parser = connect_url)]
    connect_url: Option<Secret>,
    /// Time limit for the endpoint to answer, with all attempts
    #[arg(
        long,
        env = "TALLYCAST_CONNECT_TIMEOUT",
        default_value = duration_text(DEFAULT_TIMEOUT),
        value_name = "DURATION",
        value_parser = connect_timeout
    )]
    connect_timeout: Duration,
    /// Number of times that a question is repeated after a failure, within the time limit
    #[arg(
        long,
        env = "TALLYCAST_CONNECT_RETRIES",
        default_value_t = DEFAULT_RETRIES,
        value_name = "COUNT",
        value_parser = connect_retries
    )]
    connect_retries: usize,
    /// What happens to clients while the endpoint does not answer: refuse answers them with 503, allow lets them go on as if there was
    /// no endpoint
    #[arg(long, env = "TALLYCAST_CONNECT_WHEN_DOWN", default_value = "refuse", value_enum, value_name = "WHAT")]
    connect_when_down: WhenDownOption,
    /// Secret that the endpoint is sent as a Bearer token, so that it knows who asks [default: none]
    #[arg(
        long,
        env = "TALLYCAST_CONNECT_SECRET",
        value_name = "SECRET",
        hide_env_values = true,
        value_parser = publish_key
    )]
    connect_secret: Option<Secret>,
    /// Authorities whose certificates the endpoint has, in PEM [default: those that the system trusts]
    #[arg(long, env = "TALLYCAST_CONNECT_CA", value_name = "FILE")]
    connect_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhenDownOption {
    Refuse,
    Allow,
}

impl From<WhenDownOption> for WhenDown {
    fn from(option: WhenDownOption) -> Self {
        match option {
            WhenDownOption::Refuse => Self::Refuse,
            WhenDownOption::Allow => Self::Allow,
        }
    }
}

fn invalid(flag: &str, error: impl std::fmt::Display) -> ConfigError {
    ConfigError::Usage(format!("invalid value for {flag}: {error}"))
}

/// Reads the file of the authorities, and puts the config together, if there is a hook.
pub(super) fn compose(options: ConnectOptions, effective: &[EffectiveOption]) -> Result<Option<Config>, ConfigError> {
    let Some(url) = options.connect_url else {
        let mut given = effective.iter().filter(|option| option.origin != "default");
        return match given.find(|option| NEED_URL.contains(&option.name.as_str())) {
            Some(EffectiveOption { name, .. }) => Err(ConfigError::Usage(format!(
                "--{name} needs --connect-url: expected the URL of the endpoint that decides about connections"
            ))),
            None => Ok(None),
        };
    };
    let url: HookUrl = url.expose().parse().map_err(|error| invalid("--connect-url", error))?;
    if options.connect_ca.is_some() && !url.is_tls() {
        return Err(ConfigError::Usage("--connect-ca needs an https:// URL in --connect-url".to_owned()));
    }
    let authorities = options.connect_ca.map(std::fs::read).transpose();
    let authorities = authorities.map_err(|error| invalid("--connect-ca", error))?;
    let config = Config::new(url, options.connect_secret.as_ref(), authorities.as_deref());
    let mut config = config.map_err(|error| match error {
        connect_hook::ConfigError::Secret => invalid("--connect-secret", error),
        connect_hook::ConfigError::SecretAndUser => ConfigError::Usage(
            "--connect-secret and a user in --connect-url exclude each other: both are sent as authorization"
                .to_owned(),
        ),
        connect_hook::ConfigError::Authorities(_) => invalid("--connect-ca", error),
    })?;
    config.timeout = options.connect_timeout;
    config.retries = options.connect_retries;
    config.when_down = options.connect_when_down.into();
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, read};

    const URL: &str = "https://ann:hunter2@app.example.org/connect?key=hunter2";

    fn command(command: &str, flags: &[&str]) -> Result<Command, String> {
        let arguments = ["tallycast", command, "--sessions"].into_iter().chain(flags.iter().copied()).map(Into::into);
        read(arguments).map_err(|error| error.to_string())
    }

    fn config(flags: &[&str]) -> Result<Option<Config>, String> {
        match command("serve", flags)? {
            Command::Run(config) => Ok(config.contracts.connect_hook),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_become_a_config() {
        assert!(config(&[]).unwrap().is_none());
        let defaults = config(&["--connect-url", "http://localhost"]).unwrap().unwrap();
        assert_eq!((defaults.timeout, defaults.retries), (DEFAULT_TIMEOUT, DEFAULT_RETRIES));
        assert_eq!((defaults.when_down, defaults.url.to_string().as_str()), (WhenDown::Refuse, "http://localhost/"));
        let flags =
            ["--connect-url", URL, "--connect-timeout", "1s", "--connect-retries", "0", "--connect-when-down", "allow"];
        let all = config(&flags).unwrap().unwrap();
        assert_eq!((all.timeout, all.retries, all.when_down), (Duration::from_secs(1), 0, WhenDown::Allow));
    }

    #[test]
    fn server_waits_for_the_hook_after_the_token() {
        let limit = |flags: &[&str]| match command("serve", flags).unwrap() {
            Command::Run(config) => config.server.authorize_timeout,
            other => panic!("{other:?}"),
        };
        let hook = ["--connect-url", "http://localhost", "--connect-timeout", "7s"];
        assert_eq!(limit(&hook), limit(&[]) + Duration::from_secs(7));
    }

    #[test]
    fn option_without_url_is_refused() {
        let needs = "needs --connect-url: expected the URL of the endpoint that decides about connections";
        for (flag, value) in NEED_URL.into_iter().zip(["3s", "1", "refuse", "x", "/nowhere"]) {
            let error = config(&[&format!("--{flag}"), value]).unwrap_err();
            assert_eq!(error, format!("--{flag} {needs}"));
        }
    }

    #[test]
    fn invalid_values_are_refused_without_showing_a_secret() {
        let plain = "http://localhost:3000";
        for (flags, expected) in [
            (
                &["--connect-url", "ftp://hunter2"][..],
                "invalid value for --connect-url: expected a URL, such as https://app.example.org/connect or \
                 http://user:password@localhost:3000/connect",
            ),
            (
                &["--connect-url", URL, "--connect-secret", "hunter2"],
                "--connect-secret and a user in --connect-url exclude each other: both are sent as authorization",
            ),
            (
                &["--connect-url", plain, "--connect-secret", "hunter 2"],
                "invalid value for --connect-secret: expected a secret of visible ASCII characters without spaces",
            ),
            (
                &["--connect-url", plain, "--connect-ca", "Cargo.toml"],
                "--connect-ca needs an https:// URL in --connect-url",
            ),
            (
                &["--connect-url", URL, "--connect-ca", "/nowhere"],
                "invalid value for --connect-ca: No such file or directory (os error 2)",
            ),
            (
                &["--connect-url", URL, "--connect-ca", "Cargo.toml"],
                "invalid value for --connect-ca: expected at least one certificate in PEM",
            ),
            (
                &["--connect-url", plain, "--connect-timeout", "61s"],
                "invalid value \"61s\" for --connect-timeout: expected at most 60s",
            ),
            (
                &["--connect-url", plain, "--connect-retries", "11"],
                "invalid value \"11\" for --connect-retries: expected a whole number from 0 to 10",
            ),
        ] {
            assert_eq!(config(flags).unwrap_err(), expected);
        }
    }

    #[test]
    fn hook_needs_sessions() {
        let error = read(["tallycast", "serve", "--connect-url", URL].map(Into::into)).unwrap_err().to_string();
        assert_eq!(
            error,
            "--connect-url needs --sessions, --unifrost, --ws-hub, --realtime-channel or --realtime-create: \
             it decides about the streams of sessions"
        );
    }

    #[test]
    fn url_and_secret_are_never_shown() {
        for flags in [&["--connect-url", URL][..], &["--connect-url", "http://a", "--connect-secret", "hunter2"]] {
            let debug = format!("{:?}", config(flags).unwrap().unwrap());
            let Ok(Command::Print(text)) = command("check", flags) else { panic!("expected a text") };
            assert!(!debug.contains("hunter2") && !text.contains("hunter2"), "{debug} {text}");
            assert!(text.contains("connect-url = http"), "{text}");
        }
    }
}
