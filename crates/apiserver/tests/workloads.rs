//! What kinds with rules of their own show through the common path: pods, Services, scales,
//! namespaces.

mod common;

use common::{JSON, ask, get, post, raw, request, send, server};
use http::Method;
use serde_json::{Value, json};

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "c", "image": "busybox" }] },
    })
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_pod_is_bound_once_and_listed_by_its_node() {
    let s = server().await;
    let (code, made) = post(&s, PODS, pod("p")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["phase"], "Pending");
    let nominated = json!({ "status": { "nominatedNodeName": "n1" } });
    let (code, hinted) = ask(&s, Method::PATCH, &format!("{PODS}/p/status"), nominated).await;
    assert_eq!(
        (code, &hinted["status"]["nominatedNodeName"]),
        (200, &json!("n1"))
    );
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" },
        "target": { "apiVersion": "v1", "kind": "Node", "name": "n1" },
    });
    let (code, done) = post(&s, &format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!((code, &done["status"]), (201, &json!("Success")), "{done}");
    let (code, again) = post(&s, &format!("{PODS}/p/binding"), binding).await;
    assert_eq!((code, &again["reason"]), (409, &json!("Conflict")));
    let (_, bound) = get(&s, &format!("{PODS}/p")).await;
    assert!(bound["status"]["nominatedNodeName"].is_null(), "{bound}");
    let managers = bound["metadata"]["managedFields"].as_array();
    // Who made it and who nominated: the node is nobody's field, the server sets it.
    assert_eq!(managers.map(Vec::len), Some(2), "{bound}");
    let (_, on) = get(&s, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!(on["items"].as_array().map(Vec::len), Some(1), "{on}");
    assert_eq!(
        on["items"][0]["status"]["conditions"][0]["type"],
        "PodScheduled"
    );
    // Nobody wished for anything else.
    assert_eq!(on["items"][0]["metadata"]["generation"], 1);
    let (_, off) = get(&s, "/api/v1/pods?fieldSelector=spec.nodeName%3D").await;
    assert_eq!(off["items"].as_array().map(Vec::len), Some(0));

    let (code, leaving) = ask(&s, Method::DELETE, &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(
        (code, &leaving["metadata"]["deletionGracePeriodSeconds"]),
        (200, &json!(30)),
        "{leaving}"
    );
    let (code, _) = ask(
        &s,
        Method::DELETE,
        &format!("{PODS}/p?gracePeriodSeconds=0"),
        Value::Null,
    )
    .await;
    assert_eq!((code, get(&s, &format!("{PODS}/p")).await.0), (200, 404));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let s = server().await;
    post(&s, PODS, pod("p")).await;
    let at = format!("{PODS}/p/status");
    let (code, v) = ask(
        &s,
        Method::PATCH,
        &at,
        json!({ "status": { "phase": "Running" }, "spec": { "nodeName": "x" } }),
    )
    .await;
    assert_eq!(
        (code, &v["status"]["phase"]),
        (200, &json!("Running")),
        "{v}"
    );
    assert!(v["spec"].get("nodeName").is_none());
    let (code, v) = ask(
        &s,
        Method::PATCH,
        &format!("{PODS}/p"),
        json!({ "status": { "phase": "Failed" } }),
    )
    .await;
    assert_eq!(
        (code, &v["status"]["phase"]),
        (200, &json!("Running")),
        "{v}"
    );
}

#[tokio::test]
async fn a_deployment_is_scaled_and_counts_generations() {
    let s = server().await;
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let d = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "a": "b" } },
            "template": { "metadata": { "labels": { "a": "b" } }, "spec": pod("x")["spec"] } },
    });
    let (code, made) = post(&s, all, d).await;
    assert_eq!(
        (code, &made["metadata"]["generation"]),
        (201, &json!(1)),
        "{made}"
    );
    let at = format!("{all}/d/scale");
    let (_, scale) = get(&s, &at).await;
    assert_eq!(
        (&scale["kind"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!("a=b"))
    );
    let (code, scale) = ask(&s, Method::PATCH, &at, json!({ "spec": { "replicas": 3 } })).await;
    assert_eq!(
        (code, &scale["spec"]["replicas"]),
        (200, &json!(3)),
        "{scale}"
    );
    // A scale shows nobody who owns it.
    assert_eq!(scale["metadata"].get("managedFields"), None);
    let (_, now) = get(&s, &format!("{all}/d")).await;
    assert_eq!(
        (&now["metadata"]["generation"], &now["spec"]["replicas"]),
        (&json!(2), &json!(3))
    );
    // Its object does: of which version the number is, but not when it was set.
    let managed = now["metadata"]["managedFields"].as_array();
    let of_scale: Vec<&Value> = managed
        .into_iter()
        .flatten()
        .filter(|entry| entry["subresource"] == "scale")
        .collect();
    assert_eq!(
        of_scale,
        [&json!({
            "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "manager": "test",
            "operation": "Update", "subresource": "scale",
            "fieldsV1": { "f:spec": { "f:replicas": {} } },
        })]
    );
}

/// Deletes; gives the finalizers that the answer shows, and the warnings.
async fn delete(s: &apiserver::ApiServer, uri: &str) -> (Value, Vec<String>) {
    let answer = send(s, request(Method::DELETE, uri, JSON, String::new())).await;
    let texts = answer.headers().get_all("warning").iter();
    let warnings = texts
        .map(|w| w.to_str().expect("text").to_owned())
        .collect();
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await;
    let bytes = bytes.expect("body").to_bytes();
    let value: Value = serde_json::from_slice(&bytes).expect("json");
    (value["metadata"]["finalizers"].clone(), warnings)
}

#[tokio::test]
async fn old_kinds_leave_their_pods_unless_asked() {
    let s = server().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let mut spec = pod("x")["spec"].clone();
    spec["restartPolicy"] = "Never".into();
    for name in ["kept", "gone", "foreground"] {
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "template": { "spec": spec } },
        });
        assert_eq!(post(&s, jobs, job).await.0, 201);
    }
    let (finalizers, warnings) = delete(&s, &format!("{jobs}/kept")).await;
    assert_eq!(finalizers, json!(["orphan"]));
    assert!(
        warnings[0].contains("child pods are preserved by default when jobs are deleted"),
        "{warnings:?}"
    );
    let (_, warnings) = delete(&s, &format!("{jobs}/gone?propagationPolicy=Background")).await;
    assert_eq!(warnings, [""; 0]);
    assert_eq!(get(&s, &format!("{jobs}/gone")).await.0, 404);
    let (finalizers, _) = delete(
        &s,
        &format!("{jobs}/foreground?propagationPolicy=Foreground"),
    )
    .await;
    assert_eq!(finalizers, json!(["foregroundDeletion"]));
    // What the first deletion said stays.
    let (finalizers, _) = delete(&s, &format!("{jobs}/foreground")).await;
    assert_eq!(finalizers, json!(["foregroundDeletion"]));

    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let rc = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": "rc" },
        "spec": { "selector": { "app": "x" }, "template": pod("x") },
    });
    let (code, made) = post(&s, controllers, rc).await;
    assert_eq!(code, 201, "{made}");
    let (finalizers, warnings) = delete(&s, &format!("{controllers}/rc")).await;
    assert_eq!((finalizers, warnings.len()), (json!(["orphan"]), 0));
}

#[tokio::test]
async fn services_get_addresses_and_ports_and_give_them_back() {
    let s = server().await;
    let all = "/api/v1/namespaces/default/services";
    let svc = |name: &str, extra: Value| {
        let mut spec = json!({ "ports": [{ "port": 80 }], "selector": { "a": "b" } });
        spec.as_object_mut()
            .expect("map")
            .extend(extra.as_object().expect("map").clone());
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
    };
    let (code, a) = post(&s, all, svc("a", json!({ "type": "NodePort" }))).await;
    assert_eq!(code, 201, "{a}");
    let ip = a["spec"]["clusterIP"].as_str().expect("address").to_owned();
    let port = a["spec"]["ports"][0]["nodePort"].as_u64().expect("port");
    assert!((30_000..=32_767).contains(&port));
    assert_eq!(
        get(&s, &format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
            .await
            .0,
        200
    );

    let (code, taken) = post(&s, all, svc("b", json!({ "clusterIP": ip }))).await;
    assert_eq!(code, 422, "{taken}");
    assert!(
        taken["message"]
            .as_str()
            .is_some_and(|m| m.contains("provided IP is already allocated"))
    );
    let ports = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": port }] });
    let (code, taken) = post(&s, all, svc("b", ports.clone())).await;
    assert_eq!(code, 422, "{taken}");
    assert!(
        taken["message"]
            .as_str()
            .is_some_and(|m| m.contains("provided port is already allocated")),
        "{taken}"
    );

    assert_eq!(
        ask(&s, Method::DELETE, &format!("{all}/a"), Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(
        get(&s, &format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}"))
            .await
            .0,
        404
    );
    let mut both = ports;
    both["clusterIP"] = ip.into();
    assert_eq!(post(&s, all, svc("b", both)).await.0, 201);
    let (_, none) = post(&s, all, svc("h", json!({ "clusterIP": "None" }))).await;
    assert_eq!(none["spec"]["clusterIP"], "None", "{none}");
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizers_are_gone() {
    let s = server().await;
    let ns = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n" } });
    let (code, made) = post(&s, "/api/v1/namespaces", ns).await;
    assert_eq!(
        (code, &made["spec"]["finalizers"]),
        (201, &json!(["kubernetes"])),
        "{made}"
    );
    let (code, v) = ask(&s, Method::DELETE, "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!(
        (code, &v["status"]["phase"]),
        (200, &json!("Terminating")),
        "{v}"
    );
    let mut last = v.clone();
    last["spec"]["finalizers"] = json!([]);
    let (code, v) = ask(&s, Method::PUT, "/api/v1/namespaces/n/finalize", last).await;
    assert_eq!(code, 200, "{v}");
    assert_eq!(get(&s, "/api/v1/namespaces/n").await.0, 404);
}

#[tokio::test]
async fn events_are_one_in_both_groups() {
    let s = server().await;
    let e = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e" }, "reason": "Started",
        "message": "hello", "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p" },
        "type": "Normal",
    });
    let (code, made) = post(&s, "/api/v1/namespaces/default/events", e).await;
    assert_eq!(code, 201, "{made}");
    let (code, other) = get(&s, "/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!(
        (code, &other["apiVersion"]),
        (200, &json!("events.k8s.io/v1")),
        "{other}"
    );
    let (_, some) = get(&s, "/api/v1/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!(some["items"].as_array().map(Vec::len), Some(1), "{some}");
}

/// What conformance wants of the life of events, in both groups (sig-instrumentation): they are made,
/// found by label and by who reports, patched, replaced, and deleted one by one and together.
#[tokio::test]
async fn events_have_a_life_in_both_groups() {
    let s = server().await;
    let at = "2026-01-01T00:00:00.000000Z";
    let core = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": name, "labels": { "set": "core" } },
            "message": "first", "reason": "Test", "type": "Normal",
            "source": { "component": "test-controller" },
            "involvedObject": { "namespace": "default" } })
    };
    let new = |name: &str| {
        json!({ "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": { "name": name, "labels": { "set": "new" } },
            "note": "first", "reason": "Test", "type": "Normal", "action": "Do", "eventTime": at,
            "reportingController": "test-controller", "reportingInstance": "test-node",
            "regarding": { "namespace": "default" } })
    };
    let series = |count: u32| json!({ "count": count, "lastObservedTime": at });
    type Make<'a> = &'a dyn Fn(&str) -> Value;
    let groups: [(&str, &str, Make, Value); 2] = [
        ("/api/v1", "core", &core, json!({ "message": "second" })),
        (
            "/apis/events.k8s.io/v1",
            "new",
            &new,
            json!({ "series": series(2) }),
        ),
    ];
    for (group, set, event, patch) in groups {
        let own = format!("{group}/namespaces/default/events");
        let one = format!("{own}/{set}-0");
        for nth in 0..3 {
            let (code, made) = post(&s, &own, event(&format!("{set}-{nth}"))).await;
            assert_eq!(code, 201, "{made}");
        }
        let labelled = format!("{group}/events?labelSelector=set%3D{set}");
        let count = async |uri: &str| {
            let (code, list) = get(&s, uri).await;
            assert_eq!(code, 200, "{uri}: {list}");
            list["items"].as_array().map(Vec::len)
        };
        assert_eq!(count(&labelled).await, Some(3));
        let media = "application/strategic-merge-patch+json";
        let asked = request(Method::PATCH, &one, media, patch.to_string());
        let (code, patched) = raw(&s, asked).await;
        assert_eq!(code, 200, "{patched}");
        let is_patched = patched["message"] == "second" || patched["series"]["count"] == 2;
        assert!(is_patched, "{patched}");
        let mut whole = patched.clone();
        whole["series"] = series(100);
        let (code, replaced) = ask(&s, Method::PUT, &one, whole).await;
        assert_eq!(code, 200, "{replaced}");
        let (_, seen) = get(&s, &one).await;
        assert_eq!(seen["series"], replaced["series"], "{seen}");
        assert_eq!(seen["series"]["count"], 100, "{seen}");
        let (code, gone) = ask(&s, Method::DELETE, &one, Value::Null).await;
        assert_eq!(code, 200, "{gone}");
        assert_eq!(get(&s, &one).await.0, 404);
        assert_eq!(count(&labelled).await, Some(2));
        let all = format!("{own}?labelSelector=set%3D{set}");
        let (code, gone) = ask(&s, Method::DELETE, &all, Value::Null).await;
        assert_eq!(code, 200, "{gone}");
        assert_eq!(count(&labelled).await, Some(0));
    }
    // Who reports is a field of the core group, whichever way an event came in.
    for (path, event) in [("/api/v1", core("x")), ("/apis/events.k8s.io/v1", new("y"))] {
        let (code, made) = post(&s, &format!("{path}/namespaces/default/events"), event).await;
        assert_eq!(code, 201, "{made}");
    }
    let (_, by_source) = get(&s, "/api/v1/events?fieldSelector=source%3Dtest-controller").await;
    assert_eq!(
        by_source["items"].as_array().map(Vec::len),
        Some(2),
        "{by_source}"
    );
    let reporting = "/api/v1/events?fieldSelector=reportingComponent%3Dtest-controller";
    let (_, by_reporter) = get(&s, reporting).await;
    assert_eq!(
        by_reporter["items"][0]["metadata"]["name"], "y",
        "{by_reporter}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_services_at_once_get_different_ports() {
    let s = server().await;
    let mut all = Vec::new();
    for i in 0..40 {
        let s = s.clone();
        all.push(tokio::spawn(async move {
            let svc = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{i}") },
                "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } });
            post(&s, "/api/v1/namespaces/default/services", svc).await
        }));
    }
    let mut seen = std::collections::BTreeSet::new();
    for one in all {
        let (code, v) = one.await.expect("task");
        assert_eq!(code, 201, "{v}");
        assert!(seen.insert(v["spec"]["ports"][0]["nodePort"].to_string()));
        assert!(seen.insert(v["spec"]["clusterIP"].to_string()));
    }
}

/// Server-side apply of a scale: the number is owned by whoever applied it, and by nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_applied_and_owned() {
    let s = server().await;
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let apply = async |uri: String, body: Value| {
        let media = "application/apply-patch+yaml";
        raw(&s, request(Method::PATCH, &uri, media, body.to_string())).await
    };
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": 2, "selector": { "matchLabels": { "a": "b" } },
            "template": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    });
    let (code, made) = apply(format!("{path}?fieldManager=one"), deployment).await;
    assert_eq!(code, 201, "{made}");
    let scale = |count: i64| json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "web" }, "spec": { "replicas": count } });
    let (code, refused) = apply(format!("{path}/scale?fieldManager=two"), scale(5)).await;
    assert_eq!(code, 409, "{refused}");
    let why = refused["message"].as_str().unwrap_or_default();
    assert!(why.contains(".spec.replicas"), "{why}");
    let forced = format!("{path}/scale?fieldManager=two&force=true");
    let (code, refused) = apply(forced.clone(), scale(-1)).await;
    assert_eq!(code, 422, "{refused}");
    let (code, other) = apply(forced.clone(), json!({ "apiVersion": "v1", "kind": "Pod" })).await;
    assert_eq!(code, 400, "{other}");
    let (code, done) = apply(forced.clone(), scale(5)).await;
    assert_eq!(
        (code, &done["kind"], &done["spec"]["replicas"]),
        (200, &json!("Scale"), &json!(5))
    );
    let (_, now) = get(&s, path).await;
    assert_eq!(now["spec"]["replicas"], 5);
    let managers = now["metadata"]["managedFields"].as_array().cloned();
    let two: Vec<Value> = managers
        .into_iter()
        .flatten()
        .filter(|m| m["manager"] == "two")
        .collect();
    assert_eq!(two.len(), 1, "{two:?}");
    assert_eq!(
        (
            &two[0]["operation"],
            &two[0]["subresource"],
            &two[0]["fieldsV1"]
        ),
        (
            &json!("Apply"),
            &json!("scale"),
            &json!({ "f:spec": { "f:replicas": {} } })
        )
    );
    // What is missing is not made by its scale.
    let none = path.replace("/web", "/none");
    let missing =
        json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "spec": { "replicas": 1 } });
    let (code, _) = apply(format!("{none}/scale?fieldManager=two"), missing).await;
    assert_eq!(code, 404);
}
