//! One scheduling decision: filter the nodes, score those that fit, take the best.

use std::sync::Arc;

use crate::decision_timings::{Code, Point, Timings};
use crate::extenders::Opinion;
use crate::message;
use crate::node::Node;
use crate::plugins::{self, Check, Plugin, Reason, Refused, Verdict};
use crate::pod::Pod;
use crate::preempt::Candidates;
use crate::rejections::{EXTENDER, Rejection, Rejections};
use crate::snapshot::Snapshot;

/// With fewer nodes all are looked at.
const FEWEST_NODES: usize = 100;
/// A sample has at least this share of the nodes, in percent.
const LEAST_PERCENT: usize = 5;

/// The plugins that decide, in the order in which they are asked, with the weights of their
/// scores.
pub struct Profile {
    /// The pods that name this scheduler are decided by it.
    pub scheduler: String,
    pub plugins: Vec<(Box<dyn Plugin>, i64)>,
    /// Share of the nodes that need to fit before the search ends, in percent; 0 for 50 % and
    /// less the more nodes there are.
    pub percentage_of_nodes: u8,
    /// How many nodes preemption looks at; none where pods do not preempt others.
    pub candidates: Option<Candidates>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            scheduler: "default-scheduler".to_owned(),
            plugins: plugins::defaults(),
            percentage_of_nodes: 0,
            candidates: Some(Candidates::default()),
        }
    }
}

impl Profile {
    /// How many nodes that fit are enough, of `all`.
    pub fn enough(&self, all: usize) -> usize {
        if all < FEWEST_NODES {
            return all;
        }
        let percent = match usize::from(self.percentage_of_nodes) {
            0 => 50usize.saturating_sub(all / 125).max(LEAST_PERCENT),
            percent => percent.min(100),
        };
        (all * percent / 100).max(FEWEST_NODES)
    }

    /// The checks that have a say about this pod, each with its plugin's place in the profile.
    ///
    /// # Errors
    /// The plugin by which the pod can be on no node at all, and why.
    pub fn prepare<'a>(
        &'a self,
        pod: &'a Pod,
        snapshot: &'a Snapshot,
    ) -> Result<Checks<'a>, (usize, Reason)> {
        self.prepare_sampled(pod, snapshot, None)
    }

    /// As [`Profile::prepare`]; where `sampled`, it is noted what each plugin takes.
    fn prepare_sampled<'a>(
        &'a self,
        pod: &'a Pod,
        snapshot: &'a Snapshot,
        sampled: Option<&Timings>,
    ) -> Result<Checks<'a>, (usize, Reason)> {
        let mut out = Vec::with_capacity(self.plugins.len());
        for (i, (plugin, weight)) in self.plugins.iter().enumerate() {
            let began = sampled.and_then(Timings::now);
            let answer = plugin.prepare(pod, snapshot);
            if let Some(timings) = sampled {
                let code = match &answer {
                    Ok(None) => Code::Skip,
                    Ok(Some(_)) => Code::Success,
                    Err(_) => Code::Unresolvable,
                };
                timings.plugin(began, plugin.name(), Point::PreFilter, code);
            }
            match answer {
                Ok(None) => {}
                Ok(Some(check)) => out.push(Prepared {
                    plugin: i,
                    name: plugin.name(),
                    weight: *weight,
                    check,
                }),
                Err(reason) => return Err((i, reason)),
            }
        }
        Ok(out)
    }

    /// Why a pod is not to be tried, and the plugin that says so.
    pub fn gate(&self, pod: &Pod) -> Option<(&'static str, Reason)> {
        let mut plugins = self.plugins.iter();
        plugins.find_map(|(p, _)| p.gate(pod).map(|reason| (p.name(), reason)))
    }

    pub fn name_of(&self, plugin: usize) -> &'static str {
        if plugin == EXTENDER {
            return "Extender";
        }
        self.plugins.get(plugin).map_or("", |(p, _)| p.name())
    }
}

/// A check and which plugin made it.
pub struct Prepared<'a> {
    pub plugin: usize,
    pub name: &'static str,
    pub weight: i64,
    pub check: Box<dyn Check + 'a>,
}
pub type Checks<'a> = Vec<Prepared<'a>>;

/// The first check that rejects a node.
pub fn filter(checks: &Checks<'_>, node: &Node) -> Option<(usize, Verdict)> {
    checks.iter().find_map(|p| match p.check.filter(node) {
        Verdict::Fits => None,
        verdict => Some((p.plugin, verdict)),
    })
}

/// Notifies all checks that a pod was put on a node for a trial, or taken off again.
pub fn moved(checks: &mut Checks<'_>, pod: &Pod, node: &Node, came: bool) {
    for prepared in checks {
        prepared.check.moved(pod, node, came);
    }
}

/// As [`filter`], with the pods of the same or a higher priority for which room is made on the
/// node, and without them: they may come or not.
pub fn filter_for(
    snapshot: &Snapshot,
    pod: &Pod,
    checks: &mut Checks<'_>,
    node: &Node,
) -> Option<(usize, Verdict)> {
    let coming: Vec<&Arc<Pod>> = snapshot.nominated_before(&node.name, pod).collect();
    if coming.is_empty() {
        return filter(checks, node);
    }
    let mut with = node.clone();
    for other in &coming {
        with.add(Arc::clone(other));
        moved(checks, other, &with, true);
    }
    let out = filter(checks, &with);
    for other in coming {
        moved(checks, other, &with, false);
    }
    out.or_else(|| filter(checks, node))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node to bind the pod to.
    Node(Arc<str>),
    /// The cluster has no nodes.
    NoNodes,
    /// No node is fit, see [`Decision::rejections`].
    Unschedulable,
}

/// The outcome and how it came about.
#[derive(Clone, Debug)]
pub struct Decision {
    pub outcome: Outcome,
    /// Nodes in the cluster.
    pub nodes: usize,
    /// Nodes that were found fit; the search ends when there are enough.
    pub feasible: usize,
    pub rejections: Arc<Rejections>,
    /// The plugin that refused the pod whatever the node, and why.
    pub refused: Option<(usize, Reason)>,
    /// Of the chosen node, weighted: plugin's place in the profile and score.
    pub scores: Vec<(usize, i64)>,
}

impl Decision {
    /// The plugins that stood in the way.
    pub fn refused_by(&self) -> Refused {
        if self.outcome == Outcome::NoNodes {
            return Refused::EVERYBODY;
        }
        let refused_by = self.rejections.refused_by();
        match &self.refused {
            Some((plugin, _)) => refused_by.and(*plugin),
            None => refused_by,
        }
    }

    /// Why the pod cannot be scheduled, in the words of its condition.
    pub fn message(&self) -> String {
        match &self.outcome {
            Outcome::Node(_) => String::new(),
            Outcome::NoNodes => message::NO_NODES.to_owned(),
            Outcome::Unschedulable => {
                if let Some((_, reason)) = &self.refused {
                    return message::refused(self.nodes, reason.texts());
                }
                self.rejections.message(self.nodes)
            }
        }
    }
}

/// Spreads the bits of a seed (the finalizer of splitmix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Decides where a pod goes. `seed` says where the search begins and which of equal nodes is
/// taken; everything else follows from the arguments.
pub fn decide(snapshot: &Snapshot, pod: &Pod, profile: &Profile, seed: u64) -> Decision {
    decide_with(snapshot, pod, profile, seed, None, &Timings::default())
}

/// As [`decide`], up to the nodes that fit, about which extenders are asked; none where the decision
/// does not depend on them.
pub fn fitting(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    seed: u64,
    timings: &Timings,
) -> (Decision, Vec<Arc<str>>) {
    let mut decision = Decision::begun(snapshot);
    let Some(mut checks) = decision.prepare(snapshot, pod, profile, timings) else {
        return (decision, Vec::new());
    };
    let nominated = nominated(snapshot, pod, &mut checks).map(|n| n.name.clone());
    sample_filters(snapshot, &checks, timings);
    let began = timings.now();
    let (found, _) = search(snapshot, pod, &mut checks, profile, seed, &mut decision);
    timings.part(began, Point::Filter, Code::Success, pod);
    let others = found.iter().map(|n| n.name.clone());
    let others = others.filter(|n| Some(n) != nominated.as_ref());
    let nodes = nominated.iter().cloned().chain(others).collect();
    decision.outcome = Outcome::Unschedulable;
    (decision, nodes)
}

/// As [`decide`], where extenders said this of the nodes that fit.
pub fn decide_with(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    seed: u64,
    heard: Option<&Opinion>,
    timings: &Timings,
) -> Decision {
    decide_among(snapshot, pod, profile, seed, heard, timings).0
}

/// The nodes that a decision was made among.
pub struct Among<'a> {
    pub checks: Checks<'a>,
    /// The places of those that fit among [`Snapshot::slots`], and the points of each; of a node that
    /// is the only one there are none.
    pub places: Vec<usize>,
    pub points: Vec<i64>,
}

/// As [`decide_with`], and among which nodes that was, where the pod was not simply sent to the node
/// where room had been made for it.
pub fn decide_among<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    profile: &'a Profile,
    seed: u64,
    heard: Option<&Opinion>,
    timings: &Timings,
) -> (Decision, Option<Among<'a>>) {
    let mut decision = Decision::begun(snapshot);
    let Some(mut checks) = decision.prepare(snapshot, pod, profile, timings) else {
        return (decision, None);
    };
    // Where room was made for it, it goes as soon as it fits.
    let good = |node: &Node| heard.is_none_or(|h| h.good.contains(&node.name));
    if let Some(node) = nominated(snapshot, pod, &mut checks).filter(|n| good(n)) {
        decision.feasible = 1;
        decision.outcome = Outcome::Node(node.name.clone());
        return (decision, None);
    }
    // Those that extenders were asked about have been looked at then.
    if heard.is_none() {
        sample_filters(snapshot, &checks, timings);
    }
    let began = timings.now();
    let (mut feasible, mut places) =
        search(snapshot, pod, &mut checks, profile, seed, &mut decision);
    timings.part(began, Point::Filter, Code::Success, pod);
    if let Some(heard) = heard {
        feasible = decision.only_good(snapshot, feasible, heard);
        places.clear();
    }
    decision.outcome = Outcome::Unschedulable;
    let mut points = Vec::new();
    let began = timings.now().filter(|_| feasible.len() > 1);
    let scores = &mut decision.scores;
    let chosen = choose(&feasible, &checks, seed, heard, scores, timings);
    timings.part(began, Point::Score, Code::Success, pod);
    if let Some((node, all)) = chosen {
        decision.outcome = Outcome::Node(node.name.clone());
        points = all;
    }
    let among = Among {
        checks,
        places,
        points,
    };
    (decision, Some(among))
}

/// Of a decision that is looked at closely: what each filter takes for one node.
fn sample_filters(snapshot: &Snapshot, checks: &Checks<'_>, timings: &Timings) {
    if !timings.is_sampled() {
        return;
    }
    let Some(node) = snapshot.nodes().next() else {
        return;
    };
    for prepared in checks {
        let began = timings.now();
        let verdict = prepared.check.filter(node);
        timings.plugin(began, prepared.name, Point::Filter, Code::of(&verdict));
        if verdict != Verdict::Fits {
            return;
        }
    }
}

/// The node where room was made for a pod, if it fits there.
fn nominated<'a>(snapshot: &'a Snapshot, pod: &Pod, checks: &mut Checks<'_>) -> Option<&'a Node> {
    let node = snapshot.node(snapshot.nomination(&pod.uid)?)?;
    (node.exists && filter_for(snapshot, pod, checks, node).is_none()).then_some(node)
}

impl Decision {
    fn begun(snapshot: &Snapshot) -> Self {
        Self {
            outcome: Outcome::NoNodes,
            nodes: snapshot.len(),
            feasible: 0,
            rejections: Arc::default(),
            refused: None,
            scores: Vec::new(),
        }
    }

    /// What the plugins have to say; none when that ends the decision.
    fn prepare<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        pod: &'a Pod,
        profile: &'a Profile,
        timings: &Timings,
    ) -> Option<Checks<'a>> {
        if snapshot.is_empty() {
            return None;
        }
        let sampled = Some(timings).filter(|t| t.is_sampled());
        let began = timings.now();
        let prepared = profile.prepare_sampled(pod, snapshot, sampled);
        let code = match &prepared {
            Ok(_) => Code::Success,
            Err(_) => Code::Unresolvable,
        };
        timings.part(began, Point::PreFilter, code, pod);
        match prepared {
            Ok(checks) => Some(checks),
            Err(refused) => {
                self.refused = Some(refused);
                self.outcome = Outcome::Unschedulable;
                None
            }
        }
    }

    /// Of these nodes those that the extenders found good. Of the others they refused some without a word,
    /// or were not asked.
    fn only_good<'n>(
        &mut self,
        snapshot: &Snapshot,
        nodes: Vec<&'n Node>,
        heard: &Opinion,
    ) -> Vec<&'n Node> {
        let mut said = Vec::new();
        for (at, node) in snapshot.slots().iter().enumerate() {
            let Some(no) = heard.refused.get(&node.name) else {
                continue;
            };
            let reason = Reason::text(no.why.clone());
            let verdict = if no.never {
                Verdict::Never(reason)
            } else {
                Verdict::NotNow(reason)
            };
            said.push(Rejection {
                node: at,
                plugin: EXTENDER,
                verdict,
            });
        }
        let (good, others): (Vec<&Node>, Vec<&Node>) = nodes
            .into_iter()
            .partition(|n| heard.good.contains(&n.name));
        let silent = others
            .iter()
            .filter(|n| !heard.refused.contains_key(&n.name));
        let silent = silent.filter_map(|n| snapshot.slot_of(&n.name));
        said.extend(silent.map(|at| Rejection {
            node: at,
            plugin: EXTENDER,
            verdict: Verdict::Never(Reason::many(Vec::new())),
        }));
        let rejections = Arc::make_mut(&mut self.rejections);
        rejections.put(said);
        rejections.sort();
        self.feasible = good.len();
        good
    }
}

/// The nodes that fit, until there are enough, and their places.
fn search<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    checks: &mut Checks<'_>,
    profile: &Profile,
    seed: u64,
    decision: &mut Decision,
) -> (Vec<&'a Node>, Vec<usize>) {
    let slots = snapshot.slots();
    let enough = profile.enough(snapshot.len());
    let start = usize::try_from(mix(seed) % slots.len().max(1) as u64).unwrap_or(0);
    let (before, after) = slots.split_at(start.min(slots.len()));
    let turned = (start..).zip(after).chain((0..).zip(before));
    let only = few(checks);
    let mut feasible = Vec::with_capacity(enough.min(slots.len()));
    let mut places = Vec::with_capacity(feasible.capacity());
    let mut rejections = Vec::new();
    for (at, node) in turned.filter(|(_, n)| n.exists) {
        match rejection(snapshot, pod, profile, checks, only.as_ref(), node) {
            None => {
                feasible.push(node);
                places.push(at);
            }
            Some((plugin, verdict)) => rejections.push(Rejection {
                node: at,
                plugin,
                verdict,
            }),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    decision.feasible = feasible.len();
    let mut rejections = Rejections::new(rejections);
    if feasible.is_empty() {
        rejections.sort();
    }
    decision.rejections = Arc::new(rejections);
    (feasible, places)
}

/// Why a node is not for a pod, where it is not, and the place of the plugin that says so.
pub fn rejection(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    checks: &mut Checks<'_>,
    only: Option<&Few>,
    node: &Node,
) -> Option<(usize, Verdict)> {
    match only {
        Some((plugin, names)) if !names.contains(&node.name) => Some((
            *plugin,
            Verdict::Never(Reason::text(format!(
                "node(s) didn't satisfy plugin(s) [{}]",
                profile.name_of(*plugin)
            ))),
        )),
        _ => filter_for(snapshot, pod, checks, node),
    }
}

/// The only nodes that may fit, and the place of the plugin that says so.
pub type Few = (usize, Vec<Arc<str>>);

/// The only nodes that need to be asked, where a check knows, and whose check it was.
pub fn few(checks: &Checks<'_>) -> Option<Few> {
    let mut out: Option<Few> = None;
    for prepared in checks {
        let Some(names) = prepared.check.only() else {
            continue;
        };
        match &mut out {
            None => out = Some((prepared.plugin, names)),
            Some((_, before)) => before.retain(|n| names.contains(n)),
        }
    }
    out
}

/// The node with the highest sum of scores, and the sums of all; none of a node that is alone.
fn choose<'a>(
    feasible: &[&'a Node],
    checks: &Checks<'_>,
    seed: u64,
    heard: Option<&Opinion>,
    scores: &mut Vec<(usize, i64)>,
    timings: &Timings,
) -> Option<(&'a Node, Vec<i64>)> {
    if let [] | [_] = feasible {
        return Some((feasible.first().copied()?, Vec::new()));
    }
    let sampled = Some(timings).filter(|t| t.is_sampled());
    let mut table = columns_sampled(feasible, checks, sampled);
    if let Some(heard) = heard.filter(|h| !h.scores.is_empty()) {
        let of = |n: &&Node| heard.scores.get(&n.name).copied().unwrap_or(0);
        table.push((EXTENDER, feasible.iter().map(of).collect()));
    }
    let sums = sums(feasible.len(), &table);
    let best = best_of(&sums, seed)?;
    for (plugin, column) in &table {
        scores.push((*plugin, column.get(best).copied().unwrap_or(0)));
    }
    Some((feasible.get(best).copied()?, sums))
}

/// What each plugin gives these nodes, weighted: its place in the profile and the points of each.
pub fn columns(feasible: &[&Node], checks: &Checks<'_>) -> Vec<(usize, Vec<i64>)> {
    columns_sampled(feasible, checks, None)
}

/// As [`columns`]; where `sampled`, it is noted what each plugin takes.
fn columns_sampled(
    feasible: &[&Node],
    checks: &Checks<'_>,
    sampled: Option<&Timings>,
) -> Vec<(usize, Vec<i64>)> {
    let mut table: Vec<(usize, Vec<i64>)> = Vec::new();
    for prepared in checks.iter().filter(|p| p.weight > 0) {
        let mut column = vec![0i64; feasible.len()];
        let began = sampled.and_then(Timings::now);
        if !prepared.check.score(feasible, &mut column) {
            continue;
        }
        if let Some(timings) = sampled {
            timings.plugin(began, prepared.name, Point::Score, Code::Success);
        }
        for score in &mut column {
            *score *= prepared.weight;
        }
        table.push((prepared.plugin, column));
    }
    table
}

fn sums(width: usize, table: &[(usize, Vec<i64>)]) -> Vec<i64> {
    let mut totals = vec![0i64; width];
    for (_, column) in table {
        for (total, score) in totals.iter_mut().zip(column) {
            *total += score;
        }
    }
    totals
}

/// The points of each of these nodes.
pub fn totals(feasible: &[&Node], checks: &Checks<'_>) -> Vec<i64> {
    sums(feasible.len(), &columns(feasible, checks))
}

/// The place of the greatest; of several, one by the seed.
pub fn best_of(totals: &[i64], seed: u64) -> Option<usize> {
    let most = totals.iter().max()?;
    let ties = totals.iter().filter(|t| *t == most).count();
    let take = usize::try_from(mix(seed ^ 0x5bd1) % ties as u64).unwrap_or(0);
    totals
        .iter()
        .enumerate()
        .filter(|(_, t)| *t == most)
        .nth(take)
        .map(|(i, _)| i)
}
