//! Checks of the kinds of volume whose data is elsewhere, for volumes of pods and persistent
//! volumes alike. Most have no driver here any more, but their objects are stored, and bad ones are
//! refused as upstream refuses them.

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::containers::descending;
use crate::check::{
    Errors, at, dns_label, flag, has, int, invalid, items, one_of, required_text, text,
};

/// What each kind must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("storageos", &["volumeName"]),
    ("quobyte", &["volume"]),
    ("rbd", &["image"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("nfs", &["server", "path"]),
];

/// The number of a partition, or of a disk of a target.
const NUMBERS: std::ops::RangeInclusive<i64> = 0..=255;

/// Whose volume it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A pod's.
    Pod,
    /// The persistent volume of this name.
    Volume(&'a str),
}

/// Checks a source of a kind; those that are none of these kinds pass.
pub fn check(errs: &mut Errors, path: &FieldPath, kind: &str, v: &Value, owner: Owner<'_>) {
    let required = REQUIRED.iter().find(|(name, _)| *name == kind);
    for field in required.into_iter().flat_map(|(_, fields)| *fields) {
        required_text(errs, path, v, field);
    }
    match kind {
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            number(
                errs,
                path,
                v,
                "partition",
                "must be between 0 and 255, inclusive",
            );
        }
        "gitRepo" => descending(errs, &path.child("directory"), text(v, "directory")),
        "nfs" if !text(v, "path").is_empty() && !text(v, "path").starts_with('/') => {
            let why = "must be an absolute path";
            errs.push(FieldError::invalid_str(
                &path.child("path"),
                text(v, "path"),
                why,
            ));
        }
        "rbd" | "cephfs" if items(v, "monitors").is_empty() => {
            errs.push(FieldError::required(&path.child("monitors"), ""));
        }
        "cinder" => named_secret(errs, path, v),
        "azureFile" if owner != Owner::Pod && at(v, "secretNamespace") == "" => {
            errs.push(FieldError::required(&path.child("secretNamespace"), ""));
        }
        "flexVolume" => options(errs, path, v),
        "flocker" => flocker(errs, path, v),
        "azureDisk" => azure_disk(errs, path, v),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                if !text(v, field).is_empty() {
                    dns_label(errs, &path.child(field), text(v, field));
                }
            }
            named_secret(errs, path, v);
        }
        "quobyte" => quobyte(errs, path, v),
        "fc" => fibre_channel(errs, path, v),
        "iscsi" => iscsi(errs, path, v, owner),
        _ => {}
    }
}

fn number(errs: &mut Errors, path: &FieldPath, v: &Value, field: &str, why: &str) {
    if int(v, field).is_some_and(|n| !NUMBERS.contains(&n)) {
        invalid(errs, &path.child(field), at(v, field), why);
    }
}

fn named_secret(errs: &mut Errors, path: &FieldPath, v: &Value) {
    if has(v, "secretRef") {
        required_text(errs, &path.child("secretRef"), at(v, "secretRef"), "name");
    }
}

fn options(errs: &mut Errors, path: &FieldPath, v: &Value) {
    for key in at(v, "options")
        .as_object()
        .into_iter()
        .flat_map(|o| o.keys())
    {
        let namespace = key
            .split_once('/')
            .map_or(key.as_str(), |(before, _)| before);
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            let path = path.child("options").key(key);
            errs.push(FieldError::invalid_str(&path, key, why));
        }
    }
}

fn flocker(errs: &mut Errors, path: &FieldPath, v: &Value) {
    let (name, uuid) = (text(v, "datasetName"), text(v, "datasetUUID"));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => {
            let why = "one of datasetName and datasetUUID is required";
            errs.push(FieldError::required(path, why));
        }
        (false, false) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            errs.push(FieldError::invalid_str(path, "resource", why));
        }
        _ => {}
    }
    if name.contains('/') {
        let path = path.child("datasetName");
        errs.push(FieldError::invalid_str(&path, name, "must not contain '/'"));
    }
}

fn azure_disk(errs: &mut Errors, path: &FieldPath, v: &Value) {
    if has(v, "cachingMode") {
        let modes = ["None", "ReadOnly", "ReadWrite"];
        one_of(
            errs,
            &path.child("cachingMode"),
            text(v, "cachingMode"),
            &modes,
        );
    }
    if !has(v, "kind") {
        return;
    }
    let kind = text(v, "kind");
    one_of(
        errs,
        &path.child("kind"),
        kind,
        &["Dedicated", "Managed", "Shared"],
    );
    let (begins, form) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        )
    };
    if !text(v, "diskURI").starts_with(begins) {
        one_of(errs, &path.child("diskURI"), text(v, "diskURI"), &[form]);
    }
}

fn quobyte(errs: &mut Errors, path: &FieldPath, v: &Value) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(v, "registry");
    let is_pair = |pair: &str| {
        let host = pair.rsplit_once(':').map(|(host, _)| host);
        host.is_some_and(|host| {
            !host.contains(':') || (host.starts_with('[') && host.ends_with(']'))
        })
    };
    if registry.is_empty() {
        errs.push(FieldError::required(&path.child("registry"), why));
    } else if text(v, "tenant").len() > 64 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errs.push(FieldError::required(&path.child("tenant"), why));
    } else {
        for _ in registry.split(',').filter(|pair| !is_pair(pair)) {
            errs.push(FieldError::invalid_str(
                &path.child("registry"),
                registry,
                why,
            ));
        }
    }
}

fn fibre_channel(errs: &mut Errors, path: &FieldPath, v: &Value) {
    let (targets, ids) = (items(v, "targetWWNs"), items(v, "wwids"));
    let at_targets = path.child("targetWWNs");
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => {
            let why = "must specify either targetWWNs or wwids, but not both";
            errs.push(FieldError::required(&at_targets, why));
        }
        (false, false) => {
            let why = "targetWWNs and wwids can not be specified simultaneously";
            invalid(errs, &at_targets, at(v, "targetWWNs"), why);
        }
        _ => {}
    }
    if targets.is_empty() {
        return;
    }
    if has(v, "lun") {
        number(errs, path, v, "lun", "must be between 0 and 255, inclusive");
    } else {
        let why = "lun is required if targetWWNs is specified";
        errs.push(FieldError::required(&path.child("lun"), why));
    }
}

fn iscsi(errs: &mut Errors, path: &FieldPath, v: &Value, owner: Owner<'_>) {
    if let (Owner::Volume(name), true) = (owner, has(v, "initiatorName")) {
        let portal = text(v, "targetPortal");
        // The name of the interface that is made for it.
        if name.len() + 1 + portal.len() > 64 {
            let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                       characters if iscsi.initiatorName is specified.";
            errs.push(FieldError::invalid_str(
                &path.child("targetportal"),
                portal,
                why,
            ));
        }
    }
    if !text(v, "iqn").is_empty() {
        qualified(errs, &path.child("iqn"), text(v, "iqn"), owner);
    }
    number(errs, path, v, "lun", "must be between 0 and 255, inclusive");
    let is_authenticated = flag(v, "chapAuthDiscovery") || flag(v, "chapAuthSession");
    if is_authenticated && !has(v, "secretRef") {
        errs.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if owner != Owner::Pod {
        named_secret(errs, path, v);
    }
    if has(v, "initiatorName") {
        let path = path.child("initiatorname");
        qualified(errs, &path, text(v, "initiatorName"), owner);
    }
}

/// A name of an initiator or a target: RFC 3720, 3.2.6.
fn qualified(errs: &mut Errors, path: &FieldPath, name: &str, owner: Owner<'_>) {
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let is_valid = match name.get(..3) {
        Some("iqn") => is_dated(name),
        Some("eui") => name.get(4..).is_some_and(|rest| digits(rest, 16)),
        Some("naa") => name.get(4..).is_some_and(|rest| digits(rest, 32)),
        _ if owner == Owner::Pod => {
            let why = "must be valid format starting with iqn, eui, or naa";
            errs.push(FieldError::invalid_str(path, name, why));
            return;
        }
        _ => false,
    };
    if !is_valid {
        errs.push(FieldError::invalid_str(path, name, "must be valid format"));
    }
}

/// `iqn.2003-01.org.example:name`.
fn is_dated(name: &str) -> bool {
    let parts = || {
        let (authority, rest) = name.strip_prefix("iqn.")?.split_once(':')?;
        let (date, authority) = authority.split_once('.')?;
        let (year, month) = date.split_once('-')?;
        Some((year, month, authority, rest))
    };
    let number =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    parts().is_some_and(|(year, month, authority, rest)| {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let plain = |c: char| !c.is_whitespace() && !",;*&$|".contains(c);
        number(year, 4)
            && number(month, 2)
            && !authority.is_empty()
            && authority.chars().all(named)
            && !rest.is_empty()
            && rest.chars().all(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(kind: &str, v: Value, owner: Owner<'_>) -> Vec<String> {
        let mut errs = Errors::new();
        check(
            &mut errs,
            &FieldPath::new("spec").child(kind),
            kind,
            &v,
            owner,
        );
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_kind_must_have_is_asked_for() {
        assert_eq!(
            errors(
                "azureFile",
                json!({"secretNamespace": ""}),
                Owner::Volume("v")
            ),
            [
                "spec.azureFile.secretName: Required value",
                "spec.azureFile.shareName: Required value",
                "spec.azureFile.secretNamespace: Required value"
            ]
        );
        let whole = [
            ("nfs", json!({"server": "s", "path": "/p"})),
            ("gitRepo", json!({"repository": "r", "directory": "d"})),
            ("fc", json!({"wwids": ["w"]})),
            ("fc", json!({"targetWWNs": ["w"], "lun": 1})),
            ("flocker", json!({"datasetName": "d"})),
            ("quobyte", json!({"registry": "a:1,[::1]:2", "volume": "v"})),
            (
                "azureDisk",
                json!({"diskName": "d", "diskURI": "https://x", "kind": "Shared"}),
            ),
            ("cephfs", json!({"monitors": ["m"]})),
            ("emptyDir", json!({})),
        ];
        for (kind, v) in whole {
            assert!(errors(kind, v.clone(), Owner::Pod).is_empty(), "{kind} {v}");
        }
        let wrong = [
            (
                "nfs",
                json!({"server": "s", "path": "p"}),
                "must be an absolute path",
            ),
            (
                "gitRepo",
                json!({"repository": "r", "directory": "../d"}),
                "must not contain '..'",
            ),
            ("fc", json!({"targetWWNs": ["w"]}), "lun is required"),
            (
                "flocker",
                json!({"datasetName": "a/b"}),
                "must not contain '/'",
            ),
            (
                "quobyte",
                json!({"registry": "a", "volume": "v"}),
                "host:port pair",
            ),
            (
                "azureDisk",
                json!({"diskName": "d", "diskURI": "x", "kind": "Managed"}),
                "Unsupported value",
            ),
            (
                "awsElasticBlockStore",
                json!({"volumeID": "v", "partition": 256}),
                "between 0 and 255",
            ),
            (
                "flexVolume",
                json!({"driver": "d", "options": {"a.K8s.io/x": ""}}),
                "are reserved",
            ),
        ];
        for (kind, v, why) in wrong {
            let found = errors(kind, v, Owner::Pod);
            assert!(
                found.len() == 1 && found[0].contains(why),
                "{kind}: {found:?}"
            );
        }
    }

    #[test]
    fn targets_have_qualified_names() {
        let target = |iqn: &str| json!({"targetPortal": "p", "iqn": iqn, "lun": 0});
        let good = [
            "iqn.2003-01.org.example:x",
            "eui.0123456789abcdef",
            "naa.0123456789abcdef0123456789abcdef",
        ];
        for name in good {
            assert_eq!(errors("iscsi", target(name), Owner::Pod), [""; 0], "{name}");
        }
        for name in [
            "iqn.2003-01.org.example:",
            "iqn.x",
            "iqn.2003-01.org:a b",
            "eui.1",
            "x",
            "naa",
        ] {
            assert_eq!(errors("iscsi", target(name), Owner::Pod).len(), 1, "{name}");
        }
        let mut other = target(good[0]);
        other["chapAuthSession"] = json!(true);
        other["lun"] = json!(256);
        assert_eq!(errors("iscsi", other.clone(), Owner::Pod).len(), 2);
        other = target(good[0]);
        other["initiatorName"] = json!(good[1]);
        assert!(errors("iscsi", other.clone(), Owner::Volume("v")).is_empty());
        let long = "v".repeat(63);
        assert_eq!(errors("iscsi", other, Owner::Volume(&long)).len(), 1);
    }
}
