//! The client's address, where a proxy that is trusted tells it: by the PROXY protocol, versions 1 and 2, or by a header.
//! What a proxy that is not trusted tells is not looked at.

use std::net::IpAddr;

use bytes::BytesMut;
use hyper::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::header_list::items;

/// What both versions of the PROXY protocol begin with.
const VERSION_1: &[u8] = b"PROXY ";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The most bytes of its header: 107 in version 1; in version 2 any number, but addresses need no more than 216 beside what
/// vendors add.
const MAX_BYTES: usize = 1024;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which trusted proxies tell the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAddress {
    /// `X-Forwarded-For`: a list of addresses, each proxy's client at the end.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Whether `address` is one of `proxies`.
pub(super) fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// Where a connection comes from, by a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    /// There is no such header.
    Nothing,
    /// The proxy speaks for itself, as for a health check.
    Itself,
    /// A client.
    Client(IpAddr),
}

/// Reads the header, if there is one, off `stream`; what follows it is left in `read`. Nothing if the peer goes before its
/// end, or if it is not valid.
pub(super) async fn announced(stream: &mut TcpStream, read: &mut BytesMut) -> Option<Announced> {
    loop {
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
        match parse(read) {
            Parsed::Done(announced, length) => {
                let _ = read.split_to(length);
                return Some(announced);
            }
            Parsed::More if read.len() < MAX_BYTES => {}
            Parsed::More | Parsed::Invalid => return None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// What the header says, and how long it is.
    Done(Announced, usize),
    /// Its end has not come.
    More,
    Invalid,
}

fn parse(read: &[u8]) -> Parsed {
    let begins = |start: &[u8]| read.starts_with(start) || start.starts_with(read);
    if begins(VERSION_1) {
        let Some(end) = read.windows(2).position(|bytes| bytes == b"\r\n") else { return Parsed::More };
        return match v1::Header::try_from(&read[..end + 2]) {
            Ok(header) => {
                let announced = match header.addresses {
                    v1::Addresses::Tcp4(addresses) => Announced::Client(addresses.source_address.into()),
                    v1::Addresses::Tcp6(addresses) => Announced::Client(addresses.source_address.into()),
                    v1::Addresses::Unknown => Announced::Itself,
                };
                Parsed::Done(announced, end + 2)
            }
            Err(_) => Parsed::Invalid,
        };
    }
    if begins(VERSION_2) {
        return match v2::Header::try_from(read) {
            Ok(header) => {
                let announced = match (header.command, header.addresses) {
                    (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => {
                        Announced::Client(addresses.source_address.into())
                    }
                    (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => {
                        Announced::Client(addresses.source_address.into())
                    }
                    _ => Announced::Itself,
                };
                Parsed::Done(announced, header.len())
            }
            Err(v2::ParseError::Incomplete(..) | v2::ParseError::Partial(..)) => Parsed::More,
            Err(_) => Parsed::Invalid,
        };
    }
    Parsed::Done(Announced::Nothing, 0)
}

/// The client's address by a header that the trusted proxy `peer` has sent: the last one that is not a trusted proxy's
/// itself. `peer`, where the header says nothing that can be used.
pub(super) fn client(headers: &HeaderMap, header: ClientAddress, proxies: &[IpNet], peer: IpAddr) -> IpAddr {
    let name = match header {
        ClientAddress::XForwardedFor => X_FORWARDED_FOR,
        ClientAddress::Forwarded => FORWARDED,
    };
    let mut client = peer;
    // From the nearest on. What stands before an address that is not trusted, or that cannot be read, could be made up.
    for hop in items(headers, &name).rev() {
        let text = match header {
            ClientAddress::XForwardedFor => Some(hop),
            ClientAddress::Forwarded => hop.split(';').find_map(|pair| for_parameter(pair.trim())),
        };
        let Some(address) = text.and_then(address) else { break };
        client = address;
        if !is_trusted(proxies, address) {
            break;
        }
    }
    client
}

/// The value of `for=`, whose name is in any case (RFC 7239, §4).
fn for_parameter(pair: &str) -> Option<&str> {
    let (name, value) = pair.split_once('=')?;
    name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"'))
}

/// An address, perhaps in brackets, perhaps with a port (RFC 7239, §6).
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

    fn of(header: ClientAddress, lines: &[&str]) -> String {
        let name = match header {
            ClientAddress::XForwardedFor => X_FORWARDED_FOR,
            ClientAddress::Forwarded => FORWARDED,
        };
        let headers = lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect();
        let proxies = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client(&headers, header, &proxies, "10.9.9.9".parse().unwrap()).to_string()
    }

    #[test]
    fn the_last_address_that_is_not_a_proxys_is_the_clients() {
        let of = |lines: &[&str]| of(ClientAddress::XForwardedFor, lines);
        assert_eq!(of(&["1.1.1.1"]), "1.1.1.1");
        assert_eq!(of(&["6.6.6.6, 1.1.1.1, 10.0.0.1"]), "1.1.1.1");
        assert_eq!(of(&["6.6.6.6", "1.1.1.1:443", "10.0.0.1"]), "1.1.1.1");
        assert_eq!(of(&["[2001:db8::1]:80, fd00::1"]), "2001:db8::1");
        assert_eq!(of(&["10.0.0.2, 10.0.0.1"]), "10.0.0.2");
        // What cannot be read hides what stands before it.
        assert_eq!(of(&["6.6.6.6, unknown, 10.0.0.1"]), "10.0.0.1");
        assert_eq!(of(&["unknown"]), "10.9.9.9");
        assert_eq!(of(&[]), "10.9.9.9");
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it() {
        let of = |lines: &[&str]| of(ClientAddress::Forwarded, lines);
        assert_eq!(of(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), "192.0.2.60");
        assert_eq!(of(&["for=6.6.6.6, For=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        assert_eq!(of(&["for=1.1.1.1, proto=https;for=10.0.0.1"]), "1.1.1.1");
        assert_eq!(of(&["for=_hidden"]), "10.9.9.9");
    }

    #[test]
    fn both_versions_of_the_proxy_protocol_are_read_to_their_end() {
        let v1 = b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4\r\nGET";
        assert_eq!(parse(v1), Parsed::Done(Announced::Client("1.1.1.1".parse().unwrap()), v1.len() - 3));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Parsed::Done(Announced::Itself, 15));
        assert_eq!(parse(b"PROXY TCP4 1.1.1 2.2.2.2 3 4\r\n"), Parsed::Invalid);
        let mut v2 = VERSION_2.to_vec();
        v2.extend_from_slice(&[0x21, 0x11, 0, 12, 1, 1, 1, 1, 2, 2, 2, 2, 0, 3, 0, 4]);
        for length in 0..v2.len() {
            assert_eq!(parse(&v2[..length]), Parsed::More, "{length}");
        }
        let length = v2.len();
        v2.extend_from_slice(b"GET");
        assert_eq!(parse(&v2), Parsed::Done(Announced::Client("1.1.1.1".parse().unwrap()), length));
        for other in [&b"GET / HTTP/1.1"[..], b"PRI * HTTP/2.0", b"\x16\x03\x01"] {
            assert_eq!(parse(other), Parsed::Done(Announced::Nothing, 0));
        }
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd(read: Vec<u8>, after in "[ -~\r\n]{0,60}", line in "[ -~]{0,60}") {
            parse(&read);
            parse(&[VERSION_2, &read].concat());
            parse(&[VERSION_1, after.as_bytes()].concat());
            of(ClientAddress::XForwardedFor, &[&line]);
            of(ClientAddress::Forwarded, &[&line]);
        }

        /// Whatever a client sends, it is never taken for one nearer than the proxy that vouches.
        #[test]
        fn what_a_client_makes_up_is_not_believed(made_up in "[0-9a-f.:, ]{0,40}") {
            let line = format!("{made_up}, 1.1.1.1");
            prop_assert_eq!(of(ClientAddress::XForwardedFor, &[&line, "10.0.0.1"]), "1.1.1.1");
        }
    }
}
