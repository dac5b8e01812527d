//! The running scheduler against a small stand-in for the API: what it writes, and what it does
//! when writes fail.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use clock::watch;
use futures::stream::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use parking_lot::Mutex;
use scheduler::{Config, run};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;
type News = (u64, String, Value);

#[derive(Default)]
struct State {
    version: u64,
    /// By path below `/api/v1/`, as `namespaces/d/pods/a` or `nodes/n`.
    objects: BTreeMap<String, Value>,
    /// Version, resource and watch event.
    news: Vec<News>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    /// Answers to the next bindings: code, and whether the pod is bound nevertheless.
    trouble: Vec<(u16, bool)>,
    /// How often it is asked in vain what is served.
    unanswered: usize,
    /// Whether groups of pods are not served.
    lacks_groups: bool,
    binds: usize,
}

/// A stand-in for the API server.
#[derive(Clone)]
struct Api {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

/// An event of a watch, its type first, as API servers send it.
fn line(event: &Value) -> Bytes {
    let (kind, object) = (&event["type"], &event["object"]);
    Bytes::from(format!("{{\"type\":{kind},\"object\":{object}}}\n"))
}

impl State {
    fn write(&mut self, path: &str, object: Option<Value>) {
        let resource = path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        self.version += 1;
        let (kind, mut object) = match object {
            Some(new) if self.objects.contains_key(path) => ("MODIFIED", new),
            Some(new) => ("ADDED", new),
            None => ("DELETED", self.objects.remove(path).unwrap_or_default()),
        };
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if kind != "DELETED" {
            self.objects.insert(path.to_owned(), object.clone());
        }
        let event = json!({"type": kind, "object": object});
        self.watchers
            .retain(|(r, w)| *r != resource || w.send(line(&event)).is_ok());
        self.news.push((self.version, resource, event));
    }

    /// The groups of the API, as far as a scheduler asks for them.
    fn discovery(&mut self) -> (u16, Value) {
        if self.unanswered > 0 {
            self.unanswered -= 1;
            let status = json!({"kind": "Status", "status": "Failure", "code": 503,
                                "message": "not now", "reason": "ServiceUnavailable"});
            return (503, status);
        }
        let groups = json!({"resource": "podgroups", "scope": "Namespaced",
            "responseKind": {"kind": "PodGroup"}, "verbs": ["list", "watch"]});
        let resources = if self.lacks_groups {
            json!([])
        } else {
            json!([groups])
        };
        let group = json!({"metadata": {"name": "scheduling.k8s.io"},
            "versions": [{"version": "v1alpha2", "resources": resources}]});
        (200, json!({"items": [group]}))
    }

    fn bind(&mut self, path: &str, binding: &Value) -> (u16, Value) {
        let (code, really) = self.trouble.pop().unwrap_or((201, true));
        if really && let Some(mut pod) = self.objects.get(path).cloned() {
            assert_eq!(binding["metadata"]["uid"], pod["metadata"]["uid"]);
            pod["spec"]["nodeName"] = binding["target"]["name"].clone();
            self.write(path, Some(pod));
            self.binds += 1;
        }
        let status = if code < 300 { "Success" } else { "Failure" };
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code,
                          "status": status, "message": "so it is", "reason": "Test"});
        (code, body)
    }
}

impl Api {
    fn new() -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(())),
        }
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        client::in_process(tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        }))
    }

    async fn serve(&self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = head.uri.path();
        let grouped = path.strip_prefix("/apis/");
        let path = match grouped.and_then(|p| p.splitn(3, '/').nth(2)) {
            Some(path) => path.to_owned(),
            None => path.trim_start_matches("/api/v1/").to_owned(),
        };
        let query = head.uri.query().unwrap_or_default();
        if head.method == Method::GET && query.contains("watch=true") {
            return self.watch(&path, query);
        }
        let (code, out) = match path.as_str() {
            "/api" => (200, json!({"items": []})),
            "/apis" => self.state.lock().discovery(),
            path => self.answer(&head.method, path, &body),
        };
        self.changed.send_replace(());
        let out = Full::new(Bytes::from(out.to_string()));
        let mut response = Response::new(out.boxed_unsync());
        *response.status_mut() = code.try_into().expect("a code");
        response
    }

    fn watch(&self, resource: &str, query: &str) -> Reply {
        let since = query
            .split('&')
            .find_map(|p| p.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|v| v.parse().ok()).unwrap_or(0);
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        for (_, _, event) in state
            .news
            .iter()
            .filter(|(v, r, _)| *v > since && r == resource)
        {
            sender.send(line(event)).expect("the receiver is here");
        }
        state.watchers.push((resource.to_owned(), sender));
        drop(state);
        self.changed.send_replace(());
        let stream =
            futures::stream::unfold(receiver, |mut r| async move { Some((r.recv().await?, r)) });
        let frames = stream.map(|bytes| Ok(http_body_frame(bytes)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn answer(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let mut state = self.state.lock();
        if let Some(path) = path.strip_suffix("/binding") {
            return state.bind(path, body);
        }
        if method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default();
            state.write(&format!("{path}/{name}"), Some(body.clone()));
            return (201, body.clone());
        }
        if method == Method::GET && !path.contains('/') {
            let ending = format!("{path}/");
            let items: Vec<&Value> = state
                .objects
                .iter()
                .filter(|(p, _)| {
                    p.rsplit_once('/')
                        .is_some_and(|(p, _)| format!("{p}/").ends_with(&ending))
                })
                .map(|(_, o)| o)
                .collect();
            let version = state.version.to_string();
            return (
                200,
                json!({"metadata": {"resourceVersion": version}, "items": items}),
            );
        }
        let path = path.strip_suffix("/status").unwrap_or(path);
        let Some(mut object) = state.objects.get(path).cloned() else {
            return (
                404,
                json!({"kind": "Status", "status": "Failure", "code": 404,
                                "message": "not found", "reason": "NotFound"}),
            );
        };
        if method == Method::PATCH {
            for (key, value) in body["status"].as_object().into_iter().flatten() {
                object["status"][key] = value.clone();
            }
            state.write(path, Some(object.clone()));
        } else if method == Method::DELETE {
            state.write(path, None);
        }
        (200, object)
    }

    fn put(&self, path: &str, object: Value) {
        self.state.lock().write(path, Some(object));
    }

    /// Waits until the state is so.
    async fn until(&self, so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !so(&self.state.lock()) {
            changed.changed().await.expect("the API lives");
        }
    }

    fn node(&self, name: &str, cpu: &str) {
        self.put(
            &format!("nodes/{name}"),
            json!({"metadata": {"name": name}, "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}}),
        );
    }

    fn pod(&self, name: &str, cpu: &str, priority: i32, node: Option<&str>) {
        self.put(
            &format!("namespaces/d/pods/{name}"),
            json!({
            "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
            "spec": {"priority": priority, "nodeName": node, "schedulerName": "default-scheduler",
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {}}),
        );
    }

    fn start(&self) -> Running {
        let stop = CancellationToken::new();
        let mut config = Config::default();
        config.waits.first_back_off_ms = 0;
        config.waits.longest_back_off_ms = 0;
        let (client, ended) = (self.client(), stop.clone());
        let (clock, random) = (clock::Clock::system(), clock::Random::system());
        let informers = control::trimmed::informers(client.clone(), clock, random);
        let task = tokio::spawn(async move { run(&informers, client, config, ended).await });
        Running { stop, task }
    }
}

fn http_body_frame(bytes: Bytes) -> http_body::Frame<Bytes> {
    http_body::Frame::data(bytes)
}

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), scheduler::Error>>,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }
}

fn pods(state: &State) -> impl Iterator<Item = &Value> {
    let pods = state.objects.iter().filter(|(p, _)| p.contains("/pods/"));
    pods.map(|(_, o)| o)
}

fn on(state: &State, node: &str) -> usize {
    pods(state)
        .filter(|p| p["spec"]["nodeName"] == node)
        .count()
}

fn event(state: &State, reason: &str, message: &str) -> bool {
    state.objects.iter().any(|(path, e)| {
        path.contains("/events/") && e["reason"] == reason && e["message"] == message
    })
}

#[tokio::test]
async fn all_are_bound_though_bindings_fail() {
    let api = Api::new();
    for name in ["a", "b", "c"] {
        api.node(name, "1");
    }
    for i in 0..30 {
        api.pod(&format!("p{i}"), "100m", 0, None);
    }
    // Refused; failed; failed, but bound nevertheless.
    api.state.lock().trouble = vec![(409, false), (500, false), (500, true)];
    let running = api.start();
    api.until(|s| {
        for node in ["a", "b", "c"] {
            assert!(on(s, node) <= 10, "{node} has too many pods");
        }
        pods(s).all(|p| p["spec"]["nodeName"].is_string())
    })
    .await;
    assert_eq!(api.state.lock().binds, 30);
    // A refusal by which the pod is somebody else's is not reported.
    let failed = "running Bind plugin \"DefaultBinder\": so it is";
    api.until(|s| event(s, "FailedScheduling", failed)).await;
    api.until(|s| {
        ["a", "b", "c"].iter().any(|n| {
            event(
                s,
                "Scheduled",
                &format!("Successfully assigned d/p7 to {n}"),
            )
        })
    })
    .await;
    running.end().await;
}

#[tokio::test]
async fn an_unschedulable_pod_says_why_and_goes_when_it_can() {
    let api = Api::new();
    let running = api.start();
    api.pod("big", "3", 0, None);
    let reported = |s: &State, message: &str| {
        pods(s).any(|p| {
            let c = &p["status"]["conditions"][0];
            c["type"] == "PodScheduled"
                && c["status"] == "False"
                && c["reason"] == "Unschedulable"
                && c["message"] == message
        }) && event(s, "FailedScheduling", message)
    };
    api.until(|s| reported(s, "no nodes available to schedule pods"))
        .await;
    api.node("small", "2");
    api.until(|s| {
        reported(
            s,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes \
        are available: 1 Preemption is not helpful for scheduling.",
        )
    })
    .await;
    api.node("large", "4");
    api.until(|s| on(s, "large") == 1).await;
    running.end().await;
}

#[tokio::test]
async fn a_more_important_pod_gets_its_room() {
    let api = Api::new();
    api.node("a", "2");
    api.pod("low", "2", 0, Some("a"));
    api.pod("high", "2", 10, None);
    let running = api.start();
    api.until(|s| on(s, "a") == 1 && pods(s).count() == 1).await;
    {
        let state = api.state.lock();
        let high = pods(&state).next().expect("one pod");
        assert_eq!(high["metadata"]["name"], "high");
        assert_eq!(high["status"]["nominatedNodeName"], "a");
    }
    api.until(|s| event(s, "Preempted", "Preempted by pod uid-high on node a"))
        .await;
    running.end().await;
}

impl Api {
    fn group(&self, name: &str, least: u32) {
        let group = json!({
            "apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup",
            "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
            "spec": {"schedulingPolicy": {"gang": {"minCount": least}}}});
        self.put(&format!("namespaces/d/podgroups/{name}"), group);
    }

    fn member(&self, name: &str, group: &str) {
        let pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
            "spec": {"schedulerName": "default-scheduler",
                "schedulingGroup": {"podGroupName": group},
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {}});
        self.put(&format!("namespaces/d/pods/{name}"), pod);
    }
}

/// Whether the condition of some pod says this.
fn waits(state: &State, why: &str) -> bool {
    pods(state).any(|p| {
        let message = p["status"]["conditions"][0]["message"].as_str();
        message.is_some_and(|m| m.contains(why))
    })
}

/// A server that gives no answer has not said that there are no groups.
#[tokio::test(start_paused = true)]
async fn a_gang_stays_together_though_a_server_did_not_answer() {
    let api = Api::new();
    api.node("a", "4");
    api.group("g", 2);
    api.member("one", "g");
    api.state.lock().unanswered = 2;
    let running = api.start();
    api.until(|s| waits(s, "minCount pods from a gang")).await;
    assert_eq!(api.state.lock().unanswered, 0);
    api.member("two", "g");
    api.until(|s| on(s, "a") == 2).await;
    let condition = |s: &State| {
        let group = s.objects.get("namespaces/d/podgroups/g");
        group.map(|g| g["status"]["conditions"][0].clone())
    };
    api.until(|s| condition(s).is_some_and(|c| c["status"] == "True"))
        .await;
    let condition = condition(&api.state.lock()).expect("a condition");
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("PodGroupScheduled"), &json!("Scheduled"))
    );
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn groups_that_are_served_later_or_no_longer_are_noticed() {
    let api = Api::new();
    api.node("a", "8");
    api.state.lock().lacks_groups = true;
    api.member("one", "g");
    let running = api.start();
    api.until(|s| on(s, "a") == 1).await;
    api.group("g", 3);
    api.state.lock().lacks_groups = false;
    let is_watched = |s: &State| s.watchers.iter().any(|(what, _)| what == "podgroups");
    api.until(is_watched).await;
    api.member("two", "g");
    api.until(|s| waits(s, "minCount pods from a gang")).await;
    api.member("three", "g");
    api.until(|s| on(s, "a") == 3).await;
    api.member("four", "h");
    api.until(|s| waits(s, "\"h\" to appear")).await;
    api.state.lock().lacks_groups = true;
    api.until(|s| on(s, "a") == 4).await;
    running.end().await;
}

#[tokio::test]
async fn gated_pods_and_those_of_others_are_left_alone() {
    let api = Api::new();
    api.node("a", "2");
    let path = |name: &str| format!("namespaces/d/pods/{name}");
    api.pod("gated", "1", 0, None);
    api.pod("other", "1", 0, None);
    for (name, field, value) in [
        ("gated", "schedulingGates", json!([{"name": "g"}])),
        ("other", "schedulerName", json!("another")),
    ] {
        let mut pod = api
            .state
            .lock()
            .objects
            .get(&path(name))
            .cloned()
            .expect("a pod");
        pod["spec"][field] = value;
        api.put(&path(name), pod);
    }
    let running = api.start();
    api.pod("mine", "1", 0, None);
    api.until(|s| {
        let gated = s.objects.get(&path("gated"));
        let reported =
            gated.is_some_and(|p| p["status"]["conditions"][0]["reason"] == "SchedulingGated");
        reported && on(s, "a") == 1
    })
    .await;
    let mut free = api
        .state
        .lock()
        .objects
        .get(&path("gated"))
        .cloned()
        .expect("a pod");
    free["spec"]["schedulingGates"] = json!([]);
    api.put(&path("gated"), free);
    api.until(|s| on(s, "a") == 2).await;
    let other = api
        .state
        .lock()
        .objects
        .get(&path("other"))
        .cloned()
        .expect("a pod");
    assert!(other["spec"]["nodeName"].is_null() && other["status"] == json!({}));
    running.end().await;
}
