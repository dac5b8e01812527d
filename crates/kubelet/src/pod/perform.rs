//! Carrying out effects: sandboxes, containers, volumes; and the last ones, that give everything
//! back. It decides nothing, and waits for nothing but what it does.

use super::container::{self, Parts};
use super::deps::Deps;
use super::env::{self, Sources};
use super::handle::Desired;
use super::plan::Effect;
use super::publish::Publisher;
use super::resize_work::Grants;
use super::runtime_state::{self, SeenPod};
use super::state_machine::Result as Outcome;
use super::{
    dns_events, effect_span, handlers, own_files, remains, resources, sandbox, security, spec,
    unified,
};
use crate::dra::cdi;
use crate::events::Severity;
use crate::images::RequiredImage;
use crate::log_links::Links;
use crate::metrics::{COUNTS, METRICS, STARTS, Start};
use crate::objects;
use crate::probes::hook;
use crate::volumes::{Mounted, join_groups, subpath};
use clock::Instant;
use host::cgroup::Limits;
use host::runtime::{ContainerSpec, IdRange, Image, Namespace, SandboxSpec};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Preconditions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of a file of environment variables. 1 MiB: a program's whole environment and
/// arguments may not be larger than 2 MiB.
const MOST_VARIABLES: u64 = 1 << 20;

/// How often a container is described again because what a `subPath` named was exchanged before the
/// runtime mounted it. Who exchanges it faster than that has the failure, and its back-off.
const SUB_PATH_TRIES: u32 = 4;

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

    /// Whether a container that asks for it can have mounts that are read-only with all below them.
    async fn has_recursive_read_only(&self, pod: &Pod, c: &Container) -> Result<bool, String> {
        if !container::wants_recursive_read_only(c) {
            return Ok(false);
        }
        let handler = handlers::of(&self.deps.client, pod).await?;
        let health = self.deps.runtime.health().await;
        let health = health.map_err(|e| e.to_string())?;
        Ok(health.has_recursive_read_only(&handler))
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

    async fn start_container(
        &mut self,
        pod: &Arc<Pod>,
        seen: &SeenPod,
        name: &str,
        (attempt, round): (u32, u32),
        sandbox_id: &str,
    ) -> Outcome {
        let Some(container) = spec::find(pod, name) else {
            return Outcome::Done;
        };
        let warn = |deps: &Deps, text: &str| {
            let (severity, text) = (Severity::Warning, format!("Error: {text}"));
            deps.recorder.pod(pod, Some(name), severity, "Failed", text);
        };
        let not_started = |deps: &Deps, reason: &str, message: String, tried: bool| {
            warn(deps, &message);
            let reason = reason.to_owned();
            Outcome::NotStarted {
                reason,
                message,
                tried,
            }
        };
        let sandbox = seen.sandboxes.iter().find(|s| s.id == sandbox_id);
        let sandbox_config = match self.sandbox_config(pod, sandbox.map_or(0, |s| s.attempt)) {
            Ok((config, _)) => config,
            Err(message) => {
                return not_started(&self.deps, "CreateContainerConfigError", message, false);
            }
        };
        let began = Instant::now();
        let found = self.images_of(pod, &container, &sandbox_config).await;
        self.start.waited_for_images(began.elapsed());
        let image = match found {
            Ok(image) => image,
            Err((e, image)) => {
                warn(&self.deps, e.reason);
                let (reason, message) = (e.reason.to_owned(), e.message);
                return if e.is_pull {
                    Outcome::NotPulled { image, message }
                } else {
                    Outcome::NotStarted {
                        reason,
                        message,
                        tried: false,
                    }
                };
            }
        };
        let ips = self.ips_or_host(pod, sandbox.map(|s| s.ips.clone()).unwrap_or_default());
        if self.mounted.is_none() && !self.prepare_volumes(pod, &ips).await {
            return Outcome::Failed;
        }
        if let Err(text) = self.show_images(pod, &container).await {
            return not_started(&self.deps, "CreateContainerError", text, true);
        }
        let mut tries = 1;
        let outcome = loop {
            let outcome = match self.describe(pod, &container, attempt, &image, &ips).await {
                Ok(mut config) => {
                    self.share_processes(pod, seen, name, &mut config);
                    if round > 0 {
                        let (key, value) =
                            (runtime_state::label::ROUND.to_owned(), round.to_string());
                        config.annotations.insert(key, value);
                    }
                    let sandbox_config = sandbox_config.clone();
                    self.create_and_start(pod, &container, sandbox_id, config, sandbox_config, &ips)
                        .await
                }
                Err(text) => Err(("CreateContainerConfigError", text)),
            };
            if outcome.is_ok() || tries == SUB_PATH_TRIES || !self.sub_path_has_gone(pod, name) {
                break outcome;
            }
            tries += 1;
        };
        match outcome {
            Ok(()) => Outcome::Done,
            Err((reason, message)) => not_started(&self.deps, reason, message, true),
        }
    }

    /// The container's own image, when those of its volumes are here, too; else why, and which.
    async fn images_of(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &SandboxSpec,
    ) -> Result<Image, (crate::images::Error, String)> {
        let mut own = Image::default();
        for (volume, wanted) in RequiredImage::by(pod, container) {
            let found = self.deps.images.ensure(pod, &wanted, sandbox).await;
            let image = found.map_err(|e| (e, wanted.image.to_owned()))?;
            if volume.is_none() {
                own = image;
            }
        }
        Ok(own)
    }

    /// Shows the images that are the container's volumes at the volumes' folders.
    async fn show_images(&self, pod: &Pod, container: &Container) -> Result<(), String> {
        for (volume, wanted) in RequiredImage::by(pod, container) {
            let Some(volume) = volume else { continue };
            let shown = self.show_image(pod, volume, wanted.image).await;
            METRICS.image_volume(shown.is_ok());
            shown.map_err(|why| {
                let image = wanted.image;
                format!("failed to mount image {image:?} of volume {volume:?}: {why}")
            })?;
        }
        Ok(())
    }

    async fn show_image(&self, pod: &Pod, volume: &str, image: &str) -> Result<(), String> {
        let (runtime, volumes) = (&self.deps.runtime, &self.deps.volumes.0);
        let found = runtime.image(&crate::images::with_tag(image)).await;
        let image = found.map_err(|e| e.message())?;
        let image = image.ok_or("it is gone again")?;
        let dir = crate::volumes::image::dir(&volumes.pods_dir, pod, volume);
        let shown = runtime.mount_image(&image.id, &dir).await;
        shown.map_err(|e| e.message())
    }

    /// A debugging container sees the processes of the container that it names.
    fn share_processes(&self, pod: &Pod, seen: &SeenPod, name: &str, config: &mut ContainerSpec) {
        let target = spec::debug_target(pod, name).and_then(|t| seen.newest(t));
        if let Some(target) = target {
            config.security.common.namespaces.pid = Namespace::Of(target.id.clone());
        }
    }

    async fn describe(
        &self,
        pod: &Pod,
        c: &Container,
        attempt: u32,
        image: &Image,
        ips: &[String],
    ) -> Result<ContainerSpec, String> {
        let (devices, uid) = (&self.deps.devices, spec::uid(pod));
        devices.before_start(uid, &c.name).await?;
        let sources = self.sources(pod, c).await?;
        let services = self.deps.services.all().await;
        let environment = env::environment(pod, c, &sources, &services, &self.deps.around(ips))
            .map_err(|e| e.to_string())?;
        let memory = i64::try_from(self.deps.resources.memory_bytes).unwrap_or(i64::MAX);
        let from = (&self.deps.config, Path::new(own_files::HOSTS));
        let (message_file, hosts_file) =
            own_files::make(from, pod, c, attempt, ips).map_err(|e| e.to_string())?;
        let shown = security::with_default(pod, self.deps.config.seccomp_default);
        let mut granted = resources::container(pod, c, memory, self.deps.oom);
        self.deps.cpus.place(uid, &c.name, &mut granted);
        granted.memory_nodes = self.deps.topology.words(uid, &c.name);
        granted.unified.extend(unified::files(&self.deps, pod, c));
        let made = container::config(&Parts {
            pod: &shown,
            container: c,
            attempt,
            image,
            env: &environment,
            volumes: self.mounted.as_ref().unwrap_or(&Mounted::new()),
            pod_dir: &self.deps.config.pod_dir(spec::uid(pod)),
            seccomp_profiles: &self.deps.config.seccomp_profiles(),
            hosts_file: Some(&hosts_file),
            message_file: &message_file,
            resources: granted,
            recursive_read_only: self.has_recursive_read_only(pod, c).await?,
            kernel: &self.deps.kernel,
        });
        let mut made = made.map_err(|e| e.to_string())?;
        let common = &mut made.security.common;
        common.namespaces.users = self.users(pod)?;
        join_groups(self.mounted.as_ref(), &mut common.more_groups);
        devices.of(uid, &c.name).add_to(&mut made);
        self.deps.dra.add_to(pod, c, &mut made)?;
        if !made.cdi_devices.is_empty() {
            let runtime = self.deps.runtime.version().await;
            if !cdi::is_known_to(&runtime.map_err(|e| e.to_string())?) {
                cdi::resolve(&mut made, &cdi::FOLDERS.map(PathBuf::from))?;
            }
        }
        Ok(made)
    }

    /// Objects that environments name; one that is missing is an error only where it is used.
    async fn sources(&self, pod: &Pod, c: &Container) -> Result<Sources, String> {
        let mut out = Sources::default();
        for key in objects::of_pod(pod) {
            match self.deps.objects.get(&key).await {
                Ok(data) => {
                    out.objects.insert(key, data);
                }
                Err(objects::Error::NotFound(_)) => {}
                Err(e @ objects::Error::Read { .. }) => return Err(e.to_string()),
            }
        }
        for place in env::files_of(c) {
            let found = self.file_of_variables(pod, &place);
            out.files.insert(place, found);
        }
        Ok(out)
    }

    /// Reads a file that the pod wrote, and may be writing, or putting a link in the place of.
    fn file_of_variables(&self, pod: &Pod, (volume, path): &(String, String)) -> env::EnvFile {
        let Some(root) = self.mounted.as_ref().and_then(|m| m.get(volume)) else {
            return env::EnvFile::NoVolume;
        };
        let root = &root.path;
        match host::open_beneath::read_file(root, Path::new(path), MOST_VARIABLES) {
            Ok(bytes) => env::EnvFile::File {
                path: root.join(path).to_string_lossy().into_owned(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            },
            Err(e) => {
                tracing::warn!(pod = spec::full_name(pod), volume, path, error = %e, "a file of environment variables cannot be read");
                env::EnvFile::Unreadable
            }
        }
    }

    async fn create_and_start(
        &self,
        pod: &Arc<Pod>,
        c: &Container,
        sandbox_id: &str,
        config: ContainerSpec,
        sandbox_config: SandboxSpec,
        ips: &[String],
    ) -> Result<(), (&'static str, String)> {
        let (runtime, recorder) = (&self.deps.runtime, &self.deps.recorder);
        let log_dir = Path::new(&sandbox_config.log_directory).join(&c.name);
        std::fs::create_dir_all(&log_dir).map_err(|e| ("CreateContainerError", e.to_string()))?;
        let made = runtime.create_container(sandbox_id, &config, &sandbox_config);
        let id = match made.await {
            Ok(id) => id,
            Err(e) => return Err(("CreateContainerError", e.message())),
        };
        self.deps.owners.note(&id, spec::uid(pod));
        recorder.pod(
            pod,
            Some(&c.name),
            Severity::Normal,
            "Created",
            "Container created",
        );
        if let Err(e) = runtime.start_container(&id).await {
            if self.sub_path_has_gone(pod, &c.name) {
                // The next try has its name.
                let removed = runtime.remove_container(&id).await;
                logged(pod, "removing a container that did not start", removed);
            }
            return Err(("RunContainerError", e.message()));
        }
        recorder.pod(
            pod,
            Some(&c.name),
            Severity::Normal,
            "Started",
            "Container started",
        );
        if let Some(links) = Links::of(&self.deps.config) {
            let log = Path::new(&sandbox_config.log_directory).join(&config.log_path);
            links.make(pod, (&c.name, &id), &log);
        }
        self.check_stop_signal(pod, c, &id).await;
        let hook = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        if let Some(handler) = hook
            && let Err(e) = hook::run(
                &self.deps,
                pod,
                c,
                handler,
                &id,
                ips.first().map(String::as_str),
            )
            .await
        {
            recorder.pod(
                pod,
                Some(&c.name),
                Severity::Warning,
                "FailedPostStartHook",
                "PostStartHook failed",
            );
            let message = "FailedPostStartHook";
            recorder.pod(pod, Some(&c.name), Severity::Normal, "Killing", message);
            let stopped = runtime.stop_container(&id, spec::grace_seconds(pod));
            let what = "stopping a container whose hook failed";
            logged(pod, what, stopped.await);
            return Err(("PostStartHookError", e));
        }
        Ok(())
    }

    /// A runtime that is older than the field leaves it out without a word.
    async fn check_stop_signal(&self, pod: &Pod, c: &Container, id: &str) {
        let Some(wanted) = container::stop_signal(c) else {
            return;
        };
        let has = self.deps.runtime.container(id).await;
        if has.is_ok_and(|status| status.stop_signal.is_empty()) {
            let text = format!(
                "the container runtime does not take a container's own stop signal: the image's is sent in place of {wanted}"
            );
            let (recorder, warning) = (&self.deps.recorder, Severity::Warning);
            recorder.pod(pod, Some(&c.name), warning, "StopSignalNotSupported", text);
        }
    }

    fn sub_path_has_gone(&self, pod: &Pod, container: &str) -> bool {
        subpath::has_gone(&self.deps.config.pod_dir(spec::uid(pod)), container)
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
