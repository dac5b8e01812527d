//! The pods that wait after a try: how long, and which of them may be taken before that is over.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long a pod waits after tries.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    pub first_back_off_ms: u64,
    pub longest_back_off_ms: u64,
    /// An unschedulable pod is tried again after this even if nothing happened.
    pub flush_ms: u64,
}

impl Default for Waits {
    /// Upstream's.
    fn default() -> Self {
        Self {
            first_back_off_ms: 1_000,
            longest_back_off_ms: 10_000,
            flush_ms: 300_000,
        }
    }
}

impl Waits {
    /// The wait after so many tries.
    pub fn after(&self, tries: u32) -> u64 {
        let doublings = tries.saturating_sub(1).min(20);
        self.first_back_off_ms
            .saturating_mul(1 << doublings)
            .min(self.longest_back_off_ms)
    }
}

/// Upstream's: so that of pods that were woken together the more important gets the room.
const EARLY_WINDOW_MS: u64 = 1_000;

/// Of those that are due within a second of one another the more important first.
type EarlyRank = (u64, Reverse<i32>, u64, Arc<str>);

fn early_rank(due_ms: u64, priority: i32, uid: &Arc<str>) -> EarlyRank {
    let window = due_ms / EARLY_WINDOW_MS;
    (window, Reverse(priority), due_ms, uid.clone())
}

/// See the top of this file.
#[derive(Default)]
pub struct BackOff {
    /// By when their waits are over.
    all: BTreeSet<(u64, Arc<str>)>,
    /// Those that may be taken before.
    early: BTreeSet<EarlyRank>,
}

impl BackOff {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// `early`: the pod's priority, where it may be taken before.
    pub fn insert(&mut self, due_ms: u64, early: Option<i32>, uid: &Arc<str>) {
        if let Some(priority) = early {
            self.early.insert(early_rank(due_ms, priority, uid));
        }
        self.all.insert((due_ms, uid.clone()));
    }

    /// With what it was inserted with.
    pub fn remove(&mut self, due_ms: u64, early: Option<i32>, uid: &Arc<str>) {
        if let Some(priority) = early {
            self.early.remove(&early_rank(due_ms, priority, uid));
        }
        self.all.remove(&(due_ms, uid.clone()));
    }

    /// When the first wait is over, and whose it is.
    pub fn first(&self) -> Option<&(u64, Arc<str>)> {
        self.all.first()
    }

    /// Who may be taken before, the first of them.
    pub fn first_early(&self) -> Option<&Arc<str>> {
        self.early.first().map(|(.., uid)| uid)
    }
}
