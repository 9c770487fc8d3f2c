//! The client address as reported by trusted proxies: by the PROXY protocol, versions 1 and 2, or by a header. Reports of other
//! peers are ignored.

use std::net::IpAddr;

use bytes::BytesMut;
use hyper::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::header_list::items;

/// The first bytes of both versions of the PROXY protocol.
const VERSION_1: &[u8] = b"PROXY ";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header that is read, in bytes. Version 1 has at most 107; version 2 needs up to 232, and more with vendors'
/// extensions.
const MAX_BYTES: usize = 1024;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which trusted proxies report the client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAddressHeader {
    /// `X-Forwarded-For`: a list of addresses, to which each proxy appends its client.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Whether `address` is one of `proxies`.
pub(crate) fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// The source of a connection by the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// The connection does not start with a header.
    Absent,
    /// The proxy itself, such as for a health check.
    Local,
    /// A client.
    Client(IpAddr),
}

/// Reads the header, if there is one; what follows it is left in `read`. `None` if the peer leaves before its end, or if it is
/// not valid.
pub(crate) async fn read_proxy_header(stream: &mut TcpStream, read: &mut BytesMut) -> Option<ProxyHeader> {
    loop {
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
        match parse(read) {
            Parsed::Done(header, length) => {
                let _ = read.split_to(length);
                return Some(header);
            }
            Parsed::More if read.len() < MAX_BYTES => {}
            Parsed::More | Parsed::Invalid => return None,
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The header and its length.
    Done(ProxyHeader, usize),
    /// The header is not complete.
    More,
    Invalid,
}

/// Parses the first bytes of a connection. More bytes never change a decision.
pub(crate) fn parse(read: &[u8]) -> Parsed {
    let begins = |start: &[u8]| read.starts_with(start) || start.starts_with(read);
    if begins(VERSION_1) {
        let Some(end) = read.windows(2).position(|bytes| bytes == b"\r\n") else { return Parsed::More };
        return match v1::Header::try_from(&read[..end + 2]) {
            Ok(header) => {
                let source = match header.addresses {
                    v1::Addresses::Tcp4(addresses) => ProxyHeader::Client(addresses.source_address.into()),
                    v1::Addresses::Tcp6(addresses) => ProxyHeader::Client(addresses.source_address.into()),
                    v1::Addresses::Unknown => ProxyHeader::Local,
                };
                Parsed::Done(source, end + 2)
            }
            Err(_) => Parsed::Invalid,
        };
    }
    if begins(VERSION_2) {
        return match v2::Header::try_from(read) {
            Ok(header) => {
                let source = match (header.command, header.addresses) {
                    (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => {
                        ProxyHeader::Client(addresses.source_address.into())
                    }
                    (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => {
                        ProxyHeader::Client(addresses.source_address.into())
                    }
                    _ => ProxyHeader::Local,
                };
                Parsed::Done(source, header.len())
            }
            Err(v2::ParseError::Incomplete(..) | v2::ParseError::Partial(..)) => Parsed::More,
            Err(_) => Parsed::Invalid,
        };
    }
    Parsed::Done(ProxyHeader::Absent, 0)
}

/// The client address by a header of the trusted proxy `peer`: the last address that is not a trusted proxy itself. `peer` if the
/// header is missing or not valid.
pub(crate) fn client(headers: &HeaderMap, header: ClientAddressHeader, proxies: &[IpNet], peer: IpAddr) -> IpAddr {
    let name = match header {
        ClientAddressHeader::XForwardedFor => X_FORWARDED_FOR,
        ClientAddressHeader::Forwarded => FORWARDED,
    };
    let mut client = peer;
    // From the nearest. Everything before an untrusted or invalid address may be forged.
    for hop in items(headers, &name).rev() {
        let text = match header {
            ClientAddressHeader::XForwardedFor => Some(hop),
            ClientAddressHeader::Forwarded => hop.split(';').find_map(|pair| for_parameter(pair.trim())),
        };
        let Some(address) = text.and_then(address) else { break };
        client = address;
        if !is_trusted(proxies, address) {
            break;
        }
    }
    client
}

/// The value of `for=` in any case (RFC 7239, §4).
fn for_parameter(pair: &str) -> Option<&str> {
    let (name, value) = pair.split_once('=')?;
    name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"'))
}

/// An address with optional brackets and port (RFC 7239, §6).
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(header: ClientAddressHeader, lines: &[&str]) -> String {
        let name = match header {
            ClientAddressHeader::XForwardedFor => X_FORWARDED_FOR,
            ClientAddressHeader::Forwarded => FORWARDED,
        };
        let headers = lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect();
        let proxies = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client(&headers, header, &proxies, "10.9.9.9".parse().unwrap()).to_string()
    }

    #[test]
    fn client_is_last_address_that_is_not_trusted() {
        let of = |lines: &[&str]| of(ClientAddressHeader::XForwardedFor, lines);
        assert_eq!(of(&["1.1.1.1"]), "1.1.1.1");
        assert_eq!(of(&["6.6.6.6, 1.1.1.1, 10.0.0.1"]), "1.1.1.1");
        assert_eq!(of(&["6.6.6.6", "1.1.1.1:443", "10.0.0.1"]), "1.1.1.1");
        assert_eq!(of(&["[2001:db8::1]:80, fd00::1"]), "2001:db8::1");
        assert_eq!(of(&["10.0.0.2, 10.0.0.1"]), "10.0.0.2");
        // An invalid address hides everything before it.
        assert_eq!(of(&["6.6.6.6, unknown, 10.0.0.1"]), "10.0.0.1");
        assert_eq!(of(&["unknown"]), "10.9.9.9");
        assert_eq!(of(&[]), "10.9.9.9");
    }

    #[test]
    fn forwarded_header_follows_rfc() {
        let of = |lines: &[&str]| of(ClientAddressHeader::Forwarded, lines);
        assert_eq!(of(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), "192.0.2.60");
        assert_eq!(of(&["for=6.6.6.6, For=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        assert_eq!(of(&["for=1.1.1.1, proto=https;for=10.0.0.1"]), "1.1.1.1");
        assert_eq!(of(&["for=_hidden"]), "10.9.9.9");
    }

    #[test]
    fn proxy_protocol_headers_are_read_whole() {
        let v1 = b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4\r\nGET";
        assert_eq!(parse(v1), Parsed::Done(ProxyHeader::Client("1.1.1.1".parse().unwrap()), v1.len() - 3));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Parsed::Done(ProxyHeader::Local, 15));
        assert_eq!(parse(b"PROXY TCP4 1.1.1 2.2.2.2 3 4\r\n"), Parsed::Invalid);
        let mut v2 = VERSION_2.to_vec();
        v2.extend_from_slice(&[0x21, 0x11, 0, 12, 1, 1, 1, 1, 2, 2, 2, 2, 0, 3, 0, 4]);
        for length in 0..v2.len() {
            assert_eq!(parse(&v2[..length]), Parsed::More, "{length}");
        }
        let length = v2.len();
        v2.extend_from_slice(b"GET");
        assert_eq!(parse(&v2), Parsed::Done(ProxyHeader::Client("1.1.1.1".parse().unwrap()), length));
        for other in [&b"GET / HTTP/1.1"[..], b"PRI * HTTP/2.0", b"\x16\x03\x01"] {
            assert_eq!(parse(other), Parsed::Done(ProxyHeader::Absent, 0));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(read: Vec<u8>, after in "[ -~\r\n]{0,60}", line in "[ -~]{0,60}") {
            parse(&read);
            parse(&[VERSION_2, &read].concat());
            parse(&[VERSION_1, after.as_bytes()].concat());
            of(ClientAddressHeader::XForwardedFor, &[&line]);
            of(ClientAddressHeader::Forwarded, &[&line]);
        }

        /// Whatever a client sends, the address that the trusted proxy appended is used.
        #[test]
        fn forged_addresses_are_ignored(made_up in "[0-9a-f.:, ]{0,40}") {
            let line = format!("{made_up}, 1.1.1.1");
            prop_assert_eq!(of(ClientAddressHeader::XForwardedFor, &[&line, "10.0.0.1"]), "1.1.1.1");
        }
    }
}
