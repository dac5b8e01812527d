//! A range of Services' addresses gives none any more once its deletion is acknowledged, whichever
//! server was asked for an address or to delete the range.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver::ApiServer;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::common::{ask, get, post};
use crate::test_store::{TestStore, until};

on_both_stores!(a_range_gives_nothing_once_it_is_being_deleted);

const ROUNDS: usize = 6;
const WRITERS: usize = 8;
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|t| t.parse().ok()).expect("a revision")
}

/// A range that is ready, as its controller makes it.
async fn ready(server: &ApiServer, name: &str, cidr: &str) {
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": name, "finalizers": ["networking.k8s.io/service-cidr-finalizer"] },
        "spec": { "cidrs": [cidr] },
    });
    let (code, mut made) = post(server, RANGES, range).await;
    assert_eq!(code, 201, "{made}");
    made["status"] = json!({ "conditions": [{ "type": "Ready", "status": "True", "reason": "",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let uri = format!("{RANGES}/{name}/status");
    let (code, answer) = ask(server, Method::PUT, &uri, made).await;
    assert_eq!(code, 200, "{answer}");
}

/// Makes Services with addresses of the range until there are none any more; counts them.
async fn write(server: ApiServer, round: usize, writer: usize, made: Arc<AtomicUsize>) {
    for i in 1..250 {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("s{round}-{writer}-{i}") },
            "spec": { "clusterIP": format!("10.{}.{writer}.{i}", 100 + round), "ports": [{ "port": 80 }] },
        });
        match post(&server, SERVICES, object).await {
            (201, _) => drop(made.fetch_add(1, Ordering::Relaxed)),
            (422, answer) => {
                let said = answer["message"].as_str().unwrap_or_default();
                let why = "the provided network does not match the current range";
                assert!(said.contains(why), "{said}");
                return;
            }
            (code, answer) => panic!("{code} {answer}"),
        }
    }
}

async fn a_range_gives_nothing_once_it_is_being_deleted(place: TestStore) {
    let servers = place.two().await;
    for round in 0..ROUNDS {
        let (name, second) = (format!("r{round}"), 100 + round);
        ready(&servers[0], &name, &format!("10.{second}.0.0/16")).await;
        let made = Arc::new(AtomicUsize::new(0));
        let writers = (0..WRITERS).map(|writer| {
            let server = servers[writer % 2].clone();
            tokio::spawn(write(server, round, writer, made.clone()))
        });
        let writers: Vec<_> = writers.collect();
        let some = || {
            let count = made.load(Ordering::Relaxed);
            async move { count > WRITERS }
        };
        until(some).await;
        let uri = format!("{RANGES}/{name}");
        let (code, gone) = ask(&servers[1], Method::DELETE, &uri, Value::Null).await;
        assert_eq!(code, 200, "{gone}");
        join_all(writers)
            .await
            .into_iter()
            .for_each(|w| w.expect("no panic"));

        let (_, range) = get(&servers[1], &uri).await;
        assert!(
            range["metadata"]["deletionTimestamp"].is_string(),
            "{range}"
        );
        let (_, list) = get(&servers[0], ADDRESSES).await;
        let of_range = format!("10.{second}.");
        let all = list["items"].as_array().expect("a list").iter();
        let all: Vec<_> = all
            .filter(|a| {
                a["metadata"]["name"]
                    .as_str()
                    .is_some_and(|n| n.starts_with(&of_range))
            })
            .collect();
        assert_eq!(all.len(), made.load(Ordering::Relaxed), "each has its own");
        for address in all {
            assert!(
                revision(address) < revision(&range),
                "{address} after {range}"
            );
        }
    }
}
