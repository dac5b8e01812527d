//! What a node may ask for, by what is on it.

use serde_json::json;

use super::*;

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "a" },
        "spec": {
            "nodeName": node, "serviceAccountName": "sa",
            "volumes": [{ "secret": { "secretName": "s" } }, { "projected": { "sources": [{ "configMap": { "name": "c" } }] } }],
            "containers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "e" } } }] }],
        },
    })
}

fn asks(graph: &NodeGraph, verb: &str, resource: &str, sub: &str, name: &str) -> bool {
    let user = UserInfo::new("system:node:n1", &["system:nodes"]);
    let a = Attributes {
        verb,
        is_resource: true,
        resource,
        subresource: sub,
        namespace: "a",
        name,
        ..Attributes::default()
    };
    graph.decide(&user, &a, |_| false).is_allowed()
}

#[test]
fn a_node_asks_for_certificates_of_its_pods_and_sees_its_own_requests() {
    let graph = NodeGraph::default();
    let asks = |verb, resource, subresource, field_selector| {
        let user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let a = Attributes {
            verb,
            is_resource: true,
            group: "certificates.k8s.io",
            resource,
            subresource,
            field_selector,
            ..Attributes::default()
        };
        graph.decide(&user, &a, |_| false).is_allowed()
    };
    let requests = |verb, sub, fields| asks(verb, "podcertificaterequests", sub, fields);
    assert!(requests("create", "", ""));
    assert!(requests("watch", "", "spec.nodeName=n1"));
    assert!(!requests("list", "", "") && !requests("list", "", "spec.nodeName=n2"));
    assert!(!requests("update", "", "") && !requests("update", "status", ""));
    let bundles = |verb| asks(verb, "clustertrustbundles", "", "");
    assert!(bundles("list") && bundles("watch") && !bundles("create"));
}

#[test]
fn a_node_follows_the_snapshots_on_its_disk() {
    let graph = NodeGraph::default();
    let asks = |verb, subresource, name, label_selector| {
        let user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let a = Attributes {
            verb,
            is_resource: true,
            group: local_volumes::SNAPSHOT_GROUP,
            resource: "volumesnapshotcontents",
            subresource,
            name,
            label_selector,
            ..Attributes::default()
        };
        graph.decide(&user, &a, |_| true).is_allowed()
    };
    let own = "tiphys.io/local-volume-node=n1";
    assert!(asks("list", "", "", own) && asks("watch", "", "", own));
    assert!(!asks("list", "", "", "") && !asks("watch", "", "", "tiphys.io/local-volume-node=n2"));
    assert!(asks("patch", "", "c", "") && asks("patch", "status", "c", ""));
    assert!(
        !asks("get", "", "c", "") && !asks("delete", "", "c", "") && !asks("create", "", "", "")
    );
}

#[test]
fn a_node_reads_the_secrets_of_its_pods_volumes() {
    let mut graph = NodeGraph::default();
    let mut own = pod("p", "n1");
    own["spec"]["volumes"] = json!([
        { "persistentVolumeClaim": { "claimName": "c" } },
        { "csi": { "driver": "d", "nodePublishSecretRef": { "name": "inline" } } },
    ]);
    graph.put_pod(&own);
    let secret = |name: &str| json!({ "namespace": "a", "name": name });
    let volume = |stage: &str| {
        json!({ "metadata": { "name": "v" }, "spec": {
            "claimRef": { "namespace": "a", "name": "c" },
            "csi": { "nodeStageSecretRef": secret(stage),
                "nodePublishSecretRef": secret(stage),
                "controllerPublishSecretRef": secret("controller") } } })
    };
    graph.put_volume(&volume("stage"));
    let reads = |graph: &NodeGraph, name: &str| asks(graph, "get", "secrets", "", name);
    assert!(reads(&graph, "stage") && reads(&graph, "inline"));
    assert!(!reads(&graph, "controller"));
    graph.put_volume(&volume("other"));
    assert!(!reads(&graph, "stage") && reads(&graph, "other"));
    graph.delete_pod("a", "p");
    assert!(!reads(&graph, "other"));
    graph.delete_volume("v");
    assert!(graph.secret_volumes.is_empty() && graph.volume_secrets.is_empty());
}

#[test]
fn a_node_reads_what_its_pods_use() {
    let mut graph = NodeGraph::default();
    graph.put_pod(&pod("p", "n1"));
    graph.put_pod(&pod("q", "n1"));
    for (resource, name) in [("secrets", "s"), ("secrets", "e"), ("configmaps", "c")] {
        assert!(asks(&graph, "get", resource, "", name), "{resource} {name}");
    }
    assert!(asks(&graph, "create", "serviceaccounts", "token", "sa"));
    assert!(!asks(&graph, "get", "secrets", "", "other"));
    assert!(!asks(&graph, "list", "secrets", "", ""));
    graph.delete_pod("a", "p");
    assert!(asks(&graph, "get", "secrets", "", "s"));
    graph.put_pod(&pod("q", "n2"));
    assert!(!asks(&graph, "get", "secrets", "", "s"));
}

#[test]
fn leases_and_nodes_are_its_own() {
    let graph = NodeGraph::default();
    let user = UserInfo::new("system:node:n1", &["system:nodes"]);
    let lease = |name| Attributes {
        verb: "update",
        is_resource: true,
        group: "coordination.k8s.io",
        resource: "leases",
        namespace: "kube-node-lease",
        name,
        ..Attributes::default()
    };
    assert!(graph.decide(&user, &lease("n1"), |_| false).is_allowed());
    assert!(!graph.decide(&user, &lease("n2"), |_| true).is_allowed());
    let other = UserInfo::new("system:node:n1", &[]);
    assert!(!graph.decide(&other, &lease("n1"), |_| false).is_allowed());
}

#[test]
fn pods_are_listed_by_node_only() {
    let mut graph = NodeGraph::default();
    graph.put_pod(&pod("p", "n1"));
    let user = UserInfo::new("system:node:n1", &["system:nodes"]);
    let list = |field_selector| Attributes {
        verb: "watch",
        is_resource: true,
        resource: "pods",
        field_selector,
        ..Attributes::default()
    };
    for (selector, want) in [
        ("spec.nodeName=n1", true),
        ("a!=b,spec.nodeName==n1", true),
        ("spec.nodeName=n2", false),
        ("spec.nodeName!=n1", false),
        ("", false),
    ] {
        let got = graph.decide(&user, &list(selector), |_| true).is_allowed();
        assert_eq!(got, want, "{selector}");
    }
    assert!(asks(&graph, "get", "pods", "", "p"));
    assert!(!asks(&graph, "get", "pods", "", "q"));
}

#[test]
fn a_node_sees_the_volumes_on_its_own_disk() {
    let mut graph = NodeGraph::default();
    graph.put_volume(&json!({ "metadata": { "name": "v",
        "labels": { "tiphys.io/local-volume-node": "n1" },
        "annotations": { "pv.kubernetes.io/provisioned-by": "tiphys.io/local" } } }));
    graph.put_volume(&json!({ "metadata": { "name": "other",
        "labels": { "tiphys.io/local-volume-node": "n2" },
        "annotations": { "pv.kubernetes.io/provisioned-by": "tiphys.io/local" } } }));
    // A label alone makes it nobody's.
    graph.put_volume(&json!({ "metadata": { "name": "labelled",
        "labels": { "tiphys.io/local-volume-node": "n1" } } }));
    for verb in ["get", "patch"] {
        assert!(asks(&graph, verb, "persistentvolumes", "", "v"), "{verb}");
        assert!(!asks(&graph, verb, "persistentvolumes", "", "other"));
        assert!(!asks(&graph, verb, "persistentvolumes", "", "labelled"));
    }
    for verb in ["update", "delete", "list"] {
        assert!(!asks(&graph, verb, "persistentvolumes", "", "v"), "{verb}");
    }
    assert!(!asks(&graph, "patch", "persistentvolumes", "status", "v"));
    let user = UserInfo::new("system:node:n1", &["system:nodes"]);
    for (selector, want) in [
        ("tiphys.io/local-volume-node=n1", true),
        ("tiphys.io/local-volume-node in (n1),a=b", true),
        ("tiphys.io/local-volume-node in (n1,n2)", false),
        ("tiphys.io/local-volume-node=n2", false),
        ("tiphys.io/local-volume-node", false),
        ("", false),
    ] {
        let a = Attributes {
            verb: "watch",
            is_resource: true,
            resource: "persistentvolumes",
            label_selector: selector,
            ..Attributes::default()
        };
        let got = graph.decide(&user, &a, |_| false).is_allowed();
        assert_eq!(got, want, "{selector}");
    }
    graph.delete_volume("v");
    assert!(!asks(&graph, "get", "persistentvolumes", "", "v"));
}

#[test]
fn a_volume_is_reached_through_its_claim() {
    let mut graph = NodeGraph::default();
    graph.put_volume(&json!({ "metadata": { "name": "v" }, "spec": { "claimRef": { "namespace": "a", "name": "c" } } }));
    assert!(!asks(&graph, "get", "persistentvolumes", "", "v"));
    graph.put_pod(&json!({
        "metadata": { "name": "p", "namespace": "a" },
        "spec": { "nodeName": "n1", "volumes": [{ "persistentVolumeClaim": { "claimName": "c" } }] },
    }));
    assert!(asks(&graph, "get", "persistentvolumes", "", "v"));
}
