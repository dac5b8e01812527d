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
/// Those that a claim is reserved for, at most; the API's limit.
const MOST_USERS: usize = 256;

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
                let users = status.and_then(|s| s.reserved_for.as_ref());
                let is_full = users.is_some_and(|users| users.len() >= MOST_USERS);
                if is_full && !devices::is_reserved_for(claim, &pod.uid) {
                    return Err("resourceclaim in use".to_owned());
                }
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
mod tests;
