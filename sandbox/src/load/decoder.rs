//! Takes the compression off a stream, as its bytes come.

use std::{fmt, io::Write};

use anyhow::Result;

use super::head;

/// A stream's compression.
pub(super) enum Decoder {
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl Decoder {
    /// What the headers of a response ask for.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn of(headers: &[httparse::Header<'_>]) -> Result<Option<Self>> {
        Ok(if head::has(headers, "content-encoding", "gzip") {
            Some(Self::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new()))))
        } else if head::has(headers, "content-encoding", "zstd") {
            Some(Self::Zstd(Box::new(zstd::stream::write::Decoder::new(Vec::new())?)))
        } else {
            None
        })
    }

    /// What `bytes` add to the stream.
    ///
    /// # Errors
    /// When they are not of this compression.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
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
