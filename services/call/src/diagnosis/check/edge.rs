//! Whether Exotel's requests would reach the edge.

use std::time::Duration;

use super::Check;

const TLS: &str = "edge_tls";
const APPLETS: &str = "applet_urls";
const SOCKET: &str = "audio_socket";
/// An applet's answer is late then (`exotel.md` §3.2).
const SLOW: Duration = Duration::from_secs(2);

/// What was found at the edge's public URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edge {
    /// Host and port.
    pub(crate) host: String,
    /// `https`.
    pub(crate) secure: bool,
    /// The host is this machine.
    pub(crate) loopback: bool,
    /// Each applet's URL by its name, in the order of a flow.
    pub(crate) applets: Vec<Asked>,
    /// A WebSocket's handshake.
    pub(crate) socket: Reached,
}

/// An applet's URL was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `connect`, `greeting` and so on.
    pub(crate) applet: &'static str,
    /// What came of it.
    pub(crate) reached: Reached,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reached {
    /// An answer.
    Answered(Answered),
    /// None.
    Unreached(Unreached),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    /// HTTP status.
    pub(crate) status: u16,
    /// The edge that gave the probe's word back.
    pub(crate) edge: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// The name is not known.
    Dns,
    /// Nobody listens.
    Refused,
    /// No answer in time.
    Timeout,
    /// No TLS.
    Tls(TlsFault),
    /// The connection broke.
    Lost,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// Self-signed, of a private authority, or without its intermediate certificates.
    UnknownIssuer,
    /// Its time is over, or has not come.
    Expired,
    /// It is for another name.
    WrongName,
    /// Something else, such as no TLS at all.
    Other,
}

impl Edge {
    fn unreached(&self) -> Option<Unreached> {
        self.applets.iter().find_map(|asked| match &asked.reached {
            Reached::Unreached(why) => Some(*why),
            Reached::Answered(_) => None,
        })
    }
}

/// Checks the public address, the applets' URLs and the audio socket.
pub(crate) fn edge(seen: &Edge) -> [Check; 3] {
    let reached = match seen.unreached() {
        Some(why) => unreached(seen, why),
        None => certificate(seen),
    };
    if let Some(why) = seen.unreached() {
        let skipped = match why {
            Unreached::Tls(_) => "Exotel would not get past the certificate",
            Unreached::Dns | Unreached::Refused | Unreached::Timeout | Unreached::Lost => "the edge was not reached",
        };
        return [
            reached,
            Check::skipped(APPLETS, skipped),
            Check::skipped(SOCKET, skipped),
        ];
    }
    [reached, applets(&seen.applets), socket(&seen.socket)]
}

fn certificate(seen: &Edge) -> Check {
    let host = &seen.host;
    match (seen.secure, seen.loopback) {
        (true, _) => Check::passed(TLS, format!("{host} has a certificate that public roots vouch for")),
        (false, true) => Check::warning(
            TLS,
            format!("{host} is this machine, by plain HTTP: only a simulator takes that"),
            "for a real account set WEBHOOK_BASE_URL to a public https URL",
        ),
        (false, false) => Check::failed(
            TLS,
            format!("{host} is reached by plain HTTP: the audio would have to go over ws, which Exotel refuses"),
            "set WEBHOOK_BASE_URL to an https URL",
        ),
    }
}

fn unreached(seen: &Edge, why: Unreached) -> Check {
    let host = &seen.host;
    let (what, advice) = match why {
        Unreached::Dns => (
            format!("the name of {host} is not known"),
            "see that WEBHOOK_BASE_URL is right and its DNS record is public",
        ),
        Unreached::Refused => (
            format!("nobody listens at {host}"),
            "see that the edge runs, and that load balancer and ingress lead to it",
        ),
        Unreached::Timeout => (
            format!("{host} does not answer in time"),
            "see that firewalls let Exotel and call-service in, and that the edge is not overloaded",
        ),
        Unreached::Lost => (
            format!("{host} breaks the connection off without an answer"),
            "see what stands before the edge, and its log",
        ),
        Unreached::Tls(TlsFault::UnknownIssuer) => (
            format!("no public root vouches for the certificate of {host}"),
            "use a certificate of a public authority, and serve its intermediate certificates with it: Exotel refuses self-signed ones",
        ),
        Unreached::Tls(TlsFault::Expired) => (
            format!("the certificate of {host} is not valid at this time"),
            "renew the certificate",
        ),
        Unreached::Tls(TlsFault::WrongName) => (
            format!("the certificate of {host} is for another name"),
            "get a certificate with the name in WEBHOOK_BASE_URL",
        ),
        Unreached::Tls(TlsFault::Other) => (
            format!("no TLS connection to {host}"),
            "see that the port speaks TLS 1.2 or 1.3",
        ),
    };
    Check::failed(TLS, what, advice)
}

fn applets(asked: &[Asked]) -> Check {
    let mut slowest = Duration::ZERO;
    let mut edges: Vec<&str> = Vec::new();
    for asked in asked {
        let Reached::Answered(answered) = &asked.reached else {
            continue;
        };
        slowest = slowest.max(answered.took);
        match &answered.edge {
            Some(edge) if !edges.contains(&edge.as_str()) => edges.push(edge),
            Some(_) => {}
            None => return not_by_us(asked.applet, answered.status),
        }
    }
    let seen = format!(
        "{} of {} URLs brought the probe's word back, by {}, the slowest in {} ms",
        asked.len(),
        asked.len(),
        edges.join(", "),
        slowest.as_millis()
    );
    if slowest > SLOW {
        return Check::warning(
            APPLETS,
            seen,
            "Exotel waits about two seconds for an applet's answer: see what makes the way slow",
        );
    }
    Check::passed(APPLETS, seen)
}

fn not_by_us(applet: &str, status: u16) -> Check {
    let seen = format!("the {applet} URL answers {status}, without the probe's word");
    let advice = match status {
        404 => {
            "the edge at WEBHOOK_BASE_URL is older, or its EDGE_TOKEN_KEYS are not derived from these TOKEN_KEYS (call-service \
             derive-edge-keys), or another service answers there"
        }
        503 => "the edge cannot ask call-service: see its CALL_SERVICE_URL, CALL_SERVICE_API_KEY and log",
        300..=399 => "something before the edge redirects; Exotel follows no redirect: let it pass the path on",
        401 | 403 => {
            "something before the edge asks for a login or refuses: let the paths below /api/v1/exotel and /ws through"
        }
        _ => "something else than an edge answers at WEBHOOK_BASE_URL: see what it leads to",
    };
    Check::failed(APPLETS, seen, advice)
}

fn socket(reached: &Reached) -> Check {
    let answered = match reached {
        Reached::Answered(answered) => answered,
        Reached::Unreached(_) => {
            return Check::failed(
                SOCKET,
                "the audio socket's handshake gets no answer",
                "see what stands before the edge: it must pass WebSocket upgrades on",
            );
        }
    };
    let advice = match answered.status {
        101 => {
            return Check::passed(SOCKET, format!("a WebSocket opens in {} ms", answered.took.as_millis()));
        }
        503 => {
            "the edge drains, or has as many sockets as it may (EDGE_MAX_PENDING_SOCKETS, EDGE_MAX_PENDING_PER_ADDRESS)"
        }
        _ => "what stands before the edge must pass the headers Upgrade, Connection and Authorization on, by HTTP/1.1",
    };
    Check::failed(
        SOCKET,
        format!("the audio socket's handshake is answered {}", answered.status),
        advice,
    )
}
