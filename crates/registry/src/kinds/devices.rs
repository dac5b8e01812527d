//! Rows of `resource.k8s.io`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use super::selectable_fields;
use crate::strategies::devices;

pub(super) const ROWS: &[Def] = &[
    cluster(
        "resource.k8s.io",
        "DeviceClass",
        "deviceclasses",
        &["v1", "v1beta2", "v1beta1"],
    )
    .returned()
    .strategy(|| Arc::new(devices::DeviceClass)),
    namespaced(
        "resource.k8s.io",
        "ResourceClaim",
        "resourceclaims",
        &["v1", "v1beta2", "v1beta1"],
    )
    .returned()
    .strategy(|| Arc::new(devices::DeviceClaim { spec: "/spec" }))
    .columns(columns::RESOURCE_CLAIMS)
    .subs(&[STATUS]),
    namespaced(
        "resource.k8s.io",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        &["v1", "v1beta2", "v1beta1"],
    )
    .returned()
    .strategy(|| Arc::new(devices::DeviceClaim { spec: "/spec/spec" })),
    cluster(
        "resource.k8s.io",
        "ResourceSlice",
        "resourceslices",
        &["v1", "v1beta2", "v1beta1"],
    )
    .returned()
    .fields(selectable_fields::RESOURCE_SLICES)
    .strategy(|| Arc::new(devices::ResourceSlice))
    .columns(columns::RESOURCE_SLICES),
    cluster(
        "resource.k8s.io",
        "DeviceTaintRule",
        "devicetaintrules",
        &["v1beta2", "v1alpha3"],
    )
    .returned()
    .strategy(|| Arc::new(devices::DeviceTaintRule))
    .columns(columns::DEVICE_TAINTS)
    .subs(&[STATUS])
    .stored("resource.k8s.io", "v1alpha3")
    .inert(),
    cluster(
        "resource.k8s.io",
        "ResourcePoolStatusRequest",
        "resourcepoolstatusrequests",
        &["v1alpha3"],
    )
    .versioned()
    .returned()
    .strategy(|| Arc::new(devices::PoolStatusRequest))
    .columns(columns::POOL_STATUS_REQUESTS)
    .subs(&[STATUS])
    .inert(),
];
