//! A Redis Cluster: which node owns which slot. What is known is kept until an answer shows that it is wrong.
//!
//! The client library has connections to clusters, too. They are not used here: they repeat commands whose answers were lost, which
//! would publish a message twice, and they do not say which node they use, which subscriptions and streams need.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, RedisError, RedisResult, Value};

use super::servers::{Node, Template, probe, unavailable};
use super::slot::SLOTS;

/// The age up to which checks share what they know.
const CHECK_AGE: Duration = Duration::from_secs(1);

pub(super) struct Cluster {
    /// The nodes of the URL.
    seeds: Vec<Template>,
    state: Mutex<State>,
    /// Held while nodes are asked, so that they are asked once.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    view: Option<View>,
    /// When it was read, unless it may be wrong.
    read_at: Option<Instant>,
}

/// Which node owns which slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// In the order of their slots.
    shards: Vec<Shard>,
}

#[derive(Debug, PartialEq, Eq)]
struct Shard {
    first: u16,
    last: u16,
    primary: Node,
    replicas: Vec<Node>,
}

/// What a node says of the cluster.
#[derive(Clone)]
struct View {
    map: Arc<SlotMap>,
    /// The node that says it.
    from: Node,
    /// The node is in contact with the majority, and all slots have owners.
    is_ok: bool,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Template>) -> Self {
        Self { seeds, state: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// How to reach a node, which may have another address than those of the URL.
    pub(super) fn client(&self, node: &Node) -> RedisResult<Client> {
        let seed = self.seeds.first().ok_or_else(|| unavailable("a cluster has no nodes", String::new()))?;
        seed.client(node)
    }

    pub(super) fn forget(&self) {
        self.state().read_at = None;
    }

    /// Which node owns which slot, as it was read at most `max_age` ago, or at any time.
    pub(super) async fn map(&self, max_age: Option<Duration>) -> RedisResult<Arc<SlotMap>> {
        Ok(self.view(max_age, None).await?.map)
    }

    /// What is known, if it was read at most `max_age` ago and is not thought wrong. Otherwise asks, `last` only if no other node
    /// answers.
    async fn view(&self, max_age: Option<Duration>, last: Option<&Node>) -> RedisResult<View> {
        let known = || {
            let State { view, read_at } = &*self.state();
            let is_current = read_at.is_some_and(|at| max_age.is_none_or(|max_age| at.elapsed() <= max_age));
            view.clone().filter(|_| is_current)
        };
        if let Some(view) = known() {
            return Ok(view);
        }
        let _turn = self.turn.lock().await;
        // Another task may have asked meanwhile.
        if let Some(view) = known() {
            return Ok(view);
        }
        let view = self.read(last).await?;
        *self.state() = State { view: Some(view.clone()), read_at: Some(Instant::now()) };
        Ok(view)
    }

    /// Asks one node after the other, `last` at the end, until one answers that is in contact with the majority.
    async fn read(&self, last: Option<&Node>) -> RedisResult<View> {
        let mut nodes = self.state().view.as_ref().map(|view| view.map.nodes()).unwrap_or_default();
        let seeds: Vec<Node> =
            self.seeds.iter().filter_map(Template::node).filter(|seed| !nodes.contains(seed)).collect();
        nodes.extend(seeds);
        if !nodes.is_empty() {
            // Another one first each time. The keys of a hasher are random for each instance.
            let first = RandomState::new().hash_one(0) as usize % nodes.len();
            nodes.rotate_left(first);
        }
        nodes.sort_by_key(|node| Some(node) == last);
        let mut fallback = None;
        let mut error: Option<RedisError> = None;
        for node in &nodes {
            match self.ask(node).await {
                Ok(view) if view.is_ok => return Ok(view),
                Ok(view) => fallback = fallback.or(Some(view)),
                Err(failure) => error = error.or(Some(failure)),
            }
        }
        fallback.ok_or_else(|| {
            unavailable("no node of the cluster answers", error.map(|error| error.to_string()).unwrap_or_default())
        })
    }

    async fn ask(&self, node: &Node) -> RedisResult<View> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
        let mut connection = probe(&self.client(node)?).await?;
        let (info, slots): (String, Value) = pipeline.query_async(&mut connection).await?;
        let is_ok = info.lines().any(|line| line.trim() == "cluster_state:ok");
        let map = SlotMap::parse(slots, node).filter(|map| !map.shards.is_empty());
        let map = map.ok_or_else(|| unavailable("a node knows no slots", node.to_string()))?;
        Ok(View { map: Arc::new(map), from: node.clone(), is_ok })
    }

    /// Whether `node` is still the one to use for a slot, or for what all nodes receive.
    pub(super) async fn check(&self, node: &Node, slot: Option<u16>, is_replica: bool) -> RedisResult<()> {
        let View { map, from, is_ok: others_are_ok } = self.view(Some(CHECK_AGE), Some(node)).await?;
        if let Some(slot) = slot {
            let is_right = |(primary, replicas): (Node, &[Node])| {
                if is_replica { replicas.contains(node) } else { primary == *node }
            };
            if !map.shard(slot).is_some_and(is_right) {
                return Err(unavailable("a slot has another owner now", slot.to_string()));
            }
        } else if others_are_ok && from != *node && !map.nodes().contains(node) {
            // A node that the others have forgotten goes on by itself, and receives nothing from them.
            return Err(unavailable("a node has left its cluster", node.to_string()));
        }
        match self.ask(node).await {
            // If the others have the same trouble, there is no better node.
            Ok(View { is_ok: false, .. }) if others_are_ok => {
                Err(unavailable("a node is cut off from its cluster", node.to_string()))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(unavailable("a node does not answer", error.to_string())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotMap {
    /// The answer of `asked` to `CLUSTER SLOTS`; `None` if it is none.
    fn parse(slots: Value, asked: &Node) -> Option<Self> {
        let Value::Array(shards) = slots else { return None };
        let mut shards = shards.into_iter().map(|shard| Shard::parse(shard, asked)).collect::<Option<Vec<_>>>()?;
        shards.sort_unstable_by_key(|shard| shard.first);
        Some(Self { shards })
    }

    /// The primary and the replicas of a slot.
    pub(super) fn shard(&self, slot: u16) -> Option<(Node, &[Node])> {
        let shard = self.shards.iter().find(|shard| (shard.first..=shard.last).contains(&slot))?;
        Some((shard.primary.clone(), &shard.replicas))
    }

    pub(super) fn primaries(&self) -> Vec<Node> {
        let mut primaries: Vec<Node> = self.shards.iter().map(|shard| shard.primary.clone()).collect();
        primaries.sort_unstable();
        primaries.dedup();
        primaries
    }

    /// All nodes.
    fn nodes(&self) -> Vec<Node> {
        let replicas = self.shards.iter().flat_map(|shard| shard.replicas.iter().cloned());
        let mut nodes = self.primaries();
        nodes.extend(replicas);
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl Shard {
    fn parse(shard: Value, asked: &Node) -> Option<Self> {
        let Value::Array(fields) = shard else { return None };
        let mut fields = fields.into_iter();
        let mut slot = || redis::from_redis_value::<u16>(fields.next()?).ok().filter(|slot| *slot < SLOTS);
        let (first, last) = (slot()?, slot()?);
        let mut nodes = fields.map(|node| parse_node(node, asked));
        let primary = nodes.next()??;
        // Of those that are left out, the node does not know the address.
        Some(Self { first, last, primary, replicas: nodes.flatten().collect() })
    }
}

/// Host, port and more; without a host, it is that of the node that was asked.
fn parse_node(node: Value, asked: &Node) -> Option<Node> {
    let Value::Array(fields) = node else { return None };
    let mut fields = fields.into_iter();
    let host: Option<String> = redis::from_redis_value(fields.next()?).ok()?;
    let port = redis::from_redis_value(fields.next()?).ok()?;
    match host.unwrap_or_default() {
        host if host == "?" => None,
        host if host.is_empty() => Some(Node { host: asked.host.clone(), port }),
        host => Some(Node { host, port }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(Vec::new())])
    }

    fn shard(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn asked() -> Node {
        Node { host: "asked".to_owned(), port: 1 }
    }

    #[test]
    fn answers_name_the_nodes_of_each_slot() {
        let slots = Value::Array(vec![
            shard(8192, 16383, vec![node(text("b"), 2), node(text("c"), 3), node(text("?"), 4)]),
            shard(0, 8191, vec![node(Value::Nil, 1)]),
        ]);
        let map = SlotMap::parse(slots, &asked()).unwrap();
        let (primary, replicas) = map.shard(8192).unwrap();
        assert_eq!(
            (primary.to_string(), replicas.len(), replicas[0].to_string()),
            ("b:2".to_owned(), 1, "c:3".to_owned())
        );
        assert_eq!(map.shard(8191).unwrap().0, asked());
        assert_eq!((map.primaries().len(), map.nodes().len()), (2, 3));
    }

    #[test]
    fn other_answers_are_none() {
        for slots in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![shard(0, 16384, vec![node(text("a"), 1)])]),
            Value::Array(vec![shard(0, 1, vec![])]),
            Value::Array(vec![shard(0, 1, vec![node(text("?"), 1)])]),
        ] {
            assert_eq!(SlotMap::parse(slots, &asked()), None);
        }
        assert!(SlotMap::parse(Value::Array(Vec::new()), &asked()).unwrap().shard(0).is_none());
    }
}
