//! Sessions in Redis. Each operation is one script, so that its steps and the events of a transition are one step for everyone.

use std::collections::HashSet;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::timeout;

use super::store::{Change, ConnectError, Connected, Listed, Opening, Outcome, Page, SessionError, TopicsChange};
use super::{EventTarget, Limits, SessionName, spec};
use crate::nodes::{NodeId, Nodes, NodesError, milliseconds, script};
use crate::redis_client::RedisClient;

macro_rules! with_common {
    ($file:literal) => {
        concat!(include_str!("common.lua"), include_str!($file))
    };
}

const CONNECT: &str = with_common!("connect.lua");
const DISCONNECT: &str = with_common!("disconnect.lua");
const CHANGE: &str = with_common!("change.lua");
const SEND: &str = with_common!("send.lua");
const END: &str = with_common!("end.lua");
const EXPIRE: &str = with_common!("expire.lua");
const INHERIT: &str = with_common!("inherit.lua");
/// As the scripts call it.
const INDEX: &str = "tallycast:sessions";
/// Sessions that one call ends, or connections that it removes.
const BATCH: usize = 256;
/// Time for Redis to answer what is sent once; that of [`Nodes`].
const ONCE_LIMIT: Duration = Duration::from_secs(2);

/// The key of a session.
fn key(name: &str) -> String {
    format!("tallycast:session:{name}")
}

/// The channel on which a node receives commands.
pub(super) fn channel(life: &str) -> String {
    format!("tallycast:sessions:node:{life}")
}

/// The fields of a session's hash.
type Fields = Vec<(String, String)>;

/// Publications of the scripts that Redis has refused, on behalf of all nodes.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) count: u64,
    /// The last error.
    pub(super) error: String,
}

/// Sessions in one Redis server. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RedisStore {
    pub(super) nodes: Nodes,
    /// For what is not to be sent twice.
    pub(super) client: RedisClient,
    pub(super) events: EventTarget,
    pub(super) limits: Limits,
}

impl RedisStore {
    /// Adds a connection. `former` is the life of this node under which it was registered before, if that was another one.
    pub(super) async fn connect(
        &self,
        life: &NodeId,
        number: u64,
        opening: &Opening<'_>,
        former: Option<&NodeId>,
    ) -> Result<Connected, ConnectError> {
        let Opening { name, spec, create, arrived, .. } = opening;
        let Limits { sessions, connections, .. } = self.limits;
        let (group, group_size) = spec.group.as_ref().map_or(("", 0), |(group, size)| (group, *size));
        let left = spec.left.as_ref().map(|left| (format!("channel:{}", left.channel), &left.payload));
        let left = left.map(|left| serde_json::to_string(&left)).transpose()?.unwrap_or_default();
        let mut command = script(CONNECT, 1);
        command.arg(self.nodes.leases()).arg(name.as_str()).arg(life.as_str()).arg(number).arg(u8::from(*create));
        command.arg(spec::lines(spec.topics.iter())).arg(serde_json::to_string(&spec.grant)?);
        command.arg(spec.policy.as_str()).arg(milliseconds(spec.ttl)).arg(group).arg(left);
        command.arg(sessions).arg(connections).arg(group_size).arg(self.events.to_string());
        match arrived {
            Some(arrived) => command.arg(format!("channel:{}", arrived.channel)).arg(&arrived.payload),
            None => command.arg("").arg(""),
        };
        command.arg(former.map_or("", NodeId::as_str));
        let answer: Vec<Value> = self.nodes.ask(&command).await?;
        let (outcome, rest) = outcome(answer)?;
        match &*outcome {
            "ok" => {}
            "unknown" => return Err(ConnectError::Unknown(name.to_string())),
            "taken" => return Err(ConnectError::Taken(name.to_string())),
            "connections" => return Err(ConnectError::Connections(connections)),
            "group" => return Err(ConnectError::Group(group_size)),
            "sessions" => return Err(ConnectError::Sessions(sessions)),
            _ => return Err(ConnectError::NoLease),
        }
        type Answer = (u8, usize, u64, String, String, String, usize);
        let (created, others, version, topics, grant, position, heard): Answer = from_values(rest)?;
        Ok(Connected {
            is_new: created == 1,
            others,
            version,
            topics: spec::topics(&topics),
            grant: serde_json::from_str(&grant)?,
            position: Some(position).filter(|position| !position.is_empty()).map(Into::into),
            was_heard: heard > 0,
        })
    }

    /// Removes connections: the number, the session and the position that the reader has come to.
    pub(super) async fn disconnect(&self, life: &NodeId, gone: &[(u64, String, String)]) -> Result<(), NodesError> {
        for gone in gone.chunks(BATCH) {
            let mut command = script(DISCONNECT, 0);
            command.arg(life.as_str()).arg(self.events.to_string());
            for (number, name, position) in gone {
                command.arg(number).arg(name).arg(position);
            }
            self.nodes.ask::<usize>(&command).await?;
        }
        Ok(())
    }

    /// Changes a session; the node of `life` waits for the outcome of `request`.
    pub(super) async fn change(
        &self,
        name: &SessionName,
        change: &Change,
        life: &NodeId,
        request: u64,
    ) -> Result<Outcome, SessionError> {
        let Limits { topics, topic_bytes, sessions, ttl, .. } = self.limits;
        let (mode, added, removed) = match &change.topics {
            TopicsChange::Set(topics) => (1, spec::lines(topics.iter().cloned()), String::new()),
            TopicsChange::Change { add, remove } => {
                (0, spec::lines(add.iter().cloned()), spec::lines(remove.iter().cloned()))
            }
            TopicsChange::Keep => (2, String::new(), String::new()),
        };
        let grant = change.grant.as_ref().map(serde_json::to_string).transpose()?.unwrap_or_default();
        let ttl_now = change.ttl.map(|ttl| milliseconds(ttl).to_string()).unwrap_or_default();
        let default = super::SessionSpec::new(tallycast_fanout::Topics::none(), ttl);
        let mut command = script(CHANGE, 0);
        command.arg(name.as_str()).arg(u8::from(change.create)).arg(mode).arg(added).arg(removed);
        command.arg(grant).arg(change.policy.map_or("", super::Policy::as_str)).arg(ttl_now);
        command.arg(topics).arg(topic_bytes).arg(sessions);
        command.arg(serde_json::to_string(&default.grant)?).arg(default.policy.as_str()).arg(milliseconds(ttl));
        command.arg(self.events.to_string()).arg(request).arg(life.as_str());
        let answer: Vec<Value> = self.nodes.ask(&command).await?;
        let (outcome, rest) = outcome(answer)?;
        match &*outcome {
            "ok" => {}
            "topics" => return Err(SessionError::Topics { topics, bytes: topic_bytes }),
            "sessions" => return Err(SessionError::Sessions(sessions)),
            _ => return Err(SessionError::Unknown(name.to_string())),
        }
        let (created, version, topics, reached, missed): (u8, u64, String, Vec<String>, Vec<String>) =
            from_values(rest)?;
        Ok(Outcome { is_new: created == 1, version, topics: spec::topics(&topics), reached, missed })
    }

    /// Sends a message, as JSON, to the connections of a session.
    pub(super) async fn send(
        &self,
        name: &SessionName,
        message: &str,
        life: &NodeId,
        request: u64,
    ) -> Result<Outcome, SessionError> {
        let mut command = script(SEND, 0);
        command.arg(name.as_str()).arg(message).arg(request).arg(life.as_str());
        // Repeated, it could arrive twice.
        told(name, self.ask_once(&command).await?)
    }

    /// Ends a session.
    pub(super) async fn end(
        &self,
        name: &SessionName,
        reason: &str,
        life: &NodeId,
        request: u64,
    ) -> Result<Outcome, SessionError> {
        let mut command = script(END, 0);
        command.arg(name.as_str()).arg(reason).arg(self.events.to_string()).arg(request).arg(life.as_str());
        told(name, self.nodes.ask(&command).await?)
    }

    /// Sends a command once, also if the connection turns out to be broken.
    async fn ask_once<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, NodesError> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command.clone());
        let answer = timeout(ONCE_LIMIT, self.client.send_once::<(T,)>(&pipeline)).await.map_err(|_| {
            self.client.give_up();
            NodesError::Timeout
        });
        Ok(answer??.0)
    }

    /// The state of sessions, in the order of `names`.
    pub(super) async fn get(&self, names: &[String]) -> Result<Vec<Option<Listed>>, NodesError> {
        let states = self.hashes(names).await?;
        Ok(names.iter().zip(states).map(|(name, fields)| listed(name, fields)).collect())
    }

    /// As [`get`](Self::get), each with the numbers of the connections that are registered under `life`.
    pub(super) async fn get_registered(
        &self,
        names: &[String],
        life: &NodeId,
    ) -> Result<Vec<Option<(Listed, HashSet<u64>)>>, NodesError> {
        let state = |(name, fields): (&String, Fields)| {
            let registered = registered(&fields, life);
            Some((listed(name, fields)?, registered))
        };
        Ok(names.iter().zip(self.hashes(names).await?).map(state).collect())
    }

    async fn hashes(&self, names: &[String]) -> Result<Vec<Fields>, NodesError> {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd("HGETALL").arg(key(name));
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.nodes.ask_all(&pipeline).await
    }

    /// The sessions of a group that have connections.
    pub(super) async fn group_size(&self, group: &str) -> Result<usize, NodesError> {
        let mut command = redis::cmd("SCARD");
        command.arg(format!("tallycast:sessions:group:{group}"));
        self.nodes.ask(&command).await
    }

    /// The sessions after a name, in the order of their names.
    pub(super) async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page, NodesError> {
        let mut command = redis::cmd("ZRANGEBYLEX");
        let start = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        command.arg(INDEX).arg(start).arg("+").arg("LIMIT").arg(0).arg(limit + 1);
        let mut names: Vec<String> = self.nodes.ask(&command).await?;
        let has_more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().cloned().filter(|_| has_more);
        // Those that have ended meanwhile are left out.
        Ok(Page { sessions: self.get(&names).await?.into_iter().flatten().collect(), next })
    }

    /// The number of sessions.
    pub(super) async fn total(&self) -> Result<usize, NodesError> {
        let mut command = redis::cmd("ZCARD");
        command.arg(INDEX);
        self.nodes.ask(&command).await
    }

    /// Ends sessions whose time to live is over. Returns whether there may be more, and what else is known.
    pub(super) async fn expire(&self) -> Result<(bool, Refused), NodesError> {
        let mut command = script(EXPIRE, 0);
        command.arg(self.events.to_string()).arg(BATCH);
        let (ended, count, error): (usize, u64, String) = self.nodes.ask(&command).await?;
        Ok((ended == BATCH, Refused { count, error }))
    }

    /// Removes connections of a dead node. Returns whether there may be more.
    pub(super) async fn inherit(&self, dead: &NodeId) -> Result<bool, NodesError> {
        let mut command = script(INHERIT, 0);
        command.arg(dead.as_str()).arg(self.events.to_string()).arg(BATCH);
        Ok(self.nodes.ask::<usize>(&command).await? == BATCH)
    }
}

/// The numbers of the connections in a session's hash that are registered under `life`.
fn registered(fields: &Fields, life: &NodeId) -> HashSet<u64> {
    let number = |field: &str| field.strip_prefix("c:")?.strip_prefix(life.as_str())?.strip_prefix(':')?.parse().ok();
    fields.iter().filter_map(|(field, _)| number(field)).collect()
}

/// What came of a command to the connections of a session.
fn told(name: &SessionName, answer: Vec<Value>) -> Result<Outcome, SessionError> {
    let (outcome, rest) = outcome(answer)?;
    if outcome != "ok" {
        return Err(SessionError::Unknown(name.to_string()));
    }
    let (reached, missed) = from_values(rest)?;
    Ok(Outcome { reached, missed, ..Outcome::default() })
}

/// A session as its hash has it.
fn listed(name: &str, fields: Fields) -> Option<Listed> {
    let mut listed = Listed::new(name);
    let mut exists = false;
    for (field, value) in fields {
        let number = || value.parse().unwrap_or_default();
        match &*field {
            "topics" => (listed.topics, exists) = (spec::topics(&value), true),
            // Another version may have written more.
            "grant" => listed.grant = serde_json::from_str(&value).unwrap_or_default(),
            "policy" => listed.policy = serde_json::from_value(value.into()).unwrap_or_default(),
            "ttl" => listed.ttl = Duration::from_millis(number()),
            "version" => listed.version = number(),
            "created" => listed.created = number(),
            field => {
                if let Some(life) = field.strip_prefix("c:").and_then(|field| Some(field.rsplit_once(':')?.0)) {
                    listed.connections.push((crate::nodes::name(life).to_owned(), number()));
                }
            }
        }
    }
    listed.connections.sort_unstable();
    exists.then_some(listed)
}

/// The first element of an answer, and the others.
fn outcome(mut answer: Vec<Value>) -> Result<(String, Vec<Value>), NodesError> {
    let rest = answer.split_off(1.min(answer.len()));
    let outcome = answer.pop().map(redis::from_redis_value).transpose().map_err(redis::RedisError::from)?;
    Ok((outcome.unwrap_or_default(), rest))
}

fn from_values<T: redis::FromRedisValue>(values: Vec<Value>) -> Result<T, NodesError> {
    Ok(redis::from_redis_value(Value::Array(values)).map_err(redis::RedisError::from)?)
}
