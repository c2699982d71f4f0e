//! TLS of gRPC.

use std::{path::PathBuf, time::Duration};

use runtime::{
    config::Vars,
    tls::{ClientCertificates, ServerFiles},
};

use super::values;
use crate::rpc::auth::Certificates;

/// What is needed for TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where certificates and keys are.
    pub files: ServerFiles,
    /// How often it is looked whether they have changed.
    pub refresh: Duration,
    /// Whom clients' certificates stand for.
    pub clients: Certificates,
}

impl Tls {
    pub(super) fn read(vars: &mut Vars) -> Option<Self> {
        let path = |name: &str| vars.text(name).map(PathBuf::from);
        let (certificate, key) = (path("CALL_SERVICE_TLS_CERT"), path("CALL_SERVICE_TLS_KEY"));
        let client_ca = path("CALL_SERVICE_TLS_CLIENT_CA");
        let (has_clients, refresh) = (
            vars.text("CALL_SERVICE_TLS_CLIENTS").is_some(),
            values::duration(vars, "CALL_SERVICE_TLS_REFRESH", Duration::from_secs(5)),
        );
        let optional = match vars.text("CALL_SERVICE_TLS_CLIENT_AUTH").as_deref() {
            None | Some("required") => ClientCertificates::Required,
            Some("optional") => ClientCertificates::Optional,
            Some(_) => {
                vars.problem("CALL_SERVICE_TLS_CLIENT_AUTH", "is neither required nor optional");
                ClientCertificates::Required
            }
        };
        let clients = Certificates::parse(&vars.text("CALL_SERVICE_TLS_CLIENTS").unwrap_or_default());
        let clients = clients.unwrap_or_else(|error| {
            vars.problem("CALL_SERVICE_TLS_CLIENTS", &format!("cannot be used: {error}"));
            Certificates::default()
        });
        if has_clients && client_ca.is_none() {
            vars.problem(
                "CALL_SERVICE_TLS_CLIENT_CA",
                "is not set: CALL_SERVICE_TLS_CLIENTS means certificates that an authority has signed",
            );
        }
        let given = certificate.is_some() || key.is_some() || client_ca.is_some();
        for (name, missing) in [
            ("CALL_SERVICE_TLS_CERT", certificate.is_none()),
            ("CALL_SERVICE_TLS_KEY", key.is_none()),
        ] {
            if given && missing {
                vars.problem(name, "is not set: TLS needs the server's certificate and its key");
            }
        }
        Some(Self {
            files: ServerFiles {
                certificate: certificate?,
                key: key?,
                client_ca: client_ca.map(|path| (path, optional)),
            },
            refresh,
            clients,
        })
    }
}
