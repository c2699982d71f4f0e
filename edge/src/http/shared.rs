//! A route whose copies cost nothing.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use axum::extract::Request;
use tower::{Service, ServiceExt as _, util::Oneshot};

/// axum copies a route with all its layers for each request, and each layer copies what is within it: what is shared is copied once,
/// and only for a request that comes so far.
#[derive(Debug)]
pub(super) struct Shared<S>(Arc<S>);

impl<S> Shared<S> {
    pub(super) fn new(inner: S) -> Self {
        Self(Arc::new(inner))
    }
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Service<Request> + Clone> Service<Request> for Shared<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, Request>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The copy waits until it is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        S::clone(&self.0).oneshot(request)
    }
}
