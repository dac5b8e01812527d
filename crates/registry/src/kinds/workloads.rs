//! Rows of `apps`, `batch`, `autoscaling`, `policy`.

use super::columns;
use super::def::*;

pub(super) const ROWS: &[Def] = &[
    namespaced("apps", "ControllerRevision", "controllerrevisions", V1)
        .columns(columns::CONTROLLER_REVISIONS),
    namespaced("apps", "DaemonSet", "daemonsets", V1)
        .columns(columns::DAEMON_SETS)
        .short(&["ds"])
        .categories(&["all"])
        .subs(&[STATUS])
        .inert(),
    namespaced("apps", "Deployment", "deployments", V1)
        .columns(columns::DEPLOYMENTS)
        .short(&["deploy"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
    namespaced("apps", "ReplicaSet", "replicasets", V1)
        .columns(columns::REPLICA_SETS)
        .short(&["rs"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
    namespaced("apps", "StatefulSet", "statefulsets", V1)
        .columns(columns::STATEFUL_SETS)
        .short(&["sts"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS])
        .inert(),
];
pub(super) const SCALING: &[Def] = &[
    namespaced("batch", "CronJob", "cronjobs", V1)
        .columns(columns::CRON_JOBS)
        .short(&["cj"])
        .categories(&["all"])
        .subs(&[STATUS])
        .inert(),
    namespaced("batch", "Job", "jobs", V1)
        .columns(columns::JOBS)
        .categories(&["all"])
        .subs(&[STATUS])
        .inert(),
    namespaced(
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        &["v2", "v1"],
    )
    .columns(columns::AUTOSCALERS)
    .short(&["hpa"])
    .categories(&["all"])
    .subs(&[STATUS])
    .inert(),
];
pub(super) const POLICY: &[Def] =
    &[
        namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets", V1)
            .columns(columns::DISRUPTION_BUDGETS)
            .short(&["pdb"])
            .subs(&[STATUS])
            .inert(),
    ];
