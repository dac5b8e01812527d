//! Which volumes the claims of a pod would get on a node: the smallest that do, or new ones.

use std::collections::HashSet;
use std::sync::Arc;

use api::local_volumes;

use super::{Claim, Claims, Storage, Volume};
use crate::node::Node;

const NO_VOLUMES: &str = "node(s) didn't find available persistent volumes to bind";
const OUT_OF_REACH: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// What becomes of a pod's unbound claims on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Volumes that are there, and the claims that get them.
    pub pairs: Vec<(Arc<str>, Arc<str>)>,
    /// Claims for which volumes are made.
    pub provisions: Vec<Arc<str>>,
}

impl Storage {
    /// What the node would mean for the claims.
    ///
    /// # Errors
    /// Why the node cannot have these volumes.
    pub fn plan(&self, claims: &Claims<'_>, node: &Node) -> Result<Plan, Vec<&'static str>> {
        let mut reasons = Vec::new();
        let mut gone = false;
        for (_, claim) in &claims.bound {
            match self.volume(&claim.volume) {
                None => {
                    gone = true;
                    break;
                }
                Some(volume) if !volume.reaches(node) => {
                    reasons.push(OUT_OF_REACH);
                    break;
                }
                Some(_) => {}
            }
        }
        let plan = self.plan_delayed(claims, node);
        let plan = plan.unwrap_or_else(|reason| {
            reasons.push(reason);
            Plan::default()
        });
        if gone {
            reasons.push(GONE);
        }
        if reasons.is_empty() {
            Ok(plan)
        } else {
            Err(reasons)
        }
    }

    fn plan_delayed(&self, claims: &Claims<'_>, node: &Node) -> Result<Plan, &'static str> {
        let mut plan = Plan::default();
        let mut taken: HashSet<&str> = HashSet::new();
        // A volume that is to be made for another node is in the way whatever the others say.
        for (key, claim) in &claims.delayed {
            let selected = self.selected_node(key, claim);
            if selected.is_some_and(|on| on != node.name) {
                return Err(NO_VOLUMES);
            }
        }
        for (key, claim) in &claims.delayed {
            if self.selected_node(key, claim).is_none()
                && let Some(name) = self.find(key, claim, node, &taken)
            {
                taken.insert(name);
                plan.pairs.push((name.clone(), Arc::clone(key)));
                continue;
            }
            self.may_provision(claim, node)?;
            plan.provisions.push(Arc::clone(key));
        }
        Ok(plan)
    }

    fn may_provision(&self, claim: &Claim, node: &Node) -> Result<(), &'static str> {
        let class = self.class(&claim.class);
        let Some(class) = class.filter(|c| c.provisions() && c.allows(node)) else {
            return Err(NO_VOLUMES);
        };
        let mut capacities = self.capacities.values().filter(|c| c.class == claim.class);
        // The provisioner of the nodes' disks has no object of a driver, but says the same as soon as it can.
        let reports_capacity = match class.provisioner == local_volumes::PROVISIONER {
            true => capacities.clone().next().is_some(),
            false => {
                let driver = self.drivers.get(&class.provisioner);
                driver.is_some_and(|d| d.reports_capacity)
            }
        };
        if claim.bytes == 0 || !reports_capacity {
            return Ok(());
        }
        if capacities.any(|c| c.has_room(claim.bytes, node)) {
            Ok(())
        } else {
            Err(NO_SPACE)
        }
    }

    /// The volume that was meant for the claim; otherwise the smallest that will do.
    fn find<'a>(
        &'a self,
        key: &str,
        claim: &Claim,
        node: &Node,
        taken: &HashSet<&str>,
    ) -> Option<&'a Arc<str>> {
        let mut smallest: Option<(&Arc<str>, i64)> = None;
        for name in self.of_class.get(&claim.class).into_iter().flatten() {
            let volume = self.volumes.get(name)?;
            let owner = self.owner_of(name, volume);
            if taken.contains(&**name) || owner.as_ref().is_some_and(|o| **o != *key) {
                continue;
            }
            if !suits(claim, volume) {
                continue;
            }
            let meant = self.chosen.contains_key(name) || volume.is_for(key, claim);
            if meant {
                return volume.reaches(node).then_some(name);
            }
            let free = volume.claim.is_none()
                && volume.available
                && allows(claim, volume)
                && volume.reaches(node);
            if free && smallest.is_none_or(|(_, bytes)| volume.bytes < bytes) {
                smallest = Some((name, volume.bytes));
            }
        }
        smallest.map(|(name, _)| name)
    }
}

/// What holds also for a volume that was meant for the claim.
fn suits(claim: &Claim, volume: &Volume) -> bool {
    !volume.deleting
        && volume.bytes >= claim.bytes
        && volume.block == claim.block
        && volume.attributes_class == claim.attributes_class
}

fn allows(claim: &Claim, volume: &Volume) -> bool {
    let selects = claim.selector.as_ref();
    selects.is_none_or(|s| s.matches(&volume.labels))
        && claim.modes.iter().all(|m| volume.modes.contains(m))
}

/// Why a volume is not the claim's, for people.
pub fn unsuited(key: &str, claim: &Claim, volume: &Volume) -> Option<String> {
    let text = |bytes| crate::resources::text("memory", bytes);
    if let Some(owner) = volume.claim.as_ref().filter(|o| *o.key != *key) {
        return Some(format!("it is for claim {}", owner.key));
    }
    if volume.deleting {
        return Some("it is being deleted".to_owned());
    }
    if volume.class != claim.class {
        return Some(format!("its class is {:?}", volume.class));
    }
    if volume.bytes < claim.bytes {
        return Some(format!(
            "it has {} of {}",
            text(volume.bytes),
            text(claim.bytes)
        ));
    }
    if volume.block != claim.block {
        return Some("its volume mode is another".to_owned());
    }
    if volume.attributes_class != claim.attributes_class {
        return Some("its attributes class is another".to_owned());
    }
    if let Some(mode) = claim.modes.iter().find(|m| !volume.modes.contains(m)) {
        return Some(format!("it does not have access mode {mode}"));
    }
    if !allows(claim, volume) {
        return Some("the claim's selector does not mean it".to_owned());
    }
    (volume.claim.is_none() && !volume.available).then(|| "it is not available".to_owned())
}
