//! Records in a `redis-server` that the test starts.

use super::records::{LEASES, RECORDS, Reading, announce, remove};
use super::*;
use crate::nodes::milliseconds;
use crate::redis_client::tests::{PATIENCE, Server};

fn client(server: &Server) -> RedisClient {
    RedisClient::new(crate::redis_client::open(&server.url()).unwrap(), PATIENCE)
}

fn report(node: &str) -> NodeReport {
    let (version, status) = ("1.2.3".to_owned(), "DEGRADED".to_owned());
    let [startup_time, connections, msgs_broadcast] = [u64::MAX; 3];
    NodeReport { node: node.to_owned(), version, status, draining: false, startup_time, connections, msgs_broadcast }
}

fn ids(reading: &Reading) -> Vec<&str> {
    reading.nodes.iter().map(|node| &*node.id).collect()
}

/// Writes a lease that expires at `expiry`, and a record.
async fn write(client: &RedisClient, node: &str, expiry: u64, record: &str) {
    let () = client.query(redis::cmd("ZADD").arg(LEASES).arg(expiry).arg(node)).await.unwrap();
    let () = client.query(redis::cmd("HSET").arg(RECORDS).arg(node).arg(record)).await.unwrap();
}

#[tokio::test]
async fn processes_with_the_same_name_have_records_of_their_own() {
    let server = Server::start("cluster-names");
    let client = client(&server);
    let (mut twins, other) = ([NodeId::new("b"), NodeId::new("b")], NodeId::new("a"));
    twins.sort();
    for twin in &twins {
        announce(&client, twin, &report("b")).await.unwrap();
    }
    let reading = announce(&client, &other, &report("a")).await.unwrap();
    assert_eq!(ids(&reading), [&other, &twins[0], &twins[1]].map(NodeId::as_str));
    assert_eq!((reading.total, reading.skipped), (3, 0));
    for node in &reading.nodes {
        assert_eq!(node.report, report(&node.report.node));
        assert!((reading.time - 60..=reading.time).contains(&node.reported_at), "{node:?}");
    }
    remove(&client, &twins[0]).await.unwrap();
    let reading = announce(&client, &other, &report("a")).await.unwrap();
    assert_eq!(ids(&reading), [&other, &twins[1]].map(NodeId::as_str));
    // Nothing is left of nodes that have all died.
    for key in [LEASES, RECORDS] {
        let age: u64 = client.query(redis::cmd("PTTL").arg(key)).await.unwrap();
        assert!((1..=milliseconds(LEASE)).contains(&age), "{key}: {age}");
    }
}

#[tokio::test]
async fn dead_nodes_are_removed_and_invalid_records_skipped() {
    let server = Server::start("cluster-dead");
    let client = client(&server);
    for dead in 0..=MAX_REMOVED {
        write(&client, &format!("dead-{dead}"), dead as u64, "{}").await;
    }
    let later = u64::MAX / 4096;
    // Valid but for its size.
    let large = ClusterNode { report: report(&"x".repeat(MAX_RECORD_BYTES)), reported_at: 1, id: String::new() };
    let large = serde_json::to_string(&large).unwrap();
    for (number, invalid) in ["", "{}", "[1]", &large].iter().enumerate() {
        write(&client, &format!("invalid-{number}"), later, invalid).await;
    }
    let node = NodeId::new("a");
    let reading = announce(&client, &node, &report("a")).await.unwrap();
    assert_eq!((ids(&reading), reading.total, reading.skipped), (vec![node.as_str()], 5, 4));
    // The script has a bound, and the next one removes the last.
    for left in [6, 5] {
        for (command, key) in [("ZCARD", LEASES), ("HLEN", RECORDS)] {
            let count: usize = client.query(redis::cmd(command).arg(key)).await.unwrap();
            assert_eq!(count, left, "{command}");
        }
        announce(&client, &node, &report("a")).await.unwrap();
    }
}

#[tokio::test]
async fn further_nodes_are_counted() {
    let server = Server::start("cluster-many");
    let client = client(&server);
    let nodes: Vec<NodeId> = (0..MAX_NODES + 7).map(|_| NodeId::new("a")).collect();
    for node in &nodes {
        announce(&client, node, &report("a")).await.unwrap();
    }
    let reading = announce(&client, &nodes[0], &report("a")).await.unwrap();
    assert_eq!((reading.nodes.len(), reading.total, reading.skipped), (MAX_NODES, MAX_NODES + 7, 0));
    assert!(ids(&reading).contains(&nodes[0].as_str()));
}

#[tokio::test]
async fn record_of_any_name_has_its_bound() {
    let server = Server::start("cluster-bound");
    let name = "\u{1}".repeat(1000);
    let shutdown = CancellationToken::new();
    let stats = Arc::<ClusterStats>::default();
    let redis = client(&server);
    let cluster =
        Cluster::start(move || report(&name), Via::Redis(redis.clone()), Arc::clone(&stats), shutdown.clone());
    while cluster.nodes().is_stale() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let view = cluster.nodes();
    assert_eq!(view.own().unwrap().report.node.len(), 255);
    assert_eq!((stats.nodes.get(), stats.skipped.get(), stats.failures.get()), (1, 0, 0));
    let record: String = redis.query(redis::cmd("HGET").arg(RECORDS).arg(&*view.id)).await.unwrap();
    assert!((1500..=MAX_RECORD_BYTES).contains(&record.len()), "{} bytes", record.len());
    shutdown.cancel();
    cluster.closed().await;
    let count: usize = redis.query(redis::cmd("HLEN").arg(RECORDS)).await.unwrap();
    assert_eq!(count, 0);
}
