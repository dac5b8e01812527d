//! Where the `kubernetes` Service leads: to the servers that live. Servers that share a store
//! show themselves by keys that expire (`/registry/masterleases/<address>`, as upstream's); each
//! brings Endpoints and EndpointSlice in line with all of them. A server alone is its own list.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Status;
use bytes::Bytes;
use serde_json::{Value, json};
use store::{Op, Txn};
use tokio::sync::Mutex;

use super::Loopback;
use crate::errors::from_store;

const LEASES: &str = "/registry/masterleases/";
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// How often the list is read again after a write, since another server may have come or gone
/// meanwhile; what is left then is for the next turn.
const ROUNDS: usize = 5;

/// Whether this server still shows itself. The lock keeps a turn from coming after
/// [`leave`].
#[derive(Default)]
pub struct Presence {
    left: Mutex<bool>,
}

/// Shows this server, and brings the endpoints up to date.
pub async fn publish(loopback: &Loopback, presence: &Presence) -> Result<(), Status> {
    if !has_address(loopback) {
        tracing::warn!("the advertised address is a loopback one: pods will not reach the API");
    }
    publish_again(loopback, presence).await
}

/// [`publish`], where it has been said what cannot be published.
pub async fn publish_again(loopback: &Loopback, presence: &Presence) -> Result<(), Status> {
    if !has_address(loopback) {
        return Ok(());
    }
    turn(loopback, presence).await
}

/// Endpoints with a loopback address are not valid, and no pod could use them.
fn has_address(loopback: &Loopback) -> bool {
    !loopback.state.settings().advertise_address.is_loopback()
}

async fn turn(loopback: &Loopback, presence: &Presence) -> Result<(), Status> {
    let left = presence.left.lock().await;
    if *left {
        return Ok(());
    }
    // Whatever fails below: the others then know of this server.
    show(loopback).await?;
    reconcile(loopback, true).await
}

/// Takes this server out.
pub async fn leave(loopback: &Loopback, presence: &Presence) -> Result<(), Status> {
    let mut left = presence.left.lock().await;
    *left = true;
    if loopback.state.settings().shared.is_none() || !has_address(loopback) {
        return Ok(());
    }
    let key = lease(loopback.state.settings().advertise_address);
    write(loopback, Op::Delete { key }).await?;
    reconcile(loopback, false).await
}

fn lease(address: IpAddr) -> Bytes {
    format!("{LEASES}{address}").into()
}

async fn show(loopback: &Loopback) -> Result<(), Status> {
    let Some(shared) = &loopback.state.settings().shared else {
        return Ok(());
    };
    let address = loopback.state.settings().advertise_address;
    let value = json!({
        "kind": "Endpoints", "apiVersion": "v1", "metadata": { "name": address.to_string() },
        "subsets": [{ "addresses": [{ "ip": address.to_string() }] }],
    });
    let put = Op::Put {
        key: lease(address),
        value: crate::cache::encode(&value),
        expires_after_seconds: Some(shared.lease_seconds),
    };
    write(loopback, put).await
}

async fn write(loopback: &Loopback, op: Op) -> Result<(), Status> {
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![op],
    };
    let done = loopback.state.store().commit(txn).await;
    done.map(drop).map_err(|e| from_store(&e))
}

/// The servers that live.
async fn living(loopback: &Loopback) -> Result<BTreeSet<IpAddr>, Status> {
    if loopback.state.settings().shared.is_none() {
        return Ok([loopback.state.settings().advertise_address].into());
    }
    let prefix = Bytes::from_static(LEASES.as_bytes());
    let page = loopback
        .state
        .store()
        .range(prefix.clone(), prefix, 0, 0)
        .await;
    let page = page.map_err(|e| from_store(&e))?;
    // The key alone says it, whoever wrote the value.
    let addresses = page.items.iter().filter_map(|kv| {
        let name = kv.key.get(LEASES.len()..)?;
        std::str::from_utf8(name).ok()?.parse().ok()
    });
    Ok(addresses.collect())
}

/// Brings both objects in line with the living servers. `must_have` demands that there are some: an
/// empty list is then a fault of the store, not of the servers.
async fn reconcile(loopback: &Loopback, must_have: bool) -> Result<(), Status> {
    let mut addresses = living(loopback).await?;
    for _ in 0..ROUNDS {
        if must_have && addresses.is_empty() {
            return Err(Status::internal("no API server is listed in the store"));
        }
        let port = loopback.state.settings().secure_port;
        let wanted = endpoints(&addresses, port);
        replace(loopback, "", "endpoints", wanted, &["subsets"]).await?;
        let parts = ["endpoints", "ports"];
        let wanted = slice(&addresses, port);
        replace(
            loopback,
            "discovery.k8s.io",
            "endpointslices",
            wanted,
            &parts,
        )
        .await?;
        let now = living(loopback).await?;
        if now == addresses {
            return Ok(());
        }
        addresses = now;
    }
    Ok(())
}

/// Makes an object, or replaces those parts of it that differ.
async fn replace(
    loopback: &Loopback,
    group: &str,
    resource: &str,
    want: Value,
    parts: &[&str],
) -> Result<(), Status> {
    let want = loopback.as_stored(group, resource, want)?;
    let differs = |old: &Value| parts.iter().any(|p| !same(old.get(*p), want.get(*p)));
    if let Some(have) = loopback.state.lookup(group, resource, NAMESPACE, NAME)
        && !differs(&have.to_value())
    {
        return Ok(());
    }
    let update = || {
        loopback.change(group, resource, NAMESPACE, NAME, |old| {
            let mut new = old.clone();
            for part in parts.iter().filter(|p| !same(old.get(**p), want.get(**p))) {
                new[*part] = want.get(*part).cloned().unwrap_or_default();
            }
            let labels = want.pointer("/metadata/labels").and_then(Value::as_object);
            for (key, value) in labels.into_iter().flatten() {
                new["metadata"]["labels"][key] = value.clone();
            }
            new
        })
    };
    let done = match update().await {
        Err(s) if s.is("NotFound") => {
            match loopback.create(group, resource, want.clone()).await {
                // Another server was faster, and may have known less.
                Err(s) if s.is("AlreadyExists") => update().await?,
                made => made?,
            }
        }
        done => done?,
    };
    loopback.state.reach(done.revision).await
}

/// Equal, where an empty list is as good as none.
fn same(have: Option<&Value>, want: Option<&Value>) -> bool {
    let some = |v: Option<&Value>| {
        let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
        v.filter(|v| !empty(v)).cloned()
    };
    some(have) == some(want)
}

fn endpoints(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    let list: Vec<Value> = addresses.iter().map(|a| json!({ "ip": a })).collect();
    let subset = json!({
        "addresses": list,
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    json!({
        "kind": "Endpoints", "apiVersion": "v1",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": if addresses.is_empty() { json!([]) } else { json!([subset]) },
    })
}

/// One family, as upstream: IPv6 when all are.
fn slice(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    let six = !addresses.is_empty() && addresses.iter().all(IpAddr::is_ipv6);
    let endpoints: Vec<Value> = addresses
        .iter()
        .filter(|a| a.is_ipv6() == six)
        .map(|a| json!({ "addresses": [a], "conditions": { "ready": true } }))
        .collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": NAME },
        },
        "addressType": if six { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    })
}
