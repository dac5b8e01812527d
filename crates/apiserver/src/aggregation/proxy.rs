//! Requests for an extension server: passed on as they came, with who asks in headers that only
//! this server can set, since they count beside its certificate alone. Answers come back as they
//! are, but for redirects, which would lead clients past this server.

use api::Status;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Empty;
use wire::stream::upgrade;

use super::Remote;
use crate::egress::{self, CallError, OutgoingRequest};
use crate::filters::authn::UserInfo;
use crate::http::body::{self, Body, BoxError};
use crate::http::request::{decoded_bytes, encoded_path};
use crate::http::respond;
use crate::state::State;
use crate::subresources::connect::{exchange, pass, strip, strip_upgrading};

/// Headers in which a front proxy says who asks; upstream's.
pub const USER: HeaderName = HeaderName::from_static("x-remote-user");
pub const UID: HeaderName = HeaderName::from_static("x-remote-uid");
pub const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";
/// What begins so is said by front proxies alone.
const REMOTE: &str = "x-remote-";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const TEXT: &str = "text/plain; charset=utf-8";
const UNAVAILABLE: &str = "service unavailable";
const REDIRECTS: &str = "the backend attempted to redirect this request, which is not permitted";

/// Upstream answers for an extension server in plain text.
fn words(code: u16, words: &str) -> Response<Body> {
    let mut response = respond::respond(code, TEXT, format!("{words}\n"));
    response.headers_mut().insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Passes a request on.
pub async fn serve<B>(
    state: &State,
    remote: &Remote,
    mut head: Parts,
    body: B,
    user: &UserInfo,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if !remote.available {
        return words(503, UNAVAILABLE);
    }
    let backend = match &remote.known.backend {
        Ok(backend) => backend,
        Err(why) => return words(500, why),
    };
    // Written again, so that nothing is hidden in it from whoever authorized the request here.
    let mut path = encoded_path(&decoded_bytes(head.uri.path()));
    if let Some(query) = head.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let upgrading = upgrade::is_upgrade(&head.headers);
    let Some(headers) = headers(&head, user, upgrading) else {
        return words(503, "the user's name cannot be passed on");
    };
    if upgrading {
        let client = head.extensions.remove();
        let request = Request::builder().method(head.method.clone()).uri(path);
        let Ok(mut request) = request.body(Empty::<Bytes>::new()) else {
            return words(400, "the request cannot be passed on");
        };
        *request.headers_mut() = headers;
        if let Ok(host) = HeaderValue::from_str(&backend.host()) {
            request.headers_mut().insert(HOST, host);
        }
        traces::pass_on(request.headers_mut());
        let io = match egress::connect(state, backend).await {
            Ok(io) => io,
            Err(e) => return words(503, &format!("error trying to reach service: {e}")),
        };
        return match exchange(io, request, client).await {
            Ok(response) => response,
            Err(s) => respond::status(&s),
        };
    }
    let body = match body::read(body).await {
        Ok(body) => body,
        Err(body::ReadError::TooLarge) => {
            return respond::status(&Status::too_large(body::LIMIT_BYTES));
        }
        Err(e) => return respond::status(&Status::bad_request(e.to_string())),
    };
    let asked = OutgoingRequest {
        method: head.method,
        path,
        headers,
        body,
    };
    match egress::send(state, backend, asked).await {
        Ok(answer)
            if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) =>
        {
            respond::respond(502, TEXT, REDIRECTS)
        }
        Ok(answer) => pass(answer),
        Err(CallError::Unreachable { why, .. }) => {
            words(503, &format!("error trying to reach service: {why}"))
        }
        Err(e) => words(503, &format!("error trying to reach service: {e}")),
    }
}

/// The headers of the request as the extension server gets it; none if they cannot say who asks.
fn headers(head: &Parts, user: &UserInfo, upgrading: bool) -> Option<HeaderMap> {
    let mut headers = head.headers.clone();
    headers.remove(HOST);
    if upgrading {
        strip_upgrading(&mut headers);
    } else {
        strip(&mut headers);
        // The body is read whole, and has another length if it had none.
        headers.remove(CONTENT_LENGTH);
    }
    identify(&mut headers, user)?;
    if let Some(peer) = head.extensions.get::<wire::serve::Peer>() {
        let before = headers.get(FORWARDED_FOR).and_then(|v| v.to_str().ok());
        let before = before.map(|b| format!("{b}, ")).unwrap_or_default();
        let all = format!("{before}{}", peer.addr.ip());
        headers.insert(FORWARDED_FOR, HeaderValue::from_str(&all).ok()?);
    }
    Some(headers)
}

/// Says who asks, in place of whatever the client says; none if that has no place in headers.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) -> Option<()> {
    let theirs: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(REMOTE))
        .cloned()
        .collect();
    for name in theirs {
        headers.remove(name);
    }
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name: HeaderName = format!("{EXTRA}{}", escaped(key)).parse().ok()?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Some(())
}

/// A key of extra values as a part of a header's name.
fn escaped(key: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    api::percent::encoded(key.as_bytes(), is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(all: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/apis/x.io/v1");
        for (name, value) in all {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request").into_parts().0
    }

    #[test]
    fn only_this_server_says_who_asks() {
        let mut user = UserInfo::new("jo", &["a", "b"]);
        user.uid = "7".into();
        user.extra
            .insert("x.io/Scope %".into(), vec!["1".into(), "2".into()]);
        let head = parts(&[
            ("x-remote-user", "admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-x", "y"),
            ("connection", "x-remote-user"),
            ("accept", "application/json"),
        ]);
        let sent = headers(&head, &user, false).expect("headers");
        let all = |name: &str| -> Vec<&str> {
            let values = sent.get_all(name).iter();
            values.map(|v| v.to_str().expect("text")).collect()
        };
        assert_eq!(all("x-remote-user"), ["jo"]);
        assert_eq!(all("x-remote-uid"), ["7"]);
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-x.io%2fscope%20%25"), ["1", "2"]);
        assert_eq!(all("x-remote-extra-x"), [""; 0]);
        assert_eq!(all("accept"), ["application/json"]);
        assert!(!sent.contains_key("connection"));
        let head = parts(&[
            ("connection", "x-remote-user, Upgrade, x-remote-group"),
            ("upgrade", "websocket"),
            ("x-remote-user", "admin"),
        ]);
        let sent = headers(&head, &user, true).expect("headers");
        assert_eq!(sent["connection"], "Upgrade");
        assert_eq!(sent["upgrade"], "websocket");
        assert_eq!(sent["x-remote-user"], "jo");
        assert!(headers(&head, &UserInfo::new("a\nb", &[]), false).is_none());
    }
}
