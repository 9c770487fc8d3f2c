//! The client that sent a request.

use std::net::{IpAddr, Ipv4Addr};

/// The address of the client that sent a request, as an extension of the request. A [`Server`](crate::Server) inserts it for
/// its fallback; a host that mounts a [`StreamService`](crate::StreamService) may insert it for the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    pub(crate) ip: IpAddr,
    pub(crate) behind_proxy: bool,
    /// Whether each stream counts against the limits of its address. On connections of their own, connections do.
    pub(crate) limited: bool,
}

impl ClientAddress {
    /// A client that is connected directly.
    pub fn new(ip: IpAddr) -> Self {
        Self { ip, behind_proxy: false, limited: true }
    }

    /// A client whose requests come through a proxy.
    pub fn behind_proxy(ip: IpAddr) -> Self {
        Self { behind_proxy: true, ..Self::new(ip) }
    }

    /// A client whose address is not known, and so has no limits.
    pub(crate) fn unspecified() -> Self {
        Self { limited: false, ..Self::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) }
    }

    /// The address.
    pub fn ip(self) -> IpAddr {
        self.ip
    }
}
