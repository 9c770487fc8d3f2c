//! Content codings (RFC 9110, §8.4): which one a client prefers, and streams in blocks that each stand for themselves.
//!
//! A batch is compressed once, into a block that refers to no other, so that every reader can be sent it, wherever in the
//! stream it came in. That costs a part of the gain: small batches hardly shrink.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress};
use hyper::header::{ACCEPT_ENCODING, HeaderMap};

use crate::header_list::items;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// As it is.
    #[default]
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What a gzip stream begins with (RFC 1952, §2.3.1): deflate, no name, no time, any system.
const GZIP_START: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";

impl Coding {
    /// Its name in `content-encoding`, if it has one there.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// What a stream begins with, before its first block.
    pub(super) fn start(self) -> &'static [u8] {
        match self {
            Self::Gzip => GZIP_START,
            Self::Identity | Self::Zstd => b"",
        }
    }

    /// `bytes` as a block that can follow any other.
    pub(super) fn block(self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Identity => bytes,
            Self::Gzip => deflated(&bytes),
            // Each a frame of its own (RFC 8878, §3.1).
            Self::Zstd => zstd::bulk::compress(&bytes, zstd::DEFAULT_COMPRESSION_LEVEL).unwrap_or_default(),
        }
    }
}

/// Of the codings there are, the one that the client gives the highest weight (RFC 9110, §12.5.3), of those alike the first
/// of `preferred`.
pub fn accepted(headers: &HeaderMap, preferred: [Coding; 2]) -> Coding {
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
    let [first, second] = preferred;
    if weight(first) > 0.0 && weight(first) >= weight(second) {
        first
    } else if weight(second) > 0.0 {
        second
    } else {
        Coding::Identity
    }
}

/// `bytes` in blocks of deflate (RFC 1951), flushed so that the last one ends at a whole byte.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    thread_local! {
        // Its tables are large, and made anew for each batch would cost more than the batch.
        static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), false));
    }
    COMPRESS.with_borrow_mut(|compress| {
        // Forgets the batch before, which a reader may not have got.
        compress.reset();
        let mut blocks = Vec::with_capacity(bytes.len() / 2 + 64);
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            // Only a stream that was ended, which this one never is, could fail.
            let _ = compress.compress_vec(&bytes[read..], &mut blocks, FlushCompress::Full);
            // With room left, everything is written.
            if blocks.len() < blocks.capacity() {
                return blocks;
            }
            blocks.reserve(blocks.capacity().max(64));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn coding(value: &str) -> Coding {
        accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]), [Coding::Zstd, Coding::Gzip])
    }

    #[test]
    fn the_client_chooses_the_coding() {
        assert_eq!(accepted(&HeaderMap::new(), [Coding::Zstd, Coding::Gzip]), Coding::Identity);
        assert_eq!(coding("gzip, deflate, br, zstd"), Coding::Zstd);
        assert_eq!(coding("gzip;q=1.0, zstd;q=0.5"), Coding::Gzip);
        assert_eq!(coding("gzip ; q=0, *"), Coding::Zstd);
        assert_eq!(coding("zstd;q=0, gzip;q=0"), Coding::Identity);
        assert_eq!(coding("br"), Coding::Identity);
    }

    proptest! {
        /// Whichever blocks a reader missed at the beginning, the rest is whole.
        #[test]
        fn a_stream_can_be_read_from_any_block_on(batches: Vec<Vec<u8>>, first in 0..4_usize) {
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
        fn no_header_is_too_odd(value in "[a-z*;=q., 0-9]{0,30}") {
            coding(&value);
        }
    }
}
