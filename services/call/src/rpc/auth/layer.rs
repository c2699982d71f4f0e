//! Lets a request in, or answers it. The inner service never sees a request without its caller.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::time::timeout;
use tower::{Layer, Service};

use super::{
    keys::{Caller, Keys},
    methods::{Access, Rule, rule},
};
use crate::{error::Error, rpc::status::status};

/// Whether the process has checked its database and keys. Until then nothing but health is answered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Lets requests in, for good.
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Asks every request for a key with the method's scope.
#[derive(Debug, Clone)]
pub(crate) struct AuthLayer {
    keys: Keys,
    gate: Gate,
}

impl AuthLayer {
    pub(crate) fn new(keys: Keys, gate: Gate) -> Self {
        Self { keys, gate }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Auth {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`AuthLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Auth<S> {
    inner: S,
    layer: AuthLayer,
}

impl AuthLayer {
    /// The method's rule, with the caller where it needs one.
    pub(super) fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(Rule, Option<Caller>), Error> {
        let rule = rule(path);
        if let Some(rule) = rule
            && rule.access == Access::Open
        {
            return Ok((rule, None));
        }
        // First the key: a stranger does not learn which methods there are.
        let caller = self.caller(headers)?;
        let rule = rule.ok_or(Error::UnknownMethod)?;
        if let Access::Scope(scope) = rule.access
            && !caller.may(scope)
        {
            return Err(Error::Forbidden { scope: scope.word() });
        }
        if !self.gate.is_open() {
            return Err(Error::Unavailable {
                reason: "STARTING",
                message: "the process has not found its database and keys in order yet; try again".to_owned(),
            });
        }
        Ok((rule, Some(caller)))
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Error> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Error::Unauthenticated {
                message: "send one header: authorization: Bearer ck_<kid>_<secret>",
            });
        };
        let unknown = Error::Unauthenticated {
            message: "the key is not known",
        };
        let Ok(value) = value.to_str() else { return Err(unknown) };
        let Some((scheme, key)) = value.split_once(' ') else {
            return Err(unknown);
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unknown);
        }
        self.keys.recognise(key.trim()).ok_or(unknown)
    }
}

impl<S, B, R> Service<Request<B>> for Auth<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (rule, caller) = match self.layer.admit(request.uri().path(), request.headers()) {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::info!(%error, "a request was refused");
                return Box::pin(async move { Ok(status(error).into_http()) });
            }
        };
        // Nothing behind this needs the key, so nothing behind it can show it.
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller.principal);
        }
        let answer = self.inner.call(request);
        match rule.limit {
            None => Box::pin(answer),
            Some(limit) => Box::pin(async move {
                match timeout(limit, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(status(Error::TooSlow).into_http()),
                }
            }),
        }
    }
}
