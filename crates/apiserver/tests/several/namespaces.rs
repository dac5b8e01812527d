//! Nothing stays behind in a namespace that is gone, however creations and its end meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver::ApiServer;
use apiserver::admission::Admit;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::common::{ask, get, post};
use crate::held_creations::Gate;
use crate::test_store::TestStore;

on_both_stores!(
    nothing_is_left_in_a_namespace_that_is_gone,
    a_creation_that_was_admitted_does_not_outlive_the_namespace,
);

const ROUNDS: usize = 12;
const WRITERS: usize = 8;

/// Creates objects until the namespace takes no more; counts those that it took.
async fn write(server: ApiServer, maps: Arc<str>, writer: usize, taken: Arc<AtomicUsize>) {
    for i in 0.. {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("m{writer}-{i}") },
        });
        match post(&server, &maps, object).await {
            (201, _) => drop(taken.fetch_add(1, Ordering::Relaxed)),
            // Being terminated, or gone.
            (403 | 404, _) => return,
            (code, answer) => panic!("{code} {answer}"),
        }
    }
}

/// What the controller of namespaces does: deletes what is there, and lets the namespace go when
/// nothing is.
async fn finish(server: &ApiServer, uri: &str, maps: &str) {
    loop {
        let (code, list) = get(server, maps).await;
        assert_eq!(code, 200, "{list}");
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            break;
        }
        ask(server, Method::DELETE, maps, Value::Null).await;
    }
    let (_, mut ns) = get(server, uri).await;
    ns["spec"]["finalizers"] = json!([]);
    let (code, done) = ask(server, Method::PUT, &format!("{uri}/finalize"), ns).await;
    assert_eq!(code, 200, "{done}");
}

async fn nothing_is_left_in_a_namespace_that_is_gone(place: TestStore) {
    let servers = place.two_that_admit(&[]).await;
    let taken = Arc::new(AtomicUsize::new(0));
    for round in 0..ROUNDS {
        let uri = format!("/api/v1/namespaces/n{round}");
        let maps: Arc<str> = format!("{uri}/configmaps").into();
        let ns = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("n{round}") },
        });
        assert_eq!(post(&servers[0], "/api/v1/namespaces", ns).await.0, 201);
        let before = taken.load(Ordering::Relaxed);
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                tokio::spawn(write(
                    servers[w % 2].clone(),
                    maps.clone(),
                    w,
                    taken.clone(),
                ))
            })
            .collect();
        // In the middle of the writing.
        crate::test_store::until(async || taken.load(Ordering::Relaxed) > before + WRITERS).await;
        let (code, _) = ask(&servers[round % 2], Method::DELETE, &uri, Value::Null).await;
        assert_eq!(code, 200);
        finish(&servers[round % 2], &uri, &maps).await;
        for writer in join_all(writers).await {
            writer.expect("no panic");
        }
        let left: Vec<String> = place
            .all()
            .await
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
            .filter(|key| key.starts_with(&format!("/registry/configmaps/n{round}/")))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "round {round}");
    }
}

async fn a_creation_that_was_admitted_does_not_outlive_the_namespace(place: TestStore) {
    let gate = Gate::of("configmaps");
    let plugins: [Arc<dyn Admit>; 1] = [gate.clone()];
    let [a, b] = place.two_that_admit(&plugins).await;
    let uri = "/api/v1/namespaces/brief";
    let maps = format!("{uri}/configmaps");
    let ns = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "brief" } });
    assert_eq!(post(&a, "/api/v1/namespaces", ns).await.0, 201);
    let late = tokio::spawn({
        let (a, maps) = (a.clone(), maps.clone());
        async move {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "late" },
            });
            post(&a, &maps, object).await
        }
    });
    gate.holds().await;
    assert_eq!(ask(&b, Method::DELETE, uri, Value::Null).await.0, 200);
    finish(&b, uri, &maps).await;
    assert_eq!(get(&b, uri).await.0, 404, "the namespace is gone");
    gate.open();
    let (code, answer) = late.await.expect("no panic");
    assert_eq!(
        (code, &answer["reason"]),
        (404, &json!("NotFound")),
        "{answer}"
    );
    let key = b"/registry/configmaps/brief/late";
    assert!(place.all().await.iter().all(|kv| kv.key[..] != key[..]));
}
