//! A node can have so many volumes of a CSI driver as its CSINode says.

use std::collections::{HashMap, HashSet};

use super::{About, Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;
use crate::storage::{Limits, Storage};

pub struct NodeVolumeLimits;

/// Driver, and a name of the volume that is unique for it.
type Name<'a> = (&'a str, &'a str);

struct PodVolumes<'a> {
    volumes: HashSet<Name<'a>>,
    storage: &'a Storage,
}

/// The CSI volumes of a pod; of a claim without a volume its class says the driver.
fn volumes<'a>(pod: &'a Pod, storage: &'a Storage) -> impl Iterator<Item = Name<'a>> {
    pod.wants.claims.iter().filter_map(|used| {
        let claim = storage.claim(&used.key)?;
        match storage.volume(&claim.volume) {
            Some(volume) => volume.csi.as_ref().map(|(d, h)| (d.as_str(), h.as_str())),
            None => {
                let class = storage.class(&claim.class)?;
                Some((class.provisioner.as_str(), &*used.key))
            }
        }
    })
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::POD_REMOVED)
            .with(Events::CLAIMS)
            .with(Events::STORAGE)
    }
    fn helps(&self, pod: &Pod, about: About<'_>, _: &Snapshot) -> bool {
        about.may_be_a_claim_of(pod)
    }
    /// One that has volumes.
    fn heeds(&self, _: &Pod, other: &Pod, _: &Snapshot) -> bool {
        !other.wants.claims.is_empty()
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        let storage = snapshot.storage();
        let volumes: HashSet<_> = volumes(pod, storage).collect();
        Ok((!volumes.is_empty())
            .then(|| Box::new(PodVolumes { volumes, storage }) as Box<dyn Check>))
    }
}

impl PodVolumes<'_> {
    /// Whether there is room even if everything on the node were another volume of the same driver:
    /// then nobody needs to look which they are.
    fn has_ample_room(&self, node: &Node, limits: &Limits) -> bool {
        let there = node.claims + self.storage.attachments_on(&node.name).len();
        let most = i64::try_from(there + self.volumes.len()).unwrap_or(i64::MAX);
        let mut drivers = self.volumes.iter().map(|(driver, _)| *driver);
        drivers.all(|driver| limits.of(driver).is_none_or(|limit| most <= limit))
    }
}

impl Check for PodVolumes<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        let Some(limits) = self.storage.limits(&node.name).filter(|l| !l.is_empty()) else {
            return Verdict::Fits;
        };
        if self.has_ample_room(node, limits) {
            return Verdict::Fits;
        }
        let pods = node.pods.iter().flat_map(|p| volumes(p, self.storage));
        let mut there: HashSet<Name<'_>> = pods.collect();
        for attachment in self.storage.attachments_on(&node.name) {
            let volume = self.storage.volume(&attachment.volume);
            let handle = volume.and_then(|v| v.csi.as_ref());
            there.insert((
                &attachment.driver,
                handle.map_or(&attachment.volume, |(_, handle)| handle),
            ));
        }
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for (driver, _) in there.union(&self.volumes) {
            *counts.entry(driver).or_default() += 1;
        }
        // A driver of which nothing is added may be over its limit already.
        let mut new = self.volumes.difference(&there);
        let full = new.any(|(driver, _)| {
            let count = counts.get(driver).copied().unwrap_or(0);
            limits.of(driver).is_some_and(|most| count > most)
        });
        if full {
            Verdict::NotNow(Reason::one("node(s) exceed max volume count"))
        } else {
            Verdict::Fits
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, claim, class, verdicts, volume};

    #[test]
    fn volumes_are_counted_once_per_node() {
        let mut c = Cluster::new([json!({"metadata": {"name": "a"}})]);
        c.class(class("csi", "d.example", true));
        c.limits(json!({"metadata": {"name": "a"}, "spec": {"drivers": [
            {"name": "d.example", "nodeID": "a", "allocatable": {"count": 2}}]}}));
        for name in ["one", "two", "three"] {
            let mut v = volume(name, "csi", "1Gi", None);
            v["spec"]["csi"] = json!({"driver": "d.example", "volumeHandle": name});
            c.volume(v);
            let mut bound = claim(name, "csi", "1Gi");
            bound["spec"]["volumeName"] = json!(name);
            c.claim(bound);
        }
        c.claim(claim("new", "csi", "1Gi"));
        let pod = |claims: &[&str]| {
            let volumes: Vec<_> = claims
                .iter()
                .map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}}))
                .collect();
            json!({"spec": {"volumes": volumes}})
        };
        c.place("a", pod(&["one"]));
        let full = "a: not now, node(s) exceed max volume count";
        for (claims, expected) in [
            (&["two"][..], "a: fits"),
            (&["one"], "a: fits"),
            (&["one", "two"], "a: fits"),
            (&["two", "three"], full),
            (&["new", "two"], full),
            (&["new"], "a: fits"),
        ] {
            let out = verdicts(&NodeVolumeLimits, &c, pod(claims));
            assert_eq!(out, expected, "{claims:?}");
        }
        // One that no pod uses is still attached.
        c.attachment(
            json!({"metadata": {"name": "x"}, "spec": {"attacher": "d.example",
            "nodeName": "a", "source": {"persistentVolumeName": "three"}}}),
        );
        assert_eq!(verdicts(&NodeVolumeLimits, &c, pod(&["two"])), full);
        assert_eq!(verdicts(&NodeVolumeLimits, &c, pod(&["three"])), "a: fits");
    }
}
