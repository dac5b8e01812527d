//! The whole table, one line per kind.

use std::collections::HashSet;
use std::fmt::Write;

use super::kinds;

#[test]
fn the_table() {
    let mut out = String::new();
    for r in kinds().rows() {
        let names = |all: &[std::sync::Arc<str>]| all.join(",");
        let versions: Vec<&str> = r.versions.iter().map(|v| &*v.version).collect();
        let subs: Vec<&str> = r.subresources.iter().map(|s| &*s.name).collect();
        let columns: Vec<&str> = r.columns.iter().map(|c| &*c.name).collect();
        let scope = if r.namespaced {
            "namespaced"
        } else {
            "cluster"
        };
        let verbs = if r.verbs.len() == 8 {
            "all".to_owned()
        } else {
            names(&r.verbs)
        };
        let _ = writeln!(
            out,
            "{}/{} {} {} {} stored={}@{} short={} categories={} verbs={} subs={} columns={}{}{}",
            r.group,
            r.resource,
            versions.join(","),
            r.kind,
            scope,
            r.storage_prefix,
            r.storage_api_version(),
            names(&r.short_names),
            names(&r.categories),
            verbs,
            subs.join(","),
            columns.join(","),
            if r.inert { " inert" } else { "" },
            if r.returns_deleted { " returned" } else { "" },
        );
    }
    expect_test::expect_file!["./table.txt"].assert_eq(&out);
}

#[test]
fn every_type_is_in_the_schema() {
    for r in kinds().rows() {
        assert!(!r.storage_type.name().is_empty(), "{r:?}");
        for v in &r.versions {
            let name = v.ty.name();
            assert!(name.ends_with(&format!(".{}", r.kind)), "{r:?} {name}");
        }
        // Options of streams come in the query; everything else has a body with a type.
        for s in r.subresources.iter().filter(|s| s.ty.is_none()) {
            assert!(s.kind.ends_with("Options"), "{r:?}/{}: {}", s.name, s.kind);
        }
    }
}

#[test]
fn a_field_is_read_by_its_path() {
    let field = |pointer: &str| crate::SelectableField {
        name: "spec.x".into(),
        read: crate::FieldRead::Pointer(pointer.into()),
        indexed: false,
    };
    let o = serde_json::json!({ "spec": { "x": "a", "n": 3, "b": true, "o": {} } });
    let read = |pointer| field(pointer).value(&o);
    assert_eq!(read("/spec/x"), "a");
    assert_eq!(read("/spec/n"), "3");
    assert_eq!(read("/spec/b"), "true");
    assert_eq!(read("/spec/o"), "");
    assert_eq!(read("/spec/none"), "");
}

#[test]
fn names_are_unique_and_found() {
    let mut seen = HashSet::new();
    for r in kinds().rows() {
        assert!(seen.insert((r.group.clone(), r.resource.clone())), "{r:?}");
        for v in &r.versions {
            let by_resource = kinds().by_resource(&r.group, &v.version, &r.resource);
            let by_kind = kinds().by_kind(&r.group, &v.version, &r.kind);
            assert!(
                by_resource.is_some_and(|f| f.resource == r.resource),
                "{r:?}"
            );
            assert!(by_kind.is_some_and(|f| f.resource == r.resource), "{r:?}");
        }
        assert!(kinds().by_resource(&r.group, "v0", &r.resource).is_none());
    }
}

#[test]
fn versions_in_order_of_preference() {
    let groups = kinds().groups();
    let of = |g: &str| -> Vec<String> {
        let found = groups.iter().find(|(name, _)| &**name == g);
        found
            .map(|(_, v)| v.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    };
    assert_eq!(of("autoscaling"), ["v2", "v1"]);
    assert_eq!(
        of("resource.k8s.io"),
        ["v1", "v1beta2", "v1beta1", "v1alpha3"]
    );
    assert_eq!(
        groups.first().map(|(g, _)| g.to_string()),
        Some(String::new())
    );
}

/// The cells of an object, as text.
fn cells(group: &str, resource: &str, object: &serde_json::Value) -> String {
    let Some(row) = kinds().resource(group, resource) else {
        return String::new();
    };
    let now = 1_767_225_600; // 2026-01-01T00:00:00Z
    let cell = |c: &crate::Column| match &c.cell {
        crate::CellFn::Built(f) => crate::print::text(&f(object, now), ""),
        crate::CellFn::Path(p) => p.to_string(),
    };
    row.columns.iter().map(cell).collect::<Vec<_>>().join(" | ")
}

#[test]
fn what_rows_of_objects_show() {
    use serde_json::json;
    let born = "2025-12-31T23:55:00Z";
    let containers = json!([{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]);
    let meta = json!({"name": "n", "creationTimestamp": born});
    for (group, resource, object, shown) in [
        (
            "apps",
            "deployments",
            json!({"metadata": meta, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}},
                "template": {"spec": {"containers": containers}}},
                "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
            "n | 1/3 | 2 | 1 | 5m | a,b | x:1,y | app=a",
        ),
        (
            "",
            "services",
            json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"],
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}}),
            "n | NodePort | 10.0.0.1 | <none> | 80:30080/TCP | 5m | <none>",
        ),
        (
            "",
            "services",
            json!({"metadata": meta, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}}),
            "n | LoadBalancer | 10.0.0.1 | <pending> | <none> | 5m | <none>",
        ),
        (
            "",
            "nodes",
            json!({"metadata": {"name": "n", "creationTimestamp": born,
                "labels": {"node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
                "nodeInfo": {"kubeletVersion": "v1", "osImage": "D", "kernelVersion": "6", "architecture": "amd64",
                    "containerRuntimeVersion": "c"}}}),
            "n | Ready,SchedulingDisabled | control-plane | 5m | v1 | 1.2.3.4 | <none> | D | 6 (amd64) | c",
        ),
        (
            "",
            "events",
            json!({"metadata": meta, "type": "Normal", "reason": "R", "message": " m\n", "count": 2,
                "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "h"},
                "firstTimestamp": born, "lastTimestamp": "2025-12-31T23:59:30Z"}),
            "30s | Normal | R | pod/p |  | kubelet, h | m | 5m | 2 | n",
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["1", "2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]}),
            "n | IPv4 | 80 | 1,2,3 + 1 more... | 5m",
        ),
        (
            "",
            "endpoints",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "1.1.1.1"}], "ports": [{"port": 80}]}]}),
            "n | 1.1.1.1:80 | 5m",
        ),
        (
            "batch",
            "jobs",
            json!({"metadata": meta, "spec": {"completions": 2, "template": {"spec": {"containers": containers}}},
                "status": {"succeeded": 1, "startTime": born}}),
            "n | Running | 1/2 | 5m | 5m | a,b | x:1,y | <none>",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"metadata": meta, "spec": {"volumeName": "v", "storageClassName": "s", "volumeMode": "Filesystem"},
                "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
            "n | Bound | v | 1Gi | RWO | s | <unset> | 5m | Filesystem",
        ),
    ] {
        assert_eq!(cells(group, resource, &object), shown);
    }
}

/// Upstream's `AllowUnconditionalUpdate` and `AllowCreateOnUpdate`, kind by kind.
#[test]
fn how_kinds_are_replaced() {
    let of = |is: fn(&crate::Row) -> bool| {
        let rows = kinds().rows().iter().filter(|r| is(r));
        rows.map(|r| &*r.kind).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        of(|r| r.needs_version),
        "APIService ClusterTrustBundle PodCertificateRequest PodDisruptionBudget CSIDriver CSINode \
         CSIStorageCapacity VolumeAttachment MutatingAdmissionPolicy MutatingAdmissionPolicyBinding \
         MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding \
         ValidatingWebhookConfiguration CustomResourceDefinition Lease LeaseCandidate RuntimeClass \
         ResourcePoolStatusRequest StorageVersion StorageVersionMigration"
    );
    assert_eq!(
        of(|r| r.put_creates),
        "Endpoints Event LimitRange Service Event ClusterRoleBinding ClusterRole RoleBinding Role \
         Lease LeaseCandidate RuntimeClass"
    );
}
