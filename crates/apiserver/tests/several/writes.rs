//! Writers at two servers: no success is false, no update is lost, nothing is given twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use apiserver::ApiServer;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::common::{ask, get, post};
use crate::test_store::TestStore;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

on_both_stores!(
    no_increment_is_lost,
    what_another_server_changed_is_written_again,
    what_one_server_wrote_the_other_shows,
    of_many_creations_one_succeeds,
    addresses_and_ports_are_given_once,
    empty_and_absent_are_the_same,
);

fn map(name: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data,
    })
}

/// Counts up by reading and writing, at any server, until it has succeeded so often.
async fn count(servers: [ApiServer; 2], uri: Arc<str>, writer: usize, times: usize) {
    let mut done = 0;
    let mut turn = writer;
    while done < times {
        let (_, mut object) = get(&servers[turn % 2], &uri).await;
        let now: usize = object["data"]["n"]
            .as_str()
            .expect("n")
            .parse()
            .expect("number");
        object["data"]["n"] = (now + 1).to_string().into();
        turn += 1;
        match ask(&servers[turn % 2], Method::PUT, &uri, object).await {
            (200, _) => done += 1,
            (409, _) => turn += 1,
            (code, answer) => panic!("{code} {answer}"),
        }
    }
}

async fn no_increment_is_lost(place: TestStore) {
    let servers = place.two().await;
    assert_eq!(
        post(&servers[0], MAPS, map("n", json!({ "n": "0" })))
            .await
            .0,
        201
    );
    let uri: Arc<str> = format!("{MAPS}/n").into();
    let writers = (0..6).map(|w| tokio::spawn(count(servers.clone(), uri.clone(), w, 10)));
    // Beside them, writers that name no revision: each of their keys stays.
    let patches = (0..20).map(|i| {
        let (server, uri) = (servers[i % 2].clone(), uri.clone());
        tokio::spawn(async move {
            let patch = json!({ "data": { format!("k{i}"): "v" } });
            let (code, answer) = ask(&server, Method::PATCH, &uri, patch).await;
            assert_eq!(code, 200, "{answer}");
        })
    });
    for task in join_all(writers.chain(patches)).await {
        task.expect("no panic");
    }
    let (_, end) = get(&servers[1], &uri).await;
    assert_eq!(end["data"]["n"], "60");
    assert_eq!(end["data"].as_object().map(serde_json::Map::len), Some(21));
}

/// The trap: to a server whose cache is behind, the write would seem to change nothing.
async fn what_another_server_changed_is_written_again(place: TestStore) {
    let [a, b] = place.two().await;
    assert_eq!(post(&a, MAPS, map("x", json!({ "x": "one" }))).await.0, 201);
    let uri = format!("{MAPS}/x");
    for _ in 0..20 {
        for (server, other, value) in [(&b, &a, "two"), (&a, &b, "one")] {
            let (code, put) = ask(server, Method::PUT, &uri, map("x", json!({ "x": value }))).await;
            assert_eq!(code, 200, "{put}");
            let (_, read) = get(other, &uri).await;
            assert_eq!(read["data"]["x"], value);
        }
    }
}

async fn what_one_server_wrote_the_other_shows(place: TestStore) {
    let [a, b] = place.two().await;
    for i in 0..20 {
        let uri = format!("{MAPS}/m{i}");
        let (_, made) = post(&a, MAPS, map(&format!("m{i}"), json!({}))).await;
        let (code, read) = get(&b, &uri).await;
        assert_eq!((code, &read), (200, &made));
        let (_, list) = get(&b, MAPS).await;
        let named = |o: &Value| o["metadata"]["name"] == made["metadata"]["name"];
        assert!(list["items"].as_array().expect("items").iter().any(named));
        assert_eq!(ask(&b, Method::DELETE, &uri, Value::Null).await.0, 200);
        assert_eq!(get(&a, &uri).await.0, 404);
        assert_eq!(ask(&a, Method::DELETE, &uri, Value::Null).await.0, 404);
    }
}

async fn of_many_creations_one_succeeds(place: TestStore) {
    let servers = place.two().await;
    for round in 0..5 {
        let name = format!("c{round}");
        let tries = (0..6).map(|i| {
            let (server, object) = (
                servers[i % 2].clone(),
                map(&name, json!({ "by": i.to_string() })),
            );
            async move { (i, post(&server, MAPS, object).await) }
        });
        let outcomes = join_all(tries).await;
        let won: Vec<usize> = outcomes
            .iter()
            .filter(|(_, o)| o.0 == 201)
            .map(|(i, _)| *i)
            .collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        let lost = outcomes
            .iter()
            .filter(|(_, (code, s))| *code == 409 && s["reason"] == "AlreadyExists");
        assert_eq!(lost.count(), 5, "{outcomes:?}");
        let (_, read) = get(&servers[round % 2], &format!("{MAPS}/{name}")).await;
        assert_eq!(read["data"]["by"], won[0].to_string());
    }
}

async fn addresses_and_ports_are_given_once(place: TestStore) {
    let servers = place.two().await;
    let make = (0..24).map(|i| {
        let server = servers[i % 2].clone();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{i}") },
            "spec": { "type": "NodePort", "ports": [{ "port": 80 }] },
        });
        async move { post(&server, SERVICES, service).await }
    });
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for (code, made) in join_all(make).await {
        assert_eq!(code, 201, "{made}");
        let spec = &made["spec"];
        assert!(addresses.insert(spec["clusterIP"].to_string()), "{made}");
        assert!(
            ports.insert(spec["ports"][0]["nodePort"].to_string()),
            "{made}"
        );
    }
    // What one server frees the other can give at once.
    let (_, gone) = get(&servers[0], &format!("{SERVICES}/s0")).await;
    let uri = format!("{SERVICES}/s0");
    assert_eq!(
        ask(&servers[0], Method::DELETE, &uri, Value::Null).await.0,
        200
    );
    let same = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "again" },
        "spec": {
            "type": "NodePort", "clusterIP": gone["spec"]["clusterIP"],
            "ports": [{ "port": 80, "nodePort": gone["spec"]["ports"][0]["nodePort"] }],
        },
    });
    let (code, made) = post(&servers[1], SERVICES, same.clone()).await;
    assert_eq!(code, 201, "{made}");
    let mut twice = same;
    twice["metadata"]["name"] = "twice".into();
    let (code, refused) = post(&servers[0], SERVICES, twice).await;
    assert_eq!(code, 422, "{refused}");
}

/// A list that is stored as nothing must not look like a change each time that it is written.
async fn empty_and_absent_are_the_same(place: TestStore) {
    let [a, b] = place.two().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "e", "labels": {}, "annotations": {} },
        "addressType": "IPv4", "endpoints": [], "ports": [],
    });
    let (code, made) = post(&a, slices, slice.clone()).await;
    assert_eq!(code, 201, "{made}");
    let uri = format!("{slices}/e");
    for server in [&a, &b] {
        assert_eq!(get(server, &uri).await.1, made);
        for method in [Method::PUT, Method::PATCH] {
            let (code, same) = ask(server, method, &uri, slice.clone()).await;
            assert_eq!((code, &same), (200, &made));
        }
    }
}
