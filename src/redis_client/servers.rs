//! Which server a command or a subscription goes to, and whether it still should: one server, the primary that Sentinels name, or
//! the owner of a slot in a cluster.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
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
                if wants_replica && let Some(node) = pick(sentinel.replicas().await?) {
                    return Ok(server(template.client(&node)?, Some(node), true));
                }
                let node = sentinel.primary().await?;
                let client = template.client(&node)?;
                expect_role(&client, &node, "master").await?;
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
                let replica = if wants_replica { pick(replicas.to_vec()) } else { None };
                let is_replica = replica.is_some();
                let node = replica.unwrap_or(primary);
                Ok(server(cluster.client(&node)?, Some(node), is_replica))
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
        connect(&self.client, config, self.is_replica && self.servers.is_cluster()).await
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
            Kind::Sentinel(..) if self.is_replica => expect_role(&self.client, node, "slave").await,
            Kind::Sentinel(sentinel, _) => {
                expect_role(&self.client, node, "master").await?;
                match sentinel.primary().await {
                    Ok(primary) if primary != *node => {
                        Err(unavailable("the primary is another server now", primary.to_string()))
                    }
                    // While no Sentinel answers, nothing speaks against this one.
                    _ => Ok(()),
                }
            }
            Kind::Cluster(cluster) => {
                cluster.check(node, self.slot, self.is_replica).await?;
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
fn pick<T>(mut all: Vec<T>) -> Option<T> {
    if all.is_empty() {
        return None;
    }
    // The keys of a hasher are random for each instance.
    let random = RandomState::new().hash_one(0) as usize % all.len();
    Some(all.swap_remove(random))
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

/// Checks that a server is a `master`, or a `slave` that is connected to one, as `ROLE` calls them.
async fn expect_role(client: &Client, node: &Node, role: &str) -> RedisResult<()> {
    let answer: RedisResult<Vec<redis::Value>> = redis::cmd("ROLE").query_async(&mut probe(client).await?).await;
    let answer = match answer {
        Ok(answer) => answer,
        // Without permission, the Sentinels alone decide.
        Err(error) if !error.is_io_error() => return Ok(()),
        Err(error) => return Err(error),
    };
    let text = |at: usize| answer.get(at).and_then(|value| redis::from_redis_value_ref::<String>(value).ok());
    let found = text(0).unwrap_or_default();
    let is_linked = found != "slave" || text(3).as_deref() == Some("connected");
    if found == role && is_linked {
        return Ok(());
    }
    let what = if role == "master" { "a server is not a primary" } else { "a server is not a replica that is current" };
    Err(unavailable(what, node.to_string()))
}
