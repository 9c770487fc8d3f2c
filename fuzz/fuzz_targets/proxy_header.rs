//! First bytes of a connection from a trusted proxy: a decision needs no more bytes than it says, and never changes. The same
//! bytes as the value of a header are an address or ignored.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use tallycast_server::ClientAddressHeader;
use tallycast_server::fuzzing::{ProxyHeader, client_address, proxy_header};

/// The longest header that the server reads.
const MAX_BYTES: usize = 1024;

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    let whole = proxy_header(bytes);
    let decided =
        (0..=bytes.len()).map(|length| proxy_header(&bytes[..length])).find(|part| *part != ProxyHeader::Incomplete);
    assert_eq!(decided.unwrap_or(ProxyHeader::Incomplete), whole);
    if let ProxyHeader::Complete(_, length) = whole {
        assert!(length <= bytes.len());
    }

    let Ok(value) = http::HeaderValue::from_bytes(bytes) else { return };
    let (peer, proxies) = (IpAddr::V4(Ipv4Addr::LOCALHOST), ["127.0.0.0/8".parse().expect("a network")]);
    for header in [ClientAddressHeader::XForwardedFor, ClientAddressHeader::Forwarded] {
        let client = client_address(header, &value, &proxies, peer);
        assert_eq!(client, client.to_canonical());
    }
});
