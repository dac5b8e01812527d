//! Zones of nodes: how many of their nodes are ready, and how fast those that are not may lose their
//! pods. Where much of a zone fails at once the fault is more likely between the nodes and the
//! control plane: then they lose them slowly or not at all; where all of the cluster does, it is
//! ours. Pure, times being milliseconds of a clock of the caller that only goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::common::is_node_ready;

/// Nodes with this label do not count in the state of their zones.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// Up to so many nodes that are not ready are no disruption of a zone. Upstream's.
const FEW: usize = 2;

/// How fast nodes may lose their pods.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// Nodes of a zone per second that get the taint which drives their pods away.
    pub usual: f64,
    /// The same where much of a zone is not ready, and the zone is large …
    pub reduced: f64,
    /// … which it is with more nodes than this. In smaller ones none gets it then.
    pub large: usize,
    /// The share of nodes that are not ready from which this is so.
    pub unhealthy: f64,
}

impl Default for Rates {
    /// Upstream's.
    fn default() -> Self {
        Self {
            usual: 0.1,
            reduced: 0.01,
            large: 50,
            unhealthy: 0.55,
        }
    }
}

/// How much of a zone is not ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Normal,
    Partial,
    Full,
}

fn state(ready: usize, not_ready: usize, unhealthy: f64) -> State {
    let share = not_ready as f64 / (ready + not_ready).max(1) as f64;
    if ready == 0 && not_ready > 0 {
        State::Full
    } else if not_ready > FEW && share >= unhealthy {
        State::Partial
    } else {
        State::Normal
    }
}

/// When a node may get the taint which drives its pods away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eviction {
    Now,
    After(u64),
    /// Not before something changes.
    Never,
}

/// Lets one node pass, and the next one after a while.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: f64,
    free_at: u64,
}

impl Bucket {
    fn wait(per_second: f64) -> Option<u64> {
        if per_second <= 0.0 {
            return None;
        }
        let wait = Duration::try_from_secs_f64(per_second.recip()).unwrap_or(Duration::MAX);
        Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    /// Who waits at one rate waits at the next, from the beginning.
    fn set(&mut self, per_second: f64, now: u64) {
        if self.per_second.to_bits() == per_second.to_bits() {
            return;
        }
        let waits = self.free_at > now || Self::wait(self.per_second).is_none();
        self.per_second = per_second;
        if waits {
            self.free_at = now.saturating_add(Self::wait(per_second).unwrap_or(0));
        }
    }

    fn take(&mut self, now: u64) -> Eviction {
        let Some(wait) = Self::wait(self.per_second) else {
            return Eviction::Never;
        };
        if self.free_at > now {
            return Eviction::After(self.free_at - now);
        }
        self.free_at = now.saturating_add(wait);
        Eviction::Now
    }
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    ready: usize,
    not_ready: usize,
    bucket: Bucket,
}

impl Zone {
    fn size(&self) -> usize {
        self.ready + self.not_ready
    }

    fn state(&self, rates: Rates) -> State {
        state(self.ready, self.not_ready, rates.unhealthy)
    }

    fn count(&mut self, is_ready: bool) -> &mut usize {
        match is_ready {
            true => &mut self.ready,
            false => &mut self.not_ready,
        }
    }
}

/// Upstream's words for a node's zone: the region, two separators, the zone.
pub fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.labels().get(name).map_or("", String::as_str);
    let region = label("topology.kubernetes.io/region");
    match (region, label("topology.kubernetes.io/zone")) {
        ("", "") => String::new(),
        (region, zone) => format!("{region}::{zone}"),
    }
}

/// Whether a node counts in the state of its zone.
pub fn counts(node: &Node) -> bool {
    !node.labels().contains_key(EXCLUDED)
}

/// All zones of a cluster.
#[derive(Debug)]
pub struct Zones {
    rates: Rates,
    /// The zone that each node counts in, if it counts, and whether it is ready.
    nodes: BTreeMap<String, (Option<String>, bool)>,
    zones: BTreeMap<String, Zone>,
    is_disrupted: bool,
}

impl Zones {
    pub fn new(rates: Rates) -> Self {
        Self {
            rates,
            nodes: BTreeMap::new(),
            zones: BTreeMap::new(),
            is_disrupted: false,
        }
    }

    fn zone(&mut self, name: &str) -> &mut Zone {
        let usual = self.rates.usual;
        self.zones.entry(name.to_owned()).or_insert(Zone {
            ready: 0,
            not_ready: 0,
            bucket: Bucket {
                per_second: usual,
                free_at: 0,
            },
        })
    }

    /// What the rates depend on.
    fn states(&self) -> Vec<(State, bool, bool)> {
        let large = |zone: &Zone| zone.size() > self.rates.large;
        let all = self.zones.values();
        all.map(|zone| (zone.state(self.rates), zone.size() > 0, large(zone)))
            .collect()
    }

    /// A node came or changed. Whether that may change when others lose their pods.
    pub fn set(&mut self, node: &Node) -> bool {
        let zone = counts(node).then(|| zone_of(node));
        let is = (zone, is_node_ready(node));
        let name = node.name_any();
        if self.nodes.get(&name) == Some(&is) {
            return false;
        }
        let before = self.states();
        self.take_out(&name);
        if let (Some(zone), is_ready) = &is {
            *self.zone(zone).count(*is_ready) += 1;
        }
        self.nodes.insert(name, is);
        before != self.states()
    }

    /// As [`Zones::set`], for one that is no more. Its zone is remembered: who waited there waits on.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.states();
        self.take_out(name);
        before != self.states()
    }

    fn take_out(&mut self, name: &str) {
        if let Some((Some(zone), was_ready)) = self.nodes.remove(name) {
            let count = self.zone(&zone).count(was_ready);
            *count = count.saturating_sub(1);
        }
    }

    /// The nodes that are not ready, by name.
    pub fn not_ready(&self) -> impl Iterator<Item = &String> {
        let all = self.nodes.iter().filter(|(_, (_, is_ready))| !is_ready);
        all.map(|(name, _)| name)
    }

    /// Brings the rates up to date with the states. Whether the cluster was disrupted as a whole and
    /// is so no longer: then nobody's silence until now counts.
    pub fn settle(&mut self, now: u64) -> bool {
        let rates = self.rates;
        let mut there = self.zones.values().filter(|z| z.size() > 0).peekable();
        let is_full = |zone: &Zone| zone.state(rates) == State::Full;
        let is_disrupted = there.peek().is_some() && there.all(is_full);
        let was_disrupted = std::mem::replace(&mut self.is_disrupted, is_disrupted);
        for zone in self.zones.values_mut() {
            let per_second = match zone.state(rates) {
                _ if is_disrupted => 0.0,
                State::Partial if zone.size() > rates.large => rates.reduced,
                State::Partial => 0.0,
                State::Normal | State::Full => rates.usual,
            };
            zone.bucket.set(per_second, now);
        }
        was_disrupted && !is_disrupted
    }

    /// Whether no node of the cluster is ready.
    pub fn is_disrupted(&self) -> bool {
        self.is_disrupted
    }

    /// A node that is not ready asks to lose its pods; where it may, the next one waits.
    pub fn ask(&mut self, node: &Node, now: u64) -> Eviction {
        if self.is_disrupted {
            return Eviction::Never;
        }
        self.zone(&zone_of(node)).bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str, ready: bool) -> Node {
        let status = if ready { "True" } else { "Unknown" };
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
            "status": { "conditions": [{ "type": "Ready", "status": status }] },
        }))
        .expect("a node")
    }

    /// So many nodes of a zone, the first ones ready.
    fn fill(zones: &mut Zones, zone: &str, ready: usize, not_ready: usize) {
        for number in 0..ready + not_ready {
            zones.set(&node(&format!("{zone}-{number}"), zone, number < ready));
        }
    }

    #[test]
    fn the_state_of_a_zone_follows_from_its_nodes() {
        for (ready, not_ready, expected) in [
            (0, 0, State::Normal),
            (1, 0, State::Normal),
            (0, 1, State::Full),
            (0, 100, State::Full),
            (1, 2, State::Normal),
            (1, 3, State::Partial),
            (3, 3, State::Normal),
            (9, 11, State::Partial),
            (46, 54, State::Normal),
            (45, 55, State::Partial),
        ] {
            assert_eq!(
                state(ready, not_ready, 0.55),
                expected,
                "{ready} {not_ready}"
            );
        }
    }

    #[test]
    fn one_node_after_another_loses_its_pods() {
        let mut zones = Zones::new(Rates::default());
        fill(&mut zones, "a", 8, 2);
        assert!(!zones.settle(0) && !zones.is_disrupted());
        let silent = node("a-8", "a", false);
        assert_eq!(zones.ask(&silent, 0), Eviction::Now);
        assert_eq!(zones.ask(&silent, 4_000), Eviction::After(6_000));
        assert_eq!(zones.ask(&silent, 10_000), Eviction::Now);
        // Other zones have their own turns.
        assert_eq!(zones.ask(&node("b-0", "b", false), 10_000), Eviction::Now);
    }

    #[test]
    fn where_much_of_a_zone_is_dark_it_goes_slowly_or_not_at_all() {
        for (ready, not_ready, second) in [
            (20, 30, Eviction::Never),
            (20, 31, Eviction::After(100_000)),
            (31, 20, Eviction::After(10_000)),
        ] {
            let mut zones = Zones::new(Rates::default());
            fill(&mut zones, "a", ready, not_ready);
            fill(&mut zones, "b", 1, 0);
            zones.settle(0);
            let silent = node("a-40", "a", false);
            let first = match second {
                Eviction::Never => Eviction::Never,
                _ => Eviction::Now,
            };
            assert_eq!(zones.ask(&silent, 0), first, "{ready} {not_ready}");
            assert_eq!(zones.ask(&silent, 0), second, "{ready} {not_ready}");
        }
        // A whole zone that is dark beside another: its nodes are gone.
        let mut zones = Zones::new(Rates::default());
        fill(&mut zones, "a", 0, 5);
        fill(&mut zones, "b", 1, 0);
        zones.settle(0);
        assert_eq!(zones.ask(&node("a-1", "a", false), 0), Eviction::Now);
    }

    #[test]
    fn where_nobody_is_ready_nobody_loses_pods_and_the_first_who_returns_ends_it() {
        let mut zones = Zones::new(Rates::default());
        fill(&mut zones, "a", 0, 5);
        fill(&mut zones, "b", 0, 2);
        assert!(!zones.settle(0));
        assert!(zones.is_disrupted());
        assert_eq!(zones.not_ready().count(), 7);
        assert_eq!(zones.ask(&node("a-1", "a", false), 0), Eviction::Never);
        assert!(zones.set(&node("b-0", "b", true)), "the others must know");
        assert!(!zones.set(&node("b-0", "b", true)));
        assert!(zones.settle(5_000) && !zones.is_disrupted());
        assert!(!zones.settle(5_000), "once");
        // Nobody who waited is let pass at once.
        let waits = zones.ask(&node("a-1", "a", false), 5_000);
        assert_eq!(waits, Eviction::After(10_000));
    }

    #[test]
    fn nodes_that_move_go_or_do_not_count_leave_their_zones() {
        let mut zones = Zones::new(Rates::default());
        fill(&mut zones, "a", 1, 1);
        zones.set(&node("a-1", "b", false));
        zones.remove("a-0");
        let mut excluded = node("c", "c", true);
        excluded
            .labels_mut()
            .insert(EXCLUDED.to_owned(), String::new());
        zones.set(&excluded);
        zones.settle(0);
        assert!(zones.is_disrupted(), "{zones:?}");
        zones.remove("a-1");
        zones.settle(0);
        assert!(!zones.is_disrupted(), "no node says anything");
    }
}
