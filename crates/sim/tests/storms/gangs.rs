//! What a wide storm may have besides, drawn from its seed: a gang, whose pods have nodes together or
//! not at all, and zones, over which other pods are spread.

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Random;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use rand::RngExt;
use serde_json::json;
use sim::Cluster;

use crate::common::Admin;
use crate::wide::deployment;

const ZONE: &str = "topology.kubernetes.io/zone";
/// Pods that are spread over the zones.
const SPREAD: usize = 3;

pub struct Parts {
    /// The nodes are in so many zones, in turn.
    zones: usize,
    /// So many pods of the gang must have nodes at once.
    least: u32,
    /// So many more it has.
    more: u32,
}

/// Servers that have groups of pods.
pub fn serve(config: &mut apiserver::Config) {
    let gates = ["GenericWorkload=true,GangScheduling=true"];
    let features = registry::Features::read(&gates).expect("known gates");
    let apis = ["scheduling.k8s.io/v1alpha2=true"];
    let served = registry::served_versions::configured(&apis, &features).expect("known APIs");
    config.settings.kinds = served.kinds;
    config.settings.features = std::sync::Arc::new(features);
}

impl Parts {
    pub fn of(seed: u64) -> Self {
        // Another source than the plan's, so that it is that of the storm without them.
        let mut draw = Random::seeded(seed).fork().fork();
        Self {
            zones: draw.random_range(1..4),
            least: draw.random_range(2..5),
            more: draw.random_range(0..2),
        }
    }

    fn zone(&self, nth: usize) -> String {
        format!("z{}", nth % self.zones)
    }

    pub async fn begin(&self, cluster: &Cluster, admin: &Admin) {
        for (nth, node) in cluster.nodes().iter().enumerate() {
            // It registers by itself.
            while admin.get("Node", node.name()).await.is_none() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let label = json!({ "metadata": { "labels": { ZONE: self.zone(nth) } } });
            admin.patch("Node", node.name(), &label).await;
        }
        let group = json!({ "metadata": { "name": "gang" }, "spec": {
            "schedulingPolicy": { "gang": { "minCount": self.least } } } });
        admin.create("PodGroup", group).await;
        // The most important of all, and small: there is always room for all of them.
        let mut gang = deployment("gang", u64::from(self.least + self.more), "urgent", 100);
        gang["spec"]["template"]["spec"]["schedulingGroup"] = json!({ "podGroupName": "gang" });
        admin.create("Deployment", gang).await;
        let mut spread = deployment("spread", SPREAD as u64, "middle", 50);
        spread["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "spread" } } }]);
        admin.create("Deployment", spread).await;
    }

    /// What is not as it should be when all is whole and quiet.
    pub fn lacking(&self, cluster: &Cluster, pods: &[Pod]) -> Vec<String> {
        let mut out = Vec::new();
        let nodes_of = |app: &str| -> Vec<&str> {
            let own = pods.iter().filter(|p| {
                let is_of = p.labels().get("app").is_some_and(|a| a == app);
                is_of && p.metadata.deletion_timestamp.is_none()
            });
            own.filter_map(|p| p.spec.as_ref()?.node_name.as_deref())
                .collect()
        };
        let is = u32::try_from(nodes_of("gang").len()).unwrap_or(u32::MAX);
        if is > 0 && is < self.least {
            let least = self.least;
            out.push(format!(
                "{is} pods of the gang have nodes, of at least {least}"
            ));
        }
        let wanted = self.least + self.more;
        if is != wanted {
            out.push(format!("{is} of {wanted} pods of the gang have nodes"));
        }
        let nodes = cluster.nodes().iter().enumerate();
        let zones: BTreeMap<&str, String> =
            nodes.map(|(nth, n)| (n.name(), self.zone(nth))).collect();
        let mut counts: BTreeMap<&str, usize> = zones.values().map(|z| (z.as_str(), 0)).collect();
        for node in nodes_of("spread") {
            if let Some(zone) = zones.get(node) {
                *counts.entry(zone).or_default() += 1;
            }
        }
        let placed: usize = counts.values().sum();
        let (most, fewest) = (counts.values().max(), counts.values().min());
        let skew = most.zip(fewest).map_or(0, |(most, fewest)| most - fewest);
        if placed != SPREAD || skew > 1 {
            out.push(format!("pods that are spread over zones: {counts:?}"));
        }
        out
    }

    pub async fn end(&self, admin: &Admin) {
        let params = DeleteParams::background();
        for name in ["gang", "spread"] {
            admin.delete("Deployment", name, &params).await;
        }
        admin.delete("PodGroup", "gang", &params).await;
    }
}
