//! What came of volumes that were more than the node can have: pods to reject, and drivers to ask again.

use super::driver_requests::CsiVolume;
use super::error::Error;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tokio::sync::Notify;

/// What came of too many volumes.
#[derive(Debug, Default)]
pub(super) struct OverLimit {
    /// UIDs of pods that cannot have their volumes here.
    pub(super) rejected: Mutex<BTreeSet<String>>,
    /// Drivers whose limit is not what the CSINode says.
    pub(super) outdated: Mutex<BTreeSet<String>>,
    pub(super) has_rejected: Notify,
    pub(super) has_outdated: Notify,
}

impl OverLimit {
    /// Looks whether a volume could not be attached because the node has too many.
    pub(super) fn note(&self, why: &Error, asked: &CsiVolume, uid: &str) {
        if !matches!(why, Error::TooManyAttached(_)) {
            return;
        }
        self.outdated.lock().insert(asked.driver.clone());
        self.has_outdated.notify_one();
        self.rejected.lock().insert(uid.to_owned());
        self.has_rejected.notify_one();
    }
}
