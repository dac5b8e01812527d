//! Candidates at two servers: a leader that was replaced, or slept through it, writes nothing more.

use std::time::Duration;

use apiserver::{ApiServer, UserInfo};
use control::lease::{Election, Times, lead};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{get, post};
use crate::test_store::TestStore;

const POD: &str = "/api/v1/namespaces/default/pods";

on_both_stores!(
    a_paused_leader_writes_nothing_more,
    a_leader_without_work_makes_room
);

/// A client whose requests wait while the gate is shut: its process is stopped.
fn gated(server: &ApiServer, gate: watch::Receiver<bool>) -> Client {
    let user = UserInfo::new("leader", &["system:masters"]);
    let inner = client::in_process(server.local_service(user));
    let service = tower::service_fn(move |request| {
        let (inner, mut gate) = (inner.clone(), gate.clone());
        async move {
            let _ = gate.wait_for(|open| *open).await;
            inner.send(request).await
        }
    });
    Client::new(service, "default")
}

struct Candidate {
    leads: oneshot::Receiver<Client>,
    done: JoinHandle<()>,
    stop: CancellationToken,
}

/// Stands for election; the winner hands out its client and waits for its end, if `works`.
fn stand(client: Client, identity: &str, works: bool) -> Candidate {
    let second = Duration::from_secs(1);
    let election = Election {
        // A loaded machine writes some seconds late.
        times: Times::new(6 * second, 4 * second, second / 5).expect("times"),
        ..Election::new("work", identity, clock::Clock::system())
    };
    let (won, leads) = oneshot::channel();
    let stop = CancellationToken::new();
    let shutdown = stop.clone();
    let own = client.clone();
    let done = tokio::spawn(lead(
        client,
        election,
        shutdown,
        move |fence, end| async move {
            let _ = won.send(client::fenced(&own, &fence));
            if works {
                end.cancelled().await;
            }
        },
    ));
    Candidate { leads, done, stop }
}

fn config_map(name: &str) -> ConfigMap {
    let object = json!({ "metadata": { "name": name } });
    serde_json::from_value(object).expect("a ConfigMap")
}

async fn bind(client: &Client, node: &str) -> Result<(), kube::Error> {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" },
        "target": { "kind": "Node", "name": node },
    });
    let request = http::Request::post(format!("{POD}/p/binding"))
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("request");
    client.request_text(request).await.map(drop)
}

fn is_lost<T: std::fmt::Debug>(outcome: &Result<T, kube::Error>) -> bool {
    matches!(outcome, Err(kube::Error::Api(s))
        if s.code == 409 && s.reason == "Conflict" && s.message.contains("leadership was lost"))
}

async fn a_paused_leader_writes_nothing_more(place: TestStore) {
    let [a, b] = place.two().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    assert_eq!(post(&a, POD, pod).await.0, 201);
    let (gate, open) = watch::channel(true);
    let first = stand(gated(&a, open), "a", true);
    let led = first.leads.await.expect("it is alone");
    let maps: Api<ConfigMap> = Api::default_namespaced(led.clone());
    let params = PostParams::default();
    maps.create(&params, &config_map("c"))
        .await
        .expect("it leads");

    let (_open, always) = watch::channel(true);
    let second = stand(gated(&b, always), "b", true);
    gate.send_replace(false);
    // On their way when the process stops.
    let late = tokio::spawn(async move {
        let patch = Patch::Merge(json!({ "data": { "x": "y" } }));
        let (none, new) = (PatchParams::default(), config_map("late"));
        tokio::join!(
            maps.create(&params, &new),
            maps.patch("c", &none, &patch),
            async { maps.delete("c", &Default::default()).await.map(drop) },
            bind(&led, "theirs"),
        )
    });
    let leads = second.leads.await.expect("the first one is silent");
    gate.send_replace(true);
    let (created, patched, deleted, bound) = late.await.expect("late writes");
    assert!(is_lost(&created), "{created:?}");
    assert!(is_lost(&patched), "{patched:?}");
    assert!(is_lost(&deleted), "{deleted:?}");
    assert!(is_lost(&bound), "{bound:?}");
    // It has noticed by itself.
    first.done.await.expect("no panic");

    let (_, map) = get(&b, "/api/v1/namespaces/default/configmaps/c").await;
    assert_eq!(map["data"], json!(null), "{map}");
    bind(&leads, "ours").await.expect("it leads");
    let pods: Api<Pod> = Api::default_namespaced(leads);
    let pod = pods.get("p").await.expect("get");
    assert_eq!(pod.spec.expect("spec").node_name.as_deref(), Some("ours"));
    second.stop.cancel();
    second.done.await.expect("no panic");
}

async fn a_leader_without_work_makes_room(place: TestStore) {
    let [a, b] = place.two().await;
    let (_open, always) = watch::channel(true);
    let first = stand(gated(&a, always.clone()), "a", false);
    let old = first.leads.await.expect("it is alone");
    first.done.await.expect("no panic");
    let second = stand(gated(&b, always), "b", true);
    let new = second.leads.await.expect("the lease was given back");
    let params = PostParams::default();
    let late = Api::default_namespaced(old)
        .create(&params, &config_map("c"))
        .await;
    assert!(is_lost(&late), "{late:?}");
    let made = Api::default_namespaced(new)
        .create(&params, &config_map("c"))
        .await;
    made.expect("it leads");
    second.stop.cancel();
    second.done.await.expect("no panic");
}
