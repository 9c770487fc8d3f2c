//! Server-Sent Events and WebSocket for any number of readers, on the [`tallycast_fanout`] engine.
//!
//! There are two ways to serve the streams of an engine:
//!
//! - A [`Server`] owns a port. It speaks HTTP/1.1, HTTP/1.0, HTTP/2 and TLS, and takes the socket of an event stream over
//!   from the HTTP library, so that an idle reader costs less than one kilobyte with jemalloc. Requests that are not for a stream go to its
//!   [fallback](Server::fallback), such as an axum `Router`.
//! - A [`StreamService`] is mounted inside another HTTP server, behind its middleware. Each stream then keeps the
//!   task and buffers of its connection, about 26 kilobytes; the README has the measurement.
//!
//! ```no_run
//! use tallycast_fanout::{Fanout, Message};
//! use tallycast_server::Server;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let fanout = Fanout::builder().build();
//! let listener = tallycast_server::listen(([127, 0, 0, 1], 8001).into(), 64 * 1024)?;
//! tokio::spawn(Server::new(fanout.handle()).serve(listener).into_future());
//! // `curl http://127.0.0.1:8001/subscribe/clock` reads it.
//! fanout.publisher().send(Message::text("/clock".parse()?, "12:00")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Requests
//!
//! The prefixes are those of [`Config`]; a [`StreamService`] has none.
//!
//! | request | response |
//! |---|---|
//! | `GET /subscribe/<namespace>` | the stream of the namespace and all below it |
//! | `GET /subscribe/<topic>,<topic>` | the streams of several topics as one |
//! | `GET /subscribe?topic=<topic>&topic=<topic>` | the same |
//! | `GET /subscribe/<namespace>?snapshot=1` | the stream of a namespace, starting with its totals |
//! | `GET /subscribe/<namespace>?envelope=1` | the stream with each message as a JSON object that names its namespace |
//! | the header `last-event-id`, or `?lastEventID=<id>` | the stream from after the message with this id |
//! | `GET /subscribe/<namespace>?last=20`, `?since=5m` | the stream, starting with messages that are kept |
//! | `GET /ws/...`, or any of these with `upgrade: websocket` | the same over WebSocket |
//!
//! # Authorization
//!
//! An [`Authorizer`] decides about every stream before it starts, and about each change of topics over WebSocket.
//!
//! A [`Contract`] adds streams on other paths and in another framing, and decides about them itself. A [`StreamObserver`] sees all
//! streams begin, change and end.
//!
//! # Cargo features
//!
//! All are on by default.
//!
//! | feature | adds |
//! |---|---|
//! | `compression` | event streams in gzip and zstd |
//! | `tls` | `Tls` and `Config::tls` |
//! | `websocket` | the module `websocket`, and WebSocket on every path of a stream |
//!
//! # Logs
//!
//! By [`tracing`]: each request at debug level with the fields `client`, `method`, `path` and `status`; failed connections
//! at debug level with `client`; failures of the server itself at warn level.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod access;
mod authorizer;
mod client;
mod coding;
mod config;
mod connection;
mod contract;
mod envelope;
mod event_response;
mod event_stream;
mod fallback;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod header_list;
mod http1;
mod hyper_connection;
mod io;
mod limits;
mod listener;
mod observer;
mod origins;
mod position;
mod proxies;
mod query;
pub mod relay;
mod request_timer;
mod response;
mod routes;
mod server;
mod service;
mod slots;
mod stats;
mod stream_watch;
mod streams;
#[cfg(feature = "tls")]
mod tls;
mod topic_budget;
mod topics;
#[cfg(feature = "websocket")]
mod upgraded;
#[cfg(feature = "websocket")]
pub mod websocket;
mod wire;

pub use authorizer::{AccessRequest, Action, Authorizer, Denied};
pub use client::ClientAddress;
pub use coding::Coding;
pub use config::{Compression, Config, PREFIX, WEBSOCKET_PREFIX};
pub use contract::{Contract, ContractStream};
pub use event_stream::{EventFormat, EventStream, Notices, data_lines};
pub use limits::{NamespaceLimit, NamespaceLimitError};
pub use listener::{SharedPort, inherit, listen};
pub use observer::StreamObserver;
pub use origins::{AllowedOrigin, OriginError};
pub use position::requested as requested_start;
pub use proxies::ClientAddressHeader;
pub use response::{StreamBody, WholeResponse, text_response};
pub use server::{Serve, Server};
pub use service::StreamService;
pub use stats::Stats;
pub use tallycast_fanout::{Access, Grant, StreamWatch};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError};
