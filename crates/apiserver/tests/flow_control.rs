//! Priority and fairness as clients see it: objects that keep themselves, columns, headers, waiting
//! and refusal, pages and figures.

mod common;

use std::time::Duration;

use apiserver::{ApiServer, UserInfo};
use common::{ask, request, send, server};
use futures::StreamExt;
use http::{Method, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// Asks as somebody.
async fn as_user(server: &ApiServer, user: &str, uri: &str) -> Response<apiserver::http::Body> {
    let user = UserInfo::new(user, &["system:authenticated"]);
    let asked = request(Method::GET, uri, common::JSON, "");
    server
        .local_service(user)
        .oneshot(asked)
        .await
        .expect("infallible")
}

async fn get(server: &ApiServer, path: &str) -> Value {
    let (code, found) = ask(server, Method::GET, path, Value::Null).await;
    assert_eq!(code, 200, "{path}: {found}");
    found
}

/// Asks until it is as it should be.
async fn until(server: &ApiServer, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    let ready = async {
        loop {
            let (_, found) = ask(server, Method::GET, path, Value::Null).await;
            if is(&found) {
                return found;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ready)
        .await
        .unwrap_or_else(|_| panic!("{path} does not become what it should"))
}

fn dangling(schema: &Value) -> &str {
    let conditions = schema["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Dangling"));
    found.and_then(|c| c["status"].as_str()).unwrap_or("")
}

fn limited(name: &str, shares: i32, response: Value) -> Value {
    json!({
        "kind": "PriorityLevelConfiguration", "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "metadata": { "name": name },
        "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": response } },
    })
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({
        "kind": "FlowSchema", "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "metadata": { "name": name },
        "spec": {
            "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": 50,
            "rules": [{
                "subjects": [{ "kind": "User", "user": { "name": user } }],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "clusterScope": true, "namespaces": ["*"] }] }] },
    })
}

async fn create(server: &ApiServer, resource: &str, object: Value) -> Value {
    let (code, made) = ask(server, Method::POST, &format!("{FLOW}/{resource}"), object).await;
    assert_eq!(code, 201, "{made}");
    made
}

#[tokio::test]
async fn a_cluster_begins_with_upstreams_objects_and_shows_them_in_its_columns() {
    let server = server().await;
    let schemas = get(&server, &format!("{FLOW}/flowschemas")).await;
    let names: Vec<&str> = schemas["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|o| o["metadata"]["name"].as_str().expect("name"))
        .collect();
    assert_eq!(
        names,
        [
            "catch-all",
            "exempt",
            "global-default",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-system-service-accounts",
            "probes",
            "service-accounts",
            "system-leader-election",
            "system-node-high",
            "system-nodes"
        ]
    );
    for name in &names {
        let path = format!("{FLOW}/flowschemas/{name}");
        let found = until(&server, &path, |s| dangling(s) == "False").await;
        let annotations = &found["metadata"]["annotations"];
        assert_eq!(annotations["apf.kubernetes.io/autoupdate-spec"], "true");
        let managers = found["metadata"]["managedFields"]
            .as_array()
            .expect("managers");
        let mut managers: Vec<&str> = managers
            .iter()
            .filter_map(|m| m["manager"].as_str())
            .collect();
        // In the order of their times, which may be the same second.
        managers.sort_unstable();
        assert_eq!(
            managers,
            [
                "api-priority-and-fairness-config-consumer-v1",
                "api-priority-and-fairness-config-producer-v1"
            ]
        );
    }
    let levels = get(&server, &format!("{FLOW}/prioritylevelconfigurations")).await;
    assert_eq!(levels["items"].as_array().map(Vec::len), Some(8));

    // kubectl get: in the order in which they are asked.
    let mut asked = request(
        Method::GET,
        &format!("{FLOW}/flowschemas"),
        common::JSON,
        "",
    );
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    asked
        .headers_mut()
        .insert("accept", table.parse().expect("value"));
    let answer = send(&server, asked).await;
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    let table: Value = serde_json::from_slice(&bytes).expect("json");
    let heads: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(
        heads,
        [
            "Name",
            "PriorityLevel",
            "MatchingPrecedence",
            "DistinguisherMethod",
            "Age",
            "MissingPL"
        ]
    );
    let rows = table["rows"].as_array().expect("rows");
    let first: Vec<&Value> = rows.iter().map(|r| &r["cells"][0]).collect();
    assert_eq!(first[..3], ["exempt", "probes", "system-leader-election"]);
    assert_eq!(first[first.len() - 1], "catch-all");
    let cells = &rows[0]["cells"];
    assert_eq!(
        (&cells[1], &cells[2], &cells[3], &cells[5]),
        (
            &json!("exempt"),
            &json!(1),
            &json!("<none>"),
            &json!("False")
        )
    );
}

#[tokio::test]
async fn what_must_be_cannot_be_changed_and_a_missing_level_is_said() {
    let server = server().await;
    let path = format!("{FLOW}/flowschemas/catch-all");
    let change = json!({ "spec": { "matchingPrecedence": 9 } });
    let (code, refused) = ask(&server, Method::PATCH, &path, change).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().expect("message");
    assert!(
        message.contains("spec of 'catch-all' must equal the fixed value"),
        "{message}"
    );
    // Exempt requests may be taken to have seats.
    let path = format!("{FLOW}/prioritylevelconfigurations/exempt");
    let change = json!({ "spec": { "exempt": { "nominalConcurrencyShares": 5 } } });
    let (code, changed) = ask(&server, Method::PATCH, &path, change).await;
    assert_eq!(code, 200, "{changed}");

    create(&server, "flowschemas", schema("mine", "nowhere", "jane")).await;
    let path = format!("{FLOW}/flowschemas/mine");
    let found = until(&server, &path, |s| dangling(s) == "True").await;
    assert_eq!(found["status"]["conditions"][0]["reason"], "NotFound");
    let reject = json!({ "type": "Reject" });
    create(
        &server,
        "prioritylevelconfigurations",
        limited("nowhere", 5, reject),
    )
    .await;
    until(&server, &path, |s| dangling(s) == "False").await;
}

#[tokio::test]
async fn answers_say_which_rules_they_came_under() {
    let server = server().await;
    let level = limited("mine", 5, json!({ "type": "Reject" }));
    let level = create(&server, "prioritylevelconfigurations", level).await;
    let mine = create(&server, "flowschemas", schema("mine", "mine", "jane")).await;
    let uid = |o: &Value| o["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let header = |r: &Response<_>, name: &str| {
        let value = r.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    const SCHEMA: &str = "x-kubernetes-pf-flowschema-uid";
    const LEVEL: &str = "x-kubernetes-pf-prioritylevel-uid";
    // Acknowledged, so it counts. Who is refused by authorization came under them as well.
    for (path, code) in [("/api/v1/pods", 200), ("/api/v1/nowhere", 404)] {
        let answer = as_user(&server, "jane", path).await;
        assert_eq!(answer.status(), code);
        assert_eq!(header(&answer, SCHEMA), uid(&mine));
        assert_eq!(header(&answer, LEVEL), uid(&level));
    }
    let other = as_user(&server, "john", "/api/v1/pods").await;
    let default = get(&server, &format!("{FLOW}/flowschemas/global-default")).await;
    assert_eq!(header(&other, SCHEMA), uid(&default));
    // As whom a request is made counts, not who makes it.
    let mut asked = request(Method::GET, "/api/v1/pods", common::JSON, "");
    asked
        .headers_mut()
        .insert("impersonate-user", "jane".parse().expect("value"));
    let answer = send(&server, asked).await;
    assert_eq!(header(&answer, SCHEMA), uid(&mine));
}

/// A level without a seat, at which a request waits. Time stands still but for the test's own pauses:
/// who waits is refused after a while.
#[tokio::test(start_paused = true)]
async fn a_full_level_refuses_and_others_are_not_concerned() {
    let server = server().await;
    // No shares: no seat at all, for a level that lets nobody wait, one at a time.
    let queuing = json!({ "queues": 1, "handSize": 1, "queueLengthLimit": 1 });
    let queue = json!({ "type": "Queue", "queuing": queuing });
    create(
        &server,
        "prioritylevelconfigurations",
        limited("full", 0, queue),
    )
    .await;
    create(&server, "flowschemas", schema("full", "full", "jane")).await;
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { as_user(&server, "jane", "/api/v1/pods").await.status() }
    });
    let gauge = "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"full\",priority_level=\"full\"} 1";
    let is_in_line = async {
        loop {
            let answer = as_user(&server, "john", "/metrics").await;
            let bytes = answer.into_body().collect().await.expect("body").to_bytes();
            if String::from_utf8_lossy(&bytes).contains(gauge) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_in_line)
        .await
        .expect("it waits");
    let refused = as_user(&server, "jane", "/api/v1/pods").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(
        refused
            .headers()
            .contains_key("x-kubernetes-pf-flowschema-uid")
    );
    let bytes = refused
        .into_body()
        .collect()
        .await
        .expect("body")
        .to_bytes();
    let status: Value = serde_json::from_slice(&bytes).expect("json");
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(as_user(&server, "john", "/api/v1/pods").await.status(), 200);
    let page = as_user(
        &server,
        "john",
        "/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1",
    )
    .await;
    let bytes = page.into_body().collect().await.expect("body").to_bytes();
    let page = String::from_utf8_lossy(&bytes).into_owned();
    let line = page
        .lines()
        .find(|l| l.starts_with("full,"))
        .expect("its line");
    assert!(
        line.contains("jane,") && line.contains("/api/v1/pods,"),
        "{page}"
    );
    // Seats come: who waits is served.
    let path = format!("{FLOW}/prioritylevelconfigurations/full");
    let more = json!({ "spec": { "limited": { "nominalConcurrencyShares": 30 } } });
    let (code, _) = ask(&server, Method::PATCH, &path, more).await;
    assert_eq!(code, 200);
    // The next request takes in the change.
    get(&server, "/api/v1/namespaces/default").await;
    assert_eq!(waiting.await.expect("runs"), 200);
}

#[tokio::test]
async fn a_watch_gives_its_seat_back_when_it_has_begun() {
    let server = server().await;
    let mut watches = Vec::new();
    // More than the level has seats.
    for _ in 0..200 {
        let watch = as_user(&server, "jane", "/api/v1/namespaces/default/pods?watch=1").await;
        assert_eq!(watch.status(), 200);
        watches.push(watch.into_body().into_data_stream());
    }
    let answer = as_user(&server, "jane", "/api/v1/pods").await;
    assert_eq!(answer.status(), 200);
    // They live.
    let pod = json!({
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "a", "namespace": "default" },
    });
    let mut watch = as_user(
        &server,
        "jane",
        "/api/v1/namespaces/default/configmaps?watch=1",
    )
    .await
    .into_body()
    .into_data_stream();
    let (code, _) = ask(
        &server,
        Method::POST,
        "/api/v1/namespaces/default/configmaps",
        pod,
    )
    .await;
    assert_eq!(code, 201);
    assert!(watch.next().await.is_some());
}
