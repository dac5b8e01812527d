//! A pod goes where its volumes are, or can be made; those of classes that wait for their first
//! consumer are bound before the pod is (documentation "Storage Classes", "Volume Binding Mode").

use std::sync::Arc;

use super::{About, Check, Events, Plugin, Prepare, Ready, Reason, Verdict, Write};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;
use crate::storage::{Claims, Progress};

pub struct VolumeBinding {
    /// How long volumes may take to be bound.
    pub timeout_ms: u64,
}

impl Default for VolumeBinding {
    /// Upstream's ten minutes.
    fn default() -> Self {
        Self {
            timeout_ms: 600_000,
        }
    }
}

struct Volumes<'a> {
    claims: Claims<'a>,
    snapshot: &'a Snapshot,
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
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
        if pod.wants.claims.is_empty() {
            return Ok(None);
        }
        let claims = Claims::of(pod, snapshot.storage()).map_err(|why| Reason::text(why.0))?;
        Ok(Some(Box::new(Volumes { claims, snapshot })))
    }
    fn reserve(&self, pod: &Pod, node: &Arc<str>, on: &mut Snapshot) -> Result<(), Reason> {
        if pod.wants.claims.is_empty() {
            return Ok(());
        }
        let Some(place) = on.node(node) else {
            return Ok(());
        };
        let claims = Claims::of(pod, on.storage()).map_err(|why| Reason::text(why.0))?;
        if claims.delayed.is_empty() {
            return Ok(());
        }
        let plan = on.storage().plan(&claims, place);
        let plan = plan.map_err(|why| Reason::many(why.into_iter().map(Into::into).collect()))?;
        on.storage_mut().reserve(&pod.uid, node, plan);
        Ok(())
    }
    fn unreserve(&self, pod: &Pod, on: &mut Snapshot) {
        if !pod.wants.claims.is_empty() {
            on.storage_mut().release(&pod.uid);
        }
    }
    fn pre_bind(&self, pod: &Pod, _: &Node, snapshot: &Snapshot) -> Vec<Write> {
        let storage = snapshot.storage();
        let Some((node, plan)) = storage.reserved(&pod.uid) else {
            return Vec::new();
        };
        let pairs = plan.pairs.iter().filter_map(|(name, key)| {
            let (volume, claim) = (storage.volume(name)?, storage.claim(key)?);
            let written = volume.claim.as_ref().is_some_and(|c| c.uid == claim.uid);
            (!written).then(|| Write::BindVolume {
                volume: name.clone(),
                version: volume.version.clone(),
                claim: claim.clone(),
            })
        });
        let provisions = plan.provisions.iter().filter_map(|key| {
            let claim = storage.claim(key)?;
            let written = claim.selected_node.as_ref() == Some(node);
            (!written).then(|| Write::SelectNode {
                claim: claim.clone(),
                node: node.clone(),
            })
        });
        pairs.chain(provisions).collect()
    }
    fn is_bindable(&self, pod: &Pod, node: &Node, snapshot: &Snapshot) -> Ready {
        match snapshot.storage().progress(&pod.uid, node) {
            Progress::Bound => Ready::Yes,
            Progress::Waiting => Ready::Not,
            Progress::Failed(why) => Ready::Never(format!("binding volumes: {why}")),
        }
    }
    fn patience_ms(&self) -> u64 {
        self.timeout_ms
    }
}

impl Check for Volumes<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        match self.snapshot.storage().plan(&self.claims, node) {
            Ok(_) => Verdict::Fits,
            Err(why) => Verdict::Never(Reason::many(why.into_iter().map(Into::into).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Cluster, claim, class, verdicts, volume};

    fn cluster() -> Cluster {
        let node =
            |name: &str, zone: &str| json!({"metadata": {"name": name, "labels": {"zone": zone}}});
        let mut c = Cluster::new([node("a", "1"), node("b", "2")]);
        c.class(class("fast", "kubernetes.io/no-provisioner", true));
        c.class(class("made", "csi.example", true));
        c.class(class("now", "csi.example", false));
        c
    }

    fn pod(claim: &str) -> Value {
        json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})
    }

    const NO: &str = "never, node(s) didn't find available persistent volumes to bind";
    const FAR: &str = "never, node(s) didn't match PersistentVolume's node affinity";

    #[test]
    fn claims_that_are_not_ready_keep_a_pod_from_all_nodes() {
        let mut c = cluster();
        c.claim(claim("now", "now", "1Gi"));
        let mut lost = claim("lost", "now", "1Gi");
        lost["spec"]["volumeName"] = json!("gone");
        lost["status"]["phase"] = json!("Lost");
        c.claim(lost);
        let mut leaving = claim("leaving", "now", "1Gi");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        c.claim(leaving);
        c.claim(claim("odd", "none", "1Gi"));
        for (name, why) in [
            ("none", "persistentvolumeclaim \"none\" not found"),
            ("now", "pod has unbound immediate PersistentVolumeClaims"),
            (
                "lost",
                "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"gone\"",
            ),
            (
                "leaving",
                "persistentvolumeclaim \"leaving\" is being deleted",
            ),
            ("odd", "pod has unbound immediate PersistentVolumeClaims"),
        ] {
            assert_eq!(verdicts(&VolumeBinding::default(), &c, pod(name)), why);
        }
        let waits = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
            {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}});
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, waits),
            "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\""
        );
    }

    #[test]
    fn a_bound_volume_says_where_it_can_be() {
        let mut c = cluster();
        c.volume(volume("v", "fast", "1Gi", Some("1")));
        let mut bound = claim("c", "fast", "1Gi");
        bound["spec"]["volumeName"] = json!("v");
        bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        c.claim(bound);
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, pod("c")),
            format!("a: fits\nb: {FAR}")
        );
    }

    #[test]
    fn a_claim_that_waits_gets_a_volume_that_reaches_the_node() {
        let mut c = cluster();
        c.claim(claim("c", "fast", "5Gi"));
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, pod("c")),
            format!("a: {NO}\nb: {NO}")
        );
        c.volume(volume("small", "fast", "1Gi", Some("1")));
        c.volume(volume("other", "made", "9Gi", Some("1")));
        c.volume(volume("right", "fast", "9Gi", Some("2")));
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, pod("c")),
            format!("a: {NO}\nb: fits")
        );
    }

    #[test]
    fn volumes_are_made_where_the_class_allows_and_there_is_space() {
        let mut c = cluster();
        c.claim(claim("c", "made", "5Gi"));
        let fits = "a: fits\nb: fits";
        assert_eq!(verdicts(&VolumeBinding::default(), &c, pod("c")), fits);
        let mut zoned = class("made", "csi.example", true);
        zoned["allowedTopologies"] =
            json!([{"matchLabelExpressions": [{"key": "zone", "values": ["2"]}]}]);
        c.class(zoned);
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, pod("c")),
            format!("a: {NO}\nb: fits")
        );
        c.class(class("made", "csi.example", true));
        c.driver(json!({"metadata": {"name": "csi.example"}, "spec": {"storageCapacity": true}}));
        c.capacity(
            json!({"metadata": {"name": "x", "namespace": "d"}, "storageClassName": "made",
            "nodeTopology": {"matchLabels": {"zone": "1"}}, "capacity": "9Gi"}),
        );
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, pod("c")),
            "a: fits\nb: never, node(s) did not have enough free storage"
        );
        // The provisioner of the nodes' disks says it without a driver's object.
        c.class(class("made", api::local_volumes::PROVISIONER, true));
        assert_eq!(
            verdicts(&VolumeBinding::default(), &c, pod("c")),
            "a: fits\nb: never, node(s) did not have enough free storage"
        );
        c.class(class("other", api::local_volumes::PROVISIONER, true));
        c.claim(claim("d", "other", "5Gi"));
        assert_eq!(verdicts(&VolumeBinding::default(), &c, pod("d")), fits);
    }

    #[test]
    fn what_was_decided_holds_before_the_api_shows_it() {
        let mut c = cluster();
        for name in ["c", "d"] {
            c.claim(claim(name, "fast", "1Gi"));
        }
        c.volume(volume("one", "fast", "1Gi", None));
        let plugin = VolumeBinding::default();
        let first = c.pod(json!({"spec": pod("c")}));
        let node = c.strings.get("a");
        plugin
            .reserve(&first, &node, &mut c.snapshot)
            .expect("room");
        let place = c.snapshot.node("a").expect("a node").clone();
        let writes = plugin.pre_bind(&first, &place, &c.snapshot);
        assert!(matches!(&writes[..], [Write::BindVolume { volume, .. }] if &**volume == "one"));
        assert_eq!(plugin.is_bindable(&first, &place, &c.snapshot), Ready::Not);
        // Nobody else gets the volume.
        assert_eq!(verdicts(&plugin, &c, pod("d")), format!("a: {NO}\nb: {NO}"));
        let mut bound = claim("c", "fast", "1Gi");
        bound["spec"]["volumeName"] = json!("one");
        bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        c.claim(bound);
        assert_eq!(plugin.is_bindable(&first, &place, &c.snapshot), Ready::Yes);
        plugin.unreserve(&first, &mut c.snapshot);
        assert_eq!(verdicts(&plugin, &c, pod("d")), "a: fits\nb: fits");
    }

    #[test]
    fn a_volume_that_is_taken_away_from_the_claim_again_frees_the_pod() {
        let mut c = cluster();
        c.claim(claim("c", "fast", "1Gi"));
        c.volume(volume("one", "fast", "1Gi", None));
        let plugin = VolumeBinding::default();
        let pod = c.pod(json!({"spec": pod("c")}));
        let node = c.strings.get("a");
        plugin.reserve(&pod, &node, &mut c.snapshot).expect("room");
        let place = c.snapshot.node("a").expect("a node").clone();
        // That it has not been written yet is nothing to give up for.
        c.volume(volume("one", "fast", "1Gi", None));
        assert_eq!(plugin.is_bindable(&pod, &place, &c.snapshot), Ready::Not);
        let mut written = volume("one", "fast", "1Gi", None);
        written["spec"]["claimRef"] = json!({"namespace": "default", "name": "c", "uid": "uid-c"});
        c.volume(written);
        assert_eq!(plugin.is_bindable(&pod, &place, &c.snapshot), Ready::Not);
        c.volume(volume("one", "fast", "1Gi", None));
        let out = plugin.is_bindable(&pod, &place, &c.snapshot);
        assert!(matches!(out, Ready::Never(why) if why.contains("ClaimRef got reset")));
    }

    #[test]
    fn a_provisioner_that_gives_up_frees_the_pod() {
        let mut c = cluster();
        c.claim(claim("c", "made", "1Gi"));
        let plugin = VolumeBinding::default();
        let pod = c.pod(json!({"spec": pod("c")}));
        let node = c.strings.get("a");
        plugin.reserve(&pod, &node, &mut c.snapshot).expect("room");
        let place = c.snapshot.node("a").expect("a node").clone();
        let writes = plugin.pre_bind(&pod, &place, &c.snapshot);
        assert!(matches!(&writes[..], [Write::SelectNode { node, .. }] if &**node == "a"));
        assert_eq!(plugin.is_bindable(&pod, &place, &c.snapshot), Ready::Not);
        let mut selected = claim("c", "made", "1Gi");
        selected["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "a"});
        c.claim(selected);
        assert_eq!(plugin.is_bindable(&pod, &place, &c.snapshot), Ready::Not);
        c.claim(claim("c", "made", "1Gi"));
        let out = plugin.is_bindable(&pod, &place, &c.snapshot);
        assert!(matches!(out, Ready::Never(why) if why.contains("provisioning failed")));
    }
}
