//! `tallycast check --token`: what a token may do by the configuration at hand.

use std::fmt::Display;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::{Auth, Claims, Config, Role, TicketStore};

/// Verifies a token. Returns a report of several lines, which shows neither the token nor a key, and whether the token is valid for
/// something. In a runtime.
pub async fn check(config: Config, token: &str) -> (String, bool) {
    if !config.is_enabled() {
        let text = "no token is looked at, and everything is public: there is neither --token-key nor --token-jwks\n";
        return (text.to_owned(), false);
    }
    let public = list(&config.public);
    let (_config, config) = watch::channel(config);
    let (_server, server) = watch::channel(tallycast_server::Config::default());
    let auth = Auth::start(config, TicketStore::in_memory(), server, Arc::default());
    let subscriber = auth.verify(token, Role::Subscriber).await;
    let publisher = auth.verify(token, Role::Publisher).await;
    let mut lines = Vec::new();
    if let Some(claims) = subscriber.as_ref().ok().or(publisher.as_ref().ok()) {
        lines.extend(identity(claims));
    }
    lines.push(match &subscriber {
        Ok(claims) => format!("reads: {}", list(&claims.readable())),
        Err(error) => format!("not valid for reading: {error}"),
    });
    lines.push(format!("public: {public}"));
    lines.push(match &publisher {
        Ok(claims) => format!("publishes: {}", list(&claims.publishable())),
        Err(error) => format!("not valid for publishing: {error}"),
    });
    let report = lines.into_iter().map(|line| line.replace(char::is_control, "\u{fffd}") + "\n").collect();
    (report, subscriber.is_ok() || publisher.is_ok())
}

/// Who the client is, and until when.
fn identity(claims: &Claims) -> Vec<String> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let expires = claims.expires_at.map_or_else(|| "never".to_owned(), time);
    let mut lines = vec![
        format!("subject: {}", or_none(&claims.subject)),
        format!("issuer: {}", or_none(&claims.issuer)),
        format!("accepted until: {expires}"),
    ];
    lines.extend(claims.payload.as_ref().map(|payload| format!("payload: {payload}")));
    lines
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn list(topics: &[impl Display]) -> String {
    if topics.is_empty() {
        return "nothing".to_owned();
    }
    topics.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
