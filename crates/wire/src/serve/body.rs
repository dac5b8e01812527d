//! The body of a request. What its handler leaves unread is read and thrown away, up to a bound:
//! a client that is still sending when its request is reset sees the reset and never the answer
//! (a 401, 403 or 404 that needed no body).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Most bytes that are read for the sake of an answer: four of the largest bodies that a request
/// may have.
const DRAINED_BYTES: usize = 12 << 20;
/// Most time that this takes: a client on a slow link that sends a manifest.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The body of a request of [`super::serve`].
#[derive(Debug)]
pub struct RequestBody {
    /// `None` once it has ended or failed.
    inner: Option<Incoming>,
    /// The client waits for a word before it sends the body (`Expect: 100-continue`).
    waits: bool,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, headers: &http::HeaderMap) -> Self {
        Self {
            inner: Some(inner),
            waits: headers.contains_key(http::header::EXPECT),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.inner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.inner.as_ref().map_or_else(none, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let unread = self.inner.take().filter(|body| !body.is_end_stream());
        if let (Some(body), false) = (unread, self.waits)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(DRAIN_TIME, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > DRAINED_BYTES {
            return;
        }
    }
}
