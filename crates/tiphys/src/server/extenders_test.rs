//! An extender with a say in each of its verbs, over HTTPS, in a whole control plane: it filters and
//! scores, binds what it manages, chooses whom preemption takes, and another one that does not
//! answer may be ignored.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, LEAF_DAYS, Subject};

use super::devices_test::{LOOK, control_plane, create};
use super::local;

/// What an extender was asked: the verb and the question.
type ExtenderCalls = Arc<Mutex<Vec<(String, Value)>>>;

const GPU: &str = "example.com/gpu";

/// Binds a pod, as an extender does that has the verb.
async fn bind(client: &Client, asked: &Value) -> Value {
    let word = |name: &str| asked[name].as_str().unwrap_or_default();
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": word("PodName"), "uid": word("PodUID")},
        "target": {"apiVersion": "v1", "kind": "Node", "name": word("Node")}});
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/binding",
        word("PodNamespace"),
        word("PodName")
    );
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(binding.to_string().into_bytes())
        .expect("a request");
    match client.request_text(request).await {
        Ok(_) => json!({}),
        Err(e) => json!({"Error": e.to_string()}),
    }
}

/// It lets pods to node `b` alone, as names or as victims.
async fn answer(client: &Client, path: &str, asked: &Value) -> Value {
    match path {
        "/filter" => {
            let nodes = asked["NodeNames"].as_array().into_iter().flatten();
            let good: Vec<&Value> = nodes.filter(|n| *n == "b").collect();
            json!({"NodeNames": good, "FailedAndUnresolvableNodes": {"a": "no such board"}})
        }
        "/prioritize" => json!([{"Host": "b", "Score": 10}]),
        "/bind" => bind(client, asked).await,
        "/preempt" => {
            json!({"NodeNameToMetaVictims": {"b": asked["NodeNameToMetaVictims"]["b"]}})
        }
        _ => json!({"Error": "what?"}),
    }
}

/// Serves until `stop`; gives its address and what it was asked.
async fn extender(client: Client, stop: CancellationToken) -> (String, ExtenderCalls) {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("an authority");
    let names = Subject::server("extender", &["localhost"], &[]);
    let pair = ca.issue(&names, now, LEAF_DAYS).expect("a certificate");
    let tls = wire::tls::server_config(&pair, None).expect("TLS");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
    let listener = listener.await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let heard = ExtenderCalls::default();
    let log = heard.clone();
    let handle = move |request: http::Request<wire::serve::RequestBody>| {
        let (log, client) = (log.clone(), client.clone());
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.expect("a body");
            let asked: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
            // Before the answer: a pod that is bound is seen at once.
            let heard = (path.clone(), asked.clone());
            log.lock().expect("a log").push(heard);
            let told = answer(&client, &path, &asked).await;
            http::Response::new(Full::new(bytes::Bytes::from(told.to_string())))
        }
    };
    tokio::spawn(wire::serve::serve(listener, tls, handle, stop));
    (format!("https://{address}"), heard)
}

/// The scheduler's configuration: an extender that manages a resource, and one that is away.
fn configuration(url: &str) -> scheduler::Config {
    let file = json!({"apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "extenders": [
            {"urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "weight": 1,
             "bindVerb": "bind", "preemptVerb": "preempt", "enableHTTPS": true,
             "tlsConfig": {"insecure": true}, "nodeCacheCapable": true,
             "managedResources": [{"name": GPU, "ignoredByScheduler": true}]},
            {"urlPrefix": "http://127.0.0.1:1", "filterVerb": "filter", "ignorable": true}]});
    let settings = scheduler::config::read(file).expect("a configuration");
    scheduler::Config {
        profiles: settings.profiles,
        waits: settings.waits,
        extenders: settings.extenders,
        ..scheduler::Config::default()
    }
}

async fn node(client: &Client, name: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    create(&nodes, json!({"metadata": {"name": name}})).await;
    let ready = json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "9"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "m"}]}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(ready));
    let done = nodes.patch_status(name, &params, &patch).await;
    done.expect("a status");
}

fn pod(name: &str, cpu: &str, gpu: bool, priority: Value) -> Value {
    let mut resources = json!({"requests": {"cpu": cpu}});
    if gpu {
        resources["limits"] = json!({GPU: "1"});
        resources["requests"][GPU] = json!("1");
    }
    json!({"metadata": {"name": name}, "spec": {
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
        "priorityClassName": priority,
        "containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn node_of(pods: &Api<Pod>, name: &str) -> String {
    loop {
        let pod = pods.get(name).await.expect("the pod");
        if let Some(node) = pod.spec.and_then(|s| s.node_name) {
            return node;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn paths_about(heard: &ExtenderCalls, pod: &str) -> Vec<String> {
    let heard = heard.lock().expect("a log");
    let about = heard
        .iter()
        .filter(|(_, asked)| asked["Pod"]["metadata"]["name"] == pod || asked["PodName"] == pod);
    about.map(|(path, _)| path.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extender_has_its_say_in_each_verb() {
    let stop = CancellationToken::new();
    // It binds as somebody who may, once the server is there.
    let slot: Arc<std::sync::OnceLock<Client>> = Arc::default();
    let late = slot.clone();
    let client = Client::new(
        tower::service_fn(move |request| {
            let client = late.get().cloned().expect("a server");
            async move { client.send(request).await }
        }),
        "default",
    );
    let (url, heard) = extender(client, stop.clone()).await;
    let server = control_plane(&stop, configuration(&url)).await;
    let admin = local(&server, "admin", &["system:masters"]);
    assert!(slot.set(admin.clone()).is_ok(), "set once");
    let whole = async {
        node(&admin, "a").await;
        node(&admin, "b").await;
        let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
        // Nothing of it is the extender's: nobody asks it.
        create(&pods, pod("plain", "100m", false, Value::Null)).await;
        node_of(&pods, "plain").await;
        assert_eq!(paths_about(&heard, "plain"), Vec::<String>::new());

        create(&pods, pod("low", "3", true, Value::Null)).await;
        assert_eq!(node_of(&pods, "low").await, "b");
        // Again as long as the scheduler did not know the other node.
        let mut paths = paths_about(&heard, "low");
        paths.dedup();
        assert_eq!(paths, ["/filter", "/bind"]);

        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": "high"}, "value": 1000});
        let classes: Api<k8s_openapi::api::scheduling::v1::PriorityClass> = Api::all(admin.clone());
        create(&classes, class).await;
        create(&pods, pod("high", "3500m", true, json!("high"))).await;
        assert_eq!(node_of(&pods, "high").await, "b");
        let paths = paths_about(&heard, "high");
        assert!(paths.contains(&"/preempt".to_owned()), "{paths:?}");
        assert_eq!(paths.last().map(String::as_str), Some("/bind"), "{paths:?}");
        assert!(pods.get_opt("low").await.expect("an answer").is_none());
        {
            let heard = heard.lock().expect("a log");
            let (_, asked) = heard
                .iter()
                .find(|(path, _)| path == "/preempt")
                .expect("asked");
            let victims = &asked["NodeNameToMetaVictims"]["b"]["Pods"];
            assert_eq!(victims.as_array().map(Vec::len), Some(1), "{asked}");
        }
        let events: Api<Event> = Api::namespaced(admin.clone(), "default");
        loop {
            let all = events.list(&ListParams::default()).await.expect("events");
            let told = |e: &Event| {
                e.reason.as_deref() == Some("Preempted")
                    && e.involved_object.name.as_deref() == Some("low")
            };
            if all.iter().any(told) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let all = pods.list(&ListParams::default()).await.expect("pods");
        let mut names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        names.sort();
        assert_eq!(names, ["high", "plain"]);
    };
    let limit = Duration::from_secs(300);
    tokio::time::timeout(limit, whole)
        .await
        .expect("it does not end");
    stop.cancel();
}
