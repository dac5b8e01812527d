//! Which devices a container gets. Pure.

use std::collections::BTreeSet;

/// Why a pod cannot have its devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Allocate failed due to {0}, which is unexpected")]
pub struct Error(pub String);

/// A choice that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// How many.
    pub count: usize,
    /// That an earlier container of the pod had, which does not need them any more: they go first.
    pub first: BTreeSet<String>,
    /// That nobody has.
    pub free: BTreeSet<String>,
    /// As the plugin would choose.
    pub preferred: Vec<String>,
}

impl Choice {
    /// Whether there are enough.
    pub(super) fn check(&self, resource: &str) -> Result<(), Error> {
        let available = self.first.len() + self.free.len();
        if available >= self.count {
            return Ok(());
        }
        Err(Error(format!(
            "requested number of devices unavailable for {resource}. Requested: {}, Available: {}",
            self.count.saturating_sub(self.first.len()),
            self.free.len()
        )))
    }

    /// Whether there is something to choose: more are free than are needed.
    pub(super) fn is_open(&self) -> bool {
        self.first.len() < self.count && self.first.len() + self.free.len() > self.count
    }

    /// What the plugin may choose from.
    pub(super) fn all(&self) -> Vec<String> {
        self.first.union(&self.free).cloned().collect()
    }

    /// Notes what the plugin would choose.
    pub(super) fn prefer(&mut self, ids: Vec<String>) {
        self.preferred = ids;
    }

    /// The devices: those that go first, then those that the plugin prefers, then any.
    pub(super) fn decide(&self) -> BTreeSet<String> {
        let preferred = self.preferred.iter().filter(|id| self.free.contains(*id));
        let order = self.first.iter().chain(preferred).chain(&self.free);
        let mut out = BTreeSet::new();
        for id in order {
            if out.len() == self.count {
                break;
            }
            out.insert(id.clone());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(count: usize, first: &[&str], free: &[&str]) -> Choice {
        let set = |all: &[&str]| all.iter().map(|id| (*id).to_owned()).collect();
        Choice {
            count,
            first: set(first),
            free: set(free),
            preferred: Vec::new(),
        }
    }

    #[test]
    fn what_was_the_pods_own_goes_first() {
        let of = |c: &Choice| c.decide().into_iter().collect::<Vec<_>>();
        assert_eq!(of(&choice(2, &["d"], &["a", "b"])), ["a", "d"]);
        assert_eq!(of(&choice(1, &["c", "d"], &["a"])), ["c"]);
        let mut asked = choice(2, &["d"], &["a", "b", "c"]);
        assert!(asked.is_open() && asked.check("x").is_ok());
        asked.prefer(vec!["gone".into(), "c".into(), "b".into()]);
        assert_eq!(of(&asked), ["c", "d"]);
        let short = choice(3, &[], &["a"]).check("x.io/d").unwrap_err();
        assert_eq!(
            short.to_string(),
            "Allocate failed due to requested number of devices unavailable for x.io/d. Requested: 3, Available: 1, which is unexpected"
        );
        assert!(!choice(1, &[], &["a"]).is_open());
    }
}
