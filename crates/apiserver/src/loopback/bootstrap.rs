//! The objects that a cluster starts with: namespaces, the `kubernetes` Service, the DNS
//! Service, priority classes, priority levels, the service range, the storage class of the nodes' disks.
//! Made when they are missing; what somebody changed is left alone. The namespaces and the way to the API
//! itself come back also while a server runs, when somebody deletes them (`kubectl delete services --all`).

use std::net::IpAddr;
use std::time::Duration;

use api::Status;
use serde_json::{Value, json};

use super::{Loopback, bootstrap_policy, endpoints, flow_control, published, service_range};
use crate::object::meta_text;

const NAMESPACES: &[&str] = &["kube-system", "kube-public", "kube-node-lease", "default"];
/// The DNS Service has the tenth address of the range; nodes give it to their pods.
const DNS_ADDRESS: u64 = 10;
/// How often it is looked whether what no cluster can be without is there; upstream's.
const EVERY: Duration = Duration::from_secs(10);

/// Makes what is missing.
pub async fn run(
    loopback: &Loopback,
    presence: &endpoints::Presence,
    told: &mut service_range::LastReported,
) -> Result<(), Status> {
    loopback
        .state
        .cache()
        .reach_newest()
        .await
        .map_err(|e| crate::errors::from_store(&e))?;
    namespaces(loopback).await?;
    futures::future::try_join(
        bootstrap_policy::ensure(loopback),
        flow_control::ensure(loopback),
    )
    .await?;
    let config = loopback.state.settings();
    let ranges = &config.service_cidrs;
    // Before the first Service, which has an address of it.
    service_range::turn(loopback, told).await?;
    own_service(loopback).await?;
    let dns: Vec<IpAddr> = ranges.nth(DNS_ADDRESS).ok_or_else(too_small)?;
    let dns: Vec<String> = dns.iter().map(IpAddr::to_string).collect();
    ensure(loopback, "", "services", dns_service(&dns)).await?;
    endpoints::publish(loopback, presence).await?;
    published::publish(loopback).await?;
    for (name, value, about) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Pods that the cluster cannot do without; they may move to another node.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Pods that their node cannot do without.",
        ),
    ] {
        ensure(
            loopback,
            "scheduling.k8s.io",
            "priorityclasses",
            priority(name, value, about),
        )
        .await?;
    }
    if config.local_storage_class {
        ensure(loopback, "storage.k8s.io", "storageclasses", local_class()).await?;
    }
    loopback.state.set_bootstrapped();
    Ok(())
}

/// Brings back what no cluster can be without and somebody may delete, until the server stops. Servers that
/// share a store say at the same time that they live.
pub async fn keep(loopback: &Loopback, presence: &endpoints::Presence) {
    let shared = &loopback.state.settings().shared;
    let every = shared.as_ref().map_or(EVERY, |shared| shared.renew);
    while loopback.goes_on_after(every).await {
        // Each for itself, and first what others wait for.
        let done = [
            (
                "endpoints of the kubernetes Service",
                endpoints::publish_again(loopback, presence).await,
            ),
            ("the kubernetes Service", own_service(loopback).await),
            ("the system's namespaces", namespaces(loopback).await),
        ];
        for (what, done) in done {
            if let Err(e) = done {
                tracing::warn!("{what}: {e}");
            }
        }
    }
}

async fn namespaces(loopback: &Loopback) -> Result<(), Status> {
    for name in NAMESPACES {
        ensure(loopback, "", "namespaces", namespace(name)).await?;
    }
    Ok(())
}

/// The Service that leads to the API.
async fn own_service(loopback: &Loopback) -> Result<(), Status> {
    let config = loopback.state.settings();
    let first = config.service_cidrs.primary().nth(1);
    let first = first.ok_or_else(too_small)?.to_string();
    let service = kubernetes(&first, config.secure_port);
    ensure(loopback, "", "services", service).await
}

fn too_small() -> Status {
    Status::internal("the service range is too small")
}

async fn ensure(loopback: &Loopback, group: &str, resource: &str, v: Value) -> Result<(), Status> {
    let (namespace, name) = (
        meta_text(&v, "namespace").to_owned(),
        meta_text(&v, "name").to_owned(),
    );
    let found = |loopback: &Loopback| loopback.state.is_stored(group, resource, &namespace, &name);
    if found(loopback) {
        return Ok(());
    }
    match loopback.create(group, resource, v).await {
        Ok(o) => loopback.state.reach(o.revision).await,
        Err(s) => {
            // Another server that starts at the same time may have been faster; its object, or
            // what belongs to it (an address), is then in the way.
            let cache = loopback.state.cache();
            let newest = cache.reach_newest().await;
            newest.map_err(|e| crate::errors::from_store(&e))?;
            if found(loopback) {
                return Ok(());
            }
            tracing::error!("making {resource} {namespace}/{name}: {s}");
            Err(s)
        }
    }
}

fn namespace(name: &str) -> Value {
    json!({
        "kind": "Namespace", "apiVersion": "v1",
        "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

fn kubernetes(ip: &str, port: u16) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }],
        },
    })
}

/// Without a selector: each node answers for its own pods, in all families that the cluster has.
fn dns_service(ips: &[String]) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": ips.first(), "clusterIPs": ips, "type": "ClusterIP",
            "ipFamilyPolicy": if ips.len() > 1 { "PreferDualStack" } else { "SingleStack" },
            "internalTrafficPolicy": "Local",
            "ports": [
                { "name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53 },
                { "name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53 },
            ],
        },
    })
}

/// Volumes on the nodes' own disks, for claims that name no class.
fn local_class() -> Value {
    json!({
        "kind": "StorageClass", "apiVersion": "storage.k8s.io/v1",
        "metadata": {
            "name": "local",
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
        },
        "provisioner": api::local_volumes::PROVISIONER,
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })
}

fn priority(name: &str, value: i64, about: &str) -> Value {
    json!({
        "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
        "metadata": { "name": name },
        "value": value, "globalDefault": false, "description": about,
        "preemptionPolicy": "PreemptLowerPriority",
    })
}
