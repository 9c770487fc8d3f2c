//! The flags of traces. Those of the collector have the variables of OpenTelemetry.

use std::num::NonZeroU32;

use clap::Args;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Uri, header};
use percent_encoding::percent_decode_str;

use super::errors::ConfigError;
use super::secret::Secret;
use crate::trace::otlp;

/// One of so many events is traced unless something else is configured.
const DEFAULT_SAMPLE: u32 = 100;
/// The path for traces, which is added to the endpoint.
const PATH: &str = "/v1/traces";
/// The attribute with the name of the service, and its value unless another is given.
const SERVICE: (&str, &str) = ("service.name", "tallycast");
/// Bytes of all headers together, and of all attributes.
const MAX_LIST_BYTES: usize = 16 * 1024;

const ENDPOINT_EXPECTED: &str =
    "expected the base URL of a collector without user and query, such as http://localhost:4318";
const HEADERS_EXPECTED: &str = "expected headers, such as x-api-key=secret,x-team=live";
const ATTRIBUTES_EXPECTED: &str = "expected attributes, such as deployment.environment.name=production,team=live";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces")]
pub(super) struct TraceOptions {
    /// Trace one in this many events, at most 100 per second: the time in each stage is in /metrics and, at debug, in the log. 0 traces
    /// none
    #[arg(long, env = "TALLYCAST_TRACE_SAMPLE", default_value_t = DEFAULT_SAMPLE, value_name = "NUMBER", value_parser = sample)]
    trace_sample: u32,
    /// Base URL of an OpenTelemetry collector that traces are sent to, by OTLP over HTTP as JSON. /v1/traces is added to it
    /// [default: none]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    otlp_endpoint: Option<Endpoint>,
    /// Headers for the collector, as NAME=VALUE,NAME=VALUE with percent-encoded values [default: none]
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        value_name = "HEADERS",
        hide_env_values = true,
        value_parser = headers
    )]
    otlp_headers: Option<Secret>,
    /// Name of the service in traces [default: service.name of the resource attributes, or tallycast]
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    otlp_service_name: Option<String>,
    /// Further attributes of the resource in traces, as KEY=VALUE,KEY=VALUE with percent-encoded values [default: none]
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "ATTRIBUTES", value_parser = attributes)]
    otlp_resource_attributes: Option<Attributes>,
}

/// The URL for traces; `None` for an empty text, which means that there is none.
#[derive(Debug, Clone)]
struct Endpoint(Option<Uri>);

#[derive(Debug, Clone)]
struct Attributes(Vec<(String, String)>);

fn sample(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a whole number, such as 100 for one in a hundred events")
}

fn endpoint(text: &str) -> Result<Endpoint, &'static str> {
    if text.is_empty() {
        return Ok(Endpoint(None));
    }
    let mut parts = text.parse::<Uri>().map_err(|_| ENDPOINT_EXPECTED)?.into_parts();
    let is_http = parts.scheme.as_ref().is_some_and(|scheme| ["http", "https"].contains(&scheme.as_str()));
    let has_host = parts.authority.as_ref().is_some_and(|to| !to.host().is_empty() && !to.as_str().contains('@'));
    let path = parts.path_and_query.take().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if !is_http || !has_host || path.query().is_some() {
        return Err(ENDPOINT_EXPECTED);
    }
    let path = format!("{}{PATH}", path.path().trim_end_matches('/'));
    parts.path_and_query = Some(path.parse().map_err(|_| ENDPOINT_EXPECTED)?);
    Ok(Endpoint(Some(Uri::from_parts(parts).map_err(|_| ENDPOINT_EXPECTED)?)))
}

fn headers(text: &str) -> Result<Secret, &'static str> {
    header_map(text).map(|_| Secret::new(text))
}

fn header_map(text: &str) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::new();
    for (name, value) in list(text).ok_or(HEADERS_EXPECTED)? {
        let name: HeaderName = name.parse().map_err(|_| HEADERS_EXPECTED)?;
        let mut value = HeaderValue::try_from(value).map_err(|_| HEADERS_EXPECTED)?;
        // These belong to the request itself.
        if [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(&name) {
            return Err(HEADERS_EXPECTED);
        }
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn attributes(text: &str) -> Result<Attributes, &'static str> {
    list(text).map(Attributes).ok_or(ATTRIBUTES_EXPECTED)
}

/// A list in the form of W3C Baggage, without properties.
fn list(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        (!key.trim().is_empty()).then(|| (key.trim().to_owned(), value.into_owned()))
    };
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    if text.len() > MAX_LIST_BYTES { None } else { pairs.map(pair).collect() }
}

impl TraceOptions {
    /// One of how many events is traced.
    pub(super) fn sample(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.trace_sample)
    }

    /// The collector, if there is one. The variables of others are not wrong without: they may be those of all services of a machine.
    pub(super) fn otlp(self) -> Result<Option<otlp::Config>, ConfigError> {
        let Some(Endpoint(Some(url))) = self.otlp_endpoint else { return Ok(None) };
        let resource = self.otlp_resource_attributes.map(|attributes| attributes.0).unwrap_or_default();
        let (key, default) = SERVICE;
        let of_resource = resource.iter().find(|(given, _)| given == key).map(|(_, value)| value.clone());
        let service = self.otlp_service_name.filter(|name| !name.is_empty()).or(of_resource);
        let service = service.unwrap_or_else(|| default.to_owned());
        let headers = self.otlp_headers.map(|headers| header_map(headers.expose())).transpose();
        let headers =
            headers.map_err(|error| ConfigError::Usage(format!("invalid value for --otlp-headers: {error}")))?;
        let config = otlp::Config::new(url, headers.unwrap_or_default(), service, resource);
        config.map(Some).map_err(|error| ConfigError::Usage(format!("invalid value for --otlp-endpoint: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, read};

    fn config(flags: &[&str]) -> Result<(Option<NonZeroU32>, Option<otlp::Config>), String> {
        let arguments = ["tallycast", "serve"].into_iter().chain(flags.iter().copied()).map(Into::into);
        match read(arguments).map_err(|error| error.to_string())? {
            Command::Run(config) => Ok((config.trace_sample, config.otlp)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_become_a_config() {
        let (sample, otlp) = config(&["--otlp-headers", "a=b", "--otlp-resource-attributes", "team=live"]).unwrap();
        assert_eq!((sample, otlp.is_none()), (NonZeroU32::new(100), true));
        assert!(config(&["--otlp-endpoint", "", "--trace-sample", "0"]).unwrap().0.is_none());
        for (endpoint, url) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("https://[::1]/otlp/", "https://[::1]/otlp/v1/traces"),
        ] {
            assert_eq!(config(&["--otlp-endpoint", endpoint]).unwrap().1.unwrap().url, url);
        }
        let all = ["--otlp-endpoint", "http://a", "--otlp-headers", "X-Key=a%20b, other=c"];
        let attributes = ["--otlp-resource-attributes", "service.name=live,team=a%2Cb"];
        let otlp = config(&[&all[..], &attributes].concat()).unwrap().1.unwrap();
        assert_eq!(
            (&otlp.headers["x-key"], &otlp.headers["other"], &*otlp.service),
            (&"a b".parse().unwrap(), &"c".parse().unwrap(), "live")
        );
        assert!(otlp.resource.contains(&("team".to_owned(), "a,b".to_owned())));
        let named = config(&[&all[..2], &attributes, &["--otlp-service-name", "own"]].concat()).unwrap().1.unwrap();
        assert_eq!(named.service, "own");
    }

    #[test]
    fn invalid_values_are_refused_without_showing_a_secret() {
        for (flags, expected) in [
            (["--otlp-endpoint", "localhost:4318"], ENDPOINT_EXPECTED),
            (["--otlp-endpoint", "grpc://localhost:4317"], ENDPOINT_EXPECTED),
            (["--otlp-endpoint", "http://a/?b"], ENDPOINT_EXPECTED),
            (["--otlp-headers", "hunter2"], HEADERS_EXPECTED),
            (["--otlp-headers", "host=hunter2"], HEADERS_EXPECTED),
            (["--otlp-resource-attributes", "a"], ATTRIBUTES_EXPECTED),
            (["--trace-sample", "1/2"], "expected a whole number, such as 100 for one in a hundred events"),
        ] {
            let error = config(&flags).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
        let endpoint = ["--otlp-endpoint", "http://a", "--otlp-headers", "authorization=hunter2"];
        let debug = format!("{:?}", config(&endpoint).unwrap());
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}
