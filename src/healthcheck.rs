//! `tallycast healthcheck`, for containers without curl.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// The time limit for connecting, for sending and for receiving, each.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of bytes of the response that are read: the first line is enough.
const MAX_BYTES: u64 = 1024;

/// Asks the tallycast at `port` on this machine whether it is alive.
#[expect(clippy::print_stderr, reason = "for people, and for container engines, which keep it")]
pub(crate) fn run(port: u16) -> ExitCode {
    match status_line(port) {
        // A TLS port answers plain HTTP with 421, so the server is alive.
        Ok(line) if line.contains(" 200 ") || line.contains(" 421 ") => ExitCode::SUCCESS,
        Ok(line) => {
            eprintln!("tallycast healthcheck: unexpected response from port {port}: {line:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tallycast healthcheck: no response from port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn status_line(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned())
}
