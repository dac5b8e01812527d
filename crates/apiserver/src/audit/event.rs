//! One event as back ends get it: JSON of audit.k8s.io/v1, written once for all of them. It does not
//! know when events are made.

use std::collections::BTreeMap;
use std::net::IpAddr;

use access::UserInfo;
use api::status::Details;
use bytes::Bytes;
use http::HeaderMap;
use http::header::USER_AGENT;
use jiff::Timestamp;
use serde::Serialize;

use super::policy::{Level, Stage};
use crate::http::request::RequestInfo;

/// What more of a user agent is cut off, in bytes; as upstream.
const AGENT_MAX: usize = 1024;
const CUT: &str = "...TRUNCATED";
/// Says that bodies were left out, since they are too large.
pub const TRUNCATED: &str = "audit.k8s.io/truncated";

/// What is known of a request so far.
#[derive(Clone, Debug, Default)]
pub struct RequestFacts {
    pub uri: String,
    pub verb: String,
    /// Nobody, where credentials were wrong.
    pub user: Option<UserInfo>,
    pub impersonated: Option<UserInfo>,
    pub constraint: Option<String>,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub reference: Option<Reference>,
    pub status: Option<Outcome>,
    pub annotations: BTreeMap<String, String>,
    /// Bodies, as JSON.
    pub request: Option<Bytes>,
    pub response: Option<Bytes>,
}

/// Which object the request is about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

impl Reference {
    pub fn of(info: &RequestInfo) -> Option<Self> {
        info.is_resource.then(|| Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        })
    }
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Outcome {
    pub metadata: Nothing,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    pub code: u16,
}

/// `{}`: what upstream writes of a Status's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Nothing {}

/// Where a request comes from: what proxies say, then what is seen. All but the last can be
/// anything that a client likes to say.
pub fn source_ips(headers: &HeaderMap, seen: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let said = text("x-forwarded-for").unwrap_or_default().split(',');
    let mut all: Vec<IpAddr> = said.filter_map(|t| t.trim().parse().ok()).collect();
    if let Some(real) = text("x-real-ip").and_then(|t| t.trim().parse().ok())
        && !all.contains(&real)
    {
        all.push(real);
    }
    let seen = seen.map(|ip| ip.to_canonical());
    if let Some(seen) = seen.filter(|seen| all.last() != Some(seen)) {
        all.push(seen);
    }
    all.iter().map(ToString::to_string).collect()
}

/// What the client calls itself.
pub fn user_agent(headers: &HeaderMap) -> String {
    let Some(value) = headers.get(USER_AGENT) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    if text.len() <= AGENT_MAX {
        return text.into_owned();
    }
    let mut end = AGENT_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", text.get(..end).unwrap_or_default())
}

/// The moments of an event.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub received: Timestamp,
    pub stage: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: Who<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<&'a UserInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<Metadata<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[_]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<&'a Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'a Outcome>,
    request_received_timestamp: Micros,
    stage_timestamp: Micros,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    impersonation_constraint: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Who<'a> {
    Known(&'a UserInfo),
    Nobody(Nothing),
}

/// A time with six digits of its second, always.
struct Micros(Timestamp);

impl Serialize for Micros {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:.6}", self.0))
    }
}

/// The event of a stage, on one line, without a line's end.
pub fn write(id: &str, level: Level, stage: Stage, told: &RequestFacts, times: Times) -> Bytes {
    let event = Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: level.word(),
        audit_id: id,
        stage: stage.word(),
        request_uri: &told.uri,
        verb: &told.verb,
        user: told
            .user
            .as_ref()
            .map_or(Who::Nobody(Nothing {}), Who::Known),
        impersonated_user: told.impersonated.as_ref(),
        authentication_metadata: told.constraint.as_deref().map(|constraint| Metadata {
            impersonation_constraint: constraint,
        }),
        source_ips: &told.source_ips,
        user_agent: &told.user_agent,
        object_ref: told.reference.as_ref(),
        response_status: told.status.as_ref(),
        request_received_timestamp: Micros(times.received),
        stage_timestamp: Micros(times.stage),
        annotations: &told.annotations,
    };
    let bodies = [
        ("requestObject", &told.request),
        ("responseObject", &told.response),
    ];
    let more = bodies.iter().filter_map(|(_, b)| b.as_ref());
    let mut out = Vec::with_capacity(1024 + more.map(Bytes::len).sum::<usize>());
    // Texts and maps of texts: that cannot fail.
    let _ = serde_json::to_writer(&mut out, &event);
    for (name, body) in bodies {
        if let Some(body) = body {
            // They are JSON already.
            out.pop();
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            out.extend_from_slice(body);
            out.push(b'}');
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_is_one_line_of_json() {
        let at = |text: &str| text.parse().expect("time");
        let mut told = RequestFacts {
            uri: "/api/v1/namespaces/a/pods?x=\"".into(),
            verb: "create".into(),
            user: Some(UserInfo::new("u", &["g"])),
            request: Some(Bytes::from_static(b"{\"kind\":\"Pod\"}")),
            response: Some(Bytes::from_static(b"{\"kind\":\"Status\"}")),
            ..RequestFacts::default()
        };
        let times = Times {
            received: at("2026-11-29T02:00:00Z"),
            stage: at("2026-11-29T02:00:00.123456789Z"),
        };
        let stage = Stage::ResponseComplete;
        let line = write("id", Level::RequestResponse, stage, &told, times);
        assert!(!line.contains(&b'\n'));
        let read: Value = serde_json::from_slice(&line).expect("json");
        assert_eq!(
            read,
            json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse",
                "auditID": "id", "stage": "ResponseComplete",
                "requestURI": "/api/v1/namespaces/a/pods?x=\"", "verb": "create",
                "user": {"username": "u", "groups": ["g"]},
                "requestObject": {"kind": "Pod"}, "responseObject": {"kind": "Status"},
                "requestReceivedTimestamp": "2026-11-29T02:00:00.000000Z",
                "stageTimestamp": "2026-11-29T02:00:00.123456Z"})
        );
        told.user = None;
        let line = write("id", Level::Metadata, stage, &told, times);
        let read: Value = serde_json::from_slice(&line).expect("json");
        assert_eq!(read["user"], json!({}));
    }

    #[test]
    fn addresses_are_what_proxies_say_and_what_is_seen() {
        let mut headers = HeaderMap::new();
        let seen = "::ffff:127.0.0.1".parse().ok();
        assert_eq!(source_ips(&headers, seen), ["127.0.0.1"]);
        assert!(source_ips(&headers, None).is_empty());
        headers.insert(
            "x-forwarded-for",
            "10.0.0.1, no, 10.0.0.2".parse().expect("v"),
        );
        headers.insert("x-real-ip", "10.0.0.1".parse().expect("v"));
        assert_eq!(
            source_ips(&headers, seen),
            ["10.0.0.1", "10.0.0.2", "127.0.0.1"]
        );
        let last = "10.0.0.2".parse().ok();
        assert_eq!(source_ips(&headers, last), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn long_agents_are_cut_between_letters() {
        let mut headers = HeaderMap::new();
        let long = "a".repeat(AGENT_MAX - 1) + "äb";
        headers.insert(
            USER_AGENT,
            http::HeaderValue::from_bytes(long.as_bytes()).expect("v"),
        );
        let cut = user_agent(&headers);
        assert_eq!(cut.len(), AGENT_MAX - 1 + CUT.len());
        assert!(cut.ends_with(CUT));
    }
}
