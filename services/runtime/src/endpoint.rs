//! Where agents may be (F124): an endpoint comes from a caller and is dialled by us, so it must not lead to whatever else the network
//! has. Its text is checked when it is stored, and the addresses of its name each time it is dialled: exactly what was checked is dialled,
//! because names can change in between. Decides and does no IO.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use url::{Host, Url};

/// Longer endpoints are a mistake.
const LONGEST: usize = 1024;

/// Why `AGENT_ENDPOINT_ALLOW` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {0} is neither a host suffix (agents.example.com), nor a range of addresses (10.0.0.0/8), nor `loopback`"
)]
pub struct AllowError(pub usize);

/// Why an endpoint is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a URL.
    #[error("is not a URL such as http://agent.example.com:50051")]
    Url,
    /// Another scheme.
    #[error("begins with http://, https://, ws:// or wss://")]
    Scheme,
    /// Something that would be ignored, or logged.
    #[error("has a host and a port only: no user, no fragment, and for http no path and no query")]
    Extra,
    /// Not in `AGENT_ENDPOINT_ALLOW`.
    #[error("is not in AGENT_ENDPOINT_ALLOW")]
    NotAllowed,
    /// An address that no agent has.
    #[error("is a link-local, unspecified, multicast or broadcast address")]
    Special,
}

/// The rules of `AGENT_ENDPOINT_ALLOW`. Without entries nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    loopback: bool,
    suffixes: Vec<String>,
    ranges: Vec<IpNet>,
}

impl Allow {
    /// Reads entries with commas between; a suffix stands for itself and all names below it.
    ///
    /// # Errors
    /// [`AllowError`] with the entry's place.
    pub fn parse(text: &str) -> Result<Self, AllowError> {
        let mut allow = Self::default();
        for (at, entry) in text.split(',').map(str::trim).enumerate() {
            if entry.is_empty() {
                continue;
            }
            let error = AllowError(at + 1);
            if entry.eq_ignore_ascii_case("loopback") {
                allow.loopback = true;
            } else if entry.contains('/') {
                allow.ranges.push(entry.parse().map_err(|_| error)?);
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                allow.ranges.push(address.into());
            } else {
                let name = entry.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
                if name.is_empty() || !name.chars().all(fits) || name.contains("..") {
                    return Err(error);
                }
                allow.suffixes.push(name);
            }
        }
        Ok(allow)
    }

    /// Checks an endpoint of an agent and returns it as it will be dialled.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn check(&self, endpoint: &str) -> Result<String, EndpointError> {
        let text = endpoint.trim();
        // The URL parser drops tabs and newlines and takes backslashes for slashes; who writes them wants to mislead.
        if text.len() > LONGEST || text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(EndpointError::Url);
        }
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Url)?;
        let plain = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => true,
            "ws" | "wss" => false,
            _ => return Err(EndpointError::Scheme),
        };
        let url = Url::parse(text).map_err(|_| EndpointError::Url)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let has_path = !matches!(url.path(), "" | "/") || url.query().is_some();
        if authority.contains('@') || url.fragment().is_some() || (plain && has_path) {
            return Err(EndpointError::Extra);
        }
        if url.port_or_known_default().is_none_or(|port| port == 0) {
            return Err(EndpointError::Url);
        }
        match url.host().ok_or(EndpointError::Url)? {
            Host::Domain(name) => self.name(name)?,
            Host::Ipv4(address) => self.address(IpAddr::V4(address))?,
            Host::Ipv6(address) => self.address(IpAddr::V6(address))?,
        }
        let text = url.as_str();
        Ok(if has_path { text } else { text.trim_end_matches('/') }.to_owned())
    }

    fn name(&self, name: &str) -> Result<(), EndpointError> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let allowed = if name == "localhost" || name.ends_with(".localhost") {
            self.loopback
        } else {
            self.suffixes.iter().any(|suffix| {
                name.strip_suffix(suffix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        };
        if allowed {
            Ok(())
        } else {
            Err(EndpointError::NotAllowed)
        }
    }

    /// The addresses of a host that may be dialled, out of one answer of a resolver. Whoever connects takes these, and asks no
    /// resolver again.
    ///
    /// # Errors
    /// `NotFound` when there is no address, `PermissionDenied` when none may be dialled.
    pub fn dialled(&self, host: &str, resolved: impl IntoIterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
        let mut any = false;
        let seen = |address: &SocketAddr| {
            any = true;
            self.permits(host, address.ip())
        };
        let allowed: Vec<SocketAddr> = resolved.into_iter().filter(seen).collect();
        match (allowed.is_empty(), any) {
            (false, _) => Ok(allowed),
            (true, false) => Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address")),
            (true, true) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the endpoint is not on AGENT_ENDPOINT_ALLOW; add its host or range there",
            )),
        }
    }

    /// Whether a host that resolved to an address may be dialled there: a name that is allowed may be at any address but this
    /// machine's own and those that no service has.
    pub fn permits(&self, host: &str, address: IpAddr) -> bool {
        match self.address(address) {
            Ok(()) => true,
            Err(EndpointError::Special) => false,
            Err(_) => {
                let own = match address {
                    IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(v6.is_loopback(), |v4| v4.is_loopback()),
                    IpAddr::V4(v4) => v4.is_loopback(),
                };
                !own && self.name(&host.to_ascii_lowercase()).is_ok()
            }
        }
    }

    /// Checks an address: written in an endpoint, or what a name resolves to.
    ///
    /// # Errors
    /// [`EndpointError::Special`] whatever is allowed, [`EndpointError::NotAllowed`].
    pub fn address(&self, address: IpAddr) -> Result<(), EndpointError> {
        let address = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 @ IpAddr::V4(_) => v4,
        };
        if special(address) {
            return Err(EndpointError::Special);
        }
        // A wide range does not open this machine by accident.
        let allowed = if address.is_loopback() {
            self.loopback
        } else {
            self.ranges.iter().any(|range| range.contains(&address))
        };
        if allowed {
            Ok(())
        } else {
            Err(EndpointError::NotAllowed)
        }
    }
}

/// Addresses that no agent has: clouds keep their metadata on link-local ones.
fn special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_link_local() || v4.is_multicast() || v4 == Ipv4Addr::BROADCAST,
        IpAddr::V6(v6) => {
            v6 == Ipv6Addr::UNSPECIFIED
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                // IPv4 in disguise (RFC 4291 §2.5.5, 3056, 6052, 8215, 2765): it could carry any of the addresses above.
                || v6.segments()[..6] == [0, 0, 0, 0, 0xffff, 0]
                || (v6.segments()[..6] == [0; 6] && v6 != Ipv6Addr::LOCALHOST)
                || v6.segments()[0] == 0x2002
                || v6.segments()[..2] == [0x64, 0xff9b]
                // Teredo, and addresses that name no host (RFC 4380, RFC 6666).
                || v6.segments()[..2] == [0x2001, 0]
                || v6.segments()[..4] == [0x100, 0, 0, 0]
                // AWS's metadata service.
                || v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

#[cfg(test)]
mod tests;
