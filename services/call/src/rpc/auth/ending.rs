//! A stream's answer that ends when its caller's key does.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use crate::{error::Error, rpc::status::status};

/// What is said to whoever goes on with a key that does not work any more.
pub(super) fn error() -> Error {
    Error::Unauthenticated {
        message: "the key has been revoked or has expired",
    }
}

/// A body, until the key ends.
pub(super) struct Ending {
    /// None: it is over.
    body: Option<Body>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Ending {
    pub(super) fn new(body: Body, ended: CancellationToken) -> Self {
        Self {
            body: Some(body),
            ended: Box::pin(ended.cancelled_owned()),
        }
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        // First, so that a stream that never rests ends too.
        if self.ended.as_mut().poll(cx).is_ready() {
            // Without its body the handler's stream is dropped.
            self.body = None;
            let mut trailers = HeaderMap::new();
            status(error()).add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        self.body
            .as_mut()
            .map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}
