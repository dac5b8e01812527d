//! The spans of a request: what they are called and say, as upstream's. Who may act as everybody, or
//! watches over the cluster, is believed about the trace that his request is a part of, and so are
//! the cluster's own components; a request of anybody else is linked to it.

use clock::Instant;
use http::Response;
use http::request::Parts;
use traces::{Caller, Span};

use crate::audit::Numbered;
use crate::filters::authn::UserInfo;
use crate::http::body::Body;
use crate::http::request::RequestInfo;
use crate::state::State;

/// Groups whose users decide what is recorded: upstream's two, and nodes and controllers, whose work
/// for an object is one trace with what the server does for them.
const BELIEVED_GROUPS: [&str; 4] = [
    "system:masters",
    "system:monitoring",
    "system:nodes",
    "system:serviceaccounts:kube-system",
];
/// Users of whom the same holds.
const BELIEVED_USERS: [&str; 2] = ["system:kube-controller-manager", "system:kube-scheduler"];
/// Bytes of a header or a path in a span.
const MOST_BYTES: usize = 1024;

/// Begins the span of a request, where requests are traced.
pub fn begin(
    state: &State,
    head: &Parts,
    info: &RequestInfo,
    user: &UserInfo,
    came: Instant,
) -> Option<Span> {
    let settings = state.settings();
    if !settings.tracer.is_on() {
        return None;
    }
    let caller = caller(user);
    let now = settings.clock.now();
    let since = now.checked_sub(came.elapsed()).unwrap_or(now);
    let method = head.method.as_str();
    let span = settings
        .tracer
        .received(|| name(method, info), &head.headers, caller, since)?;
    span.set("http.request.method", method.to_owned());
    let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
    span.set("http.target", bounded(target));
    let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(agent) = header(http::header::USER_AGENT) {
        span.set("user_agent.original", bounded(agent));
    }
    if let Some(numbered) = head.extensions.get::<Numbered>() {
        let id = String::from_utf8_lossy(numbered.id.as_bytes());
        span.set("audit-id", bounded(&id));
    }
    Some(span)
}

fn caller(user: &UserInfo) -> Caller {
    let mut groups = user.groups.iter();
    let by_group = groups.any(|group| BELIEVED_GROUPS.contains(&group.as_str()));
    if by_group || BELIEVED_USERS.contains(&user.name.as_str()) {
        Caller::Believed
    } else {
        Caller::Stranger
    }
}

/// Ends it with what was answered; a stream has only begun then.
pub fn end(span: &Span, response: &Response<Body>) {
    let code = response.status();
    span.set("http.response.status_code", i64::from(code.as_u16()));
    if code.is_server_error() {
        span.failed(code.canonical_reason().unwrap_or_default());
    }
    span.end();
}

/// What a request's verb is called within it.
pub fn verb(info: &RequestInfo) -> &'static str {
    match &*info.verb {
        "get" => "Get",
        "list" => "List",
        "watch" => "Watch",
        "create" => "Create",
        "update" => "Update",
        "patch" => "Patch",
        "delete" => "Delete",
        "deletecollection" => "DeleteCollection",
        _ => "Other",
    }
}

/// Upstream's name: what the request is about, without names that are its own.
fn name(method: &str, info: &RequestInfo) -> String {
    if !info.is_resource {
        return method.to_owned();
    }
    let mut out = format!("{method} /");
    match &*info.group {
        "" => out.push_str("api"),
        group => out.extend(["apis/", group]),
    }
    out.extend(["/", &info.version]);
    if !info.namespace.is_empty() {
        out.push_str("/namespaces/{:namespace}");
    }
    out.extend(["/", &info.resource]);
    if !info.name.is_empty() {
        out.push_str("/{:name}");
    }
    if !info.subresource.is_empty() {
        out.extend(["/", &info.subresource]);
    }
    out
}

fn bounded(text: &str) -> String {
    let mut end = MOST_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::http::request::Query;

    #[test]
    fn spans_are_named_by_what_is_asked_and_by_nobodys_name() {
        for (method, path, want) in [
            (Method::GET, "/api/v1/pods", "GET /api/v1/pods"),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/b/log",
                "GET /api/v1/namespaces/{:namespace}/pods/{:name}/log",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/b",
                "PATCH /apis/apps/v1/namespaces/{:namespace}/deployments/{:name}",
            ),
            (Method::GET, "/readyz", "GET"),
        ] {
            let info = RequestInfo::parse(&method, path, &Query::default());
            assert_eq!(name(method.as_str(), &info), want);
        }
        assert_eq!(bounded(&"ü".repeat(MOST_BYTES)).len(), MOST_BYTES);
    }
}
