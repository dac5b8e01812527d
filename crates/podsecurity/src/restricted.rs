//! The checks of the level restricted: what is not needed is given up.

use serde_json::Value;

use crate::baseline::{seccomp_of, unconfined};
use crate::checks::Violation;
use crate::select::{Pod, Set, containers, has, list, part_of, plural, quoted, setters, text};

/// Kinds of volumes that hold nothing of the host or of servers that trust it.
const ALLOWED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The others, in the order in which they are looked for.
const OTHER_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(crate) fn escalation(pod: &Pod<'_>) -> Option<Violation> {
    let refused = Some(&Value::Bool(false));
    let names = pod.named(|c| part_of(c, "allowPrivilegeEscalation") != refused);
    (!names.is_empty()).then(|| {
        let who = containers(&names);
        let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

pub(crate) fn escalation_1_25(pod: &Pod<'_>) -> Option<Violation> {
    unless_windows(pod, escalation)
}

/// Such pods cannot set what is asked for; validation refuses it there.
fn unless_windows(pod: &Pod<'_>, rule: fn(&Pod<'_>) -> Option<Violation>) -> Option<Violation> {
    if pod.is_windows() { None } else { rule(pod) }
}

pub(crate) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let names_of = |c: &Value, which: &str| -> Vec<String> {
        let all = part_of(c, "capabilities").map_or(&[][..], |c| list(c, which));
        let all = all.iter().filter_map(Value::as_str);
        all.map(str::to_owned).collect()
    };
    let keeping = pod.named(|c| !names_of(c, "drop").iter().any(|n| n == "ALL"));
    let mut forbidden = Set::new();
    let adding = pod.named(|c| {
        let mut added = names_of(c, "add");
        added.retain(|n| n != "NET_BIND_SERVICE");
        let bad = !added.is_empty();
        forbidden.extend(added);
        bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        details.push(format!(
            "{who} must set securityContext.capabilities.drop=[\"ALL\"]"
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(&forbidden)
        ));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

pub(crate) fn capabilities_1_25(pod: &Pod<'_>) -> Option<Violation> {
    unless_windows(pod, capabilities)
}

pub(crate) fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), Set::new());
    for volume in list(pod.spec, "volumes") {
        if ALLOWED_VOLUMES.iter().any(|kind| has(volume, kind)) {
            continue;
        }
        names.push(text(volume, "name"));
        let kind = OTHER_VOLUMES.iter().find(|kind| has(volume, kind));
        kinds.insert((*kind.unwrap_or(&"unknown")).to_owned());
    }
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural(names.len(), "volume", "volumes"),
            quoted(&names),
            plural(names.len(), "uses", "use"),
            plural(
                kinds.len(),
                "restricted volume type",
                "restricted volume types"
            ),
            quoted(&kinds)
        );
        Violation::new("restricted volume types", detail)
    })
}

pub(crate) fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    let said = |of: &Value| part_of(of, "runAsNonRoot").and_then(Value::as_bool);
    let own = said(pod.spec);
    let explicit = pod.named(|c| said(c) == Some(false));
    let reason = "runAsNonRoot != true";
    if let Some(who) = setters(own == Some(false), &explicit) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return Some(Violation::new(reason, detail));
    }
    let silent = pod.named(|c| said(c).is_none() && own != Some(true));
    (!silent.is_empty()).then(|| {
        let who = containers(&silent);
        let detail = format!("pod or {who} must set securityContext.runAsNonRoot=true");
        Violation::new(reason, detail)
    })
}

pub(crate) fn non_root_1_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() {
        return None;
    }
    non_root(pod)
}

pub(crate) fn user(pod: &Pod<'_>) -> Option<Violation> {
    let is_root = |of: &Value| part_of(of, "runAsUser").and_then(Value::as_i64) == Some(0);
    let names = pod.named(is_root);
    let who = setters(is_root(pod.spec), &names)?;
    Some(Violation::new(
        "runAsUser=0",
        format!("{who} must not set runAsUser=0"),
    ))
}

pub(crate) fn user_1_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() {
        return None;
    }
    user(pod)
}

pub(crate) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let mut others = Set::new();
    let own = seccomp_of(pod.spec, &mut others);
    let explicit = pod.named(|c| seccomp_of(c, &mut others) == Some(false));
    if let Some(who) = setters(own == Some(false), &explicit) {
        return Some(unconfined(&who, &others));
    }
    let silent = pod.named(|c| part_of(c, "seccompProfile").is_none() && own != Some(true));
    (!silent.is_empty()).then(|| {
        let who = containers(&silent);
        let detail = format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        );
        Violation::new("seccompProfile", detail)
    })
}

pub(crate) fn seccomp_1_25(pod: &Pod<'_>) -> Option<Violation> {
    unless_windows(pod, seccomp)
}
