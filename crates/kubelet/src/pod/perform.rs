//! Carrying out effects: sandboxes, containers, volumes; and the last ones, that give everything
//! back. It decides nothing, and waits for nothing but what it does.

mod containers;

use super::deps::Deps;
use super::handle::Desired;
use super::plan::Effect;
use super::publish::Publisher;
use super::resize_work::Grants;
use super::runtime_state::SeenPod;
use super::state_machine::Result as Outcome;
use super::{dns_events, effect_span, handlers, remains, resources, sandbox, spec};
use crate::events::Severity;
use crate::metrics::{COUNTS, STARTS, Start};
use crate::volumes::{Mounted, join_groups};
use host::cgroup::Limits;
use host::runtime::{IdRange, SandboxSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use std::path::Path;
use std::sync::Arc;

/// What carries the effects of one pod out.
pub(super) struct Hands {
    deps: Arc<Deps>,
    pub(super) grants: Grants,
    /// Where its volumes are, once this kubelet made them.
    mounted: Option<Mounted>,
    /// How long its start takes.
    pub(super) start: Start,
}

impl Hands {
    pub(super) fn new(deps: Arc<Deps>, start: Start) -> Self {
        Self {
            start,
            grants: Grants::new(deps.clone()),
            deps,
            mounted: None,
        }
    }

    /// Carries one effect out; what became of it. Under a span of its own, where that is wanted.
    pub(super) async fn perform(
        &mut self,
        effect: &Effect,
        desired: &Desired,
        pod: &Arc<Pod>,
        seen: &SeenPod,
        publisher: &Publisher,
    ) -> Outcome {
        let Some(span) = effect_span::begin((&self.deps.tracer, self.deps.clock), effect, pod)
        else {
            return self.carry_out(effect, desired, pod, seen, publisher).await;
        };
        let work = Box::pin(self.carry_out(effect, desired, pod, seen, publisher));
        let outcome = span.over(work).await;
        effect_span::end(&span, &outcome);
        outcome
    }

    async fn carry_out(
        &mut self,
        effect: &Effect,
        desired: &Desired,
        pod: &Arc<Pod>,
        seen: &SeenPod,
        publisher: &Publisher,
    ) -> Outcome {
        let runtime = &self.deps.runtime;
        match effect {
            Effect::CreateSandbox { attempt } => {
                let made = self.create_sandbox(pod, *attempt).await;
                STARTS.pod(made);
                of(made)
            }
            Effect::StopSandbox { id } => {
                logged(pod, "stopping a sandbox", runtime.stop_sandbox(id).await)
            }
            Effect::Start {
                name,
                attempt,
                sandbox_id,
                round,
            } => {
                let which = (*attempt, *round);
                let started = self.start_container(pod, seen, name, which, sandbox_id);
                let outcome = started.await;
                let failed = match &outcome {
                    Outcome::NotPulled { .. } => Some("ErrImagePull"),
                    Outcome::NotStarted { reason, .. } => Some(reason.as_str()),
                    Outcome::Failed => Some("FailedMount"),
                    Outcome::Done => None,
                };
                STARTS.container(pod, name, failed);
                outcome
            }
            Effect::Resize { id, name, .. } => {
                of(self.grants.resize_container(pod, name, id).await)
            }
            Effect::LimitPod { limits } => of(self.grants.limit_pod(pod, *limits)),
            Effect::RefreshVolumes => {
                let ips = seen.ready_sandbox().map(|s| s.ips.clone());
                let ips = self.ips_or_host(pod, ips.unwrap_or_default());
                of(self.prepare_volumes(pod, &ips).await)
            }
            Effect::RemoveContainer { id, log } => {
                let removed = runtime.remove_container(id).await;
                if removed.is_ok() {
                    remains::remove_log(&self.deps, pod, id, Path::new(log));
                }
                logged(pod, "removing a dead container", removed)
            }
            Effect::RemoveSandbox { id } => logged(
                pod,
                "removing a dead sandbox",
                runtime.remove_sandbox(id).await,
            ),
            Effect::Release => of(self.release(pod).await),
            Effect::DeleteObject => of(self.delete(desired, pod, seen, publisher).await),
            // Kills are carried out before; the others are only shown.
            Effect::Kill(_) | Effect::BackOff { .. } | Effect::WakeAt(_) => Outcome::Done,
        }
    }

    /// The sandbox to ask for, and what must be said of it.
    fn sandbox_config(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> Result<(SandboxSpec, Vec<String>), String> {
        let config = &self.deps.config;
        let resolver = self.deps.resolver()?;
        let (mut made, said) =
            sandbox::config(pod, config, attempt, &self.grants.group(pod), &resolver)?;
        made.security.namespaces.users = self.users(pod)?;
        join_groups(self.mounted.as_ref(), &mut made.security.more_groups);
        let cpus = &self.deps.cpus;
        cpus.limit_sandbox(spec::uid(pod), &mut made.resources);
        Ok((made, said))
    }

    /// The users of a pod that has some of its own. Where they are not known it gets none at all: the
    /// machine's are not for it.
    fn users(&self, pod: &Pod) -> Result<Option<IdRange>, String> {
        if spec::of(pod).host_users != Some(false) {
            return Ok(None);
        }
        let given = self.deps.user_ids.give(spec::uid(pod));
        let given = given.map_err(|e| format!("create user namespace: {e}"))?;
        Ok(Some(given))
    }

    async fn create_sandbox(&mut self, pod: &Arc<Pod>, attempt: u32) -> bool {
        let say = |deps: &Deps, severity, reason: &str, text: String| {
            deps.recorder.pod(pod, None, severity, reason, text);
        };
        if let Err(e) = self.make_room(pod) {
            let text = format!("error making pod data directories: {e}");
            say(&self.deps, Severity::Warning, "Failed", text);
            return false;
        }
        if attempt > 0 {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            say(&self.deps, Severity::Normal, "SandboxChanged", text.into());
        }
        if !self.prepare_volumes(pod, &[]).await {
            return false;
        }
        if let Err(e) = self.deps.dra.prepare(pod).await {
            let text =
                format!("Failed to prepare dynamic resources: prepare dynamic resources: {e}");
            let reason = "FailedPrepareDynamicResources";
            say(&self.deps, Severity::Warning, reason, text);
            return false;
        }
        match self.run_sandbox(pod, attempt).await {
            Ok(_) => true,
            Err(e) => {
                let health = self.deps.runtime.health().await;
                let (reason, text) = sandbox::failed(pod, health.as_ref(), &e);
                say(&self.deps, Severity::Warning, reason, text);
                false
            }
        }
    }

    /// Asks the runtime for a sandbox, with the handler of the pod's RuntimeClass.
    async fn run_sandbox(&self, pod: &Pod, attempt: u32) -> Result<String, String> {
        let runtime = &self.deps.runtime;
        let handler = handlers::of(&self.deps.client, pod).await?;
        let own_users = spec::of(pod).host_users == Some(false);
        if own_users {
            let health = runtime.health().await.map_err(|e| e.to_string())?;
            sandbox::user_namespace(&handler, health.has_user_namespaces(&handler))?;
        }
        let (config, said) = self.sandbox_config(pod, attempt)?;
        dns_events::of_pod(&self.deps, pod, said);
        let made = runtime.run_sandbox(&config, &handler).await;
        if own_users {
            COUNTS.user_namespace(made.is_ok());
        }
        made.map_err(|e| e.to_string())
    }

    /// Folders and groups of the pod.
    fn make_room(&mut self, pod: &Pod) -> std::io::Result<()> {
        let c = &self.deps.config;
        let dir = c.pod_dir(spec::uid(pod));
        crate::volumes::private_folder(&dir.join("volumes"))?;
        crate::volumes::private_folder(&dir.join("containers"))?;
        // It may be an older kubelet's.
        crate::volumes::atomic::set_mode(&dir, 0o750)?;
        std::fs::create_dir_all(c.pod_log_dir(
            spec::namespace(pod),
            spec::name(pod),
            spec::uid(pod),
        ))?;
        let limits = resources::pod_limits(pod);
        let group = self.grants.group(pod);
        let wanted = self.deps.cpus.of_group(spec::uid(pod), limits);
        STARTS.group("create", || self.deps.cgroups.create(&group, &wanted))?;
        if c.pod_pids_limit.is_some() {
            // No resize changes it, so it is not among what a resize compares.
            let pids = Limits {
                pids: c.pod_pids_limit,
                ..Default::default()
            };
            self.deps.cgroups.set(&group, &pids)?;
        }
        self.grants.note_group(pod, limits);
        Ok(())
    }

    async fn prepare_volumes(&mut self, pod: &Arc<Pod>, ips: &[String]) -> bool {
        let (around, fresh) = (self.deps.around(ips), self.mounted.is_some());
        match self.deps.volumes.prepare(pod, &around, fresh).await {
            Ok(mounted) => {
                self.mounted = Some(mounted);
                true
            }
            Err(e) => {
                self.deps
                    .recorder
                    .pod(pod, None, Severity::Warning, "FailedMount", e.to_string());
                false
            }
        }
    }

    fn ips_or_host(&self, pod: &Pod, ips: Vec<String>) -> Vec<String> {
        if spec::host_network(pod) {
            self.deps.config.node_ips()
        } else {
            ips
        }
    }

    /// Gives back what is mounted or prepared, and the group. False if some of it is still there.
    async fn release(&self, pod: &Pod) -> bool {
        let given_back = self.deps.dra.release(spec::uid(pod)).await;
        if let Err(error) = &given_back {
            tracing::warn!(
                pod = spec::full_name(pod),
                error,
                "unpreparing dynamic resources failed; trying again"
            );
        }
        let unmounted = self.deps.volumes.unmount(spec::uid(pod)).await;
        if let Err(e) = &unmounted {
            tracing::warn!(pod = spec::full_name(pod), error = %e, "unmounting failed; trying again");
        }
        let group = self.grants.group(pod);
        if let Err(e) = remains::remove_group(&self.deps, &group, || false).await {
            tracing::debug!(pod = spec::full_name(pod), error = %e, "a group could not be removed yet");
        }
        unmounted.is_ok() && given_back.is_ok()
    }

    /// Removes the object, then all that is left on the node. False if the object is still there.
    async fn delete(
        &self,
        desired: &Desired,
        pod: &Arc<Pod>,
        seen: &SeenPod,
        publisher: &Publisher,
    ) -> bool {
        if !desired.gone {
            publisher.flush().await;
            match self.delete_object(pod).await {
                Ok(()) => {}
                Err(kube::Error::Api(e)) if e.code == 403 => {
                    tracing::warn!(pod = spec::full_name(pod), error = %e, "a pod's object may not be deleted; trying again");
                    return false;
                }
                Err(e) => {
                    tracing::debug!(pod = spec::full_name(pod), error = %e, "deleting a pod's object failed; trying again");
                    return false;
                }
            }
        }
        for sandbox in &seen.sandboxes {
            if let Err(e) = self.deps.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(pod = spec::full_name(pod), error = %e, "removing a sandbox failed");
            }
        }
        remains::remove_files(&self.deps, pod).await;
        self.deps.owners.forget(spec::uid(pod));
        true
    }

    async fn delete_object(&self, pod: &Pod) -> kube::Result<()> {
        let api: kube::Api<Pod> =
            kube::Api::namespaced(self.deps.client.clone(), spec::namespace(pod));
        let how = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..Default::default()
        };
        match api.delete(spec::name(pod), &how).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn of(well: bool) -> Outcome {
    if well { Outcome::Done } else { Outcome::Failed }
}

/// What a call to the runtime came to; a failure is for the node's log.
fn logged(pod: &Pod, what: &str, outcome: Result<(), host::runtime::Error>) -> Outcome {
    if let Err(e) = &outcome {
        tracing::warn!(pod = spec::full_name(pod), error = %e, "{what} failed");
    }
    of(outcome.is_ok())
}
