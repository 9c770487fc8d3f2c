//! `tallycast healthcheck`, for containers without curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// The time limit for connecting, for sending and for receiving, each.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of bytes of the response that are read: the first line is enough.
const MAX_BYTES: u64 = 1024;

/// Asks the tallycast that listens on `address` whether it is alive.
#[expect(clippy::print_stderr, reason = "for people, and for container engines, which keep it")]
pub(crate) fn run(address: SocketAddr) -> ExitCode {
    let address = reachable(address);
    match status_line(address) {
        // A TLS port answers plain HTTP with 421, so the server is alive.
        Ok(line) if line.contains(" 200 ") || line.contains(" 421 ") => ExitCode::SUCCESS,
        Ok(line) => {
            eprintln!("tallycast healthcheck: unexpected response from {address}: {line:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tallycast healthcheck: no response from {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The address to connect to. A server that listens on all addresses is asked by the loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn status_line(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_on_all_addresses_is_asked_by_the_loopback_address() {
        for (address, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            assert_eq!(reachable(address.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
