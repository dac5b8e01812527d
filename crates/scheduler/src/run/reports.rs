//! Reports about pods that are not on a node: they wait while others are written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::core::Nomination;
use crate::write::Report;

/// Reports that wait; of one pod only the latest.
#[derive(Default)]
pub(super) struct Reports {
    order: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, Report>,
    pub(super) in_flight: usize,
}

impl Reports {
    pub(super) fn put(&mut self, mut report: Report) {
        let uid = report.pod.uid.clone();
        match self.waiting.remove(&uid) {
            // Victims that were chosen must go.
            Some(before) if matches!(report.nomination, Nomination::Stays) => {
                report.nomination = before.nomination;
            }
            Some(_) => {}
            None => self.order.push_back(uid.clone()),
        }
        self.waiting.insert(uid, report);
    }

    /// The one that waits longest.
    pub(super) fn next(&mut self) -> Option<Report> {
        let uid = self.order.pop_front()?;
        self.waiting.remove(&uid)
    }
}
