//! The console's files, given to anybody who asks: they hold nothing of the cluster. The page asks
//! the API with its user's token as every client.

use api::{GroupResource, Status};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::http::body::Body;
use crate::http::respond;

const ROOT: &str = "/console";

/// Seconds that a browser may keep a file whose name holds its hash: a year, the most there is.
const FIXED: &str = "public, max-age=31536000, immutable";

/// Beside the policy on content: not to be framed, guessed at, or mentioned elsewhere.
const GUARDS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        console::CONTENT_SECURITY_POLICY,
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The answer to a request for the console; `None` for all other paths.
pub fn answer(head: &Parts) -> Option<Response<Body>> {
    let rest = head.uri.path().strip_prefix(ROOT)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let mut response = match &head.method {
        &Method::GET | &Method::HEAD => file(head, rest),
        other => {
            let page = GroupResource::new("", "console");
            respond::status(&Status::method_not_supported(&page, other.as_str()))
        }
    };
    for (name, value) in GUARDS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    Some(response)
}

fn file(head: &Parts, rest: &str) -> Response<Body> {
    let Some(path) = rest.strip_prefix('/') else {
        // The page names its files relative to this folder; browsers keep the fragment.
        return with(StatusCode::MOVED_PERMANENTLY, header::LOCATION, "/console/");
    };
    let Some(file) = console::find(path) else {
        return respond::status(&Status::no_such_path());
    };
    let etag = file.etag();
    let mut response = if has(head, header::IF_NONE_MATCH, &etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        content(head, file)
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    let keep = if file.is_fixed() { FIXED } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    headers.insert(
        header::VARY,
        HeaderValue::from_static(header::ACCEPT_ENCODING.as_str()),
    );
    response
}

fn content(head: &Parts, file: console::File) -> Response<Body> {
    if has(head, header::ACCEPT_ENCODING, "gzip") {
        let mut response = respond::respond(200, file.content_type(), file.gzip);
        let gzip = HeaderValue::from_static("gzip");
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, gzip);
        return response;
    }
    match file.plain() {
        Ok(bytes) => respond::respond(200, file.content_type(), bytes),
        Err(e) => respond::status(&Status::internal(e.to_string())),
    }
}

/// Whether a header that is a list names this; a weight of zero is not looked for, since no
/// browser sends it.
fn has(head: &Parts, name: HeaderName, wanted: &str) -> bool {
    let values = head.headers.get_all(name);
    values
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|one| one.split(';').next().unwrap_or_default().trim())
        .any(|one| one.trim_start_matches("W/") == wanted)
}

fn with(code: StatusCode, name: HeaderName, value: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path: &str, headers: &[(HeaderName, &str)]) -> Option<Response<Body>> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        answer(&head)
    }

    fn header_of(response: &Response<Body>, name: HeaderName) -> &str {
        let value = response.headers().get(name);
        value.map_or("", |v| v.to_str().unwrap())
    }

    #[test]
    fn the_page_is_given_with_its_guards_and_asked_for_again_by_its_tag() {
        let page = ask(Method::GET, "/console/", &[]).unwrap();
        assert_eq!(page.status(), 200);
        assert!(page.body().whole().unwrap().starts_with(b"<!doctype html>"));
        let policy = header_of(&page, header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header_of(&page, header::CACHE_CONTROL), "no-cache");
        let tag = header_of(&page, header::ETAG);
        let again = ask(Method::GET, "/console/", &[(header::IF_NONE_MATCH, tag)]).unwrap();
        assert_eq!(again.status(), 304);
    }

    #[test]
    fn files_with_a_hash_are_kept_and_come_compressed_to_who_reads_that() {
        let page = ask(Method::GET, "/console/", &[]).unwrap();
        let text = String::from_utf8(page.body().whole().unwrap().to_vec()).unwrap();
        let script = text.split('"').find(|w| w.ends_with(".js")).unwrap();
        let path = format!("/console/{script}");
        let accept = [(header::ACCEPT_ENCODING, "gzip, deflate, br;q=0.9")];
        let packed = ask(Method::GET, &path, &accept).unwrap();
        assert_eq!(header_of(&packed, header::CONTENT_ENCODING), "gzip");
        assert_eq!(header_of(&packed, header::CACHE_CONTROL), FIXED);
        let plain = ask(Method::GET, &path, &[]).unwrap();
        assert_eq!(header_of(&plain, header::CONTENT_ENCODING), "");
        assert!(plain.body().whole().unwrap().len() > packed.body().whole().unwrap().len());
    }

    #[test]
    fn only_the_console_is_answered_here() {
        assert!(ask(Method::GET, "/consoles", &[]).is_none());
        assert!(ask(Method::GET, "/api", &[]).is_none());
        let moved = ask(Method::GET, "/console", &[]).unwrap();
        assert_eq!(moved.status(), 301);
        assert_eq!(header_of(&moved, header::LOCATION), "/console/");
        let missing = ask(Method::GET, "/console/../api", &[]).unwrap();
        assert_eq!(missing.status(), 404);
        assert_eq!(ask(Method::POST, "/console/", &[]).unwrap().status(), 405);
    }
}
