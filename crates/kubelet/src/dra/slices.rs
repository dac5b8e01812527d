//! ResourceSlices of drivers that are away: what the node offers must be had, so they go when a
//! driver has been silent for a while, and when the kubelet starts, since then no driver is there.
//! A driver that comes back publishes them again.

use super::Dra;
use clock::Instant;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{DeleteParams, ListParams};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a driver may be away: enough to be replaced; upstream's.
const AWAY: Duration = Duration::from_secs(30);
/// Between looks whether drivers are there.
const LOOK: Duration = Duration::from_secs(5);
/// The longest pause after a failure to delete slices.
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Looks after the slices as long as the kubelet runs.
pub(super) async fn run(dra: &Dra) {
    // In the beginning no driver is there.
    let mut again = LOOK;
    while !delete(dra, None).await {
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
    let mut away = Away::default();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (driver, usable) in dra.usable().await {
            if away.look(&driver, usable, Instant::now()) && delete(dra, Some(&driver)).await {
                tracing::info!(driver, "a driver is away; its ResourceSlices are deleted");
                dra.forget(&driver);
                away.done(&driver);
            }
        }
    }
}

async fn delete(dra: &Dra, driver: Option<&str>) -> bool {
    let api: kube::Api<ResourceSlice> = kube::Api::all(dra.client.clone());
    let mut selector = format!("spec.nodeName={}", dra.node);
    if let Some(driver) = driver {
        selector.push_str(&format!(",spec.driver={driver}"));
    }
    let which = ListParams::default().fields(&selector);
    match api
        .delete_collection(&DeleteParams::default(), &which)
        .await
    {
        Ok(_) => true,
        Err(kube::Error::Api(e)) if e.code == 404 => true,
        Err(e) => {
            tracing::debug!(selector, error = %e, "ResourceSlices cannot be deleted; trying again");
            false
        }
    }
}

/// Since when drivers are away; none: their slices are deleted.
#[derive(Debug, Default)]
struct Away(BTreeMap<String, Option<Instant>>);

impl Away {
    /// Whether the slices of a driver must go now.
    fn look(&mut self, driver: &str, usable: bool, now: Instant) -> bool {
        if usable {
            self.0.remove(driver);
            return false;
        }
        let since = self.0.entry(driver.to_owned()).or_insert(Some(now));
        since.is_some_and(|at| now.saturating_duration_since(at) >= AWAY)
    }

    fn done(&mut self, driver: &str) {
        self.0.insert(driver.to_owned(), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_go_once_after_a_while() {
        let mut away = Away::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!away.look("d", true, at(0)) && !away.look("d", false, at(1)));
        assert!(!away.look("d", false, at(30)) && away.look("d", false, at(31)));
        // As long as that fails it is tried again.
        assert!(away.look("d", false, at(36)));
        away.done("d");
        assert!(!away.look("d", false, at(99)));
        assert!(!away.look("d", true, at(100)) && !away.look("d", false, at(101)));
        assert!(away.look("d", false, at(131)));
    }
}
