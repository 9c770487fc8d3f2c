//! Export of traces to a collector: OTLP over HTTP in its JSON encoding (OpenTelemetry Protocol 1.x).
//!
//! The encoding needs no crate beside serde, and requests go by the client that the connect hook uses. The crates of the OpenTelemetry
//! project would add an SDK with tasks, queues and random generators of its own, for a fixed set of spans whose times are all known.

mod encode;
mod exporter;

use std::sync::Arc;

use hyper::{HeaderMap, Uri};
use rustls::ClientConfig;

pub(super) use exporter::Exporter;

use crate::http_client::{self, Trust};

/// Where traces go, and what they say of this process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The endpoint for traces, such as `http://localhost:4318/v1/traces`.
    pub url: Uri,
    /// Headers of each request. Their values are secret.
    pub headers: HeaderMap,
    /// The attribute `service.name`.
    pub service: String,
    /// Other attributes of the resource.
    pub resource: Vec<(String, String)>,
    tls: Option<Arc<ClientConfig>>,
}

impl Config {
    /// Exports to `url`, which is `http://` or `https://`.
    ///
    /// # Errors
    /// When there can be no client for TLS.
    pub fn new(
        url: Uri,
        headers: HeaderMap,
        service: String,
        resource: Vec<(String, String)>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let is_tls = url.scheme_str() == Some("https");
        let tls = is_tls.then(|| http_client::tls(&Trust::System)).transpose()?;
        Ok(Self { url, headers, service, resource, tls })
    }
}
