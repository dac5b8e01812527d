//! Strings that many objects share (label keys and values, namespaces, resource names) are kept
//! once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The table is swept of strings that nobody uses any more when it has grown to this size, and
/// then again at each doubling.
const FIRST_SWEEP: usize = 4_096;

/// The shared strings.
pub struct Strings {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Default for Strings {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl Strings {
    /// The one copy of `text`.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|s| Arc::strong_count(s) > 1);
            self.sweep_at = (self.known.len() * 2).max(FIRST_SWEEP);
        }
        let new: Arc<str> = Arc::from(text);
        self.known.insert(new.clone());
        new
    }

    /// Labels in the form of the snapshot.
    pub fn labels(&mut self, map: Option<&BTreeMap<String, String>>) -> Labels {
        let pairs = map.into_iter().flatten();
        Labels(pairs.map(|(k, v)| (self.get(k), self.get(v))).collect())
    }
}

/// Labels, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        // Few labels: a linear search is fastest.
        self.0.iter().find(|(k, _)| **k == *key).map(|(_, v)| v)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl api::selector::Labels for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(|v| &**v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_kept_once_and_forgotten_when_unused() {
        let mut strings = Strings::default();
        let a = strings.get("a");
        assert!(Arc::ptr_eq(&a, &strings.get("a")));
        for i in 0..3 * FIRST_SWEEP {
            strings.get(&i.to_string());
        }
        assert!(strings.known.len() <= FIRST_SWEEP);
        assert!(Arc::ptr_eq(&a, &strings.get("a")));
    }
}
