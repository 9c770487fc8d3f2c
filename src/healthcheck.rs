//! `tallycast healthcheck`: for containers that have no curl.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(2);

/// Asks the tallycast at `port` on this machine whether it is alive.
#[expect(clippy::print_stderr, reason = "the answer is for people and for container engines, which keep it")]
pub(crate) fn run(port: u16) -> ExitCode {
    match ask(port) {
        // Where TLS is spoken, plain HTTP is told so, which shows as well that somebody is there.
        Ok(line) if line.contains(" 200 ") || line.contains(" 421 ") => ExitCode::SUCCESS,
        Ok(line) => {
            eprintln!("tallycast healthcheck: port {port} answered {line:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tallycast healthcheck: port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}
