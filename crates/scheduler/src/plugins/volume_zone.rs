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
        let mut zones = Vec::new();
        for used in &pod.wants.claims {
            let claim = storage.claim(&used.key);
            let Some(name) = claim.map(|c| c.volume.as_str()).filter(|v| !v.is_empty()) else {
                continue;
            };
            let Some(volume) = storage.volume(name) else {
                // One that was made for the pod is left to the plugin that binds volumes.
                if used.ephemeral {
                    continue;
                }
                return Err(Reason::text(format!("persistentvolume {name:?} not found")));
            };
            zones.extend(KEYS.iter().filter_map(|(key, today)| {
                let values: Vec<&str> = volume.labels.get(key)?.split("__").collect();
                // A label with a part that is empty says nothing.
                (!values.contains(&"")).then_some((*key, *today, values))
            }));
        }
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

    #[test]
    fn labels_of_volumes_and_nodes_are_compared_by_what_they_mean() {
        let (old, new) = (
            "failure-domain.beta.kubernetes.io/",
            "topology.kubernetes.io/",
        );
        let (zone, region) = ("zone", "region");
        let no = "a: never, node(s) had no available volume zone";
        let fits = "a: fits";
        // Labels of the volume, labels of the node.
        let cases = [
            (vec![(old, zone, "1")], vec![(old, zone, "1")], fits),
            (vec![(old, region, "1")], vec![(old, region, "1")], fits),
            (vec![(old, region, "2")], vec![(old, region, "1")], no),
            (vec![(new, zone, "1")], vec![(new, zone, "1")], fits),
            (vec![(new, zone, "2")], vec![(new, zone, "1")], no),
            (vec![(old, zone, "1")], vec![(new, zone, "1")], fits),
            (vec![(old, zone, "2")], vec![(new, zone, "1")], no),
            // What a volume says today is not looked for under an old name.
            (vec![(new, zone, "1")], vec![(old, zone, "1")], no),
            (
                vec![(new, zone, "1"), (new, region, "1")],
                vec![(new, zone, "1")],
                no,
            ),
            (
                vec![(new, zone, "1__")],
                vec![(new, zone, "2")],
                "nothing to say",
            ),
            (vec![], vec![(new, zone, "2")], "nothing to say"),
            (vec![(new, zone, "1")], vec![], fits),
        ];
        let labels = |all: &[(&str, &str, &str)]| -> serde_json::Value {
            let all = all.iter();
            all.map(|(prefix, key, value)| (format!("{prefix}{key}"), json!(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let pod = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        for (of_volume, of_node, expected) in cases {
            let node = json!({"metadata": {"name": "a", "labels": labels(&of_node)}});
            let mut c = Cluster::new([node]);
            let mut bound = claim("c", "x", "1Gi");
            bound["spec"]["volumeName"] = json!("v");
            c.claim(bound);
            assert_eq!(
                verdicts(&VolumeZone, &c, pod.clone()),
                "persistentvolume \"v\" not found"
            );
            let mut v = volume("v", "x", "1Gi", None);
            v["metadata"]["labels"] = labels(&of_volume);
            c.volume(v);
            let out = verdicts(&VolumeZone, &c, pod.clone());
            assert_eq!(out, expected, "{of_volume:?} {of_node:?}");
        }
    }
}
