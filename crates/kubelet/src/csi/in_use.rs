//! Volumes that may not be detached from the node: those that it is about to stage, or has staged
//! or published. The node's status says so before anything is mounted, and as long as something is.

use clock::watch;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long the node's status is waited for. Whoever waits asks again.
const REPORTED_WITHIN: Duration = Duration::from_secs(15);

/// The list, by the volumes' names in the node's status.
pub struct InUse {
    names: Mutex<BTreeSet<String>>,
    reported: watch::Sender<BTreeSet<String>>,
    changed: Arc<Notify>,
}

impl InUse {
    pub(super) fn new(names: BTreeSet<String>, changed: Arc<Notify>) -> Self {
        Self {
            names: Mutex::new(names),
            reported: watch::Sender::new(BTreeSet::new()),
            changed,
        }
    }

    /// What the node's status is to say, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.names.lock().iter().cloned().collect()
    }

    /// The API has the list.
    pub fn reported(&self, names: &[String]) {
        let new: BTreeSet<String> = names.iter().cloned().collect();
        self.reported.send_replace(new);
    }

    /// From now on it may not be detached; waits until the API knows. False: it does not yet.
    pub(super) async fn hold(&self, name: &str) -> bool {
        if self.names.lock().insert(name.to_owned()) {
            self.changed.notify_one();
        }
        let mut reported = self.reported.subscribe();
        let known = reported.wait_for(|all| all.contains(name));
        let known = tokio::time::timeout(REPORTED_WITHIN, known).await;
        known.is_ok_and(|k| k.is_ok())
    }

    /// It may be detached.
    pub(super) fn release(&self, name: &str) {
        if self.names.lock().remove(name) {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_volume_is_held_when_the_api_knows() {
        let changed = Arc::new(Notify::new());
        let list = Arc::new(InUse::new(["b".to_owned()].into(), changed.clone()));
        assert!(!list.hold("a").await, "nobody has reported");
        let waiting = tokio::spawn({
            let list = list.clone();
            async move { list.hold("a").await }
        });
        changed.notified().await;
        assert_eq!(list.names(), ["a", "b"]);
        list.reported(&list.names());
        assert!(waiting.await.unwrap());
        list.release("a");
        assert_eq!(list.names(), ["b"]);
    }
}
