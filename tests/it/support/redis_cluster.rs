//! A Redis Cluster of three primaries, the first of which has a replica.

use redis::{Commands, Connection, Value};

use super::redis::free_port;
use super::{RedisServer, eventually};

/// The nodes, killed on drop.
pub(crate) struct RedisCluster {
    /// Three primaries, and the replica of the first.
    pub(crate) nodes: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts a cluster whose first node owns the slot of `key`.
    pub(crate) fn start(key: &str) -> Self {
        let bus_ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
        let start = |port: &u16| {
            RedisServer::start_with_flags(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &port.to_string(),
                "--cluster-node-timeout",
                "1000",
                // Owners of other slots go on while one has no owner.
                "--cluster-require-full-coverage",
                "no",
                "--cluster-replica-validity-factor",
                "0",
                "--repl-diskless-sync-delay",
                "0",
            ])
        };
        let nodes: Vec<RedisServer> = bus_ports.iter().map(start).collect();
        let slot: u16 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut nodes[0].connect()).unwrap();
        let ranges = [(0, 5460), (5461, 10922), (10923, 16383)];
        let first = ranges.iter().position(|range| (range.0..=range.1).contains(&slot)).unwrap();
        let mut ids = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let mut connection = node.connect();
            let () = cluster(&mut connection, &["SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            ids.push(cluster(&mut connection, &["MYID"]));
            if number < 3 {
                let (from, to) = ranges[(first + number) % 3];
                let () = cluster(&mut connection, &["ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            }
            let bus = bus_ports[0].to_string();
            let () = cluster(&mut connection, &["MEET", "127.0.0.1", &nodes[0].port().to_string(), &bus]);
        }
        let cluster = Self { nodes, ids };
        let knows_all = |node: &RedisServer| {
            let info: String = self::cluster(&mut node.connect(), &["INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:4")
        };
        eventually("all nodes know each other", || cluster.nodes.iter().all(knows_all));
        let () = self::cluster(&mut cluster.nodes[3].connect(), &["REPLICATE", &cluster.ids[0]]);
        // Nodes list a replica once they have heard that it has received something.
        let () = cluster.nodes[0].connect().set(format!("{{{key}}}"), 0).unwrap();
        eventually("the replica has its primary, and all nodes know", || {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut cluster.nodes[3].connect()).unwrap();
            let slots = |node: &RedisServer| {
                let slots: Value = self::cluster(&mut node.connect(), &["SLOTS"]);
                format!("{slots:?}").contains(&cluster.ids[3])
            };
            info.contains("master_link_status:up") && cluster.nodes.iter().all(slots)
        });
        cluster
    }

    pub(crate) fn url(&self) -> String {
        let ports: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", ports.join(","))
    }

    pub(crate) fn until_promoted(&self) {
        eventually("the replica is a primary, and the others know", || {
            self.nodes[1..].iter().all(|node| {
                let nodes: String = cluster(&mut node.connect(), &["NODES"]);
                nodes.lines().any(|line| line.starts_with(&self.ids[3]) && line.contains("master"))
            })
        });
    }

    /// Moves the slot of `key`, which has no keys, from one node to another.
    pub(crate) fn move_slot(&self, key: &str, from: usize, to: usize) {
        let slot: u16 = cluster(&mut self.nodes[1].connect(), &["KEYSLOT", key]);
        for node in [to, from] {
            let () = cluster(&mut self.nodes[node].connect(), &["SETSLOT", &slot.to_string(), "NODE", &self.ids[to]]);
        }
    }

    /// The primary of the first node's slots, as long as it runs, with its replica up to date.
    pub(crate) fn until_replicated(&self) {
        let replicas: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query(&mut self.nodes[0].connect()).unwrap();
        assert_eq!(replicas, 1);
    }
}

fn cluster<T: redis::FromRedisValue>(connection: &mut Connection, arguments: &[&str]) -> T {
    redis::cmd("CLUSTER").arg(arguments).query(connection).unwrap()
}

/// Publishes on a sharded channel, at the node that owns it. Returns the number of receivers.
pub(crate) fn publish_sharded(node: &RedisServer, channel: &str, payload: &str) -> u32 {
    redis::cmd("SPUBLISH").arg(channel).arg(payload).query(&mut node.connect()).unwrap()
}

/// Publishes on a classic channel.
pub(crate) fn publish(node: &RedisServer, channel: &str, payload: &str) {
    let _: Value = node.connect().publish(channel, payload).unwrap();
}
