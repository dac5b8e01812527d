//! The endpoints of the `kubernetes` Service follow the servers that live.

use apiserver::ApiServer;
use http::Method;
use serde_json::Value;

use crate::common::{ask, get};
use crate::test_store::{TestStore, until};

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

const SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";

on_both_stores!(living_servers_are_endpoints, the_way_to_the_api_comes_back);

/// What both objects say, if they agree.
async fn listed(server: &ApiServer) -> Option<Vec<String>> {
    let (_, endpoints) = get(server, ENDPOINTS).await;
    let (_, slice) = get(server, SLICE).await;
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    let old: Vec<String> = subsets
        .flat_map(|s| s["addresses"].as_array().into_iter().flatten())
        .map(|a| text(&a["ip"]))
        .collect();
    let new: Vec<String> = slice["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| text(&e["addresses"][0]))
        .collect();
    (old == new).then_some(old)
}

async fn shows(server: &ApiServer, addresses: &[&str]) {
    until(|| async { listed(server).await.is_some_and(|l| l == addresses) }).await;
}

async fn living_servers_are_endpoints(place: TestStore) {
    let a = place.server("192.0.2.1").await;
    let b = place.server("192.0.2.2").await;
    shows(&a, &["192.0.2.1", "192.0.2.2"]).await;
    let c = place.server_that_lives("192.0.2.3", 2).await;
    shows(&a, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
    // One says goodbye: it is out long before its key would expire, and still answers.
    b.leave().await.expect("it is out");
    shows(&b, &["192.0.2.1", "192.0.2.3"]).await;
    // One ends without a word.
    c.stop().cancel();
    shows(&a, &["192.0.2.1"]).await;
    // And comes back.
    let _c = place.server("192.0.2.3").await;
    shows(&a, &["192.0.2.1", "192.0.2.3"]).await;
}

/// `kubectl delete services --all` takes it too, and with it what pods know the API by.
async fn the_way_to_the_api_comes_back(place: TestStore) {
    let server = place.server("192.0.2.1").await;
    let (_, service) = get(&server, SERVICE).await;
    for path in [SERVICE, ENDPOINTS, SLICE] {
        let (code, answer) = ask(&server, Method::DELETE, path, Value::Null).await;
        assert_eq!(code, 200, "{answer}");
    }
    let address = |service: &Value| service["spec"]["clusterIP"].clone();
    until(|| async { address(&get(&server, SERVICE).await.1) == address(&service) }).await;
    shows(&server, &["192.0.2.1"]).await;
}
