//! The flags of the commands that use a running server. They are not options of the configuration file.

use clap::Args;
use tallycast_fanout::{Namespace, Topic};

use super::secret::Secret;
use super::values::publish_key;
use crate::client::{self, CountItem, CountOptions, PublishOptions, ServerUrl, Since, TailOptions};

#[derive(Debug, Clone, Args)]
struct ServerArguments {
    /// The server
    #[arg(long, env = "TALLYCAST_URL", default_value = "http://localhost:8001", value_name = "URL")]
    url: ServerUrl,
    /// Accept any certificate of an https:// server, such as a self-signed one
    #[arg(long, env = "TALLYCAST_INSECURE")]
    insecure: bool,
}

/// The key of programs that publish.
#[derive(Debug, Clone, Args)]
struct KeyArguments {
    /// Publishing key: one of the server's --publish-key, or a token. Better given by the variable, which no list of processes shows
    #[arg(
        long,
        env = "TALLYCAST_PUBLISH_KEY",
        value_name = "SECRET",
        hide_env_values = true,
        value_parser = publish_key
    )]
    key: Option<Secret>,
}

/// Options of `tallycast publish`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  tallycast publish /news hello
  tallycast publish /orders/17 '{\"total\": 20}' --json --event created
  tail -f access.log | tallycast publish /log
  tallycast publish --ndjson < messages.ndjson

Prints the id of each message that has one. Messages of standard input are published in their order, many in a request; a request that
fails is repeated for a minute, and published once. Exit codes: 0, 1 if the server refuses a message, 64 for invalid arguments, 69 if the
server or its broker is away.")]
pub(super) struct PublishCommand {
    /// Namespace of the messages
    #[arg(required_unless_present = "ndjson", conflicts_with = "ndjson")]
    namespace: Option<Namespace>,
    /// The message. Without it, or with -, each line of standard input is a message
    data: Option<String>,
    /// Event name, for routes that read streams
    #[arg(long, value_name = "NAME", conflicts_with = "ndjson")]
    event: Option<String>,
    /// Messages are JSON
    #[arg(long, conflicts_with = "ndjson")]
    json: bool,
    /// Each line of standard input is {"namespace": ..., "data": ...}, with "event" and "id" where needed
    #[arg(long)]
    ndjson: bool,
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Options of `tallycast count`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  tallycast count /eps 1F602
  tallycast count /eps 1F602=3 2665

Prints the new total of each key. The total and the events change together, once, also if the request has to be repeated.")]
pub(super) struct CountCommand {
    /// Namespace with totals
    namespace: Namespace,
    /// What is counted, and how often
    #[arg(required = true, value_name = "KEY[=COUNT]")]
    items: Vec<CountItem>,
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Options of `tallycast tail`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  tallycast tail /news
  tallycast tail '/price/*' --since 5m
  tallycast tail / --last 20 --json

Prints a line for each message: namespace, event name (or -) and data. When the connection ends, it comes back where it was if the routes
have history=. Losses are printed to standard error.")]
pub(super) struct TailCommand {
    /// Topics: namespaces, or patterns with * and **
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<Topic>,
    /// Start with the messages of a time such as 5m, with earliest, or after the message with an id
    #[arg(long, value_name = "TIME|earliest|ID", conflicts_with = "last")]
    since: Option<Since>,
    /// Start with the newest messages, as many as this
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    /// Print messages as JSON
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// Token, if the server needs one. Better given by the variable, which no list of processes shows
    #[arg(long, env = "TALLYCAST_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = publish_key)]
    token: Option<Secret>,
    #[command(flatten)]
    server: ServerArguments,
}

impl From<ServerArguments> for client::ServerOptions {
    fn from(ServerArguments { url, insecure }: ServerArguments) -> Self {
        Self { url, insecure }
    }
}

impl From<PublishCommand> for PublishOptions {
    fn from(command: PublishCommand) -> Self {
        let PublishCommand { namespace, data, event, json, ndjson: _, key, server } = command;
        let data = data.filter(|data| data != "-");
        Self { server: server.into(), key: key.key, namespace, data, event, json }
    }
}

impl From<CountCommand> for CountOptions {
    fn from(CountCommand { namespace, items, key, server }: CountCommand) -> Self {
        Self { server: server.into(), key: key.key, namespace, items }
    }
}

impl From<TailCommand> for TailOptions {
    fn from(TailCommand { topics, since, last, json, count, token, server }: TailCommand) -> Self {
        Self { server: server.into(), token, topics, since, last, json, count }
    }
}
