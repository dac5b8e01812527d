//! What is for one pod alone is not given to a second: claims with `ReadWriteOncePod`, and disks
//! of old kinds that one node can write at a time.

use super::{About, Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::disk::Disk;
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct VolumeRestrictions;

struct Alone<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    /// Pods on nodes that use a claim which is for this pod alone.
    others: i64,
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::POD_REMOVED)
            .with(Events::CLAIMS)
    }
    fn helps(&self, pod: &Pod, about: About<'_>, _: &Snapshot) -> bool {
        about.may_be_a_claim_of(pod)
    }
    /// One that has something of the pod's.
    fn heeds(&self, pod: &Pod, other: &Pod, _: &Snapshot) -> bool {
        let (own, theirs) = (&pod.wants, &other.wants);
        let shares = |key: &str| theirs.claims.iter().any(|c| *c.key == *key);
        let has = |disk: &Disk| theirs.disks.iter().any(|d| d.conflicts(disk));
        own.claims.iter().any(|c| shares(&c.key)) || own.disks.iter().any(has)
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        if pod.wants.claims.is_empty() && pod.wants.disks.is_empty() {
            return Ok(None);
        }
        let storage = snapshot.storage();
        let alone = pod.wants.claims.iter().filter(|used| {
            let claim = storage.claim(&used.key);
            claim.is_some_and(|c| c.is_for_one_pod())
        });
        let others = alone.map(|used| storage.users(&used.key)).sum::<usize>();
        let others = i64::try_from(others).unwrap_or(i64::MAX);
        Ok(Some(Box::new(Alone {
            pod,
            snapshot,
            others,
        })))
    }
}

impl Check for Alone<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        let disks = &self.pod.wants.disks;
        let taken = |mine: &Disk| {
            let theirs = node.pods.iter().flat_map(|p| &p.wants.disks);
            theirs.into_iter().any(|disk| disk.conflicts(mine))
        };
        if disks.iter().any(taken) {
            return Verdict::NotNow(Reason::one("node(s) had no available disk"));
        }
        if self.others > 0 {
            return Verdict::NotNow(Reason::one(
                "node has pod using PersistentVolumeClaim with the same name and \
                 ReadWriteOncePod access mode",
            ));
        }
        Verdict::Fits
    }

    fn advice(&self, _: &Node) -> Option<String> {
        let claims = &self.pod.wants.claims;
        let uses = |other: &Pod| {
            let theirs = other.wants.claims.iter();
            theirs
                .into_iter()
                .any(|c| claims.iter().any(|own| own.key == c.key))
        };
        let pods = self.snapshot.nodes().flat_map(|n| &n.pods);
        let user = pods.into_iter().find(|p| uses(p))?;
        Some(format!(
            "without pod {}/{}, which uses its claim",
            user.namespace, user.name
        ))
    }

    fn moved(&mut self, other: &Pod, _: &Node, came: bool) {
        let storage = self.snapshot.storage();
        let shared = self.pod.wants.claims.iter().filter(|used| {
            let same = other.wants.claims.iter().any(|c| c.key == used.key);
            same && storage.claim(&used.key).is_some_and(|c| c.is_for_one_pod())
        });
        let shared = i64::try_from(shared.count()).unwrap_or(i64::MAX);
        self.others += if came { shared } else { -shared };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, claim, verdicts};

    #[test]
    fn a_claim_for_one_pod_is_for_one_pod() {
        let mut c = Cluster::new([
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "b"}}),
        ]);
        let mut alone = claim("alone", "x", "1Gi");
        alone["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
        c.claim(alone);
        c.claim(claim("shared", "x", "1Gi"));
        let pod = |claim: &str| {
            json!({"spec": {"volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
        };
        assert_eq!(
            verdicts(&VolumeRestrictions, &c, pod("alone")),
            "a: fits\nb: fits"
        );
        for claim in ["alone", "shared"] {
            c.place("a", pod(claim));
        }
        let taken = "not now, node has pod using PersistentVolumeClaim with the same name and \
                     ReadWriteOncePod access mode";
        assert_eq!(
            verdicts(&VolumeRestrictions, &c, pod("alone")),
            format!("a: {taken}\nb: {taken}")
        );
        assert_eq!(
            verdicts(&VolumeRestrictions, &c, pod("shared")),
            "a: fits\nb: fits"
        );
    }

    #[test]
    fn old_disks_are_written_by_one_pod_of_a_node() {
        let mut c = Cluster::new([json!({"metadata": {"name": "a"}})]);
        let pod = |volume: serde_json::Value| json!({"spec": {"volumes": [volume]}});
        let gce = |name: &str, read: bool| {
            pod(json!({"name": "v", "gcePersistentDisk": {"pdName": name, "readOnly": read}}))
        };
        let rbd = |monitor: &str| {
            pod(json!({"name": "v", "rbd": {"monitors": [monitor, "m"], "image": "i"}}))
        };
        let iscsi = |iqn: &str| {
            pod(json!({"name": "v", "iscsi": {"targetPortal": "t", "iqn": iqn, "lun": 0}}))
        };
        c.place("a", gce("d", true));
        c.place("a", rbd("x"));
        c.place("a", iscsi("q"));
        let taken = "a: not now, node(s) had no available disk";
        for (other, expected) in [
            (gce("d", true), "a: fits"),
            (gce("d", false), taken),
            (gce("e", false), "a: fits"),
            (rbd("y"), taken),
            (iscsi("q"), taken),
            (iscsi("r"), "a: fits"),
        ] {
            assert_eq!(
                verdicts(&VolumeRestrictions, &c, other.clone()),
                expected,
                "{other}"
            );
        }
    }
}
