//! Columns of access rules, certificates, storage, admission, flow control and devices.

use serde_json::Value;

use super::networking::name_or_default;
use super::{AGE, NAME, col, int_col, len_col, text_col, wide};
use crate::kinds::def::Col;
use crate::print::{self, flag, human_duration, list, text, text_or};

pub const ROLE_BINDINGS: &[Col] = &[
    NAME,
    col("Role", "string", |o, _| {
        format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")).into()
    }),
    AGE,
    wide("Users", |o, _| subjects(o, "User").into()),
    wide("Groups", |o, _| subjects(o, "Group").into()),
    wide("ServiceAccounts", |o, _| {
        subjects(o, "ServiceAccount").into()
    }),
];

fn subjects(o: &Value, kind: &str) -> String {
    let all = list(o, "/subjects")
        .iter()
        .filter(|s| text(s, "/kind") == kind);
    let shown: Vec<String> = all
        .map(|s| match (kind, text(s, "/namespace")) {
            ("ServiceAccount", n) if !n.is_empty() => format!("{n}/{}", text(s, "/name")),
            _ => text(s, "/name"),
        })
        .collect();
    shown.join(", ")
}

pub const SIGNING_REQUESTS: &[Col] = &[
    NAME,
    AGE,
    text_col!("SignerName", "/spec/signerName", "<none>"),
    text_col!("Requestor", "/spec/username"),
    col("RequestedDuration", "string", |o, _| {
        match o.pointer("/spec/expirationSeconds").and_then(Value::as_i64) {
            Some(s) => human_duration(s).into(),
            None => "<none>".into(),
        }
    }),
    col("Condition", "string", |o, _| signing_state(o).into()),
];

fn has(o: &Value, ty: &str) -> bool {
    list(o, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == ty)
}

fn signing_state(o: &Value) -> String {
    let mut state = match () {
        () if has(o, "Denied") => "Denied",
        () if has(o, "Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has(o, "Failed") {
        state.push_str(",Failed");
    }
    if !text(o, "/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

pub const TRUST_BUNDLES: &[Col] = &[NAME, text_col!("SignerName", "/spec/signerName", "<none>")];

pub const POD_CERTIFICATES: &[Col] = &[
    NAME,
    text_col!("PodName", "/spec/podName"),
    text_col!("ServiceAccountName", "/spec/serviceAccountName"),
    text_col!("NodeName", "/spec/nodeName"),
    text_col!("SignerName", "/spec/signerName"),
    col("State", "string", |o, _| {
        let last = list(o, "/status/conditions")
            .iter()
            .rev()
            .map(|c| text(c, "/type"));
        let known = |t: &String| ["Issued", "Denied", "Failed"].contains(&t.as_str());
        last.into_iter()
            .find(known)
            .unwrap_or_else(|| "Pending".to_owned())
            .into()
    }),
    wide("UnverifiedUserAnnotations", |o, _| {
        print::labels(o.pointer("/spec/unverifiedUserAnnotations")).into()
    }),
];

pub const LEASES: &[Col] = &[NAME, text_col!("Holder", "/spec/holderIdentity"), AGE];
pub const LEASE_CANDIDATES: &[Col] = &[
    NAME,
    text_col!("LeaseName", "/spec/leaseName"),
    text_col!("BinaryVersion", "/spec/binaryVersion"),
    text_col!("EmulationVersion", "/spec/emulationVersion"),
    AGE,
];

pub const PRIORITY_CLASSES: &[Col] = &[
    NAME,
    int_col!("Value", "/value"),
    col("Global-Default", "boolean", |o, _| {
        flag(o, "/globalDefault").into()
    }),
    AGE,
    wide("PreemptionPolicy", |o, _| {
        text(o, "/preemptionPolicy").into()
    }),
];

pub const RUNTIME_CLASSES: &[Col] = &[NAME, text_col!("Handler", "/handler"), AGE];

pub const STORAGE_CLASSES: &[Col] = &[
    Col {
        name: "Name",
        ty: "string",
        format: "name",
        priority: 0,
        cell: |o, _| {
            let marks = [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ];
            name_or_default(o, &marks).into()
        },
    },
    text_col!("Provisioner", "/provisioner"),
    text_col!("ReclaimPolicy", "/reclaimPolicy", "Delete"),
    text_col!("VolumeBindingMode", "/volumeBindingMode", "Immediate"),
    col("AllowVolumeExpansion", "string", |o, _| {
        flag(o, "/allowVolumeExpansion").into()
    }),
    AGE,
];

pub const ATTRIBUTES_CLASSES: &[Col] = &[NAME, text_col!("DriverName", "/driverName"), AGE];

pub const VOLUME_ATTACHMENTS: &[Col] = &[
    NAME,
    Col {
        name: "Attacher",
        ty: "string",
        format: "name",
        priority: 0,
        cell: |o, _| text(o, "/spec/attacher").into(),
    },
    text_col!("PV", "/spec/source/persistentVolumeName"),
    text_col!("Node", "/spec/nodeName"),
    col("Attached", "boolean", |o, _| {
        flag(o, "/status/attached").into()
    }),
    AGE,
];

pub const CSI_NODES: &[Col] = &[NAME, len_col!("Drivers", "/spec/drivers"), AGE];

pub const CSI_DRIVERS: &[Col] = &[
    NAME,
    col("AttachRequired", "boolean", |o, _| {
        o.pointer("/spec/attachRequired")
            .and_then(Value::as_bool)
            .unwrap_or(true)
            .into()
    }),
    col("PodInfoOnMount", "boolean", |o, _| {
        flag(o, "/spec/podInfoOnMount").into()
    }),
    col("StorageCapacity", "boolean", |o, _| {
        flag(o, "/spec/storageCapacity").into()
    }),
    col("TokenRequests", "string", |o, _| {
        match o.pointer("/spec/tokenRequests") {
            Some(_) => print::joined(list(o, "/spec/tokenRequests"), "/audience", ",").into(),
            None => "<unset>".into(),
        }
    }),
    col("RequiresRepublish", "boolean", |o, _| {
        flag(o, "/spec/requiresRepublish").into()
    }),
    col("Modes", "string", |o, _| {
        let modes = print::joined(list(o, "/spec/volumeLifecycleModes"), "", ",");
        if modes.is_empty() {
            "<none>".into()
        } else {
            modes.into()
        }
    }),
    AGE,
];

pub const STORAGE_CAPACITIES: &[Col] = &[
    NAME,
    text_col!("StorageClassName", "/storageClassName"),
    text_col!("Capacity", "/capacity", "<unset>"),
];

pub const WEBHOOKS: &[Col] = &[NAME, len_col!("Webhooks", "/webhooks"), AGE];

const PARAM_KIND: Col = col("ParamKind", "string", |o, _| {
    match o.pointer("/spec/paramKind") {
        Some(p) => format!("{}/{}", text(p, "/apiVersion"), text(p, "/kind")).into(),
        None => "<unset>".into(),
    }
});
pub const VALIDATING_POLICIES: &[Col] = &[
    NAME,
    len_col!("Validations", "/spec/validations"),
    PARAM_KIND,
    AGE,
];
pub const MUTATING_POLICIES: &[Col] = &[
    NAME,
    len_col!("Mutations", "/spec/mutations"),
    PARAM_KIND,
    AGE,
];
pub const POLICY_BINDINGS: &[Col] = &[
    NAME,
    text_col!("PolicyName", "/spec/policyName"),
    col("ParamRef", "string", |o, _| param_ref(o).into()),
    AGE,
];

fn param_ref(o: &Value) -> String {
    let Some(p) = o.pointer("/spec/paramRef") else {
        return "<unset>".to_owned();
    };
    match (text(p, "/name"), text_or(p, "/namespace", "*")) {
        (name, _) if name.is_empty() => match p.get("selector") {
            Some(s) => print::selector(Some(s)),
            None => "<unset>".to_owned(),
        },
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

pub const FLOW_SCHEMAS: &[Col] = &[
    NAME,
    text_col!("PriorityLevel", "/spec/priorityLevelConfiguration/name"),
    int_col!("MatchingPrecedence", "string", "/spec/matchingPrecedence"),
    text_col!(
        "DistinguisherMethod",
        "/spec/distinguisherMethod/type",
        "<none>"
    ),
    AGE,
    col("MissingPL", "string", |o, _| {
        let dangling = list(o, "/status/conditions")
            .iter()
            .find(|c| text(c, "/type") == "Dangling");
        dangling
            .map_or_else(|| "?".to_owned(), |c| text(c, "/status"))
            .into()
    }),
];

pub const PRIORITY_LEVELS: &[Col] = &[
    NAME,
    text_col!("Type", "/spec/type"),
    col("NominalConcurrencyShares", "string", |o, _| {
        limited(o, "nominalConcurrencyShares")
    }),
    col("Queues", "string", |o, _| {
        limited(o, "limitResponse/queuing/queues")
    }),
    col("HandSize", "string", |o, _| {
        limited(o, "limitResponse/queuing/handSize")
    }),
    col("QueueLengthLimit", "string", |o, _| {
        limited(o, "limitResponse/queuing/queueLengthLimit")
    }),
    AGE,
];

fn limited(o: &Value, what: &str) -> Value {
    o.pointer(&format!("/spec/limited/{what}"))
        .cloned()
        .unwrap_or_else(|| "<none>".into())
}

pub const STORAGE_VERSIONS: &[Col] = &[
    NAME,
    text_col!(
        "CommonEncodingVersion",
        "/status/commonEncodingVersion",
        "<unset>"
    ),
    col("StorageVersions", "string", |o, _| {
        let one = |v: &Value| {
            format!(
                "{}={}",
                text(v, "/apiServerID"),
                text(v, "/encodingVersion")
            )
        };
        let all: Vec<String> = list(o, "/status/storageVersions").iter().map(one).collect();
        print::first_three(&all).into()
    }),
    AGE,
];

pub const MIGRATIONS: &[Col] = &[
    Col {
        name: "Name",
        ty: "string",
        format: "",
        priority: 0,
        cell: print::name,
    },
    col("Resource", "string", |o, _| {
        let (group, resource) = (
            text(o, "/spec/resource/group"),
            text(o, "/spec/resource/resource"),
        );
        api::GroupResource::new(&group, &resource)
            .to_string()
            .into()
    }),
    col("Status", "string", |o, _| {
        let known = ["Running", "Failed", "Succeeded"];
        let on =
            |c: &&Value| text(c, "/status") == "True" && known.contains(&text(c, "/type").as_str());
        let found = list(o, "/status/conditions").iter().rfind(on);
        found
            .map_or_else(|| "Unknown".to_owned(), |c| text(c, "/type"))
            .into()
    }),
];

pub const RESOURCE_CLAIMS: &[Col] = &[
    NAME,
    col("State", "string", |o, _| {
        let deleted = o.pointer("/metadata/deletionTimestamp").is_some();
        let allocated = o.pointer("/status/allocation").is_some();
        let reserved = allocated && !list(o, "/status/reservedFor").is_empty();
        let words = [
            (deleted, "deleted"),
            (!deleted && !allocated, "pending"),
            (allocated, "allocated"),
            (reserved, "reserved"),
        ];
        let words: Vec<&str> = words
            .iter()
            .filter(|(yes, _)| *yes)
            .map(|(_, w)| *w)
            .collect();
        words.join(",").into()
    }),
    AGE,
];

pub const RESOURCE_SLICES: &[Col] = &[
    NAME,
    text_col!("Node", "/spec/nodeName"),
    text_col!("Driver", "/spec/driver"),
    text_col!("Pool", "/spec/pool/name"),
    AGE,
];

pub const DEVICE_TAINTS: &[Col] = &[
    NAME,
    text_col!("Key", "/spec/taint/key"),
    text_col!("Value", "/spec/taint/value"),
    text_col!("Effect", "/spec/taint/effect"),
    col("TimeAdded", "string", |o, now| {
        print::since(o.pointer("/spec/taint/timeAdded"), now).into()
    }),
    AGE,
];

pub const API_SERVICES: &[Col] = &[
    NAME,
    col("Service", "string", |o, _| {
        match o.pointer("/spec/service") {
            Some(s) => format!("{}/{}", text(s, "/namespace"), text(s, "/name")).into(),
            None => "Local".into(),
        }
    }),
    col("Available", "string", |o, _| {
        let found = list(o, "/status/conditions")
            .iter()
            .find(|c| text(c, "/type") == "Available");
        match found.map(|c| (text(c, "/status"), text(c, "/reason"))) {
            None => "Unknown".into(),
            Some((s, r)) if s != "True" && !r.is_empty() => format!("{s} ({r})").into(),
            Some((s, _)) => s.into(),
        }
    }),
    AGE,
];

pub const POD_GROUPS: &[Col] = &[
    NAME,
    col("Policy", "string", |o, _| {
        if o.pointer("/spec/schedulingPolicy/gang").is_some() {
            "Gang"
        } else {
            "Basic"
        }
        .into()
    }),
    text_col!(
        "Workload",
        "/spec/podGroupTemplateRef/workload/workloadName",
        "<none>"
    ),
    col("Status", "string", |o, _| {
        let found = |ty: &str| {
            list(o, "/status/conditions")
                .iter()
                .rfind(|c| text(c, "/type") == ty)
        };
        match (found("DisruptionTarget"), found("PodGroupScheduled")) {
            (Some(c), _) => text(c, "/reason").into(),
            (None, Some(c)) if text(c, "/status") == "True" => "Scheduled".into(),
            (None, Some(_)) => "Unschedulable".into(),
            (None, None) => "Pending".into(),
        }
    }),
    AGE,
];

pub const POOL_STATUS_REQUESTS: &[Col] = &[
    NAME,
    text_col!("Driver", "/spec/driver"),
    col("Total", "string", |o, _| pools(o, "totalDevices").into()),
    col("Available", "string", |o, _| {
        pools(o, "availableDevices").into()
    }),
    col("Allocated", "string", |o, _| {
        pools(o, "allocatedDevices").into()
    }),
    col("Unavailable", "string", |o, _| {
        pools(o, "unavailableDevices").into()
    }),
    col("Errors", "string", |o, _| {
        pools(o, "validationError").into()
    }),
    int_col!("Pools", "/status/poolCount"),
    col("Status", "string", |o, _| pool_state(o).into()),
    col("Completed", "string", |o, now| match on(o, "Complete") {
        Some(c) => print::since(c.get("lastTransitionTime"), now).into(),
        None => "<none>".into(),
    }),
];

/// The condition of this type, if it is true.
fn on<'a>(o: &'a Value, ty: &str) -> Option<&'a Value> {
    let is = |c: &&Value| text(c, "/type") == ty && text(c, "/status") == "True";
    list(o, "/status/conditions").iter().find(is)
}

fn pool_state(o: &Value) -> String {
    let (seen, all) = (
        list(o, "/status/pools").len(),
        print::int(o, "/status/poolCount"),
    );
    match (on(o, "Complete"), on(o, "Failed")) {
        (Some(_), _) if usize::try_from(all).is_ok_and(|n| n > seen) => {
            format!("Complete ({seen}/{all} pools)")
        }
        (Some(_), _) => "Complete".to_owned(),
        (None, Some(_)) => "Failed".to_owned(),
        (None, None) => "Pending".to_owned(),
    }
}

/// The sum of a number over the pools, or how many pools have an error.
fn pools(o: &Value, field: &str) -> String {
    if o.pointer("/status").is_none() || on(o, "Failed").is_some() {
        return "-".to_owned();
    }
    let one = |p: &Value| match p.get(field) {
        Some(Value::String(_)) => 1,
        Some(v) => v.as_i64().unwrap_or(0),
        None => 0,
    };
    list(o, "/status/pools")
        .iter()
        .map(one)
        .sum::<i64>()
        .to_string()
}
