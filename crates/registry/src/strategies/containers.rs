//! The checks of one container: names, ports, environment, mounts, resizing; what it may do and how it
//! lives is beside this file.

mod handlers;
mod privileges;

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, Quantity, names};
use serde_json::Value;

use super::quantity;
use crate::check::{
    Errors, at, dns_label, has, int, invalid_each, items, one_of, port, qualified_name,
    required_text, required_word, text,
};

pub use handlers::{all_may_restart, lifecycle, may_restart, probes, restart_rules, stop_signal};
pub use privileges::pod_security;
use privileges::security;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// What containers of all three lists have in common, but for what they see of volumes.
pub fn common(errs: &mut Errors, path: &FieldPath, c: &Value) {
    match text(c, "name") {
        "" => errs.push(FieldError::required(&path.child("name"), "")),
        name => dns_label(errs, &path.child("name"), name),
    }
    let image = text(c, "image");
    if image.is_empty() {
        errs.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim().len() != image.len() {
        let why = "must not have leading or trailing whitespace";
        errs.push(FieldError::invalid_str(&path.child("image"), image, why));
    }
    let messages = ["File", "FallbackToLogsOnError"];
    required_word(errs, path, c, "terminationMessagePolicy", &messages);
    ports(errs, &path.child("ports"), items(c, "ports"));
    env(errs, &path.child("env"), items(c, "env"));
    env_from(errs, &path.child("envFrom"), items(c, "envFrom"));
    required_word(
        errs,
        path,
        c,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
    );
    quantity::requirements(errs, &path.child("resources"), at(c, "resources"));
    resize_policy(errs, &path.child("resizePolicy"), items(c, "resizePolicy"));
    security(
        errs,
        &path.child("securityContext"),
        at(c, "securityContext"),
    );
}

fn ports(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, p) in all.iter().enumerate() {
        let path = path.index(i);
        let name = text(p, "name");
        if !name.is_empty() {
            let wrong = names::is_valid_port_name(name);
            if !wrong.is_empty() {
                invalid_each(errs, &path.child("name"), name, wrong);
            } else if !seen.insert(name) {
                errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
            }
        }
        match int(p, "containerPort").unwrap_or(0) {
            0 => errs.push(FieldError::required(&path.child("containerPort"), "")),
            _ => port(errs, &path.child("containerPort"), at(p, "containerPort")),
        }
        if int(p, "hostPort").unwrap_or(0) != 0 {
            port(errs, &path.child("hostPort"), at(p, "hostPort"));
        }
        required_word(errs, &path, p, "protocol", PROTOCOLS);
    }
}

/// Two containers may not take the same port of the node.
pub fn host_ports(errs: &mut Errors, path: &FieldPath, containers: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, p) in items(c, "ports").iter().enumerate() {
            let number = int(p, "hostPort").unwrap_or(0);
            let key = format!("{}/{}/{number}", text(p, "protocol"), text(p, "hostIP"));
            if number != 0 && !seen.insert(key.clone()) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errs.push(FieldError::duplicate(&path, &key.into()));
            }
        }
    }
}

fn env(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    for (i, e) in all.iter().enumerate() {
        let path = path.index(i);
        if required_text(errs, &path, e, "name") {
            let name = text(e, "name");
            invalid_each(
                errs,
                &path.child("name"),
                name,
                names::is_relaxed_env_var_name(name),
            );
        }
        if has(e, "valueFrom") {
            value_from(errs, &path.child("valueFrom"), e);
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(errs: &mut Errors, path: &FieldPath, e: &Value) {
    let from = at(e, "valueFrom");
    let mut sources = 0;
    if has(from, "fieldRef") {
        sources += 1;
        field_ref(
            errs,
            &path.child("fieldRef"),
            at(from, "fieldRef"),
            ENV_FIELDS,
        );
    }
    if has(from, "resourceFieldRef") {
        sources += 1;
        resource_ref(
            errs,
            &path.child("resourceFieldRef"),
            at(from, "resourceFieldRef"),
            false,
        );
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if has(from, field) {
            sources += 1;
            key_ref(errs, &path.child(field), at(from, field));
        }
    }
    if has(from, "fileKeyRef") {
        sources += 1;
        file_key_ref(errs, &path.child("fileKeyRef"), at(from, "fileKeyRef"));
    }
    let why = match (sources, text(e, "value").is_empty()) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (_, false) => "may not be specified when `value` is not empty",
        (2.., _) => "may not have more than one field specified at a time",
        _ => return,
    };
    errs.push(FieldError::invalid_str(path, "", why));
}

fn key_ref(errs: &mut Errors, path: &FieldPath, r: &Value) {
    required_text(errs, path, r, "name");
    match text(r, "key") {
        "" => errs.push(FieldError::required(&path.child("key"), "")),
        key => invalid_each(errs, &path.child("key"), key, names::is_config_map_key(key)),
    }
}

/// A reference to a variable in a file of a volume.
fn file_key_ref(errs: &mut Errors, path: &FieldPath, r: &Value) {
    match text(r, "key") {
        "" => errs.push(FieldError::required(&path.child("key"), "")),
        key => {
            let wrong = names::is_relaxed_env_var_name(key);
            invalid_each(errs, &path.child("key"), key, wrong);
        }
    }
    match text(r, "volumeName") {
        "" => errs.push(FieldError::required(&path.child("volumeName"), "")),
        name => dns_label(errs, &path.child("volumeName"), name),
    }
    match text(r, "path") {
        "" => errs.push(FieldError::required(&path.child("path"), "")),
        inside => no_backsteps(errs, &path.child("path"), inside),
    }
}

/// The volumes that variables in files are read from: only ones that the pod itself fills.
pub fn file_key_volumes(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, c) in items(spec, list).iter().enumerate() {
            for (j, variable) in items(c, "env").iter().enumerate() {
                let from = at(variable, "valueFrom");
                if !has(from, "fileKeyRef") {
                    continue;
                }
                let name = text(at(from, "fileKeyRef"), "volumeName");
                let path = path.child(list).index(i).child("env").index(j);
                let path = path.child("valueFrom").child("fileKeyRef");
                let path = path.child("volumeName");
                let mut volumes = items(spec, "volumes").iter();
                match volumes.find(|v| text(v, "name") == name) {
                    None => errs.push(FieldError::not_found(&path, &name.into())),
                    Some(v) if has(v, "emptyDir") => {}
                    Some(_) => {
                        let why = "referenced volume must be of type emptyDir";
                        errs.push(FieldError::invalid_str(&path, name, why));
                    }
                }
            }
        }
    }
}

/// A reference to a field of the pod; `allowed` sorted.
pub fn field_ref(errs: &mut Errors, path: &FieldPath, r: &Value, allowed: &[&str]) {
    if !required_text(errs, path, r, "apiVersion") || !required_text(errs, path, r, "fieldPath") {
        return;
    }
    let (field, path) = (text(r, "fieldPath"), path.child("fieldPath"));
    let subscript = field.strip_suffix("']").and_then(|f| f.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            qualified_name(errs, &path, &key.to_lowercase());
        }
        Some(("metadata.labels", key)) => qualified_name(errs, &path, key),
        Some((other, _)) => {
            let why = format!("field {other:?} does not support subscript");
            errs.push(FieldError::invalid_str(&path, other, &why));
        }
        None if allowed.contains(&field) => {}
        None if ENV_FIELDS.contains(&field)
            || ["metadata.labels", "metadata.annotations"].contains(&field) =>
        {
            errs.push(FieldError::not_supported(&path, field, allowed));
        }
        None => {
            let why = format!("error converting fieldPath: field label not supported: {field}");
            errs.push(FieldError::invalid_str(&path, field, &why));
        }
    }
}

/// A reference to a resource of a container; volumes must name the container.
pub fn resource_ref(errs: &mut Errors, path: &FieldPath, r: &Value, of_volume: bool) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if of_volume && text(r, "containerName").is_empty() {
        errs.push(FieldError::required(&path.child("containerName"), ""));
        return;
    }
    let resource = text(r, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    match resource {
        "" => errs.push(FieldError::required(&path.child("resource"), "")),
        _ if huge.iter().any(|h| resource.starts_with(h)) => {}
        _ => one_of(errs, &path.child("resource"), resource, RESOURCES),
    }
    divisor(errs, path, resource, at(r, "divisor"));
}

/// What an amount is shown in: a thousandth or one of CPU, powers of bytes of everything else.
fn divisor(errs: &mut Errors, path: &FieldPath, resource: &str, divisor: &Value) {
    const POWERS: &str = "1 1k 1M 1G 1T 1P 1E 1Ki 1Mi 1Gi 1Ti 1Pi 1Ei";
    if quantity::parse(divisor).is_none_or(|q| q.is_zero()) {
        return;
    }
    let (of, powers, listed) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => ("cpu", "1m 1", "1m and 1"),
        "memory" => ("memory", POWERS, ""),
        "ephemeral-storage" => ("local ephemeral storage", POWERS, ""),
        name if name.starts_with("hugepages-") => ("hugepages", POWERS, ""),
        _ => return,
    };
    let shown = quantity::show(divisor);
    let canonical = Quantity::canonical(&shown).unwrap_or(shown);
    if powers.split(' ').any(|power| power == canonical) {
        return;
    }
    let listed = match listed {
        "" => powers.replace(' ', ", "),
        listed => listed.to_owned(),
    };
    let why = format!("only divisor's values {listed} are supported with the {of} resource");
    errs.push(FieldError::invalid_str(
        &path.child("divisor"),
        resource,
        &why,
    ));
}

fn env_from(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    for (i, e) in all.iter().enumerate() {
        let prefix = text(e, "prefix");
        if !prefix.is_empty() {
            let wrong = names::is_relaxed_env_var_name(prefix);
            invalid_each(errs, &path.index(i).child("prefix"), prefix, wrong);
        }
        let mut sources = 0;
        for field in ["configMapRef", "secretRef"] {
            if has(e, field) {
                sources += 1;
                required_text(errs, &path.index(i).child(field), at(e, field), "name");
            }
        }
        let why = match sources {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errs.push(FieldError::invalid_str(path, "", why));
    }
}

/// A relative path that does not climb.
pub fn descending(errs: &mut Errors, path: &FieldPath, value: &str) {
    if value.starts_with('/') {
        errs.push(FieldError::invalid_str(
            path,
            value,
            "must be a relative path",
        ));
    }
    no_backsteps(errs, path, value);
}

/// A path without `..`.
pub fn no_backsteps(errs: &mut Errors, path: &FieldPath, value: &str) {
    if value.split('/').any(|p| p == "..") {
        errs.push(FieldError::invalid_str(
            path,
            value,
            "must not contain '..'",
        ));
    }
}

fn resize_policy(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, p) in all.iter().enumerate() {
        let name = text(p, "resourceName");
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(&path.index(i), &name.into()));
        }
        one_of(errs, path, name, &["cpu", "memory"]);
        one_of(
            errs,
            path,
            text(p, "restartPolicy"),
            &["NotRequired", "RestartContainer"],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_is_stopped_with_a_signal_of_its_system() {
        let wrong = |name: &str, os: &str| {
            let mut errs = Errors::new();
            stop_signal(
                &mut errs,
                &FieldPath::new("l"),
                &json!({ "stopSignal": name }),
                os,
            );
            errs.len()
        };
        for name in [
            "SIGTERM",
            "SIGUSR2",
            "SIGRTMIN",
            "SIGRTMIN+15",
            "SIGRTMAX-14",
        ] {
            assert_eq!((wrong(name, "linux"), wrong(name, "")), (0, 0), "{name}");
        }
        for name in [
            "",
            "TERM",
            "SIGNONE",
            "SIGRTMIN+16",
            "SIGRTMIN+0",
            "SIGRTMAX-15",
            "SIGRTMIN++1",
        ] {
            assert_eq!(wrong(name, "linux"), 1, "{name}");
        }
        assert_eq!(
            (wrong("SIGKILL", "windows"), wrong("SIGINT", "windows")),
            (0, 1)
        );
    }
}
