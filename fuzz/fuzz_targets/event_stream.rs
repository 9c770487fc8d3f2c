//! Event streams: in every coding and in any pieces, a parser of another project reads exactly the events that were framed. The
//! first byte chooses coding and chunks, the second the pieces; then follow events, separated by 0x1e, each of which is a name and
//! a payload, separated by NUL.
#![no_main]

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use libfuzzer_sys::fuzz_target;
use tallycast_fanout::{Framing, Message, Namespace};
use tallycast_server::{Coding, EventFormat, EventStream, Notices};

/// The content of a chunked body that is not complete yet.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while !body.is_empty() {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(body) else {
            panic!("not a chunk: {body:?}");
        };
        let (chunk, rest) = body[start..].split_at(size as usize);
        content.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n").expect("chunks end with CRLF");
    }
    content
}

/// The content before compression.
fn decompressed(coding: Coding, content: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Identity => content.to_vec(),
        Coding::Gzip => {
            let mut decoder = flate2::write::GzDecoder::new(Vec::new());
            decoder.write_all(content).expect("valid gzip");
            decoder.flush().expect("valid gzip");
            decoder.get_ref().clone()
        }
        Coding::Zstd => zstd::decode_all(content).expect("valid zstd"),
    }
}

/// The events that the other parser reads in `content`, in pieces of `size` bytes.
fn parsed(content: &[u8], size: usize) -> Vec<(Option<String>, String)> {
    let pieces: Vec<_> =
        content.chunks(size).map(|piece| Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(piece))).collect();
    let events =
        sse_stream::SseStream::from_bytes_stream(stream::iter(pieces)).map(|event| event.expect("valid event"));
    let events = events.filter_map(|event| std::future::ready(event.data.map(|data| (event.event, data))));
    events.collect().now_or_never().expect("all bytes are there")
}

fuzz_target!(|input: &[u8]| {
    let [mode, size, events @ ..] = input else { return };
    let coding = [Coding::Identity, Coding::Gzip, Coding::Zstd][usize::from(mode / 2) % 3];
    let is_chunked = mode % 2 == 1;
    let Ok(events) = std::str::from_utf8(events) else { return };

    let framing = EventStream::shared(EventFormat::Fields, Notices::Comments, coding, is_chunked);
    let mut wire = framing.opening("tallycast").to_vec();
    let mut expected = Vec::new();
    for event in events.split('\u{1e}') {
        let (name, payload) = event.split_once('\0').unwrap_or(("", event));
        let mut message = Message::text(Namespace::root(), payload);
        message.event = Some(Arc::from(name));
        let mut batch = Vec::new();
        framing.message(&message, &mut batch);
        wire.extend_from_slice(&framing.finish(batch));
        wire.extend_from_slice(&framing.keep_alive(None));
        let name = Some(name.replace(['\r', '\n'], " ")).filter(|name| !name.is_empty());
        // The standard joins the lines with LF, whatever ended them.
        expected.push((name, payload.replace("\r\n", "\n").replace('\r', "\n")));
    }
    let content = if is_chunked { without_chunks(&wire) } else { wire };
    assert_eq!(parsed(&decompressed(coding, &content), usize::from(*size) + 1), expected);
});
