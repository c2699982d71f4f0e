//! Whose request is this? The address behind our own proxies, and whether it is one of Exotel's.
//!
//! Exotel gives its address ranges by mail only, and addresses can be shared: the list is one more fence, never a reason to believe.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Most proxies of our own that a request can have come through.
pub const MAX_PROXIES: usize = 8;

/// Which addresses requests may come from, and how many proxies of ours they come through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Empty: any.
    allowed: Vec<IpNet>,
    /// 0: the connection's peer is the client.
    proxies: usize,
}

/// Why a list of addresses is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// An entry is no address.
    #[error("has an entry that is neither an address nor a range such as 192.0.2.0/24 or 2001:db8::/32: {0}")]
    Entry(String),
    /// More proxies than anybody has.
    #[error("is more than {MAX_PROXIES}: it counts the proxies of our own before the edge")]
    Proxies,
}

impl Sources {
    /// Reads a comma list of addresses and ranges.
    ///
    /// # Errors
    /// When an entry is neither, or there are too many proxies.
    pub fn parse(list: &str, proxies: usize) -> Result<Self, SourcesError> {
        if proxies > MAX_PROXIES {
            return Err(SourcesError::Proxies);
        }
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let allowed = entries.map(|entry| {
            let range = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            range
                .map(canonical)
                .map_err(|_| SourcesError::Entry(entry.chars().take(80).collect()))
        });
        Ok(Self {
            allowed: allowed.collect::<Result<_, _>>()?,
            proxies,
        })
    }

    /// The client's address: the connection's peer or, behind N proxies, the N-th entry from the right of `X-Forwarded-For`, whose lines
    /// are one list (RFC 9110 §5.3). Each proxy adds at the right whom it was asked by; what stands left of our own proxies' entries
    /// is anybody's word and never looked at. None: the entry is not there or no address.
    pub fn client<'a>(&self, peer: IpAddr, lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> Option<IpAddr> {
        let Some(before) = self.proxies.checked_sub(1) else {
            return Some(peer.to_canonical());
        };
        let mut entries = lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
        let entry = std::str::from_utf8(entries.nth(before)?).ok()?;
        read(entry.trim())
    }

    /// Whether a connection may be taken: without proxies its peer is the client.
    pub(crate) fn permits_peer(&self, peer: IpAddr) -> bool {
        self.proxies > 0 || self.permits(Some(peer.to_canonical()))
    }

    /// Whether a client may ask at all. Where there is a list, one whose address is not known may not.
    pub fn permits(&self, client: Option<IpAddr>) -> bool {
        let listed = |address: IpAddr| self.allowed.iter().any(|range| range.contains(&address));
        self.allowed.is_empty() || client.is_some_and(listed)
    }
}

/// An address, as some proxies write it with its port.
fn read(entry: &str) -> Option<IpAddr> {
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = entry.parse().ok().or_else(bracketed).or_else(with_port)?;
    Some(address.to_canonical())
}

/// A range of IPv4 addresses that is written as one of IPv6 (RFC 4291 §2.5.5.2) is the former.
fn canonical(range: IpNet) -> IpNet {
    let mapped = |range: Ipv6Net| {
        let bits = range.prefix_len().checked_sub(96)?;
        Ipv4Net::new(range.addr().to_ipv4_mapped()?, bits).ok()
    };
    match range {
        IpNet::V6(v6) => mapped(v6).map_or(range, IpNet::V4),
        IpNet::V4(_) => range,
    }
}

/// Whom failures are counted for: a customer of a network has one address of IPv4, and 2^64 of IPv6.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Net::new(v6, 64).map_or(address, |range| IpAddr::V6(range.network())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn behind(proxies: usize) -> Sources {
        Sources::parse("", proxies).unwrap()
    }

    fn client(sources: &Sources, lines: &[&str]) -> Option<String> {
        let peer = "192.0.2.1".parse().unwrap();
        let client = sources.client(peer, lines.iter().map(|line| line.as_bytes()));
        client.map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_counted_from_the_right() {
        let lines = ["203.0.113.9, 198.51.100.7", " 198.51.100.8 "];
        for (proxies, expected) in [
            (0, Some("192.0.2.1")),
            (1, Some("198.51.100.8")),
            (2, Some("198.51.100.7")),
            (3, Some("203.0.113.9")),
            (4, None),
        ] {
            assert_eq!(client(&behind(proxies), &lines).as_deref(), expected, "{proxies}");
        }
        assert_eq!(client(&behind(1), &[]), None);
        for (entry, expected) in [
            ("::ffff:198.51.100.7", Some("198.51.100.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:4711", Some("2001:db8::7")),
            ("198.51.100.7:4711", Some("198.51.100.7")),
            ("unknown", None),
            ("", None),
            ("198.51.100.7,", None),
            ("198.51.100.7 203.0.113.9", None),
            ("198.51.100.777", None),
        ] {
            assert_eq!(client(&behind(1), &[entry]).as_deref(), expected, "{entry}");
        }
    }

    #[test]
    fn a_list_lets_in_whom_it_names() {
        let sources = Sources::parse("198.51.100.0/24, 2001:db8::/32,203.0.113.7,::ffff:192.0.2.0/120", 0).unwrap();
        for (address, expected) in [
            ("198.51.100.7", true),
            ("::ffff:198.51.100.7", true),
            ("198.51.101.7", false),
            ("203.0.113.7", true),
            ("203.0.113.8", false),
            ("192.0.2.9", true),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            let client = sources.client(address.parse().unwrap(), std::iter::empty());
            assert_eq!(sources.permits(client), expected, "{address}");
        }
        assert!(!sources.permits(None));
        assert!(behind(0).permits(None));
        for wrong in ["198.51.100.0/33", "exotel.com", "::/129", "198.51.100"] {
            assert!(Sources::parse(wrong, 0).is_err(), "{wrong}");
        }
        assert_eq!(Sources::parse("", 9), Err(SourcesError::Proxies));
    }

    #[test]
    fn one_customer_is_one_neighbour() {
        let of = |address: &str| neighbourhood(address.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    proptest! {
        /// F48: whatever a client writes into the header itself, in however many lines, the proxies' entries decide.
        #[test]
        fn what_stands_on_the_left_changes_nothing(
            spoofed in proptest::collection::vec("[ -~]{0,40}", 0..4),
            joined in any::<bool>(),
            seen in proptest::collection::vec(any::<IpAddr>(), 1..=MAX_PROXIES),
        ) {
            let sources = behind(seen.len());
            let own: Vec<String> = seen.iter().map(ToString::to_string).collect();
            let honest = own.join(", ");
            let mut lines = spoofed;
            if joined && let Some(last) = lines.last_mut() {
                *last = format!("{last}, {honest}");
            } else {
                lines.push(honest.clone());
            }
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let expected = seen[0].to_canonical().to_string();
            prop_assert_eq!(client(&sources, &[&honest]), Some(expected.clone()));
            prop_assert_eq!(client(&sources, &lines), Some(expected));
        }

        #[test]
        fn any_header_is_an_address_or_none(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4), proxies in 0..=MAX_PROXIES) {
            let peer = "192.0.2.1".parse().unwrap();
            let found = behind(proxies).client(peer, lines.iter().map(Vec::as_slice));
            prop_assert!(proxies > 0 || found == Some(peer));
        }
    }
}
