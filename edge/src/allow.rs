//! Where voice agents may be: the edge dials nothing else (F124).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Host suffixes and address ranges that may be dialled. Empty allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    suffixes: Vec<String>,
    ranges: Vec<IpNet>,
    loopback: bool,
}

/// Why an entry is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// Neither a range nor a host.
    #[error(
        "has an entry that is neither a host suffix, nor an address range such as 10.0.0.0/8, nor the word loopback: {0}"
    )]
    Entry(String),
}

impl AllowList {
    /// Reads a comma list: `agents.example.com` (the host itself and its subdomains), `10.0.0.0/8`, `192.0.2.7`, or the
    /// word `loopback` for development.
    ///
    /// # Errors
    /// When an entry is none of these.
    pub fn parse(list: &str) -> Result<Self, AllowError> {
        let mut allow = Self::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = || AllowError::Entry(entry.chars().take(80).collect());
            if entry.eq_ignore_ascii_case("loopback") {
                allow.loopback = true;
            } else if entry.contains('/') {
                allow.ranges.push(entry.parse().map_err(|_| wrong())?);
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                allow.ranges.push(address.into());
            } else {
                let suffix = entry.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
                let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
                if suffix.is_empty() || !suffix.chars().all(host) {
                    return Err(wrong());
                }
                allow.suffixes.push(suffix);
            }
        }
        Ok(allow)
    }

    /// Whether `host`, which resolved to `address`, may be dialled. A name on the list may be at any address but the
    /// machine's own and link-local ones (cloud metadata); those, and names that are not listed, need a range.
    pub fn permits(&self, host: &str, address: IpAddr) -> bool {
        // An IPv4 address written as IPv6 is the IPv4 address.
        let address = address.to_canonical();
        if self.ranges.iter().any(|range| range.contains(&address)) {
            return true;
        }
        if address.is_loopback() {
            return self.loopback;
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        !special(address)
            && self.suffixes.iter().any(|suffix| {
                host == *suffix
                    || host
                        .strip_suffix(suffix.as_str())
                        .is_some_and(|rest| rest.ends_with('.'))
            })
    }
}

fn special(address: IpAddr) -> bool {
    address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local() || embeds_v4(v6),
        }
}

/// Translated and tunnelled forms would reach an IPv4 address that nobody checked (RFC 6052, RFC 3056, RFC 4291 §2.5.5.1).
fn embeds_v4(address: Ipv6Addr) -> bool {
    let s = address.segments();
    (s[0] == 0x64 && s[1] == 0xff9b) || s[0] == 0x2002 || s[..6] == [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F124: a name that resolves to an address it must not.
    #[test]
    fn only_what_is_listed_may_be_dialled() {
        let allow = AllowList::parse("agents.example.com, 10.1.0.0/16, 2001:db8::/32").unwrap();
        for (host, address, expected) in [
            ("agents.example.com", "93.184.216.34", true),
            ("a.agents.example.com.", "93.184.216.34", true),
            ("A.Agents.Example.Com", "10.9.9.9", true),
            ("evilagents.example.com", "93.184.216.34", false),
            ("agents.example.com.evil.net", "93.184.216.34", false),
            ("agents.example.com", "127.0.0.1", false),
            ("agents.example.com", "169.254.169.254", false),
            ("agents.example.com", "0.0.0.0", false),
            ("agents.example.com", "::1", false),
            ("agents.example.com", "::ffff:127.0.0.1", false),
            ("agents.example.com", "::ffff:169.254.169.254", false),
            ("agents.example.com", "64:ff9b::7f00:1", false),
            ("agents.example.com", "::7f00:1", false),
            ("agents.example.com", "fe80::1", false),
            ("anything", "10.1.2.3", true),
            ("anything", "::ffff:10.1.2.3", true),
            ("anything", "10.2.2.3", false),
            ("anything", "2001:db8::5", true),
        ] {
            assert_eq!(
                allow.permits(host, address.parse().unwrap()),
                expected,
                "{host} at {address}"
            );
        }
        assert!(
            AllowList::parse("loopback")
                .unwrap()
                .permits("localhost", "127.0.0.1".parse().unwrap())
        );
        assert!(!AllowList::default().permits("localhost", "127.0.0.1".parse().unwrap()));
        assert!(
            AllowList::parse("0.0.0.0/0")
                .unwrap()
                .permits("x", "8.8.8.8".parse().unwrap())
        );
        for wrong in ["10.0.0.0/33", "10.0.0/8", "a b", "::/129", "*"] {
            assert!(AllowList::parse(wrong).is_err(), "{wrong}");
        }
    }
}
