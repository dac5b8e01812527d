//! Each server shows itself by a Lease in `kube-system`, as upstream's do: which servers there are,
//! on which machines, and since when one is silent. Leases of servers that are no more are removed.

use std::fmt::Write as _;
use std::time::Duration;

use api::Status;
use serde_json::{Value, json};
use sha2::Digest;

use super::Loopback;
use crate::object::{label, meta_text};
use crate::verbs::delete::{self, Options};

const GROUP: &str = "coordination.k8s.io";
const RESOURCE: &str = "leases";
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";
/// Silence after which a server counts as gone, and between looks for such. Upstream's.
const LASTS_SECONDS: i64 = 3_600;
/// Upstream's.
const RENEW: Duration = Duration::from_secs(10);
/// Looks for servers that are gone come once in so many renewals: as often as upstream's.
const RENEWALS_PER_LOOK: u64 = 360;

/// The name of a server's Lease: always the same for the same machine and address.
fn name_of(host: &str, address: &str) -> String {
    let hash = sha2::Sha256::digest(format!("{host}/{address}/{COMPONENT}").as_bytes());
    let mut name = "apiserver-".to_owned();
    for byte in hash.iter().take(13) {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Whether a server has been silent for so long that it is gone. A Lease that does not say it is no
/// server's.
fn is_over(lease: &Value, now_seconds: i64) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str();
    let renewed = renewed.and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let lasts = lease["spec"]["leaseDurationSeconds"].as_i64();
    match (renewed, lasts) {
        (Some(renewed), Some(lasts)) => renewed.as_second().saturating_add(lasts) < now_seconds,
        _ => true,
    }
}

/// Shows this server until it stops.
pub async fn keep(loopback: Loopback, host: String) {
    let address = loopback.state.settings().advertise_address.to_string();
    let name = name_of(&host, &address);
    let holder = format!("{name}_{}", loopback.state.random().uuid());
    let mut count: u64 = 0;
    loop {
        let mut done = renew(&loopback, (&name, &host), &holder).await;
        if count.is_multiple_of(RENEWALS_PER_LOOK) {
            done = done.and(collect(&loopback).await);
        }
        if let Err(e) = done {
            tracing::debug!("the Lease of this server, {name}: {e}");
        }
        count = count.wrapping_add(1);
        if !loopback.goes_on_after(RENEW).await {
            return;
        }
    }
}

async fn renew(
    loopback: &Loopback,
    (name, host): (&str, &str),
    holder: &str,
) -> Result<(), Status> {
    let now = format!("{:.6}", loopback.state.settings().clock.now());
    let renewed = |old: &Value| {
        let mut new = old.clone();
        new["metadata"]["labels"][LABEL] = COMPONENT.into();
        new["metadata"]["labels"]["kubernetes.io/hostname"] = host.into();
        new["spec"]["holderIdentity"] = holder.into();
        new["spec"]["leaseDurationSeconds"] = LASTS_SECONDS.into();
        new["spec"]["renewTime"] = now.clone().into();
        new
    };
    if loopback
        .state
        .lookup(GROUP, RESOURCE, NAMESPACE, name)
        .is_some()
    {
        let done = loopback.change(GROUP, RESOURCE, NAMESPACE, name, renewed);
        match done.await {
            // Somebody removed it meanwhile.
            Err(e) if e.is("NotFound") => {}
            done => return done.map(drop),
        }
    }
    let new =
        renewed(&json!({ "metadata": { "name": name, "namespace": NAMESPACE, "labels": {} } }));
    loopback.create(GROUP, RESOURCE, new).await.map(drop)
}

/// Removes the Leases of servers that are gone.
async fn collect(loopback: &Loopback) -> Result<(), Status> {
    let now = loopback.state.now();
    for lease in loopback.state.lookup_all(GROUP, RESOURCE, NAMESPACE) {
        let shown = lease.to_value();
        if label(&shown, LABEL) != Some(COMPONENT) || !is_over(&shown, now) {
            continue;
        }
        let name = meta_text(&shown, "name");
        let call = loopback.call_of("delete", GROUP, RESOURCE, NAMESPACE, name)?;
        match delete::with_options(&call, name, &Options::default(), false).await {
            Ok(()) => tracing::info!("the API server of the Lease {name} is gone"),
            // Another server was faster.
            Err(e) if e.is("NotFound") => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_upstreams_form_and_of_one_server() {
        let name = name_of("host", "192.0.2.1");
        assert_eq!(name.len(), "apiserver-".len() + 26);
        assert!(name.starts_with("apiserver-"));
        assert_eq!(name, name_of("host", "192.0.2.1"));
        assert_ne!(name, name_of("host", "192.0.2.2"));
    }

    #[test]
    fn a_server_that_is_silent_for_long_is_gone() {
        let lease = |renewed: &str| json!({ "spec": { "renewTime": renewed, "leaseDurationSeconds": 3_600 } });
        let now = 3_600 + 10;
        assert!(!is_over(&lease("1970-01-01T00:00:10.000000Z"), now));
        assert!(is_over(&lease("1970-01-01T00:00:09.000000Z"), now));
        assert!(is_over(&json!({ "spec": {} }), now));
    }
}
