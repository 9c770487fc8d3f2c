//! Incremental parser of a response's status line and headers.

use anyhow::{Context, Result, bail, ensure};

/// The maximum size of the response headers in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The maximum number of header fields.
const MAX_HEADERS: usize = 64;

/// A response with another status than that of a stream.
#[derive(Debug, thiserror::Error)]
#[error("unexpected response: {status} {reason}")]
pub(crate) struct UnexpectedStatus {
    pub(crate) status: u16,
    pub(crate) reason: String,
}

/// Collects response headers.
#[derive(Debug, Default)]
pub(crate) struct ResponseHeaderReader(Vec<u8>);

impl ResponseHeaderReader {
    /// Takes the next bytes. Once the headers are complete, returns the result of `read` and the bytes that follow.
    ///
    /// # Errors
    /// If the headers are invalid or too long, or if the status is not `status`.
    pub(crate) fn feed<'b, T>(
        &mut self,
        bytes: &'b [u8],
        status: u16,
        read: impl FnOnce(&[httparse::Header<'_>]) -> T,
    ) -> Result<Option<(T, &'b [u8])>> {
        let before = self.0.len();
        self.0.extend_from_slice(bytes);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(&self.0).context("invalid HTTP response")? else {
            ensure!(self.0.len() <= MAX_HEADER_BYTES, "the response headers exceed {MAX_HEADER_BYTES} bytes");
            return Ok(None);
        };
        if response.code != Some(status) {
            let reason = response.reason.unwrap_or_default().to_owned();
            bail!(UnexpectedStatus { status: response.code.unwrap_or_default(), reason });
        }
        let value = read(response.headers);
        self.0 = Vec::new();
        Ok(Some((value, &bytes[length - before..])))
    }
}

/// Whether `headers` contain `name: value`, ignoring case.
pub(crate) fn has_header(headers: &[httparse::Header<'_>], name: &str, value: &str) -> bool {
    headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case(name) && header.value.eq_ignore_ascii_case(value.as_bytes()))
}
