//! Asks the edge's public URLs as Exotel would: by their public name, with the roots that everybody has, and without following
//! redirects. The answers are judged elsewhere.

use std::{error::Error as StdError, net::IpAddr, sync::Arc, time::Duration};

use callbridge_proto::id::AccountId;
use data_encoding::BASE64;
use exotel::paths::{self, Applet};
use futures_util::future::{join, join_all};
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{Client, RequestBuilder, redirect};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::check::{Answered, Asked, Edge, Reached, TlsFault, Unreached};
use crate::app::App;

/// Name, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// A whole request; more than Exotel's patience, so that slowness is told from silence.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest answer that is read: an edge's has a hundred bytes.
const BODY: usize = 4096;
/// An edge's id is shorter.
const EDGE_CHARS: usize = 64;
/// What a flow's applets ask.
const APPLETS: [(&str, Applet); 6] = [
    ("connect", Applet::Connect),
    ("greeting", Applet::Greeting),
    ("gather", Applet::Gather),
    ("input", Applet::Input),
    ("transfer", Applet::Transfer),
    ("end", Applet::End),
];

/// What an edge answers to a probe.
#[derive(Deserialize)]
struct Answer {
    probe: String,
    edge: String,
}

/// Asks all applets' URLs and the audio socket of an account.
pub(super) async fn edge(app: &App, account: AccountId, token: &str) -> Edge {
    look(
        &app.config.public_base_url,
        account,
        token,
        &app.clock.new_uuid().simple().to_string(),
        public_roots(),
    )
    .await
}

fn public_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

async fn look(base: &str, account: AccountId, token: &str, word: &str, roots: RootCertStore) -> Edge {
    let place = Url::parse(base).ok();
    let host = place.as_ref().and_then(Url::host);
    let asking = match client(roots) {
        Some(client) => {
            let applets = APPLETS.map(|(name, applet)| {
                let url = paths::with_probe(&paths::applet_url(base, token, applet), word);
                let request = client.get(url);
                async move {
                    Asked {
                        applet: name,
                        reached: ask(request, word).await,
                    }
                }
            });
            let socket = ask(handshake(&client, base, account, token), word);
            Some(join(join_all(applets), socket).await)
        }
        None => None,
    };
    let (applets, socket) = asking.unwrap_or_else(|| {
        let asked = Asked {
            applet: "connect",
            reached: Reached::Unreached(Unreached::Lost),
        };
        (vec![asked], Reached::Unreached(Unreached::Lost))
    });
    Edge {
        secure: place.as_ref().is_some_and(|url| url.scheme() == "https"),
        loopback: match &host {
            Some(Host::Ipv4(ip)) => IpAddr::V4(*ip).is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::V6(*ip).is_loopback(),
            Some(Host::Domain(name)) => *name == "localhost",
            None => false,
        },
        host: host.map(|host| host.to_string()).unwrap_or_default(),
        applets,
        socket,
    }
}

/// None: its settings cannot be used, which they can.
fn client(roots: RootCertStore) -> Option<Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .user_agent(concat!("callbridge-diagnosis/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .redirect(redirect::Policy::none())
        .http1_only()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .tls_backend_preconfigured(tls)
        .build()
        .ok()
}

/// A WebSocket's handshake (RFC 6455 §4.1) at the static socket, which waits for a start that never comes.
fn handshake(client: &Client, base: &str, account: AccountId, token: &str) -> RequestBuilder {
    let http = paths::static_socket_url(base).replacen("ws", "http", 1);
    client
        .get(http)
        .basic_auth(account.to_string(), Some(token))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, BASE64.encode(&[0; 16]))
}

async fn ask(request: RequestBuilder, word: &str) -> Reached {
    let begun = Instant::now();
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Reached::Unreached(why(&error)),
    };
    let status = response.status().as_u16();
    let took = begun.elapsed();
    let mut body = Vec::new();
    // The answer to a handshake has no end.
    let reading = async {
        while status == 200
            && let Ok(Some(chunk)) = response.chunk().await
        {
            if body.len() + chunk.len() > BODY {
                break;
            }
            body.extend_from_slice(&chunk);
        }
    };
    // Whatever came by then is looked at.
    let _ = timeout(REQUEST, reading).await;
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    // Shown in a terminal, whoever sent it.
    let is_id = |text: &str| text.len() <= EDGE_CHARS && text.bytes().all(|b| b.is_ascii_graphic());
    let answer = answer.filter(|answer| answer.probe == word && is_id(&answer.edge));
    Reached::Answered(Answered {
        status,
        edge: answer.map(|answer| answer.edge),
        took,
    })
}

fn why(error: &reqwest::Error) -> Unreached {
    if let Some(fault) = tls_fault(error) {
        return Unreached::Tls(fault);
    }
    match (error.is_timeout(), error.is_connect()) {
        (true, _) => Unreached::Timeout,
        (false, true) if error.is_dns() => Unreached::Dns,
        (false, true) => Unreached::Refused,
        (false, false) => Unreached::Lost,
    }
}

fn tls_fault(error: &reqwest::Error) -> Option<TlsFault> {
    let mut source: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(fault(error));
        }
        // rustls sits inside io errors, whose `source` skips what they hold.
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        source = inside
            .map(|inner| inner as &(dyn StdError + 'static))
            .or_else(|| error.source());
    }
    None
}

fn fault(error: &rustls::Error) -> TlsFault {
    let rustls::Error::InvalidCertificate(error) = error else {
        return TlsFault::Other;
    };
    match error {
        CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::WrongName,
        _ => TlsFault::Other,
    }
}

#[cfg(test)]
mod tests;
