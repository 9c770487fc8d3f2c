//! Incremental decompression of a stream.

use std::{fmt, io::Write};

use anyhow::Result;

use super::response_header::has_header;

/// A decompressor for a content coding.
pub(crate) enum Decoder {
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl Decoder {
    /// The decoder for the `content-encoding` of a response, if any.
    ///
    /// # Errors
    /// If it cannot be allocated.
    pub(crate) fn from_headers(headers: &[httparse::Header<'_>]) -> Result<Option<Self>> {
        Ok(if has_header(headers, "content-encoding", "gzip") {
            Some(Self::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new()))))
        } else if has_header(headers, "content-encoding", "zstd") {
            Some(Self::Zstd(Box::new(zstd::stream::write::Decoder::new(Vec::new())?)))
        } else {
            None
        })
    }

    /// Decompresses `bytes` and returns the new output.
    ///
    /// # Errors
    /// If the bytes are invalid.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let decoded = match self {
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                decoder.get_mut()
            }
            Self::Zstd(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                decoder.get_mut()
            }
        };
        Ok(std::mem::take(decoded))
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}
