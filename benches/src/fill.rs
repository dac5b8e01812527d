//! Fills a server with what several benchmarks begin with: their namespace, and nodes that are ready.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use http::StatusCode;

use crate::load::{Client, LoadRequest, closed_loop};
use crate::objects::{config_maps, node_status, service_account};
use crate::shapes;

/// Far above what filling ever took; only a server that hangs meets it.
pub const TIME: Duration = Duration::from_secs(1_200);
/// Requests at once.
const AT_ONCE: usize = 64;

/// The moment, as statuses and leases have it.
pub fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// Sends `count` requests, several at once.
pub async fn all(
    client: &Arc<Client>,
    count: u64,
    ask: impl Fn(u64) -> LoadRequest + Send + Sync + 'static,
) -> Result<()> {
    closed_loop(client, AT_ONCE, TIME, count, ask).await?;
    Ok(())
}

/// The namespace of the benchmarks and the service account that pods need, unless a controller was
/// quicker to make that.
pub async fn namespace(client: &Arc<Client>) -> Result<()> {
    client
        .must(
            0,
            LoadRequest::post("/api/v1/namespaces", &shapes::namespace()),
        )
        .await?;
    let accounts = config_maps().replace("configmaps", "serviceaccounts");
    let made = client.send(0, LoadRequest::post(accounts, &service_account()));
    let status = made.await?.status;
    let is_there = status.is_success() || status == StatusCode::CONFLICT;
    ensure!(is_there, "the service account: {status}");
    Ok(())
}

/// Nodes that say that they are ready.
pub async fn nodes(client: &Arc<Client>, count: u64) -> Result<()> {
    all(client, count, |i| {
        LoadRequest::post("/api/v1/nodes", &shapes::node(i))
    })
    .await?;
    all(client, count, |i| {
        let path = format!("/api/v1/nodes/{}/status", shapes::node_name(i));
        LoadRequest::merge(path, &node_status(&now()))
    })
    .await
}
