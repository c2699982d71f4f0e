//! Who calls, and what they may do.

use std::sync::Arc;

use callbridge_proto::id::KeyId;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::methods::Scope;
use crate::{
    access::listed,
    error::Error,
    toll::{Dialler, Limits},
};

/// Who calls: the name of an API key or of a certificate. In the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The name in `API_KEYS`, in the row of a key, or in `CALL_SERVICE_TLS_CLIENTS`.
    pub name: Arc<str>,
}

impl Principal {
    /// The caller of a request.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; never behind the auth layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Error> {
        Caller::of(request).map(|caller| caller.principal)
    }
}

/// A caller that was recognised. In the request's extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name.
    pub principal: Principal,
    pub(super) scopes: Vec<Scope>,
    pub(super) key: Option<Arc<listed::Key>>,
}

impl Caller {
    pub(super) fn new(name: Arc<str>, scopes: Vec<Scope>) -> Self {
        Self {
            principal: Principal { name },
            scopes,
            key: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn from_settings(name: &str, scopes: Vec<Scope>) -> Self {
        Self::new(name.into(), scopes)
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; never behind the auth layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Error> {
        request.extensions().get().cloned().ok_or(Error::Unauthenticated {
            message: "no caller is known",
        })
    }

    /// Whether the caller has the scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The key of the database that was shown, if it was one.
    pub fn key(&self) -> Option<KeyId> {
        self.key.as_ref().map(|key| key.id)
    }

    /// When that key ends by itself.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.key.as_ref()?.expires_at
    }

    /// What that key may dial; those of `API_KEYS` and certificates have no limits of their own.
    pub fn limits(&self) -> Limits {
        self.key.as_ref().map(|key| key.limits.clone()).unwrap_or_default()
    }

    /// The caller as the one who has somebody called.
    pub fn dialler(&self) -> Dialler {
        Dialler {
            name: Arc::clone(&self.principal.name),
            limits: self.limits(),
        }
    }

    /// Cancelled when that key does not work any more.
    pub(super) fn ended(&self) -> Option<CancellationToken> {
        self.key.as_ref().map(|key| key.ended.clone())
    }
}

impl From<Arc<listed::Key>> for Caller {
    fn from(key: Arc<listed::Key>) -> Self {
        let mut caller = Self::new(Arc::clone(&key.name), key.scopes.clone());
        caller.key = Some(key);
        caller
    }
}

/// What a connection's certificate says. In the request's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// The URI among its subject alternative names, if it is the only one.
    pub(crate) uri: Option<Arc<str>>,
}
