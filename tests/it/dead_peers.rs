//! Clients that vanish from the network without closing their connections.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::support::{Tallycast, eventually, run};

/// Documentation addresses (RFC 5737), known in the two namespaces only.
const SERVER: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.2";

/// Two network namespaces, connected by a cable. Removed on drop.
struct Network {
    server: String,
    client: String,
}

impl Network {
    /// Fails where the test may not create namespaces.
    fn create() -> Result<Self, String> {
        let name = |end| format!("tallycast-{end}-{}", std::process::id());
        let network = Self { server: name("server"), client: name("client") };
        let Self { server, client } = &network;
        ip(&["netns", "add", server])?;
        ip(&["netns", "add", client])?;
        ip(&["link", "add", "cable", "netns", server, "type", "veth", "peer", "name", "cable", "netns", client])?;
        ip(&["-n", server, "link", "set", "lo", "up"])?;
        for (namespace, address) in [(server, SERVER), (client, CLIENT)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/30"), "dev", "cable"])?;
            ip(&["-n", namespace, "link", "set", "cable", "up"])?;
        }
        Ok(network)
    }

    fn unplug_client(&self) {
        ip(&["-n", &self.client, "link", "set", "cable", "down"]).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            // Absent if it could not be created.
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("cannot run ip: {error}"))?;
    let message = || format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(message)
}

/// A command in a namespace.
fn within(namespace: &str, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]).args(arguments);
    command
}

/// A stream that curl reads in the client's namespace. Ended on drop.
struct Stream {
    curl: Child,
    /// Kept, because curl ends when it cannot write.
    _output: BufReader<ChildStdout>,
}

impl Stream {
    fn open(network: &Network, port: u16, path: &str) -> Self {
        let url = format!("http://{SERVER}:{port}{path}");
        let mut curl = within(&network.client, "curl", &["--silent", "--no-buffer", &url]);
        let mut curl = curl.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(curl.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, ": tallycast\n");
        Self { curl, _output: output }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

#[test]
fn connections_of_vanished_clients_are_closed() {
    let network = match Network::create() {
        Ok(network) => network,
        Err(reason) => {
            eprintln!("SKIPPED: vanished clients need network namespaces, which cannot be created here: {reason}");
            return;
        }
    };
    // Without keep-alives, nothing is sent on the quiet stream. The demo needs no broker.
    let flags = ["demo", "--address", "0.0.0.0", "--peer-timeout", "2s", "--stall-limit", "1s", "--keep-alive", "10m"];
    let tallycast = Tallycast::spawn(within(&network.server, env!("CARGO_BIN_EXE_tallycast"), &flags));
    let port = tallycast.address.port();
    let streams = ["/subscribe/quiet", "/subscribe/raw"].map(|path| Stream::open(&network, port, path));
    assert_eq!(tallycast.kernel_connections(), 2);
    network.unplug_client();
    eventually("the kernel has closed the connections", || tallycast.kernel_connections() == 0);
    let url = format!("http://127.0.0.1:{port}/admin/counters.json");
    eventually("the engine has dropped the streams", || {
        let counters = run(&mut within(&network.server, "curl", &["--silent", &url])).stdout;
        let counters: serde_json::Value = serde_json::from_slice(&counters).unwrap();
        assert_eq!(counters["hub"]["connected"], 2, "{counters}");
        counters["hub"]["connections"] == 0
    });
    drop(streams);
}
