//! Columns of the core group, without pods, events and templates.

use serde_json::Value;

use super::{AGE, NAME, col, text_col, wide, wide_col};
use crate::kinds::def::Col;
use crate::print::{self, flag, list, text, text_or};

pub const CONFIG_MAPS: &[Col] = &[
    NAME,
    col("Data", "string", |o, _| {
        (print::entries(o, "/data") + print::entries(o, "/binaryData")).into()
    }),
    AGE,
];

pub const SECRETS: &[Col] = &[
    NAME,
    text_col!("Type", "/type"),
    col("Data", "string", |o, _| print::entries(o, "/data").into()),
    AGE,
];

pub const NAMESPACES: &[Col] = &[NAME, text_col!("Status", "/status/phase"), AGE];

pub const COMPONENT_STATUSES: &[Col] = &[
    NAME,
    col("Status", "string", |o, _| {
        match healthy(o).map(|c| text(c, "/status")) {
            None => "Unknown".into(),
            Some(s) if s == "True" => "Healthy".into(),
            Some(_) => "Unhealthy".into(),
        }
    }),
    col("Message", "string", |o, _| {
        healthy(o)
            .map(|c| text(c, "/message"))
            .unwrap_or_default()
            .into()
    }),
    col("Error", "string", |o, _| {
        healthy(o)
            .map(|c| text(c, "/error"))
            .unwrap_or_default()
            .into()
    }),
];

fn healthy(o: &Value) -> Option<&Value> {
    list(o, "/conditions")
        .iter()
        .find(|c| text(c, "/type") == "Healthy")
}

pub const NODES: &[Col] = &[
    NAME,
    col("Status", "string", |o, _| node_status(o).into()),
    col("Roles", "string", |o, _| roles(o).into()),
    AGE,
    text_col!("Version", "/status/nodeInfo/kubeletVersion"),
    wide("Internal-IP", |o, _| address(o, "InternalIP").into()),
    wide("External-IP", |o, _| address(o, "ExternalIP").into()),
    wide_col!("OS-Image", "/status/nodeInfo/osImage", "<unknown>"),
    wide("Kernel-Version", |o, _| {
        let kernel = text_or(o, "/status/nodeInfo/kernelVersion", "<unknown>");
        match text(o, "/status/nodeInfo/architecture") {
            a if a.is_empty() => kernel.into(),
            a => format!("{kernel} ({a})").into(),
        }
    }),
    wide_col!(
        "Container-Runtime",
        "/status/nodeInfo/containerRuntimeVersion",
        "<unknown>"
    ),
];

fn node_status(o: &Value) -> String {
    let ready = list(o, "/status/conditions")
        .iter()
        .rfind(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        None => "Unknown",
        Some(s) if s == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if flag(o, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(o: &Value) -> String {
    let mut roles = std::collections::BTreeSet::new();
    if let Some(labels) = o.pointer("/metadata/labels").and_then(Value::as_object) {
        for (k, v) in labels {
            let role = match k.strip_prefix("node-role.kubernetes.io/") {
                Some(r) => r,
                None if k == "kubernetes.io/role" => v.as_str().unwrap_or(""),
                None => "",
            };
            if !role.is_empty() {
                roles.insert(role);
            }
        }
    }
    if roles.is_empty() {
        return "<none>".to_owned();
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(o: &Value, ty: &str) -> String {
    let found = list(o, "/status/addresses")
        .iter()
        .find(|a| text(a, "/type") == ty);
    found.map_or_else(|| "<none>".to_owned(), |a| text(a, "/address"))
}

pub const VOLUMES: &[Col] = &[
    NAME,
    text_col!("Capacity", "/spec/capacity/storage", "0"),
    col("Access Modes", "string", |o, _| {
        access_modes(list(o, "/spec/accessModes")).into()
    }),
    text_col!("Reclaim Policy", "/spec/persistentVolumeReclaimPolicy"),
    col("Status", "string", |o, _| phase(o).into()),
    col("Claim", "string", |o, _| {
        match o.pointer("/spec/claimRef") {
            Some(r) => format!("{}/{}", text(r, "/namespace"), text(r, "/name")).into(),
            None => "".into(),
        }
    }),
    col("StorageClass", "string", |o, _| storage_class(o).into()),
    text_col!(
        "VolumeAttributesClass",
        "/spec/volumeAttributesClassName",
        "<unset>"
    ),
    text_col!("Reason", "/status/reason"),
    AGE,
    wide_col!("VolumeMode", "/spec/volumeMode", "<unset>"),
];

pub const CLAIMS: &[Col] = &[
    NAME,
    col("Status", "string", |o, _| phase(o).into()),
    text_col!("Volume", "/spec/volumeName"),
    col("Capacity", "string", |o, _| {
        if bound(o) {
            text_or(o, "/status/capacity/storage", "0").into()
        } else {
            "".into()
        }
    }),
    col("Access Modes", "string", |o, _| {
        if bound(o) {
            access_modes(list(o, "/status/accessModes")).into()
        } else {
            "".into()
        }
    }),
    col("StorageClass", "string", |o, _| storage_class(o).into()),
    text_col!(
        "VolumeAttributesClass",
        "/spec/volumeAttributesClassName",
        "<unset>"
    ),
    AGE,
    wide_col!("VolumeMode", "/spec/volumeMode", "<unset>"),
];

fn bound(claim: &Value) -> bool {
    !text(claim, "/spec/volumeName").is_empty()
}

fn phase(o: &Value) -> String {
    if o.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating".to_owned()
    } else {
        text(o, "/status/phase")
    }
}

fn storage_class(o: &Value) -> String {
    let old = o
        .pointer("/metadata/annotations")
        .and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    match old.and_then(Value::as_str) {
        Some(class) => class.to_owned(),
        None => text(o, "/spec/storageClassName"),
    }
}

fn access_modes(modes: &[Value]) -> String {
    let all = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |m: &str| modes.iter().any(|v| v.as_str() == Some(m));
    let short: Vec<&str> = all
        .iter()
        .filter(|(m, _)| has(m))
        .map(|(_, s)| *s)
        .collect();
    short.join(",")
}

pub const QUOTAS: &[Col] = &[
    NAME,
    col("Request", "string", |o, _| quota(o, false).into()),
    col("Limit", "string", |o, _| quota(o, true).into()),
    AGE,
];

/// What is used of what is allowed: of limits, or of all else.
fn quota(o: &Value, limits: bool) -> String {
    let Some(hard) = o.pointer("/status/hard").and_then(Value::as_object) else {
        return String::new();
    };
    let used = |name: &str| {
        o.pointer("/status/used")
            .and_then(|u| u.get(name))
            .map_or_else(|| "0".to_owned(), |v| text(v, ""))
    };
    let mut shown: Vec<String> = hard
        .iter()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, v)| format!("{name}: {}/{}", used(name), text(v, "")))
        .collect();
    shown.sort();
    shown.join(", ")
}
