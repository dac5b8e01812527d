//! What a pod was given, and the work of resizes: keeps it, asks for more, and gives running
//! containers their limits. What is decided is in [`super::resize`].

use super::allocation::{AllocatedResources, Allocation};
use super::deps::Deps;
use super::plan::Effect;
use super::resize::{self, Change, Fixed, Resize, Verdict};
use super::resources;
use super::runtime_state::{Run, SeenPod};
use super::spec;
use super::swap;
use crate::events::Severity;
use crate::metrics::{COUNTS, STARTS};
use crate::quantity;
use host::cgroup::Limits;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use std::collections::HashMap;
use std::sync::Arc;

/// What a pod was given.
pub(super) struct Grants {
    deps: Arc<Deps>,
    allocation: Option<Allocation>,
    /// It is what the pod asks for.
    is_as_asked: bool,
    /// The limits of its group, once this kubelet set them.
    group_limits: Option<Limits>,
    /// The resize that goes on, or waits.
    pub(super) resize: Resize,
}

impl Grants {
    pub(super) fn new(deps: Arc<Deps>) -> Self {
        Self {
            deps,
            allocation: None,
            is_as_asked: false,
            group_limits: None,
            resize: Resize::default(),
        }
    }

    /// The limits of its group, once this kubelet set them.
    pub(super) fn group_limits(&self) -> Option<Limits> {
        self.group_limits
    }

    /// Notes that the group was made with these limits, in the pod's new folder.
    pub(super) fn note_group(&mut self, pod: &Pod, limits: Limits) {
        self.group_limits = Some(limits);
        if let Some(allocation) = &self.allocation {
            self.keep(pod, allocation);
        }
    }

    pub(super) fn group(&self, pod: &Pod) -> String {
        resources::pod_group(&self.deps.config.kubepods(), pod)
    }

    /// The pod with the resources that the node gives it; asks for those of its spec where they
    /// are others. `active`: the node took it, and it does not end.
    pub(super) fn allocate(&mut self, pod: &Arc<Pod>, seen: &SeenPod, active: bool) -> Arc<Pod> {
        let dir = self.deps.config.pod_dir(spec::uid(pod));
        let known = self.allocation.take();
        let mut have = match known.clone().or_else(|| Allocation::load(&dir)) {
            Some(kept) => kept,
            None => Allocation::of(pod),
        };
        if !active {
            let applied = Arc::new(have.applied(pod));
            self.allocation = Some(have);
            return applied;
        }
        let before = have.clone();
        adopt(&mut have, seen);
        self.ask(pod, &mut have, seen);
        self.is_as_asked = !resize::differs(pod, &have);
        if have != before || known.is_none() {
            self.keep(pod, &have);
        }
        let applied = Arc::new(have.applied(pod));
        self.group_is_set(&applied, seen);
        self.resize.generation = have.generation;
        self.resize.has = self.reported(&applied, &have);
        self.allocation = Some(have);
        self.note_progress(&applied, seen);
        applied
    }

    fn fixed(&self) -> Fixed {
        Fixed {
            cpus: self.deps.cpus.is_static(),
            memory: self.deps.config.memory.is_static,
            swap: swap::node(&self.deps).unwrap_or_default(),
        }
    }

    fn ask(&mut self, pod: &Pod, have: &mut Allocation, seen: &SeenPod) {
        let r = &self.deps.resources;
        let most = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
        let all = (
            most(r.allocatable_cpu_millis()),
            most(r.allocatable_memory_bytes()),
        );
        let forbidden = resize::differs(pod, have)
            .then(|| resize::forbidden(pod, have, self.fixed()))
            .flatten();
        let mut counted = "insufficient_node_allocatable";
        let verdict = match forbidden {
            Some((word, why)) => {
                counted = word;
                Verdict::Infeasible(why)
            }
            None => resize::judge(pod, have, &self.deps.accounts, all),
        };
        let pending = match verdict {
            Verdict::Same => None,
            Verdict::Granted => {
                let given = std::mem::take(&mut have.given);
                *have = Allocation::of(pod);
                have.given = given;
                self.resize.error.clear();
                if !seen.containers.is_empty() {
                    let text = said("started", pod, "");
                    self.record(pod, Severity::Normal, "ResizeStarted", text);
                }
                None
            }
            Verdict::Deferred(why) => Some(("Deferred", why)),
            Verdict::Infeasible(why) => Some(("Infeasible", why)),
        };
        if let Some((reason, why)) = &pending
            && pending != self.resize.pending
        {
            let text = said(reason, pod, why);
            self.record(pod, Severity::Warning, &format!("Resize{reason}"), text);
            if *reason == "Infeasible" {
                COUNTS.resize_infeasible(counted);
            }
        }
        self.resize.pending = pending;
    }

    fn record(&self, pod: &Pod, severity: Severity, reason: &str, text: String) {
        self.deps.recorder.pod(pod, None, severity, reason, text);
    }

    /// Keeps the allocation, once the pod has a folder.
    fn keep(&self, pod: &Pod, allocation: &Allocation) {
        let dir = self.deps.config.pod_dir(spec::uid(pod));
        if dir.is_dir()
            && let Err(e) = allocation.save(&dir, self.is_as_asked)
        {
            tracing::warn!(pod = spec::full_name(pod), error = %e, "what a pod was given could not be kept");
        }
    }

    /// A kubelet that starts does not know what the group has: it sets it.
    fn group_is_set(&mut self, pod: &Pod, seen: &SeenPod) {
        if self.group_limits.is_none() && seen.ready_sandbox().is_some() {
            let limits = resources::pod_limits(pod);
            match self.set_group(pod, limits) {
                Ok(()) => self.group_limits = Some(limits),
                Err(e) => {
                    tracing::debug!(pod = spec::full_name(pod), error = %e, "a pod's limits could not be set yet");
                }
            }
        }
    }

    /// What running containers have, by id, as the kernel says.
    fn reported(&self, pod: &Pod, have: &Allocation) -> HashMap<String, ResourceRequirements> {
        let group = self.group(pod);
        let one = |given: &AllocatedResources| {
            let kernel = self.deps.cgroups.limits(&format!("{group}/{}", given.id));
            let reported = resize::reported(&given.resources, kernel.as_ref());
            (given.id.clone(), reported)
        };
        have.given.values().map(one).collect()
    }

    /// What containers were given by now, for the plan.
    pub(super) fn given(&self) -> HashMap<String, ResourceRequirements> {
        let all = self.allocation.iter().flat_map(|a| a.given.values());
        all.map(|g| (g.id.clone(), g.resources.clone())).collect()
    }

    fn note_progress(&mut self, pod: &Pod, seen: &SeenPod) {
        let given = self.given();
        let open = |c: &super::runtime_state::SeenContainer| {
            let has = given.get(&c.id).zip(spec::container(pod, &c.name));
            has.is_some_and(|(has, container)| resize::change(container, has) != Change::None)
        };
        let mut effects: Vec<Effect> = Vec::new();
        resize::order(&mut effects, pod, self.group_limits.as_ref());
        let runs = seen.containers.iter().filter(|c| c.run == Run::Running);
        let open = runs.into_iter().any(open) || !effects.is_empty();
        if self.resize.in_progress && !open {
            let text = said("completed", pod, "");
            self.record(pod, Severity::Normal, "ResizeCompleted", text);
        }
        if !open {
            self.resize.error.clear();
        }
        self.resize.in_progress = open;
    }

    /// Gives a running container the limits that the pod was given. False if that failed.
    pub(super) async fn resize_container(&mut self, pod: &Pod, name: &str, id: &str) -> bool {
        let Some(container) = spec::container(pod, name) else {
            return true;
        };
        let memory = i64::try_from(self.deps.resources.memory_bytes).unwrap_or(i64::MAX);
        let mut linux = resources::container(pod, container, memory, self.deps.oom);
        let cpus = &self.deps.cpus;
        cpus.place(spec::uid(pod), name, &mut linux);
        let has = self.given().remove(id).unwrap_or_default();
        let had = quantity::amount(has.limits.as_ref(), "memory");
        let limit = linux.memory_bytes;
        if limit > 0 && had.is_none_or(|had| limit < had) {
            let stats = self
                .deps
                .cgroups
                .stats(&format!("{}/{id}", self.group(pod)));
            let used = stats.map_or(0, |s| s.memory_bytes);
            if i64::try_from(used).is_ok_and(|used| used >= limit) {
                let why = format!(
                    "attempted to set container {name:?} memory limit ({limit}) below current usage ({used})"
                );
                return self.failed(pod, why);
            }
        }
        if let Err(e) = self.deps.runtime.update_resources(id, &linux).await {
            let why = format!("failed to update container {name:?}: {}", e.message());
            return self.failed(pod, why);
        }
        if let Some(mut have) = self.allocation.take() {
            let given = AllocatedResources {
                id: id.to_owned(),
                resources: container.resources.clone().unwrap_or_default(),
            };
            have.given.insert(name.to_owned(), given);
            self.keep(pod, &have);
            self.allocation = Some(have);
        }
        true
    }

    /// Sets the limits of the pod's group. What is remembered is what it is to have, without what CPUs
    /// of its own change.
    fn set_group(&self, pod: &Pod, limits: Limits) -> std::io::Result<()> {
        let limits = self.deps.cpus.of_group(spec::uid(pod), limits);
        let group = self.group(pod);
        STARTS.group("update", || self.deps.cgroups.set(&group, &limits))
    }

    /// Limits the pod as a whole. False if that failed.
    pub(super) fn limit_pod(&mut self, pod: &Pod, limits: Limits) -> bool {
        match self.set_group(pod, limits) {
            Ok(()) => {
                self.group_limits = Some(limits);
                true
            }
            Err(e) => self.failed(pod, format!("failed to set the pod's limits: {e}")),
        }
    }

    fn failed(&mut self, pod: &Pod, why: String) -> bool {
        if self.resize.error != why {
            let text = said("error", pod, &why);
            self.record(pod, Severity::Warning, "ResizeError", text);
            self.resize.error = why;
        }
        false
    }

    /// Whether a resize waits for room.
    pub(super) fn waits_for_room(&self) -> bool {
        matches!(&self.resize.pending, Some(("Deferred", _)))
    }
}

/// New attempts have what the pod was given when they were made.
fn adopt(have: &mut Allocation, seen: &SeenPod) {
    let ids = |id: &String| seen.containers.iter().any(|c| &c.id == id);
    have.given.retain(|_, g| ids(&g.id));
    for c in seen.containers.iter().filter(|c| c.run == Run::Running) {
        let known = have.given.get(&c.name).is_some_and(|g| g.id == c.id);
        if let Some(resources) = have.containers.get(&c.name).filter(|_| !known) {
            let given = AllocatedResources {
                id: c.id.clone(),
                resources: resources.clone(),
            };
            have.given.insert(c.name.clone(), given);
        }
    }
}

/// What an event of a resize says: upstream's words, which programs read.
fn said(what: &str, pod: &Pod, error: &str) -> String {
    #[derive(serde::Serialize)]
    struct Has<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Has<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<Has<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    fn all(containers: &[Container]) -> Vec<Has<'_>> {
        let has = containers.iter().map(|c| Has {
            name: &c.name,
            resources: c.resources.clone().unwrap_or_default(),
        });
        has.collect()
    }
    let summary = Summary {
        init_containers: all(spec::init_containers(pod)),
        containers: all(spec::containers(pod)),
        generation: pod.metadata.generation.unwrap_or_default(),
        error,
    };
    let text = serde_json::to_string(&summary).unwrap_or_default();
    format!("Pod resize {what}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_of_resizes_have_upstreams_words() {
        let pod = json!({ "metadata": { "name": "p", "generation": 2 }, "spec": {
            "initContainers": [{ "name": "i" }],
            "containers": [{ "name": "a", "resources": { "requests": { "cpu": "1" } } }] } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let containers = r#""initContainers":[{"name":"i","resources":{}}],"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}],"generation":2"#;
        assert_eq!(
            said("completed", &pod, ""),
            format!("Pod resize completed: {{{containers}}}")
        );
        assert_eq!(
            said("Deferred", &pod, "no room"),
            format!(r#"Pod resize Deferred: {{{containers},"error":"no room"}}"#)
        );
    }
}
