//! A pod goes where the devices are that its claims ask for, or have; they are allocated and reserved
//! before it is bound (documentation "Dynamic Resource Allocation").

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as k8s;

use super::{Check, Events, Plugin, Prepare, Ready, Reason, Verdict, Write, normalize};
use crate::devices::{
    self, Allocated, Binding, ExtendedClaim, Failure, Matches, Pending, Slices, WantedClaim,
    extended,
};
use crate::node::Node;
use crate::pod::Pod;
use crate::selector_terms::{NodeTerm, node_terms};
use crate::snapshot::Snapshot;

/// How a claim is called that is yet to be made.
const EXTENDED: &str = "<extended-resources>";
/// Alternatives of a request, at most; the API's limit.
const MOST_ALTERNATIVES: i64 = 8;

pub struct DynamicResources {
    /// How long devices may take to be bound.
    pub timeout_ms: u64,
}

impl Default for DynamicResources {
    /// Upstream's ten minutes.
    fn default() -> Self {
        Self {
            timeout_ms: 600_000,
        }
    }
}

/// A claim that has its devices.
struct Had<'a> {
    claim: &'a k8s::ResourceClaim,
    /// Where they can be used; none for everywhere.
    places: Option<Vec<NodeTerm>>,
}

impl Had<'_> {
    fn suits(&self, node: &Node) -> bool {
        let here = self.places.as_ref();
        here.is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
            && !matches!(devices::binding(self.claim), Binding::Failed(_))
    }
}

/// The claims of a pod.
struct Claims<'a> {
    had: Vec<Had<'a>>,
    wanted: Vec<WantedClaim<'a>>,
}

impl<'a> Claims<'a> {
    /// # Errors
    /// Why the pod can be on no node.
    fn of(pod: &'a Pod, snapshot: &'a Snapshot) -> Result<Self, String> {
        let all = snapshot.devices();
        let (mut had, mut wanted) = (Vec::new(), Vec::new());
        for used in &pod.wants.devices {
            let Some(key) = &used.key else {
                return Err(format!(
                    "pod \"{}/{}\": ResourceClaim not created yet",
                    pod.namespace, pod.name
                ));
            };
            let Some(claim) = all.claim(key) else {
                return Err(format!("resourceclaim {:?} not found", used.name));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim {:?} is being deleted", used.name));
            }
            let mut owners = claim.metadata.owner_references.iter().flatten();
            let owner = owners.find(|o| o.controller == Some(true));
            if used.made && owner.is_none_or(|o| o.uid != *pod.uid) {
                return Err(format!(
                    "ResourceClaim {key} was not created for Pod {}/{} (Pod is not owner)",
                    pod.namespace, pod.name
                ));
            }
            let status = claim.status.as_ref();
            if let Some(allocation) = status.and_then(|s| s.allocation.as_ref()) {
                let selector = allocation.node_selector.as_ref();
                had.push(Had {
                    claim,
                    places: selector.map(node_terms),
                });
                continue;
            }
            if all.pending(key).is_some_and(|p| *p.pod != *pod.uid) {
                return Err(format!(
                    "resource claim {key} is in the process of being allocated"
                ));
            }
            wanted.push(WantedClaim::read(key, claim, all)?);
        }
        Ok(Self { had, wanted })
    }
}

struct Devices<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    claims: Claims<'a>,
    /// Extended resources that classes stand for.
    extended: BTreeSet<&'a str>,
    slices: Slices<'a>,
    allocated: Allocated,
    matches: Matches,
}

impl<'a> Devices<'a> {
    fn of(
        pod: &'a Pod,
        claims: Claims<'a>,
        extended: BTreeSet<&'a str>,
        snapshot: &'a Snapshot,
    ) -> Self {
        let all = snapshot.devices();
        // What is allocated and where devices are matters only to those that want some.
        let (slices, allocated) = if claims.wanted.is_empty() && extended.is_empty() {
            (Slices::default(), Allocated::default())
        } else {
            (all.pools(), all.allocated())
        };
        Self {
            pod,
            snapshot,
            claims,
            extended,
            slices,
            allocated,
            matches: Matches::default(),
        }
    }

    /// Looks for what the pod wants on a node: what its claims want, and last what would be claimed for
    /// extended resources that no plugin of the node offers.
    fn on<T>(
        &self,
        node: &Node,
        look: impl FnOnce(
            &[WantedClaim<'_>],
            &Matches,
            Option<&Arc<ExtendedClaim>>,
        ) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let extended = self.extended.iter().copied();
        let lacking = extended.filter(|name| node.allocatable.other(name) == 0);
        let lacking: BTreeSet<&str> = lacking.collect();
        if lacking.is_empty() {
            return look(&self.claims.wanted, &self.matches, None);
        }
        let all = self.snapshot.devices();
        let made = Arc::new(extended::claim(self.pod, &lacking, all));
        let claims = Claims::of(self.pod, self.snapshot).map_err(Failure::Wrong)?;
        let own = WantedClaim::read(EXTENDED, &made.claim, all).map_err(Failure::Wrong)?;
        let mut wanted = claims.wanted;
        wanted.push(own);
        // What is known of requests is known by their places, and the last claim is not always the same.
        look(&wanted, &Matches::default(), Some(&made))
    }

    /// What would be allocated on a node, and the last of it for which claim, if that is yet to be made.
    fn allocations(
        &self,
        node: &Node,
        share_id: &mut dyn FnMut() -> String,
    ) -> Result<(Vec<k8s::AllocationResult>, Option<Arc<ExtendedClaim>>), Failure> {
        let pools = self.slices.on(node);
        self.on(node, |wanted, matches, made| {
            let found = devices::allocate(wanted, node, &pools, &self.allocated, matches)?;
            let each = wanted.iter().zip(&found);
            let each = each
                .map(|(wanted, chosen)| devices::allocation(wanted, chosen, &node.name, share_id));
            Ok((each.collect(), made.cloned()))
        })
    }

    /// More for alternatives that stand further ahead.
    fn points(&self, node: &Node) -> i64 {
        let pools = self.slices.on(node);
        let wanted = &self.claims.wanted;
        let found = devices::allocate(wanted, node, &pools, &self.allocated, &self.matches);
        let chosen = found.unwrap_or_default();
        let mut points = 0;
        for (wanted, chosen) in wanted.iter().zip(&chosen) {
            for (r, alternatives) in wanted.requests.iter().enumerate() {
                let met = chosen.iter().find(|c| c.request == r);
                if let Some(met) = met.filter(|_| is_list(alternatives)) {
                    let behind = i64::try_from(met.alternative).unwrap_or(MOST_ALTERNATIVES);
                    points += MOST_ALTERNATIVES - behind;
                }
            }
        }
        points
    }
}

/// Whether a request has alternatives, be it one.
fn is_list(alternatives: &[devices::requests::Request<'_>]) -> bool {
    alternatives.iter().any(|a| a.name != a.base)
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::NODE_LABELS)
            // A plugin of a node begins or ends to offer an extended resource.
            .with(Events::NODE_RESOURCES)
            .with(Events::DEVICES)
            .with(Events::DEVICE_CLASSES)
            .with(Events::DEVICE_CLAIMS)
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        let all = snapshot.devices();
        let extended = extended::mapped(pod, all);
        if pod.wants.devices.is_empty() && extended.is_empty() {
            return Ok(None);
        }
        // It is removed before the pod is tried again.
        if !extended.is_empty() && all.made_for(&pod.namespace, &pod.uid).is_some() {
            return Err(Reason::one("cannot schedule extended resource claim"));
        }
        let claims = Claims::of(pod, snapshot).map_err(Reason::text)?;
        let devices = Devices::of(pod, claims, extended, snapshot);
        Ok(Some(Box::new(devices)))
    }
    fn reserve(&self, pod: &Pod, node: &Arc<str>, on: &mut Snapshot) -> Result<(), Reason> {
        let extended = extended::mapped(pod, on.devices());
        if pod.wants.devices.is_empty() && extended.is_empty() {
            return Ok(());
        }
        let Some(place) = on.node(node) else {
            return Ok(());
        };
        let claims = Claims::of(pod, on).map_err(Reason::text)?;
        if claims.wanted.is_empty() && extended.is_empty() {
            return Ok(());
        }
        let keys: Vec<Arc<str>> = claims
            .wanted
            .iter()
            .map(|w| w.key.as_str().into())
            .collect();
        let here = Devices::of(pod, claims, extended, on);
        let mut count = 0u64;
        let mut share_id = || {
            count += 1;
            share(&pod.uid, count)
        };
        let found = here.allocations(place, &mut share_id);
        let (found, made) = found.map_err(|failure| Reason::text(words(&failure, place)))?;
        // No claim has such a name.
        let own = made
            .as_ref()
            .map(|_| format!("{}/<{}>", pod.namespace, pod.uid));
        let mut pending: Vec<Pending> = keys
            .into_iter()
            .chain(own.map(Arc::from))
            .zip(found)
            .map(|(claim, allocation)| Pending {
                pod: pod.uid.clone(),
                claim,
                allocation: Arc::new(allocation),
                made: None,
            })
            .collect();
        if let Some(last) = pending.last_mut() {
            last.made = made;
        }
        for one in pending {
            on.devices_mut().reserve(one);
        }
        Ok(())
    }
    fn unreserve(&self, pod: &Pod, on: &mut Snapshot) {
        if on.devices().pending_of(&pod.uid).next().is_some() {
            on.devices_mut().release(&pod.uid);
        }
    }
    fn pre_bind(&self, pod: &Pod, _: &Node, snapshot: &Snapshot) -> Vec<Write> {
        let all = snapshot.devices();
        let claims = pod.wants.devices.iter().filter_map(|used| {
            let key = used.key.as_ref()?;
            let claim = all.claim(key)?;
            if devices::is_allocated(claim) && devices::is_reserved_for(claim, &pod.uid) {
                return None;
            }
            let mut pending = all.pending_of(&pod.uid);
            let found = pending.find(|p| p.claim == *key);
            Some(Write::ReserveClaim {
                claim: claim.clone(),
                allocation: found.map(|p| p.allocation.clone()),
                pod: (pod.name.clone(), pod.uid.to_string()),
            })
        });
        let made = all.pending_of(&pod.uid).filter_map(|p| {
            Some(Write::MakeClaim {
                made: p.made.clone()?,
                allocation: p.allocation.clone(),
                pod: (pod.name.clone(), pod.uid.to_string()),
            })
        });
        claims.chain(made).collect()
    }
    fn is_bindable(&self, pod: &Pod, _: &Node, snapshot: &Snapshot) -> Ready {
        let all = snapshot.devices();
        let mut out = Ready::Yes;
        let used = pod.wants.devices.iter();
        let mut claims = Vec::new();
        for used in used {
            match used.key.as_ref().and_then(|k| all.claim(k)) {
                Some(claim) => claims.push(claim),
                None => return Ready::Never(format!("resourceclaim {:?} is gone", used.name)),
            }
        }
        if all.pending_of(&pod.uid).any(|p| p.made.is_some()) {
            match all.made_for(&pod.namespace, &pod.uid) {
                Some(claim) => claims.push(claim),
                // It was made just now.
                None => out = Ready::Not,
            }
        }
        for claim in claims {
            if !devices::is_reserved_for(claim, &pod.uid) {
                out = Ready::Not;
                continue;
            }
            match devices::binding(claim) {
                Binding::Ready => {}
                Binding::Waits => out = Ready::Not,
                Binding::Failed(why) => return Ready::Never(why),
            }
        }
        out
    }
    fn patience_ms(&self) -> u64 {
        self.timeout_ms
    }
    /// A claim that nobody else uses and whose devices keep the pod from nodes gives them back.
    fn give_up(&self, pod: &Pod, snapshot: &Snapshot) -> Vec<Write> {
        let all = snapshot.devices();
        if !extended::mapped(pod, all).is_empty()
            && let Some(claim) = all.made_for(&pod.namespace, &pod.uid)
        {
            let claim = claim.clone();
            return vec![Write::RemoveClaim { claim }];
        }
        let Ok(claims) = Claims::of(pod, snapshot) else {
            return Vec::new();
        };
        let mut idle = claims.had.iter().filter(|had| {
            let status = had.claim.status.as_ref();
            let mut users = status.iter().flat_map(|s| s.reserved_for.iter().flatten());
            users.all(|u| u.uid == *pod.uid) && snapshot.nodes().any(|n| !had.suits(n))
        });
        let freed = idle.next().map(|had| Write::FreeClaim {
            claim: Arc::new(had.claim.clone()),
        });
        freed.into_iter().collect()
    }
}

/// An identity of a share of a device: other for each pod, and for each share of it.
fn share(pod: &str, count: u64) -> String {
    // Without keys of its own the hash is the same in each run.
    let hash = |part: &str| {
        let mut hasher = DefaultHasher::new();
        (part, pod, count).hash(&mut hasher);
        hasher.finish()
    };
    let (high, low) = (hash("high"), hash("low"));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

fn words(failure: &Failure, node: &Node) -> String {
    match failure {
        Failure::None => "cannot allocate all claims".to_owned(),
        Failure::Wrong(why) => why.clone(),
        Failure::TooLong => format!("node {}: timed out trying to allocate devices", node.name),
    }
}

impl Check for Devices<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        if !self.claims.had.iter().all(|had| had.suits(node)) {
            let why = "resourceclaim not available on the node";
            return Verdict::Never(Reason::one(why));
        }
        let pools = self.slices.on(node);
        let found = self.on(node, |wanted, matches, _| {
            if wanted.is_empty() {
                return Ok(());
            }
            devices::allocate(wanted, node, &pools, &self.allocated, matches).map(drop)
        });
        match found {
            Ok(()) => Verdict::Fits,
            Err(failure) => Verdict::Never(Reason::text(words(&failure, node))),
        }
    }
    fn advice(&self, node: &Node) -> Option<String> {
        if let Some(far) = self.claims.had.iter().find(|had| !had.suits(node)) {
            let name = far.claim.metadata.name.as_deref().unwrap_or_default();
            return Some(format!(
                "the devices of resourceclaim {name} are elsewhere: nobody else may use it, and \
                 then it is allocated again"
            ));
        }
        let asked = self.claims.wanted.iter().flat_map(|claim| {
            let requests = claim.requests.iter().filter_map(|all| all.first());
            requests.map(|r| {
                let class = r.class.metadata.name.as_deref().unwrap_or_default();
                let count = r
                    .count
                    .map_or("all devices".to_owned(), |n| format!("{n} free"));
                format!("{count} of class {class} for request {}", r.name)
            })
        });
        let asked: Vec<String> = asked.collect();
        (!asked.is_empty()).then(|| format!("devices that suit: {}", asked.join(", ")))
    }
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let mut requests = self.claims.wanted.iter().flat_map(|w| &w.requests);
        if !requests.any(|all| is_list(all)) {
            return false;
        }
        for (score, node) in scores.iter_mut().zip(nodes) {
            *score = self.points(node);
        }
        normalize(scores, false);
        true
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use serde_json::{Value, json};

    use super::*;
    use crate::core::{Core, Step};
    use crate::decide::Profile;
    use crate::plugins::testing::node;
    use crate::queue::Waits;

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object")
    }

    fn claim(status: Value) -> k8s::ResourceClaim {
        typed(
            json!({"metadata": {"name": "gpu", "namespace": "n", "uid": "c1",
                "resourceVersion": "1"},
            "spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": "gpus"}}]}},
            "status": status}),
        )
    }

    fn pod(name: &str) -> core::Pod {
        typed(
            json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"containers": [{"name": "c"}],
                     "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]}}),
        )
    }

    /// Nodes `a` and `b`, of which `b` has one device.
    fn core() -> Core {
        let mut core = Core::new(vec![Profile::default()], Waits::default());
        for name in ["a", "b"] {
            core.node_changed(None, Some(&typed(node(name, "4", "8Gi"))));
        }
        let class: k8s::DeviceClass = typed(json!({"metadata": {"name": "gpus"}, "spec": {}}));
        core.device_class_changed("gpus", Some(&class));
        let slice: k8s::ResourceSlice = typed(json!({"metadata": {"name": "s"}, "spec": {
            "driver": "d", "nodeName": "b", "devices": [{"name": "x"}],
            "pool": {"name": "b", "generation": 1, "resourceSliceCount": 1}}}));
        core.devices_changed(|d| d.set_slice("s", Some(&slice)));
        core
    }

    fn message(step: Option<Step>) -> String {
        match step {
            Some(Step::Unschedulable { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_is_bound_after_its_devices_are_its_own() {
        let mut core = core();
        core.pod_changed(None, Some(&pod("p")), 0);
        assert!(message(core.step(1, 0)).contains("resourceclaim \"gpu\" not found"));
        core.device_claim_changed(None, Some(&claim(json!({}))));
        let Some(Step::Prepare { node, writes, .. }) = core.step(2, 60_000) else {
            panic!("it is reserved first")
        };
        assert_eq!(&*node, "b");
        let [
            Write::ReserveClaim {
                allocation: Some(allocation),
                pod: (name, uid),
                ..
            },
        ] = &writes[..]
        else {
            panic!("{writes:?}")
        };
        assert_eq!((name.as_str(), uid.as_str()), ("p", "p"));
        // Nobody else gets the device, and the claim is not allocated twice.
        core.pod_changed(None, Some(&pod("q")), 60_000);
        let why = message(core.step(3, 60_000));
        assert!(
            why.contains("resource claim n/gpu is in the process of being allocated"),
            "{why}"
        );
        core.prepared(&"p".into(), Ok(()), 60_000);
        let status = json!({"allocation": serde_json::to_value(&**allocation).expect("JSON"),
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}]});
        core.device_claim_changed(Some(&claim(json!({}))), Some(&claim(status)));
        let next = core.step(4, 60_000);
        assert!(
            matches!(&next, Some(Step::Bind { pod, .. }) if pod.name == "p"),
            "{next:?}"
        );
        // Claims are shared: the other one follows where the devices are.
        let Some(Step::Prepare { node, writes, .. }) = core.step(5, 600_000) else {
            panic!("it may use the claim, too")
        };
        assert_eq!(&*node, "b");
        assert!(matches!(
            &writes[..],
            [Write::ReserveClaim {
                allocation: None,
                ..
            }]
        ));
    }

    #[test]
    fn devices_that_are_elsewhere_are_given_back_when_nobody_uses_them() {
        let allocated = |users: Value| {
            let here = json!({"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
            claim(json!({"allocation": {"nodeSelector": here}, "reservedFor": users}))
        };
        let gives_up = |users: Value| {
            let mut core = core();
            core.device_claim_changed(None, Some(&allocated(users)));
            core.pod_changed(None, Some(&pod("p")), 0);
            match core.step(1, 0) {
                Some(Step::Unschedulable {
                    message, writes, ..
                }) => {
                    assert!(
                        message.starts_with(
                            "0/2 nodes are available: 2 resourceclaim not available on the node."
                        ),
                        "{message}"
                    );
                    writes.len()
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(gives_up(json!([])), 1);
        assert_eq!(
            gives_up(json!([{"resource": "pods", "name": "p", "uid": "p"}])),
            1
        );
        assert_eq!(
            gives_up(json!([{"resource": "pods", "name": "x", "uid": "x"}])),
            0
        );
    }

    #[test]
    fn a_pod_waits_for_the_claim_that_is_made_for_it() {
        let mut core = core();
        let mut made = pod("p");
        let spec = made.spec.as_mut().expect("a spec");
        spec.resource_claims = Some(vec![typed(
            json!({"name": "gpu", "resourceClaimTemplateName": "t"}),
        )]);
        core.pod_changed(None, Some(&made), 0);
        let why = message(core.step(1, 0));
        assert!(
            why.contains("pod \"n/p\": ResourceClaim not created yet"),
            "{why}"
        );
        let mut knows = made.clone();
        knows.status = typed(json!({"resourceClaimStatuses": [
            {"name": "gpu", "resourceClaimName": "gpu"}]}));
        core.device_claim_changed(None, Some(&claim(json!({}))));
        core.pod_changed(Some(&made), Some(&knows), 60_000);
        let why = message(core.step(2, 60_000));
        assert!(
            why.contains("was not created for Pod n/p (Pod is not owner)"),
            "{why}"
        );
        let mut own = claim(json!({}));
        own.metadata.owner_references = typed(json!([
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]));
        let before = claim(json!({"reservedFor": []}));
        core.device_claim_changed(Some(&before), Some(&own));
        assert!(matches!(core.step(3, 600_000), Some(Step::Prepare { .. })));
    }

    #[test]
    fn a_resource_that_a_class_stands_for_is_claimed_where_no_plugin_has_it() {
        let mut core = core();
        let class: k8s::DeviceClass = typed(json!({"metadata": {"name": "gpus"},
            "spec": {"extendedResourceName": "example.com/gpu"}}));
        core.device_class_changed("gpus", Some(&class));
        let asks = |name: &str| -> core::Pod {
            typed(
                json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
                    "containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}),
            )
        };
        core.pod_changed(None, Some(&asks("p")), 0);
        let Some(Step::Prepare { node, writes, .. }) = core.step(1, 0) else {
            panic!("its claim is made first")
        };
        let [
            Write::MakeClaim {
                made, allocation, ..
            },
        ] = &writes[..]
        else {
            panic!("{writes:?}")
        };
        assert_eq!((&*node, made.mappings.len()), ("b", 1));
        // The only device is taken.
        core.pod_changed(None, Some(&asks("q")), 0);
        let why = message(core.step(2, 0));
        assert!(why.contains("cannot allocate all claims"), "{why}");
        core.prepared(&"p".into(), Ok(()), 0);
        assert!(core.step(3, 0).is_none(), "the claim was not seen yet");
        let mut claim = k8s::ResourceClaim::clone(&made.claim);
        claim.metadata.name = Some("p-extended-resources-1".to_owned());
        claim.status = typed(
            json!({"allocation": serde_json::to_value(&**allocation).expect("JSON"),
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}]}),
        );
        core.device_claim_changed(None, Some(&claim));
        let next = core.step(4, 60_000);
        assert!(
            matches!(&next, Some(Step::Bind { pod, .. }) if pod.name == "p"),
            "{next:?}"
        );
        // A claim that was left of a try that failed goes before the next one.
        let mut left = claim.clone();
        left.metadata.name = Some("q-extended-resources-1".to_owned());
        for owner in left.metadata.owner_references.iter_mut().flatten() {
            (owner.name, owner.uid) = ("q".to_owned(), "q".to_owned());
        }
        left.status = None;
        core.device_claim_changed(None, Some(&left));
        match core.step(5, 600_000) {
            Some(Step::Unschedulable { writes, .. }) => {
                assert!(
                    matches!(&writes[..], [Write::RemoveClaim { .. }]),
                    "{writes:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_waits_for_a_resource_hears_who_begins_to_offer_it() {
        let mut core = core();
        let asks = |name: &str| -> core::Pod {
            typed(
                json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
                    "containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}),
            )
        };
        core.pod_changed(None, Some(&asks("p")), 0);
        let why = message(core.step(1, 0));
        assert!(why.contains("Insufficient example.com/gpu"), "{why}");
        // A class comes to stand for it.
        let class: k8s::DeviceClass = typed(json!({"metadata": {"name": "gpus"},
            "spec": {"extendedResourceName": "example.com/gpu"}}));
        core.device_class_changed("gpus", Some(&class));
        let next = core.step(2, 60_000);
        assert!(matches!(&next, Some(Step::Prepare { .. })), "{next:?}");
        core.pod_changed(None, Some(&asks("q")), 60_000);
        let why = message(core.step(3, 60_000));
        assert!(why.contains("cannot allocate all claims"), "{why}");
        // A plugin on a node has some.
        let before: core::Node = typed(node("a", "4", "8Gi"));
        let mut offers = node("a", "4", "8Gi");
        offers["status"]["allocatable"]["example.com/gpu"] = json!("1");
        core.node_changed(Some(&before), Some(&typed(offers)));
        let next = core.step(4, 120_000);
        assert!(
            matches!(&next, Some(Step::Bind { pod, node }) if pod.name == "q" && &**node == "a"),
            "{next:?}"
        );
    }

    #[test]
    fn shares_have_identities_of_their_own() {
        let ids = [share("p", 1), share("p", 2), share("q", 1)];
        for id in &ids {
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        }
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }
}
