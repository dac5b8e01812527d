//! How many pods of a ReplicaSet may come: its controller goes by what it has seen of the set, and what
//! it decided by that may still arrive when the set wants less already.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::values::{number, text};

/// By a set's UID and generation: how many pods it wants, or wanted when its controller last spoke.
#[derive(Debug, Default)]
pub struct Wanted(BTreeMap<String, BTreeMap<i64, i64>>);

impl Wanted {
    /// Takes a set in as it was written.
    pub fn note(&mut self, set: &Value) {
        let of = self
            .0
            .entry(text(set, "/metadata/uid").to_owned())
            .or_default();
        of.insert(
            number(set, "/metadata/generation"),
            number(set, "/spec/replicas"),
        );
        // What its controller says of the set it says after it has done what followed.
        let seen = number(set, "/status/observedGeneration");
        of.retain(|generation, _| *generation >= seen);
    }

    /// A set that has gone.
    pub fn gone(&mut self, set: &Value) {
        self.0.remove(text(set, "/metadata/uid"));
    }

    /// The most pods that its controller may go by.
    pub fn most(&self, uid: &str) -> i64 {
        let of = self.0.get(uid).into_iter().flat_map(BTreeMap::values);
        of.copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_wanted_counts_until_the_controller_has_seen_the_change() {
        let set = |generation: i64, replicas: i64, seen: i64| {
            json!({ "metadata": { "uid": "s", "generation": generation },
                "spec": { "replicas": replicas }, "status": { "observedGeneration": seen } })
        };
        let mut all = Wanted::default();
        assert_eq!(all.most("s"), 0);
        all.note(&set(1, 3, 0));
        all.note(&set(2, 0, 1));
        assert_eq!(all.most("s"), 3);
        all.note(&set(3, 1, 1));
        assert_eq!(all.most("s"), 3);
        all.note(&set(3, 1, 2));
        assert_eq!(all.most("s"), 1);
        all.note(&set(3, 1, 3));
        assert_eq!(all.most("s"), 1);
        all.gone(&set(3, 1, 3));
        assert_eq!(all.most("s"), 0);
    }
}
