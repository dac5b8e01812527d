//! Starting one container: its images, its description for the runtime, its hook after the start. What
//! becomes of the pod is its parent's matter.

use super::{Hands, logged};
use crate::dra::cdi;
use crate::events::Severity;
use crate::images::RequiredImage;
use crate::log_links::Links;
use crate::metrics::METRICS;
use crate::objects;
use crate::pod::container::{self, Parts};
use crate::pod::deps::Deps;
use crate::pod::env::{self, Sources};
use crate::pod::runtime_state::{self, SeenPod};
use crate::pod::state_machine::Result as Outcome;
use crate::pod::{handlers, own_files, resources, security, spec, unified};
use crate::probes::hook;
use crate::volumes::{Mounted, join_groups, subpath};
use clock::Instant;
use host::runtime::{ContainerSpec, Image, Namespace, SandboxSpec};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of a file of environment variables. 1 MiB: a program's whole environment and
/// arguments may not be larger than 2 MiB.
const MOST_VARIABLES: u64 = 1 << 20;

/// How often a container is described again because what a `subPath` named was exchanged before the
/// runtime mounted it. Who exchanges it faster than that has the failure, and its back-off.
const SUB_PATH_TRIES: u32 = 4;

impl Hands {
    /// Starts a container of a sandbox, with all that comes before: its images and volumes. `attempt` and
    /// `round`: how often it was started, and in which round of the pod.
    pub(super) async fn start_container(
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
}
