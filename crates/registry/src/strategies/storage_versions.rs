//! Versions in which servers store, and migrations from one to another.

use std::collections::HashSet;

use api::{FieldError, FieldPath, names};
use serde_json::{Value, json};

use super::conditions::{conditions, is_true};
use crate::check::{
    Errors, at, dns_subdomain, has, immutable, invalid, items, qualified_name, required_text, text,
};
use crate::status_writes::{METADATA, no_status};
use crate::strategy::{Context, Strategy};

const NO_NAME: &str = "must be non-empty";
const NO_VERSION: &str = "an apiVersion is a DNS-1035 label, which must consist of lower case \
    alphanumeric characters or '-', start with an alphabetic character, and end with an \
    alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
    '[a-z]([-a-z0-9]*[a-z0-9])?') with an optional DNS subdomain prefix and '/' (e.g. \
    'example.com/MyVersion')";

/// The strategy of versions in which servers store a resource.
pub struct StorageVersion;

impl Strategy for StorageVersion {
    /// A group and a resource.
    fn validate_name(&self, name: &str, _generate: bool) -> Vec<String> {
        let Some((group, resource)) = name.rsplit_once('.') else {
            return vec!["name must be in the form of <group>.<resource>".to_owned()];
        };
        let of_group = names::is_dns1123_subdomain(group).into_iter();
        let of_resource = names::is_dns1035_label(resource).into_iter();
        of_group
            .map(|why| format!("the group segment {why}"))
            .chain(of_resource.map(|why| format!("the resource segment {why}")))
            .collect()
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            let (status, path) = (at(obj, "status"), FieldPath::new("status"));
            servers(&mut errs, &path, items(status, "storageVersions"));
            common(&mut errs, &path, status);
            said(&mut errs, &path, items(status, "conditions"));
        }
        errs
    }
}

fn servers(errs: &mut Errors, status: &FieldPath, all: &[Value]) {
    let path = status.child("storageVersions");
    let mut seen = HashSet::new();
    for (i, server) in all.iter().enumerate() {
        let (path, id) = (path.index(i), text(server, "apiServerID"));
        if !seen.insert(id) {
            errs.push(FieldError::duplicate(
                &path.child("apiServerID"),
                &id.into(),
            ));
        }
        dns_subdomain(errs, &path.child("apiServerID"), id);
        let encodes = text(server, "encodingVersion");
        version(errs, &path.child("encodingVersion"), encodes);
        let decodes = versions(errs, &path, server, "decodableVersions");
        if !decodes.contains(&encodes) {
            let why = format!("decodableVersions must include encodingVersion {encodes}");
            let path = path.child("decodableVersions");
            invalid(errs, &path, &json!(decodes), &why);
        }
        let list = decodes.join(" ");
        for (j, served) in versions(errs, &path, server, "servedVersions")
            .into_iter()
            .enumerate()
        {
            if !decodes.contains(&served) {
                let why = format!(
                    "individual served version : {served} must be included in decodableVersions : [{list}]"
                );
                let path = path.child("servedVersions").index(j);
                errs.push(FieldError::invalid_str(&path, served, &why));
            }
        }
    }
}

/// The versions of a list, each looked at.
fn versions<'a>(
    errs: &mut Errors,
    path: &FieldPath,
    server: &'a Value,
    field: &str,
) -> Vec<&'a str> {
    let path = path.child(field);
    let all = items(server, field).iter();
    let all: Vec<&str> = all.map(|v| v.as_str().unwrap_or_default()).collect();
    for (i, name) in all.iter().enumerate() {
        version(errs, &path.index(i), name);
    }
    all
}

/// A version with its group: what is wrong is said at once.
fn version(errs: &mut Errors, path: &FieldPath, name: &str) {
    let part = |which: &str, name: &str, wrong: fn(&str) -> Vec<String>| -> Vec<String> {
        let wrong = match name {
            "" => vec![NO_NAME.to_owned()],
            name => wrong(name),
        };
        let each = wrong.iter();
        each.map(|why| format!("{which} part: {why}")).collect()
    };
    let mut parts = name.split('/');
    let found = match (parts.next(), parts.next(), parts.next()) {
        (Some(version), None, _) => part("version", version, names::is_dns1035_label),
        (Some(group), Some(version), None) => {
            let mut all = part("group", group, names::is_dns1123_subdomain);
            all.extend(part("version", version, names::is_dns1035_label));
            all
        }
        _ => vec![NO_VERSION.to_owned()],
    };
    if !found.is_empty() {
        errs.push(FieldError::invalid_str(path, name, &found.join(",")));
    }
}

/// The version that all servers encode in, if they agree, is named.
fn common(errs: &mut Errors, status: &FieldPath, of: &Value) {
    let all = items(of, "storageVersions");
    let mut encoded = all.iter().map(|s| text(s, "encodingVersion"));
    let agreed = encoded.next().filter(|first| encoded.all(|v| v == *first));
    let field = "commonEncodingVersion";
    let (path, named) = (status.child(field), text(of, field));
    let why = match agreed {
        None if has(of, field) => {
            "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet".to_owned()
        }
        Some(version) if !has(of, field) => format!("the common encoding version is {version}"),
        Some(version) if version != named => {
            format!("the actual common encoding version is {version}")
        }
        _ => return,
    };
    invalid(errs, &path, at(of, field), &why);
}

/// Conditions of a kind of their own; upstream's paths leave out the name of the list.
fn said(errs: &mut Errors, status: &FieldPath, all: &[Value]) {
    for (i, condition) in all.iter().enumerate() {
        let (path, kind) = (status.index(i), text(condition, "type"));
        let mut before = all.iter().take(i);
        if let Some(first) = before.rposition(|c| text(c, "type") == kind) {
            let why = format!(
                "the type of the condition is not unique, it also appears in conditions[{first}]"
            );
            errs.push(FieldError::invalid_str(&path.child("type"), kind, &why));
        }
        for field in ["type", "status"] {
            qualified_name(errs, &path.child(field), text(condition, field));
        }
        for field in ["reason", "message"] {
            required_text(errs, &path, condition, field);
        }
    }
}

/// The strategy of migrations to the version in which a resource is stored now.
pub struct Migration;

impl Strategy for Migration {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
    }
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec").child("resource"));
        if cx.subresource == "status" {
            return errs;
        }
        let of = at(at(obj, "spec"), "resource");
        let (resource, group) = (text(of, "resource"), text(of, "group"));
        let wrong = names::is_dns1035_label(resource).join(",");
        let at_resource = path.child("resource");
        if resource.is_empty() {
            let why = "resource is required to be set";
            errs.push(FieldError::required(&at_resource, why));
        } else if !wrong.is_empty() {
            errs.push(FieldError::invalid_str(&at_resource, resource, &wrong));
        }
        let wrong = names::is_dns1123_subdomain(group).join(",");
        if !group.is_empty() && !wrong.is_empty() {
            errs.push(FieldError::invalid_str(&path.child("group"), group, &wrong));
        }
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        match cx.subresource {
            "status" => progress(&mut errs, at(obj, "status"), at(old, "status")),
            _ => immutable(&mut errs, &FieldPath::root(), obj, old, "spec"),
        }
        errs
    }
}

/// How far a migration is: what has ended has ended.
fn progress(errs: &mut Errors, status: &Value, was: &Value) {
    let path = FieldPath::new("status");
    let field = "resourceVersion";
    let (now, before) = (text(status, field), text(was, field));
    let number = now.bytes().all(|b| b.is_ascii_digit()) && !now.starts_with('0');
    if !number {
        let why = format!("resource version is not well formed: {now}");
        errs.push(FieldError::invalid_str(&path.child(field), now, &why));
    }
    conditions(errs, &path, status);
    if !before.is_empty() && before != now {
        let why = crate::check::IMMUTABLE;
        errs.push(FieldError::invalid_str(&path.child(field), now, why));
    }
    let (path, all) = (path.child("conditions"), at(status, "conditions"));
    let [succeeded, failed] = ["Succeeded", "Failed"];
    if is_true(status, succeeded) && is_true(status, failed) {
        let why = "Both success and failed conditions cannot be true at the same time";
        invalid(errs, &path, all, why);
    }
    for (kind, name) in [(succeeded, "Success"), (failed, "Failed")] {
        if is_true(was, kind) && !is_true(status, kind) {
            let why = format!("{name} condition cannot be set to false once it is true");
            invalid(errs, &path, all, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_status() -> Context<'static> {
        Context {
            subresource: "status",
            ..Context::of_nobody()
        }
    }

    fn lines(errs: &[FieldError]) -> Vec<String> {
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_version_is_named_by_group_and_resource() {
        let wrong = |name: &str| StorageVersion.validate_name(name, false);
        assert!(wrong("apps.deployments").is_empty());
        assert!(wrong("a.example.com.things").is_empty());
        assert_eq!(
            wrong("pods"),
            ["name must be in the form of <group>.<resource>"]
        );
        let both = wrong("A.B");
        assert!(both[0].starts_with("the group segment a lowercase RFC 1123 subdomain"));
        assert!(both[1].starts_with("the resource segment a DNS-1035 label"));
    }

    #[test]
    fn servers_say_what_they_store() {
        let server = |id: &str, encodes: &str, served: &[&str]| {
            json!({ "apiServerID": id, "encodingVersion": encodes,
                "decodableVersions": ["v1", "x.io/v1"], "servedVersions": served })
        };
        let check = |servers: Vec<Value>, common: Option<&str>| {
            let mut status = json!({ "storageVersions": servers });
            if let Some(common) = common {
                status["commonEncodingVersion"] = common.into();
            }
            lines(&StorageVersion.validate(&json!({ "status": status }), &of_status()))
        };
        let (a, b) = (server("a", "v1", &["v1"]), server("b", "x.io/v1", &[]));
        let cases: [(Vec<Value>, Option<&str>, &[&str]); 8] = [
            (vec![], None, &[]),
            (vec![a.clone()], Some("v1"), &[]),
            (vec![a.clone(), b.clone()], None, &[]),
            (
                vec![a.clone(), b],
                Some("v1"),
                &[
                    "status.commonEncodingVersion: Invalid value: \"v1\": should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet",
                ],
            ),
            (
                vec![a.clone()],
                None,
                &[
                    "status.commonEncodingVersion: Invalid value: null: the common encoding version is v1",
                ],
            ),
            (
                vec![a.clone()],
                Some("v2"),
                &[
                    "status.commonEncodingVersion: Invalid value: \"v2\": the actual common encoding version is v1",
                ],
            ),
            (
                vec![a.clone(), a],
                Some("v1"),
                &["status.storageVersions[1].apiServerID: Duplicate value: \"a\""],
            ),
            (
                vec![server("c", "/v3", &["v4"])],
                Some("/v3"),
                &[
                    "status.storageVersions[0].encodingVersion: Invalid value: \"/v3\": group part: must be non-empty",
                    "status.storageVersions[0].decodableVersions: Invalid value: [\"v1\",\"x.io/v1\"]: decodableVersions must include encodingVersion /v3",
                    "status.storageVersions[0].servedVersions[0]: Invalid value: \"v4\": individual served version : v4 must be included in decodableVersions : [v1 x.io/v1]",
                ],
            ),
        ];
        for (servers, common, want) in cases {
            assert_eq!(check(servers, common), want);
        }
        let condition = || json!({ "type": "T", "status": "True", "reason": "R", "message": "" });
        let status = json!({ "conditions": [condition(), condition()] });
        let found = StorageVersion.validate(&json!({ "status": status }), &of_status());
        assert_eq!(
            lines(&found),
            [
                "status[0].message: Required value",
                "status[1].type: Invalid value: \"T\": the type of the condition is not unique, it also appears in conditions[0]",
                "status[1].message: Required value",
            ]
        );
    }

    #[test]
    fn a_migration_is_of_one_resource_and_ends_once() {
        let cx = Context::of_nobody();
        let of = |resource: &str, group: &str| json!({ "spec": { "resource": { "resource": resource, "group": group } } });
        let fields = |object: &Value| -> Vec<String> {
            let all = Migration.validate(object, &cx);
            all.iter().map(|e| e.field.as_str().to_owned()).collect()
        };
        assert!(fields(&of("pods", "")).is_empty());
        assert_eq!(fields(&of("Pods", "")), ["spec.resource.resource"]);
        assert_eq!(fields(&of("pods", "A_")), ["spec.resource.group"]);
        assert_eq!(
            lines(&Migration.validate(&of("", ""), &cx)),
            ["spec.resource.resource: Required value: resource is required to be set"]
        );
        let moved = Migration.validate_update(&of("pods", ""), &of("nodes", ""), &cx);
        assert_eq!(moved.len(), 1);

        let status = |version: &str, ended: &[&str]| {
            let all = ended.iter().map(|kind| {
                json!({ "type": kind, "status": "True", "reason": "R",
                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
            });
            let all: Vec<Value> = all.collect();
            json!({ "status": { "resourceVersion": version, "conditions": all } })
        };
        let end = |new: &Value, old: &Value| -> Vec<String> {
            let all = Migration.validate_update(new, old, &of_status());
            all.iter().map(|e| e.detail.clone()).collect()
        };
        let cases: [(Value, Value, &[&str]); 6] = [
            (status("7", &["Succeeded"]), status("", &[]), &[]),
            (
                status("07", &[]),
                status("", &[]),
                &["resource version is not well formed: 07"],
            ),
            (status("8", &[]), status("7", &[]), &["field is immutable"]),
            (
                status("7", &["Succeeded", "Failed"]),
                status("7", &[]),
                &["Both success and failed conditions cannot be true at the same time"],
            ),
            (
                status("7", &[]),
                status("7", &["Succeeded"]),
                &["Success condition cannot be set to false once it is true"],
            ),
            (
                status("7", &[]),
                status("7", &["Failed"]),
                &["Failed condition cannot be set to false once it is true"],
            ),
        ];
        for (new, old, want) in cases {
            assert_eq!(end(&new, &old), want, "{new}");
        }
    }
}
