//! Claims, volumes and all that says which node can have which volume; and what was decided about
//! them and is not in the API yet.

mod choose_volumes;
mod claims;
mod objects;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub use choose_volumes::{Plan, unsuited};
pub use claims::{Claims, Unusable};
pub use objects::{
    Attachment, Capacity, Claim, Class, Driver, Limits, SELECTED_NODE, Topology, Volume,
};

use crate::pod::Pod;

/// What was decided for a pod whose volumes are not bound yet.
#[derive(Clone, Debug)]
struct Reservation {
    node: Arc<str>,
    plan: Plan,
    /// Claims that the API has shown with the node that was selected, and those that it has shown with
    /// the volume that was chosen.
    shown: HashSet<Arc<str>>,
}

/// Everything about volumes, by name; claims by `namespace/name`.
#[derive(Default)]
pub struct Storage {
    claims: HashMap<Arc<str>, Arc<Claim>>,
    volumes: HashMap<Arc<str>, Arc<Volume>>,
    /// Volumes of each class.
    of_class: HashMap<String, BTreeSet<Arc<str>>>,
    classes: HashMap<String, Class>,
    /// By node.
    limits: HashMap<String, Limits>,
    drivers: HashMap<String, Driver>,
    capacities: HashMap<String, Capacity>,
    /// By node, then by name.
    attachments: HashMap<String, BTreeMap<String, Attachment>>,
    /// The node of each attachment, by its name.
    attached_to: HashMap<String, String>,
    /// Pods on nodes that use a claim.
    users: HashMap<Arc<str>, usize>,
    /// By the pod's UID.
    reservations: HashMap<Arc<str>, Reservation>,
    /// Volumes that were chosen for a claim, and by how many pods.
    chosen: HashMap<Arc<str>, (Arc<str>, usize)>,
    /// Nodes that were selected for a claim, and by how many pods.
    selected: HashMap<Arc<str>, (Arc<str>, usize)>,
}

/// How far the volumes of a pod are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Bound,
    Waiting,
    /// They will not be bound for this node.
    Failed(String),
}

fn hold(map: &mut HashMap<Arc<str>, (Arc<str>, usize)>, key: &Arc<str>, value: &Arc<str>) {
    let held = map.entry(key.clone()).or_insert((value.clone(), 0));
    held.1 += 1;
}

fn let_go(map: &mut HashMap<Arc<str>, (Arc<str>, usize)>, key: &Arc<str>) {
    if let Some(held) = map.get_mut(key) {
        held.1 = held.1.saturating_sub(1);
        if held.1 == 0 {
            map.remove(key);
        }
    }
}

impl Storage {
    pub fn claim(&self, key: &str) -> Option<&Arc<Claim>> {
        self.claims.get(key)
    }
    pub fn volume(&self, name: &str) -> Option<&Arc<Volume>> {
        self.volumes.get(name)
    }
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }
    pub fn limits(&self, node: &str) -> Option<&Limits> {
        self.limits.get(node)
    }
    pub fn attachments_on(&self, node: &str) -> impl ExactSizeIterator<Item = &Attachment> {
        static NONE: BTreeMap<String, Attachment> = BTreeMap::new();
        self.attachments.get(node).unwrap_or(&NONE).values()
    }
    /// How many pods on nodes use a claim.
    pub fn users(&self, claim: &str) -> usize {
        self.users.get(claim).copied().unwrap_or(0)
    }

    pub fn set_claim(&mut self, key: Arc<str>, claim: Option<Claim>) {
        let Some(claim) = claim else {
            self.claims.remove(&key);
            return;
        };
        for reservation in self.reservations.values_mut() {
            let ours = reservation.plan.provisions.contains(&key);
            if ours && claim.selected_node.as_deref() == Some(&*reservation.node) {
                reservation.shown.insert(key.clone());
            }
        }
        self.claims.insert(key, Arc::new(claim));
    }
    pub fn set_volume(&mut self, name: Arc<str>, volume: Option<Volume>) {
        if let Some(before) = self.volumes.remove(&name)
            && let Some(names) = self.of_class.get_mut(&before.class)
        {
            names.remove(&name);
            if names.is_empty() {
                self.of_class.remove(&before.class);
            }
        }
        if let Some(volume) = volume {
            let owner = volume.claim.as_ref().map(|owner| &owner.key);
            for reservation in self.reservations.values_mut() {
                let mut pairs = reservation.plan.pairs.iter();
                let ours = pairs.find(|(chosen, claim)| *chosen == name && Some(claim) == owner);
                if let Some((_, claim)) = ours {
                    reservation.shown.insert(claim.clone());
                }
            }
            let names = self.of_class.entry(volume.class.clone()).or_default();
            names.insert(name.clone());
            self.volumes.insert(name, Arc::new(volume));
        }
    }
    pub fn set_class(&mut self, name: &str, class: Option<Class>) {
        set(&mut self.classes, name, class);
    }
    pub fn set_limits(&mut self, node: &str, limits: Option<Limits>) {
        set(&mut self.limits, node, limits);
    }
    pub fn set_driver(&mut self, name: &str, driver: Option<Driver>) {
        set(&mut self.drivers, name, driver);
    }
    pub fn set_capacity(&mut self, key: &str, capacity: Option<Capacity>) {
        set(&mut self.capacities, key, capacity);
    }
    pub fn set_attachment(&mut self, name: &str, attachment: Option<Attachment>) {
        if let Some(node) = self.attached_to.remove(name)
            && let Some(there) = self.attachments.get_mut(&node)
        {
            there.remove(name);
            if there.is_empty() {
                self.attachments.remove(&node);
            }
        }
        if let Some(new) = attachment {
            let node = new.node.clone();
            self.attached_to.insert(name.to_owned(), node.clone());
            let there = self.attachments.entry(node).or_default();
            there.insert(name.to_owned(), new);
        }
    }

    /// A pod was put on a node, or taken off.
    pub fn uses(&mut self, pod: &Pod, came: bool) {
        for used in &pod.wants.claims {
            if came {
                *self.users.entry(used.key.clone()).or_default() += 1;
            } else if let Some(users) = self.users.get_mut(&used.key) {
                *users = users.saturating_sub(1);
                if *users == 0 {
                    self.users.remove(&used.key);
                }
            }
        }
    }

    /// The claim that a volume is for, also if that was only decided.
    pub fn owner_of(&self, name: &str, volume: &Volume) -> Option<Arc<str>> {
        let chosen = self.chosen.get(name).map(|(claim, _)| claim.clone());
        chosen.or_else(|| volume.claim.as_ref().map(|c| c.key.clone()))
    }

    /// The node that a claim's volume is to be made for, also if that was only decided.
    pub fn selected_node(&self, key: &str, claim: &Claim) -> Option<Arc<str>> {
        let selected = self.selected.get(key).map(|(node, _)| node.clone());
        selected.or_else(|| claim.selected_node.clone())
    }

    /// Holds what was chosen for a pod until [`Storage::release`].
    pub fn reserve(&mut self, uid: &Arc<str>, node: &Arc<str>, plan: Plan) {
        self.release(uid);
        for (volume, claim) in &plan.pairs {
            hold(&mut self.chosen, volume, claim);
        }
        for claim in &plan.provisions {
            hold(&mut self.selected, claim, node);
        }
        let reservation = Reservation {
            node: node.clone(),
            plan,
            shown: HashSet::new(),
        };
        self.reservations.insert(uid.clone(), reservation);
    }

    pub fn release(&mut self, uid: &Arc<str>) {
        let Some(gone) = self.reservations.remove(uid) else {
            return;
        };
        for (volume, _) in &gone.plan.pairs {
            let_go(&mut self.chosen, volume);
        }
        for claim in &gone.plan.provisions {
            let_go(&mut self.selected, claim);
        }
    }

    /// What is held for a pod.
    pub fn reserved(&self, uid: &str) -> Option<(&Arc<str>, &Plan)> {
        let held = self.reservations.get(uid)?;
        Some((&held.node, &held.plan))
    }

    /// How far the volumes are that are held for a pod.
    pub fn progress(&self, uid: &str, node: &crate::node::Node) -> Progress {
        let Some(held) = self.reservations.get(uid) else {
            return Progress::Bound;
        };
        let mut all = Progress::Bound;
        let pairs = held.plan.pairs.iter().map(|(v, c)| (c, Some(v)));
        let provisions = held.plan.provisions.iter().map(|c| (c, None));
        for (key, volume) in pairs.chain(provisions) {
            match self.progress_of(held, key, volume, node) {
                Progress::Bound => {}
                Progress::Waiting => all = Progress::Waiting,
                failed => return failed,
            }
        }
        all
    }

    fn progress_of(
        &self,
        held: &Reservation,
        key: &Arc<str>,
        volume: Option<&Arc<str>>,
        node: &crate::node::Node,
    ) -> Progress {
        let Some(claim) = self.claims.get(key) else {
            return Progress::Failed(format!("persistentvolumeclaim {key:?} is gone"));
        };
        if let Some(name) = volume {
            let Some(volume) = self.volumes.get(name) else {
                return Progress::Failed(format!("persistentvolume {name:?} is gone"));
            };
            if volume.claim.as_ref().is_some_and(|c| c.key != *key) {
                return Progress::Failed(format!(
                    "persistentvolume {name:?} went to another claim"
                ));
            }
            // Who binds volumes has taken it away from the claim again.
            if volume.claim.is_none() && held.shown.contains(key) {
                return Progress::Failed(format!("ClaimRef got reset for pv {name:?}"));
            }
        } else if !claim.is_bound()
            && held.shown.contains(key)
            && claim.selected_node.as_deref() != Some(&*held.node)
        {
            return Progress::Failed(format!("provisioning failed for PVC {:?}", claim.name));
        }
        if !claim.is_bound() {
            return Progress::Waiting;
        }
        match self.volumes.get(claim.volume.as_str()) {
            None => Progress::Waiting,
            Some(volume) if volume.reaches(node) => Progress::Bound,
            Some(_) => Progress::Failed(format!(
                "pv {:?} node affinity doesn't match node {:?}",
                claim.volume, node.name
            )),
        }
    }
}

fn set<T>(map: &mut HashMap<String, T>, name: &str, value: Option<T>) {
    match value {
        Some(value) => map.insert(name.to_owned(), value),
        None => map.remove(name),
    };
}
