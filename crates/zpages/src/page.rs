//! What all pages have in common: a component, a question, an answer.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};

/// What stands for the value of a flag that is a secret; upstream's word.
pub const CLASSIFIED: &str = "CLASSIFIED";

/// A component, as its pages name it.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// Upstream's name, such as `kube-scheduler`.
    pub name: &'static str,
    /// The paths that it serves beside these pages, as `/statusz` lists them.
    pub paths: &'static [&'static str],
}

/// What a request says, as far as these pages look at it.
#[derive(Clone, Debug)]
pub(crate) struct PageRequest<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    pub accept: Option<&'a str>,
    pub body: Bytes,
}

/// An answer.
pub(crate) fn page(
    code: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    answer
}

const TEXT: &str = "text/plain; charset=utf-8";

pub(crate) fn text(code: StatusCode, words: impl Into<Bytes>) -> Response<Bytes> {
    page(code, TEXT, words)
}

/// The values of a query by name, the first of each counts. Nothing here needs percent-encoding.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        assert_eq!(
            parameter("xseconds=1&seconds=2&seconds=3", "seconds"),
            Some("2")
        );
        assert_eq!(parameter("secondsx=1", "seconds"), None);
    }
}
