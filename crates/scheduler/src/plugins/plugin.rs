//! What a plugin is: it prepares a check for a pod, or says that it has nothing to say; the check
//! judges nodes and scores those that fit.

use std::borrow::Cow;

use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// The highest score that a check gives.
pub const MAX_SCORE: i64 = 100;

/// Changes of the cluster, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    pub const fn is_empty(self) -> bool {
        self.0 == 0
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

/// One rule.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// What may make a pod fit that this plugin rejected.
    fn wakes_on(&self) -> Events;
    /// None when it has nothing to say about this pod.
    fn prepare<'a>(&self, pod: &'a Pod, snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>>;
}

/// A rule applied to one pod.
pub trait Check {
    fn filter(&self, _node: &Node) -> Verdict {
        Verdict::Fits
    }
    /// For a trial another pod was put on this node (`came`) or taken off: a check that counts over
    /// several nodes counts anew. Each is undone by its opposite.
    fn moved(&mut self, _other: &Pod, _node: &Node, _came: bool) {}
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
