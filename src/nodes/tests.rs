//! Leases in a `redis-server` that the test starts.

use std::collections::BTreeSet;

use super::*;
use crate::redis_client::tests::{PATIENCE, Server};

fn nodes(server: &Server, lease: Duration) -> Nodes {
    let client = crate::redis_client::open(&server.url()).unwrap();
    Nodes::new(RedisClient::new(client, PATIENCE), LEASES, lease)
}

/// Ends the lease of a node by the clock of Redis.
async fn expire(nodes: &Nodes, node: &NodeId) {
    nodes.ask::<()>(redis::cmd("ZADD").arg(LEASES).arg(1).arg(node.as_str())).await.unwrap();
}

#[tokio::test]
async fn one_of_many_nodes_becomes_the_heir() {
    let server = Server::start("heirs");
    let nodes = nodes(&server, PATIENCE);
    let dead = NodeId::new("dead");
    assert_eq!(nodes.renew(&dead, &[]).await.unwrap(), Renewal::New);
    assert_eq!(nodes.renew(&dead, &[]).await.unwrap(), Renewal::Kept(0));
    let others: Vec<NodeId> = (0..8).map(|_| NodeId::new("node")).collect();
    for other in &others {
        assert_eq!(nodes.renew(other, &[]).await.unwrap(), Renewal::New);
        assert_eq!(nodes.claim(other).await.unwrap(), []);
    }
    expire(&nodes, &dead).await;
    let live: BTreeSet<NodeId> = nodes.live().await.unwrap().into_iter().collect();
    assert_eq!(live, others.iter().cloned().collect());
    let mut heirs = Vec::new();
    for other in &others {
        if nodes.claim(other).await.unwrap() == [dead.clone()] {
            heirs.push(other.clone());
        }
    }
    assert_eq!(heirs, others[..1]);
    // The heir dies before it has finished, and the next one takes over.
    expire(&nodes, &heirs[0]).await;
    let claimed: BTreeSet<NodeId> = nodes.claim(&others[1]).await.unwrap().into_iter().collect();
    assert_eq!(claimed, [dead.clone(), heirs[0].clone()].into());
    for node in [&dead, &heirs[0]] {
        nodes.finish(node, &["a".to_owned()]).await.unwrap();
        assert_eq!(nodes.renew(node, &[]).await.unwrap(), Renewal::Ended);
    }
    assert_eq!(nodes.claim(&others[1]).await.unwrap(), []);
    nodes.leave(&others[2], &["b".to_owned()]).await.unwrap();
    assert!(!nodes.live().await.unwrap().contains(&others[2]));
}

#[tokio::test]
async fn keys_live_as_long_as_their_node() {
    let server = Server::start("node-keys");
    let nodes = nodes(&server, PATIENCE);
    let node = NodeId::new("node");
    let keys = ["a".to_owned(), "b".to_owned()];
    nodes.ask::<()>(redis::cmd("SET").arg("a").arg(1)).await.unwrap();
    nodes.renew(&node, &keys).await.unwrap();
    assert_eq!(nodes.renew(&node, &keys).await.unwrap(), Renewal::Kept(1));
    let age: i64 = nodes.ask(redis::cmd("PTTL").arg("a")).await.unwrap();
    assert!(age > 0 && age <= i64::try_from(milliseconds(nodes.key_age())).unwrap(), "{age}");
    nodes.ask::<()>(&redis::cmd("FLUSHALL")).await.unwrap();
    assert_eq!(nodes.renew(&node, &keys).await.unwrap(), Renewal::New);
}

#[test]
fn names_of_nodes_are_cut_and_may_have_any_character() {
    for name in ["rust-a#b-c", ""] {
        assert_eq!(NodeId::new(name).name(), name);
    }
    assert_eq!(NodeId::new(&"é".repeat(200)).name(), "é".repeat(127));
    assert_ne!(NodeId::new("a"), NodeId::new("a"));
}

#[tokio::test]
async fn connection_without_answers_is_given_up() {
    let server = Server::start("nodes-frozen");
    let nodes = nodes(&server, PATIENCE);
    let node = NodeId::new("node");
    nodes.renew(&node, &[]).await.unwrap();
    let connected = async |nodes: &Nodes| nodes.ask::<u64>(redis::cmd("CLIENT").arg("ID")).await.unwrap();
    let before = connected(&nodes).await;
    server.freeze();
    assert!(matches!(nodes.renew(&node, &[]).await, Err(NodesError::Timeout)));
    server.thaw();
    assert_ne!(connected(&nodes).await, before);
}
