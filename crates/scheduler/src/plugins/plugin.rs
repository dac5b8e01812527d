//! What a plugin is: it prepares a check for a pod, or says that it has nothing to say; the check
//! judges nodes and scores those that fit. What else a plugin may do on a pod's way to its node has
//! a method each, which does nothing unless a plugin says so.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};

use crate::devices::ExtendedClaim;
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;
use crate::storage::Claim;

/// The highest score that a check gives.
pub const MAX_SCORE: i64 = 100;

/// Changes of the cluster, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    pub const NONE: Self = Self(0);
    /// A node came.
    pub const NODE_ADDED: Self = Self(1);
    pub const NODE_LABELS: Self = Self(2);
    /// Taints, or whether it is unschedulable.
    pub const NODE_TAINTS: Self = Self(4);
    pub const NODE_RESOURCES: Self = Self(8);
    /// A pod on a node came, or changed its labels.
    pub const POD_ADDED: Self = Self(16);
    /// A pod left its node, or asks for less.
    pub const POD_REMOVED: Self = Self(32);
    pub const NAMESPACE_LABELS: Self = Self(64);
    pub const CLAIMS: Self = Self(128);
    /// Volumes, classes, and what drivers say about nodes.
    pub const STORAGE: Self = Self(256);
    /// Slices of devices.
    pub const DEVICES: Self = Self(512);
    pub const DEVICE_CLAIMS: Self = Self(1024);
    /// What a node declares to have.
    pub const NODE_FEATURES: Self = Self(2048);
    /// Groups of pods, and pods that name one.
    pub const POD_GROUPS: Self = Self(4096);
    /// Classes of devices, which may stand for an extended resource.
    pub const DEVICE_CLASSES: Self = Self(8192);
    pub const ALL: Self = Self(u16::MAX);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Those that are not of the other set.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Those that are of the other set, too.
    pub const fn among(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The first of these in figures: upstream's word where it has one for as much.
    pub fn label(self) -> &'static str {
        let known = [
            (Self::NODE_ADDED, "NodeAdd"),
            (Self::NODE_LABELS, "NodeUpdateNodeLabel"),
            (Self::NODE_TAINTS, "NodeUpdateNodeTaint"),
            (Self::NODE_RESOURCES, "NodeUpdateNodeAllocatable"),
            (Self::NODE_FEATURES, "NodeUpdateNodeDeclaredFeature"),
            (Self::POD_GROUPS, "PodGroupAdd"),
            (Self::POD_ADDED, "AssignedPodAdd"),
            (Self::POD_REMOVED, "AssignedPodDelete"),
            (Self::NAMESPACE_LABELS, "NamespaceUpdate"),
            (Self::CLAIMS, "PersistentVolumeClaimUpdate"),
            (Self::STORAGE, "StorageAll"),
            (Self::DEVICES, "DevicesAll"),
            (Self::DEVICE_CLASSES, "resource.k8s.io/DeviceClassUpdate"),
            (Self::DEVICE_CLAIMS, "resource.k8s.io/ResourceClaimUpdate"),
        ];
        let first = known.iter().find(|(event, _)| self.meets(*event));
        first.map_or("*All", |(_, label)| *label)
    }
}

/// Which plugins of a profile refused a pod, by their places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refused(u64);

impl Refused {
    pub const NOBODY: Self = Self(0);
    /// Which pod it was does not matter: whatever may help anybody.
    pub const EVERYBODY: Self = Self(u64::MAX);

    /// Places above the last bit share it, so that none is forgotten.
    const fn bit(place: usize) -> u64 {
        1 << (if place < 63 { place } else { 63 })
    }
    #[must_use]
    pub const fn and(self, place: usize) -> Self {
        Self(self.0 | Self::bit(place))
    }
    /// Those of either.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
    pub const fn has(self, place: usize) -> bool {
        self.0 & Self::bit(place) != 0
    }
    pub const fn is_everybody(self) -> bool {
        self.0 == u64::MAX
    }
}

/// Why a node is not fit: one or several short texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Texts);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Texts {
    One(&'static str),
    Many(Vec<Cow<'static, str>>),
}

impl Reason {
    pub const fn one(text: &'static str) -> Self {
        Self(Texts::One(text))
    }
    pub fn text(text: String) -> Self {
        Self(Texts::Many(vec![text.into()]))
    }
    pub fn many(texts: Vec<Cow<'static, str>>) -> Self {
        Self(Texts::Many(texts))
    }
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match &self.0 {
            Texts::One(text) => (Some(*text), &[][..]),
            Texts::Many(texts) => (None, texts.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|t| &**t))
    }
}

/// What a check says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// It would fit if other pods were not there.
    NotNow(Reason),
    /// It would not fit if the node were empty.
    Never(Reason),
}

impl Verdict {
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::Fits => None,
            Self::NotNow(reason) | Self::Never(reason) => Some(reason),
        }
        .into_iter()
        .flat_map(Reason::texts)
    }
}

/// What an event is about, as far as that is known.
#[derive(Clone, Copy)]
pub enum About<'a> {
    /// This node, or the pods on it.
    Node(&'a Node),
    /// This claim, as `namespace/name`.
    Claim(&'a str),
    Anything,
}

impl About<'_> {
    /// False for an event about a claim that is not one of the pod's.
    pub fn may_be_a_claim_of(self, pod: &Pod) -> bool {
        match self {
            Self::Claim(key) => pod.wants.claims.iter().any(|c| *c.key == *key),
            Self::Node(_) | Self::Anything => true,
        }
    }
}

/// Whether a pod that has a node may go on to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    Yes,
    /// It is asked again after each event, up to [`Plugin::permit_patience_ms`] or
    /// [`Plugin::patience_ms`].
    Not,
    /// It will not be: the pod looks for another node.
    Never(String),
}

/// What is written before a pod is bound, and the binding itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The volume becomes the claim's; `version` is the volume's that was seen.
    BindVolume {
        volume: Arc<str>,
        version: String,
        claim: Arc<Claim>,
    },
    /// A volume for the claim is to be made for the node.
    SelectNode {
        claim: Arc<Claim>,
        node: Arc<str>,
    },
    /// The claim gets these devices, where it has none yet, and the pod (name and UID) may use it.
    ReserveClaim {
        claim: Arc<ResourceClaim>,
        allocation: Option<Arc<AllocationResult>>,
        pod: (String, String),
    },
    /// The claim gives its devices back.
    FreeClaim {
        claim: Arc<ResourceClaim>,
    },
    /// The claim of a pod's extended resources (name and UID) is made, with its devices.
    MakeClaim {
        made: Arc<ExtendedClaim>,
        allocation: Arc<AllocationResult>,
        pod: (String, String),
    },
    /// Such a claim goes: the pod was not bound.
    RemoveClaim {
        claim: Arc<ResourceClaim>,
    },
    BindPod {
        node: Arc<str>,
    },
}

/// One rule. It takes part in those phases of a pod's way to a node that it says something about:
///
/// ```text
/// queue ─→ prepare, filter, score ─→ reserve ─→ permit ─→ pre-bind ─→ bind
///   ↑ wakes_on, helps   │ no node       └─────────┴─ no ─────┘ unreserve
///   └───────────────────┴─────────────────────────────────────┘
/// ```
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// What may make a pod fit that this plugin rejected.
    fn wakes_on(&self) -> Events;
    /// Whether what it says of a node depends on that node alone: what happens elsewhere is not
    /// a reason to try again.
    fn is_local(&self) -> bool {
        false
    }
    /// Whether an event of [`Plugin::wakes_on`] may help this pod. Room that is made on a node for others
    /// of the same or a higher priority is theirs.
    fn helps(&self, pod: &Pod, about: About<'_>, snapshot: &Snapshot) -> bool {
        let About::Node(node) = about else {
            return true;
        };
        if !self.is_local() {
            return true;
        }
        match self.prepare(pod, snapshot) {
            Ok(Some(check)) => lets_in(&*check, pod, node, snapshot),
            Ok(None) => true,
            Err(_) => false,
        }
    }
    /// Whether it may matter to a pod that this plugin refused that another one came to a node, left it, or
    /// is or was such a one there.
    fn heeds(&self, _pod: &Pod, _other: &Pod, _snapshot: &Snapshot) -> bool {
        true
    }
    /// Why the pod is not to be tried before it is changed.
    fn gate(&self, _pod: &Pod) -> Option<Reason> {
        None
    }
    /// Before a decision: has counted from now on what it asks for about such pods.
    fn index(&self, _pod: &Pod, _on: &mut Snapshot) {}
    /// None when it has nothing to say about this pod.
    ///
    /// # Errors
    /// Why the pod can be on no node at all.
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a>;
    /// The pod gets this node: takes for it what is counted elsewhere than on the node.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn reserve(&self, _pod: &Pod, _node: &Arc<str>, _on: &mut Snapshot) -> Result<(), Reason> {
        Ok(())
    }
    /// The pod is bound, or does not get the node: gives back what was reserved, if anything.
    fn unreserve(&self, _pod: &Pod, _on: &mut Snapshot) {}
    /// Whether the pod may be bound now.
    fn permit(&self, _pod: &Pod, _node: &Node, _snapshot: &Snapshot) -> Ready {
        Ready::Yes
    }
    /// What must be written before the pod is bound.
    fn pre_bind(&self, _pod: &Pod, _node: &Node, _snapshot: &Snapshot) -> Vec<Write> {
        Vec::new()
    }
    /// Whether what was written has had its effect.
    fn is_bindable(&self, _pod: &Pod, _node: &Node, _snapshot: &Snapshot) -> Ready {
        Ready::Yes
    }
    /// How long a pod waits, once it is permitted, for this plugin's [`Ready::Yes`] to its binding.
    fn patience_ms(&self) -> u64 {
        600_000
    }
    /// How long it waits for this plugin's permission.
    fn permit_patience_ms(&self) -> u64 {
        u64::MAX
    }
    /// No node fits: what is to be written so that the next try may find one.
    fn give_up(&self, _pod: &Pod, _snapshot: &Snapshot) -> Vec<Write> {
        Vec::new()
    }
    /// How the pod is bound; the first plugin that says so does it.
    fn bind(&self, _pod: &Pod, _node: &Arc<str>) -> Option<Write> {
        None
    }
}

/// Whether a check of one node alone lets a pod in, also when those are there for whom room is made.
fn lets_in(check: &dyn Check, pod: &Pod, node: &Node, snapshot: &Snapshot) -> bool {
    if check.filter(node) != Verdict::Fits {
        return false;
    }
    let mut coming = snapshot.nominated_before(&node.name, pod).peekable();
    if coming.peek().is_none() {
        return true;
    }
    let mut with = node.clone();
    coming.for_each(|other| with.add(other.clone()));
    check.filter(&with) == Verdict::Fits
}

/// What [`Plugin::prepare`] gives.
pub type Prepare<'a> = Result<Option<Box<dyn Check + 'a>>, Reason>;

/// A rule applied to one pod.
pub trait Check {
    fn filter(&self, _node: &Node) -> Verdict {
        Verdict::Fits
    }
    /// For a trial another pod was put on this node (`came`) or taken off: a check that counts over
    /// several nodes counts again. Each is undone by its opposite.
    fn moved(&mut self, _other: &Pod, _node: &Node, _came: bool) {}
    /// Of a node that it rejects: the smallest change that would let the pod in, for people.
    fn advice(&self, _node: &Node) -> Option<String> {
        None
    }
    /// The only nodes that may fit, where few do: the others need not be asked.
    fn only(&self) -> Option<Vec<Arc<str>>> {
        None
    }
    /// Whether what it says of a node, and the score, follow from the pod and that node alone: then both
    /// hold for equal pods until something happens there, whatever other nodes are scored with it.
    fn is_steady(&self) -> bool {
        false
    }
    /// Gives each of the nodes a score from 0 to [`MAX_SCORE`]; false when it has none to give.
    fn score(&self, _nodes: &[&Node], _scores: &mut [i64]) -> bool {
        false
    }
}

/// Scales scores so that the greatest becomes [`MAX_SCORE`]; `reversed`, so that it becomes 0.
pub(super) fn normalize(scores: &mut [i64], reversed: bool) {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let part = if most > 0 {
            *score * MAX_SCORE / most
        } else {
            0
        };
        *score = if reversed { MAX_SCORE - part } else { part };
    }
}
