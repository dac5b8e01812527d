//! A bound volume that names a zone or region by its labels is used there only.

use super::{About, Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct VolumeZone;

/// Labels of volumes, and what nodes call the same today.
const KEYS: [(&str, &str); 4] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

/// The labels, and the values of which a node must have one; several stand between `__`.
struct Zones<'a>(Vec<(&'static str, &'static str, Vec<&'a str>)>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::NODE_LABELS)
            .with(Events::CLAIMS)
            .with(Events::STORAGE)
    }
    fn helps(&self, pod: &Pod, about: About<'_>, _: &Snapshot) -> bool {
        about.may_be_a_claim_of(pod)
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        let storage = snapshot.storage();
        let claims = pod.wants.claims.iter();
        let volumes = claims.filter_map(|c| storage.volume(&storage.claim(&c.key)?.volume));
        let zones: Vec<_> = volumes
            .flat_map(|v| {
                KEYS.iter().filter_map(|(key, today)| {
                    let value = v.labels.get(key)?;
                    Some((*key, *today, value.split("__").collect()))
                })
            })
            .collect();
        Ok((!zones.is_empty()).then(|| Box::new(Zones(zones)) as Box<dyn Check>))
    }
}

impl Check for Zones<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        let labels = &node.labels;
        if KEYS.iter().all(|(key, _)| labels.get(key).is_none()) {
            return Verdict::Fits;
        }
        let fits = self.0.iter().all(|(key, today, values)| {
            let value = labels.get(key).or_else(|| labels.get(today));
            value.is_some_and(|v| values.contains(&&**v))
        });
        if fits {
            Verdict::Fits
        } else {
            Verdict::Never(Reason::one("node(s) had no available volume zone"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, claim, verdicts, volume};

    #[test]
    fn volumes_stay_in_their_zones() {
        let zone = "topology.kubernetes.io/zone";
        let node = |name: &str, labels: serde_json::Value| json!({"metadata": {"name": name, "labels": labels}});
        let mut c = Cluster::new([
            node("a", json!({zone: "1"})),
            node("b", json!({zone: "3"})),
            node("c", json!({})),
        ]);
        let mut v = volume("v", "x", "1Gi", None);
        v["metadata"]["labels"] = json!({"failure-domain.beta.kubernetes.io/zone": "1__2"});
        c.volume(v);
        let mut bound = claim("c", "x", "1Gi");
        bound["spec"]["volumeName"] = json!("v");
        c.claim(bound);
        let pod = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        assert_eq!(
            verdicts(&VolumeZone, &c, pod),
            "a: fits\nb: never, node(s) had no available volume zone\nc: fits"
        );
    }
}
