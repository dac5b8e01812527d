//! What informers report, as the snapshot and the queue take it in; and whom each change may help.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};

use super::Core;
use crate::decision_timings::{Code, Point};
use crate::devices::Devices;
use crate::node::Offer;
use crate::plugins::Events;
use crate::pod::{Pod, group_of, is_terminal, scheduler_of};
use crate::resources::is_infeasible;
use crate::selectors::Selectors;
use crate::storage::{self, Storage};

impl Core {
    pub fn node_changed(&mut self, old: Option<&k8s::Node>, new: Option<&k8s::Node>) {
        let name_of = |n: &k8s::Node| n.metadata.name.clone().unwrap_or_default();
        let Some(new) = new else {
            if let Some(old) = old {
                let name = self.strings.get(&name_of(old));
                self.snapshot.remove_node(&name);
                // A domain of its labels may have gone with it, and so has room that was made there.
                self.happened.anything(Events::NODE_LABELS);
                self.happened.to_node(Events::NODE_LABELS, &name);
            }
            return;
        };
        let name = self.strings.get(&name_of(new));
        let offer = Offer::read(new, &mut self.strings);
        let events = match self.snapshot.node(&name).filter(|n| n.exists) {
            None => Events::NODE_ADDED,
            Some(before) => {
                let when = |changed: bool, event| if changed { event } else { Events::NONE };
                let resources = before.allocatable != offer.allocatable
                    || before.allowed_pods != offer.allowed_pods;
                let taints =
                    before.taints != offer.taints || before.unschedulable != offer.unschedulable;
                when(before.labels != offer.labels, Events::NODE_LABELS)
                    .with(when(taints, Events::NODE_TAINTS))
                    .with(when(resources, Events::NODE_RESOURCES))
                    .with(when(
                        before.features != offer.features,
                        Events::NODE_FEATURES,
                    ))
            }
        };
        self.snapshot.set_node(&name, offer);
        self.happened.to_node(events, &name);
    }

    pub fn namespace_changed(
        &mut self,
        old: Option<&k8s::Namespace>,
        new: Option<&k8s::Namespace>,
    ) {
        let Some(object) = new.or(old) else { return };
        let name = self
            .strings
            .get(object.metadata.name.as_deref().unwrap_or_default());
        let labels = new.map(|n| self.strings.labels(n.metadata.labels.as_ref()));
        self.snapshot.set_namespace(name, labels);
        self.happened.anything(Events::NAMESPACE_LABELS);
    }

    pub fn claim_changed(
        &mut self,
        old: Option<&k8s::PersistentVolumeClaim>,
        new: Option<&k8s::PersistentVolumeClaim>,
    ) {
        let Some(meta) = new.or(old).map(|c| &c.metadata) else {
            return;
        };
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = self.strings.get(&format!("{namespace}/{name}"));
        let claim = new.map(|c| storage::Claim::read(c, &mut self.strings));
        self.snapshot.storage_mut().set_claim(key.clone(), claim);
        self.happened.to_claim(Events::CLAIMS, &key);
    }

    pub fn volume_changed(
        &mut self,
        old: Option<&k8s::PersistentVolume>,
        new: Option<&k8s::PersistentVolume>,
    ) {
        let Some(meta) = new.or(old).map(|v| &v.metadata) else {
            return;
        };
        let name = self.strings.get(meta.name.as_deref().unwrap_or_default());
        let volume = new.map(|v| storage::Volume::read(v, &mut self.strings));
        self.snapshot.storage_mut().set_volume(name, volume);
        self.happened.anything(Events::STORAGE);
    }

    pub fn device_claim_changed(
        &mut self,
        old: Option<&ResourceClaim>,
        new: Option<&ResourceClaim>,
    ) {
        let Some(meta) = new.or(old).map(|c| &c.metadata) else {
            return;
        };
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = self.strings.get(&format!("{namespace}/{name}"));
        self.snapshot.devices_mut().set_claim(key, new);
        // A finalizer or the like helps nobody.
        let same = old.zip(new).is_some_and(|(old, new)| {
            let going = |c: &ResourceClaim| c.metadata.deletion_timestamp.is_some();
            old.status == new.status && going(old) == going(new)
        });
        if !same {
            self.happened.anything(Events::DEVICE_CLAIMS);
        }
    }

    /// Slices of devices changed.
    pub fn devices_changed(&mut self, change: impl FnOnce(&mut Devices)) {
        change(self.snapshot.devices_mut());
        self.happened.anything(Events::DEVICES);
    }

    /// A class of devices came, changed or went.
    pub fn device_class_changed(&mut self, name: &str, class: Option<&DeviceClass>) {
        self.snapshot.devices_mut().set_class(name, class);
        self.happened.anything(Events::DEVICE_CLASSES);
    }

    /// What a Service or a controller of pods selects.
    pub fn selectors_changed(&mut self, change: impl FnOnce(&mut Selectors)) {
        change(self.snapshot.selectors_mut());
    }

    /// Something else about volumes changed: a class, or what a driver says.
    pub fn storage_changed(&mut self, change: impl FnOnce(&mut Storage)) {
        change(self.snapshot.storage_mut());
        self.happened.anything(Events::STORAGE);
    }

    pub fn budget_changed(
        &mut self,
        old: Option<&PodDisruptionBudget>,
        new: Option<&PodDisruptionBudget>,
    ) {
        self.snapshot.budgets_mut().changed(old, new);
    }

    pub fn pod_changed(&mut self, old: Option<&k8s::Pod>, new: Option<&k8s::Pod>, now_ms: u64) {
        let uid_of = |p: &k8s::Pod| p.metadata.uid.clone().unwrap_or_default();
        if let Some(old) = old
            && new.is_none_or(|n| n.metadata.uid != old.metadata.uid)
        {
            self.pod_gone(&uid_of(old), now_ms);
        }
        let Some(new) = new else { return };
        if is_terminal(new) {
            return self.pod_gone(&uid_of(new), now_ms);
        }
        self.joins(new);
        let same = old.filter(|o| o.metadata.uid == new.metadata.uid);
        let unchanged = same.is_some_and(|old| unchanged(old, new));
        let bound = new.spec.as_ref().and_then(|s| s.node_name.as_deref());
        if bound.is_some_and(|n| !n.is_empty()) {
            let confirmed = self.snapshot.place(&uid_of(new));
            if unchanged && confirmed.is_some_and(|(_, assumed)| !assumed) {
                return;
            }
            let pod = Pod::read(new, &mut self.strings);
            self.pod_bound(pod);
        } else {
            self.pod_waits(same, new, unchanged, now_ms);
        }
    }

    /// A pod may be the one that its group waited for.
    fn joins(&mut self, pod: &k8s::Pod) {
        let (Some(group), Some(uid)) = (group_of(pod), pod.metadata.uid.as_deref()) else {
            return;
        };
        if self.snapshot.gangs().group_of(uid).is_some() {
            return;
        }
        let group = self.strings.get(&group);
        if self.snapshot.gangs_mut().join(Arc::from(uid), group) {
            self.happened.anything(Events::POD_GROUPS);
        }
    }

    /// Groups of pods can be there from now on.
    pub fn pod_groups_served(&mut self) {
        self.snapshot.gangs_mut().serve();
        self.happened.anything(Events::POD_GROUPS);
    }

    /// Groups of pods are not served any more: each pod goes by itself.
    pub fn pod_groups_gone(&mut self) {
        self.snapshot.gangs_mut().end();
        self.happened.anything(Events::POD_GROUPS);
    }

    /// A group came or changed: so many of its pods must have nodes at once; none: it has gone.
    pub fn pod_group_changed(&mut self, group: &str, least: Option<i64>) {
        let group = self.strings.get(group);
        self.snapshot.gangs_mut().set(group, least);
        self.happened.anything(Events::POD_GROUPS);
    }

    fn pod_gone(&mut self, uid: &str, now_ms: u64) {
        let group = self.snapshot.gangs().group_of(uid).cloned();
        if group.is_some() {
            self.snapshot.gangs_mut().leave(uid);
        }
        self.queue.remove(&Arc::from(uid));
        self.settle(uid);
        self.end_nomination(uid);
        self.snapshot.has_gone(uid);
        let node = self.snapshot.place(uid).map(|(node, _)| node.clone());
        let place = node.zip(self.snapshot.pod(uid).cloned());
        if let Some((node, pod)) = place.filter(|_| self.snapshot.remove_pod(uid)) {
            self.happened.pod_left(&node, &pod);
        }
        if let Some(group) = group {
            self.give_back(&group, "one of them has gone", now_ms);
        }
    }

    fn pod_bound(&mut self, pod: Pod) {
        let Some(node) = pod.node.clone() else { return };
        let pod = Arc::new(pod);
        self.queue.remove(&pod.uid);
        self.takes_its_room(&pod.uid, &node);
        self.settle(&pod.uid);
        match self.snapshot.pod(&pod.uid) {
            None => self.happened.pod_came(&node, &pod),
            Some(before) => {
                let place = self.snapshot.place(&pod.uid).map(|(n, _)| n);
                let elsewhere = place.filter(|n| **n != node);
                if before.labels != pod.labels || elsewhere.is_some() {
                    self.happened.pod_came(&node, before);
                    self.happened.pod_came(&node, &pod);
                }
                if before.request != pod.request || before.priority > pod.priority {
                    self.happened.pod_left(&node, before);
                }
                if let Some(left) = elsewhere {
                    self.happened.pod_left(left, before);
                }
            }
        }
        self.snapshot.observe(&node, pod);
    }

    fn pod_waits(&mut self, old: Option<&k8s::Pod>, new: &k8s::Pod, unchanged: bool, now_ms: u64) {
        let uid: Arc<str> = Arc::from(new.metadata.uid.as_deref().unwrap_or_default());
        let spec = new.spec.as_ref();
        let ours = spec.is_some_and(|s| self.profile(scheduler_of(s)).is_some());
        // Old news of a pod that has its node already, by decision or in the API.
        let placed = self.snapshot.place(&uid).is_some();
        if new.metadata.deletion_timestamp.is_some() || !ours {
            match self.snapshot.place(&uid).map(|(_, assumed)| assumed) {
                None => {
                    self.queue.remove(&uid);
                    self.end_nomination(&uid);
                }
                Some(true) => self.leaves_before_it_is_bound(&uid, now_ms),
                Some(false) => {}
            }
            return;
        }
        if placed && !self.queue.contains(&uid) {
            return;
        }
        // It may be another one, or may be tried now.
        if !unchanged {
            self.vain.clear();
        }
        let pod = Arc::new(Pod::read(new, &mut self.strings));
        match pod.wants.nominated.clone().filter(|_| !placed) {
            Some(node) => self.nominate(node, pod.clone()),
            // Only what the API showed before has ended; what was decided since is not there yet.
            None if old.is_some_and(is_nominated) => {
                self.end_nomination(&uid);
            }
            None => {}
        }
        let began = self.timings.now();
        let gated = self
            .profile(&pod.scheduler)
            .is_some_and(|p| p.gate(&pod).is_some());
        let code = match gated {
            true => Code::Unresolvable,
            false => Code::Success,
        };
        self.timings.part(began, Point::PreEnqueue, code, &pod);
        self.queue.put(pod, gated, !unchanged, now_ms);
    }
}

fn is_nominated(pod: &k8s::Pod) -> bool {
    let status = pod.status.as_ref();
    let node = status.and_then(|s| s.nominated_node_name.as_deref());
    node.is_some_and(|n| !n.is_empty())
}

/// Whether all is as before that a decision may depend on. Status changes of running pods are the
/// bulk of all events.
fn unchanged(old: &k8s::Pod, new: &k8s::Pod) -> bool {
    let resources = |p: &k8s::Pod| -> Vec<_> {
        let statuses = p.status.iter();
        statuses
            .flat_map(|s| {
                let init = s.init_container_statuses.iter().flatten();
                init.chain(s.container_statuses.iter().flatten())
            })
            .map(|c| {
                let in_effect = c.resources.as_ref().and_then(|r| r.requests.clone());
                (in_effect, c.allocated_resources.clone())
            })
            .filter(|(in_effect, set_aside)| in_effect.is_some() || set_aside.is_some())
            .collect()
    };
    let started = |p: &k8s::Pod| p.status.as_ref().and_then(|s| s.start_time.clone());
    let devices = |p: &k8s::Pod| {
        let status = p.status.as_ref();
        status.and_then(|s| s.resource_claim_statuses.clone())
    };
    old.spec == new.spec
        && devices(old) == devices(new)
        && started(old) == started(new)
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && resources(old) == resources(new)
        && is_infeasible(old) == is_infeasible(new)
}
