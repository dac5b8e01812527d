//! Rows of `coordination.k8s.io`, `events.k8s.io`, `scheduling.k8s.io`, `node.k8s.io`, `flowcontrol.apiserver.k8s.io`, `internal.apiserver.k8s.io`, `storagemigration.k8s.io`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use super::selectable_fields;
use crate::strategies::{classes, events, flow_control, leases, pod_groups, storage_versions};

pub(super) const EVENTS: &[Def] = &[namespaced("events.k8s.io", "Event", "events", V1)
    .put_creates()
    .fields(selectable_fields::NEW_EVENTS)
    .strategy(|| Arc::new(events::Event { strict: true }))
    .columns(columns::EVENTS)
    .short(&["ev"])
    .stored("", "v1")
    .expires(EVENT_SECONDS)];
pub(super) const ROWS: &[Def] = &[
    cluster("scheduling.k8s.io", "PriorityClass", "priorityclasses", V1)
        .strategy(|| Arc::new(classes::PriorityClass))
        .columns(columns::PRIORITY_CLASSES)
        .short(&["pc"]),
    namespaced("scheduling.k8s.io", "PodGroup", "podgroups", &["v1alpha2"])
        .strategy(|| Arc::new(pod_groups::PodGroup))
        .columns(columns::POD_GROUPS)
        .subs(&[STATUS]),
    namespaced("scheduling.k8s.io", "Workload", "workloads", &["v1alpha2"])
        .strategy(|| Arc::new(pod_groups::Workload))
        .inert(),
    namespaced("coordination.k8s.io", "Lease", "leases", V1)
        .versioned()
        .put_creates()
        .strategy(|| Arc::new(leases::Lease))
        .columns(columns::LEASES),
    namespaced(
        "coordination.k8s.io",
        "LeaseCandidate",
        "leasecandidates",
        &["v1beta1", "v1alpha2"],
    )
    .versioned()
    .put_creates()
    .strategy(|| Arc::new(leases::LeaseCandidate))
    .fields(selectable_fields::LEASE_CANDIDATES)
    .columns(columns::LEASE_CANDIDATES)
    .stored("coordination.k8s.io", "v1beta1")
    .inert(),
    cluster("node.k8s.io", "RuntimeClass", "runtimeclasses", V1)
        .versioned()
        .put_creates()
        .strategy(|| Arc::new(classes::RuntimeClass))
        .columns(columns::RUNTIME_CLASSES),
];
pub(super) const INTERNAL: &[Def] = &[
    cluster(
        "flowcontrol.apiserver.k8s.io",
        "FlowSchema",
        "flowschemas",
        V1,
    )
    .strategy(|| Arc::new(flow_control::FlowSchema))
    .columns(columns::FLOW_SCHEMAS)
    .subs(&[STATUS]),
    cluster(
        "flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        V1,
    )
    .strategy(|| Arc::new(flow_control::PriorityLevel))
    .columns(columns::PRIORITY_LEVELS)
    .subs(&[STATUS]),
    cluster(
        "internal.apiserver.k8s.io",
        "StorageVersion",
        "storageversions",
        &["v1alpha1"],
    )
    .versioned()
    .strategy(|| Arc::new(storage_versions::StorageVersion))
    .columns(columns::STORAGE_VERSIONS)
    .subs(&[STATUS])
    .inert(),
    cluster(
        "storagemigration.k8s.io",
        "StorageVersionMigration",
        "storageversionmigrations",
        &["v1beta1"],
    )
    .versioned()
    .strategy(|| Arc::new(storage_versions::Migration))
    .columns(columns::MIGRATIONS)
    .subs(&[STATUS]),
];
