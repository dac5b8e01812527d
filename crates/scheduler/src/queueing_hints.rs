//! What has happened since the last decision, and which waiting pods that may help: those that it lets in,
//! and those that it lets make room for themselves. Which pods may be displaced is as it was when one of
//! them has gone, so that this helps nobody more important to displace others; when a pod has gone that is
//! as important as the one that waits, or more, the others there may suffice.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decide::Profile;
use crate::plugins::{About, Events, Plugin, Refused};
use crate::pod::Pod;
use crate::preempt;
use crate::snapshot::Snapshot;

/// How often, at most, a kind of pods and a node at which something happened are looked at together. For
/// one kind that is never more than a decision costs; for many they would be decided about late.
const LOOKS: usize = 1 << 21;
/// Claims that are remembered one by one; of more only what happened, so that all are woken whom it may
/// help.
const CLAIMS: usize = 256;
/// Pods that are remembered of a node one by one; of more only that they came or went.
const PODS: usize = 64;

/// What happens to a node itself.
const OF_NODES: Events = Events::NODE_ADDED
    .with(Events::NODE_LABELS)
    .with(Events::NODE_TAINTS)
    .with(Events::NODE_RESOURCES)
    .with(Events::NODE_FEATURES);

/// What pods do there.
const OF_PODS: Events = Events::POD_ADDED.with(Events::POD_REMOVED);

/// What happened at a node.
#[derive(Clone, Debug, Default)]
struct AtNode {
    events: Events,
    /// The pods that came or went, or are other ones than before: both of them.
    pods: Vec<Arc<Pod>>,
    /// There were others, too.
    has_others: bool,
    /// Up to this priority a pod may find something else than before once all less important ones have
    /// gone.
    frees: Option<i32>,
}

impl AtNode {
    fn remember(&mut self, pod: &Arc<Pod>) {
        if self.pods.iter().any(|p| Arc::ptr_eq(p, pod)) {
            return;
        }
        match self.pods.len() < PODS {
            true => self.pods.push(pod.clone()),
            false => self.has_others = true,
        }
    }

    /// Whether what happened may matter to a pod that this plugin refused, as far as it depends on which
    /// pods it was.
    fn concerns(&self, plugin: &dyn Plugin, pod: &Pod, snapshot: &Snapshot) -> bool {
        let mut pods = self.pods.iter();
        self.has_others
            || plugin.wakes_on().meets(self.events.without(OF_PODS))
            || pods.any(|other| plugin.heeds(pod, other, snapshot))
    }
}

/// What has happened may help a pod.
#[derive(Clone, Copy, Debug)]
pub struct Help {
    /// What it is.
    pub events: Events,
    /// Only by displacing others.
    pub displaces: bool,
}

/// Events since the last decision.
#[derive(Debug, Default)]
pub struct Happened {
    all: Events,
    /// Of these it is not known what they are about.
    vague: Events,
    /// By name, so that the order is the same each time.
    nodes: BTreeMap<Arc<str>, AtNode>,
    /// The most that one of them frees.
    frees: Option<i32>,
    /// Nodes are too many to be looked at one by one.
    is_coarse: bool,
    claims: BTreeMap<Arc<str>, Events>,
}

impl Happened {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    pub fn anything(&mut self, events: Events) {
        self.all = self.all.with(events);
        self.vague = self.vague.with(events);
    }
    /// A node came or went, or is different.
    pub fn to_node(&mut self, events: Events, node: &Arc<str>) {
        self.at(events, node, Some(i32::MAX));
    }
    /// A pod came to a node, or is another one there; then both are reported.
    pub fn pod_came(&mut self, node: &Arc<str>, pod: &Arc<Pod>) {
        self.at(Events::POD_ADDED, node, None);
        self.of_pod(node, Some(pod));
    }
    /// A pod left a node or asks for less there, or room is not made for it any more.
    pub fn pod_left(&mut self, node: &Arc<str>, pod: &Arc<Pod>) {
        self.at(Events::POD_REMOVED, node, Some(pod.priority));
        self.of_pod(node, Some(pod));
    }
    /// Pods of a node that were about to go are so no more.
    pub fn nobody_goes(&mut self, node: &Arc<str>) {
        self.at(Events::POD_REMOVED, node, None);
        self.of_pod(node, None);
    }

    /// It was this pod at the node, or one of which nothing is known.
    fn of_pod(&mut self, node: &Arc<str>, pod: Option<&Arc<Pod>>) {
        let Some(at) = self.nodes.get_mut(node) else {
            return;
        };
        match pod {
            Some(pod) => at.remember(pod),
            None => at.has_others = true,
        }
    }

    pub fn to_claim(&mut self, events: Events, key: &Arc<str>) {
        self.all = self.all.with(events);
        if let Some(before) = self.claims.get_mut(key) {
            *before = before.with(events);
        } else if self.claims.len() < CLAIMS {
            self.claims.insert(key.clone(), events);
        } else {
            self.vague = self.vague.with(events);
        }
    }

    fn at(&mut self, events: Events, node: &Arc<str>, frees: Option<i32>) {
        if events.is_empty() {
            return;
        }
        self.all = self.all.with(events);
        self.frees = self.frees.max(frees);
        let at = self.nodes.entry(node.clone()).or_default();
        at.events = at.events.with(events);
        at.frees = at.frees.max(frees);
    }

    /// So many kinds of pods wait: where these are too many to look at each node for each of them, all
    /// are woken whom it may help.
    pub fn ask_for(&mut self, kinds: usize) {
        if self.nodes.len().saturating_mul(kinds) > LOOKS {
            self.is_coarse = true;
            for at in self.nodes.values() {
                self.vague = self.vague.with(at.events);
            }
        }
    }

    /// Whether one of these plugins of a profile wants to hear of it.
    pub fn concerns(&self, refused: Refused, profiles: &[Profile]) -> bool {
        profiles.iter().any(|profile| {
            refused_by(profile, refused).any(|plugin| {
                plugin.wakes_on().meets(self.all) || self.frees.is_some() && plugin.is_local()
            })
        })
    }

    /// Whether and how it may help a pod that these plugins refused.
    pub fn helps(
        &self,
        pod: &Pod,
        refused: Refused,
        profile: &Profile,
        snapshot: &Snapshot,
    ) -> Option<Help> {
        let help = |events, displaces| Help { events, displaces };
        let mut plugins = refused_by(profile, refused);
        // What an extender heeds nobody knows.
        let any_pod = refused.is_everybody();
        let fits = plugins.find_map(|plugin| self.lets_in(plugin, any_pod, pod, snapshot));
        if let Some(events) = fits {
            return Some(help(events, false));
        }
        let displaces = self.lets_displace(pod, refused, profile, snapshot);
        displaces.map(|events| help(events, true))
    }

    /// The events for which a plugin that refused a pod may let it in. `any_pod`: whichever pods they are
    /// about.
    fn lets_in(
        &self,
        plugin: &dyn Plugin,
        any_pod: bool,
        pod: &Pod,
        snapshot: &Snapshot,
    ) -> Option<Events> {
        let wakes_on = plugin.wakes_on();
        if !wakes_on.meets(self.all) {
            return None;
        }
        if wakes_on.meets(self.vague) && plugin.helps(pod, About::Anything, snapshot) {
            return Some(wakes_on.among(self.vague));
        }
        let mut claims = self.claims.iter();
        let claim = claims.find(|(key, events)| {
            wakes_on.meets(**events) && plugin.helps(pod, About::Claim(key), snapshot)
        });
        if let Some((_, events)) = claim {
            return Some(wakes_on.among(*events));
        }
        if self.is_coarse {
            return None;
        }
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|(name, at)| {
            wakes_on.meets(at.events)
                && (any_pod || at.concerns(plugin, pod, snapshot))
                && plugin.helps(pod, about(name, snapshot), snapshot)
        });
        node.map(|(_, at)| wakes_on.among(at.events))
    }

    /// The events after which a pod may find room by displacing others. Only plugins that look at one node
    /// alone are asked: where none of these refused it, others stand in the way, which have their say
    /// before.
    fn lets_displace(
        &self,
        pod: &Pod,
        refused: Refused,
        profile: &Profile,
        snapshot: &Snapshot,
    ) -> Option<Events> {
        let own = Some(pod.priority);
        let may = !pod.wants.never_preempts && profile.candidates.is_some();
        if self.frees < own || !may || !refused_by(profile, refused).any(Plugin::is_local) {
            return None;
        }
        let mut nodes = self.nodes.iter().filter(|(_, at)| at.frees >= own);
        let node = nodes.find(|(name, _)| {
            self.is_coarse || suffices_without_lesser(name, pod, profile, snapshot)
        });
        node.map(|(_, at)| OF_NODES.with(Events::POD_REMOVED).among(at.events))
    }

    /// The pods for which room is made on a node with events that help them, and those events: since
    /// such a pod fits there now, or since it need not wait any more for others to go from there, so that
    /// it has to look again. `refused` says which plugins refused a pod that waits.
    pub fn helped_where_room_is_made<'a>(
        &self,
        snapshot: &'a Snapshot,
        profiles: &[Profile],
        refused: impl Fn(&str) -> Option<Refused>,
    ) -> Vec<(&'a Arc<Pod>, Events)> {
        let mut out = Vec::new();
        for (name, at) in &self.nodes {
            for pod in snapshot.nominated_on(name) {
                let Some(refused) = refused(&pod.uid) else {
                    continue;
                };
                // A node that has become another may be none for it any more, whoever goes.
                let looks_again = at.events.meets(OF_NODES)
                    || at.events.meets(Events::POD_REMOVED)
                        && !preempt::awaits_victims(snapshot, pod);
                let helps = |plugin: &(dyn Plugin + 'static)| {
                    looks_again && plugin.is_local()
                        || plugin.wakes_on().meets(at.events)
                            && (looks_again || plugin.helps(pod, about(name, snapshot), snapshot))
                };
                let mut own = profiles.iter().filter(|p| p.scheduler == *pod.scheduler);
                if own.any(|profile| refused_by(profile, refused).any(helps)) {
                    out.push((pod, at.events));
                }
            }
        }
        out
    }
}

/// Those plugins of a profile that refused a pod.
fn refused_by(
    profile: &Profile,
    refused: Refused,
) -> impl Iterator<Item = &(dyn Plugin + 'static)> {
    let plugins = profile.plugins.iter().enumerate();
    let plugins = plugins.filter(move |(at, _)| refused.has(*at));
    plugins.map(|(_, (plugin, _))| plugin.as_ref())
}

fn about<'a>(name: &str, snapshot: &'a Snapshot) -> About<'a> {
    snapshot.node(name).map_or(About::Anything, About::Node)
}

/// Whether there are less important pods on a node, and without them it is one for this pod as far as
/// plugins say that look at it alone. What others say is left to a trial.
fn suffices_without_lesser(name: &str, pod: &Pod, profile: &Profile, snapshot: &Snapshot) -> bool {
    let node = snapshot.node(name);
    let Some(node) = node.filter(|n| n.exists && n.has_lower(pod.priority)) else {
        return false;
    };
    let (left, _) = node.without_lower(pod.priority);
    let mut plugins = profile.plugins.iter().filter(|(p, _)| p.is_local());
    plugins.all(|(plugin, _)| plugin.helps(pod, About::Node(&left), snapshot))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decide::decide;
    use crate::plugins::testing::{Cluster, node};

    fn asks(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn each_node_is_looked_at_until_there_are_too_many_kinds_of_pods() {
        let name = |i: usize| format!("n{i:03}");
        let mut c = Cluster::new((0..600).map(|i| node(&name(i), "2", "8Gi")));
        let mut left = Happened::default();
        for i in 0..600 {
            let there = c.place(&name(i), asks("1"));
            let at = c.strings.get(&name(i));
            // What happens often at a node is looked at once.
            left.pod_left(&at, &there);
            left.pod_left(&at, &there);
        }
        let (large, profile) = (c.pod(asks("2")), Profile::default());
        let refused = decide(&c.snapshot, &large, &profile, 1).refused_by();
        left.ask_for(1);
        assert!(left.concerns(refused, std::slice::from_ref(&profile)));
        assert!(left.helps(&large, refused, &profile, &c.snapshot).is_none());
        left.ask_for(LOOKS);
        assert!(left.helps(&large, refused, &profile, &c.snapshot).is_some());
    }

    /// A pod that a plugin refused, another one that came to a node or left it, and whether that may help.
    #[test]
    fn pods_that_have_nothing_to_do_with_each_other_do_not_wake_each_other() {
        let labelled = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {}});
        let term = |app: &str| json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]);
        let affine = |kind: &str, app: &str| {
            json!({"metadata": {"labels": {"app": "own"}}, "spec": {"affinity": {
                kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}}})
        };
        let spread = |when: &str| {
            json!({"metadata": {"labels": {"app": "own"}}, "spec": {"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
                 "labelSelector": {"matchLabels": {"app": "db"}}}]}})
        };
        let elsewhere = || {
            let mut pod = labelled("db");
            pod["metadata"]["namespace"] = json!("other");
            pod
        };
        let uses = |claim: &str| {
            json!({"spec": {"volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
        };
        let (near, apart) = ("podAffinity", "podAntiAffinity");
        let (affinity, spreading) = ("InterPodAffinity", "PodTopologySpread");
        let (alone, limits) = ("VolumeRestrictions", "NodeVolumeLimits");
        for (plugin, pending, other, expected) in [
            (affinity, affine(near, "db"), labelled("db"), true),
            (affinity, affine(near, "db"), labelled("web"), false),
            (affinity, affine(near, "db"), elsewhere(), false),
            (affinity, affine(apart, "db"), labelled("db"), true),
            (affinity, affine(apart, "db"), labelled("web"), false),
            (affinity, labelled("web"), affine(apart, "web"), true),
            (affinity, labelled("web"), affine(apart, "db"), false),
            (affinity, labelled("web"), affine(near, "web"), false),
            (spreading, spread("DoNotSchedule"), labelled("db"), true),
            (spreading, spread("DoNotSchedule"), labelled("web"), false),
            (spreading, spread("DoNotSchedule"), elsewhere(), false),
            (spreading, spread("ScheduleAnyway"), labelled("db"), false),
            (alone, uses("c"), uses("c"), true),
            (alone, uses("c"), uses("d"), false),
            (limits, uses("c"), uses("d"), true),
            (limits, uses("c"), labelled("db"), false),
        ] {
            let mut c = Cluster::new([node("a", "2", "8Gi")]);
            let (pod, there) = (c.pod(pending.clone()), c.place("a", other.clone()));
            let at = c.strings.get("a");
            let profile = Profile::default();
            let place = profile.plugins.iter().position(|(p, _)| p.name() == plugin);
            let refused = Refused::NOBODY.and(place.expect("a plugin"));
            let helps =
                |left: &Happened| left.helps(&pod, refused, &profile, &c.snapshot).is_some();
            let mut left = Happened::default();
            left.pod_left(&at, &there);
            assert_eq!(helps(&left), expected, "{plugin} {pending} {other}");
            // Of what is not known, and of a node itself, anything may help.
            left.nobody_goes(&at);
            assert!(helps(&left), "{plugin} {pending} {other}");
            let mut came = Happened::default();
            came.pod_came(&at, &there);
            came.to_node(Events::NODE_ADDED, &at);
            assert!(helps(&came), "{plugin} {pending} {other}");
        }
    }

    #[test]
    fn whom_an_extender_refused_any_pod_may_help() {
        let labelled = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {}});
        let mut c = Cluster::new([node("a", "2", "8Gi")]);
        let (pod, there) = (c.pod(labelled("web")), c.place("a", labelled("db")));
        let at = c.strings.get("a");
        let profile = Profile::default();
        let mut came = Happened::default();
        came.pod_came(&at, &there);
        let helps = |refused| came.helps(&pod, refused, &profile, &c.snapshot).is_some();
        assert!(helps(Refused::EVERYBODY));
        let plugins = 0..profile.plugins.len();
        assert!(!helps(plugins.fold(Refused::NOBODY, Refused::and)));
    }

    #[test]
    fn of_many_claims_only_that_something_happened_is_remembered() {
        let mut c = Cluster::new([node("a", "2", "8Gi")]);
        let mut happened = Happened::default();
        for i in 0..CLAIMS {
            let key = c.strings.get(&format!("default/c{i}"));
            happened.to_claim(Events::CLAIMS, &key);
            happened.to_claim(Events::CLAIMS, &key);
        }
        assert!(happened.vague.is_empty());
        happened.to_claim(Events::CLAIMS, &c.strings.get("default/last"));
        assert!(happened.vague.meets(Events::CLAIMS));
    }
}
