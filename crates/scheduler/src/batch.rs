//! Equal pods that are decided one after the other: the nodes that fit the first one are kept with their
//! points, and for the next ones only nodes are judged again where something has happened. So a batch
//! costs little more than one decision. It is for pods that are alike ([`Alike`]), while room is made
//! for nobody; else, and after whatever is not a pod that came to a node or went, each pod is decided by
//! itself. Pods for which no node is found are kept beside ([`Refusals`]).

use std::sync::Arc;

use crate::alike::Alike;
use crate::decide::{
    Among, Checks, Decision, Outcome, Profile, best_of, columns, decide_among, decide_with, filter,
};
use crate::decision_timings::{Code, Point, Timings};
use crate::node::Node;
use crate::pod::Pod;
use crate::preempt::Trials;
use crate::refusals::Refusals;
use crate::snapshot::Snapshot;

/// Pods of one batch, at most: then the nodes to choose among are looked for again, elsewhere in a
/// large cluster.
const MOST: usize = 64;
/// The points of a node that does not fit any more.
const NONE: i64 = i64::MIN;

/// What is kept of decisions for equal pods.
#[derive(Default)]
pub struct Batches {
    /// Pods that fit.
    fitting: Option<Batch>,
    /// Pods that do not fit anywhere. Others may come between them, as those do for which they make room.
    refused: Option<Refusals>,
}

/// A batch under way.
struct Batch {
    alike: Alike,
    /// The nodes that fit the first pod, by their places in the snapshot, ascending.
    places: Vec<usize>,
    points: Vec<i64>,
    left: usize,
    /// What had happened when the points held.
    mark: usize,
}

/// Decides about a pod by what is kept of equal ones, or else by itself; then a batch may begin.
pub fn decide(
    batches: &mut Batches,
    snapshot: &Snapshot,
    pod: &Arc<Pod>,
    (at, profile): (usize, &Profile),
    seed: u64,
    timings: &Timings,
) -> Decision {
    let began = timings.now();
    if let Some(decision) = batches.next(snapshot, pod, (at, profile), seed) {
        timings.part(began, Point::Filter, Code::Success, pod);
        return decision;
    }
    // Room that is made for it is taken for all but itself: what is found holds for no other.
    if snapshot.nomination(&pod.uid).is_some() {
        return decide_with(snapshot, pod, profile, seed, None, timings);
    }
    let (decision, among) = decide_among(snapshot, pod, profile, seed, None, timings);
    batches.begin(snapshot, &decision, among, pod, at);
    decision
}

impl Batches {
    fn next(
        &mut self,
        snapshot: &Snapshot,
        pod: &Pod,
        (at, profile): (usize, &Profile),
        seed: u64,
    ) -> Option<Decision> {
        let has_room = snapshot.nomination(&pod.uid).is_some();
        if let Some(refusals) = self.refused.as_mut().filter(|r| r.means(pod, at)) {
            let decision = refusals.next(snapshot, pod, profile);
            if decision.is_some() || has_room {
                return decision;
            }
            self.refused = None;
        }
        if has_room {
            return None;
        }
        let batch = self.fitting.as_mut()?;
        batch.next(snapshot, pod, (at, profile), seed)
    }

    fn begin(
        &mut self,
        snapshot: &Snapshot,
        decision: &Decision,
        among: Option<Among<'_>>,
        pod: &Arc<Pod>,
        profile: usize,
    ) {
        self.fitting = None;
        let Some(among) = among else {
            return;
        };
        match &decision.outcome {
            Outcome::Node(_) => self.fitting = Batch::begin(snapshot, among, pod, profile),
            Outcome::Unschedulable => {
                let checks = &among.checks;
                let new = Refusals::begin(snapshot, checks, pod, profile, decision);
                if new.is_some() {
                    self.refused = new;
                }
            }
            Outcome::NoNodes => {}
        }
    }

    /// What trials to make room came to for pods like that of this decision, where they are kept.
    pub fn trials(&mut self, decision: &Decision) -> Option<&mut Trials> {
        self.refused.as_mut()?.trials(decision)
    }
}

impl Batch {
    /// None where what was said of nodes does not hold for other pods.
    fn begin(
        snapshot: &Snapshot,
        among: Among<'_>,
        pod: &Arc<Pod>,
        profile: usize,
    ) -> Option<Self> {
        let Among {
            checks,
            places,
            points,
        } = among;
        if snapshot.any_nominations() || points.is_empty() || places.len() != points.len() {
            return None;
        }
        let alike = Alike::new(&checks, pod, profile)?;
        let mut nodes: Vec<(usize, i64)> = places.into_iter().zip(points).collect();
        nodes.sort_unstable_by_key(|(place, _)| *place);
        let (places, points) = nodes.into_iter().unzip();
        Some(Self {
            alike,
            places,
            points,
            left: MOST - 1,
            mark: snapshot.mark(),
        })
    }

    /// The decision about a pod, if it is one of this batch.
    fn next(
        &mut self,
        snapshot: &Snapshot,
        pod: &Pod,
        (at, profile): (usize, &Profile),
        seed: u64,
    ) -> Option<Decision> {
        self.left = self.left.checked_sub(1)?;
        if snapshot.any_nominations() || !self.alike.means(pod, at) {
            return None;
        }
        let checks = self.alike.checks(snapshot, pod, profile)?;
        for place in snapshot.changed_since(self.mark)? {
            let Ok(nth) = self.places.binary_search(place) else {
                continue;
            };
            let node = snapshot.slots().get(*place)?;
            if let Some(points) = self.points.get_mut(nth) {
                *points = judge(&checks, node);
            }
        }
        self.mark = snapshot.mark();
        let fit = self.points.iter().filter(|p| **p != NONE).count();
        // Among few that are left the choice is poor, and of none nobody knows why.
        if fit == 0 || fit * 2 < self.points.len() {
            return None;
        }
        let best = best_of(&self.points, seed)?;
        let node = snapshot.slots().get(*self.places.get(best)?)?;
        let scores = columns(&[node], &checks).into_iter();
        let scores = scores.map(|(plugin, points)| (plugin, points.into_iter().sum::<i64>()));
        Some(Decision {
            outcome: Outcome::Node(node.name.clone()),
            nodes: snapshot.len(),
            feasible: fit,
            rejections: Arc::default(),
            refused: None,
            scores: scores.collect(),
        })
    }
}

/// The points of a node by itself.
fn judge(checks: &Checks<'_>, node: &Node) -> i64 {
    if !node.exists || filter(checks, node).is_some() {
        return NONE;
    }
    let points = columns(&[node], checks).into_iter();
    points.flat_map(|(_, points)| points).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Cluster, node};

    /// Nodes of several sizes, fewer than are sampled.
    fn cluster() -> Cluster {
        let size = |i: usize| ["2", "3", "5"].get(i % 3).copied().unwrap_or("2");
        Cluster::new((0..40).map(|i| node(&format!("n{i:02}"), size(i), "8Gi")))
    }

    fn asks(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c",
            "resources": {"requests": {"cpu": cpu, "memory": "100Mi"}}}]}})
    }

    /// The sum of what the plugins gave the chosen node.
    fn sum(decision: &Decision) -> i64 {
        decision.scores.iter().map(|(_, points)| points).sum()
    }

    fn chosen(decision: &Decision) -> Option<Arc<str>> {
        match &decision.outcome {
            Outcome::Node(node) => Some(node.clone()),
            Outcome::NoNodes | Outcome::Unschedulable => None,
        }
    }

    #[test]
    fn a_batch_decides_as_well_as_each_by_itself() {
        let (mut cluster, profile) = (cluster(), Profile::default());
        let mut batches = Batches::default();
        let (mut placed, mut of_batches) = (0, 0);
        for seed in 0..300 {
            // Other pods come and go meanwhile.
            if seed % 7 == 0 {
                let other = cluster.place(&format!("n{:02}", seed % 40), asks("300m"));
                if seed % 2 == 0 {
                    cluster.snapshot.remove_pod(&other.uid);
                }
            }
            let pod = cluster.pod(asks(if seed < 200 { "400m" } else { "200m" }));
            let single = crate::decide::decide(&cluster.snapshot, &pod, &profile, seed);
            let before = batches.fitting.as_ref().map(|b| b.left);
            let own = (0, &profile);
            let decision = decide(
                &mut batches,
                &cluster.snapshot,
                &pod,
                own,
                seed,
                &Timings::default(),
            );
            let after = batches.fitting.as_ref().map(|b| b.left);
            of_batches += usize::from(before.is_some() && after < before);
            assert_eq!(decision.feasible, single.feasible, "{seed}");
            assert_eq!(sum(&decision), sum(&single), "{seed}");
            assert_eq!(chosen(&decision).is_some(), chosen(&single).is_some());
            let Some(node) = chosen(&decision) else { break };
            cluster.snapshot.assume(&node, pod);
            placed += 1;
        }
        assert!(placed > 150 && of_batches > 100, "{placed}, {of_batches}");
    }

    #[test]
    fn what_is_not_a_pod_on_a_node_ends_a_batch() {
        let (mut cluster, profile) = (cluster(), Profile::default());
        let mut batches = Batches::default();
        let mut left = |cluster: &mut Cluster, spec: Value| {
            let pod = cluster.pod(spec);
            let (own, timings) = ((0, &profile), Timings::default());
            decide(&mut batches, &cluster.snapshot, &pod, own, 1, &timings);
            batches.fitting.as_ref().map(|b| b.left)
        };
        let plain = || asks("100m");
        assert_eq!(left(&mut cluster, plain()), Some(MOST - 1));
        assert_eq!(left(&mut cluster, plain()), Some(MOST - 2));
        // Another kind of pod.
        assert_eq!(left(&mut cluster, asks("200m")), Some(MOST - 1));
        assert_eq!(left(&mut cluster, plain()), Some(MOST - 1));
        // A node that changes; to say the same once more is not a change.
        let name = cluster.strings.get("n00");
        let offer = |cpu: &str, cluster: &mut Cluster| {
            let node = serde_json::from_value(node("n00", cpu, "8Gi")).expect("a node");
            crate::node::Offer::read(&node, &mut cluster.strings)
        };
        let same = offer("2", &mut cluster);
        cluster.snapshot.set_node(&name, same);
        assert_eq!(left(&mut cluster, plain()), Some(MOST - 2));
        let larger = offer("9", &mut cluster);
        cluster.snapshot.set_node(&name, larger);
        assert_eq!(left(&mut cluster, plain()), Some(MOST - 1));
        // A pod that keeps off all others gives a plugin a say.
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {}});
        let mut alone = asks("100m");
        alone["spec"]["affinity"] = json!({"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        cluster.place("n01", alone.clone());
        assert_eq!(left(&mut cluster, plain()), None);
        assert_eq!(left(&mut cluster, alone), None);
    }
}
