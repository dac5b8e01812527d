//! Extenders: programs outside that have a say in where pods go, asked over HTTP. What they are and
//! what their answers mean is here, without I/O; [`http`] asks them. As upstream, one pod is asked
//! about at a time, and no other is decided meanwhile.

pub mod http;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::pod::Pod;
use crate::preempt::Candidate;

/// The greatest score that an extender gives.
const MOST_POINTS: i64 = 10;

/// How an extender is reached over TLS; PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Its certificate is not looked at.
    pub insecure: bool,
    pub server_name: Option<String>,
    /// Data outranks the file of the same; the shell reads files.
    pub certificate: Source,
    pub key: Source,
    pub authorities: Source,
}

/// Where something in PEM is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    #[default]
    None,
    File(String),
    Data(Vec<u8>),
}

/// An extender as the configuration has it. A verb that is empty is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extender {
    /// Before each verb.
    pub url: String,
    pub filter: String,
    pub prioritize: String,
    pub preempt: String,
    pub bind: String,
    pub weight: i64,
    pub timeout_ms: u64,
    /// It knows the nodes: it gets their names alone.
    pub knows_nodes: bool,
    /// Only pods that ask for one of these concern it; without any, all.
    pub managed: Vec<String>,
    /// Where it does not answer, the decision goes on without it.
    pub ignorable: bool,
    pub https: bool,
    pub tls: Tls,
}

impl Extender {
    pub fn is_interested(&self, pod: &Pod) -> bool {
        let mut asks = self.managed.iter();
        self.managed.is_empty() || asks.any(|name| pod.request.other(name) != 0)
    }
    fn judges_nodes(&self) -> bool {
        !self.filter.is_empty() || !self.prioritize.is_empty()
    }
}

/// What is asked before a decision can be made.
#[derive(Debug)]
pub enum Question {
    /// Which of these nodes, where the pod fits, are good, and how good.
    Nodes { pod: Arc<Pod>, nodes: Vec<Arc<str>> },
    /// Whose room may be taken.
    Victims {
        pod: Arc<Pod>,
        candidates: Vec<Arc<Candidate>>,
    },
}

/// What the extenders say of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    pub good: BTreeSet<Arc<str>>,
    pub refused: BTreeMap<Arc<str>, No>,
    /// On the scale of the plugins, weighted.
    pub scores: BTreeMap<Arc<str>, i64>,
}

/// Why an extender refused a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct No {
    pub why: String,
    /// No preemption would change it.
    pub never: bool,
}

impl Opinion {
    /// One extender's points for nodes, added to those of the others.
    fn add(&mut self, extender: &Extender, points: impl Iterator<Item = (String, i64)>) {
        let scale = crate::plugins::MAX_SCORE / MOST_POINTS;
        for (node, points) in points {
            let score = points.saturating_mul(extender.weight).saturating_mul(scale);
            let sum = self.scores.entry(node.into()).or_default();
            *sum = sum.saturating_add(score);
        }
    }
}

/// A node on which these pods, by their UIDs, may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub node: String,
    pub victims: Vec<String>,
    /// Victims whose budget does not allow it.
    pub violations: usize,
}

impl Chosen {
    pub fn of(candidate: &Candidate) -> Self {
        Self {
            node: candidate.node.to_string(),
            victims: candidate
                .victims
                .iter()
                .map(|v| v.uid.to_string())
                .collect(),
            violations: candidate.violations,
        }
    }
}

/// Whether somebody has to be asked about where a pod fits.
pub fn ask_about_nodes(extenders: &[Extender], pod: &Pod) -> bool {
    let mut all = extenders.iter();
    all.any(|e| e.judges_nodes() && e.is_interested(pod))
}

/// Whether somebody has to be asked about victims.
pub fn ask_about_victims(extenders: &[Extender], pod: &Pod) -> bool {
    let mut all = extenders.iter();
    all.any(|e| !e.preempt.is_empty() && e.is_interested(pod))
}
