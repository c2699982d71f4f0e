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

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    audited::{Audited, audited},
    caller::{Caller, Peer},
    certificates::Certificates,
    ending::{self, Ending},
    keys::Keys,
    methods::{Access, Rule, rule},
};
use crate::{
    access::listed::{Found, Listed},
    audit::Act,
    error::Error,
    rpc::status::status,
};

/// Requests that need no key, with their answers, and so what strangers can hold: twice what one connection can.
const OPEN_REQUESTS: usize = 2000;
const UNKNOWN_KEY: Error = Error::Unauthenticated {
    message: "the key is not known",
};

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

/// Asks every request for a key or a certificate with the method's scope.
#[derive(Debug, Clone)]
pub(crate) struct AuthLayer {
    keys: Keys,
    listed: Listed,
    certificates: Certificates,
    gate: Gate,
    /// One for each request that has no answer yet.
    requests: Arc<Semaphore>,
    /// One for each request without a key until its answer has gone, so that strangers take no place of callers'.
    open: Arc<Semaphore>,
}

impl AuthLayer {
    /// `requests` at most may wait for their answers at one time.
    pub(crate) fn new(keys: Keys, listed: Listed, certificates: Certificates, gate: Gate, requests: usize) -> Self {
        Self {
            keys,
            listed,
            certificates,
            gate,
            requests: Arc::new(Semaphore::new(requests)),
            open: Arc::new(Semaphore::new(OPEN_REQUESTS)),
        }
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
    pub(super) fn admit(&self, path: &str, headers: &HeaderMap, peer: &Peer) -> Result<(Rule, Option<Caller>), Error> {
        let rule = rule(path);
        if let Some(rule) = rule
            && rule.access == Access::Open
        {
            return Ok((rule, None));
        }
        // First the key: a stranger does not learn which methods there are.
        let caller = match self.caller(headers, peer) {
            // Nor may it choose what is counted and traced while no key of the database is known.
            Err(Error::Unavailable { .. }) if rule.is_none() => return Err(UNKNOWN_KEY),
            caller => caller?,
        };
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

    /// A key counts before a certificate, and a wrong one is not made good by it.
    fn caller(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Error> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = match (values.next(), values.next(), &peer.uri) {
            (Some(value), None, _) => value,
            (None, _, Some(uri)) => {
                return self.certificates.find(uri).ok_or(Error::Unauthenticated {
                    message: "the certificate's URI is not known, and there is no key: see CALL_SERVICE_TLS_CLIENTS",
                });
            }
            _ => {
                return Err(Error::Unauthenticated {
                    message: "send one header: authorization: Bearer ck_<kid>_<secret>",
                });
            }
        };
        let Ok(value) = value.to_str() else {
            return Err(UNKNOWN_KEY);
        };
        let Some((scheme, key)) = value.split_once(' ') else {
            return Err(UNKNOWN_KEY);
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(UNKNOWN_KEY);
        }
        let key = key.trim();
        if let Some(caller) = self.keys.recognise(key) {
            return Ok(caller);
        }
        match self.listed.find(key) {
            Found::Key(key) => Ok(key.into()),
            Found::Nothing => Err(UNKNOWN_KEY),
            Found::Unread => Err(Error::Unavailable {
                reason: "KEYS_UNREAD",
                message: "the keys of the database could not be read for a while; try again".to_owned(),
            }),
        }
    }
}

/// A message that cannot be read is its sender's mistake, of which tonic says INTERNAL. Our own errors have details.
fn unreadable(mut answer: Response<Body>) -> Response<Body> {
    let headers = answer.headers_mut();
    let code = Code::from_bytes(
        headers
            .get(Status::GRPC_STATUS)
            .map_or(&b"0"[..], |code| code.as_bytes()),
    );
    if code == Code::Internal && !headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::InvalidArgument as i32));
    }
    answer
}

/// A body that keeps its place until it has gone.
struct Kept {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl<S, B> Service<Request<B>> for Auth<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Error: Send,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let nobody = Peer::default();
        let peer = request.extensions().get().unwrap_or(&nobody);
        let admitted = self.layer.admit(request.uri().path(), request.headers(), peer);
        let (rule, caller) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::info!(%error, "a request was refused");
                return Box::pin(async move { Ok(status(error).into_http()) });
            }
        };
        // Nothing behind this needs the key, so nothing behind it can show it.
        request.headers_mut().remove(AUTHORIZATION);
        let places = if caller.is_some() {
            &self.layer.requests
        } else {
            &self.layer.open
        };
        let Ok(permit) = Arc::clone(places).try_acquire_owned() else {
            let error = Error::exhausted(
                "OVERLOADED",
                "the server has as many requests as it may have at one time; try again",
            );
            return Box::pin(async move { Ok(status(error).into_http()) });
        };
        let Some(caller) = caller else {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                let answer = answer.await?;
                Ok(unreadable(answer).map(|body| Body::new(Kept { body, _permit: permit })))
            });
        };
        let ended = caller.ended();
        let path = request.uri().path();
        let leaves_an_entry = audited(path) != Some(Audited::No);
        let act = Act::new(Arc::clone(&caller.principal.name), caller.key(), path);
        request.extensions_mut().insert(caller);
        let answer = act.of(self.inner.call(request));
        let answer = async move {
            let answer = answer.await?;
            // A refusal says so in its head; an answer has nothing there.
            if leaves_an_entry && !answer.headers().contains_key("grpc-status") && !act.is_noted() {
                let error = Error::internal("a method that has to leave an entry on the audit trail left none");
                return Ok(status(error).into_http());
            }
            Ok(answer)
        };
        Box::pin(async move {
            let _permit = permit;
            match (rule.limit, ended) {
                (Some(limit), _) => match timeout(limit, answer).await {
                    Ok(answer) => answer.map(unreadable),
                    Err(_) => Ok(status(Error::TooSlow).into_http()),
                },
                (None, None) => answer.await.map(unreadable),
                (None, Some(ended)) => tokio::select! {
                    biased;
                    answer = answer => answer.map(|answer| unreadable(answer).map(|body| Body::new(Ending::new(body, ended)))),
                    () = ended.cancelled() => Ok(status(ending::error()).into_http()),
                },
            }
        })
    }
}
