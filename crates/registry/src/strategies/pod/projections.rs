//! Sources of projected volumes that show certificates: trust anchors, and the pod's own.

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::volumes::file_path;
use crate::check::{Errors, at, has, int, invalid, label_selector, one_of, required_text, text};
use crate::strategies::access::{signer, user_annotations};

/// The types of keys that a pod may have.
const KEY_TYPES: &[&str] = &[
    "RSA3072",
    "RSA4096",
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
];

/// The shortest life of a pod's certificate, in seconds.
pub const SHORTEST: i64 = 3600;

/// The longest life of a pod's certificate, in seconds: 91 days, of Kubernetes' own signers a day.
#[must_use]
pub fn longest(signer: &str) -> i64 {
    let domain = signer.split('/').next().unwrap_or_default();
    if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
        24 * 3600
    } else {
        91 * 24 * 3600
    }
}

/// Trust anchors: of one bundle, or of a signer's.
pub fn trust_bundle(errs: &mut Errors, path: &FieldPath, v: &Value) {
    match (has(v, "name"), has(v, "signerName")) {
        (true, true) => {
            invalid(errs, path, v, "only one of name and signerName may be used");
        }
        (true, false) => {
            let (name, at_name) = (text(v, "name"), path.child("name"));
            if name.is_empty() {
                let why = "must be a valid object name";
                errs.push(FieldError::required(&at_name, why));
            }
            // A signer's bundle is named after it, with colons.
            for message in crate::meta::name_is_subdomain(&name.replace(':', "."), false) {
                let why = format!("not a valid clustertrustbundlename: {message}");
                errs.push(FieldError::invalid_str(&at_name, name, &why));
            }
            if has(v, "labelSelector") {
                let path = path.child("labelSelector");
                let why = "labelSelector must be unset if name is specified";
                invalid(errs, &path, at(v, "labelSelector"), why);
            }
        }
        (false, true) => {
            let name = text(v, "signerName");
            signer(errs, &path.child("signerName"), name);
            if has(v, "labelSelector") {
                label_selector(errs, &path.child("labelSelector"), at(v, "labelSelector"));
            }
        }
        (false, false) => {
            let why = "either name or signerName must be specified";
            errs.push(FieldError::required(path, why));
        }
    }
    if required_text(errs, path, v, "path") {
        file_path(errs, &path.child("path"), text(v, "path"));
    }
}

/// A key and certificates of the pod.
pub fn pod_certificate(errs: &mut Errors, path: &FieldPath, v: &Value) {
    let by = text(v, "signerName");
    signer(errs, &path.child("signerName"), by);
    let annotations = path.child("userAnnotations");
    user_annotations(errs, &annotations, at(v, "userAnnotations"));
    one_of(errs, &path.child("keyType"), text(v, "keyType"), KEY_TYPES);
    if let Some(seconds) = int(v, "maxExpirationSeconds") {
        let (path, most) = (path.child("maxExpirationSeconds"), longest(by));
        if seconds < SHORTEST {
            let why = format!("if provided, maxExpirationSeconds must be >= {SHORTEST}");
            invalid(errs, &path, &seconds.into(), &why);
        } else if seconds > most {
            let why = format!("if provided, maxExpirationSeconds must be <= {most}");
            invalid(errs, &path, &seconds.into(), &why);
        }
    }
    let mut paths = 0;
    for field in CERTIFICATE_PATHS {
        let given = text(v, field);
        if !given.is_empty() {
            paths += 1;
            file_path(errs, &path.child(field), given);
        }
    }
    if paths == 0 {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errs.push(FieldError::required(path, why));
    }
}

/// The files that a pod's certificate may be shown in.
pub const CERTIFICATE_PATHS: [&str; 3] =
    ["credentialBundlePath", "keyPath", "certificateChainPath"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(check: fn(&mut Errors, &FieldPath, &Value), v: Value) -> Vec<String> {
        let mut errs = Errors::new();
        check(&mut errs, &FieldPath::new("s"), &v);
        errs.iter().map(|e| e.cause().field).collect()
    }

    #[test]
    fn trust_anchors_are_of_one_bundle_or_of_a_signer() {
        let check = |v: Value| wrong(trust_bundle, v);
        let none = Vec::<String>::new();
        assert_eq!(check(json!({ "name": "a", "path": "ca.pem" })), none);
        assert_eq!(check(json!({ "name": "x.io:s:a", "path": "ca.pem" })), none);
        let live = json!({ "matchLabels": { "a": "b" } });
        assert_eq!(
            check(json!({ "signerName": "x.io/s", "labelSelector": live, "path": "p" })),
            none
        );
        assert_eq!(
            check(json!({ "name": "a", "signerName": "x.io/s", "path": "p" })),
            ["s"]
        );
        assert_eq!(check(json!({ "path": "p" })), ["s"]);
        assert_eq!(
            check(json!({ "name": "a", "labelSelector": {}, "path": "p" })),
            ["s.labelSelector"]
        );
        assert_eq!(check(json!({ "name": "A", "path": "p" })), ["s.name"]);
        assert_eq!(
            check(json!({ "signerName": "x", "path": "p" })),
            ["s.signerName"]
        );
        assert_eq!(check(json!({ "name": "a" })), ["s.path"]);
        assert_eq!(check(json!({ "name": "a", "path": "../p" })), ["s.path"]);
    }

    #[test]
    fn a_pods_certificate_has_a_key_a_signer_and_a_place() {
        let check = |change: &dyn Fn(&mut Value)| {
            let mut v = json!({ "signerName": "x.io/s", "keyType": "ED25519", "keyPath": "k" });
            change(&mut v);
            wrong(pod_certificate, v)
        };
        assert!(check(&|_| {}).is_empty());
        assert_eq!(check(&|v| v["keyType"] = "RSA1024".into()), ["s.keyType"]);
        assert_eq!(check(&|v| v["keyPath"] = "".into()), ["s"]);
        assert_eq!(check(&|v| v["keyPath"] = "/k".into()), ["s.keyPath"]);
        let life = ["s.maxExpirationSeconds"];
        assert_eq!(check(&|v| v["maxExpirationSeconds"] = 3599.into()), life);
        assert!(check(&|v| v["maxExpirationSeconds"] = (91 * 86_400).into()).is_empty());
        assert_eq!(
            check(&|v| v["maxExpirationSeconds"] = (92 * 86_400).into()),
            life
        );
        assert_eq!(longest("kubernetes.io/s"), 86_400);
        assert_eq!(
            check(&|v| v["userAnnotations"] = json!({ "a": "b" })),
            ["s.userAnnotations"]
        );
    }
}
