//! Settings of the public listener: TLS, and where requests may come from.

use std::{path::PathBuf, time::Duration};

use runtime::{config::Vars, tls::ServerFiles};

use crate::{ingress::LOOK_AT_CERTIFICATES, source::Sources};

/// The public listener's own TLS. None of it is needed behind an ingress that ends TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `EDGE_TLS_CERT` and `EDGE_TLS_KEY`: certificate chain and key, in PEM.
    pub files: ServerFiles,
    /// How often it is looked whether they have changed.
    pub refresh: Duration,
}

impl Tls {
    pub(super) fn read(vars: &mut Vars) -> Option<Self> {
        let path = |name: &str| vars.text(name).map(PathBuf::from);
        let (certificate, key) = (path("EDGE_TLS_CERT"), path("EDGE_TLS_KEY"));
        if certificate.is_some() != key.is_some() {
            let missing = if key.is_none() { "EDGE_TLS_KEY" } else { "EDGE_TLS_CERT" };
            vars.problem(missing, "is not set: TLS needs a certificate and its key");
        }
        Some(Self {
            files: ServerFiles {
                certificate: certificate?,
                key: key?,
                client_ca: None,
            },
            refresh: LOOK_AT_CERTIFICATES,
        })
    }
}

/// `EXOTEL_ALLOWED_IPS` and `TRUSTED_PROXIES`.
pub(super) fn sources(vars: &mut Vars) -> Sources {
    let proxies = vars.parsed_or("TRUSTED_PROXIES", "a number of proxies", 0);
    let list = vars.text("EXOTEL_ALLOWED_IPS").unwrap_or_default();
    Sources::parse(&list, proxies).unwrap_or_else(|error| {
        let name = match error {
            crate::source::SourcesError::Entry(_) => "EXOTEL_ALLOWED_IPS",
            crate::source::SourcesError::Proxies => "TRUSTED_PROXIES",
        };
        vars.problem(name, &error.to_string());
        Sources::default()
    })
}
