//! Sentinels: where the primary and its replicas are now. All Sentinels are asked at the same time and the majority decides, so that one
//! that is cut off from the others does not lead to a primary that has been replaced.
//!
//! The client library asks Sentinels one after the other, and believes the first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Client, Cmd, ConnectionInfo, FromRedisValue, RedisError, RedisResult};
use tokio::task::JoinSet;

use super::servers::{Node, Template, probe, unavailable};

/// The error of a Sentinel that monitors other primaries only.
const UNKNOWN: &str = "Sentinels know no primary of this name";

pub(super) struct Sentinel {
    clients: Vec<Client>,
    /// The name of the primary.
    name: String,
    /// It was logged that less than the majority answers.
    lacks_majority: AtomicBool,
}

/// Which primary the Sentinels name.
enum Vote {
    /// The one of the majority of all Sentinels.
    Majority(Node),
    /// Those of the Sentinels that answer, and an error of the others.
    Minority(Vec<Node>, Option<RedisError>),
}

impl Sentinel {
    pub(super) fn new(sentinels: &[ConnectionInfo], name: &str) -> RedisResult<Self> {
        let clients = sentinels.iter().map(|info| Template::new(info).own()).collect::<RedisResult<_>>()?;
        Ok(Self { clients, name: name.to_owned(), lacks_majority: AtomicBool::new(false) })
    }

    /// The primary that the majority of the Sentinels names, or all those that answer if these are fewer.
    pub(super) async fn primary(&self) -> RedisResult<Node> {
        let (mut named, error) = match self.vote().await {
            Vote::Majority(node) => {
                self.lacks_majority.store(false, Ordering::Relaxed);
                return Ok(node);
            }
            Vote::Minority(named, error) => (named.into_iter(), error),
        };
        match (named.next(), named.next()) {
            (Some(node), None) => {
                if !self.lacks_majority.swap(true, Ordering::Relaxed) {
                    tracing::warn!(primary = %node, name = self.name, "no majority of the Sentinels answers");
                }
                Ok(node)
            }
            // One of them is cut off, and nothing says which one.
            (Some(node), Some(other)) => {
                Err(unavailable("Sentinels name different primaries", format!("{node}, {other}")))
            }
            (None, _) => Err(match error {
                Some(error) if error.category() == UNKNOWN => error,
                error => unavailable("no Sentinel answers", error.map(|error| error.to_string()).unwrap_or_default()),
            }),
        }
    }

    /// The primary that the majority of the Sentinels names, if there is one.
    pub(super) async fn majority(&self) -> Option<Node> {
        match self.vote().await {
            Vote::Majority(node) => Some(node),
            Vote::Minority(..) => None,
        }
    }

    async fn vote(&self) -> Vote {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let mut answers = self.ask::<Option<(String, u16)>>(&command);
        let mut votes: HashMap<Node, usize> = HashMap::new();
        let mut error: Option<RedisError> = None;
        while let Some(answer) = answers.join_next().await {
            match answer {
                Ok(Ok(Some((host, port)))) => {
                    let node = Node { host, port };
                    let count = votes.entry(node.clone()).or_default();
                    *count += 1;
                    if *count * 2 > self.clients.len() {
                        return Vote::Majority(node);
                    }
                }
                Ok(Ok(None)) => error = Some(unavailable(UNKNOWN, self.name.clone())),
                Ok(Err(failure)) => error = Some(error.unwrap_or(failure)),
                // A task that panicked has said so.
                Err(_) => {}
            }
        }
        Vote::Minority(votes.into_keys().collect(), error)
    }

    /// The replicas that are up and connected to their primary, as the first Sentinel to answer knows them.
    pub(super) async fn replicas(&self) -> RedisResult<Vec<Node>> {
        let mut command = redis::cmd("SENTINEL");
        // The name that all versions know.
        command.arg("SLAVES").arg(&self.name);
        let mut answers = self.ask::<Vec<HashMap<String, String>>>(&command);
        while let Some(answer) = answers.join_next().await {
            if let Ok(Ok(replicas)) = answer {
                return Ok(replicas.iter().filter_map(healthy).collect());
            }
        }
        Err(unavailable("no Sentinel answers", String::new()))
    }

    /// Sends a command to all Sentinels.
    fn ask<T: FromRedisValue + Send + 'static>(&self, command: &Cmd) -> JoinSet<RedisResult<T>> {
        let mut answers = JoinSet::new();
        for client in &self.clients {
            let (client, command) = (client.clone(), command.clone());
            answers.spawn(async move { command.query_async(&mut probe(&client).await?).await });
        }
        answers
    }
}

/// A replica as a Sentinel describes it, if it can be read.
fn healthy(replica: &HashMap<String, String>) -> Option<Node> {
    let field = |name: &str| replica.get(name).map_or("", String::as_str);
    let is_down = field("flags").split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
    if is_down || field("master-link-status") != "ok" {
        return None;
    }
    Some(Node { host: field("ip").to_owned(), port: field("port").parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_down_or_behind_a_broken_link_are_left_out() {
        let replica = |flags: &str, link: &str| {
            let fields = [("ip", "::1"), ("port", "7000"), ("flags", flags), ("master-link-status", link)];
            healthy(&fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        assert_eq!(replica("slave", "ok"), Some(Node { host: "::1".to_owned(), port: 7000 }));
        assert_eq!(replica("s_down,slave", "ok"), None);
        assert_eq!(replica("slave,disconnected", "ok"), None);
        assert_eq!(replica("slave", "err"), None);
    }
}
