//! What is read for `status` and `top`: lists, and what is measured.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use terminal::glance::{Read, Use};
use terminal::words;

/// How long an answer is waited for; a healthy server gives it within a second, and asks kubelets
/// for figures for ten.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The most that is read of `/readyz`: some forty lines.
const MOST_BYTES: usize = 1 << 20;

async fn patient<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(client::said(&e)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// All objects of a kind, from the server's cache.
pub async fn list<K>(api: Api<K>, labels: Option<&str>) -> Read<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().match_any();
    params.label_selector = labels.map(str::to_owned);
    Ok(patient(api.list(&params)).await?.items)
}

#[derive(Deserialize)]
struct Measured<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct Node {
    metadata: Named,
    usage: BTreeMap<String, Quantity>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Named,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    usage: BTreeMap<String, Quantity>,
}

fn used(usage: &BTreeMap<String, Quantity>) -> Use {
    Use {
        cpu_millis: words::millis(usage.get("cpu")).unwrap_or(0),
        memory_bytes: words::units(usage.get("memory")).unwrap_or(0),
    }
}

async fn measured<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, String> {
    let request = Request::get(format!("/apis/metrics.k8s.io/v1beta1/{path}")).body(Vec::new());
    let request = request.map_err(|e| e.to_string())?;
    let answer = patient(client.request::<Measured<T>>(request)).await;
    Ok(answer
        .map_err(|e| format!("nobody says what is used: {e}"))?
        .items)
}

/// What nodes use, by name.
pub async fn node_use(client: &Client) -> Result<BTreeMap<String, Use>, String> {
    let all = measured::<Node>(client, "nodes").await?;
    Ok(all
        .into_iter()
        .map(|n| (n.metadata.name, used(&n.usage)))
        .collect())
}

/// What containers use, by namespace, pod and container; of one namespace or all.
pub async fn container_use(
    client: &Client,
    namespace: Option<&str>,
) -> Result<BTreeMap<(String, String, String), Use>, String> {
    let path = match namespace {
        Some(namespace) => format!("namespaces/{namespace}/pods"),
        None => "pods".to_owned(),
    };
    let mut out = BTreeMap::new();
    for pod in measured::<Pod>(client, &path).await? {
        for container in pod.containers {
            let key = (
                pod.metadata.namespace.clone(),
                pod.metadata.name.clone(),
                container.name,
            );
            out.insert(key, used(&container.usage));
        }
    }
    Ok(out)
}

/// The checks of `/readyz` that fail.
pub async fn failing(client: &Client) -> Result<Vec<String>> {
    let request = Request::get("/readyz?verbose").body(Body::empty())?;
    let asking = async {
        let response = client.send(request).await?;
        let body = Limited::new(response.into_body(), MOST_BYTES)
            .collect()
            .await;
        let body = body.map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    let text = answer.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))??;
    Ok(failed_checks(&text))
}

/// Lines such as `[-]etcd failed: reason withheld`.
fn failed_checks(text: &str) -> Vec<String> {
    let failed = text.lines().filter_map(|l| l.strip_prefix("[-]"));
    failed
        .map(|l| l.split_whitespace().next().unwrap_or(l).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_checks_are_those_with_a_minus() {
        let text = "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\nreadyz check failed\n";
        assert_eq!(failed_checks(text), ["etcd"]);
        assert!(failed_checks("ok").is_empty());
    }
}
