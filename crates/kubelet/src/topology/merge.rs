//! From what CPUs, memory and devices say of NUMA nodes to one set of nodes for a container or a pod,
//! by upstream's rules. Pure.

use super::nodes::{Machine, Nodes};
use std::collections::BTreeSet;

/// A set of nodes that would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// The nodes; none: any.
    pub nodes: Option<Nodes>,
    /// It is as narrow as can be.
    pub preferred: bool,
}

/// What one resource says: none: any nodes do; an empty list: no nodes do.
pub type OfResource = Option<Vec<Hint>>;

/// What is done with what does not fit together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing is asked.
    #[default]
    None,
    /// The best is taken, whatever it is.
    BestEffort,
    /// What is not preferred is refused.
    Restricted,
    /// Only one node will do.
    SingleNumaNode,
}

impl Policy {
    /// Upstream's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::BestEffort => "best-effort",
            Self::Restricted => "restricted",
            Self::SingleNumaNode => "single-numa-node",
        }
    }
}

/// For whom nodes are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// For each container.
    #[default]
    Container,
    /// For all containers of a pod together.
    Pod,
}

impl Scope {
    /// Upstream's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

/// The most NUMA nodes where nothing else is said: the sets of them are tried, which are 2 to their
/// number.
pub const MOST_NODES: usize = 8;

/// What the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What does not fit together.
    pub policy: Policy,
    /// For whom.
    pub scope: Scope,
    /// Of sets of the same size the one whose nodes are nearest to one another.
    pub closest: bool,
    /// More NUMA nodes are an error of the start.
    pub most_nodes: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            policy: Policy::None,
            scope: Scope::Container,
            closest: false,
            most_nodes: MOST_NODES,
        }
    }
}

/// The best nodes, and whether the policy takes them.
#[must_use]
pub fn merge(machine: &Machine, rules: &Rules, resources: &[OfResource]) -> (Hint, bool) {
    let any = |preferred| {
        vec![Hint {
            nodes: None,
            preferred,
        }]
    };
    let mut all: Vec<Vec<Hint>> = resources
        .iter()
        .map(|hints| match hints {
            None => any(true),
            Some(hints) if hints.is_empty() => any(false),
            Some(hints) => hints.clone(),
        })
        .collect();
    let single = rules.policy == Policy::SingleNumaNode;
    if single {
        let one = |h: &Hint| h.preferred && h.nodes.is_none_or(|n| n.count() == 1);
        all.iter_mut().for_each(|hints| hints.retain(one));
    }
    let merger = Merger {
        machine,
        closest: rules.closest && !single,
        wanted: widest_of_narrowest(&all),
    };
    let whole = machine.all();
    let mut best: Option<Hint> = None;
    for candidate in combined(&all, whole) {
        best = Some(match best {
            None => candidate,
            Some(best) => merger.better(best, candidate),
        });
    }
    let mut best = best.unwrap_or(Hint {
        nodes: Some(whole),
        preferred: false,
    });
    if single && best.nodes == Some(whole) {
        best.nodes = None;
    }
    let taken = match rules.policy {
        Policy::None | Policy::BestEffort => true,
        Policy::Restricted | Policy::SingleNumaNode => best.preferred,
    };
    (best, taken)
}

/// What is known of a choice of one hint of each resource: the nodes of all, those of the first that
/// names some, and whether it is preferred. Choices that come to the same are looked at once, so their
/// number is bounded by the sets of nodes, not by its powers.
type Choice = (Nodes, Option<Nodes>, bool);

/// The nodes that are in all hints of a choice; preferred if all are, and name the same nodes.
fn combined(all: &[Vec<Hint>], whole: Nodes) -> Vec<Hint> {
    let mut choices: BTreeSet<Choice> = [(whole, None, true)].into();
    for hints in all {
        let mut next = BTreeSet::new();
        for (nodes, first, preferred) in &choices {
            for hint in hints {
                let same = hint.nodes.is_none() || first.is_none() || hint.nodes == *first;
                next.insert((
                    hint.nodes.map_or(*nodes, |own| nodes.and(own)),
                    first.or(hint.nodes),
                    *preferred && hint.preferred && same,
                ));
            }
        }
        choices = next;
    }
    let hints = choices
        .into_iter()
        .filter(|(nodes, _, _)| nodes.count() > 0);
    let hints = hints.map(|(nodes, _, preferred)| Hint {
        nodes: Some(nodes),
        preferred,
    });
    hints.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The most nodes that a resource needs at least.
fn widest_of_narrowest(all: &[Vec<Hint>]) -> u32 {
    let narrowest = |hints: &Vec<Hint>| {
        let counts = hints.iter().filter_map(|h| h.nodes).map(Nodes::count);
        counts.min()
    };
    all.iter().filter_map(narrowest).max().unwrap_or(0)
}

struct Merger<'a> {
    machine: &'a Machine,
    closest: bool,
    /// How many nodes a set should have that is not preferred.
    wanted: u32,
}

impl Merger<'_> {
    fn better(&self, best: Hint, candidate: Hint) -> Hint {
        match (best.preferred, candidate.preferred) {
            (false, true) => return candidate,
            (true, false) => return best,
            (true, true) => return self.fitter(best, candidate),
            (false, false) => {}
        }
        let count = |h: Hint| h.nodes.map_or(0, Nodes::count);
        let (now, next, wanted) = (count(best), count(candidate), self.wanted);
        if now > wanted {
            return self.fitter(best, candidate);
        }
        // As near to the wanted number as can be, from below.
        if next > wanted || next < now {
            best
        } else if next > now {
            candidate
        } else {
            self.fitter(best, candidate)
        }
    }

    fn fitter(&self, best: Hint, candidate: Hint) -> Hint {
        let (now, next) = (
            best.nodes.unwrap_or_default(),
            candidate.nodes.unwrap_or_default(),
        );
        let far = |nodes| self.machine.distance(nodes);
        let nearer = match (
            self.closest && now.count() == next.count(),
            far(now),
            far(next),
        ) {
            (true, now_far, next_far) if now_far != next_far => next_far < now_far,
            _ => next.is_narrower_than(now),
        };
        if nearer { candidate } else { best }
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::Node;
    use super::*;

    /// Nodes in a row, each as far from another as they are apart.
    fn machine(nodes: u32) -> Machine {
        let node = |own: u32| Node {
            distances: (0..nodes)
                .map(|other| (other, 10 + 10 * u64::from(own.abs_diff(other))))
                .collect(),
            ..Node::default()
        };
        Machine((0..nodes).map(|n| (n, node(n))).collect())
    }

    /// `01+`: nodes 0 and 1, preferred; `*`: any.
    fn hint(text: &str) -> Hint {
        let digits = text.chars().filter_map(|c| c.to_digit(10));
        Hint {
            nodes: (!text.contains('*')).then(|| digits.collect()),
            preferred: text.ends_with('+'),
        }
    }

    fn list(text: &str) -> OfResource {
        match text {
            "any" => None,
            text => Some(text.split_whitespace().map(hint).collect()),
        }
    }

    fn merged(policy: Policy, nodes: u32, resources: &[&str]) -> (String, bool) {
        let rules = Rules {
            policy,
            ..Rules::default()
        };
        let all: Vec<OfResource> = resources.iter().map(|r| list(r)).collect();
        let (hint, taken) = merge(&machine(nodes), &rules, &all);
        let nodes = hint.nodes.map_or_else(|| "any".into(), |n| n.to_string());
        let preferred = if hint.preferred { "+" } else { "" };
        (format!("{nodes}{preferred}"), taken)
    }

    #[test]
    fn hints_are_merged_by_upstreams_rules() {
        use Policy::{BestEffort, Restricted, SingleNumaNode};
        for (resources, best_effort, restricted, single) in [
            // Nobody cares: all nodes.
            (&["any"][..], "0-1+", true, Some("any+")),
            (&["0+ 1+ 01"], "0+", true, Some("0+")),
            (&["0+ 1+ 01", "1+ 01"], "1+", true, Some("1+")),
            // What one cannot have anywhere is preferred nowhere.
            (&["0+ 1+ 01", ""], "0", false, None),
            // They do not meet: the best that is not preferred.
            (&["0+ 01", "1+ 01"], "0", false, None),
            // One needs both nodes: what includes them is as near to it as can be.
            (&["01+", "0+ 01"], "0-1", false, None),
            (&["01+", "01+"], "0-1+", true, None),
            (&["0+ 1+", "1+ 01", "any"], "1+", true, Some("1+")),
            // Two that meet nowhere: all nodes, not preferred.
            (&["0+", "1+"], "0-1", false, None),
        ] {
            let got = merged(BestEffort, 2, resources);
            assert_eq!(got, (best_effort.into(), true), "{resources:?}");
            let got = merged(Restricted, 2, resources);
            assert_eq!(got, (best_effort.into(), restricted), "{resources:?}");
            let got = merged(SingleNumaNode, 2, resources);
            assert_eq!(got.1, single.is_some(), "{resources:?}: {got:?}");
            if let Some(single) = single {
                assert_eq!(got.0, single, "{resources:?}");
            }
        }
        // On a machine of one node everything is on one.
        assert_eq!(
            merged(SingleNumaNode, 1, &["0+", "0+"]),
            ("any+".into(), true)
        );
    }

    #[test]
    fn of_what_is_not_preferred_that_is_best_which_is_as_wide_as_is_needed() {
        // One resource needs three nodes, so sets of three are better than of one or four.
        let got = merged(Policy::BestEffort, 4, &["0 01 012 0123", "012 013 0123"]);
        assert_eq!(got.0, "0-2");
    }

    #[test]
    fn nodes_that_are_near_to_one_another_come_first_where_that_is_asked_for() {
        let mut rules = Rules {
            policy: Policy::BestEffort,
            ..Rules::default()
        };
        let all = [list("03+ 12+ 13+")];
        let best = |rules: &Rules| merge(&machine(4), rules, &all).0.nodes.unwrap().to_string();
        assert_eq!(best(&rules), "1-2");
        let all = [list("02+ 23+")];
        let best = |rules: &Rules| merge(&machine(4), rules, &all).0.nodes.unwrap().to_string();
        assert_eq!(best(&rules), "0,2");
        rules.closest = true;
        assert_eq!(best(&rules), "2-3");
    }

    #[test]
    fn the_work_is_bounded_by_the_sets_of_nodes() {
        let every: Vec<Hint> = machine(8)
            .all()
            .subsets()
            .into_iter()
            .map(|nodes| Hint {
                nodes: Some(nodes),
                preferred: nodes.count() == 1,
            })
            .collect();
        // Permutations of ten resources would be 255 to the power of 10.
        let all = vec![Some(every); 10];
        let rules = Rules {
            policy: Policy::Restricted,
            ..Rules::default()
        };
        let (best, taken) = merge(&machine(8), &rules, &all);
        assert_eq!(
            (best.nodes.unwrap().to_string().as_str(), taken),
            ("0", true)
        );
    }
}
