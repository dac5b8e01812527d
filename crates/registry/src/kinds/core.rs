//! Rows of the core group.

use std::sync::Arc;

use super::columns;
use super::def::*;
use super::selectable_fields;
use crate::strategies::{
    claims, cluster, config_maps, events, pod, quotas, service, volumes, workload,
};

const PODS: &[Sub] = &[
    Sub(
        "attach",
        &["create", "get"],
        Body::Other("", "v1", "PodAttachOptions"),
    ),
    Sub("binding", &["create"], Body::Other("", "v1", "Binding")),
    Sub("ephemeralcontainers", GET_PATCH_UPDATE, Body::Own),
    Sub(
        "eviction",
        &["create"],
        Body::Other("policy", "v1", "Eviction"),
    ),
    Sub(
        "exec",
        &["create", "get"],
        Body::Other("", "v1", "PodExecOptions"),
    ),
    Sub("log", &["get"], Body::Own),
    Sub(
        "portforward",
        &["create", "get"],
        Body::Other("", "v1", "PodPortForwardOptions"),
    ),
    Sub("proxy", PROXY, Body::Other("", "v1", "PodProxyOptions")),
    Sub("resize", GET_PATCH_UPDATE, Body::Own),
    STATUS,
];
const NODES: &[Sub] = &[
    Sub("proxy", PROXY, Body::Other("", "v1", "NodeProxyOptions")),
    STATUS,
];
const SERVICES: &[Sub] = &[
    Sub("proxy", PROXY, Body::Other("", "v1", "ServiceProxyOptions")),
    STATUS,
];
const NAMESPACES: &[Sub] = &[Sub("finalize", &["update"], Body::Own), STATUS];
const ACCOUNTS: &[Sub] = &[Sub(
    "token",
    &["create"],
    Body::Other("authentication.k8s.io", "v1", "TokenRequest"),
)];
/// A namespace cannot be deleted as one of a collection.
const NAMESPACE_VERBS: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];

pub(super) const ROWS: &[Def] = &[
    namespaced("", "Binding", "bindings", V1).only_answered(),
    cluster("", "ComponentStatus", "componentstatuses", V1)
        .columns(columns::COMPONENT_STATUSES)
        .short(&["cs"])
        .only_answered()
        .verbs(&["get", "list"]),
    namespaced("", "ConfigMap", "configmaps", V1)
        .strategy(|| Arc::new(config_maps::ConfigMap))
        .columns(columns::CONFIG_MAPS)
        .short(&["cm"]),
    namespaced("", "Endpoints", "endpoints", V1)
        .put_creates()
        .strategy(|| Arc::new(cluster::Endpoints))
        .columns(columns::ENDPOINTS)
        .short(&["ep"])
        .prefix("services/endpoints"),
    namespaced("", "Event", "events", V1)
        .put_creates()
        .fields(selectable_fields::EVENTS)
        .strategy(|| Arc::new(events::Event { strict: false }))
        .columns(columns::EVENTS)
        .short(&["ev"])
        .expires(EVENT_SECONDS),
    namespaced("", "LimitRange", "limitranges", V1)
        .put_creates()
        .strategy(|| Arc::new(quotas::LimitRange))
        .columns(columns::NAME_CREATED)
        .short(&["limits"]),
    cluster("", "Namespace", "namespaces", V1)
        .fields(selectable_fields::NAMESPACES)
        .strategy(|| Arc::new(cluster::Namespace))
        .columns(columns::NAMESPACES)
        .short(&["ns"])
        .verbs(NAMESPACE_VERBS)
        .subs(NAMESPACES),
    cluster("", "Node", "nodes", V1)
        .fields(selectable_fields::NODES)
        .strategy(|| Arc::new(cluster::Node))
        .columns(columns::NODES)
        .short(&["no"])
        .subs(NODES)
        .prefix("minions"),
    namespaced("", "PersistentVolumeClaim", "persistentvolumeclaims", V1)
        .returned()
        .fields(selectable_fields::NAMED)
        .strategy(|| Arc::new(claims::PersistentVolumeClaim))
        .columns(columns::CLAIMS)
        .short(&["pvc"])
        .subs(&[STATUS]),
    cluster("", "PersistentVolume", "persistentvolumes", V1)
        .returned()
        .fields(selectable_fields::NAMED)
        .strategy(|| Arc::new(volumes::PersistentVolume))
        .columns(columns::VOLUMES)
        .short(&["pv"])
        .subs(&[STATUS]),
    namespaced("", "Pod", "pods", V1)
        .returned()
        .fields(selectable_fields::PODS)
        .strategy(|| Arc::new(pod::Pod))
        .columns(columns::PODS)
        .short(&["po"])
        .categories(&["all"])
        .subs(PODS),
    namespaced("", "PodTemplate", "podtemplates", V1)
        .returned()
        .strategy(|| Arc::new(pod::PodTemplate))
        .columns(columns::POD_TEMPLATES),
    namespaced("", "ReplicationController", "replicationcontrollers", V1)
        .fields(selectable_fields::REPLICAS)
        .strategy(|| Arc::new(workload::ReplicationController))
        .columns(columns::REPLICATION_CONTROLLERS)
        .short(&["rc"])
        .categories(&["all"])
        .subs(&[SCALE, STATUS])
        .prefix("controllers"),
    namespaced("", "ResourceQuota", "resourcequotas", V1)
        .returned()
        .strategy(|| Arc::new(quotas::ResourceQuota))
        .columns(columns::QUOTAS)
        .short(&["quota"])
        .subs(&[STATUS]),
    namespaced("", "Secret", "secrets", V1)
        .fields(selectable_fields::SECRETS)
        .strategy(|| Arc::new(config_maps::Secret))
        .columns(columns::SECRETS),
    namespaced("", "ServiceAccount", "serviceaccounts", V1)
        .returned()
        .strategy(|| Arc::new(cluster::ServiceAccount))
        .short(&["sa"])
        .subs(ACCOUNTS),
    namespaced("", "Service", "services", V1)
        .put_creates()
        .returned()
        .fields(selectable_fields::SERVICES)
        .strategy(|| Arc::new(service::Service))
        .columns(columns::SERVICES)
        .short(&["svc"])
        .categories(&["all"])
        .subs(SERVICES)
        .prefix("services/specs"),
];
