//! Where an account's API is. Only Exotel's own hosts are let through, so that a mistyped or malicious setting cannot
//! send credentials elsewhere.

use std::net::IpAddr;
use url::{Host, Origin, Url};

/// Domains of which the API's host must be part.
const DOMAINS: [&str; 2] = ["exotel.com", "exotel.in"];
/// The clusters' hosts (`exotel.md` §1.1): Singapore and Mumbai.
const CLUSTERS: [&str; 2] = ["api.exotel.com", "api.in.exotel.com"];
/// Longest account name or id in a path.
const MAX_SEGMENT: usize = 64;

/// Why an account's subdomain or name is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing given.
    #[error("Exotel subdomain is empty: give the API's host, such as api.exotel.com or api.in.exotel.com")]
    Empty,
    /// More than a host name.
    #[error("Exotel subdomain must be a bare host name such as api.exotel.com, without {0}")]
    Extra(&'static str),
    /// A host that is not Exotel's.
    #[error("Exotel subdomain must be a host under exotel.com or exotel.in")]
    ForeignHost,
    /// A URL that is not on this machine.
    #[error("Exotel subdomain may be a URL only for a simulator on this machine, such as http://127.0.0.1:8090")]
    NotLoopback,
    /// Not a host name at all.
    #[error("Exotel subdomain is not a host name")]
    Malformed,
    /// A part of the path that is not made of letters, digits, `-` and `_`.
    #[error("Exotel {0} must be 1 to 64 letters, digits, '-' or '_'")]
    Segment(&'static str),
}

/// The base URL of an account's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Reads a subdomain: a host under `exotel.com` or `exotel.in`, or for simulators `http(s)://` and a loopback address.
    pub fn parse(subdomain: &str) -> Result<Self, EndpointError> {
        let text = subdomain.trim();
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        let is_url = text.contains("://");
        let url = if is_url {
            Url::parse(text)
        } else {
            Url::parse(&format!("https://{text}"))
        };
        let url = url.map_err(|_| EndpointError::Malformed)?;
        let extra = [
            (
                !url.username().is_empty() || url.password().is_some() || text.contains('@'),
                "user name or password",
            ),
            (url.path() != "/" && !url.path().is_empty(), "a path"),
            (url.query().is_some() || url.fragment().is_some(), "a query or fragment"),
        ];
        if let Some((_, what)) = extra.into_iter().find(|(found, _)| *found) {
            return Err(EndpointError::Extra(what));
        }
        if is_url {
            let loopback = match url.host() {
                Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
                Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
                Some(Host::Domain(name)) => name == "localhost",
                None => false,
            };
            let http = matches!(url.scheme(), "http" | "https");
            return if loopback && http {
                Ok(Self(url))
            } else {
                Err(EndpointError::NotLoopback)
            };
        }
        if url.port().is_some() || text.contains(':') {
            return Err(EndpointError::Extra("a port"));
        }
        if Self::is_exotels(url.host_str().unwrap_or_default()) {
            Ok(Self(url))
        } else {
            Err(EndpointError::ForeignHost)
        }
    }

    /// Whether a host, in lower case, is one of Exotel's.
    pub(super) fn is_exotels(host: &str) -> bool {
        DOMAINS
            .iter()
            .any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
    }

    /// The clusters that a key may belong to instead: keys are of one cluster. A simulator has no other.
    pub fn other_clusters(&self) -> Vec<&'static str> {
        if self.is_simulator() {
            return Vec::new();
        }
        let own = self.0.host_str().unwrap_or_default();
        CLUSTERS.into_iter().filter(|host| *host != own).collect()
    }

    /// Whether it is a simulator on this machine.
    pub(super) fn is_simulator(&self) -> bool {
        !Self::is_exotels(self.0.host_str().unwrap_or_default())
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> Origin {
        self.0.origin()
    }

    /// Host and port.
    pub(super) fn address(&self) -> Option<(&str, u16)> {
        self.0.host_str().zip(self.0.port_or_known_default())
    }

    /// A URL below `/v1/Accounts/{sid}`.
    pub(super) fn url(&self, sid: &str, path: &[&str]) -> Result<Url, EndpointError> {
        self.build(&["v1", "Accounts", segment(sid, "account sid")?], path)
    }

    /// A URL below `/v2_beta/Accounts/{sid}`.
    pub(super) fn v2_url(&self, sid: &str, path: &[&str]) -> Result<Url, EndpointError> {
        self.build(&["v2_beta", "Accounts", segment(sid, "account sid")?], path)
    }

    fn build(&self, base: &[&str], path: &[&str]) -> Result<Url, EndpointError> {
        let mut url = self.0.clone();
        url.path_segments_mut()
            .map_err(|()| EndpointError::Malformed)?
            .clear()
            .extend(base)
            .extend(path);
        Ok(url)
    }
}

/// Checks what becomes part of a path.
pub(super) fn segment<'a>(text: &'a str, what: &'static str) -> Result<&'a str, EndpointError> {
    let fits = (1..=MAX_SEGMENT).contains(&text.len());
    let safe = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits && safe {
        Ok(text)
    } else {
        Err(EndpointError::Segment(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exotels_hosts_and_simulators() {
        for (subdomain, want) in [
            (
                "api.exotel.com",
                "https://api.exotel.com/v1/Accounts/acme1/Calls/connect.json",
            ),
            (
                " API.in.exotel.com ",
                "https://api.in.exotel.com/v1/Accounts/acme1/Calls/connect.json",
            ),
            (
                "twilix.exotel.in",
                "https://twilix.exotel.in/v1/Accounts/acme1/Calls/connect.json",
            ),
            (
                "http://127.0.0.1:8090",
                "http://127.0.0.1:8090/v1/Accounts/acme1/Calls/connect.json",
            ),
            (
                "https://[::1]:1/",
                "https://[::1]:1/v1/Accounts/acme1/Calls/connect.json",
            ),
            (
                "http://localhost:8090",
                "http://localhost:8090/v1/Accounts/acme1/Calls/connect.json",
            ),
        ] {
            let url = Endpoint::parse(subdomain)
                .unwrap()
                .url("acme1", &["Calls", "connect.json"])
                .unwrap();
            assert_eq!(url.as_str(), want);
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (subdomain, want) in [
            ("", EndpointError::Empty),
            ("exotel.com", EndpointError::ForeignHost),
            ("evilexotel.com", EndpointError::ForeignHost),
            ("api.exotel.com.evil.example", EndpointError::ForeignHost),
            ("127.0.0.1", EndpointError::ForeignHost),
            ("api", EndpointError::ForeignHost),
            ("api.exotel.com:8443", EndpointError::Extra("a port")),
            ("api.exotel.com:443", EndpointError::Extra("a port")),
            ("api.exotel.com/v1", EndpointError::Extra("a path")),
            ("api.exotel.com?x", EndpointError::Extra("a query or fragment")),
            ("@api.exotel.com", EndpointError::Extra("user name or password")),
            ("k:t@api.exotel.com", EndpointError::Extra("user name or password")),
            ("https://api.exotel.com", EndpointError::NotLoopback),
            ("http://10.0.0.1:80", EndpointError::NotLoopback),
            ("ftp://127.0.0.1", EndpointError::NotLoopback),
            ("http://u:p@127.0.0.1", EndpointError::Extra("user name or password")),
            ("a b", EndpointError::Malformed),
        ] {
            assert_eq!(Endpoint::parse(subdomain), Err(want), "{subdomain}");
        }
    }

    #[test]
    fn the_other_clusters() {
        for (subdomain, others) in [
            ("api.exotel.com", vec!["api.in.exotel.com"]),
            ("API.in.exotel.com", vec!["api.exotel.com"]),
            ("twilix.exotel.in", vec!["api.exotel.com", "api.in.exotel.com"]),
            ("http://127.0.0.1:8090", vec![]),
        ] {
            assert_eq!(
                Endpoint::parse(subdomain).unwrap().other_clusters(),
                others,
                "{subdomain}"
            );
        }
    }

    #[test]
    fn account_names_cannot_leave_their_place() {
        let endpoint = Endpoint::parse("api.exotel.com").unwrap();
        for sid in ["", "a/b", "..", "a?b", "a%2fb", &"a".repeat(65)] {
            assert_eq!(
                endpoint.url(sid, &["Calls"]),
                Err(EndpointError::Segment("account sid")),
                "{sid}"
            );
        }
    }

    proptest! {
        #[test]
        fn only_exotel_or_loopback_passes(text in "(https?://)?[a-z.@:/?#\\\\0-9-]{0,30}(exotel\\.com)?[a-z.@:/?#0-9-]{0,8}") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                let host = endpoint.0.host_str().unwrap();
                let exotel = host.ends_with(".exotel.com") || host.ends_with(".exotel.in");
                prop_assert!(exotel || host == "localhost" || host.starts_with("127.") || host == "[::1]", "{}", host);
            }
        }
    }
}
