//! Connections to RabbitMQ. lapin speaks AMQP on them, in a thread for each; the sockets are opened, secured and shut down here.
//!
//! lapin waits without limits: for a connection to be accepted, for a handshake, and for a response. Here everything has a limit,
//! and a socket that is shut down ends the thread of its connection in any case.

mod url;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream as Socket};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::Stream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::http_client::{Failure, Identity, Io, Trust, client_config};
pub(crate) use url::MAX_NAME_BYTES;
use url::TlsFiles;
pub use url::{Config, UrlError};

/// The largest frame, in bytes. A connection has two buffers of 32 frames; larger messages come in several.
const FRAME_BYTES: u32 = 32 * 1024;
/// How long a connection may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// The least time that an address of a broker has to accept a connection, if there are others.
const MIN_ADDRESS_LIMIT: Duration = Duration::from_secs(1);

/// The header that names the sender of an event.
pub(crate) const SENDER: &str = "sender";

/// Why something failed at the broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AmqpError {
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// What it answered, or why nothing can be sent to it.
    #[error("{}", reason(.0))]
    Lapin(#[from] lapin::Error),
    /// The files of TLS are unusable.
    #[error("{0}")]
    Tls(Failure),
}

impl AmqpError {
    /// Whether there is no such queue or exchange.
    pub(crate) fn is_not_found(&self) -> bool {
        use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
        let Self::Lapin(error) = self else { return false };
        let ErrorKind::ProtocolError(error) = error.kind() else { return false };
        *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
    }
}

/// What a broker says, or else what the library does.
fn reason(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::MissingHeartbeatError => "no sign of life within two heartbeats".to_owned(),
        ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidChannel(_) => {
            "the connection was closed".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The answer to a request, within the time limit.
pub(crate) async fn answer<T>(
    limit: Duration,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    Ok(timeout(limit, request).await.map_err(|_| AmqpError::TimedOut(limit))??)
}

/// A connection. Dropped, it closes.
pub(crate) struct Link {
    connection: Connection,
    /// Always there, until it is dropped.
    socket: Option<SocketGuard>,
    limit: Duration,
}

impl Link {
    /// Connects and authenticates. `name` is what the broker shows.
    pub(crate) async fn open(config: &Config, name: &str) -> Result<Self, AmqpError> {
        let limit = config.timeout;
        let tls = config.tls.as_ref().map(tls).transpose().map_err(AmqpError::Tls)?;
        let connected = answer(limit, async { Ok(connect(&config.host, config.port, tls, limit).await?) });
        let (stream, socket) = connected.await?;
        let stream = Mutex::new(Some(stream));
        let take = async move |_: AMQPUri, _: Runtime<Kit>| {
            // lapin asks again if the broker closes the connection at once.
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
            Ok(AsyncTcpStream::Plain(stream.compat()))
        };
        let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Sockets(Tokio::current())));
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connection = answer(limit, Connection::connector(uri(config), runtime, take, properties)).await?;
        Ok(Self { connection, socket: Some(socket), limit })
    }

    /// Opens a channel.
    pub(crate) async fn channel(&self) -> Result<Channel, AmqpError> {
        answer(self.limit, self.connection.create_channel()).await
    }

    /// Opens a channel for which the exchange exists. It is created if the configuration says so.
    pub(crate) async fn channel_with_exchange(&self, config: &Config) -> Result<Channel, AmqpError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions {
            passive: !config.declares_exchange,
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let exchange = config.exchange.as_str().into();
        let declared = channel.exchange_declare(exchange, ExchangeKind::Topic, options, FieldTable::default());
        answer(self.limit, declared).await?;
        Ok(channel)
    }
}

impl Drop for Link {
    /// The connection closes gracefully, within a time limit: a frozen broker does not answer.
    fn drop(&mut self) {
        let socket = self.socket.take();
        if let Ok(runtime) = Handle::try_current()
            && self.connection.status().connected()
        {
            runtime.spawn(async move {
                tokio::time::sleep(CLOSE_LIMIT).await;
                drop(socket);
            });
        }
    }
}

fn uri(config: &Config) -> AMQPUri {
    let userinfo = AMQPUserInfo { username: config.user.clone(), password: config.password.clone() };
    AMQPUri {
        // Whatever it is: lapin does not connect.
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority { userinfo, host: config.host.clone(), port: config.port },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_BYTES),
            heartbeat: Some(config.heartbeat),
            ..AMQPQueryString::default()
        },
    }
}

/// What TLS needs. The files are read for each connection, so that it uses renewed ones.
fn tls(files: &TlsFiles) -> Result<TlsConnector, Failure> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| Failure::from(format!("cannot read {}: {error}", path.display())))
    };
    let authorities = files.ca.as_deref().map(read).transpose()?;
    let trust = authorities.as_deref().map_or(Trust::System, Trust::Authorities);
    let identity = files.identity.as_ref();
    let identity = identity.map(|(chain, key)| Ok::<_, Failure>((read(chain)?, read(key)?))).transpose()?;
    let identity = identity.as_ref().map(|(chain, key)| Identity { chain, key });
    Ok(TlsConnector::from(client_config(&trust, identity)?))
}

async fn connect(
    host: &str,
    port: u16,
    tls: Option<TlsConnector>,
    limit: Duration,
) -> io::Result<(Box<dyn Io>, SocketGuard)> {
    let stream = connect_to_any(host, port, limit).await?;
    stream.set_nodelay(true)?;
    let guard = SocketGuard(Socket::from(stream.as_fd().try_clone_to_owned()?));
    let stream: Box<dyn Io> = match tls {
        Some(connector) => {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Box::new(connector.connect(name, stream).await?)
        }
        None => Box::new(stream),
    };
    Ok((stream, guard))
}

/// Connects to the first address of a host that accepts. One that does not answer takes only a part of the caller's limit,
/// so that the others have their turn.
async fn connect_to_any(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let parts = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_add(1);
    let part = (limit / parts).max(MIN_ADDRESS_LIMIT);
    // Nothing comes after the last one, so it has all the time that is left.
    let Some(last) = addresses.pop() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    };
    for address in addresses {
        match timeout(part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => tracing::debug!(%address, %error, "an address of the broker is of no use"),
            Err(_) => tracing::debug!(%address, "an address of the broker does not answer"),
        }
    }
    TcpStream::connect(last).await
}

/// Another handle of a socket. Dropped, it shuts the socket down, which ends the thread of its connection.
struct SocketGuard(Socket);

impl Drop for SocketGuard {
    fn drop(&mut self) {
        // Fails if the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// What lapin runs on: tokio, except that it opens no sockets.
type Kit = RuntimeParts<Tokio, Sockets>;

/// The sockets that [`connect`] opens.
#[derive(Debug, Clone)]
struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Compat<Box<dyn Io>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    #[expect(refining_impl_trait, reason = "only lapin sees it")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _: H) -> io::Result<Self::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
