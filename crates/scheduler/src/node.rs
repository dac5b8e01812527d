//! A node as the scheduler sees it: what it offers, and what the pods on it take.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;

use crate::interned::{Labels, Strings};
use crate::pod::{HostPort, Pod};
use crate::resources::{Resources, Weight};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: Arc<str>,
    pub value: Arc<str>,
    pub effect: Effect,
}

/// What a node offers: the part that the Node object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// Pods that it takes at most.
    pub allowed_pods: i64,
    /// Images on it and their sizes in bytes.
    pub images: Arc<HashMap<Arc<str>, i64>>,
    /// New features that it declares.
    pub features: Vec<Arc<str>>,
}

impl Offer {
    pub fn read(from: &k8s::Node, strings: &mut Strings) -> Self {
        let spec = from.spec.as_ref();
        let status = from.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        let pods = allocatable.and_then(|a| a.get("pods"));
        let pods = pods.and_then(|q| q.0.parse::<api::quantity::Quantity>().ok());
        let taints = spec.and_then(|s| s.taints.as_ref());
        let mut images = HashMap::new();
        for image in status.and_then(|s| s.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(strings.get(name), image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            labels: strings.labels(from.metadata.labels.as_ref()),
            taints: taints
                .into_iter()
                .flatten()
                .filter_map(|t| taint(t, strings))
                .collect(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Resources::read(allocatable, strings),
            allowed_pods: pods.map_or(0, |q| q.value()),
            images: Arc::new(images),
            features: status
                .iter()
                .flat_map(|s| s.declared_features.iter().flatten())
                .map(|f| strings.get(f))
                .collect(),
        }
    }
}

fn taint(from: &k8s::Taint, strings: &mut Strings) -> Option<Taint> {
    let effect = match from.effect.as_str() {
        "NoSchedule" => Effect::NoSchedule,
        "PreferNoSchedule" => Effect::PreferNoSchedule,
        "NoExecute" => Effect::NoExecute,
        _ => return None,
    };
    Some(Taint {
        key: strings.get(&from.key),
        value: strings.get(from.value.as_deref().unwrap_or_default()),
        effect,
    })
}

/// A node with the pods on it, bound or assumed.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub allowed_pods: i64,
    /// Shared, since nodes are copied for trials.
    pub images: Arc<HashMap<Arc<str>, i64>>,
    pub features: Vec<Arc<str>>,
    /// False for a node of which only pods are known so far (or still): nothing is put there.
    pub exists: bool,
    pub requested: Resources,
    pub weight: Weight,
    pub pods: Vec<Arc<Pod>>,
    pub ports: Vec<HostPort>,
    /// How many claims the pods here use, each for itself.
    pub claims: usize,
    /// How many pods of each set are here that [`crate::tally::Sets`] counts.
    counts: Vec<u32>,
    /// The priorities of the pods here and how many have each, the lowest first.
    priorities: Vec<(i32, usize)>,
}

impl Node {
    pub fn unknown(name: Arc<str>) -> Self {
        Self {
            name,
            labels: Labels::default(),
            taints: Vec::new(),
            unschedulable: false,
            allocatable: Resources::default(),
            allowed_pods: 0,
            images: Arc::default(),
            features: Vec::new(),
            exists: false,
            requested: Resources::default(),
            weight: Weight::default(),
            pods: Vec::new(),
            ports: Vec::new(),
            claims: 0,
            counts: Vec::new(),
            priorities: Vec::new(),
        }
    }

    /// Whether a pod is here whose priority is lower than this.
    pub fn has_lower(&self, priority: i32) -> bool {
        let lowest = self.priorities.first();
        lowest.is_some_and(|(lowest, _)| *lowest < priority)
    }

    pub fn count(&self, place: usize) -> u32 {
        self.counts.get(place).copied().unwrap_or(0)
    }
    pub fn set_count(&mut self, place: usize, count: u32) {
        if self.counts.len() <= place {
            if count == 0 {
                return;
            }
            self.counts.resize(place + 1, 0);
        }
        if let Some(slot) = self.counts.get_mut(place) {
            *slot = count;
        }
    }

    /// Whether it exists and offers just this.
    pub fn offers(&self, offer: &Offer) -> bool {
        self.exists
            && self.labels == offer.labels
            && self.taints == offer.taints
            && self.unschedulable == offer.unschedulable
            && self.allocatable == offer.allocatable
            && self.allowed_pods == offer.allowed_pods
            && self.images == offer.images
            && self.features == offer.features
    }

    /// Whether it has a taint that keeps pods off only where there are other nodes.
    pub fn has_soft_taints(&self) -> bool {
        let mut taints = self.taints.iter();
        taints.any(|t| t.effect == Effect::PreferNoSchedule)
    }

    pub fn set(&mut self, offer: Offer) {
        self.labels = offer.labels;
        self.taints = offer.taints;
        self.unschedulable = offer.unschedulable;
        self.allocatable = offer.allocatable;
        self.allowed_pods = offer.allowed_pods;
        self.images = offer.images;
        self.features = offer.features;
        self.exists = true;
    }

    pub fn add(&mut self, pod: Arc<Pod>) {
        self.requested.add(&pod.request);
        self.weight.cpu_millis = self.weight.cpu_millis.saturating_add(pod.weight.cpu_millis);
        self.weight.memory_bytes = self
            .weight
            .memory_bytes
            .saturating_add(pod.weight.memory_bytes);
        self.ports.extend(pod.ports.iter().cloned());
        self.claims += pod.wants.claims.len();
        match self.place_of(pod.priority) {
            Ok(at) => {
                if let Some((_, count)) = self.priorities.get_mut(at) {
                    *count += 1;
                }
            }
            Err(at) => self.priorities.insert(at, (pod.priority, 1)),
        }
        self.pods.push(pod);
    }

    fn place_of(&self, priority: i32) -> Result<usize, usize> {
        self.priorities.binary_search_by_key(&priority, |(p, _)| *p)
    }

    /// Takes a pod off; false if it is not there.
    pub fn remove(&mut self, uid: &str) -> bool {
        // A trial takes off what it has just put there.
        let Some(at) = self.pods.iter().rposition(|p| *p.uid == *uid) else {
            return false;
        };
        let pod = self.pods.swap_remove(at);
        self.discount(&pod);
        true
    }

    /// The node without its pods of lower priority than this, and those.
    pub fn without_lower(&self, priority: i32) -> (Self, Vec<Arc<Pod>>) {
        let mut left = self.clone();
        let mut gone = Vec::new();
        left.pods.retain(|pod| {
            let stays = pod.priority >= priority;
            if !stays {
                gone.push(pod.clone());
            }
            stays
        });
        for pod in &gone {
            left.discount(pod);
        }
        (left, gone)
    }

    /// What a pod took that is not here any more.
    fn discount(&mut self, pod: &Pod) {
        self.requested.subtract(&pod.request);
        self.weight.cpu_millis = self.weight.cpu_millis.saturating_sub(pod.weight.cpu_millis);
        self.weight.memory_bytes = self
            .weight
            .memory_bytes
            .saturating_sub(pod.weight.memory_bytes);
        self.claims = self.claims.saturating_sub(pod.wants.claims.len());
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        if let Ok(at) = self.place_of(pod.priority)
            && let Some((_, count)) = self.priorities.get_mut(at)
        {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::plugins::testing::{Cluster, node};

    #[test]
    fn without_its_lesser_pods_a_node_is_as_if_they_had_never_come() {
        let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        let pod = |priority: i32| {
            json!({"spec": {"priority": priority, "containers": [{"name": "c",
                "ports": [{"containerPort": 80, "hostPort": 8000 + priority}],
                "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]}})
        };
        for priority in [1, 7, 1, 5] {
            c.place("a", pod(priority));
        }
        for priority in [7, 5] {
            c.place("b", pod(priority));
        }
        let [a, b] = c.snapshot.slots() else {
            panic!("two nodes")
        };
        assert!(a.has_lower(2) && !a.has_lower(1));
        let (left, gone) = a.without_lower(5);
        assert_eq!(gone.len(), 2);
        assert_eq!((left.pods.len(), left.ports.len()), (2, 2));
        assert_eq!(left.requested, b.requested);
        assert_eq!(left.weight, b.weight);
        assert!(!left.has_lower(5) && left.has_lower(6));
        let uids: Vec<_> = a.pods.iter().map(|p| p.uid.clone()).collect();
        for uid in uids {
            c.snapshot.remove_pod(&uid);
        }
        assert!(c.snapshot.slots().iter().any(|n| !n.has_lower(i32::MAX)));
    }
}
