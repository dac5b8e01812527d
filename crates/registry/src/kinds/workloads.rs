//! Rows of `apps`, `batch`, `autoscaling`, `policy`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use super::selectable_fields;
use crate::strategies::{autoscaler, jobs, networking, stateful, workload};

pub(super) const ROWS: &[Def] = &[
    namespaced("apps", "ControllerRevision", "controllerrevisions", V1)
        .strategy(|| Arc::new(stateful::ControllerRevision))
        .columns(columns::CONTROLLER_REVISIONS),
    namespaced("apps", "DaemonSet", "daemonsets", V1)
        .strategy(|| Arc::new(workload::DaemonSet))
        .columns(columns::DAEMON_SETS)
        .short(&["ds"])
        .categories(&["all"])
        .subs(&[STATUS]),
    namespaced("apps", "Deployment", "deployments", V1)
        .strategy(|| Arc::new(workload::Deployment))
        .columns(columns::DEPLOYMENTS)
        .short(&["deploy"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
    namespaced("apps", "ReplicaSet", "replicasets", V1)
        .fields(selectable_fields::REPLICAS)
        .strategy(|| Arc::new(workload::ReplicaSet))
        .columns(columns::REPLICA_SETS)
        .short(&["rs"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
    namespaced("apps", "StatefulSet", "statefulsets", V1)
        .strategy(|| Arc::new(stateful::StatefulSet))
        .columns(columns::STATEFUL_SETS)
        .short(&["sts"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS]),
];
pub(super) const SCALING: &[Def] = &[
    namespaced(
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        &["v2", "v1"],
    )
    .strategy(|| Arc::new(autoscaler::Autoscaler))
    .columns(columns::AUTOSCALERS)
    .short(&["hpa"])
    .categories(&["all"])
    .subs(&[STATUS]),
    namespaced("batch", "CronJob", "cronjobs", V1)
        .strategy(|| Arc::new(jobs::CronJob))
        .columns(columns::CRON_JOBS)
        .short(&["cj"])
        .categories(&["all"])
        .subs(&[STATUS]),
    namespaced("batch", "Job", "jobs", V1)
        .fields(selectable_fields::JOBS)
        .strategy(|| Arc::new(jobs::Job))
        .columns(columns::JOBS)
        .categories(&["all"])
        .subs(&[STATUS]),
];
pub(super) const POLICY: &[Def] =
    &[
        namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets", V1)
            .versioned()
            .strategy(|| Arc::new(networking::DisruptionBudget))
            .columns(columns::DISRUPTION_BUDGETS)
            .short(&["pdb"])
            .subs(&[STATUS]),
    ];
