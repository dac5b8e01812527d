//! Responses: whole, in pieces, compressed. It does not know what stands in them.

use std::sync::LazyLock;

use api::Status;
use bytes::Bytes;
use futures::Stream;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use http::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::body::{Body, BoxError};
use super::negotiate::JSON;
use super::ordered;

/// Answers of at least this size are compressed for clients that accept it; as upstream.
const GZIP_FROM: usize = 128 * 1024;

/// Headers of most answers, with those that the filters and HTTP itself add.
const HEADERS: usize = 8;

/// Size of the chunks of a streamed list: a few TLS records.
pub const CHUNK: usize = 64 * 1024;

/// An extension of a response that became a stream: cancelled when the stream has ended.
#[derive(Clone, Debug)]
pub struct Relayed(pub CancellationToken);

/// An error (or success) as JSON.
pub fn status(s: &Status) -> Response<Body> {
    let mut r = respond(s.code, JSON, Bytes::from(ordered::line(&s.to_json())));
    let retry = s.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        r.headers_mut()
            .insert(http::header::RETRY_AFTER, HeaderValue::from(retry));
    }
    r
}

/// A whole response.
pub fn respond(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut r = Response::new(body.into());
    *r.headers_mut() = HeaderMap::with_capacity(HEADERS);
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    r
}

/// Sends pieces: whole if they are small together, compressed if they are not and the client accepts
/// that.
pub fn chunked(
    mut pieces: impl Iterator<Item = Bytes> + Send + 'static,
    content_type: &'static str,
    gzip: bool,
) -> Response<Body> {
    let (mut held, mut size) = (Vec::new(), 0);
    while size < GZIP_FROM {
        let Some(piece) = pieces.next() else {
            let whole = match <[Bytes; 1]>::try_from(held) {
                Ok([only]) => only,
                Err(several) => several.concat().into(),
            };
            return respond(200, content_type, whole);
        };
        size += piece.len();
        held.push(piece);
    }
    let all = held.into_iter().chain(pieces);
    if !gzip {
        return respond(200, content_type, Body::stream(in_turn(all.map(Ok))));
    }
    let mut r = respond(200, content_type, Body::stream(in_turn(zip(all))));
    r.headers_mut()
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    r.headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    r
}

/// Pieces that are made at the same time in this process: as many as there are processors, since
/// that is all computing. Of many lists each has its next piece made in turn; otherwise all of them
/// would stand between a small request and its processor.
static PLACES: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism();
    Semaphore::new(processors.map_or(2, std::num::NonZero::get))
});

fn in_turn(
    pieces: impl Iterator<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    futures::stream::unfold(pieces, |mut pieces| async move {
        // It is never closed.
        let _place = PLACES.acquire().await;
        let piece = pieces.next()?;
        Some((piece, pieces))
    })
}

fn zip(
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> impl Iterator<Item = Result<Bytes, BoxError>> + Send + 'static {
    use std::io::Write;
    // The cost and, or better, the size of the level 1 of upstream's compressor.
    let fast = flate2::Compression::new(2);
    let mut encoder = Some(flate2::write::GzEncoder::new(
        Vec::with_capacity(CHUNK),
        fast,
    ));
    let mut pieces = pieces.fuse();
    std::iter::from_fn(move || {
        loop {
            let mut enc = encoder.take()?;
            let Some(piece) = pieces.next() else {
                return Some(enc.finish().map(Bytes::from).map_err(Into::into));
            };
            if let Err(e) = enc.write_all(&piece) {
                return Some(Err(e.into()));
            }
            let made = std::mem::take(enc.get_mut());
            encoder = Some(enc);
            if !made.is_empty() {
                return Some(Ok(Bytes::from(made)));
            }
        }
    })
}

/// Compresses a whole body that is large enough, for a client that takes that.
pub fn maybe_gzip(gzip: bool, r: Response<Body>) -> Response<Body> {
    let large = r.body().whole().is_some_and(|b| b.len() >= GZIP_FROM);
    if !gzip || !large || r.headers().contains_key(CONTENT_ENCODING) {
        return r;
    }
    let (mut head, body) = r.into_parts();
    let all = body.whole().cloned().unwrap_or_default();
    head.headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers
        .append(VARY, HeaderValue::from_static("Accept-Encoding"));
    // Piece by piece, as lists: a document of OpenAPI has megabytes.
    let pieces = (0..all.len()).step_by(CHUNK);
    let pieces = pieces.map(move |at| all.slice(at..all.len().min(at + CHUNK)));
    Response::from_parts(head, Body::stream(in_turn(zip(pieces))))
}
