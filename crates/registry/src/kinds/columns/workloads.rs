//! Columns of apps, batch, autoscaling, policy and of templates.

use serde_json::Value;

use super::{
    AGE, CONTAINERS, IMAGES, JOB_CONTAINERS, JOB_IMAGES, NAME, SELECTOR, col, int_col, text_col,
    wide,
};
use crate::kinds::def::Col;
use crate::print::{self, int, list, text, text_or};

pub const POD_TEMPLATES: &[Col] = &[
    NAME,
    col("Containers", "string", |o, _| {
        print::joined(list(o, "/template/spec/containers"), "/name", ",").into()
    }),
    col("Images", "string", |o, _| {
        print::joined(list(o, "/template/spec/containers"), "/image", ",").into()
    }),
    col("Pod Labels", "string", |o, _| {
        print::labels(o.pointer("/template/metadata/labels")).into()
    }),
];

pub const DISRUPTION_BUDGETS: &[Col] = &[
    NAME,
    text_col!("Min Available", "/spec/minAvailable", "N/A"),
    text_col!("Max Unavailable", "/spec/maxUnavailable", "N/A"),
    int_col!("Allowed Disruptions", "/status/disruptionsAllowed"),
    AGE,
];

const DESIRED: Col = int_col!("Desired", "/spec/replicas");
const CURRENT: Col = int_col!("Current", "/status/replicas");
const READY: Col = int_col!("Ready", "/status/readyReplicas");

pub const REPLICATION_CONTROLLERS: &[Col] = &[
    NAME,
    DESIRED,
    CURRENT,
    READY,
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |o, _| {
        print::labels(o.pointer("/spec/selector")).into()
    }),
];

pub const REPLICA_SETS: &[Col] = &[
    NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR,
];

pub const DAEMON_SETS: &[Col] = &[
    NAME,
    int_col!("Desired", "/status/desiredNumberScheduled"),
    int_col!("Current", "/status/currentNumberScheduled"),
    int_col!("Ready", "/status/numberReady"),
    int_col!("Up-to-date", "/status/updatedNumberScheduled"),
    int_col!("Available", "/status/numberAvailable"),
    col("Node Selector", "string", |o, _| {
        print::labels(o.pointer("/spec/template/spec/nodeSelector")).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const READY_OF: Col = col("Ready", "string", |o, _| {
    format!(
        "{}/{}",
        int(o, "/status/readyReplicas"),
        int(o, "/spec/replicas")
    )
    .into()
});

pub const STATEFUL_SETS: &[Col] = &[NAME, READY_OF, AGE, CONTAINERS, IMAGES];

pub const DEPLOYMENTS: &[Col] = &[
    NAME,
    READY_OF,
    int_col!("Up-to-date", "string", "/status/updatedReplicas"),
    int_col!("Available", "string", "/status/availableReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |o, _| {
        print::selector(o.pointer("/spec/selector")).into()
    }),
];

pub const JOBS: &[Col] = &[
    NAME,
    col("Status", "string", |o, _| job_status(o).into()),
    col("Completions", "string", |o, _| completions(o).into()),
    col("Duration", "string", |o, now| job_duration(o, now).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn has_condition(o: &Value, ty: &str) -> bool {
    let found = list(o, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == ty);
    found.is_some_and(|c| text(c, "/status") == "True")
}

fn job_status(o: &Value) -> &'static str {
    let deleted = o.pointer("/metadata/deletionTimestamp").is_some();
    match () {
        () if has_condition(o, "Complete") => "Complete",
        () if has_condition(o, "Failed") => "Failed",
        () if deleted => "Terminating",
        () if has_condition(o, "Suspended") => "Suspended",
        () if has_condition(o, "FailureTarget") => "FailureTarget",
        () if has_condition(o, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(o: &Value) -> String {
    let done = int(o, "/status/succeeded");
    let parallel = int(o, "/spec/parallelism");
    match o.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{done}/{wanted}"),
        None if parallel > 1 => format!("{done}/1 of {parallel}"),
        None => format!("{done}/1"),
    }
}

fn job_duration(o: &Value, now: i64) -> String {
    let Some(start) = o.pointer("/status/startTime").and_then(print::seconds) else {
        return String::new();
    };
    let end = o
        .pointer("/status/completionTime")
        .and_then(print::seconds)
        .unwrap_or(now);
    print::human_duration(end - start)
}

pub const CRON_JOBS: &[Col] = &[
    NAME,
    text_col!("Schedule", "/spec/schedule"),
    text_col!("Timezone", "/spec/timeZone", "<none>"),
    col("Suspend", "boolean", |o, _| {
        match o.pointer("/spec/suspend").and_then(Value::as_bool) {
            Some(true) => "True".into(),
            Some(false) => "False".into(),
            None => "<unset>".into(),
        }
    }),
    col("Active", "integer", |o, _| {
        list(o, "/status/active").len().into()
    }),
    col("Last Schedule", "string", |o, now| {
        match o.pointer("/status/lastScheduleTime") {
            Some(t) => print::since(Some(t), now).into(),
            None => "<none>".into(),
        }
    }),
    AGE,
    JOB_CONTAINERS,
    JOB_IMAGES,
    wide("Selector", |o, _| {
        let shown = print::selector(o.pointer("/spec/jobTemplate/spec/selector"));
        if shown.is_empty() {
            "<none>".into()
        } else {
            shown.into()
        }
    }),
];

pub const AUTOSCALERS: &[Col] = &[
    NAME,
    col("Reference", "string", |o, _| {
        let kind = text(o, "/spec/scaleTargetRef/kind");
        format!("{kind}/{}", text(o, "/spec/scaleTargetRef/name")).into()
    }),
    col("Targets", "string", |o, _| metrics(o).into()),
    text_col!("MinPods", "/spec/minReplicas", "<unset>"),
    int_col!("MaxPods", "string", "/spec/maxReplicas"),
    int_col!("Replicas", "string", "/status/currentReplicas"),
    AGE,
];

/// The first two metrics with what they are and what they should be.
fn metrics(o: &Value) -> String {
    let specs = list(o, "/spec/metrics");
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let statuses = list(o, "/status/currentMetrics");
    let shown: Vec<String> = specs
        .iter()
        .take(2)
        .enumerate()
        .map(|(i, m)| metric(m, statuses.get(i)))
        .collect();
    let shown = shown.join(", ");
    if specs.len() > 2 {
        format!("{shown} + {} more...", specs.len() - 2)
    } else {
        shown
    }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let ty = text(spec, "/type");
    let field = match ty.as_str() {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = |what: &str| text(spec, &format!("/{field}/target/{what}"));
    let current = |what: &str| {
        status.map_or_else(
            || print::UNKNOWN.to_owned(),
            |s| text_or(s, &format!("/{field}/current/{what}"), print::UNKNOWN),
        )
    };
    let average = target("averageValue");
    match field {
        "pods" => format!("{}/{average}", current("averageValue")),
        "external" | "object" if !average.is_empty() => {
            format!("{}/{average} (avg)", current("averageValue"))
        }
        "external" | "object" => format!("{}/{}", current("value"), target("value")),
        _ => {
            let name = text(spec, &format!("/{field}/name"));
            if average.is_empty() {
                let percent = |p: String| {
                    if p.parse::<i64>().is_ok() {
                        format!("{p}%")
                    } else {
                        p
                    }
                };
                let goal = match percent(target("averageUtilization")) {
                    p if p.is_empty() => "<auto>".to_owned(),
                    p => p,
                };
                format!("{name}: {}/{goal}", percent(current("averageUtilization")))
            } else {
                format!("{name}: {}/{average}", current("averageValue"))
            }
        }
    }
}

pub const CONTROLLER_REVISIONS: &[Col] = &[
    NAME,
    col("Controller", "string", |o, _| controller(o).into()),
    int_col!("Revision", "string", "/revision"),
    AGE,
];

/// The managing owner as `daemonset.apps/name`.
fn controller(o: &Value) -> String {
    let owners = list(o, "/metadata/ownerReferences");
    let Some(owner) = owners.iter().find(|r| print::flag(r, "/controller")) else {
        return "<none>".to_owned();
    };
    let version = text(owner, "/apiVersion");
    let group = version.split_once('/').map_or("", |(g, _)| g);
    let kind = api::GroupKind::new(group, &text(owner, "/kind"));
    format!(
        "{}/{}",
        kind.to_string().to_lowercase(),
        text(owner, "/name")
    )
}
