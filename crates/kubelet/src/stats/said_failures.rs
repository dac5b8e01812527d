//! What cannot be read of volumes, and is looked at again every few seconds: a failure is said when it
//! comes and when it becomes another one, not at every look.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// The failures that were said: by UIDs of pods, by names of their volumes.
#[derive(Debug, Default)]
pub(super) struct SaidFailures(Mutex<BTreeMap<String, BTreeMap<String, String>>>);

impl SaidFailures {
    /// A volume cannot be read. Whether this is to be said: it was not the last that was said of it.
    pub fn failed(&self, uid: &str, volume: &str, why: &str) -> bool {
        let mut said = self.0.lock();
        let of_pod = said.entry(uid.to_owned()).or_default();
        let before = of_pod.insert(volume.to_owned(), why.to_owned());
        before.is_none_or(|before| before != why)
    }

    /// A volume was read: the next failure is a new one.
    pub fn succeeded(&self, uid: &str, volume: &str) {
        if let Some(of_pod) = self.0.lock().get_mut(uid) {
            of_pod.remove(volume);
        }
    }

    /// Forgets pods that are not among these.
    pub fn retain(&self, uids: &BTreeSet<&str>) {
        self.0.lock().retain(|uid, _| uids.contains(uid.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_until_it_is_another_one_or_was_over() {
        let said = SaidFailures::default();
        assert!(said.failed("u", "v", "denied"));
        assert!(!said.failed("u", "v", "denied"));
        assert!(said.failed("u", "other", "denied") && said.failed("w", "v", "denied"));
        assert!(said.failed("u", "v", "input/output error"));
        said.succeeded("u", "v");
        assert!(said.failed("u", "v", "input/output error"));
        said.retain(&BTreeSet::from(["w"]));
        assert!(said.failed("u", "v", "input/output error"));
        assert!(!said.failed("w", "v", "denied"));
    }
}
