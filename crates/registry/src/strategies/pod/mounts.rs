//! What of a pod's volumes a container sees, and where: as folders, and as devices.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::volumes::Volumes;
use crate::check::{Errors, at, flag, has, items, one_of, optional_word, required_text, text};
use crate::strategies::containers::descending;

/// The volumes that a container sees as folders.
pub fn mounts(errs: &mut Errors, path: &FieldPath, c: &Value, volumes: &Volumes) {
    let mut seen = BTreeSet::new();
    let list = path.child("volumeMounts");
    let (names, paths) = both(c, "volumeDevices", "devicePath");
    for (i, m) in items(c, "volumeMounts").iter().enumerate() {
        let path = list.index(i);
        let (name, at_path) = (text(m, "name"), text(m, "mountPath"));
        let wrong_name = |why| FieldError::invalid_str(&path.child("name"), name, why);
        let wrong_path = |why| FieldError::invalid_str(&path.child("mountPath"), at_path, why);
        required_text(errs, &path, m, "name");
        if !volumes.contains_key(name) {
            errs.push(FieldError::not_found(&path.child("name"), &name.into()));
        }
        required_text(errs, &path, m, "mountPath");
        if !seen.insert(at_path) {
            errs.push(wrong_path("must be unique"));
        }
        if names.contains(name) {
            errs.push(wrong_name("must not already exist in volumeDevices"));
        }
        if paths.contains(at_path) {
            let why = "must not already exist as a path in volumeDevices";
            errs.push(wrong_path(why));
        }
        for field in ["subPath", "subPathExpr"] {
            let sub = text(m, field);
            if !sub.is_empty() {
                descending(errs, &list.child(field), sub);
            }
        }
        if !text(m, "subPath").is_empty() && !text(m, "subPathExpr").is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            let (path, shown) = (path.child("subPathExpr"), text(m, "subPathExpr"));
            errs.push(FieldError::invalid_str(&path, shown, why));
        }
        propagation(errs, &list, m, c);
        read_only(errs, &list.child("recursiveReadOnly"), m);
    }
}

fn propagation(errs: &mut Errors, list: &FieldPath, mount: &Value, c: &Value) {
    let kinds = ["Bidirectional", "HostToContainer", "None"];
    optional_word(errs, list, mount, "mountPropagation", &kinds);
    let both_ways = text(mount, "mountPropagation") == "Bidirectional";
    if both_ways && !flag(at(c, "securityContext"), "privileged") {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        let path = list.child("mountPropagation");
        errs.push(FieldError::forbidden(&path, why));
    }
}

/// What is read-only with all that is mounted below it is read-only first, and nothing comes in.
fn read_only(errs: &mut Errors, path: &FieldPath, mount: &Value) {
    if !has(mount, "recursiveReadOnly") {
        return;
    }
    match text(mount, "recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !flag(mount, "readOnly") {
                let why = "may only be specified when readOnly is true";
                errs.push(FieldError::forbidden(path, why));
            }
            if has(mount, "mountPropagation") && text(mount, "mountPropagation") != "None" {
                let why = "may only be specified when mountPropagation is None or not specified";
                errs.push(FieldError::forbidden(path, why));
            }
        }
        other => one_of(errs, path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// The volumes that a container sees as devices: claims only.
pub fn devices(errs: &mut Errors, path: &FieldPath, c: &Value, volumes: &Volumes) {
    let list = path.child("volumeDevices");
    let (names, paths) = both(c, "volumeMounts", "mountPath");
    let (mut seen_names, mut seen_paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, d) in items(c, "volumeDevices").iter().enumerate() {
        let path = list.index(i);
        let (name, at_path) = (text(d, "name"), text(d, "devicePath"));
        let wrong_name = |why| FieldError::invalid_str(&path.child("name"), name, why);
        let wrong_path = |why| FieldError::invalid_str(&path.child("devicePath"), at_path, why);
        required_text(errs, &path, d, "name");
        if !name.is_empty() && !seen_names.insert(name) {
            errs.push(wrong_name("must be unique"));
        }
        match volumes.get(name) {
            None => errs.push(FieldError::not_found(&path.child("name"), &name.into())),
            Some(true) => {}
            Some(false) => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errs.push(wrong_name(why));
            }
        }
        required_text(errs, &path, d, "devicePath");
        if seen_paths.contains(at_path) {
            errs.push(wrong_path("must be unique"));
        }
        if at_path.split('/').any(|part| part == "..") {
            errs.push(wrong_path("can not contain backsteps ('..')"));
        } else {
            seen_paths.insert(at_path);
        }
        if names.contains(name) {
            errs.push(wrong_name("must not already exist in volumeMounts"));
        }
        if paths.contains(at_path) {
            let why = "must not already exist as a path in volumeMounts";
            errs.push(wrong_path(why));
        }
    }
}

/// The names and the paths of one of the lists.
fn both<'a>(c: &'a Value, list: &str, place: &str) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let all = items(c, list).iter();
    let all = all.map(|entry| (text(entry, "name"), text(entry, place)));
    all.unzip()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(container: &Value) -> Vec<String> {
        let volumes = [("dir", false), ("claim", true), ("other", true)];
        let volumes: Volumes = volumes.map(|(n, is)| (n.to_owned(), is)).into();
        let mut errs = Errors::new();
        mounts(&mut errs, &FieldPath::new("c"), container, &volumes);
        devices(&mut errs, &FieldPath::new("c"), container, &volumes);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mounts_say_how_they_are_shared() {
        let of = |more: Value| {
            let mut mount = json!({ "name": "dir", "mountPath": "/d" });
            for (key, value) in more.as_object().into_iter().flatten() {
                mount[key] = value.clone();
            }
            json!({ "volumeMounts": [mount] })
        };
        let both_ways = of(json!({ "mountPropagation": "Bidirectional" }));
        let only = "c.volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers";
        assert_eq!(wrong(&both_ways), [only]);
        let mut privileged = both_ways;
        privileged["securityContext"] = json!({ "privileged": true });
        assert_eq!(wrong(&privileged), Vec::<String>::new());
        let at = "c.volumeMounts.recursiveReadOnly";
        for (more, want) in [
            (json!({ "recursiveReadOnly": "Disabled" }), vec![]),
            (
                json!({ "recursiveReadOnly": "Enabled", "readOnly": true }),
                vec![],
            ),
            (
                json!({ "recursiveReadOnly": "IfPossible" }),
                vec![format!(
                    "{at}: Forbidden: may only be specified when readOnly is true"
                )],
            ),
            (
                json!({ "recursiveReadOnly": "Enabled", "readOnly": true, "mountPropagation": "HostToContainer" }),
                vec![format!(
                    "{at}: Forbidden: may only be specified when mountPropagation is None or not specified"
                )],
            ),
            (
                json!({ "recursiveReadOnly": "Often" }),
                vec![format!(
                    "{at}: Unsupported value: \"Often\": supported values: \"Disabled\", \"Enabled\", \"IfPossible\""
                )],
            ),
        ] {
            assert_eq!(wrong(&of(more.clone())), want, "{more}");
        }
    }

    #[test]
    fn devices_are_claims_and_stand_apart_from_mounts() {
        let device = |name: &str, path: &str| json!({ "name": name, "devicePath": path });
        let at = |n: usize, field: &str| format!("c.volumeDevices[{n}].{field}: Invalid value: ");
        for (devices, want) in [
            (
                json!([device("claim", "/dev/x"), device("other", "/dev/y")]),
                vec![],
            ),
            (
                json!([device("dir", "/dev/x")]),
                vec![format!(
                    "{}\"dir\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                    at(0, "name")
                )],
            ),
            (
                json!([device("claim", "/dev/x"), device("claim", "/dev/x")]),
                vec![
                    format!("{}\"claim\": must be unique", at(1, "name")),
                    format!("{}\"/dev/x\": must be unique", at(1, "devicePath")),
                ],
            ),
            (
                json!([device("claim", "/dev/../x")]),
                vec![format!(
                    "{}\"/dev/../x\": can not contain backsteps ('..')",
                    at(0, "devicePath")
                )],
            ),
            (
                json!([device("none", "/dev/x")]),
                vec!["c.volumeDevices[0].name: Not found: \"none\"".to_owned()],
            ),
        ] {
            assert_eq!(
                wrong(&json!({ "volumeDevices": devices })),
                want,
                "{devices}"
            );
        }
        let twice = json!({
            "volumeDevices": [device("claim", "/x")],
            "volumeMounts": [{ "name": "claim", "mountPath": "/x" }],
        });
        assert_eq!(
            wrong(&twice),
            [
                "c.volumeMounts[0].name: Invalid value: \"claim\": must not already exist in volumeDevices",
                "c.volumeMounts[0].mountPath: Invalid value: \"/x\": must not already exist as a path in volumeDevices",
                "c.volumeDevices[0].name: Invalid value: \"claim\": must not already exist in volumeMounts",
                "c.volumeDevices[0].devicePath: Invalid value: \"/x\": must not already exist as a path in volumeMounts",
            ]
        );
    }
}
