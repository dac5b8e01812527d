//! Creations of a plan begin slowly: one, then two, then four at a time of each kind, so that what
//! refuses the first is not asked a hundred times. What is left comes again with the next plan.

use std::collections::VecDeque;

use crate::action::{Action, Target};

/// The creations of a stage that were not tried yet, by kind.
#[derive(Default)]
pub(crate) struct SlowStart {
    left: Vec<(Target, VecDeque<Action>)>,
    size: usize,
}

fn is_same_kind(one: &Target, other: &Target) -> bool {
    one.resource == other.resource
}

impl SlowStart {
    /// Takes the creations of what has an owner out of a stage: others are few.
    pub(crate) fn of(actions: &mut Vec<Action>) -> Self {
        let mut slowly = Self {
            size: 1,
            ..Self::default()
        };
        for action in std::mem::take(actions) {
            match action.target().filter(|_| action.makes_owned()).cloned() {
                Some(target) => slowly.add(target, action),
                None => actions.push(action),
            }
        }
        slowly
    }

    fn add(&mut self, target: Target, action: Action) {
        let mut all = self.left.iter_mut();
        match all.find(|(kind, _)| is_same_kind(kind, &target)) {
            Some((_, waiting)) => waiting.push_back(action),
            None => self.left.push((target, [action].into())),
        }
    }

    /// The next ones of each kind; none where all were tried.
    pub(crate) fn batch(&mut self) -> Vec<Action> {
        let mut batch = Vec::new();
        for (_, waiting) in &mut self.left {
            let size = self.size.min(waiting.len());
            batch.extend(waiting.drain(..size));
        }
        self.size = self.size.saturating_mul(2);
        batch
    }

    /// Something of this kind was refused: no more is asked for now.
    pub(crate) fn failed(&mut self, target: &Target) {
        self.left.retain(|(kind, _)| !is_same_kind(kind, target));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Target {
        Target::of::<Pod>("n", name)
    }

    fn create(target: Target) -> Action {
        let object = json!({ "metadata": { "ownerReferences": [] } });
        Action::Create { target, object }
    }

    /// A deletion, seven pods and two other objects with an owner.
    fn stage() -> Vec<Action> {
        let mut all = vec![Action::delete(pod("gone"), None)];
        all.extend((0..7).map(|n| create(pod(&n.to_string()))));
        let other = |n: i32| Target::of::<ConfigMap>("n", &n.to_string());
        all.extend((0..2).map(|n| create(other(n))));
        all
    }

    fn sizes(slowly: &mut SlowStart) -> Vec<usize> {
        let batches = std::iter::from_fn(|| Some(slowly.batch().len()));
        batches.take_while(|size| *size > 0).collect()
    }

    #[test]
    fn batches_double_for_each_kind() {
        let mut all = stage();
        let mut slowly = SlowStart::of(&mut all);
        assert!(matches!(all.as_slice(), [Action::Delete { .. }]));
        // 1 + 1, 2 + 1, and the four pods that are left.
        assert_eq!(sizes(&mut slowly), [2, 3, 4]);
    }

    #[test]
    fn what_is_refused_is_not_asked_for_again_and_other_kinds_go_on() {
        let mut slowly = SlowStart::of(&mut stage());
        assert_eq!(slowly.batch().len(), 2);
        slowly.failed(&pod("0"));
        assert_eq!(sizes(&mut slowly), [1]);
    }

    #[test]
    fn what_has_no_owner_is_not_held_back() {
        let target = pod("a");
        let object = json!({ "metadata": {} });
        let mut all = vec![Action::Create { target, object }];
        assert!(SlowStart::of(&mut all).batch().is_empty());
        assert_eq!(all.len(), 1);
    }
}
