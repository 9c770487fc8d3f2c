//! A framing for benchmarks: the payloads alone.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tallycast_fanout::{CloseReason, Framing, Message};

/// The one framing of all readers.
pub(crate) static PLAIN: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Plain));

#[derive(Debug)]
struct Plain;

impl Framing for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        batch.extend_from_slice(message.payload().as_bytes());
    }
    fn skipped(&self, _: u64, _: &mut Vec<u8>) {}
    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }
    fn keep_alive(&self, _: Option<&str>) -> Bytes {
        Bytes::from_static(b".")
    }
    fn closing(&self, _: &CloseReason) -> Bytes {
        Bytes::new()
    }
}
