//! Node ports where what is stored of them does not say which are taken: none is given twice.

mod common;

use bytes::Bytes;
use common::{get, post, server};
use serde_json::{Value, json};
use store::{Op, Outcome, Txn};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const KEY: &str = "/registry/ranges/servicenodeports";

fn service(name: &str, port: u16) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": "NodePort", "ports": [{ "port": 80, "nodePort": port }] } })
}

#[tokio::test]
async fn what_is_stored_is_made_again_of_what_services_have() {
    let s = server().await;
    let (code, made) = post(&s, SERVICES, service("a", 30_010)).await;
    assert_eq!(code, 201, "{made}");
    let key = Bytes::from_static(KEY.as_bytes());
    let stored = s.store().get(key.clone(), 0).await.expect("readable");
    let stored = stored.expect("ports").value;
    let text = String::from_utf8_lossy(&stored);
    let other = text.replace("30000-32767", "damaged");
    assert_ne!(other, text);
    let put = Op::Put {
        key,
        value: other.into(),
        expires_after_seconds: None,
    };
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![put],
    };
    let done = s.store().commit(txn).await.expect("written");
    assert!(matches!(done, Outcome::Committed(_)));

    let taken = "provided port is already allocated";
    let (code, refused) = post(&s, SERVICES, service("b", 30_010)).await;
    let said = refused["message"].as_str().unwrap_or_default();
    assert!(code == 422 && said.contains(taken), "{refused}");
    let (code, made) = post(&s, SERVICES, service("b", 30_011)).await;
    assert_eq!(code, 201, "{made}");
    // From now on it is stored again: with the old one, and the new one.
    for port in [30_010, 30_011] {
        let (code, refused) = post(&s, SERVICES, service("c", port)).await;
        let said = refused["message"].as_str().unwrap_or_default();
        assert!(code == 422 && said.contains(taken), "{refused}");
    }
    let (_, figures) = get(&s, "/metrics").await;
    let line = "tiphys_apiserver_node_ports_made_again_total 2";
    let figures = figures.as_str().unwrap_or_default();
    assert!(figures.contains(line), "{figures}");
}
