//! Bodies of requests and responses. A response is whole bytes or a stream of chunks; a request
//! is read whole, up to a limit, before anything is done with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, Stream, StreamExt};
use http_body::{Frame, SizeHint};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The largest request body: as upstream's limit for writes.
pub const LIMIT_BYTES: usize = 3 * 1024 * 1024;

/// The body of a response.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, BoxError>>),
}

impl Body {
    pub fn empty() -> Self {
        Self(Inner::Whole(None))
    }
    pub fn stream(s: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self(Inner::Stream(s.boxed()))
    }
    /// The bytes, when the body is not a stream.
    pub fn whole(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Whole(b) => b.as_ref(),
            Inner::Stream(_) => None,
        }
    }
    /// Whether it comes in pieces, each made when the socket wants it.
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Inner::Stream(_))
    }
    /// The same stream, with something that is dropped when it has ended or nobody reads it any
    /// more.
    #[must_use]
    pub fn holding(self, held: impl Send + 'static) -> Self {
        match self.0 {
            Inner::Stream(s) => Self::stream(s.map(move |chunk| {
                let _held = &held;
                chunk
            })),
            whole @ Inner::Whole(_) => Self(whole),
        }
    }
    /// The body as a stream of chunks.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, BoxError>> {
        match self.0 {
            Inner::Whole(b) => futures::stream::iter(b.map(Ok)).boxed(),
            Inner::Stream(s) => s,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        Self(Inner::Whole((!bytes.is_empty()).then_some(bytes)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Whole(b) => Poll::Ready(b.take().map(|b| Ok(Frame::data(b)))),
            Inner::Stream(s) => s.poll_next_unpin(cx).map(|o| o.map(|r| r.map(Frame::data))),
        }
    }
    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Whole(None))
    }
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(b) => SizeHint::with_exact(b.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

/// Why a request's body was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the body is larger than {LIMIT_BYTES} bytes")]
    TooLarge,
    #[error("reading the body: {0}")]
    Broken(BoxError),
}

/// A body that is too large is read, and thrown away, up to this size: a client that is still
/// writing when its connection is closed sees a broken pipe instead of the answer.
const DRAINED_BYTES: usize = 4 * LIMIT_BYTES;

/// Reads a request's body, up to [`LIMIT_BYTES`].
pub async fn read<B>(body: B) -> Result<Bytes, ReadError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > DRAINED_BYTES as u64 {
        return Err(ReadError::TooLarge);
    }
    let mut body = std::pin::pin!(body);
    let (mut all, mut seen) = (BytesMut::new(), 0);
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|e| ReadError::Broken(e.into()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen += data.len();
        if seen > DRAINED_BYTES {
            return Err(ReadError::TooLarge);
        }
        if seen <= LIMIT_BYTES {
            all.extend_from_slice(&data);
        } else {
            all.clear();
        }
    }
    if seen > LIMIT_BYTES {
        return Err(ReadError::TooLarge);
    }
    Ok(all.freeze())
}
