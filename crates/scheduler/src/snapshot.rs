//! The state of the cluster that decisions are made on. It is changed in place by what the
//! informers report and by assumptions; a pod counts on its node from the decision on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use api::selector::LabelSelector;

use crate::budgets::Budgets;
use crate::devices::Devices;
use crate::gangs::Gangs;
use crate::interned::Labels;
use crate::node::{Node, Offer};
use crate::pod::Pod;
use crate::selector_terms::PodTerm;
use crate::selectors::Selectors;
use crate::storage::Storage;
use crate::tally::{self, Questions, Sets, Terms, Values};

struct Placement {
    node: Arc<str>,
    /// Decided, not yet seen in the API.
    assumed: bool,
    pod: Arc<Pod>,
}

/// So many changes of nodes, at least, are remembered; to who knows only what was before, all may be
/// different.
const CHANGES: usize = 1_024;

/// What has happened, for those who keep what they found of nodes.
#[derive(Default)]
struct Changes {
    /// Places of nodes where something happened, the latest last.
    nodes: Vec<usize>,
    /// How much happened before the first of these.
    before: usize,
}

impl Changes {
    fn of_node(&mut self, at: usize) {
        if self.nodes.len() >= 2 * CHANGES {
            self.nodes.drain(..CHANGES);
            self.before += CHANGES;
        }
        self.nodes.push(at);
    }

    fn of_all(&mut self) {
        self.before += self.nodes.len() + 1;
        self.nodes.clear();
    }

    fn mark(&self) -> usize {
        self.before + self.nodes.len()
    }

    fn since(&self, mark: usize) -> Option<&[usize]> {
        self.nodes.get(mark.checked_sub(self.before)?..)
    }
}

/// Nodes, the pods on them, and counts that let plugins see at once that they have nothing to do.
#[derive(Default)]
pub struct Snapshot {
    nodes: Vec<Node>,
    by_name: HashMap<Arc<str>, usize>,
    pods: HashMap<Arc<str>, Placement>,
    /// How many of them are assumed.
    assumed: usize,
    /// Pods for which room is made, by node: few at any time.
    nominated: HashMap<Arc<str>, Vec<Arc<Pod>>>,
    /// Where room is made for a pod, by its UID.
    nominations: HashMap<Arc<str>, Arc<str>>,
    /// Pods that were asked to make room, by their UIDs, and for whom: the API may not show it yet.
    asked: HashMap<Arc<str>, Arc<str>>,
    budgets: Budgets,
    storage: Storage,
    devices: Devices,
    gangs: Gangs,
    namespaces: HashMap<Arc<str>, Labels>,
    /// On how many nodes an image is.
    images: HashMap<Arc<str>, usize>,
    live: usize,
    tainted: usize,
    softly_tainted: usize,
    unschedulable: usize,
    changes: Changes,
    selectors: Selectors,
    terms: Terms,
    questions: Questions,
    sets: Sets,
}

impl Snapshot {
    /// All nodes, also those that do not exist any more but have pods.
    pub fn slots(&self) -> &[Node] {
        &self.nodes
    }
    /// The nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.exists)
    }
    /// How many nodes exist.
    pub fn len(&self) -> usize {
        self.live
    }
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
    /// How many pods are on nodes, and of how many that is only assumed.
    pub fn placed(&self) -> (usize, usize) {
        (self.pods.len(), self.assumed)
    }
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name).and_then(|i| self.nodes.get(*i))
    }
    /// The place of a node among [`Snapshot::slots`].
    pub fn slot_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
    pub fn any_taints(&self) -> bool {
        self.tainted > 0
    }
    /// Whether there are taints that keep pods off only where there are other nodes.
    pub fn any_soft_taints(&self) -> bool {
        self.softly_tainted > 0
    }
    pub fn any_unschedulable(&self) -> bool {
        self.unschedulable > 0
    }
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }
    /// What pods on nodes say about which pods they want to be with.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }
    /// Where the pods are that all terms of a list mean: for each term by values of its label.
    pub fn ask(&self, terms: &[Arc<PodTerm>]) -> Cow<'_, [Values]> {
        match self.questions.answer(terms) {
            Some(known) => Cow::Borrowed(known),
            None => Cow::Owned(tally::ask(terms, &self.nodes, |n| self.namespace_labels(n))),
        }
    }
    /// [`Snapshot::ask`] costs nothing from now on.
    pub fn keep_answer(&mut self, terms: &[Arc<PodTerm>]) {
        let namespaces = &self.namespaces;
        self.questions
            .keep(terms, &self.nodes, |n| namespaces.get(n));
    }
    /// The place in nodes' counts of these pods of a namespace, if they are counted.
    pub fn counted(&self, namespace: &str, selector: &LabelSelector) -> Option<usize> {
        self.sets.place(namespace, selector)
    }
    /// [`Snapshot::counted`] knows them from now on.
    pub fn keep_count(&mut self, namespace: &Arc<str>, selector: &LabelSelector) {
        self.sets.keep(namespace, selector, &mut self.nodes);
    }
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }
    pub fn selectors_mut(&mut self) -> &mut Selectors {
        self.changes.of_all();
        &mut self.selectors
    }
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }
    pub fn set_namespace(&mut self, name: Arc<str>, labels: Option<Labels>) {
        if self.namespaces.get(&name) != labels.as_ref() {
            self.changes.of_all();
            self.questions.forget();
        }
        match labels {
            Some(labels) => self.namespaces.insert(name, labels),
            None => self.namespaces.remove(&name),
        };
    }

    /// How much has happened so far, for [`Snapshot::changed_since`].
    pub fn mark(&self) -> usize {
        self.changes.mark()
    }
    /// The places of nodes to which pods came, from which they went, or where room began or ceased to be
    /// made for one, since this mark; none where something else has happened that decisions may depend
    /// on, or too much.
    pub fn changed_since(&self, mark: usize) -> Option<&[usize]> {
        self.changes.since(mark)
    }

    /// Where a pod is, and whether that is only assumed.
    pub fn place(&self, uid: &str) -> Option<(&Arc<str>, bool)> {
        self.pods.get(uid).map(|p| (&p.node, p.assumed))
    }
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid).map(|p| &p.pod)
    }

    /// Pods for which room is made on this node.
    pub fn nominated_on(&self, node: &str) -> &[Arc<Pod>] {
        if self.nominated.is_empty() {
            return &[];
        }
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }
    /// Those of them that count for a pod: others of the same or a higher priority.
    pub fn nominated_before<'a>(
        &'a self,
        node: &str,
        pod: &'a Pod,
    ) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        let coming = self.nominated_on(node).iter();
        coming.filter(move |p| p.uid != pod.uid && p.priority >= pod.priority)
    }
    /// The node where room is made for this pod.
    pub fn nomination(&self, uid: &str) -> Option<&Arc<str>> {
        self.nominations.get(uid)
    }
    /// Whether room is made for any pod.
    pub fn any_nominations(&self) -> bool {
        !self.nominations.is_empty()
    }
    /// Gives the node where room was made for the pod before, and the pod as it was then.
    pub fn nominate(&mut self, node: Arc<str>, pod: Arc<Pod>) -> Option<(Arc<str>, Arc<Pod>)> {
        let before = self.end_nomination(&pod.uid);
        self.room_changes(&node);
        self.nominations.insert(pod.uid.clone(), node.clone());
        self.nominated.entry(node).or_default().push(pod);
        before
    }
    /// Gives the node where room was made for the pod, and the pod as it was then.
    pub fn end_nomination(&mut self, uid: &str) -> Option<(Arc<str>, Arc<Pod>)> {
        let node = self.nominations.remove(uid)?;
        self.room_changes(&node);
        let pods = self.nominated.get_mut(&node)?;
        let at = pods.iter().position(|p| *p.uid == *uid)?;
        let pod = pods.remove(at);
        if pods.is_empty() {
            self.nominated.remove(&node);
        }
        Some((node, pod))
    }

    /// These are asked to make room for a pod.
    pub fn ask_to_go(&mut self, victims: &[Arc<Pod>], for_whom: &Arc<str>) {
        for victim in victims {
            if self.pods.contains_key(&victim.uid) {
                self.asked.insert(victim.uid.clone(), for_whom.clone());
            }
        }
    }
    /// Nobody may be about to go any more because of this pod. Gives the nodes of those who were.
    pub fn nobody_goes_for(&mut self, uid: &str) -> Vec<Arc<str>> {
        let (pods, mut nodes) = (&self.pods, Vec::new());
        self.asked.retain(|victim, for_whom| {
            let stays = **for_whom != *uid;
            if !stays {
                nodes.extend(pods.get(victim).map(|place| place.node.clone()));
            }
            stays
        });
        nodes
    }
    /// This pod has gone.
    pub fn has_gone(&mut self, uid: &str) {
        self.asked.remove(uid);
    }
    /// Whether a pod is about to go to make room.
    pub fn makes_room(&self, pod: &Pod) -> bool {
        pod.preempted || self.asked.contains_key(&pod.uid)
    }

    /// The pods for which room is made on a node become others.
    fn room_changes(&mut self, node: &str) {
        if let Some(at) = self.slot_of(node) {
            self.changes.of_node(at);
        }
    }

    pub fn devices(&self) -> &Devices {
        &self.devices
    }
    pub fn devices_mut(&mut self) -> &mut Devices {
        self.changes.of_all();
        &mut self.devices
    }
    pub fn gangs(&self) -> &Gangs {
        &self.gangs
    }
    pub fn gangs_mut(&mut self) -> &mut Gangs {
        self.changes.of_all();
        &mut self.gangs
    }
    pub fn storage(&self) -> &Storage {
        &self.storage
    }
    pub fn storage_mut(&mut self) -> &mut Storage {
        self.changes.of_all();
        &mut self.storage
    }
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }
    pub fn budgets_mut(&mut self) -> &mut Budgets {
        &mut self.budgets
    }

    fn slot(&mut self, name: &Arc<str>) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        self.nodes.push(Node::unknown(name.clone()));
        let at = self.nodes.len() - 1;
        self.by_name.insert(name.clone(), at);
        at
    }

    /// Adds or takes away what the node adds to the counts.
    fn count(&mut self, at: usize, add: bool) {
        let Some(node) = self.nodes.get(at).filter(|n| n.exists) else {
            return;
        };
        let step = |n: &mut usize, yes: bool| {
            let by = usize::from(yes);
            *n = if add { *n + by } else { n.saturating_sub(by) };
        };
        step(&mut self.live, true);
        step(&mut self.tainted, !node.taints.is_empty());
        step(&mut self.softly_tainted, node.has_soft_taints());
        step(&mut self.unschedulable, node.unschedulable);
        for image in node.images.keys() {
            let on = self.images.entry(image.clone()).or_default();
            step(on, true);
            if *on == 0 {
                self.images.remove(image);
            }
        }
    }

    pub fn set_node(&mut self, name: &Arc<str>, offer: Offer) {
        let at = self.slot(name);
        if self.nodes.get(at).is_some_and(|n| n.offers(&offer)) {
            return;
        }
        self.changes.of_all();
        self.count(at, false);
        let moves = self.nodes.get(at).is_some_and(|n| n.labels != offer.labels);
        if moves {
            self.count_terms(at, false);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.set(offer);
        }
        if moves {
            self.count_terms(at, true);
        }
        self.count(at, true);
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else {
            return;
        };
        self.changes.of_all();
        self.count(at, false);
        self.count_terms(at, false);
        if let Some(node) = self.nodes.get_mut(at) {
            node.exists = false;
            // Its pods are nowhere as long as it is away.
            node.labels = Labels::default();
        }
        self.drop_empty(at);
    }

    /// Adds or takes away what the pods of a node say about others there.
    fn count_terms(&mut self, at: usize, add: bool) {
        let Some(node) = self.nodes.get(at).filter(|n| !n.pods.is_empty()) else {
            return;
        };
        for pod in &node.pods {
            self.terms.moved(pod, &node.labels, add);
        }
        self.questions.forget();
    }

    /// Forgets a node that does not exist and has no pods.
    fn drop_empty(&mut self, at: usize) {
        if !self
            .nodes
            .get(at)
            .is_some_and(|n| !n.exists && n.pods.is_empty())
        {
            return;
        }
        // Another node gets its place.
        self.changes.of_all();
        let gone = self.nodes.swap_remove(at);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    fn put(&mut self, node: &Arc<str>, pod: Arc<Pod>, assumed: bool) {
        self.remove_pod(&pod.uid);
        let at = self.slot(node);
        if let Some(slot) = self.nodes.get_mut(at) {
            slot.add(pod.clone());
        }
        self.moved(&pod, at, true);
        let place = Placement {
            node: node.clone(),
            assumed,
            pod: pod.clone(),
        };
        self.pods.insert(pod.uid.clone(), place);
        self.assumed += usize::from(assumed);
    }

    /// What is counted about pods, when one came to a node or left it.
    fn moved(&mut self, pod: &Pod, at: usize, came: bool) {
        self.changes.of_node(at);
        self.storage.uses(pod, came);
        let Some(node) = self.nodes.get_mut(at) else {
            return;
        };
        self.sets.moved(pod, node, came);
        self.terms.moved(pod, &node.labels, came);
        let namespaces = &self.namespaces;
        self.questions
            .moved(pod, &node.labels, came, |n| namespaces.get(n));
    }

    /// Counts the pod on the node from now on. What the API says outranks an assumption: a pod
    /// that was seen bound stays where it is.
    pub fn assume(&mut self, node: &Arc<str>, pod: Arc<Pod>) {
        if self.pods.get(&pod.uid).is_none_or(|p| p.assumed) {
            self.put(node, pod, true);
        }
    }

    /// The API shows the pod on this node. This confirms an assumption or corrects it.
    pub fn observe(&mut self, node: &Arc<str>, pod: Arc<Pod>) {
        self.put(node, pod, false);
    }

    /// Only an assumption is taken back: a pod that was seen bound stays.
    pub fn forget(&mut self, uid: &str) -> bool {
        let assumed = self.pods.get(uid).is_some_and(|p| p.assumed);
        assumed && self.remove_pod(uid)
    }

    /// The pod is gone, or has run to its end.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(place) = self.pods.remove(uid) else {
            return false;
        };
        self.assumed -= usize::from(place.assumed);
        if let Some(at) = self.by_name.get(&place.node).copied() {
            if let Some(node) = self.nodes.get_mut(at) {
                node.remove(uid);
            }
            self.moved(&place.pod, at, false);
            self.drop_empty(at);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_looked_for_long_may_not_know_a_node_any_more() {
        let mut changes = Changes::default();
        let first = changes.mark();
        assert_eq!(changes.since(first), Some(&[][..]));
        changes.of_node(3);
        let second = changes.mark();
        changes.of_node(5);
        assert_eq!(changes.since(first), Some(&[3, 5][..]));
        assert_eq!(changes.since(second), Some(&[5][..]));
        for _ in 0..2 * CHANGES {
            changes.of_node(7);
        }
        assert_eq!(changes.since(first), None);
        let late = changes.mark() - CHANGES;
        assert_eq!(changes.since(late).map(<[usize]>::len), Some(CHANGES));
        let third = changes.mark();
        changes.of_all();
        assert_eq!(changes.since(third), None);
        assert_eq!(changes.since(changes.mark()), Some(&[][..]));
    }
}
