//! Whether a pod would fit a node without its less important pods, and who of them has to go; kept for
//! pods that are alike.

use std::sync::Arc;

use super::candidate::{Candidate, importance};
use crate::decide::{Checks, filter_for, moved};
use crate::message;
use crate::node::Node;
use crate::plugins::{Reason, Refused, Verdict};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// Why a trial came to nothing.
#[derive(Clone)]
pub(super) struct Failure {
    /// The place of the plugin that refused the pod there; none where there was nobody to displace.
    plugin: Option<usize>,
    verdict: Verdict,
}

impl Failure {
    const NO_VICTIMS: Self = Self {
        plugin: None,
        verdict: Verdict::Never(Reason::one(message::NO_VICTIMS)),
    };
}

/// What trials on nodes came to, for pods that are alike; by the places of the nodes among the
/// rejections of their decision.
#[derive(Default)]
pub struct Trials {
    made: Vec<Option<Result<Arc<Candidate>, Failure>>>,
    /// The changes of budgets before them.
    budgets: usize,
}

impl Trials {
    /// Something has happened on this node.
    pub fn forget(&mut self, nth: usize) {
        if let Some(made) = self.made.get_mut(nth) {
            *made = None;
        }
    }

    /// Of so many nodes.
    pub(super) fn begin(&mut self, snapshot: &Snapshot, nodes: usize) {
        let budgets = snapshot.budgets().changes();
        if self.budgets != budgets {
            self.made.clear();
            self.budgets = budgets;
        }
        self.made.resize(nodes, None);
    }

    /// The candidate of a node, if it is one. `make` says what it comes to, if that is not known.
    pub(super) fn candidate(
        &mut self,
        nth: usize,
        make: impl FnOnce() -> Result<Candidate, Failure>,
    ) -> Option<&Arc<Candidate>> {
        let made = self.made.get_mut(nth)?;
        let made = made.get_or_insert_with(|| make().map(Arc::new));
        made.as_ref().ok()
    }

    /// Why a node is not a candidate.
    pub(super) fn failure(&self, nth: usize) -> Option<&Verdict> {
        let failure = self.made.get(nth)?.as_ref()?.as_ref().err()?;
        Some(&failure.verdict)
    }

    /// The plugins that refused the pod even without those that it may displace.
    pub fn refused_by(&self) -> Refused {
        let made = self.made.iter().flatten();
        let failures = made.filter_map(|made| made.as_ref().err());
        let plugins = failures.filter_map(|failure| failure.plugin);
        plugins.fold(Refused::NOBODY, Refused::and)
    }
}

/// A node whose pods are taken off and put back for a trial.
struct Trial<'a, 'b> {
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    node: Node,
    checks: &'a mut Checks<'b>,
}

impl Trial<'_, '_> {
    fn take(&mut self, pod: &Arc<Pod>) {
        self.node.remove(&pod.uid);
        moved(self.checks, pod, &self.node, false);
    }
    fn put(&mut self, pod: &Arc<Pod>) {
        self.node.add(pod.clone());
        moved(self.checks, pod, &self.node, true);
    }
    /// The place of the plugin that rejects the node now, and what it says.
    fn rejects(&mut self) -> Option<(usize, Verdict)> {
        filter_for(self.snapshot, self.pod, self.checks, &self.node)
    }

    /// Lets as many of these stay as possible, the first first; the others are victims. Says how
    /// many victims there are.
    fn spare<'p>(
        &mut self,
        pods: impl Iterator<Item = &'p Arc<Pod>>,
        victims: &mut Vec<Arc<Pod>>,
    ) -> usize {
        let before = victims.len();
        for pod in pods {
            self.put(pod);
            if self.rejects().is_some() {
                self.take(pod);
                victims.push(pod.clone());
            }
        }
        victims.len() - before
    }
}

/// The fewest and least important pods of lower priority without which the pod fits.
pub(super) fn victims_on(
    snapshot: &Snapshot,
    node: &Node,
    pod: &Pod,
    checks: &mut Checks<'_>,
) -> Result<Candidate, Failure> {
    if !node.has_lower(pod.priority) {
        return Err(Failure::NO_VICTIMS);
    }
    let (left, mut lesser) = node.without_lower(pod.priority);
    lesser.sort_by_key(importance);
    for victim in &lesser {
        moved(checks, victim, &left, false);
    }
    let mut trial = Trial {
        snapshot,
        pod,
        node: left,
        checks,
    };
    if let Some((plugin, verdict)) = trial.rejects() {
        lesser.iter().for_each(|p| trial.put(p));
        return Err(Failure {
            plugin: Some(plugin),
            verdict,
        });
    }
    let violated = snapshot.budgets().violated_by(&lesser);
    let of = |kind: bool| {
        let marked = lesser.iter().zip(&violated);
        marked.filter(move |(_, v)| **v == kind).map(|(p, _)| p)
    };
    let mut victims = Vec::new();
    let violations = trial.spare(of(true), &mut victims);
    trial.spare(of(false), &mut victims);
    victims.iter().for_each(|p| trial.put(p));
    if victims.is_empty() {
        return Err(Failure::NO_VICTIMS);
    }
    victims.sort_by_key(importance);
    Ok(Candidate::new(node.name.clone(), victims, violations))
}
