//! Why nodes were not taken, and what follows from it for all of them: the words of the pod's
//! condition, the plugins that stood in the way, and where less important pods might make room. That
//! is counted when somebody asks for it, and once for all decisions that share it.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::OnceLock;

use crate::message;
use crate::plugins::{Refused, Verdict};

/// The place of extenders among the plugins of a profile.
pub const EXTENDER: usize = usize::MAX;

/// Why a node was not taken.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The place of the node among [`crate::snapshot::Snapshot::slots`].
    pub node: usize,
    /// The place of the plugin in the profile.
    pub plugin: usize,
    pub verdict: Verdict,
}

/// The rejections of one decision; of one that found no node they are sorted by nodes.
#[derive(Clone, Debug, Default)]
pub struct Rejections {
    all: Vec<Rejection>,
    counted: OnceLock<Counted>,
}

#[derive(Clone, Debug, Default)]
struct Counted {
    /// How often each reason was given.
    reasons: BTreeMap<String, usize>,
    refused_by: Refused,
    /// Which of them would not be if other pods were not there.
    hopeful: Vec<usize>,
}

impl Deref for Rejections {
    type Target = [Rejection];

    fn deref(&self) -> &[Rejection] {
        &self.all
    }
}

impl Rejections {
    pub fn new(all: Vec<Rejection>) -> Self {
        Self {
            all,
            counted: OnceLock::new(),
        }
    }

    /// By nodes.
    pub fn sort(&mut self) {
        self.all.sort_by_key(|r| r.node);
        self.counted = OnceLock::new();
    }

    /// Which of them, once they are sorted, is of the node at this place.
    pub fn nth_of(&self, node: usize) -> Option<usize> {
        self.all.binary_search_by_key(&node, |r| r.node).ok()
    }

    /// Whether one of them says just this.
    pub fn says(&self, nth: usize, plugin: usize, verdict: &Verdict) -> bool {
        let rejection = self.all.get(nth);
        rejection.is_some_and(|r| r.plugin == plugin && r.verdict == *verdict)
    }

    /// What was found of that node since.
    pub fn set(&mut self, nth: usize, plugin: usize, verdict: Verdict) {
        if let Some(rejection) = self.all.get_mut(nth) {
            (rejection.plugin, rejection.verdict) = (plugin, verdict);
            self.counted = OnceLock::new();
        }
    }

    /// Take the place of what was said of the same nodes.
    pub fn put(&mut self, rejections: Vec<Rejection>) {
        let nodes: HashSet<usize> = rejections.iter().map(|r| r.node).collect();
        self.all.retain(|r| !nodes.contains(&r.node));
        self.all.extend(rejections);
        self.counted = OnceLock::new();
    }

    fn counted(&self) -> &Counted {
        self.counted.get_or_init(|| {
            let reasons = message::count(self.all.iter().flat_map(|r| r.verdict.reasons()));
            // What an extender would like to hear of, nobody knows.
            let refused_by = match self.all.iter().any(|r| r.plugin == EXTENDER) {
                true => Refused::EVERYBODY,
                false => {
                    let plugins = self.all.iter().map(|r| r.plugin);
                    plugins.fold(Refused::NOBODY, Refused::and)
                }
            };
            let hopeful = self.all.iter().enumerate();
            let hopeful = hopeful.filter(|(_, r)| matches!(r.verdict, Verdict::NotNow(_)));
            Counted {
                reasons: reasons
                    .into_iter()
                    .map(|(text, times)| (text.to_owned(), times))
                    .collect(),
                refused_by,
                hopeful: hopeful.map(|(nth, _)| nth).collect(),
            }
        })
    }

    /// The words for people, of a cluster with so many nodes.
    pub fn message(&self, nodes: usize) -> String {
        let reasons = self.counted().reasons.iter();
        message::counted(nodes, reasons.map(|(text, times)| (text.as_str(), *times)))
    }

    /// The plugins that stood in the way.
    pub fn refused_by(&self) -> Refused {
        self.counted().refused_by
    }

    /// Which of them are of nodes that would do if other pods were not there.
    pub fn hopeful(&self) -> &[usize] {
        &self.counted().hopeful
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::Reason;

    fn no(node: usize, plugin: usize, verdict: Verdict) -> Rejection {
        Rejection {
            node,
            plugin,
            verdict,
        }
    }

    #[test]
    fn what_is_counted_follows_each_change() {
        let full = || Verdict::NotNow(Reason::one("full"));
        let never = || Verdict::Never(Reason::one("never"));
        let mut all = Rejections::new(vec![no(7, 1, full()), no(2, 3, never()), no(4, 1, full())]);
        all.sort();
        assert_eq!((all.nth_of(4), all.nth_of(5)), (Some(1), None));
        assert_eq!(all.message(5), "0/5 nodes are available: 1 never, 2 full.");
        assert_eq!(all.hopeful(), [1, 2]);
        assert_eq!(all.refused_by(), Refused::NOBODY.and(1).and(3));
        all.set(1, 3, never());
        assert_eq!(all.message(5), "0/5 nodes are available: 1 full, 2 never.");
        assert_eq!(all.hopeful(), [2]);
        all.put(vec![no(2, EXTENDER, full())]);
        assert_eq!(all.len(), 3);
        assert!(all.refused_by().is_everybody());
    }
}
