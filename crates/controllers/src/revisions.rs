//! The history of a pod template: the ControllerRevisions of StatefulSets and DaemonSets, in the
//! form in which `kubectl rollout` reads them.

use std::sync::Arc;

use control::action::{Action, Plan, Target};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use crate::common::{Labels, key_of, safe_hash, uid_of, value_of};
use crate::ownership::Parent;

/// Says of pods and of ControllerRevisions which revision they are of.
pub const HASH_LABEL: &str = "controller-revision-hash";
/// Names that are tried for one revision at most; each try that finds the name taken by another
/// template adds to the collision count.
const NAMES: i32 = 100;

/// Fills in what a pod template leaves out, as the server does with what it is sent.
pub type TemplateDefaults = fn(&mut Value);

/// What a revision keeps: a strategic merge patch that brings its template back. Written as
/// upstream's, whose clients compare the bytes: what has a place of its own there is never left
/// out.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = value_of(template);
    template["$patch"] = json!("replace");
    if template["metadata"].is_null() {
        template["metadata"] = json!({});
    }
    for field in ["containers", "initContainers"] {
        let containers = template.pointer_mut(&format!("/spec/{field}"));
        for container in containers
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if container["resources"].is_null() {
                container["resources"] = json!({});
            }
        }
    }
    json!({ "spec": { "template": template } })
}

/// The template that a revision keeps; `None` when it keeps something else.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// The value of [`HASH_LABEL`], or the name of a revision that lacks it.
pub fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels
        .and_then(|l| l.get(HASH_LABEL))
        .map_or_else(|| name_of(revision), String::as_str)
}

/// The revisions of one object.
pub struct History<'a> {
    /// The newest with the template as it is now.
    pub current: Option<&'a ControllerRevision>,
    /// All that have the template as it is now.
    pub equal: Vec<&'a ControllerRevision>,
    /// All but the current one, oldest first.
    pub others: Vec<&'a ControllerRevision>,
}

impl<'a> History<'a> {
    pub fn new(own: &[&'a Arc<ControllerRevision>], template: &PodTemplateSpec) -> Self {
        let mut all: Vec<&'a ControllerRevision> = own.iter().map(|r| &***r).collect();
        all.sort_by(|a, b| {
            let of = |r: &ControllerRevision| {
                let created = r.metadata.creation_timestamp.as_ref().map(|t| t.0);
                (r.revision, created)
            };
            of(a).cmp(&of(b)).then_with(|| name_of(a).cmp(name_of(b)))
        });
        let wanted = data(template);
        let is_equal = |r: &&ControllerRevision| template_of(r).is_some_and(|t| data(&t) == wanted);
        let equal: Vec<_> = all.iter().copied().filter(is_equal).collect();
        let current = equal.last().copied();
        let named = current.map(name_of);
        all.retain(|r| Some(name_of(r)) != named);
        Self {
            current,
            equal,
            others: all,
        }
    }

    /// As [`History::new`]; the newest revision has the template as it is now, too, where it would have
    /// it with what the server fills in today. So nobody's pods are made again since a newer server knows
    /// more fields.
    pub fn filled(
        own: &[&'a Arc<ControllerRevision>],
        template: &PodTemplateSpec,
        fill: TemplateDefaults,
    ) -> Self {
        let mut history = Self::new(own, template);
        let newest = history.others.last().copied();
        let Some(newest) = newest.filter(|_| history.current.is_none()) else {
            return history;
        };
        let kept = template_of(newest).and_then(|kept| {
            let mut kept = value_of(&kept);
            fill(&mut kept);
            serde_json::from_value::<PodTemplateSpec>(kept).ok()
        });
        if kept.is_some_and(|kept| data(&kept) == data(template)) {
            history.others.pop();
            history.equal.push(newest);
            history.current = Some(newest);
        }
        history
    }

    pub fn find(&self, name: &str) -> Option<&'a ControllerRevision> {
        let all = self.others.iter().copied().chain(self.current);
        all.into_iter().find(|r| name_of(r) == name)
    }

    /// The number that the current revision should have: above all others.
    fn next(&self) -> i64 {
        self.others.iter().map(|r| r.revision).max().unwrap_or(0) + 1
    }

    /// Makes the revision of the template the newest one. True when that is to be done first.
    pub fn renew<K: Resource<DynamicType = ()> + Serialize>(
        &self,
        parent: &Parent,
        object: &K,
        template: &PodTemplateSpec,
        taken: &[Arc<ControllerRevision>],
        collisions: Option<i32>,
        plan: &mut Plan,
    ) -> bool {
        let before = collisions.unwrap_or(0);
        let Some(current) = self.current else {
            let annotations = object.meta().annotations.as_ref();
            let (action, after) = self.create(parent, template, annotations, taken, before);
            plan.actions.push(action);
            if after != before {
                let status = json!({ "collisionCount": after });
                plan.last.push(crate::common::patch_status(object, &status));
            }
            return true;
        };
        // Equal ones beside it are of the same template: their numbers do not matter.
        let is_equal = |r: &ControllerRevision| self.equal.iter().any(|e| std::ptr::eq(*e, r));
        let different = self.others.iter().filter(|r| !is_equal(r));
        if different
            .map(|r| r.revision)
            .max()
            .is_none_or(|h| h < current.revision)
        {
            return false;
        }
        let (namespace, name) = key_of(current);
        let target = Target::of::<ControllerRevision>(&namespace, &name);
        let patch = json!({ "metadata": { "uid": uid_of(current) }, "revision": self.next() });
        plan.actions.push(Action::merge(target, patch));
        true
    }

    fn create(
        &self,
        parent: &Parent,
        template: &PodTemplateSpec,
        annotations: Option<&Labels>,
        taken: &[Arc<ControllerRevision>],
        collisions: i32,
    ) -> (Action, i32) {
        let data = data(template);
        let name = |n: i32| {
            let hash = safe_hash(format!("{data}{n}").as_bytes(), 10);
            // A name is at most 253 bytes.
            let mut prefix = parent.name.clone();
            prefix.truncate(223);
            (format!("{prefix}-{hash}"), hash)
        };
        let is_free = |n: &i32| !taken.iter().any(|r| *name_of(r) == name(*n).0);
        let collisions = (collisions..collisions.saturating_add(NAMES))
            .find(is_free)
            .unwrap_or(collisions);
        let (name, hash) = name(collisions);
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.into(), hash);
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {
                "name": name, "namespace": parent.namespace, "labels": labels,
                "annotations": annotations, "ownerReferences": [parent.reference],
            },
            "data": data, "revision": self.next(),
        });
        let target = Target::of::<ControllerRevision>(&parent.namespace, &name);
        (Action::Create { target, object }, collisions)
    }

    /// Deletes the oldest that nobody needs, so that `limit` of them stay.
    pub fn truncate(
        &self,
        limit: i32,
        is_live: impl Fn(&ControllerRevision) -> bool,
    ) -> Vec<Action> {
        let unused: Vec<_> = self.others.iter().filter(|r| !is_live(r)).collect();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let too_many = unused.len().saturating_sub(limit);
        let delete = |r: &&ControllerRevision| {
            let (namespace, name) = key_of(*r);
            let target = Target::of::<ControllerRevision>(&namespace, &name);
            Action::delete(target, Some(uid_of(*r)))
        };
        unused.into_iter().take(too_many).map(delete).collect()
    }
}
