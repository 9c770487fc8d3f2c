//! A primary and its replica under three Sentinels, all with passwords.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};

use redis::{Client, Connection};

use super::redis::free_port;
use super::{RedisServer, TempDir, eventually};

/// What the servers ask for.
pub(crate) const PASSWORD: &str = "servers-secret";
/// What the Sentinels ask for.
const SENTINEL_PASSWORD: &str = "sentinels-secret";

/// The servers and their Sentinels, killed on drop.
pub(crate) struct Sentinels {
    pub(crate) servers: [RedisServer; 2],
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    port: u16,
    child: Child,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts all. The first server is the primary.
    pub(crate) fn start() -> Self {
        let flags = ["--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"];
        let servers = [(); 2].map(|()| RedisServer::start_with_password_and_flags(PASSWORD, &flags));
        let port = servers[0].port();
        let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query(&mut servers[1].connect()).unwrap();
        eventually("the replica has its primary", || is_linked(&servers[1]));
        let sentinels = (0..3).map(|_| Sentinel::start(port)).collect();
        let sentinels = Self { servers, sentinels };
        eventually("the Sentinels know each other and the replica", || {
            sentinels.sentinels.iter().all(|sentinel| {
                let known = sentinel.primary();
                known.contains("num-slaves 1") && known.contains("num-other-sentinels 2")
            })
        });
        sentinels
    }

    pub(crate) fn url(&self) -> String {
        let ports: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://:{PASSWORD}@{}/main?sentinel-password={SENTINEL_PASSWORD}", ports.join(","))
    }

    /// Has the Sentinels make the other server the primary.
    pub(crate) fn switch(&self) {
        let _: String =
            redis::cmd("SENTINEL").arg("FAILOVER").arg("main").query(&mut self.sentinels[0].connect()).unwrap();
    }

    /// Waits until all Sentinels name this server as the primary, and it is one.
    pub(crate) fn until_primary(&self, server: usize) {
        let server = &self.servers[server];
        let port = format!("port {} ", server.port());
        eventually("the Sentinels and the server agree on the primary", || {
            replication(server).contains("role:master")
                && self.sentinels.iter().all(|sentinel| sentinel.primary().contains(&port))
        });
    }

    /// Waits until this server is a replica that is connected to its primary, as far as the Sentinels know, too.
    pub(crate) fn until_replica(&self, server: usize) {
        eventually("the server is a replica", || is_linked(&self.servers[server]));
        eventually("the Sentinels know", || {
            self.sentinels.iter().all(|sentinel| {
                let replicas: Vec<HashMap<String, String>> =
                    redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query(&mut sentinel.connect()).unwrap();
                replicas.iter().any(|replica| replica["flags"] == "slave" && replica["master-link-status"] == "ok")
            })
        });
    }
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        let (port, directory) = (free_port(), TempDir::new());
        let path = directory.path().join("sentinel.conf");
        let config = format!(
            "port {port}\nbind 127.0.0.1\nrequirepass {SENTINEL_PASSWORD}\nsentinel sentinel-pass {SENTINEL_PASSWORD}\n\
             sentinel monitor main 127.0.0.1 {primary} 2\nsentinel auth-pass main {PASSWORD}\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 1000\n"
        );
        std::fs::write(&path, config).unwrap();
        let child = Command::new("redis-server")
            .arg(path)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed");
        let sentinel = Self { port, child, _directory: directory };
        eventually("a Sentinel answers", || sentinel.try_connect().is_some());
        sentinel
    }

    fn try_connect(&self) -> Option<Connection> {
        let client = Client::open(format!("redis://:{SENTINEL_PASSWORD}@127.0.0.1:{}", self.port)).unwrap();
        client.get_connection().ok()
    }

    fn connect(&self) -> Connection {
        self.try_connect().expect("the Sentinel runs")
    }

    /// What the Sentinel knows of the primary: names and values in one text.
    fn primary(&self) -> String {
        let fields: Vec<String> =
            redis::cmd("SENTINEL").arg("MASTER").arg("main").query(&mut self.connect()).unwrap_or_default();
        fields.join(" ")
    }
}

fn is_linked(server: &RedisServer) -> bool {
    let info = replication(server);
    info.contains("role:slave") && info.contains("master_link_status:up")
}

/// What a server says of its role; nothing when the Sentinels end its connections just now.
fn replication(server: &RedisServer) -> String {
    let info = |mut connection| redis::cmd("INFO").arg("replication").query(&mut connection).ok();
    server.try_connect().and_then(info).unwrap_or_default()
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
