//! Which server a command or a subscription goes to, and whether it still should: one server, the primary that Sentinels name, or
//! the owner of a slot in a cluster.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, ProtocolVersion, RedisError, RedisResult,
};

use super::cluster::Cluster;
use super::sentinel::Sentinel;
use super::url::{RedisUrl, Topology};

/// Time to connect, and for each answer, when servers are asked about each other.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// What is known of a cluster is taken for what it is now for this long, so that the sources of many slots ask once.
const LOCATE_AGE: Duration = Duration::from_millis(100);
/// The shortest time between two checks of a server.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The Redis servers of a URL. Cheap to clone; clones share what they know of a cluster.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    kind: Kind,
    reads_replicas: bool,
}

enum Kind {
    Single(Client),
    Sentinel(Sentinel, Template),
    Cluster(Cluster),
}

impl fmt::Debug for Servers {
    /// Without addresses, which may have passwords.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Servers").field("reads_replicas", &self.0.reads_replicas).finish_non_exhaustive()
    }
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// What a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// Everything that changes, publishes or must be current.
    Primary,
    /// What may be a little older: from a replica, if the URL asks for that and there is one.
    Replica,
}

/// How to connect to any server of the URL.
#[derive(Clone)]
pub(super) struct Template(ConnectionInfo);

impl Template {
    pub(super) fn new(info: &ConnectionInfo) -> Self {
        let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        Self(info.clone().set_tcp_settings(TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive)))
    }

    /// The address in the URL.
    pub(super) fn own(&self) -> RedisResult<Client> {
        Client::open(self.0.clone())
    }

    pub(super) fn client(&self, node: &Node) -> RedisResult<Client> {
        let (host, port) = (node.host.clone(), node.port);
        let address = match self.0.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(self.0.clone().set_addr(address))
    }

    /// The address in the URL, if it is one of the network.
    pub(super) fn node(&self) -> Option<Node> {
        match self.0.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Node { host: host.clone(), port: *port })
            }
            _ => None,
        }
    }
}

/// Opens the servers of `url`; nothing connects yet.
///
/// # Errors
/// The URL asks for TLS and its setup fails.
pub fn open(url: &RedisUrl) -> RedisResult<Servers> {
    // Only the first call in a process can succeed, which is enough.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kind = match &url.topology {
        Topology::Single(info) => Kind::Single(Template::new(info).own()?),
        Topology::Sentinel { sentinels, name, server } => {
            Kind::Sentinel(Sentinel::new(sentinels, name)?, Template::new(server))
        }
        Topology::Cluster(seeds) => Kind::Cluster(Cluster::new(seeds.iter().map(Template::new).collect())),
    };
    Ok(Servers(Arc::new(Inner { kind, reads_replicas: url.reads_replicas })))
}

impl Servers {
    /// Whether a server may lose its role and yet obey commands.
    pub(super) fn have_sentinels(&self) -> bool {
        matches!(self.0.kind, Kind::Sentinel(..))
    }

    /// Whether the URL asks to read replicas.
    pub(crate) fn reads_replicas(&self) -> bool {
        self.0.reads_replicas
    }

    /// Whether they are a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.0.kind, Kind::Cluster(_))
    }

    /// Finds a server now, for a slot in a cluster; without a slot, any node of the cluster. What was
    /// found out longer ago than a moment does not count.
    pub(crate) async fn locate(&self, slot: Option<u16>, access: Access) -> RedisResult<Server> {
        self.find_by(slot, access, Some(LOCATE_AGE)).await
    }

    /// Finds a server, in a cluster by what is known of it.
    pub(super) async fn find(&self, slot: Option<u16>, access: Access) -> RedisResult<Server> {
        self.find_by(slot, access, None).await
    }

    async fn find_by(&self, slot: Option<u16>, access: Access, max_age: Option<Duration>) -> RedisResult<Server> {
        let wants_replica = access == Access::Replica && self.0.reads_replicas;
        let server = |client, node, is_replica| Server {
            servers: self.clone(),
            client,
            node,
            slot,
            is_replica,
            stands_in_for: None,
        };
        match &self.0.kind {
            Kind::Single(client) => Ok(server(client.clone(), None, false)),
            Kind::Sentinel(sentinel, template) => {
                if wants_replica {
                    let replicas = with_clients(&sentinel.replicas().await?, |node| template.client(node))?;
                    // The Sentinel that has named them may be cut off from the others.
                    let primary = sentinel.majority().await;
                    if let Some((node, client)) = current_replica(replicas, primary.as_ref()).await {
                        return Ok(server(client, Some(node), true));
                    }
                }
                let node = sentinel.primary().await?;
                let client = template.client(&node)?;
                expect_role(&client, &node, Role::Primary).await?;
                Ok(server(client, Some(node), false))
            }
            Kind::Cluster(cluster) => {
                let map = cluster.map(max_age).await?;
                let (primary, replicas) = match slot {
                    Some(slot) => {
                        map.shard(slot).ok_or_else(|| unavailable("a slot has no owner", slot.to_string()))?
                    }
                    None => (
                        pick(map.primaries()).ok_or_else(|| unavailable("a cluster has no nodes", String::new()))?,
                        &[][..],
                    ),
                };
                let replica = if !wants_replica {
                    None
                } else if max_age.is_some() {
                    current_replica(with_clients(replicas, |node| cluster.client(node))?, None).await
                } else {
                    // For each command; whether the replica is current is asked once, when a connection opens.
                    let node = pick(replicas.to_vec());
                    node.map(|node| cluster.client(&node).map(|client| (node, client))).transpose()?
                };
                match replica {
                    Some((node, client)) => Ok(server(client, Some(node), true)),
                    None => Ok(server(cluster.client(&primary)?, Some(primary), false)),
                }
            }
        }
    }

    /// What is known of a cluster may be wrong.
    pub(super) fn forget(&self) {
        if let Kind::Cluster(cluster) = &self.0.kind {
            cluster.forget();
        }
    }

    /// The server that a node of a cluster refers to.
    pub(super) fn node_at(&self, address: &str) -> Option<Server> {
        let Kind::Cluster(cluster) = &self.0.kind else { return None };
        let (host, port) = address.rsplit_once(':')?;
        let node = Node { host: host.to_owned(), port: port.parse().ok()? };
        let client = cluster.client(&node).ok()?;
        Some(Server {
            servers: self.clone(),
            client,
            node: Some(node),
            slot: None,
            is_replica: false,
            stands_in_for: None,
        })
    }
}

/// A server, as it was found.
#[derive(Clone)]
pub struct Server {
    servers: Servers,
    client: Client,
    /// Its address, unless it is the only one.
    node: Option<Node>,
    /// The slot that it was found for.
    slot: Option<u16>,
    is_replica: bool,
    /// The slot whose owner is away.
    stands_in_for: Option<u16>,
}

impl Server {
    pub(super) fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Whether it may be behind its primary.
    pub(crate) fn is_replica(&self) -> bool {
        self.is_replica
    }

    /// The same, used only while the owner of a slot is away.
    pub(crate) fn in_place_of_owner(self, slot: u16) -> Self {
        Self { stands_in_for: Some(slot), ..self }
    }

    /// A connection for commands.
    ///
    /// # Errors
    /// The server is unavailable.
    pub async fn connect(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        let is_replica_of_cluster = self.is_replica && self.servers.is_cluster();
        let mut connection = connect(&self.client, config, is_replica_of_cluster).await?;
        if let Some(node) = self.node.as_ref().filter(|_| is_replica_of_cluster) {
            // The others do not say whether it is behind a broken link.
            check_role(&mut connection, node, Role::Replica(None)).await?;
        }
        Ok(connection)
    }

    /// A connection for sharded pub/sub, whose messages go to the push sender of `config`.
    pub(crate) async fn connect_for_pushes(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let info = self.client.get_connection_info().clone();
        // Servers with sharded pub/sub have this version of the protocol.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Client::open(info.set_redis_settings(settings))?.get_multiplexed_async_connection_with_config(config).await
    }

    /// A connection for classic pub/sub.
    ///
    /// # Errors
    /// The server is unavailable.
    pub async fn pubsub(&self) -> RedisResult<PubSub> {
        self.client.get_async_pubsub().await
    }

    /// Waits until this is not the right server any more, and returns the reason; for ever, if it is the only one. It is
    /// checked at this interval.
    pub(crate) async fn superseded(&self, interval: Duration) -> RedisError {
        if matches!(self.servers.0.kind, Kind::Single(_)) {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(interval.max(MIN_CHECK_INTERVAL)).await;
            if let Err(error) = self.check().await {
                return error;
            }
        }
    }

    /// Whether this is still the server that a new connection would lead to.
    ///
    /// # Errors
    /// The reason why it is not.
    pub(crate) async fn check(&self) -> RedisResult<()> {
        let Some(node) = &self.node else { return Ok(()) };
        match &self.servers.0.kind {
            Kind::Single(_) => Ok(()),
            Kind::Sentinel(sentinel, _) if self.is_replica => {
                let primary = sentinel.majority().await;
                expect_role(&self.client, node, Role::Replica(primary.as_ref())).await
            }
            Kind::Sentinel(sentinel, _) => {
                expect_role(&self.client, node, Role::Primary).await?;
                match sentinel.majority().await {
                    Some(primary) if primary != *node => {
                        Err(unavailable("the primary is another server now", primary.to_string()))
                    }
                    // A minority may be cut off, which does not speak against this one.
                    _ => Ok(()),
                }
            }
            Kind::Cluster(cluster) => {
                cluster.check(node, self.slot, self.is_replica).await?;
                if self.is_replica {
                    expect_role(&self.client, node, Role::Replica(None)).await?;
                }
                let Some(slot) = self.stands_in_for else { return Ok(()) };
                let owner = self.servers.find(Some(slot), Access::Primary).await?;
                match probe(&owner.client).await {
                    Ok(_) => Err(unavailable("the owner of a slot is back", slot.to_string())),
                    Err(_) => Ok(()),
                }
            }
        }
    }
}

/// An error as if the connection were broken: another attempt may find another server.
pub(super) fn unavailable(what: &'static str, detail: String) -> RedisError {
    RedisError::from((ErrorKind::Io, what, detail))
}

/// One of several.
fn pick<T>(all: Vec<T>) -> Option<T> {
    rotated(all).into_iter().next()
}

/// The same, beginning with any of them.
fn rotated<T>(mut all: Vec<T>) -> Vec<T> {
    if !all.is_empty() {
        // The keys of a hasher are random for each instance.
        let random = RandomState::new().hash_one(0) as usize % all.len();
        all.rotate_left(random);
    }
    all
}

/// Nodes, with the way to each.
fn with_clients(nodes: &[Node], client: impl Fn(&Node) -> RedisResult<Client>) -> RedisResult<Vec<(Node, Client)>> {
    nodes.iter().map(|node| Ok((node.clone(), client(node)?))).collect()
}

/// One of several replicas that is connected to its primary: to this one, if it is known.
async fn current_replica(replicas: Vec<(Node, Client)>, primary: Option<&Node>) -> Option<(Node, Client)> {
    for (node, client) in rotated(replicas) {
        match expect_role(&client, &node, Role::Replica(primary)).await {
            Ok(()) => return Some((node, client)),
            Err(error) => tracing::debug!(%error, "a replica cannot be read"),
        }
    }
    None
}

/// Connects to a server that is asked about itself or others.
pub(super) async fn probe(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PROBE_LIMIT)).set_response_timeout(Some(PROBE_LIMIT));
    connect(client, &config, false).await
}

async fn connect(
    client: &Client,
    config: &AsyncConnectionConfig,
    read_only: bool,
) -> RedisResult<MultiplexedConnection> {
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    if read_only {
        // Otherwise a replica in a cluster refers to its primary.
        let () = redis::cmd("READONLY").query_async(&mut connection).await?;
    }
    Ok(connection)
}

/// What a server is expected to be.
#[derive(Debug, Clone, Copy)]
enum Role<'a> {
    Primary,
    /// A replica that is connected to its primary: to this one, if it is known.
    Replica(Option<&'a Node>),
}

impl Role<'_> {
    /// Whether the answer to `ROLE` says so.
    fn is_that_of(self, answer: &[redis::Value]) -> bool {
        let text = |at: usize| answer.get(at).and_then(|value| redis::from_redis_value_ref::<String>(value).ok());
        match self {
            Self::Primary => text(0).as_deref() == Some("master"),
            Self::Replica(primary) => {
                let is_current = text(0).as_deref() == Some("slave") && text(3).as_deref() == Some("connected");
                let (host, port) = (text(1).unwrap_or_default(), text(2).unwrap_or_default());
                is_current && primary.is_none_or(|primary| may_be(primary, &host, &port))
            }
        }
    }
}

/// Whether a node may be meant by this address. A name may stand for any host.
fn may_be(node: &Node, host: &str, port: &str) -> bool {
    let is_other_host = match (node.host.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one != other,
        _ => false,
    };
    port.parse() == Ok(node.port) && !is_other_host
}

/// Checks the role of a server.
async fn expect_role(client: &Client, node: &Node, role: Role<'_>) -> RedisResult<()> {
    check_role(&mut probe(client).await?, node, role).await
}

/// The same, by a connection to the server.
async fn check_role(connection: &mut MultiplexedConnection, node: &Node, role: Role<'_>) -> RedisResult<()> {
    let answer: RedisResult<Vec<redis::Value>> = redis::cmd("ROLE").query_async(connection).await;
    let answer = match answer {
        Ok(answer) => answer,
        // Without permission, the others alone decide.
        Err(error) if !error.is_io_error() => return Ok(()),
        Err(error) => return Err(error),
    };
    if role.is_that_of(&answer) {
        return Ok(());
    }
    let what = match role {
        Role::Primary => "a server is not a primary",
        Role::Replica(_) => "a server is not a replica that is current",
    };
    Err(unavailable(what, node.to_string()))
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn replicas_are_those_of_the_primary() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let replica = |host, state| [text("slave"), text(host), Value::Int(7000), text(state), Value::Int(5)];
        let node = |host: &str, port| Node { host: host.to_owned(), port };
        let primary = node("10.0.0.1", 7000);
        let is_of = |primary: Option<&Node>, host, state| Role::Replica(primary).is_that_of(&replica(host, state));
        assert!(is_of(None, "10.0.0.1", "connected") && is_of(Some(&primary), "10.0.0.1", "connected"));
        assert!(!is_of(None, "10.0.0.1", "connect"));
        assert!(!is_of(Some(&primary), "10.0.0.2", "connected"));
        assert!(!is_of(Some(&node("10.0.0.1", 7001)), "10.0.0.1", "connected"));
        // A name may be that of the address.
        assert!(is_of(Some(&primary), "redis-0", "connected"));
        assert!(!Role::Primary.is_that_of(&replica("10.0.0.1", "connected")));
        assert!(Role::Primary.is_that_of(&[text("master"), Value::Int(5), Value::Array(Vec::new())]));
        assert!(!Role::Replica(None).is_that_of(&[text("master"), Value::Int(5), Value::Array(Vec::new())]));
    }
}
