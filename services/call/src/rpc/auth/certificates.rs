//! Whom clients' certificates stand for.

use std::{collections::HashMap, sync::Arc};

use super::{caller::Caller, keys::is_name, methods::Scope};

/// Why `CALL_SERVICE_TLS_CLIENTS` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificatesError {
    /// An entry has not its parts.
    #[error("entry {0} is not of the form uri=name:scope+scope")]
    Form(usize),
    /// The identity is no URI.
    #[error("entry {0} does not begin with a URI such as spiffe://cluster.local/ns/callbridge/sa/edge")]
    Uri(usize),
    /// A name is empty, too long or has other characters.
    #[error("the name of entry {0} is not 1 to 64 letters, digits, dots, dashes and underscores")]
    Name(usize),
    /// A scope is unknown.
    #[error("entry {0} has a scope other than {words}", words = Scope::words())]
    Scope(usize),
    /// A URI is there twice.
    #[error("entry {0} has the URI of an entry before it")]
    Repeated(usize),
}

/// The identities of `CALL_SERVICE_TLS_CLIENTS`: the URI of a certificate, and the caller that it stands for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Certificates(Arc<HashMap<String, Caller>>);

impl Certificates {
    /// Reads `uri=name:scope+scope[,…]`. An empty text names nobody.
    ///
    /// # Errors
    /// [`CertificatesError`].
    pub fn parse(text: &str) -> Result<Self, CertificatesError> {
        let mut callers = HashMap::new();
        for (at, part) in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .enumerate()
        {
            let entry = at + 1;
            // A URI may have any of these characters; a name and scopes have none.
            let (uri, caller) = part.rsplit_once('=').ok_or(CertificatesError::Form(entry))?;
            let (name, scopes) = caller.split_once(':').ok_or(CertificatesError::Form(entry))?;
            if !url::Url::parse(uri).is_ok_and(|url| url.has_host()) {
                return Err(CertificatesError::Uri(entry));
            }
            if !is_name(name) {
                return Err(CertificatesError::Name(entry));
            }
            let scopes = Scope::read_all(scopes).ok_or(CertificatesError::Scope(entry))?;
            if callers
                .insert(uri.to_owned(), Caller::new(name.into(), scopes))
                .is_some()
            {
                return Err(CertificatesError::Repeated(entry));
            }
        }
        Ok(Self(Arc::new(callers)))
    }

    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller that a certificate with this URI stands for. The whole URI must be the same.
    pub(super) fn find(&self, uri: &str) -> Option<Caller> {
        self.0.get(uri).cloned()
    }
}
