//! Which APIs a server serves by its configuration, as clients see it over TLS.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use std::sync::Arc;

use apiserver::Config;
use http::Method;
use over_tls::{Running, ask, start};
use registry::{Features, served_versions};
use serde_json::{Value, json};

fn configured(config: &mut Config, gates: &[&str], apis: &[&str]) {
    let features = Features::read(gates).expect("known gates");
    let served = served_versions::configured(apis, &features).expect("known APIs");
    config.settings.kinds = served.kinds;
    config.settings.features = Arc::new(features);
}

async fn get(running: &Running, path: &str) -> (u16, Value) {
    ask(&running.admin().await, Method::GET, path, &Value::Null).await
}

fn versions(group: &Value) -> Vec<&str> {
    let all = group["versions"].as_array().map(Vec::as_slice);
    let all = all.unwrap_or_default().iter();
    all.filter_map(|v| v["groupVersion"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stable_is_served() {
    let running = start(|_| {}).await;
    let (_, groups) = get(&running, "/apis").await;
    let groups = groups["groups"].as_array().expect("groups");
    let all: Vec<&str> = groups.iter().flat_map(versions).collect();
    let odd = all
        .iter()
        .filter(|v| v.contains("alpha") || v.contains("beta"));
    assert_eq!(odd.collect::<Vec<_>>(), [&"metrics.k8s.io/v1beta1"]);
    for path in [
        "/apis/certificates.k8s.io/v1beta1",
        "/apis/certificates.k8s.io/v1beta1/clustertrustbundles",
        "/apis/internal.apiserver.k8s.io",
        "/apis/admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicies",
        "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.certificates.k8s.io",
        "/openapi/v3/apis/certificates.k8s.io/v1beta1",
    ] {
        assert_eq!(get(&running, path).await.0, 404, "{path}");
    }
    let (_, kept) = get(&running, "/apis/apiregistration.k8s.io/v1/apiservices").await;
    let kept = kept["items"].as_array().expect("items");
    assert!(!kept.iter().any(|a| a["spec"]["version"] == "v1alpha1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_come_and_go_by_the_configuration() {
    let apis = [
        "api/beta=true",
        "coordination.k8s.io/v1alpha2=true",
        "autoscaling/v1=false",
        "batch/v1/cronjobs=false",
    ];
    let gates = ["ClusterTrustBundle=true,WatchList=false"];
    let running = start(|c| configured(c, &gates, &apis)).await;
    for (path, wanted) in [
        ("/apis/autoscaling", vec!["autoscaling/v2"]),
        (
            "/apis/coordination.k8s.io",
            vec![
                "coordination.k8s.io/v1",
                "coordination.k8s.io/v1beta1",
                "coordination.k8s.io/v1alpha2",
            ],
        ),
    ] {
        let (code, group) = get(&running, path).await;
        assert_eq!((code, versions(&group)), (200, wanted));
    }
    assert_eq!(get(&running, "/apis/batch/v1/cronjobs").await.0, 404);
    assert_eq!(get(&running, "/apis/batch/v1/jobs").await.0, 200);
    let (_, batch) = get(&running, "/apis/batch/v1").await;
    assert!(!batch["resources"].to_string().contains("cronjobs"));
    // A kind that is off by default takes the way of all others.
    let candidates = "/apis/coordination.k8s.io/v1alpha2/namespaces/default/leasecandidates";
    let candidate = json!({"metadata": {"name": "a"}, "spec": {"leaseName": "l", "strategy": "OldestEmulationVersion",
        "emulationVersion": "1.36.0", "binaryVersion": "1.36.0"}});
    let admin = running.admin().await;
    let (code, made) = ask(&admin, Method::POST, candidates, &candidate).await;
    assert_eq!(
        (code, &made["apiVersion"]),
        (200, &json!("coordination.k8s.io/v1alpha2"))
    );
    let beta = "/apis/coordination.k8s.io/v1beta1/namespaces/default/leasecandidates/a";
    assert_eq!(get(&running, beta).await.0, 200);
    assert_eq!(
        get(
            &running,
            "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"
        )
        .await
        .0,
        200
    );
    let alpha = "/apis/certificates.k8s.io/v1alpha1/clustertrustbundles";
    assert_eq!(get(&running, alpha).await.0, 404);
    assert_eq!(
        get(
            &running,
            "/apis/certificates.k8s.io/v1beta1/podcertificaterequests"
        )
        .await
        .0,
        404
    );
    let watch = "/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let (code, said) = get(&running, watch).await;
    assert_eq!(code, 422);
    let words =
        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    assert!(
        said["message"].as_str().is_some_and(|m| m.contains(words)),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_features_that_are_off_are_dropped() {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let spec =
        json!({ "holderIdentity": "a", "strategy": "example.com/mine", "preferredHolder": "b" });
    let lease = json!({ "metadata": { "name": "l" }, "spec": spec });
    for (gate, kept) in [
        ("CoordinatedLeaderElection=false", false),
        ("CoordinatedLeaderElection=true", true),
    ] {
        let running = start(|config| configured(config, &[gate], &[])).await;
        let admin = running.admin().await;
        let (code, made) = ask(&admin, Method::POST, leases, &lease).await;
        assert_eq!(code, 200, "{made}");
        let wanted = if kept {
            spec.clone()
        } else {
            json!({ "holderIdentity": "a" })
        };
        assert_eq!(made["spec"], wanted);
    }
}
