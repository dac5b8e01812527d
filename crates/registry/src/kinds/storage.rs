//! Rows of `storage.k8s.io`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use crate::strategies::storage;

pub(super) const ROWS: &[Def] = &[
    cluster("storage.k8s.io", "CSIDriver", "csidrivers", V1)
        .versioned()
        .returned()
        .strategy(|| Arc::new(storage::CsiDriver))
        .columns(columns::CSI_DRIVERS),
    cluster("storage.k8s.io", "CSINode", "csinodes", V1)
        .versioned()
        .returned()
        .strategy(|| Arc::new(storage::CsiNode))
        .columns(columns::CSI_NODES),
    namespaced(
        "storage.k8s.io",
        "CSIStorageCapacity",
        "csistoragecapacities",
        V1,
    )
    .versioned()
    .strategy(|| Arc::new(storage::CsiStorageCapacity))
    .columns(columns::STORAGE_CAPACITIES),
    cluster("storage.k8s.io", "StorageClass", "storageclasses", V1)
        .returned()
        .strategy(|| Arc::new(storage::StorageClass))
        .columns(columns::STORAGE_CLASSES)
        .short(&["sc"]),
    cluster(
        "storage.k8s.io",
        "VolumeAttachment",
        "volumeattachments",
        V1,
    )
    .versioned()
    .returned()
    .strategy(|| Arc::new(storage::VolumeAttachment))
    .columns(columns::VOLUME_ATTACHMENTS)
    .subs(&[STATUS]),
    cluster(
        "storage.k8s.io",
        "VolumeAttributesClass",
        "volumeattributesclasses",
        &["v1", "v1beta1"],
    )
    .returned()
    .strategy(|| Arc::new(storage::VolumeAttributesClass))
    .columns(columns::ATTRIBUTES_CLASSES)
    .short(&["vac"]),
];
