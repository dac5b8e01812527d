//! What lies in the store, how it expires, which server compacts it, and how reads keep up with it.

use apiserver::storage::compact;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use store::{PRIVATE_PREFIX, StoreError, backup};

use crate::common::{ask, get, post};
use crate::test_store::{LONG_SECONDS, TestStore};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

on_both_stores!(
    keys_are_upstreams_and_values_in_their_form,
    events_expire,
    one_server_compacts,
    reads_keep_up_with_every_key,
    servers_may_start_at_once,
    a_watch_goes_on_at_a_server_that_starts_later,
);

async fn keys_are_upstreams_and_values_in_their_form(place: TestStore) {
    let [a, _b] = place.two().await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "l" }, "spec": { "holderIdentity": "me" },
    });
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    assert_eq!(post(&a, leases, lease).await.0, 201);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
        "spec": { "type": "NodePort", "ports": [{ "port": 80 }] },
    });
    let (_, service) = post(&a, "/api/v1/namespaces/default/services", service).await;
    let address = service["spec"]["clusterIP"].as_str().expect("address");
    let all = place.all().await;
    for key in [
        "/registry/leases/kube-system/l".to_owned(),
        "/registry/services/specs/default/s".to_owned(),
        "/registry/services/endpoints/default/kubernetes".to_owned(),
        "/registry/ranges/servicenodeports".to_owned(),
        "/registry/masterleases/192.0.2.1".to_owned(),
        "/registry/masterleases/192.0.2.2".to_owned(),
        format!("/registry/ipaddresses/{address}"),
        "/tiphys/fences/kube-system/l".to_owned(),
    ] {
        assert!(all.iter().any(|kv| kv.key == key), "{key}");
    }
    for kv in &all {
        let key = String::from_utf8_lossy(&kv.key);
        if kv.key.starts_with(PRIVATE_PREFIX) {
            continue;
        }
        assert!(key.starts_with("/registry/"), "{key}");
        // These are built apart from what knows protobuf, there as here.
        let is_json = key.starts_with("/registry/api");
        let magic: &[u8] = if place.is_etcd() && !is_json {
            b"k8s\0"
        } else {
            b"{"
        };
        assert!(kv.value.starts_with(magic), "{key}");
    }
}

async fn events_expire(place: TestStore) {
    let [a, _b] = place.two().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e" },
        "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" },
        "reason": "R", "type": "Normal",
    });
    let (code, made) = post(&a, "/api/v1/namespaces/default/events", event).await;
    assert_eq!(code, 201, "{made}");
    let left = place.raw().expiries().await.expect("expiries");
    let event = left.get(&Bytes::from_static(b"/registry/events/default/e"));
    // An hour, and on etcd a little more, since such keys share a lease.
    assert!(
        event.is_some_and(|s| (3600 - LONG_SECONDS..=3660).contains(s)),
        "{event:?}"
    );
    let lease = left.get(&Bytes::from_static(b"/registry/masterleases/192.0.2.1"));
    assert!(lease.is_some_and(|s| *s <= LONG_SECONDS + 6), "{lease:?}");
    assert!(
        left.keys()
            .all(|k| k.starts_with(b"/registry/events/")
                || k.starts_with(b"/registry/masterleases/"))
    );
}

async fn one_server_compacts(place: TestStore) {
    let servers = [place.store().await, place.store().await];
    let before = place.put("/registry/x", "1").await;
    let mut seen = [compact::KnownCompaction::default(); 2];
    // The first turn notes where the store is; the later server finds the key of the other.
    for (server, seen) in servers.iter().zip(&mut seen) {
        *seen = compact::once(&**server, *seen).await.expect("first turn");
    }
    for i in 0..10 {
        place.put("/registry/x", &i.to_string()).await;
    }
    for (server, seen) in servers.iter().zip(&mut seen) {
        *seen = compact::once(&**server, *seen).await.expect("second turn");
    }
    let key = Bytes::from_static(compact::KEY.as_bytes());
    let swapped = place
        .raw()
        .get(key, 0)
        .await
        .expect("get")
        .expect("the key");
    // Written by the first turn, and by one of the two afterwards.
    assert_eq!(swapped.version, 2);
    let old = place
        .raw()
        .get(Bytes::from_static(b"/registry/x"), before - 1)
        .await;
    match old {
        Err(StoreError::Compacted { .. }) => {}
        // The embedded store forgets in its own time.
        other => assert!(!place.is_etcd(), "{other:?}"),
    }
}

/// A revision that concerns no object is still one that a read has to reach.
async fn reads_keep_up_with_every_key(place: TestStore) {
    let [a, b] = place.two().await;
    for i in 0..20 {
        let revision = place.put("/elsewhere/key", &i.to_string()).await;
        for server in [&a, &b] {
            // The newest state would be read in the store, if the cache did not come to it.
            let (code, list) = get(server, &format!("{MAPS}?resourceVersion={revision}")).await;
            assert_eq!(code, 200, "{list}");
            let shown = list["metadata"]["resourceVersion"]
                .as_str()
                .expect("revision");
            assert!(shown.parse::<u64>().expect("number") >= revision);
        }
    }
}

async fn servers_may_start_at_once(place: TestStore) {
    let (a, b, c) = tokio::join!(
        place.server("192.0.2.1"),
        place.server("192.0.2.2"),
        place.server("192.0.2.3"),
    );
    for server in [&a, &b, &c] {
        assert_eq!(get(server, "/readyz").await.0, 200);
        let (_, service) = get(server, "/api/v1/namespaces/default/services/kubernetes").await;
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    }
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    let (_, list) = get(&a, addresses).await;
    // Of the Services that a cluster starts with.
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
}

/// Through the translation, so that each store gets the form that is its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_either_store_is_restored_into_the_other() {
    let dir = tempfile::tempdir().expect("dir");
    let (etcd, embedded, again) = (
        TestStore::etcd().await,
        TestStore::embedded(),
        TestStore::etcd().await,
    );
    let a = etcd.server("192.0.2.1").await;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "m" }, "data": { "x": "y" },
    });
    assert_eq!(post(&a, MAPS, map).await.0, 201);
    let uri = format!("{MAPS}/m");
    let mut first = get(&a, &uri).await.1;
    let mut from = &etcd;
    for (number, (to, magic)) in [(&embedded, &b"{"[..]), (&again, b"k8s\0")]
        .iter()
        .enumerate()
    {
        let file = dir.path().join(number.to_string());
        let saved = backup::save(&*from.store().await, &file, "c", 1_767_225_600)
            .await
            .expect("saved");
        let restored = backup::restore(&*to.store().await, &file, 1000).await;
        assert!(restored.expect("restored").revision > saved.revision);
        let key = Bytes::from_static(b"/registry/configmaps/default/m");
        let stored = to.raw().get(key, 0).await.expect("get").expect("the key");
        assert!(stored.value.starts_with(magic));
        let server = to.server("192.0.2.1").await;
        let mut now = get(&server, &uri).await.1;
        let old = first["metadata"]["resourceVersion"].take();
        let new = now["metadata"]["resourceVersion"].take();
        assert_eq!(now, first);
        let number = |v: &Value| v.as_str().and_then(|v| v.parse::<u64>().ok());
        assert!(number(&new) > number(&old), "{new} {old}");
        first["metadata"]["resourceVersion"] = new;
        from = to;
    }
}

async fn a_watch_goes_on_at_a_server_that_starts_later(place: TestStore) {
    let a = place.server("192.0.2.1").await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "first" } });
    let (_, first) = post(&a, MAPS, map).await;
    let seen = first["metadata"]["resourceVersion"]
        .as_str()
        .expect("revision");
    for name in ["second", "third"] {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
        assert_eq!(post(&a, MAPS, map).await.0, 201);
    }
    let (code, _) = ask(&a, Method::DELETE, &format!("{MAPS}/second"), Value::Null).await;
    assert_eq!(code, 200);
    let b = place.server("192.0.2.2").await;
    let watch = format!("{MAPS}?watch=1&resourceVersion={seen}&timeoutSeconds=1");
    let (code, events) = get(&b, &watch).await;
    assert_eq!(code, 200, "{events}");
    let text = events.as_str().expect("several lines");
    let reported: Vec<(String, String)> = text
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("an event");
            let field = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            (
                field(&event["type"]),
                field(&event["object"]["metadata"]["name"]),
            )
        })
        .collect();
    let expected = [
        ("ADDED", "second"),
        ("ADDED", "third"),
        ("DELETED", "second"),
    ];
    assert_eq!(
        reported,
        expected.map(|(t, n)| (t.to_owned(), n.to_owned()))
    );
}
