//! What admission gives to pods and refuses: limit ranges, quotas, Pod Security, and the plugins that
//! are off unless somebody turns them on.

mod common;

use apiserver::ApiServer;
use apiserver::admission::{self, Options, configuration};
use common::{ask, get, post, request, send, server_with};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/a/pods";
const QUOTAS: &str = "/api/v1/namespaces/a/resourcequotas";

/// A server with the plugins of every cluster, a namespace and its service account.
async fn cluster(options: &Options) -> ApiServer {
    let mut config = common::open_config();
    config.admission = admission::standard(options);
    let s = server_with(config).await;
    namespace(&s, json!({})).await;
    s
}

async fn namespace(s: &ApiServer, labels: Value) {
    let ns = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a", "labels": labels } });
    made(s, "/api/v1/namespaces", ns).await;
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    made(s, "/api/v1/namespaces/a/serviceaccounts", account).await;
}

async fn made(s: &ApiServer, uri: &str, object: Value) -> Value {
    let (code, made) = post(s, uri, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

async fn refused(s: &ApiServer, uri: &str, object: Value) -> String {
    let (code, status) = post(s, uri, object).await;
    assert_eq!(code, 403, "{status}");
    status["message"].as_str().unwrap_or_default().to_owned()
}

fn pod(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

fn pod_with(name: &str, resources: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

/// Asks; gives the code and the warnings.
async fn warned(s: &ApiServer, method: Method, uri: &str, body: Value) -> (u16, Vec<String>) {
    let content = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        common::JSON
    };
    let answer = send(s, request(method, uri, content, body.to_string())).await;
    let code = answer.status().as_u16();
    let all = answer.headers().get_all("warning").iter();
    let all = all
        .filter_map(|v| v.to_str().ok())
        .map(str::to_owned)
        .collect();
    answer.into_body().collect().await.expect("body");
    (code, all)
}

#[tokio::test]
async fn limit_ranges_give_and_refuse() {
    let s = cluster(&Options::default()).await;
    let range = json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "r" },
        "spec": { "limits": [
            { "type": "Container", "max": { "cpu": "2" }, "defaultRequest": { "cpu": "100m" } },
            { "type": "PersistentVolumeClaim", "max": { "storage": "1Gi" } } ] } });
    let made_range = made(&s, "/api/v1/namespaces/a/limitranges", range).await;
    let defaults = &made_range["spec"]["limits"][0];
    assert_eq!(defaults["default"]["cpu"], "2");
    let plain = made(&s, PODS, pod("plain")).await;
    assert_eq!(
        plain["spec"]["containers"][0]["resources"],
        json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "2" } })
    );
    assert_eq!(
        plain["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    assert_eq!(plain["status"]["qosClass"], "Burstable");
    let large = pod_with("large", json!({ "limits": { "cpu": "3" } }));
    assert_eq!(
        refused(&s, PODS, large).await,
        "pods \"large\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
    );
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "c" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "2Gi" } } } });
    assert_eq!(
        refused(&s, "/api/v1/namespaces/a/persistentvolumeclaims", claim).await,
        "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
    );
}

async fn quota(s: &ApiServer, name: &str, spec: Value) {
    let object = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": name }, "spec": spec });
    made(s, QUOTAS, object).await;
}

/// What the controller would do.
async fn counted(s: &ApiServer, name: &str, used: Value) {
    let uri = format!("{QUOTAS}/{name}");
    let mut quota = get(s, &uri).await.1;
    quota["status"] = json!({ "hard": quota["spec"]["hard"], "used": used });
    let (code, done) = ask(s, Method::PUT, &format!("{uri}/status"), quota).await;
    assert_eq!(code, 200, "{done}");
}

async fn used(s: &ApiServer, name: &str) -> Value {
    get(s, &format!("{QUOTAS}/{name}")).await.1["status"]["used"].clone()
}

#[tokio::test]
async fn a_quota_is_charged_with_the_object() {
    let s = cluster(&Options::default()).await;
    quota(&s, "q", json!({ "hard": { "pods": "2", "requests.cpu": "1", "services.nodeports": "1", "count/configmaps": "1" } })).await;
    let half = || json!({ "requests": { "cpu": "600m" } });
    // Nobody has taken it up: nothing is enforced yet.
    made(&s, PODS, pod("before")).await;
    counted(&s, "q", json!({ "pods": "1", "requests.cpu": "0", "services.nodeports": "0", "count/configmaps": "0" })).await;
    assert_eq!(
        refused(&s, PODS, pod("silent")).await,
        "pods \"silent\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let dry = post(&s, &format!("{PODS}?dryRun=All"), pod_with("dry", half())).await;
    assert_eq!((dry.0, &used(&s, "q").await["pods"]), (201, &json!("1")));
    made(&s, PODS, pod_with("one", half())).await;
    assert_eq!(used(&s, "q").await["requests.cpu"], "600m");
    assert_eq!(
        refused(&s, PODS, pod_with("two", half())).await,
        "pods \"two\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=2,requests.cpu=600m, limited: pods=2,requests.cpu=1"
    );
    // What is refused behind admission is not charged.
    let taken = post(
        &s,
        PODS,
        pod_with("one", json!({ "requests": { "cpu": "0" } })),
    )
    .await;
    assert!(matches!(taken.0, 403 | 409), "{taken:?}");
    assert_eq!(used(&s, "q").await["pods"], "2");
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
        "spec": { "ports": [{ "port": 80 }] } });
    made(&s, "/api/v1/namespaces/a/services", service).await;
    let to_port = json!({ "spec": { "type": "NodePort" } });
    let (code, done) = ask(
        &s,
        Method::PATCH,
        "/api/v1/namespaces/a/services/s",
        to_port,
    )
    .await;
    assert_eq!(code, 200, "{done}");
    assert_eq!(used(&s, "q").await["services.nodeports"], "1");
    let more =
        json!({ "spec": { "ports": [{ "name": "a", "port": 80 }, { "name": "b", "port": 81 }] } });
    let (code, done) = ask(&s, Method::PATCH, "/api/v1/namespaces/a/services/s", more).await;
    assert_eq!(code, 403, "{done}");
    let map = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    let maps = "/api/v1/namespaces/a/configmaps";
    made(&s, maps, map("m")).await;
    assert_eq!(
        refused(&s, maps, map("n")).await,
        "configmaps \"n\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"
    );
}

#[tokio::test]
async fn claims_of_devices_are_charged_for_what_their_class_stands_for() {
    let s = cluster(&Options::default()).await;
    let class = json!({ "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
        "metadata": { "name": "gpu" }, "spec": { "extendedResourceName": "example.com/gpu" } });
    made(&s, "/apis/resource.k8s.io/v1/deviceclasses", class).await;
    let name = "requests.example.com/gpu";
    quota(&s, "q", json!({ "hard": { name: "3" } })).await;
    counted(&s, "q", json!({ name: "0" })).await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims";
    let claim = |name: &str, count: i64| {
        json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": { "name": name }, "spec": { "devices": { "requests": [{ "name": "r",
                "exactly": { "deviceClassName": "gpu", "allocationMode": "ExactCount",
                    "count": count } }] } } })
    };
    made(&s, claims, claim("two", 2)).await;
    assert_eq!(used(&s, "q").await[name], "2");
    let why = refused(&s, claims, claim("more", 2)).await;
    let wanted =
        format!("exceeded quota: q, requested: {name}=2, used: {name}=2, limited: {name}=3");
    assert!(why.contains(&wanted), "{why}");
    // What a pod has been charged for, the claim that is made for it is not.
    let one = json!({ "example.com/gpu": "1" });
    let asks = pod_with("p", json!({ "requests": one, "limits": one }));
    let pod = made(&s, PODS, asks).await;
    assert_eq!(used(&s, "q").await[name], "3");
    let mut own = claim("own", 1);
    let mark = json!({ "resource.kubernetes.io/extended-resource-claim": "true" });
    own["metadata"]["annotations"] = mark;
    own["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Pod",
        "name": "p", "uid": pod["metadata"]["uid"], "controller": true }]);
    made(&s, claims, own.clone()).await;
    assert_eq!(used(&s, "q").await[name], "3");
    own["metadata"]["name"] = json!("second");
    let why = refused(&s, claims, own).await;
    assert!(why.contains("exceeded quota: q"), "{why}");
}

#[tokio::test]
async fn a_count_that_missed_something_is_not_stored() {
    let s = cluster(&Options::default()).await;
    quota(&s, "q", json!({ "hard": { "pods": "1" } })).await;
    let uri = format!("{QUOTAS}/q");
    let mut counting = get(&s, &uri).await.1;
    // Counted: nothing. Then a pod comes, and then the count is to be stored.
    made(&s, PODS, pod("missed")).await;
    counting["status"] = json!({ "hard": { "pods": "1" }, "used": { "pods": "0" } });
    let stored = ask(&s, Method::PUT, &format!("{uri}/status"), counting).await;
    assert_eq!(stored.0, 409, "{}", stored.1);
}

#[tokio::test]
async fn what_is_limited_needs_a_quota() {
    let mut options = Options::default();
    let document = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [
        { "name": "ResourceQuota", "configuration": { "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "ResourceQuotaConfiguration", "limitedResources": [
                { "resource": "configmaps", "matchContains": ["count/configmaps"] }] } }] });
    configuration::read(&mut options, document, |_| Err(String::new())).expect("configuration");
    let s = cluster(&options).await;
    let map = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    let maps = "/api/v1/namespaces/a/configmaps";
    assert_eq!(
        refused(&s, maps, map("m")).await,
        "configmaps \"m\" is forbidden: insufficient quota to consume: count/configmaps"
    );
    quota(&s, "q", json!({ "hard": { "count/configmaps": "1" } })).await;
    counted(&s, "q", json!({ "count/configmaps": "0" })).await;
    made(&s, maps, map("m")).await;
}

#[tokio::test]
async fn pods_are_held_against_the_standards_of_their_namespace() {
    let s = cluster(&Options::default()).await;
    let labels = |labels: Value| json!({ "metadata": { "labels": labels } });
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = json!(true);
    made(&s, PODS, host.clone()).await;
    // A higher level warns of what is there.
    let baseline = labels(json!({ "pod-security.kubernetes.io/enforce": "baseline" }));
    let (code, warnings) = warned(&s, Method::PATCH, "/api/v1/namespaces/a", baseline).await;
    assert_eq!(code, 200);
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \\\"a\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"host: host namespaces\""
        ]
    );
    host["metadata"]["name"] = json!("other");
    assert_eq!(
        refused(&s, PODS, host).await,
        "pods \"other\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    made(&s, PODS, pod("plain")).await;
    let warn = labels(json!({ "pod-security.kubernetes.io/warn": "restricted" }));
    assert_eq!(
        ask(&s, Method::PATCH, "/api/v1/namespaces/a", warn).await.0,
        200
    );
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } } });
    let uri = "/apis/apps/v1/namespaces/a/deployments";
    let (code, warnings) = warned(&s, Method::POST, uri, deployment).await;
    assert_eq!(code, 201);
    assert!(
        warnings[0].starts_with("299 - \"would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false (container"),
        "{warnings:?}"
    );
    let wrong = labels(json!({ "pod-security.kubernetes.io/audit": "strict" }));
    let (code, status) = ask(&s, Method::PATCH, "/api/v1/namespaces/a", wrong).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Namespace \"a\" is invalid: metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn plugins_are_turned_on_and_off() {
    let mut options = Options::default();
    let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect();
    let on = names(&[
        "AlwaysPullImages",
        "DenyServiceExternalIPs",
        "StorageObjectInUseProtection",
        "ExtendedResourceToleration",
        "LimitPodHardAntiAffinityTopology",
    ]);
    options
        .choose(on, names(&["DefaultTolerationSeconds"]))
        .expect("known names");
    let s = cluster(&options).await;
    let asked = pod_with("p", json!({ "limits": { "example.com/gpu": "1" } }));
    let made_pod = made(&s, PODS, asked).await;
    assert_eq!(
        made_pod["spec"]["containers"][0]["imagePullPolicy"],
        "Always"
    );
    assert_eq!(
        made_pod["spec"]["tolerations"],
        json!([{ "key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule" }])
    );
    let mut apart = pod("apart");
    apart["spec"]["affinity"] = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "zone", "labelSelector": {} }] } });
    assert!(
        refused(&s, PODS, apart)
            .await
            .contains("has TopologyKey zone but only key kubernetes.io/hostname is allowed")
    );
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
        "spec": { "ports": [{ "port": 80 }], "externalIPs": ["192.0.2.7"] } });
    assert!(
        refused(&s, "/api/v1/namespaces/a/services", service)
            .await
            .ends_with("Use of external IPs is denied by admission control")
    );
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "c" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "2Gi" } } } });
    let claim = made(&s, "/api/v1/namespaces/a/persistentvolumeclaims", claim).await;
    assert_eq!(
        claim["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    let class = json!({ "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
        "metadata": { "name": "fast" }, "driverName": "d.example", "parameters": { "a": "b" } });
    let classes = "/apis/storage.k8s.io/v1/volumeattributesclasses";
    let class = made(&s, classes, class).await;
    assert_eq!(
        class["metadata"]["finalizers"],
        json!(["kubernetes.io/vac-protection"])
    );
}
