//! Discovery, health, version, figures.

mod common;

use common::{get, server};

#[tokio::test]
async fn what_the_server_says_of_itself() {
    let s = server().await;
    for uri in [
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz/etcd",
        "/readyz/etcd-readiness",
        "/readyz/poststarthook/storage-readiness",
    ] {
        assert_eq!(get(&s, uri).await, (200, "ok".into()), "{uri}");
    }
    assert_eq!(get(&s, "/livez/etcd-readiness").await.0, 404);
    let (_, text) = get(&s, "/readyz?verbose").await;
    assert!(text.as_str().is_some_and(|t| t.contains("[+]etcd ok")));
    let (_, version) = get(&s, "/version").await;
    assert_eq!(version["minor"], "36");
    let (_, groups) = get(&s, "/apis").await;
    assert!(groups["groups"].as_array().is_some_and(|g| g.len() > 15));
    let (_, core) = get(&s, "/api/v1").await;
    let names: Vec<&str> = core["resources"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert!(names.contains(&"pods") && names.contains(&"pods/status"));
    let (code, metrics) = get(&s, "/metrics").await;
    assert_eq!(code, 200);
    assert!(
        metrics
            .as_str()
            .is_some_and(|m| m.contains("apiserver_request_total"))
    );
    assert_eq!(get(&s, "/readyz").await.0, 200);
    let (code, checks) = get(&s, "/metrics/slis").await;
    let checks = checks.as_str().unwrap_or_default();
    assert_eq!(code, 200);
    for line in [
        "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1\n",
        "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"readyz\"} ",
        "process_start_time_seconds ",
    ] {
        assert!(checks.contains(line), "{line} is not in {checks}");
    }
    assert_eq!(get(&s, "/nothing").await.0, 404);
}

#[tokio::test]
async fn a_cluster_starts_with_its_objects() {
    let s = server().await;
    for uri in [
        "/api/v1/namespaces/kube-system",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/kube-system/services/kube-dns",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
    ] {
        let (code, v) = get(&s, uri).await;
        assert_eq!(code, 200, "{uri}: {v}");
    }
}
