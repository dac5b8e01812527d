//! How many volumes of a driver the node can have: the driver is asked again as often as its
//! CSIDriver wants, and at once where a volume could not be attached because there are too many. The
//! pod that would have had it is not waited for any longer: another node may have room.

use super::Csi;
use client::reflector::Objects;
use clock::{Instant, Random};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::runtime::watcher::{Config, Event};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Why a pod ends that cannot have its volumes here; upstream's word …
pub const REASON: &str = "VolumeAttachmentLimitExceeded";
/// … and message.
pub const MESSAGE: &str = "Node has reached its volume attachment limit, rejecting pod";

/// Between looks at who is to be asked: the shortest period that the API lets a driver have.
const LOOK: Duration = Duration::from_secs(10);

impl Csi {
    /// UIDs of the pods that cannot have their volumes here, each once; waits until there are some.
    pub async fn rejected(&self) -> BTreeSet<String> {
        loop {
            let all = std::mem::take(&mut *self.limits.rejected.lock());
            if !all.is_empty() {
                return all;
            }
            self.limits.has_rejected.notified().await;
        }
    }

    /// Asks a driver again how many volumes the node can have, and publishes that.
    pub(super) async fn refresh_limit(&self, name: &str) -> Result<(), String> {
        let driver = self.driver(name).map_err(|e| e.to_string())?;
        let info = driver.info().await.map_err(|e| e.to_string())?;
        self.publish_limit(name, &info).await
    }

    /// Keeps what the CSINode says of limits true, as long as the kubelet runs. `random` spreads
    /// watches that begin again.
    pub async fn follow_limits(&self, random: Random) {
        let mut known = Objects::<CSIDriver>::default();
        let mut events: BoxStream<'static, Event<CSIDriver>> = futures::stream::pending().boxed();
        let mut follows = false;
        let mut asked = BTreeMap::<String, Instant>::new();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(event) = events.next() => {
                    known.take(event);
                    continue;
                }
                () = self.limits.has_outdated.notified() => {}
                _ = ticks.tick() => {}
            }
            let (drivers, now) = (self.names(), Instant::now());
            if !drivers.is_empty() && !follows {
                // A node without drivers has nothing to hear of them.
                follows = true;
                let api = kube::Api::<CSIDriver>::all(self.client.clone());
                events = client::events(random.clone(), api, Config::default()).boxed();
            }
            asked.retain(|name, _| drivers.contains(name));
            let outdated = std::mem::take(&mut *self.limits.outdated.lock());
            for name in drivers {
                let last = asked.entry(name.clone()).or_insert(now);
                let period = known.get("", &name).as_deref().and_then(period);
                let is_due = period.is_some_and(|p| now.duration_since(*last) >= p);
                if !is_due && !outdated.contains(&name) {
                    continue;
                }
                *last = now;
                if let Err(error) = self.refresh_limit(&name).await {
                    tracing::warn!(driver = %name, error, "how many volumes the node can have is not known");
                }
            }
        }
    }
}

/// How often a driver wants to be asked; none: never again.
fn period(driver: &CSIDriver) -> Option<Duration> {
    let seconds = driver.spec.node_allocatable_update_period_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Api, Fake, NAME, with};
    use super::super::{CsiVolume, Error};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_driver_says_how_often_it_is_asked() {
        let driver = |spec: serde_json::Value| -> CSIDriver {
            serde_json::from_value(json!({ "metadata": { "name": "d" }, "spec": spec })).unwrap()
        };
        assert_eq!(period(&driver(json!({}))), None);
        let often = driver(json!({ "nodeAllocatableUpdatePeriodSeconds": 10 }));
        assert_eq!(period(&often), Some(Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn a_limit_that_changed_is_published_and_nothing_else() {
        let (dir, api) = (tempfile::tempdir().unwrap(), Api::default());
        let path = "/apis/storage.k8s.io/v1/csinodes/n";
        let entry = json!({ "name": NAME, "nodeID": "older", "topologyKeys": ["zone"],
            "allocatable": { "count": 9 } });
        api.put(
            path,
            json!({ "metadata": { "name": "n" }, "spec": { "drivers": [entry] } }),
        );
        let (csi, _serving) = with(dir.path(), &api, &Fake::default());
        csi.refresh_limit(NAME).await.unwrap();
        let told = api.get(path).unwrap()["spec"]["drivers"][0].clone();
        assert_eq!(told["allocatable"]["count"], 5);
        assert_eq!(
            (&told["nodeID"], &told["topologyKeys"][0]),
            (&json!("older"), &json!("zone"))
        );
        assert!(csi.refresh_limit("none").await.is_err());
    }

    #[tokio::test]
    async fn a_pod_whose_volume_is_one_too_many_is_rejected_once() {
        let dir = tempfile::tempdir().unwrap();
        let csi = super::super::testing::csi(dir.path(), &Api::default());
        let asked = CsiVolume {
            driver: NAME.into(),
            ..CsiVolume::default()
        };
        csi.limits
            .note(&Error::NotAttached("later".into()), &asked, "p");
        assert!(csi.limits.rejected.lock().is_empty());
        let full = Error::TooManyAttached("full".into());
        csi.limits.note(&full, &asked, "p");
        assert_eq!(csi.rejected().await, ["p".to_owned()].into());
        assert!(csi.limits.rejected.lock().is_empty());
        assert!(csi.limits.outdated.lock().contains(NAME));
    }
}
