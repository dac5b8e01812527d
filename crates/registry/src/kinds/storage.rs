//! Rows of `storage.k8s.io`.

use super::def::*;

pub(super) const ROWS: &[Def] = &[
    cluster("storage.k8s.io", "CSIDriver", "csidrivers", V1).inert(),
    cluster("storage.k8s.io", "CSINode", "csinodes", V1).inert(),
    namespaced(
        "storage.k8s.io",
        "CSIStorageCapacity",
        "csistoragecapacities",
        V1,
    )
    .inert(),
    cluster("storage.k8s.io", "StorageClass", "storageclasses", V1)
        .short(&["sc"])
        .inert(),
    cluster(
        "storage.k8s.io",
        "VolumeAttachment",
        "volumeattachments",
        V1,
    )
    .subs(&[STATUS])
    .inert(),
    cluster(
        "storage.k8s.io",
        "VolumeAttributesClass",
        "volumeattributesclasses",
        &["v1", "v1beta1"],
    )
    .short(&["vac"])
    .inert(),
];
