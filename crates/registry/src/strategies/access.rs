//! Roles, their bindings, and requests for certificates.

use std::cmp::Ordering;
use std::collections::HashSet;

use api::names::{LABEL_BYTES, SUBDOMAIN_BYTES};
use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use crate::check::{
    Errors, at, dns_subdomain, fill_zero, has, int, invalid, invalid_each, is_empty, items,
    items_mut, label_selector, make, one_of, set, text,
};
use crate::meta::name_is_path_segment;
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Strategy};
use crate::{base64, go_form, pem};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The strategy of roles, of a namespace or of the cluster.
pub struct Role {
    pub namespaced: bool,
}

impl Strategy for Role {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for (i, r) in items(obj, "rules").iter().enumerate() {
            rule(
                &mut errs,
                &FieldPath::new("rules").index(i),
                r,
                self.namespaced,
            );
        }
        if has(obj, "aggregationRule") {
            let path = FieldPath::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = items(at(obj, "aggregationRule"), "clusterRoleSelectors");
            if selectors.is_empty() {
                let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errs.push(FieldError::required(&path, why));
            }
            for (i, s) in selectors.iter().enumerate() {
                label_selector(&mut errs, &path.index(i), s);
            }
        }
        errs
    }
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        name_is_path_segment(name, generate)
    }
}

/// One rule of a role.
fn rule(errs: &mut Errors, path: &FieldPath, r: &Value, namespaced: bool) {
    let none = |f: &str| items(r, f).is_empty();
    if none("verbs") {
        let why = "verbs must contain at least one value";
        errs.push(FieldError::required(&path.child("verbs"), why));
    }
    if !none("nonResourceURLs") {
        let (path, urls) = (path.child("nonResourceURLs"), at(r, "nonResourceURLs"));
        if namespaced {
            invalid(
                errs,
                &path,
                urls,
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if !none("apiGroups") || !none("resources") || !none("resourceNames") {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            invalid(errs, &path, urls, why);
        }
        return;
    }
    if none("apiGroups") {
        let why = "resource rules must supply at least one api group";
        errs.push(FieldError::required(&path.child("apiGroups"), why));
    }
    if none("resources") {
        let why = "resource rules must supply at least one resource";
        errs.push(FieldError::required(&path.child("resources"), why));
    }
}

/// The strategy of role bindings, of a namespace or of the cluster.
pub struct Binding {
    pub namespaced: bool,
}

impl Strategy for Binding {
    fn default(&self, obj: &mut Value) {
        if let Some(role) = make(obj, "roleRef") {
            fill_zero(role, "apiGroup", GROUP);
        }
        for s in items_mut(obj, "subjects") {
            if ["User", "Group"].contains(&text(s, "kind")) {
                fill_zero(s, "apiGroup", GROUP);
            }
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, role) = (Errors::new(), FieldPath::new("roleRef"), at(obj, "roleRef"));
        one_of(
            &mut errs,
            &path.child("apiGroup"),
            text(role, "apiGroup"),
            &[GROUP],
        );
        let kinds: &[&str] = if self.namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        };
        one_of(&mut errs, &path.child("kind"), text(role, "kind"), kinds);
        match text(role, "name") {
            "" => errs.push(FieldError::required(&path.child("name"), "")),
            name => {
                let wrong = name_is_path_segment(name, false);
                invalid_each(&mut errs, &path.child("name"), name, wrong);
            }
        }
        for (i, s) in items(obj, "subjects").iter().enumerate() {
            subject(
                &mut errs,
                &FieldPath::new("subjects").index(i),
                s,
                self.namespaced,
            );
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if at(obj, "roleRef") != at(old, "roleRef") {
            let path = FieldPath::new("roleRef");
            invalid(
                &mut errs,
                &path,
                at(obj, "roleRef"),
                "cannot change roleRef",
            );
        }
        errs
    }
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        name_is_path_segment(name, generate)
    }
}

fn subject(errs: &mut Errors, path: &FieldPath, s: &Value, namespaced: bool) {
    let (name, group) = (text(s, "name"), text(s, "apiGroup"));
    if name.is_empty() {
        errs.push(FieldError::required(&path.child("name"), ""));
    }
    match text(s, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                dns_subdomain(errs, &path.child("name"), name);
            }
            if !group.is_empty() {
                one_of(errs, &path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && text(s, "namespace").is_empty() {
                errs.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => one_of(errs, &path.child("apiGroup"), group, &[GROUP]),
        other => one_of(
            errs,
            &path.child("kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

/// The strategy of certificate signing requests: the requesting user is set by the server.
pub struct SigningRequest;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Strategy for SigningRequest {
    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        if let Some(spec) = make(obj, "spec") {
            for f in ["uid", "extra"] {
                crate::check::unset(spec, f);
            }
            set(spec, "username", cx.user);
            set(spec, "groups", json!(cx.groups));
            if !cx.uid.is_empty() {
                set(spec, "uid", cx.uid);
            }
            if !cx.extra.is_empty() {
                set(spec, "extra", json!(cx.extra));
            }
        }
        set(obj, "status", json!({}));
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        match cx.subresource {
            "" => {
                keep_other_half(obj, old, "");
                set(obj, "spec", at(old, "spec").clone());
            }
            "approval" => {
                let conditions = at(at(obj, "status"), "conditions").clone();
                keep_other_half(obj, old, "status");
                set(obj, "status", at(old, "status").clone());
                if let Some(status) = make(obj, "status").filter(|_| conditions.is_array()) {
                    set(status, "conditions", conditions);
                }
                stamp(obj, old, cx.now);
            }
            _ => {
                keep_other_half(obj, old, "status");
                stamp(obj, old, cx.now);
            }
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec").child("request"));
        let request = text(at(obj, "spec"), "request");
        if let Err(why) = request_of(request) {
            errs.push(FieldError::invalid_str(&path, request, why));
        }
        errs.extend(asked(obj, None));
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = asked(obj, Some(old));
        decided(&mut errs, obj, old, cx.subresource != "approval");
        let path = FieldPath::new("status").child("certificate");
        let of = |o| text(at(o, "status"), "certificate");
        let (new, was) = (of(obj), of(old));
        if new == was {
            return errs;
        }
        if !was.is_empty() {
            let why = "updates may not modify existing certificate content";
            errs.push(FieldError::forbidden(&path, why));
        }
        // What was wrong before may be replaced by what is wrong otherwise.
        if let (Err(why), Ok(())) = (certificates(new), certificates(was)) {
            errs.push(FieldError::invalid_str(&path, "<certificate data>", &why));
        }
        errs
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_name(&self, _name: &str, _generate: bool) -> Vec<String> {
        Vec::new()
    }
}

/// What is wrong with a request for a certificate (base64 of PEM).
fn request_of(request: &str) -> Result<(), &'static str> {
    let bytes = base64::decode(request).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    match pem::blocks(&text).0.first() {
        Some(block) if block.label == "CERTIFICATE REQUEST" => match pem::is_signed(&block.bytes) {
            true => Ok(()),
            false => Err("malformed certificate request"),
        },
        _ => Err("PEM block type must be CERTIFICATE REQUEST"),
    }
}

/// What is wrong with issued certificates (base64 of PEM); there may be none.
fn certificates(issued: &str) -> Result<(), String> {
    if issued.is_empty() {
        return Ok(());
    }
    let bytes = base64::decode(issued).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let blocks = pem::blocks(&text).0;
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    for block in blocks {
        if block.label != "CERTIFICATE" {
            let found = block.label;
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {found:?}"
            ));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        if !pem::is_signed(&block.bytes) {
            return Err("malformed certificate".to_owned());
        }
    }
    Ok(())
}

/// What holds of a request for a certificate at any time.
fn asked(obj: &Value, old: Option<&Value>) -> Errors {
    let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
    let usages = items(spec, "usages");
    if usages.is_empty() {
        errs.push(FieldError::required(&path.child("usages"), ""));
    }
    let mut seen = HashSet::new();
    for (i, u) in usages.iter().enumerate() {
        let (path, word) = (path.child("usages").index(i), u.as_str().unwrap_or(""));
        one_of(&mut errs, &path, word, USAGES);
        if !seen.insert(u) {
            errs.push(FieldError::duplicate(&path, u));
        }
    }
    const LEGACY: &str = "kubernetes.io/legacy-unknown";
    let (by, signer_path) = (text(spec, "signerName"), path.child("signerName"));
    let was_legacy = old.is_some_and(|old| text(at(old, "spec"), "signerName") == LEGACY);
    if by == LEGACY && !was_legacy {
        let why = "the legacy signerName is not allowed via this API version";
        errs.push(FieldError::invalid_str(&signer_path, by, why));
    } else {
        signer(&mut errs, &signer_path, by);
    }
    if int(spec, "expirationSeconds").is_some_and(|s| s < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        let path = path.child("expirationSeconds");
        invalid(&mut errs, &path, at(spec, "expirationSeconds"), why);
    }
    conditions(&mut errs, obj, old);
    errs
}

/// What was decided stays; only whoever approves decides.
fn decided(errs: &mut Errors, obj: &Value, old: &Value, only_kept: bool) {
    let path = FieldPath::new("status").child("conditions");
    fn of<'o>(o: &'o Value, ty: &str) -> Vec<&'o Value> {
        let all = items(at(o, "status"), "conditions").iter();
        all.filter(|c| text(c, "type") == ty).collect()
    }
    for ty in ["Approved", "Denied", "Failed"] {
        let (new, was) = (of(obj, ty), of(old, ty));
        let what = match new.len().cmp(&was.len()) {
            Ordering::Less => "remove",
            _ if !only_kept || ty == "Failed" => continue,
            Ordering::Greater => "add",
            Ordering::Equal if new != was => "modify",
            Ordering::Equal => continue,
        };
        let mut why = format!("updates may not {what} a condition of type {ty:?}");
        if what == "modify" {
            let list = |all: &[&Value]| Value::Array(all.iter().copied().cloned().collect());
            let (was, new) = (list(&was), list(&new));
            why.push('\n');
            why += &go_form::difference("CertificateSigningRequestCondition", &was, &new);
        }
        errs.push(FieldError::forbidden(&path, &why));
    }
}

/// The strategy of trust bundles: a signer's bundles are named after it.
pub struct TrustBundle;

impl Strategy for TrustBundle {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let name = text(at(obj, "metadata"), "name");
        let by = text(at(obj, "spec"), "signerName");
        let path = FieldPath::new("metadata").child("name");
        if by.is_empty() {
            if name.contains(':') {
                let why = "ClusterTrustBundle without signer name must not have \":\" in its name";
                errs.push(FieldError::invalid_str(&path, name, why));
            }
        } else {
            let prefix = by.replace('/', ":") + ":";
            if !name.starts_with(&prefix) {
                let why = format!(
                    "ClusterTrustBundle for signerName {by} must be named with prefix {prefix}"
                );
                errs.push(FieldError::invalid_str(&path, name, &why));
            }
            signer(&mut errs, &FieldPath::new("spec").child("signerName"), by);
        }
        if text(at(obj, "spec"), "trustBundle").is_empty() {
            let path = FieldPath::new("spec").child("trustBundle");
            let why = "at least one trust anchor must be provided";
            errs.push(FieldError::invalid_str(&path, "<value omitted>", why));
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("spec");
        crate::check::immutable(
            &mut errs,
            &path,
            at(obj, "spec"),
            at(old, "spec"),
            "signerName",
        );
        errs
    }
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        crate::meta::name_is_subdomain(&name.replace(':', "."), generate)
    }
}

/// What a user says to a signer beside the request: names with a domain.
pub fn user_annotations(errs: &mut Errors, path: &FieldPath, map: &Value) {
    for name in map.as_object().into_iter().flatten().map(|(name, _)| name) {
        let Some((domain, key)) = name.split_once('/') else {
            let why = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errs.push(FieldError::invalid_str(path, name, why));
            continue;
        };
        dns_subdomain(errs, path, &domain.to_lowercase());
        if key.is_empty() {
            let why = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errs.push(FieldError::invalid_str(path, name, why));
        }
    }
}

/// A domain of at least two parts, and one path below it, as `example.com/name`.
pub fn signer(errs: &mut Errors, path: &FieldPath, name: &str) {
    /// Both, with a name and a namespace's in the second.
    const LONGEST: usize = SUBDOMAIN_BYTES + (SUBDOMAIN_BYTES + LABEL_BYTES + 1) + 1;
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    let (domain, rest) = match name.split_once('/') {
        Some((domain, rest)) if !rest.contains('/') => (domain, rest),
        _ => {
            let why =
                "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errs.push(FieldError::invalid_str(path, name, why));
            return;
        }
    };
    if domain.len() > SUBDOMAIN_BYTES {
        errs.push(FieldError::too_long(path, SUBDOMAIN_BYTES));
    }
    first_wrong(errs, path, domain, names::is_dns1123_label);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errs.push(FieldError::invalid_str(path, domain, why));
    }
    first_wrong(errs, path, rest, names::is_dns1123_subdomain);
    if name.len() > LONGEST {
        errs.push(FieldError::too_long(path, LONGEST));
    }
}

/// What is wrong with the first part, between dots, that is not such a name.
fn first_wrong(errs: &mut Errors, path: &FieldPath, whole: &str, rule: fn(&str) -> Vec<String>) {
    let mut each = whole.split('.').map(|part| (part, rule(part)));
    let Some((part, wrong)) = each.find(|(_, wrong)| !wrong.is_empty()) else {
        return;
    };
    for why in wrong {
        let why = format!("validating label {part:?}: {why}");
        errs.push(FieldError::invalid_str(path, whole, &why));
    }
}

/// The conditions of a request for a certificate: each type once, unless some were there twice.
fn conditions(errs: &mut Errors, obj: &Value, old: Option<&Value>) {
    let path = FieldPath::new("status").child("conditions");
    let all = items(at(obj, "status"), "conditions");
    let before = old.map_or(&[][..], |old| items(at(old, "status"), "conditions"));
    let mut types = HashSet::new();
    let was_twice = before.iter().any(|c| !types.insert(text(c, "type")));
    types.clear();
    for (i, c) in all.iter().enumerate() {
        let path = path.index(i);
        let ty = text(c, "type");
        if !types.insert(ty) && !was_twice {
            errs.push(FieldError::duplicate(&path.child("type"), &ty.into()));
        }
        if ty.is_empty() {
            errs.push(FieldError::required(&path.child("type"), ""));
        }
        match (ty, text(c, "status")) {
            (_, "") => errs.push(FieldError::required(&path.child("status"), "")),
            ("Approved" | "Denied" | "Failed", s) => {
                one_of(errs, &path.child("status"), s, &["True"])
            }
            (_, s) => one_of(
                errs,
                &path.child("status"),
                s,
                &["False", "True", "Unknown"],
            ),
        }
    }
    let has = |ty: &str| all.iter().any(|c| text(c, "type") == ty);
    if has("Approved") && has("Denied") {
        let why = "Approved and Denied conditions are mutually exclusive";
        invalid(errs, &path, at(at(obj, "status"), "conditions"), why);
    }
}

/// Conditions get their times from the server when they come without.
fn stamp(obj: &mut Value, old: &Value, now: i64) {
    let before = items(at(old, "status"), "conditions").to_vec();
    let now = jiff::Timestamp::from_second(now)
        .map(|t| t.to_string())
        .unwrap_or_default();
    let Some(status) = obj.get_mut("status") else {
        return;
    };
    for c in items_mut(status, "conditions") {
        if is_empty(at(c, "lastUpdateTime")) {
            set(c, "lastUpdateTime", now.clone());
        }
        if is_empty(at(c, "lastTransitionTime")) {
            let same = before.iter().find(|b| {
                text(b, "type") == text(c, "type") && text(b, "status") == text(c, "status")
            });
            let kept = same
                .map(|b| at(b, "lastTransitionTime").clone())
                .filter(|t| !is_empty(t));
            set(
                c,
                "lastTransitionTime",
                kept.unwrap_or_else(|| now.clone().into()),
            );
        }
    }
}

#[cfg(test)]
mod tests;
