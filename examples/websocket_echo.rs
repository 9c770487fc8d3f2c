//! The WebSocket protocol without the engine: sends every message back. The Autobahn testsuite runs against it.
//!
//! `cargo run --example websocket_echo`, or with an address to listen on: `cargo run --example websocket_echo 127.0.0.1:9001`.

#![expect(clippy::print_stdout, reason = "prints the address for the user")]

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tallycast_fanout::close_gracefully;
use tallycast_server::websocket::{Handshake, Protocol, Received, is_upgrade, write_binary, write_text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The largest message of the testsuite has 16 MiB.
const MAX_MESSAGE: usize = 16 << 20;
/// The kernel's send buffer per connection, in bytes.
const SEND_BUFFER: u32 = 256 * 1024;
/// What a client may still send after the close frames, in bytes.
const MAX_UNREAD: u64 = 1 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = tallycast_server::listen(address.parse()?, SEND_BUFFER)?;
    println!("echoing on ws://{}", listener.local_addr()?);
    serve(listener).await
}

/// Serves every connection until accepting one fails.
pub(crate) async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(shake_hands));
            // A client that fails ends its own connection.
            let _ = connection.with_upgrades().await;
        });
    }
}

async fn shake_hands(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (request, _body) = request.into_parts();
    let mut response = Response::new(Full::default());
    if !is_upgrade(&request) {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(response);
    }
    match Handshake::accept(&request.headers) {
        Ok(handshake) => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = handshake.headers();
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    // As above.
                    let _ = echo(TokioIo::new(upgraded)).await;
                }
            });
        }
        Err(error) => {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            *response.body_mut() = Full::from(format!("{error}\n"));
        }
    }
    Ok(response)
}

async fn echo(mut stream: TokioIo<Upgraded>) -> std::io::Result<()> {
    let mut protocol = Protocol::new(MAX_MESSAGE);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        protocol.push(&buffer[..read]);
        let (mut replies, mut ended) = (Vec::new(), false);
        while let Some(received) = protocol.next(&mut replies) {
            match received {
                Received::Text(text) => write_text(text.as_bytes(), &mut replies),
                Received::Binary(bytes) => write_binary(&bytes, &mut replies),
                Received::Control => {}
                Received::Close(_) => {
                    ended = true;
                    break;
                }
            }
        }
        stream.write_all(&replies).await?;
        if ended {
            // A client that does not close in time is left behind.
            let _ = close_gracefully(&mut stream, b"", MAX_UNREAD).await;
            return Ok(());
        }
    }
}
