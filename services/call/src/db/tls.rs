//! TLS to Postgres with libpq's words: `sslmode` and `sslrootcert` of the address, which tokio-postgres does not know in full.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Plain.
    Disable,
    /// TLS when the server has it; who the server is is not checked.
    Prefer,
    /// TLS; who the server is is checked only when there are roots.
    Require,
    /// TLS from a server whose certificate is of the roots.
    VerifyCa,
    /// The same, and it is the named server's.
    VerifyFull,
}

/// What the address says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    /// A PEM file; absent means the operating system's roots.
    pub(super) roots: Option<String>,
}

/// Takes `sslmode` and `sslrootcert` out of an address, a URL or `key=value` pairs.
pub(super) fn split(address: &str) -> Result<(String, Settings), String> {
    let mut settings = Settings {
        mode: Mode::Prefer,
        roots: None,
    };
    let mut problem = None;
    let mut keep = |pair: &str| match pair.split_once('=') {
        Some(("sslmode", mode)) => {
            match mode {
                "disable" => settings.mode = Mode::Disable,
                "allow" | "prefer" => settings.mode = Mode::Prefer,
                "require" => settings.mode = Mode::Require,
                "verify-ca" => settings.mode = Mode::VerifyCa,
                "verify-full" => settings.mode = Mode::VerifyFull,
                _ => problem = Some("sslmode is one of disable, prefer, require, verify-ca and verify-full"),
            }
            false
        }
        Some(("sslrootcert", path)) => {
            // `system` is libpq's word for the operating system's roots.
            settings.roots = (path != "system").then(|| path.replace("%2F", "/").replace("%2f", "/"));
            false
        }
        _ => true,
    };
    let rest = if address.starts_with("postgres://") || address.starts_with("postgresql://") {
        match address.split_once('?') {
            Some((base, query)) => {
                let kept: Vec<&str> = query.split('&').filter(|pair| keep(pair)).collect();
                if kept.is_empty() {
                    base.to_owned()
                } else {
                    format!("{base}?{}", kept.join("&"))
                }
            }
            None => address.to_owned(),
        }
    } else {
        address
            .split(' ')
            .filter(|pair| keep(pair))
            .collect::<Vec<_>>()
            .join(" ")
    };
    match problem {
        Some(problem) => Err(problem.to_owned()),
        None => Ok((rest, settings)),
    }
}

impl Settings {
    /// The client side of TLS, unless it is off.
    pub(super) fn client(&self) -> Result<Option<ClientConfig>, String> {
        let provider = Arc::new(ring::default_provider());
        let trust = match (self.mode, &self.roots) {
            (Mode::Disable, _) => return Ok(None),
            (Mode::Prefer, _) | (Mode::Require, None) => Trust::Anyone,
            (Mode::Require | Mode::VerifyCa, Some(path)) => Trust::Roots(from_file(path, &provider)?),
            (Mode::VerifyCa, None) => Trust::Roots(from_system(&provider)?),
            (Mode::VerifyFull, Some(path)) => Trust::Server(from_file(path, &provider)?),
            (Mode::VerifyFull, None) => Trust::Server(from_system(&provider)?),
        };
        let verifier = Arc::new(Verifier {
            trust,
            provider: provider.clone(),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Some(config))
    }
}

fn from_file(path: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let unreadable = |error: &dyn fmt::Display| format!("sslrootcert cannot be read: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unreadable(&error))?;
    Ok(verifier)
}

fn from_system(provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let verifier = rustls_platform_verifier::Verifier::new(provider.clone())
        .map_err(|error| format!("the operating system's certificates cannot be read: {error}"))?;
    Ok(Arc::new(verifier))
}

/// Whom to believe.
#[derive(Debug)]
enum Trust {
    /// Whoever answers, as libpq does for `prefer` and `require`: it hides the traffic from listeners, not from impostors.
    Anyone,
    /// Any server with a certificate of the roots.
    Roots(Arc<dyn ServerCertVerifier>),
    /// The named server.
    Server(Arc<dyn ServerCertVerifier>),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match &self.trust {
            Trust::Anyone => Ok(ServerCertVerified::assertion()),
            Trust::Server(inner) => {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Trust::Roots(inner) => {
                match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                    // The name is checked last, so everything else was right.
                    Err(TlsError::InvalidCertificate(
                        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                    )) => Ok(ServerCertVerified::assertion()),
                    other => other,
                }
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_words_are_taken_out_of_either_form_of_address() {
        let plain = Settings {
            mode: Mode::Prefer,
            roots: None,
        };
        assert_eq!(
            split("postgres://h/db").unwrap(),
            ("postgres://h/db".to_owned(), plain.clone())
        );
        assert_eq!(
            split("host=h dbname=db").unwrap(),
            ("host=h dbname=db".to_owned(), plain)
        );
        let full = Settings {
            mode: Mode::VerifyFull,
            roots: Some("/etc/ca.pem".to_owned()),
        };
        assert_eq!(
            split(
                "postgres://u:p@h/db?sslmode=verify-full&target_session_attrs=read-write&sslrootcert=%2Fetc%2Fca.pem"
            )
            .unwrap(),
            (
                "postgres://u:p@h/db?target_session_attrs=read-write".to_owned(),
                full.clone()
            )
        );
        assert_eq!(
            split("host=h sslmode=verify-full sslrootcert=/etc/ca.pem").unwrap(),
            ("host=h".to_owned(), full)
        );
        let system = Settings {
            mode: Mode::VerifyFull,
            roots: None,
        };
        assert_eq!(
            split("postgres://h/db?sslrootcert=system&sslmode=verify-full")
                .unwrap()
                .1,
            system
        );
        assert!(split("postgres://h/db?sslmode=on").is_err());
    }

    #[test]
    fn a_missing_root_file_is_told_without_the_address() {
        let settings = Settings {
            mode: Mode::VerifyFull,
            roots: Some("/nowhere/ca.pem".to_owned()),
        };
        assert!(settings.client().unwrap_err().contains("sslrootcert"));
    }
}
