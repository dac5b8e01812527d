//! `pods/log`: checks what is asked, then streams the kubelet's answer through.

use api::field::{FieldError, FieldPath};
use api::percent::encoded_part;
use api::{GroupKind, GroupResource, Status};
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use wire::stream::upgrade::UpgradeRequest;
use wire::stream::{output, upgrade};

use super::kubelets::{Kubelets, plain, streamed};
use super::pod;
use crate::call::Call;
use crate::dialer::dial::dial;
use crate::egress::service_resolver;
use crate::http::body::Body;
use crate::http::request::Query;

/// The most that is read of a kubelet's refusal.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Serves the log of a container; to a WebSocket client piece by piece in messages.
pub(super) async fn serve(
    kubelets: &Kubelets,
    call: &Call,
    mut head: Parts,
) -> Result<Response<Body>, Status> {
    let response = fetch(kubelets, call).await?;
    let Some(wish) = UpgradeRequest::of(&head.headers) else {
        return Ok(response);
    };
    let client = head.extensions.remove::<OnUpgrade>();
    match (output::choose(&wish), client) {
        (Some(protocol), Some(client)) => {
            let accepted = wish.accept(&protocol);
            let pieces = response.into_body().into_stream();
            tokio::spawn(async move {
                match client.await {
                    Ok(io) => output::serve(TokioIo::new(io), &protocol, pieces).await,
                    Err(e) => tracing::debug!("upgrading a log: {e}"),
                }
            });
            Ok(accepted)
        }
        _ => Ok(wish.refuse::<String>(output::PROTOCOLS).map(Body::from)),
    }
}

async fn fetch(kubelets: &Kubelets, call: &Call) -> Result<Response<Body>, Status> {
    let name = &call.info.name;
    let params = Options::read(&call.query)?.params(name)?;
    let object = call.stored(name).await?.to_value();
    let asked = call.query.get("container").unwrap_or_default();
    let container = pod::container(&object, asked)?;
    let Some(node) = service_resolver::node_name(&object) else {
        // Nothing has run yet, so nothing was said.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    };
    let (host, port) = service_resolver::kubelet(&call.state, node)?;
    let tls = if call.query.flag("insecureSkipTLSVerifyBackend") {
        &kubelets.dialer.unverified_kubelet
    } else {
        &kubelets.dialer.kubelet
    };
    let path = format!(
        "/containerLogs/{}/{}/{}",
        encoded_part(&call.info.namespace),
        encoded_part(name),
        encoded_part(container)
    );
    let path = pod::joined(path, &params);
    let at = api::host_port(&host, port);
    let failed = |e: &dyn std::fmt::Display| plain(500, format!("Get \"https://{at}{path}\": {e}"));
    let io = dial(&host, port, Some(tls)).await.map_err(|e| failed(&e))?;
    let mut request = Request::get(&path)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(Status::internal)?;
    if let Ok(v) = HeaderValue::from_str(&at) {
        request.headers_mut().insert(HOST, v);
    }
    traces::pass_on(request.headers_mut());
    let answer = upgrade::send(io, request).await.map_err(|e| failed(&e))?;
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        let body = Limited::new(body, MAX_REFUSAL_BYTES).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        return Err(refusal(head.status.as_u16(), name, &text));
    }
    let mut response = Response::new(streamed(body));
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}

/// A kubelet's refusal as a Status, in upstream's words.
fn refusal(code: u16, name: &str, text: &str) -> Status {
    match code {
        500 => Status::internal(text),
        400 => Status::bad_request(text),
        404 => {
            let resource = GroupResource::new("", "pods/log");
            let mut s = Status::not_found(&resource, name);
            s.message =
                format!("the server could not find the requested resource ( pods/log {name})");
            s
        }
        _ => plain(code, text.to_owned()),
    }
}

/// What may be asked of a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

impl Options {
    fn read(query: &Query) -> Result<Self, Status> {
        let number = |name: &str| -> Result<Option<i64>, Status> {
            let Some(text) = query.get(name) else {
                return Ok(None);
            };
            let wrong = |_| {
                Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            };
            text.parse().map(Some).map_err(wrong)
        };
        let since_time = query.get("sinceTime").map(str::to_owned);
        if let Some(text) = &since_time
            && text.parse::<jiff::Timestamp>().is_err()
        {
            return Err(Status::bad_request(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            )));
        }
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            since_seconds: number("sinceSeconds")?,
            since_time,
            tail_lines: number("tailLines")?,
            limit_bytes: number("limitBytes")?,
            stream: query.get("stream").map(str::to_owned),
        })
    }

    fn errors(&self) -> Vec<FieldError> {
        let mut all = Vec::new();
        let mut check = |value: Option<i64>, least: i64, name: &str, why: &str| {
            if let Some(v) = value.filter(|v| *v < least) {
                all.push(FieldError::invalid(
                    &FieldPath::new(name),
                    &Value::from(v),
                    why,
                ));
            }
        };
        let negative = "must be greater than or equal to 0";
        check(self.tail_lines, 0, "tailLines", negative);
        check(self.limit_bytes, 1, "limitBytes", "must be greater than 0");
        if self.since_time.is_none() {
            check(
                self.since_seconds,
                1,
                "sinceSeconds",
                "must be greater than 0",
            );
        }
        if self.since_time.is_some() && self.since_seconds.is_some() {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            all.push(FieldError::forbidden(&FieldPath::root(), why));
        }
        let known = ["All", "Stderr", "Stdout"];
        match self.stream.as_deref() {
            Some(s) if !known.contains(&s) => {
                all.push(FieldError::not_supported(
                    &FieldPath::new("stream"),
                    s,
                    &known,
                ));
            }
            Some(s) if s != "All" && self.tail_lines.is_some() => {
                let why = "`tailLines` and specific `stream` are mutually exclusive for now";
                all.push(FieldError::forbidden(&FieldPath::root(), why));
            }
            _ => {}
        }
        all
    }

    /// The kubelet's query.
    fn params(&self, pod: &str) -> Result<Vec<String>, Status> {
        let errors = self.errors();
        if !errors.is_empty() {
            let kind = GroupKind::new("", "PodLogOptions");
            return Err(Status::invalid(&kind, pod, &errors));
        }
        let mut params = Vec::new();
        let flags = [
            (self.follow, "follow"),
            (self.previous, "previous"),
            (self.timestamps, "timestamps"),
        ];
        for (set, name) in flags {
            if set {
                params.push(format!("{name}=true"));
            }
        }
        let numbers = [
            (self.since_seconds, "sinceSeconds"),
            (self.tail_lines, "tailLines"),
            (self.limit_bytes, "limitBytes"),
        ];
        for (value, name) in numbers {
            params.extend(value.map(|v| format!("{name}={v}")));
        }
        let texts = [(&self.since_time, "sinceTime"), (&self.stream, "stream")];
        for (value, name) in texts {
            params.extend(
                value
                    .as_deref()
                    .map(|v| format!("{name}={}", encoded_part(v))),
            );
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Result<Vec<String>, Status> {
        Options::read(&Query::parse(query))?.params("p")
    }

    #[test]
    fn options_are_passed_on() {
        let asked =
            "follow=true&tailLines=10&limitBytes=5&timestamps=1&sinceTime=2026-01-02T03:04:05Z";
        let got = params(asked).unwrap();
        assert_eq!(
            got.join("&"),
            "follow=true&timestamps=true&tailLines=10&limitBytes=5&sinceTime=2026-01-02T03%3A04%3A05Z"
        );
        assert_eq!(params("container=a").unwrap().len(), 0);
    }

    #[test]
    fn wrong_options_are_refused() {
        for (query, code) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=5&sinceTime=2026-01-02T03:04:05Z", 422),
            ("stream=Other", 422),
            ("stream=Stdout&tailLines=1", 422),
        ] {
            assert_eq!(params(query).map_err(|s| s.code), Err(code), "{query}");
        }
    }
}
