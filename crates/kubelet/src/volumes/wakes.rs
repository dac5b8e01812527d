//! What wakes pods whose volumes show something that changed in the API, beside the ConfigMaps and
//! Secrets that they name.

use crate::pod::spec;
use k8s_openapi::api::core::v1::{Pod, VolumeProjection};
use tokio::sync::broadcast;

/// How many changes may wait for the reader. A reader that lags wakes everybody.
const CHANGES: usize = 256;

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Trust bundles.
    TrustBundles,
    /// Requests for certificates of the pod with this UID.
    PodCertificate(String),
}

impl Wake {
    /// Whether a volume of the pod may show it.
    #[must_use]
    pub fn concerns(&self, pod: &Pod) -> bool {
        match self {
            Self::TrustBundles => sources(pod).any(|s| s.cluster_trust_bundle.is_some()),
            Self::PodCertificate(uid) => spec::uid(pod) == uid,
        }
    }
}

fn sources(pod: &Pod) -> impl Iterator<Item = &VolumeProjection> {
    let volumes = spec::of(pod).volumes.iter().flatten();
    let projected = volumes.filter_map(|v| v.projected.as_ref());
    projected.flat_map(|p| p.sources.iter().flatten())
}

/// Tells of changes.
#[derive(Clone, Debug)]
pub struct Wakes(broadcast::Sender<Wake>);

impl Default for Wakes {
    fn default() -> Self {
        Self(broadcast::channel(CHANGES).0)
    }
}

impl Wakes {
    /// Tells of one.
    pub fn send(&self, wake: Wake) {
        // Nobody listens while the kubelet starts and ends.
        let _ = self.0.send(wake);
    }

    /// All from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Wake> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_pods_that_show_it_are_woken() {
        let pod = |uid: &str, sources: serde_json::Value| -> Pod {
            let volumes = json!([{ "name": "v", "projected": { "sources": sources } }]);
            let pod = json!({ "metadata": { "uid": uid }, "spec": { "containers": [], "volumes": volumes } });
            serde_json::from_value(pod).unwrap()
        };
        let bundles = pod(
            "a",
            json!([{ "clusterTrustBundle": { "name": "b", "path": "p" } }]),
        );
        let none = pod("b", json!([{ "configMap": { "name": "c" } }]));
        assert!(Wake::TrustBundles.concerns(&bundles) && !Wake::TrustBundles.concerns(&none));
        let wake = Wake::PodCertificate("b".into());
        assert!(wake.concerns(&none) && !wake.concerns(&bundles));
    }
}
