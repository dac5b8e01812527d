//! Devices that a pod that comes is about to be given, container by container: what they say of NUMA
//! nodes, by upstream's rules. Pure. It does not know what a plugin prefers, which chooses among
//! devices of the same nodes.

use super::allocated::{AllocatedDevices, OfPod};
use super::choose::Choice;
use super::inventory::Device;
use super::wanted;
use crate::pod::spec;
use crate::topology::merge::{Hint, OfResource};
use crate::topology::nodes::{Machine, Nodes};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, BTreeSet};

/// Devices of one resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    pub devices: BTreeMap<String, Device>,
    /// Those that are healthy and that no other pod has.
    pub free: BTreeSet<String>,
}

impl Shelf {
    /// The choice that a container has. What the pod has already is not free; what its earlier
    /// containers do not need any more goes first.
    pub(super) fn choice(
        &self,
        (own, resource): (&OfPod, &str),
        count: usize,
        nodes: Option<Nodes>,
    ) -> Choice {
        let healthy = |id: &String| self.devices.get(id).is_some_and(|d| d.healthy);
        let mut first = own.reusable(resource);
        first.retain(healthy);
        Choice::new(count, first, self.left(own, resource), &self.devices, nodes)
    }

    fn left(&self, own: &OfPod, resource: &str) -> BTreeSet<String> {
        self.free.difference(&own.ids(resource)).cloned().collect()
    }

    /// Whether any of them is at a node: else they may be anywhere.
    fn has_places(&self) -> bool {
        self.devices.values().any(|d| d.nodes.count() > 0)
    }

    /// The sets of nodes that could give so many, of those that are `available` and those that go
    /// first, which all must be there.
    fn hints(
        &self,
        machine: &Machine,
        available: &BTreeSet<String>,
        first: &BTreeSet<String>,
        count: usize,
    ) -> Vec<Hint> {
        // A plugin may name nodes that this machine has not.
        let known = machine.all();
        let at = |id: &String| {
            let own = self.devices.get(id).map(|d| d.nodes);
            own.unwrap_or_default().and(known)
        };
        let hosts: Nodes = self.devices.keys().flat_map(|id| at(id).iter()).collect();
        let within = if hosts.count() > 0 { hosts } else { known };
        let first: Vec<&String> = first.iter().filter(|id| at(id).count() > 0).collect();
        let (mut least, mut out) = (within.count(), Vec::new());
        for nodes in within.subsets() {
            let here = |id: &&String| at(id).and(nodes).count() > 0;
            if self.devices.keys().filter(here).count() >= count {
                least = least.min(nodes.count());
            }
            let matching = first.len() + available.iter().filter(here).count();
            if first.iter().all(here) && matching >= count {
                out.push(nodes);
            }
        }
        let hint = |nodes: Nodes| Hint {
            nodes: Some(nodes),
            preferred: nodes.count() == least,
        };
        out.into_iter().map(hint).collect()
    }
}

/// What is about to be given.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub(super) shelves: BTreeMap<String, Shelf>,
    pub(super) own: OfPod,
}

impl Draft {
    /// What each resource that a container asks for says of nodes.
    #[must_use]
    pub fn hints(&self, machine: &Machine, c: &Container) -> Vec<OfResource> {
        let each = |(resource, count): (String, usize)| {
            let has = self.own.of(&c.name, &resource);
            let first = self.own.reusable(&resource);
            self.say(machine, &resource, (count, has), &first)
        };
        wanted(c).into_iter().filter_map(each).collect()
    }

    /// The same for all containers of a pod together.
    #[must_use]
    pub fn hints_of_pod(&self, machine: &Machine, pod: &Pod) -> Vec<OfResource> {
        let each = |(resource, count): (String, usize)| {
            let has = self.own.ids(&resource);
            self.say(machine, &resource, (count, has), &BTreeSet::new())
        };
        wanted_by_pod(pod).into_iter().filter_map(each).collect()
    }

    /// None where no plugin has the resource.
    fn say(
        &self,
        machine: &Machine,
        resource: &str,
        (count, has): (usize, BTreeSet<String>),
        first: &BTreeSet<String>,
    ) -> Option<OfResource> {
        let shelf = self.shelves.get(resource)?;
        if !shelf.has_places() {
            return Some(None);
        }
        let none = BTreeSet::new();
        Some(Some(match has.len() {
            0 => {
                let left = shelf.left(&self.own, resource);
                shelf.hints(machine, &left, first, count)
            }
            // What was given before stays where it is.
            len if len == count => shelf.hints(machine, &has, &none, count),
            _ => Vec::new(),
        }))
    }

    /// Gives a container what it asks for, as near to some nodes as can be; where there is too little
    /// nothing, which is said when it is really given.
    pub fn give(&mut self, pod: &Pod, c: &Container, nodes: Option<Nodes>) {
        for (resource, count) in wanted(c) {
            let Some(shelf) = self.shelves.get(&resource) else {
                continue;
            };
            if self.own.has(&c.name, &resource) {
                continue;
            }
            let choice = shelf.choice((&self.own, &resource), count, nodes);
            if choice.check(&resource).is_ok() {
                let given = AllocatedDevices::bare(choice.decide());
                self.own.give(&c.name, &resource, given);
            }
        }
        if spec::is_init(pod, &c.name) && !spec::is_sidecar(c) {
            self.own.pass_on(&c.name);
        }
    }
}

/// What all containers of a pod have at the same time at most.
fn wanted_by_pod(pod: &Pod) -> BTreeMap<String, usize> {
    let add = |to: &mut BTreeMap<String, usize>, c: &Container| {
        for (resource, count) in wanted(c) {
            *to.entry(resource).or_default() += count;
        }
    };
    let (mut always, mut most) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
    for c in spec::init_containers(pod) {
        if spec::is_sidecar(c) {
            add(&mut always, c);
            continue;
        }
        let mut now = always.clone();
        add(&mut now, c);
        for (resource, count) in now {
            let most = most.entry(resource).or_default();
            *most = (*most).max(count);
        }
    }
    spec::containers(pod)
        .iter()
        .for_each(|c| add(&mut always, c));
    for (resource, count) in most {
        let sum = always.entry(resource).or_default();
        *sum = (*sum).max(count);
    }
    always
}

#[cfg(test)]
impl Draft {
    /// Devices of a resource by their nodes, such as `a01`: device `a` at nodes 0 and 1; a star: another
    /// pod has it.
    pub(crate) fn of_devices(resource: &str, devices: &str) -> Self {
        let mut shelf = Shelf::default();
        for text in devices.split_whitespace() {
            let (id, nodes) = text.trim_end_matches('*').split_at(1);
            let device = Device {
                healthy: true,
                nodes: nodes.chars().filter_map(|c| c.to_digit(10)).collect(),
            };
            shelf.devices.insert(id.to_owned(), device);
            if !text.ends_with('*') {
                shelf.free.insert(id.to_owned());
            }
        }
        Self {
            shelves: [(resource.to_owned(), shelf)].into(),
            own: OfPod::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::nodes::Node;
    use serde_json::json;

    const RESOURCE: &str = "x.io/d";

    fn machine(nodes: u32) -> Machine {
        Machine((0..nodes).map(|n| (n, Node::default())).collect())
    }

    fn draft(devices: &str) -> Draft {
        Draft::of_devices(RESOURCE, devices)
    }

    fn pod(init: &[u32], main: &[u32]) -> Pod {
        let of = |kind: &str, counts: &[u32]| {
            let each = counts.iter().enumerate().map(|(n, count)| {
                json!({ "name": format!("{kind}{n}"),
                    "resources": { "limits": { RESOURCE: count.to_string() } } })
            });
            each.collect::<Vec<_>>()
        };
        let spec = json!({ "initContainers": of("i", init), "containers": of("c", main) });
        serde_json::from_value(json!({ "metadata": { "uid": "u" }, "spec": spec })).unwrap()
    }

    /// `0+ 01`: node 0, preferred, or both.
    fn shown(all: &[OfResource]) -> String {
        let hint = |h: &Hint| {
            let nodes: Vec<String> = h
                .nodes
                .iter()
                .flat_map(|n| n.iter())
                .map(|n| n.to_string())
                .collect();
            nodes.concat() + if h.preferred { "+" } else { "" }
        };
        let each = |of: &OfResource| match of {
            None => "any".to_owned(),
            Some(hints) => hints.iter().map(hint).collect::<Vec<_>>().join(" "),
        };
        all.iter().map(each).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn nodes_are_named_that_have_enough_devices() {
        for (devices, count, want) in [
            ("a0 b1", 1, "0+ 1+ 01"),
            ("a0 b1", 2, "01+"),
            ("a0 b0 c1", 2, "0+ 01"),
            // Both nodes have two, so one node would do, though one's are taken.
            ("a0 b0* c1 d1", 2, "1+ 01"),
            ("a0 b0* c1 d1*", 2, "01"),
            // A device may be near to two.
            ("a01 b1", 2, "1+ 01"),
            // Nodes without devices, and such as the machine has not, are not spoken of.
            ("a0 b7", 1, "0+"),
            // Those that are at no node do not count; without any that are, all are anywhere.
            ("a0 b", 2, ""),
            ("a b", 1, "any"),
            ("a0", 2, ""),
        ] {
            let pod = pod(&[], &[count]);
            let draft = draft(devices);
            let c = &spec::containers(&pod)[0];
            assert_eq!(
                shown(&draft.hints(&machine(2), c)),
                want,
                "{devices} {count}"
            );
            let of_pod = draft.hints_of_pod(&machine(2), &pod);
            assert_eq!(shown(&of_pod), want, "{devices} {count}");
        }
        assert!(
            draft("a0")
                .hints(&machine(2), &Container::default())
                .is_empty()
        );
    }

    #[test]
    fn what_init_containers_had_is_where_the_next_ones_are() {
        let pod = pod(&[1], &[1, 1]);
        let mut draft = draft("a0 b0 c1 d1");
        let one: Nodes = [1].into_iter().collect();
        draft.give(&pod, &spec::init_containers(&pod)[0], Some(one));
        let main = spec::containers(&pod);
        assert_eq!(shown(&draft.hints(&machine(2), &main[0])), "1+ 01");
        draft.give(&pod, &main[0], Some(one));
        assert_eq!(draft.own.of("c0", RESOURCE), draft.own.of("i0", RESOURCE));
        assert_eq!(shown(&draft.hints(&machine(2), &main[1])), "0+ 1+ 01");
        // Asked again, it is where it is.
        assert_eq!(shown(&draft.hints(&machine(2), &main[0])), "1+ 01");
        assert_eq!(wanted_by_pod(&pod)[RESOURCE], 2);
    }
}
