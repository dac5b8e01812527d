//! Requests of nodes for certificates of their pods. What keys and certificates hold is checked by
//! admission, which can read them.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use crate::base64;
use crate::check::{
    Errors, at, dns_subdomain, fill, int, invalid, is_empty, items, make, one_of, set, text,
};
use crate::status_writes::{METADATA, keep_other_half};
use crate::strategies::access::{signer, user_annotations};
use crate::strategies::conditions;
use crate::strategies::pod::projections::{SHORTEST, longest};
use crate::strategy::{Context, Strategy};

/// How long a certificate may be good where the request does not say: a day.
const USUAL_SECONDS: i64 = 86_400;
/// The longest UID.
const LONGEST_UID: usize = 128;
/// The conditions that end a request.
const ENDS: &[&str] = &["Issued", "Denied", "Failed"];
/// How a request shows that somebody has a key: by a request (PKCS#10), or as before by a key and a
/// signature with it.
const PROOFS: [&str; 3] = ["stubPKCS10Request", "pkixPublicKey", "proofOfPossession"];
/// The most bytes of each of them.
const LONGEST_PROOF: usize = 10 * 1024;
/// The most bytes of a chain of certificates.
const LONGEST_CHAIN: usize = 100 * 1024;

/// The strategy of the kind.
pub struct PodCertificateRequest;

impl Strategy for PodCertificateRequest {
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = make(obj, "spec") {
            fill(spec, "maxExpirationSeconds", USUAL_SECONDS);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({}));
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        let by = text(spec, "signerName");
        signer(&mut errs, &path.child("signerName"), by);
        let annotations = path.child("unverifiedUserAnnotations");
        user_annotations(
            &mut errs,
            &annotations,
            at(spec, "unverifiedUserAnnotations"),
        );
        for field in ["podName", "serviceAccountName", "nodeName"] {
            dns_subdomain(&mut errs, &path.child(field), text(spec, field));
        }
        for field in ["podUID", "serviceAccountUID", "nodeUID"] {
            let (path, uid) = (path.child(field), text(spec, field));
            if uid.is_empty() {
                errs.push(FieldError::invalid_str(&path, uid, "must not be empty"));
            } else if uid.len() > LONGEST_UID {
                errs.push(FieldError::too_long(&path, LONGEST_UID));
            }
        }
        let most = longest(by);
        let seconds = int(spec, "maxExpirationSeconds").unwrap_or_default();
        if !(SHORTEST..=most).contains(&seconds) {
            let why = format!("must be in the range [{SHORTEST}, {most}]");
            let path = path.child("maxExpirationSeconds");
            invalid(&mut errs, &path, &seconds.into(), &why);
        }
        match PROOFS.map(|field| !is_empty(at(spec, field))) {
            [true, false, false] | [false, true, true] => {
                let long = PROOFS.into_iter().find(|field| {
                    let bytes = base64::decode(text(spec, field)).unwrap_or_default();
                    bytes.len() > LONGEST_PROOF
                });
                errs.extend(long.map(|f| FieldError::too_long(&path.child(f), LONGEST_PROOF)));
            }
            _ => {
                let why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
                errs.push(FieldError {
                    value: None,
                    ..FieldError::invalid_str(&path, "", why)
                });
            }
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource.is_empty() {
            if at(obj, "spec") != at(old, "spec") {
                let why = crate::check::IMMUTABLE;
                invalid(&mut errs, &FieldPath::new("spec"), at(obj, "spec"), why);
            }
            return errs;
        }
        ends(&mut errs, obj);
        if errs.is_empty() {
            changes(&mut errs, obj, old);
        }
        errs
    }
}

/// At most one end, which is true.
fn ends(errs: &mut Errors, obj: &Value) {
    let path = FieldPath::new("status").child("conditions");
    for (i, c) in items(at(obj, "status"), "conditions").iter().enumerate() {
        let (path, kind) = (path.index(i), text(c, "type"));
        one_of(errs, &path.child("type"), kind, ENDS);
        one_of(errs, &path.child("status"), text(c, "status"), &["True"]);
        if i > 0 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errs.push(FieldError::invalid_str(&path.child("type"), kind, why));
        }
    }
    conditions::conditions(errs, &FieldPath::new("status"), at(obj, "status"));
}

fn end(obj: &Value) -> &str {
    let all = items(at(obj, "status"), "conditions");
    all.first().map_or("", |c| text(c, "type"))
}

/// A status says nothing before the end, and nothing else after.
fn changes(errs: &mut Errors, obj: &Value, old: &Value) {
    let path = FieldPath::new("status");
    let (new, was) = (at(obj, "status"), at(old, "status"));
    if new == was || is_empty(new) && is_empty(was) {
        return;
    }
    let mut refuse = |why: &str| invalid(errs, &path, &"<value omitted>".into(), why);
    if !end(old).is_empty() {
        return refuse("immutable after PodCertificateRequest is issued, denied, or failed");
    }
    let others = new.as_object().into_iter().flatten();
    let others = others
        .filter(|(name, v)| *name != "conditions" && !is_empty(v))
        .count();
    match end(obj) {
        "" if others > 0 => {
            refuse(
                "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
            );
        }
        "Denied" | "Failed" if others > 0 => {
            refuse(
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest",
            );
        }
        "Issued" => issued(errs, new),
        _ => {}
    }
}

fn issued(errs: &mut Errors, status: &Value) {
    let path = FieldPath::new("status");
    if text(status, "certificateChain").len() > LONGEST_CHAIN {
        errs.push(FieldError::too_long(
            &path.child("certificateChain"),
            LONGEST_CHAIN,
        ));
    }
    for field in ["notBefore", "notAfter"] {
        if is_empty(at(status, field)) {
            let why = "must be present and consistent with the issued certificate";
            errs.push(FieldError::required(&path.child(field), why));
        }
    }
    if is_empty(at(status, "beginRefreshAt")) {
        let why = "must be present and in the range [notbefore+10min, notafter-10min]";
        errs.push(FieldError::required(&path.child("beginRefreshAt"), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        let mut request = json!({ "metadata": { "name": "r" }, "spec": {
            "signerName": "x.io/s", "podName": "p", "podUID": "1", "nodeName": "n",
            "nodeUID": "2", "serviceAccountName": "default", "serviceAccountUID": "3",
            "stubPKCS10Request": "AA==" } });
        PodCertificateRequest.default(&mut request);
        request
    }

    fn fields(errs: Vec<FieldError>) -> Vec<String> {
        errs.iter().map(|e| e.cause().field).collect()
    }

    #[test]
    fn a_request_names_pod_node_account_and_signer() {
        let cx = Context::of_nobody();
        let check = |change: &dyn Fn(&mut Value)| {
            let mut request = request();
            change(&mut request["spec"]);
            fields(PodCertificateRequest.validate(&request, &cx))
        };
        assert_eq!(request()["spec"]["maxExpirationSeconds"], 86_400);
        assert!(check(&|_| {}).is_empty());
        assert_eq!(check(&|s| s["podUID"] = "".into()), ["spec.podUID"]);
        assert_eq!(
            check(&|s| s["signerName"] = "x".into()),
            ["spec.signerName"]
        );
        assert_eq!(check(&|s| s["stubPKCS10Request"] = "".into()), ["spec"]);
        assert_eq!(check(&|s| s["pkixPublicKey"] = "k".into()), ["spec"]);
        let older = |key: String| {
            check(&|s| {
                s["stubPKCS10Request"] = "".into();
                s["pkixPublicKey"] = key.as_str().into();
                s["proofOfPossession"] = "AA==".into();
            })
        };
        assert!(older("AA==".into()).is_empty());
        assert!(older("AAAA".repeat(LONGEST_PROOF / 3)).is_empty());
        let longer = older("AAAA".repeat(LONGEST_PROOF / 3 + 1));
        assert_eq!(longer, ["spec.pkixPublicKey"]);
        let life = ["spec.maxExpirationSeconds"];
        assert_eq!(check(&|s| s["maxExpirationSeconds"] = 3599.into()), life);
        let week = |by: &str| {
            let by = by.to_owned();
            check(&|s| {
                s["signerName"] = by.as_str().into();
                s["maxExpirationSeconds"] = (7 * 86_400).into();
            })
        };
        assert!(week("x.io/s").is_empty());
        assert_eq!(week("kubernetes.io/s"), life);
        let odd = check(&|s| s["unverifiedUserAnnotations"] = json!({ "x.io/a": "", "b": "" }));
        assert_eq!(odd, ["spec.unverifiedUserAnnotations"]);
    }

    #[test]
    fn a_status_ends_once() {
        let cx = Context {
            subresource: "status",
            ..Context::of_nobody()
        };
        let with = |kind: &str, more: Value| {
            let mut request = request();
            request["status"] = more;
            request["status"]["conditions"] = json!([{ "type": kind, "status": "True",
                "reason": "R", "lastTransitionTime": "1970-01-01T00:00:00Z" }]);
            request
        };
        let update =
            |new: &Value, old: &Value| fields(PodCertificateRequest.validate_update(new, old, &cx));
        let denied = with("Denied", json!({}));
        assert!(update(&denied, &request()).is_empty());
        assert!(update(&denied, &denied).is_empty());
        assert_eq!(update(&with("Failed", json!({})), &denied), ["status"]);
        assert_eq!(
            update(&with("Other", json!({})), &request()),
            ["status.conditions[0].type"]
        );
        assert_eq!(
            update(
                &with("Denied", json!({ "certificateChain": "c" })),
                &request()
            ),
            ["status"]
        );
        let missing = update(
            &with("Issued", json!({ "certificateChain": "c" })),
            &request(),
        );
        assert_eq!(
            missing,
            [
                "status.notBefore",
                "status.notAfter",
                "status.beginRefreshAt"
            ]
        );
        let mut unasked = request();
        unasked["status"] = json!({ "certificateChain": "c" });
        assert_eq!(update(&unasked, &request()), ["status"]);
        let mut spec = request();
        spec["spec"]["podName"] = "q".into();
        let own = Context::of_nobody();
        assert_eq!(
            fields(PodCertificateRequest.validate_update(&spec, &request(), &own)),
            ["spec"]
        );
    }
}
