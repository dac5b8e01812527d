//! Rows of `apps`, `batch`, `autoscaling`, `policy`.

use super::def::*;

pub(super) const ROWS: &[Def] = &[
    namespaced("apps", "ControllerRevision", "controllerrevisions", V1),
    namespaced("apps", "DaemonSet", "daemonsets", V1)
        .short(&["ds"])
        .categories(&["all"])
        .subs(&[STATUS])
        .inert(),
    namespaced("apps", "Deployment", "deployments", V1)
        .short(&["deploy"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
    namespaced("apps", "ReplicaSet", "replicasets", V1)
        .short(&["rs"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
    namespaced("apps", "StatefulSet", "statefulsets", V1)
        .short(&["sts"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS])
        .inert(),
];
pub(super) const SCALING: &[Def] = &[
    namespaced("batch", "CronJob", "cronjobs", V1)
        .short(&["cj"])
        .categories(&["all"])
        .subs(&[STATUS])
        .inert(),
    namespaced("batch", "Job", "jobs", V1)
        .categories(&["all"])
        .subs(&[STATUS])
        .inert(),
    namespaced(
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        &["v2", "v1"],
    )
    .short(&["hpa"])
    .categories(&["all"])
    .subs(&[STATUS])
    .inert(),
];
pub(super) const POLICY: &[Def] =
    &[
        namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets", V1)
            .short(&["pdb"])
            .subs(&[STATUS])
            .inert(),
    ];
