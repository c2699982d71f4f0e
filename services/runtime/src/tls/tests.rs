use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, string::Ia5String};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

use super::*;

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// A certificate and its key.
    fn sign(&self, names: Vec<SanType>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn url(name: &str) -> SanType {
    SanType::URI(Ia5String::try_from(name).unwrap())
}

fn files(folder: &Path) -> ServerFiles {
    ServerFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        client_ca: Some((folder.join("ca.crt"), ClientCertificates::Required)),
    }
}

/// F101: who it is must not be open.
#[test]
fn a_certificate_with_one_uri_is_somebody() {
    let authority = Authority::new();
    let of = |names| {
        let (pem, _) = authority.sign(names);
        uri(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
    };
    assert_eq!(
        of(vec![url("spiffe://a/b"), dns("b.example")]),
        Some("spiffe://a/b".to_owned())
    );
    assert_eq!(of(vec![url("spiffe://a/b"), url("spiffe://a/c")]), None);
    assert_eq!(of(vec![dns("spiffe.example")]), None);
    assert_eq!(of(vec![]), None);
    assert_eq!(uri(&CertificateDer::from(&b"nonsense"[..])), None);
}

#[test]
fn what_cannot_be_used_leaves_what_is_there() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    assert!(matches!(
        Acceptor::read(&files(folder.path())),
        Err(TlsError::Read { .. })
    ));
    let (certificate, key) = authority.sign(vec![dns("one.example")]);
    for (name, text) in [("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &authority.1)] {
        fs::write(path(name), text).unwrap();
    }
    let acceptor = Acceptor::read(&files(folder.path())).unwrap();
    let first = acceptor.fresh().now();
    assert!(!acceptor.fresh().look().unwrap());

    // The certificate is exchanged and its key is not yet: they do not fit.
    let (certificate, key) = authority.sign(vec![dns("two.example")]);
    fs::write(path("tls.crt"), &certificate).unwrap();
    assert!(matches!(acceptor.fresh().look(), Err(TlsError::Pair { .. })));
    fs::write(path("tls.crt"), "nonsense").unwrap();
    assert!(matches!(acceptor.fresh().look(), Err(TlsError::Empty { .. })));
    fs::remove_file(path("ca.crt")).unwrap();
    assert!(matches!(acceptor.fresh().look(), Err(TlsError::Read { .. })));
    assert!(std::sync::Arc::ptr_eq(&first, &acceptor.fresh().now()));

    for (name, text) in [("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &authority.1)] {
        fs::write(path(name), text).unwrap();
    }
    assert!(acceptor.fresh().look().unwrap());
    assert!(!std::sync::Arc::ptr_eq(&first, &acceptor.fresh().now()));
}

#[test]
fn an_error_names_the_file_and_shows_nothing_of_it() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    let (certificate, _) = authority.sign(vec![dns("one.example")]);
    fs::write(folder.path().join("tls.crt"), certificate).unwrap();
    fs::write(folder.path().join("tls.key"), "-----BEGIN PRIVATE KEY-----\ncanary\n").unwrap();
    let files = ServerFiles {
        client_ca: None,
        ..files(folder.path())
    };
    let error = Acceptor::read(&files).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("tls.key") && !text.contains("canary"), "{text}");
}
