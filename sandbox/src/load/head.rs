//! The head of a response, which may come in pieces.

use anyhow::{Context, Result, bail, ensure};

/// The longest response head that is read, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most header fields that are read.
const MAX_HEADERS: usize = 64;

/// The start of a response.
#[derive(Debug, Default)]
pub(super) struct HeadReader(Vec<u8>);

impl HeadReader {
    /// Collects a head. When it is whole, gives what `read` makes of its headers, and what follows it.
    ///
    /// # Errors
    /// When it is none, is too long, or has another status than `status`.
    pub(super) fn feed<'b, T>(
        &mut self,
        bytes: &'b [u8],
        status: u16,
        read: impl FnOnce(&[httparse::Header<'_>]) -> T,
    ) -> Result<Option<(T, &'b [u8])>> {
        let before = self.0.len();
        self.0.extend_from_slice(bytes);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(&self.0).context("the answer is no HTTP response")?
        else {
            ensure!(self.0.len() <= MAX_HEAD_BYTES, "the response head is over {MAX_HEAD_BYTES} bytes");
            return Ok(None);
        };
        if response.code != Some(status) {
            bail!("the answer is {} {}", response.code.unwrap_or_default(), response.reason.unwrap_or_default());
        }
        let made = read(response.headers);
        self.0 = Vec::new();
        Ok(Some((made, &bytes[length - before..])))
    }
}

/// Whether one of `headers` is `name: value`.
pub(super) fn has(headers: &[httparse::Header<'_>], name: &str, value: &str) -> bool {
    headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case(name) && header.value.eq_ignore_ascii_case(value.as_bytes()))
}
