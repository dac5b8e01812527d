//! AdmissionReview: what a webhook is asked, and what its answer must be.

use base64::Engine;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::cache::encode_with;

/// A version of AdmissionReview.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V1,
    V1Beta1,
}

impl Version {
    /// The first that a webhook takes and that this server speaks.
    pub fn choose(accepted: &[String]) -> Option<Self> {
        accepted.iter().find_map(|v| match v.as_str() {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// An object as reviews hold it: with its managed fields and the revision at which it was read.
pub fn object(value: &Value, managed: &[u8], revision: u64) -> Bytes {
    let encoded = encode_with(value, managed);
    if revision == 0 {
        return encoded;
    }
    // As it is shown to clients: last in the metadata, which are never empty.
    const MARK: &[u8] = b"\"metadata\":{";
    let Some(at) = memchr::memmem::find(&encoded, MARK) else {
        return encoded;
    };
    let (head, tail) = encoded.split_at(at + MARK.len());
    let version = format!("\"resourceVersion\":\"{revision}\"");
    let comma: &[u8] = if tail.starts_with(b"}") { b"" } else { b"," };
    [head, version.as_bytes(), comma, tail].concat().into()
}

/// The body of a request to a webhook. `request` is what expressions see of it, too.
pub fn body(
    version: Version,
    uid: &str,
    mut request: Value,
    (object, old): (Option<&Bytes>, Option<&Bytes>),
) -> Bytes {
    request["uid"] = uid.into();
    let request = request.to_string();
    let head = format!(
        "{{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/{}\",\"request\":{}",
        version.word(),
        request.strip_suffix('}').unwrap_or(&request),
    );
    let null: &[u8] = b"null";
    let shown = |object: Option<&Bytes>| object.map_or(null.to_vec(), |o| o.to_vec());
    [
        head.as_bytes(),
        b",\"object\":",
        &shown(object),
        b",\"oldObject\":",
        &shown(old),
        b"}}",
    ]
    .concat()
    .into()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    response: Option<AdmissionResponse>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AdmissionResponse {
    uid: String,
    allowed: bool,
    status: Option<api::Status>,
    patch: Option<Value>,
    patch_type: Option<String>,
    audit_annotations: Option<std::collections::BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

/// A webhook's answer that is one.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    pub status: Option<api::Status>,
    /// Decoded; empty where nothing is to be changed.
    pub patch: Vec<u8>,
    pub patch_type: String,
    pub annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// Why an answer cannot be used.
#[derive(Debug, PartialEq)]
pub enum Unusable {
    /// It is not of the kind that was asked for.
    Undecodable(String),
    Invalid(String),
}

/// Bytes as Go reads them of JSON: base64, whose line ends do not count, or their numbers, as Rust's
/// usual encoders write them.
fn bytes(value: Value) -> Result<Vec<u8>, String> {
    match value {
        Value::String(text) => base64::engine::general_purpose::STANDARD
            .decode(text.replace(['\r', '\n'], ""))
            .map_err(|e| format!("illegal base64 data: {e}")),
        Value::Array(numbers) => {
            let byte = |n: &Value| n.as_u64().and_then(|n| u8::try_from(n).ok());
            let wrong = |n: &Value| format!("{n} is not a byte of response.patch");
            let each = |n: &Value| byte(n).ok_or_else(|| wrong(n));
            numbers.iter().map(each).collect()
        }
        other => Err(format!("response.patch is neither text nor bytes: {other}")),
    }
}

/// Reads an answer, and checks it as upstream does.
pub fn read(
    version: Version,
    uid: &str,
    mutating: bool,
    answer: &[u8],
) -> Result<Verdict, Unusable> {
    use Unusable::{Invalid, Undecodable};
    let answer: Answer = serde_json::from_slice(answer).map_err(|e| Undecodable(e.to_string()))?;
    let said = answer.response;
    let said = said.ok_or_else(|| Invalid("webhook response was absent".into()))?;
    let invalid = |what: String| Err(Invalid(what));
    let mut patch_type = said.patch_type;
    let patch = said
        .patch
        .map_or(Ok(Vec::new()), bytes)
        .map_err(Undecodable)?;
    if version == Version::V1 {
        if said.uid != uid {
            return invalid(format!("expected response.uid={uid:?}, got {:?}", said.uid));
        }
        if answer.kind != "AdmissionReview" || answer.api_version != "admission.k8s.io/v1" {
            return invalid(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
                answer.api_version, answer.kind
            ));
        }
        match (mutating, patch.is_empty(), patch_type.as_deref()) {
            (true, false, None) => {
                return invalid(
                    "webhook returned response.patch but not response.patchType".into(),
                );
            }
            (true, true, Some(_)) => {
                return invalid(
                    "webhook returned response.patchType but not response.patch".into(),
                );
            }
            (true, _, Some("")) => {
                return invalid("webhook returned invalid response.patchType of \"\"".into());
            }
            (false, false, _) => {
                return invalid("validating webhook may not return response.patch".into());
            }
            (false, _, Some(_)) => {
                return invalid("validating webhook may not return response.patchType".into());
            }
            _ => {}
        }
    } else if !patch.is_empty() {
        patch_type = Some("JSONPatch".into());
    }
    Ok(Verdict {
        allowed: said.allowed,
        status: said.status,
        patch: if mutating { patch } else { Vec::new() },
        patch_type: patch_type.unwrap_or_default(),
        annotations: said
            .audit_annotations
            .unwrap_or_default()
            .into_iter()
            .collect(),
        warnings: said.warnings.unwrap_or_default(),
    })
}

/// The refusal of a request by a webhook, made of what it says.
pub fn denial(webhook: &str, said: Option<api::Status>) -> api::Status {
    let mut status = said.unwrap_or_default();
    // Refusals are failures, whatever they say of themselves.
    if status.code < 400 {
        status.code = 400;
    }
    if status.code > 599 {
        // No code of HTTP.
        status.code = 500;
    }
    if status.status.is_empty() || status.status == "Success" {
        status.status = "Failure".into();
    }
    let denied = format!("admission webhook {webhook:?} denied the request");
    status.message = match (status.message.is_empty(), status.reason.is_empty()) {
        (false, _) => format!("{denied}: {}", status.message),
        (true, false) => format!("{denied}: {}", status.reason),
        (true, true) => format!("{denied} without explanation"),
    };
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn review(response: Value) -> Vec<u8> {
        let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
            "response": response});
        review.to_string().into_bytes()
    }

    fn wrong(mutating: bool, response: Value) -> String {
        match read(Version::V1, "u", mutating, &review(response)) {
            Err(Unusable::Invalid(why) | Unusable::Undecodable(why)) => why,
            Ok(verdict) => format!("{verdict:?}"),
        }
    }

    #[test]
    fn answers_are_checked() {
        let good = json!({"uid": "u", "allowed": true, "warnings": ["w"], "patch": "W10=",
            "patchType": "JSONPatch", "auditAnnotations": {"a": "b"}});
        let verdict = read(Version::V1, "u", true, &review(good)).expect("fine");
        assert_eq!((verdict.patch, verdict.allowed), (b"[]".to_vec(), true));
        assert_eq!(verdict.annotations, [("a".to_owned(), "b".to_owned())]);
        for (mutating, response, why) in [
            (
                true,
                json!({"uid": "v"}),
                "expected response.uid=\"u\", got \"v\"",
            ),
            (
                true,
                json!({"uid": "u", "patch": "W10="}),
                "webhook returned response.patch but not response.patchType",
            ),
            (
                true,
                json!({"uid": "u", "patchType": "JSONPatch"}),
                "webhook returned response.patchType but not response.patch",
            ),
            (
                false,
                json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"}),
                "validating webhook may not return response.patch",
            ),
            (true, Value::Null, "webhook response was absent"),
        ] {
            assert_eq!(wrong(mutating, response), why);
        }
        for patch in [json!("W1\r\n0="), json!([91, 93])] {
            let good = json!({"uid": "u", "allowed": true, "patch": patch,
                "patchType": "JSONPatch"});
            let verdict = read(Version::V1, "u", true, &review(good)).expect("fine");
            assert_eq!(verdict.patch, b"[]");
        }
        for patch in [json!([256]), json!(["a"]), json!(1), json!("?")] {
            let bad = json!({"uid": "u", "patch": patch, "patchType": "JSONPatch"});
            let got = read(Version::V1, "u", true, &review(bad));
            assert!(matches!(got, Err(Unusable::Undecodable(_))), "{got:?}");
        }
        let beta = json!({"response": {"allowed": true, "patch": "W10="}}).to_string();
        let verdict = read(Version::V1Beta1, "u", true, beta.as_bytes()).expect("fine");
        assert_eq!(verdict.patch_type, "JSONPatch");
        assert!(read(Version::V1, "u", true, beta.as_bytes()).is_err());
        assert!(matches!(
            read(Version::V1, "u", true, b"<html>"),
            Err(Unusable::Undecodable(_))
        ));
    }

    #[test]
    fn refusals_are_failures_with_the_webhooks_words() {
        let said = |status: Value| serde_json::from_value::<api::Status>(status).expect("status");
        let denied = denial("a.b.c", Some(said(json!({"message": "no", "code": 200}))));
        assert_eq!(
            denied.message,
            "admission webhook \"a.b.c\" denied the request: no"
        );
        assert_eq!((denied.code, &*denied.status), (400, "Failure"));
        let denied = denial("a.b.c", Some(said(json!({"reason": "Why", "code": 409}))));
        assert_eq!(
            denied.message,
            "admission webhook \"a.b.c\" denied the request: Why"
        );
        assert_eq!(denied.code, 409);
        let denied = denial("a.b.c", None);
        assert_eq!(
            denied.message,
            "admission webhook \"a.b.c\" denied the request without explanation"
        );
    }

    #[test]
    fn a_request_holds_objects_as_clients_see_them() {
        let value = json!({"kind": "A", "apiVersion": "v1", "metadata": {"name": "x"}});
        let shown = object(&value, b"[{\"manager\":\"m\"}]", 7);
        let body = body(Version::V1, "u", json!({"name": "x"}), (Some(&shown), None));
        let read: Value = serde_json::from_slice(&body).expect("json");
        assert_eq!(
            read,
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
                "uid": "u", "name": "x", "oldObject": null,
                "object": {"kind": "A", "apiVersion": "v1", "metadata": {"name": "x",
                    "resourceVersion": "7", "managedFields": [{"manager": "m"}]}},
            }})
        );
        assert_eq!(
            Version::choose(&["v2".into(), "v1beta1".into()]),
            Some(Version::V1Beta1)
        );
        assert_eq!(Version::choose(&["v2".into()]), None);
    }
}
