//! A plugin that a profile asks in some phases only.

use std::sync::Arc;

use crate::node::Node;
use crate::plugins::{About, Check, Events, Plugin, Prepare, Ready, Reason, Verdict, Write};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// A set of phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    pub const NONE: Self = Self(0);
    pub const QUEUE: Self = Self(1);
    pub const FILTER: Self = Self(2);
    pub const SCORE: Self = Self(4);
    pub const RESERVE: Self = Self(8);
    pub const PERMIT: Self = Self(16);
    pub const PRE_BIND: Self = Self(32);
    pub const BIND: Self = Self(64);
    pub const PREEMPT: Self = Self(128);
    pub const ALL: Self = Self(255);

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

pub struct Partly {
    whole: Box<dyn Plugin>,
    phases: Phases,
}

impl Partly {
    /// The plugin itself, where all phases are wanted.
    pub fn of(whole: Box<dyn Plugin>, phases: Phases) -> Box<dyn Plugin> {
        if phases == Phases::ALL {
            return whole;
        }
        Box::new(Self { whole, phases })
    }
}

struct Half<'a> {
    check: Box<dyn Check + 'a>,
    phases: Phases,
}

impl Plugin for Partly {
    fn name(&self) -> &'static str {
        self.whole.name()
    }
    fn wakes_on(&self) -> Events {
        self.whole.wakes_on()
    }
    fn is_local(&self) -> bool {
        self.whole.is_local()
    }
    fn helps(&self, pod: &Pod, about: About<'_>, snapshot: &Snapshot) -> bool {
        self.whole.helps(pod, about, snapshot)
    }
    fn heeds(&self, pod: &Pod, other: &Pod, snapshot: &Snapshot) -> bool {
        self.whole.heeds(pod, other, snapshot)
    }
    fn gate(&self, pod: &Pod) -> Option<Reason> {
        let asked = self.phases.meets(Phases::QUEUE);
        asked.then(|| self.whole.gate(pod)).flatten()
    }
    fn index(&self, pod: &Pod, on: &mut Snapshot) {
        self.whole.index(pod, on);
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        let phases = self.phases;
        if !phases.meets(Phases::FILTER.with(Phases::SCORE)) {
            return Ok(None);
        }
        match self.whole.prepare(pod, snapshot) {
            Ok(check) => {
                let check = check.map(|check| Box::new(Half { check, phases }) as Box<dyn Check>);
                Ok(check)
            }
            Err(reason) if phases.meets(Phases::FILTER) => Err(reason),
            Err(_) => Ok(None),
        }
    }
    fn reserve(&self, pod: &Pod, node: &Arc<str>, on: &mut Snapshot) -> Result<(), Reason> {
        if !self.phases.meets(Phases::RESERVE) {
            return Ok(());
        }
        self.whole.reserve(pod, node, on)
    }
    fn unreserve(&self, pod: &Pod, on: &mut Snapshot) {
        self.whole.unreserve(pod, on);
    }
    fn permit(&self, pod: &Pod, node: &Node, snapshot: &Snapshot) -> Ready {
        if !self.phases.meets(Phases::PERMIT) {
            return Ready::Yes;
        }
        self.whole.permit(pod, node, snapshot)
    }
    fn pre_bind(&self, pod: &Pod, node: &Node, snapshot: &Snapshot) -> Vec<Write> {
        if !self.phases.meets(Phases::PRE_BIND) {
            return Vec::new();
        }
        self.whole.pre_bind(pod, node, snapshot)
    }
    fn is_bindable(&self, pod: &Pod, node: &Node, snapshot: &Snapshot) -> Ready {
        if !self.phases.meets(Phases::PRE_BIND) {
            return Ready::Yes;
        }
        self.whole.is_bindable(pod, node, snapshot)
    }
    fn patience_ms(&self) -> u64 {
        self.whole.patience_ms()
    }
    fn permit_patience_ms(&self) -> u64 {
        self.whole.permit_patience_ms()
    }
    fn give_up(&self, pod: &Pod, snapshot: &Snapshot) -> Vec<Write> {
        if !self.phases.meets(Phases::PREEMPT) {
            return Vec::new();
        }
        self.whole.give_up(pod, snapshot)
    }
    fn bind(&self, pod: &Pod, node: &Arc<str>) -> Option<Write> {
        let asked = self.phases.meets(Phases::BIND);
        asked.then(|| self.whole.bind(pod, node)).flatten()
    }
}

impl Check for Half<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        if !self.phases.meets(Phases::FILTER) {
            return Verdict::Fits;
        }
        self.check.filter(node)
    }
    fn advice(&self, node: &Node) -> Option<String> {
        self.check.advice(node)
    }
    fn moved(&mut self, other: &Pod, node: &Node, came: bool) {
        self.check.moved(other, node, came);
    }
    fn only(&self) -> Option<Vec<Arc<str>>> {
        let asked = self.phases.meets(Phases::FILTER);
        asked.then(|| self.check.only()).flatten()
    }
    fn is_steady(&self) -> bool {
        self.check.is_steady()
    }
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        self.phases.meets(Phases::SCORE) && self.check.score(nodes, scores)
    }
}
