//! Each node gets a part of each of the cluster's pod ranges, for good.

use std::collections::HashSet;
use std::sync::Arc;

use api::cidr::{Cidr, Cidrs, IpFamily};
use client::{Informer, Informers};
use control::action::{Target, reference};
use control::{Action, Controller, Count, Plan, Watches};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;

use crate::common::uid_of;
use crate::metrics::{Alive, sets as figures};

/// Upstream's bits of nodes' ranges: 254 pods by IPv4, and all that one network may have by IPv6.
pub const NODE_PREFIX_IPV4: u8 = 24;
pub const NODE_PREFIX_IPV6: u8 = 64;
/// As upstream: a range is not cut into more than 65,536 parts.
const MOST_PART_BITS: u8 = 16;

/// The whole ranges and how they are cut.
#[derive(Clone, Debug)]
pub struct Ranges(Vec<(Cidr, u8)>);

impl Ranges {
    /// Of the lengths that prefixes of nodes' ranges shall have by family; an error in words when
    /// a range cannot be cut so.
    pub fn new(ranges: &Cidrs, four: u8, six: u8) -> Result<Self, String> {
        let cut = |range: Cidr| {
            let prefix = match range.family() {
                IpFamily::Four => four,
                IpFamily::Six => six,
            };
            if prefix < range.prefix || prefix > range.family().bits() - 2 {
                return Err(format!(
                    "ranges of /{prefix} for the pods of a node do not fit into {range}"
                ));
            }
            if prefix - range.prefix > MOST_PART_BITS {
                return Err(format!(
                    "{range} has too many ranges of /{prefix} for the pods of a node: 65,536 are the most"
                ));
            }
            Ok((range, prefix))
        };
        ranges.iter().map(cut).collect::<Result<_, _>>().map(Self)
    }

    /// Shows how much of them nodes have.
    fn show(&self, nodes: &[Arc<Node>]) {
        let taken = UsedCidrs::of(nodes, self);
        for (range, prefix) in &self.0 {
            let parts = 1u64 << (prefix - range.prefix).min(MOST_PART_BITS);
            let used = taken.all.iter().filter(|part| part.overlaps(*range));
            figures::range(*range, parts, used.count());
        }
    }
}

/// The controller; all nodes are one key, so that no two get the same range.
pub struct PodCidrs {
    nodes: Informer<Node>,
    ranges: Ranges,
    told: Mutex<Told>,
    alive: Alive,
}

/// The nodes, by UID, of which it was said that there is no range for them. It is said once of each:
/// where thousands have none, whatever happens to one of them says nothing new of the others.
#[derive(Default)]
struct Told(HashSet<String>);

impl Told {
    /// Of the nodes without a range those that are new to it; all others are forgotten.
    fn news(&mut self, without: &[Arc<Node>]) -> Vec<Arc<Node>> {
        let now: HashSet<String> = without.iter().map(|n| uid_of(&**n)).collect();
        let before = std::mem::replace(&mut self.0, now);
        let is_new = |n: &&Arc<Node>| !before.contains(&uid_of(&***n));
        without.iter().filter(is_new).cloned().collect()
    }
}

impl PodCidrs {
    pub fn new(informers: &Informers, ranges: Ranges) -> Self {
        Self {
            nodes: informers.of(),
            ranges,
            told: Mutex::default(),
            alive: Alive::default(),
        }
    }
}

impl Controller for PodCidrs {
    const NAME: &'static str = "node-ipam-controller";
    const QUEUE: &'static str = "cidrallocator";
    const ACCOUNT: &'static str = "node-controller";
    type Key = ();
    type Observed = Allotment;

    fn watches(&self, watches: &mut Watches<()>) {
        let (nodes, ranges) = (self.nodes.clone(), self.ranges.clone());
        self.alive
            .show(move |lives| ranges.show(&if lives { nodes.list() } else { Vec::new() }));
        watches.on_change(&self.nodes, |change| {
            match concerns(change.old.as_deref(), change.new.as_deref()) {
                true => vec![()],
                false => Vec::new(),
            }
        });
    }
    fn observe(&self, (): &()) -> Option<Allotment> {
        let mut allotment = allot(&self.nodes.list(), &self.ranges);
        allotment.without = self.told.lock().news(&allotment.without);
        Some(allotment)
    }
    fn plan(&self, allotment: &Allotment, _: i64) -> Plan {
        plan(allotment)
    }
    fn metrics(&self, _: &Allotment, plan: &Plan) -> Option<Count> {
        let ranges = self.ranges.0.iter().map(|(range, _)| *range);
        figures::ranges(ranges.collect(), plan)
    }
    fn workers(&self) -> usize {
        1
    }
}

fn cidr(node: &Node) -> Option<&str> {
    node.spec
        .as_ref()?
        .pod_cidr
        .as_deref()
        .filter(|c| !c.is_empty())
}

/// What nodes have.
#[derive(Default)]
struct UsedCidrs {
    all: HashSet<Cidr>,
    /// Those of other sizes than today's, which may be in the way of several.
    odd: Vec<Cidr>,
}

impl UsedCidrs {
    fn of(nodes: &[Arc<Node>], ranges: &Ranges) -> Self {
        let mut taken = Self::default();
        let specs = nodes.iter().filter_map(|n| n.spec.as_ref());
        let texts = specs.flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
        for range in texts.filter_map(|text| text.parse::<Cidr>().ok()) {
            let usual = |(of, prefix): &(Cidr, u8)| {
                of.family() == range.family() && *prefix == range.prefix
            };
            if taken.all.insert(range) && !ranges.0.iter().any(usual) {
                taken.odd.push(range);
            }
        }
        taken
    }

    fn has(&self, part: Cidr) -> bool {
        self.all.contains(&part) || self.odd.iter().any(|odd| odd.overlaps(part))
    }
}

/// Whether a change of a node may have to do with ranges: one that has none came or lost it, or one
/// that had one does not need it any more. Heartbeats, of which there are many more, do not.
fn concerns(old: Option<&Node>, new: Option<&Node>) -> bool {
    match (old.map(cidr), new.map(cidr)) {
        (None, new) => new == Some(None),
        (Some(None), _) => false,
        (before, now) => now != before,
    }
}

/// What becomes of the nodes that have no range.
pub struct Allotment {
    /// A part of each range.
    given: Vec<(Arc<Node>, Vec<String>)>,
    /// There is nothing left for them.
    without: Vec<Arc<Node>>,
}

fn allot(nodes: &[Arc<Node>], ranges: &Ranges) -> Allotment {
    let mut asking: Vec<&Arc<Node>> = nodes.iter().filter(|n| cidr(n).is_none()).collect();
    let mut allotment = Allotment {
        given: Vec::new(),
        without: Vec::new(),
    };
    if asking.is_empty() {
        return allotment;
    }
    asking.sort_by_cached_key(|n| n.name_any());
    let taken = UsedCidrs::of(nodes, ranges);
    let parts = |(range, prefix): &(Cidr, u8)| {
        let (range, prefix) = (*range, *prefix);
        (0..).map_while(move |i| range.part(prefix, i))
    };
    let mut free: Vec<_> = ranges
        .0
        .iter()
        .map(|range| parts(range).filter(|part| !taken.has(*part)))
        .collect();
    for node in asking {
        // All or none: a node keeps what it was given first.
        let given: Option<Vec<String>> = free
            .iter_mut()
            .map(|parts| parts.next().map(|part| part.to_string()))
            .collect();
        match given {
            Some(all) => allotment.given.push((node.clone(), all)),
            None => allotment.without.push(node.clone()),
        }
    }
    allotment
}

fn plan(allotment: &Allotment) -> Plan {
    let mut plan = Plan::default();
    for (node, all) in &allotment.given {
        let patch = json!({
            "metadata": { "resourceVersion": node.resource_version() },
            "spec": { "podCIDR": all.first(), "podCIDRs": all },
        });
        plan.actions.push(Action::merge(
            Target::of::<Node>("", &node.name_any()),
            patch,
        ));
    }
    for node in &allotment.without {
        plan.actions.push(Action::Event {
            about: reference(&**node),
            warning: true,
            reason: "CIDRNotAvailable",
            message: "Node has no range for its pods: the cluster's is used up".into(),
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str) -> Arc<Node> {
        let value = json!({ "metadata": { "name": name }, "spec": { "podCIDR": cidr } });
        Arc::new(serde_json::from_value(value).expect("node"))
    }

    fn ranges(text: &str) -> Ranges {
        let ranges = text.parse().expect("ranges");
        Ranges::new(&ranges, NODE_PREFIX_IPV4, NODE_PREFIX_IPV6).expect("ranges")
    }

    fn given(plan: &Plan) -> Vec<String> {
        let of = |a: &Action| match a {
            Action::Patch {
                patch: control::action::Patch::Merge(p),
                ..
            } => {
                assert_eq!(p["spec"]["podCIDR"], p["spec"]["podCIDRs"][0]);
                p["spec"]["podCIDRs"].to_string()
            }
            other => format!("{other:?}"),
        };
        plan.actions.iter().map(of).collect()
    }

    #[test]
    fn each_node_gets_the_first_free_part() {
        let nodes = [node("a", "10.4.1.0/24"), node("b", ""), node("c", "")];
        let plan = plan(&allot(&nodes, &ranges("10.4.0.0/22")));
        assert_eq!(given(&plan), [r#"["10.4.0.0/24"]"#, r#"["10.4.2.0/24"]"#]);
    }

    #[test]
    fn each_node_gets_a_part_of_each_family_the_first_one_first() {
        let nodes = [node("a", "10.4.1.0/24"), node("b", ""), node("c", "")];
        let plan = plan(&allot(&nodes, &ranges("fd00:10:244::/56,10.4.0.0/22")));
        let expected = [
            r#"["fd00:10:244::/64","10.4.0.0/24"]"#,
            r#"["fd00:10:244:1::/64","10.4.2.0/24"]"#,
        ];
        assert_eq!(given(&plan), expected);
    }

    #[test]
    fn ranges_of_another_size_are_in_the_way_of_all_that_they_overlap() {
        let nodes = [node("a", "10.4.0.0/23"), node("b", "")];
        let plan = plan(&allot(&nodes, &ranges("10.4.0.0/22")));
        assert_eq!(given(&plan), [r#"["10.4.2.0/24"]"#]);
    }

    #[test]
    fn a_used_up_range_is_reported() {
        for text in ["10.4.0.0/24", "10.4.0.0/24,fd00:10:244::/56"] {
            let nodes = [node("a", "10.4.0.0/24"), node("b", "")];
            let plan = plan(&allot(&nodes, &ranges(text)));
            assert!(matches!(
                &plan.actions[..],
                [Action::Event {
                    reason: "CIDRNotAvailable",
                    ..
                }]
            ));
        }
    }

    #[test]
    fn that_there_is_no_range_is_said_once_of_each_node() {
        let mut told = Told::default();
        let some = |names: &[&str]| -> Vec<Arc<Node>> {
            let named = |name: &&str| {
                let mut node = Node::clone(&node(name, ""));
                node.metadata.uid = Some((*name).to_owned());
                Arc::new(node)
            };
            names.iter().map(named).collect()
        };
        let mut news = |names: &[&str]| -> Vec<String> {
            let new = told.news(&some(names));
            new.iter().map(|n| n.name_any()).collect()
        };
        assert_eq!(news(&["a", "b"]), ["a", "b"]);
        assert_eq!(news(&["a", "b", "c"]), ["c"]);
        // One got a range or went; should it come again, that is said again.
        assert!(news(&["a", "c"]).is_empty());
        assert_eq!(news(&["a", "b", "c"]), ["b"]);
    }

    #[test]
    fn a_range_is_looked_for_when_one_is_needed_or_given_back() {
        let (with, other, without) = (
            node("a", "10.4.0.0/24"),
            node("a", "10.4.1.0/24"),
            node("a", ""),
        );
        for (old, new, looked) in [
            (None, Some(&without), true),
            (None, Some(&with), false),
            (Some(&without), Some(&without), false),
            (Some(&with), Some(&with), false),
            (Some(&without), Some(&with), false),
            (Some(&with), Some(&other), true),
            (Some(&with), Some(&without), true),
            (Some(&with), None, true),
            (Some(&without), None, false),
        ] {
            let seen = concerns(old.map(|n| &**n), new.map(|n| &**n));
            assert_eq!(seen, looked, "{old:?} {new:?}");
        }
    }

    #[test]
    fn ranges_that_cannot_be_cut_are_refused_in_words() {
        let refused = |text: &str, four, six| {
            let ranges = text.parse().expect("ranges");
            Ranges::new(&ranges, four, six).expect_err(text)
        };
        assert!(refused("10.4.0.0/25", 24, 64).contains("do not fit"));
        assert!(refused("10.4.0.0/16", 31, 64).contains("do not fit"));
        assert!(refused("10.4.0.0/16,fd00:10:200::/40", 24, 64).contains("too many"));
    }
}
