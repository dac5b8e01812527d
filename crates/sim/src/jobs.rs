//! Each pod of a Job counts once. What has ended is taken from the pods themselves, when they
//! show it first; what is counted from the Job's status.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::values::{number, text};

/// The pods of a Job that have ended.
#[derive(Default)]
struct Ended {
    succeeded: BTreeSet<String>,
    /// Failed, or deleted before they ended, which counts as failed.
    failed: BTreeSet<String>,
    /// Indexes of the pods that succeeded.
    indexes: BTreeSet<String>,
}

/// All Jobs, by UID.
#[derive(Default)]
pub(crate) struct Jobs(BTreeMap<String, Ended>);

impl Jobs {
    /// Notes a pod as it is stored.
    pub fn pod(&mut self, pod: &Value) {
        if text(pod, "/metadata/ownerReferences/0/kind") != "Job" {
            return;
        }
        let job = text(pod, "/metadata/ownerReferences/0/uid").to_owned();
        let uid = text(pod, "/metadata/uid").to_owned();
        let ended = self.0.entry(job).or_default();
        let is_deleted = !text(pod, "/metadata/deletionTimestamp").is_empty();
        match text(pod, "/status/phase") {
            "Succeeded" => {
                ended.succeeded.insert(uid);
                let index = "/metadata/annotations/batch.kubernetes.io~1job-completion-index";
                ended.indexes.insert(text(pod, index).to_owned());
            }
            "Failed" => {
                ended.failed.insert(uid);
            }
            _ if is_deleted => {
                ended.failed.insert(uid);
            }
            _ => {}
        }
    }

    /// What is wrong with a Job as it is stored.
    pub fn job(&mut self, old: Option<&Value>, new: &Value) -> Option<String> {
        let uncounted = |outcome: &str| {
            let list = new.pointer(&format!("/status/uncountedTerminatedPods/{outcome}"));
            let list = list.and_then(Value::as_array);
            i64::try_from(list.map_or(0, Vec::len)).unwrap_or(i64::MAX)
        };
        let ended = self
            .0
            .entry(text(new, "/metadata/uid").to_owned())
            .or_default();
        let count = |set: &BTreeSet<String>| i64::try_from(set.len()).unwrap_or(i64::MAX);
        let is_indexed = text(new, "/spec/completionMode") == "Indexed";
        let most = if is_indexed {
            count(&ended.indexes)
        } else {
            count(&ended.succeeded)
        };
        let succeeded = number(new, "/status/succeeded");
        let wanted = number(new, "/spec/completions");
        let counted = succeeded
            + if is_indexed {
                0
            } else {
                uncounted("succeeded")
            };
        if counted > most {
            return Some(format!("{counted} pods count as succeeded, {most} did"));
        }
        if is_indexed && succeeded > wanted {
            return Some(format!("{succeeded} indexes of {wanted} succeeded"));
        }
        let failed = number(new, "/status/failed");
        if failed + uncounted("failed") > count(&ended.failed) {
            let most = count(&ended.failed);
            return Some(format!("{failed} pods count as failed, {most} did"));
        }
        let before = old.filter(|o| text(o, "/metadata/uid") == text(new, "/metadata/uid"))?;
        let (then, failed_then) = (
            number(before, "/status/succeeded"),
            number(before, "/status/failed"),
        );
        if failed < failed_then || !is_indexed && succeeded < then {
            return Some("it counts fewer pods than before".to_owned());
        }
        None
    }
}
