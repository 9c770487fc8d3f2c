//! The flags of the contract of open-source-cloud/realtime, and the streams that its channels are in.

use std::collections::HashSet;
use std::sync::Arc;

use clap::Args;

use super::errors::ConfigError;
use crate::api::realtime::{self, CREATED_STREAM, Channel};
use crate::decode::Route;

/// What the routes keep.
const HISTORY: &str = "history=1000,history=4MiB,history=10m";
/// The number of entries that each stream is trimmed to.
const STREAM_LENGTH: usize = 100_000;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Realtime")]
pub(super) struct RealtimeOptions {
    /// Channel that is served at /api/v1/channels/ID by the contract of open-source-cloud/realtime: its id, whether its clients have
    /// WebSockets or event streams, and how many connections it has at most on all nodes, 100 unless max= says otherwise. Its
    /// messages are in the Redis stream with the id as its key. It switches on sessions and /sessions, but not streams at /session.
    /// Repeatable [default: none]
    #[arg(
        long = "realtime-channel",
        env = "TALLYCAST_REALTIME_CHANNELS",
        value_delimiter = ';',
        value_name = "ID,type=WS|SSE[,max=COUNT]"
    )]
    pub(super) realtime_channels: Vec<Channel>,
    /// Let clients create channels by POST /api/v1/channels, up to 1000 on all nodes together. With publishing keys or tokens they need
    /// one
    #[arg(long, env = "TALLYCAST_REALTIME_CREATE")]
    pub(super) realtime_create: bool,
    /// Let programs send messages of the server by POST /api/v1/channels/ID/messages. With publishing keys or tokens they need one
    #[arg(long, env = "TALLYCAST_REALTIME_PUSH")]
    pub(super) realtime_push: bool,
    /// Serve the pages /web/chat and /web/notifications
    #[arg(long, env = "TALLYCAST_REALTIME_PAGES")]
    pub(super) realtime_pages: bool,
}

impl RealtimeOptions {
    /// Whether the contract is served.
    fn is_on(&self) -> bool {
        self.realtime_create || !self.realtime_channels.is_empty()
    }

    /// The configuration of the contract, if it is served.
    pub(super) fn config(&self) -> Result<Option<realtime::Config>, ConfigError> {
        let Self { realtime_channels: channels, realtime_create, realtime_push, realtime_pages } = self;
        if !self.is_on() {
            let flags = [("--realtime-push", realtime_push), ("--realtime-pages", realtime_pages)];
            return match flags.into_iter().find(|(_, is_set)| **is_set) {
                Some((flag, _)) => Err(ConfigError::Usage(format!(
                    "{flag} needs --realtime-channel or --realtime-create: there is no channel"
                ))),
                None => Ok(None),
            };
        }
        let mut ids = HashSet::new();
        if let Some(again) = channels.iter().find(|channel| !ids.insert(&channel.id)) {
            return Err(ConfigError::Usage(format!(
                "invalid value for --realtime-channel: {} stands twice; expected one for each channel",
                again.id
            )));
        }
        Ok(Some(realtime::Config {
            channels: channels.clone(),
            create: *realtime_create,
            push: *realtime_push,
            pages: *realtime_pages,
        }))
    }

    /// Adds the routes of the streams that have none.
    ///
    /// # Errors
    /// The user has one for such a stream that leads elsewhere.
    pub(super) fn add_routes(&self, routes: &mut Vec<Route>) -> Result<(), ConfigError> {
        let of_channel = |channel: &Channel| {
            let namespace = channel.id.namespace();
            (channel.id.to_string(), namespace.to_string(), namespace)
        };
        let created = || Some((CREATED_STREAM.to_owned(), "/realtime/*".to_owned(), "/realtime/created".parse().ok()?));
        let created = self.realtime_create.then(created).flatten();
        for (key, template, namespace) in self.realtime_channels.iter().map(of_channel).chain(created) {
            match routes.iter().find(|route| route.is_of_stream(&key)) {
                Some(route) if route.leads_to(&namespace) => {}
                Some(_) => {
                    return Err(ConfigError::Usage(format!(
                        "invalid value for --route: the stream {key} is that of a channel; expected \
                         stream:{key}={template},sender=clientId"
                    )));
                }
                None => routes.extend(format!("stream:{key}={template},sender=clientId,{HISTORY}").parse::<Route>()),
            }
        }
        Ok(())
    }

    /// The streams that this process fills, and the length that each is trimmed to.
    pub(super) fn own_streams(&self) -> impl Iterator<Item = (Arc<str>, usize)> {
        let channels = self.realtime_channels.iter().map(|channel| channel.id.as_str());
        let created = self.realtime_create.then_some(CREATED_STREAM);
        channels.chain(created).map(|key| (key.into(), STREAM_LENGTH))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::testing::config_of;
    use crate::source::SourceId;

    fn streams(config: &Config) -> String {
        let keys: Vec<String> =
            config.routes.streams(SourceId::DEFAULT).iter().map(|stream| stream.key.to_string()).collect();
        keys.join(" ")
    }

    #[test]
    fn contract_is_on_with_a_channel_or_their_creation() {
        let off = config_of(&["serve"]).unwrap();
        assert!(off.contracts.realtime.is_none() && off.contracts.sessions.is_none() && streams(&off).is_empty());
        let channel = config_of(&["serve", "--realtime-channel", "chat,type=WS;news,type=SSE,max=2"]).unwrap();
        assert!(channel.contracts.sessions.is_some());
        let contract = channel.contracts.realtime.as_ref().unwrap();
        assert!((contract.channels.len(), contract.create, contract.push, contract.pages) == (2, false, false, false));
        assert_eq!(streams(&channel), "chat news");
        let create = config_of(&["serve", "--realtime-create", "--realtime-push", "--realtime-pages"]).unwrap();
        assert_eq!(streams(&create), "tallycast:realtime");
        let demo = config_of(&["demo"]).unwrap();
        let contract = demo.contracts.realtime.as_ref().unwrap();
        assert!((contract.create, contract.push, contract.pages) == (false, true, true));
        assert_eq!(streams(&demo), "notifications notices lounge chat");
        let others = ["demo", "--realtime-channel", "a,type=WS", "--route", "b=/b"];
        assert_eq!(streams(&config_of(&others).unwrap()), "a");
    }

    #[test]
    fn routes_of_the_user_stay() {
        let channel = ["--realtime-channel", "chat,type=WS"];
        let with_route =
            |route: &str| config_of(&[&["serve"], &channel[..], &["--route", "a=/a", "--route", route]].concat());
        let own = with_route("stream:chat=/realtime/chat,sender=clientId,history=5").unwrap();
        assert_eq!(own.fanout.retentions[0].max_messages, Some(5));
        let error = with_route("stream:chat=/chat").unwrap_err();
        assert_eq!(
            error,
            "invalid value for --route: the stream chat is that of a channel; expected \
             stream:chat=/realtime/chat,sender=clientId"
        );
        // Others may lead there, too.
        assert!(with_route("x=/realtime/chat").is_ok());
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let error = |flags: &[&str]| config_of(&[&["serve"], flags].concat()).unwrap_err();
        assert_eq!(
            error(&["--realtime-push"]),
            "--realtime-push needs --realtime-channel or --realtime-create: there is no channel"
        );
        assert_eq!(
            error(&["--realtime-channel", "a,type=WS", "--realtime-channel", "a,type=SSE"]),
            "invalid value for --realtime-channel: a stands twice; expected one for each channel"
        );
        assert!(error(&["--realtime-channel", "a"]).contains("expected ID,type=WS or ID,type=SSE"));
    }
}
