//! Content codings (RFC 9110, §8.4): the one a client prefers, and streams in independent blocks.
//!
//! A batch is compressed once, into a block that refers to no other, so that it suits every reader, wherever in the stream it
//! started. That costs part of the gain: small batches hardly shrink.

#[cfg(feature = "compression")]
use std::cell::RefCell;

#[cfg(feature = "compression")]
use flate2::{Compress, Compression, FlushCompress};
use hyper::header::{ACCEPT_ENCODING, HeaderMap};

use crate::header_list::items;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// None.
    #[default]
    Identity,
    /// RFC 1952.
    #[cfg(feature = "compression")]
    Gzip,
    /// RFC 8878.
    #[cfg(feature = "compression")]
    Zstd,
}

/// The header of a gzip stream (RFC 1952, §2.3.1): deflate, no name, no time, any system.
#[cfg(feature = "compression")]
const GZIP_START: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";

impl Coding {
    /// The codings of streams besides identity, the preferred one first.
    #[cfg(feature = "compression")]
    pub(crate) const FOR_STREAMS: [Self; 2] = [Self::Gzip, Self::Zstd];
    #[cfg(not(feature = "compression"))]
    pub(crate) const FOR_STREAMS: [Self; 0] = [];

    /// The name in `content-encoding`, if there is one.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            #[cfg(feature = "compression")]
            Self::Gzip => Some("gzip"),
            #[cfg(feature = "compression")]
            Self::Zstd => Some("zstd"),
        }
    }

    /// The bytes before a stream's first block.
    pub(crate) fn start(self) -> &'static [u8] {
        match self {
            Self::Identity => b"",
            #[cfg(feature = "compression")]
            Self::Gzip => GZIP_START,
            #[cfg(feature = "compression")]
            Self::Zstd => b"",
        }
    }

    /// `bytes` as a block that can follow any other.
    pub(crate) fn block(self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Identity => bytes,
            #[cfg(feature = "compression")]
            Self::Gzip => deflated(&bytes),
            // A frame of its own (RFC 8878, §3.1).
            #[cfg(feature = "compression")]
            Self::Zstd => zstd::bulk::compress(&bytes, zstd::DEFAULT_COMPRESSION_LEVEL).unwrap_or_default(),
        }
    }
}

/// The coding of `preferred` with the highest weight in the client's `accept-encoding` (RFC 9110, §12.5.3); the first of equal
/// weights. Identity if it accepts none.
pub(crate) fn accepted<const N: usize>(headers: &HeaderMap, preferred: [Coding; N]) -> Coding {
    let accepted: Vec<(&str, f32)> = items(headers, &ACCEPT_ENCODING)
        .map(|item| {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = parameters.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse().ok());
            (name.trim(), weight.unwrap_or(1.0))
        })
        .collect();
    let weight = |coding: Coding| {
        let name = coding.name().unwrap_or("identity");
        let named = accepted.iter().find(|(accepted, _)| accepted.eq_ignore_ascii_case(name));
        named.or_else(|| accepted.iter().find(|(accepted, _)| *accepted == "*")).map_or(0.0, |(_, weight)| *weight)
    };
    let mut best = (Coding::Identity, 0.0);
    for coding in preferred {
        if weight(coding) > best.1 {
            best = (coding, weight(coding));
        }
    }
    best.0
}

/// `bytes` in blocks of deflate (RFC 1951), flushed so that the last one ends at a whole byte.
#[cfg(feature = "compression")]
fn deflated(bytes: &[u8]) -> Vec<u8> {
    thread_local! {
        // Its tables are large: to create them for each batch would cost more than the batch.
        static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), false));
    }
    COMPRESS.with_borrow_mut(|compress| {
        // Forgets the previous batch, which a reader may not have received.
        compress.reset();
        let mut blocks = Vec::with_capacity(bytes.len() / 2 + 64);
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            // Only a stream that was ended could fail, and this one never is.
            let _ = compress.compress_vec(&bytes[read..], &mut blocks, FlushCompress::Full);
            // If there is room left, everything is written.
            if blocks.len() < blocks.capacity() {
                return blocks;
            }
            blocks.reserve(blocks.capacity().max(64));
        }
    })
}

#[cfg(feature = "compression")]
#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn coding(value: &str) -> Coding {
        accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]), [Coding::Zstd, Coding::Gzip])
    }

    #[test]
    fn client_chooses_coding() {
        assert_eq!(accepted(&HeaderMap::new(), [Coding::Zstd, Coding::Gzip]), Coding::Identity);
        assert_eq!(coding("gzip, deflate, br, zstd"), Coding::Zstd);
        assert_eq!(coding("gzip;q=1.0, zstd;q=0.5"), Coding::Gzip);
        assert_eq!(coding("gzip ; q=0, *"), Coding::Zstd);
        assert_eq!(coding("zstd;q=0, gzip;q=0"), Coding::Identity);
        assert_eq!(coding("br"), Coding::Identity);
    }

    proptest! {
        #[test]
        fn stream_is_readable_from_any_block(batches: Vec<Vec<u8>>, first in 0..4_usize) {
            let batches = &batches[first.min(batches.len())..];
            let whole = batches.concat();
            for coding in [Coding::Gzip, Coding::Zstd] {
                let mut stream = coding.start().to_vec();
                for batch in batches.iter().filter(|batch| !batch.is_empty()) {
                    stream.extend_from_slice(&coding.block(batch.clone()));
                }
                let mut read = vec![0; whole.len()];
                match coding {
                    Coding::Gzip => flate2::read::GzDecoder::new(&*stream).read_exact(&mut read).unwrap(),
                    _ => zstd::stream::Decoder::new(&*stream).unwrap().read_exact(&mut read).unwrap(),
                }
                prop_assert_eq!(&read, &whole);
            }
        }

        #[test]
        fn any_header_is_parsed(value in "[a-z*;=q., 0-9]{0,30}") {
            coding(&value);
        }
    }
}
