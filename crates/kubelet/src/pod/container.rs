//! A container of a pod in the runtime's words: command, environment, mounts, resources, security.

use super::env::expand;
use super::runtime_state::label;
use super::sandbox;
use super::security::{app_armor, seccomp, selinux};
use super::spec;
use crate::node::machine::KernelTraits;
use crate::volumes::{Mounted, subpath};
use host::runtime::{
    ContainerSecurity, ContainerSpec, Device, Image, Mount, Propagation, Resources, Security, Texts,
};
use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext, VolumeDevice, VolumeMount};
use std::path::{Path, PathBuf};

/// Why a container cannot be described: it waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Paths that hide the kernel's inner state from containers.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that containers may read only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What a container is made from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Which attempt it is.
    pub attempt: u32,
    /// Its image as found.
    pub image: &'a Image,
    /// Its environment.
    pub env: &'a [(String, String)],
    /// Volumes on the host.
    pub volumes: &'a Mounted,
    /// Folder of the pod on the host.
    pub pod_dir: &'a Path,
    /// The node's folder of seccomp profiles.
    pub seccomp_profiles: &'a Path,
    /// The hosts file of the pod.
    pub hosts_file: Option<&'a Path>,
    /// The file for its termination message.
    pub message_file: &'a Path,
    /// Resources and scores.
    pub resources: Resources,
    /// The runtime can make mounts read-only with all below them.
    pub recursive_read_only: bool,
    /// What of the machine's kernel decides how containers are made.
    pub kernel: &'a KernelTraits,
}

/// The container to ask for.
pub fn config(parts: &Parts) -> Result<ContainerSpec, Error> {
    let (pod, c) = (parts.pod, parts.container);
    let known = |name: &str| {
        parts
            .env
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    let expanded = |list: &Option<Vec<String>>| {
        list.iter()
            .flatten()
            .map(|text| expand(text, known))
            .collect::<Vec<_>>()
    };
    Ok(ContainerSpec {
        name: c.name.clone(),
        attempt: parts.attempt,
        image_id: parts.image.id.clone(),
        image: c.image.clone().unwrap_or_default(),
        command: expanded(&c.command),
        args: expanded(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        env: parts.env.to_vec(),
        mounts: mounts(parts)?,
        devices: devices(parts)?,
        cdi_devices: Vec::new(),
        labels: labels(pod, c),
        annotations: annotations(parts),
        log_path: format!("{}/{}.log", c.name, parts.attempt),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        stop_signal: stop_signal(c).unwrap_or_default().to_owned(),
        resources: parts.resources.clone(),
        security: security(parts)?,
    })
}

/// The signal that a container wants to be stopped with, where it says so.
#[must_use]
pub fn stop_signal(c: &Container) -> Option<&str> {
    c.lifecycle.as_ref()?.stop_signal.as_deref()
}

/// Whether a container asks for mounts that are read-only with all below them.
#[must_use]
pub fn wants_recursive_read_only(c: &Container) -> bool {
    let mut mounts = c.volume_mounts.iter().flatten();
    mounts.any(|m| {
        matches!(
            m.recursive_read_only.as_deref(),
            Some("Enabled" | "IfPossible")
        )
    })
}

fn labels(pod: &Pod, c: &Container) -> Texts {
    [
        (label::POD_NAME, spec::name(pod)),
        (label::POD_NAMESPACE, spec::namespace(pod)),
        (label::POD_UID, spec::uid(pod)),
        (label::CONTAINER_NAME, c.name.as_str()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn annotations(parts: &Parts) -> Texts {
    let c = parts.container;
    [
        (label::HASH, spec::hash(c)),
        (label::RESTART_COUNT, parts.attempt.to_string()),
        (label::MESSAGE_PATH, message_path(c).to_owned()),
        (
            label::MESSAGE_POLICY,
            c.termination_message_policy
                .clone()
                .unwrap_or_else(|| "File".into()),
        ),
        (label::GRACE, spec::grace_seconds(parts.pod).to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

fn message_path(c: &Container) -> &str {
    c.termination_message_path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/dev/termination-log")
}

fn mounts(parts: &Parts) -> Result<Vec<Mount>, Error> {
    let mut out = Vec::new();
    let volume_mounts = parts.container.volume_mounts.iter().flatten();
    for (index, mount) in volume_mounts.enumerate() {
        out.push(volume_mount(parts, index, mount)?);
    }
    let plain = |from: &Path, to: &str| Mount {
        container_path: to.to_owned(),
        host_path: from.to_string_lossy().into_owned(),
        relabel: parts.kernel.selinux,
        ..Default::default()
    };
    let taken = |path: &str| out.iter().any(|m| m.container_path == path);
    let hosts = parts
        .hosts_file
        .filter(|_| !taken("/etc/hosts"))
        .map(|f| plain(f, "/etc/hosts"));
    out.extend(hosts);
    out.push(plain(parts.message_file, message_path(parts.container)));
    Ok(out)
}

/// Block volumes of the container.
fn devices(parts: &Parts) -> Result<Vec<Device>, Error> {
    let all = parts.container.volume_devices.iter().flatten();
    let one = |device: &VolumeDevice| {
        let found = parts.volumes.get(&device.name);
        let found =
            found.ok_or_else(|| Error(format!("volume \"{}\" is not mounted", device.name)))?;
        if !found.block {
            return Err(Error(format!(
                "volume \"{}\" is not a block device, but is specified in volumeDevices",
                device.name
            )));
        }
        let permissions = if found.read_only { "r" } else { "mrw" };
        Ok(Device {
            container_path: device.device_path.clone(),
            host_path: found.path.to_string_lossy().into_owned(),
            permissions: permissions.to_owned(),
        })
    };
    all.map(one).collect()
}

fn volume_mount(parts: &Parts, index: usize, mount: &VolumeMount) -> Result<Mount, Error> {
    let root = parts
        .volumes
        .get(&mount.name)
        .ok_or_else(|| Error(format!("volume \"{}\" is not mounted", mount.name)))?;
    let from: PathBuf = match sub_path(parts, mount)? {
        Some(sub) => bind_sub_path(parts, index, mount, &root.path, &sub)?,
        None => root.path.clone(),
    };
    let recursive = recursive_read_only(mount, parts.recursive_read_only)?;
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    let to = &mount.mount_path;
    Ok(Mount {
        container_path: if to.starts_with('/') {
            to.clone()
        } else {
            format!("/{to}")
        },
        host_path: from.to_string_lossy().into_owned(),
        read_only: mount.read_only.unwrap_or(false)
            || root.read_only
            || is_read_only_volume(parts.pod, &mount.name),
        recursive_read_only: recursive,
        relabel: parts.kernel.selinux && root.is_labelled,
        propagation,
    })
}

/// Whether what is mounted below a mount is read-only, too.
fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, Error> {
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if mode == "Disabled" {
        return Ok(false);
    }
    let refuse = |why: String| {
        let name = &mount.name;
        Err(Error(format!(
            "volume \"{name}\" requested recursive read-only mode, but it is {why}"
        )))
    };
    if mount.read_only != Some(true) {
        return refuse("not read-only".into());
    }
    let propagation = mount.mount_propagation.as_deref();
    if let Some(other) = propagation.filter(|p| *p != "None") {
        return refuse(format!("not compatible with propagation {other:?}"));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => refuse("not supported by the runtime".into()),
        other => Err(Error(format!("unknown recursive read-only mode {other:?}"))),
    }
}

/// Which part of the volume is meant, if not all of it.
fn sub_path(parts: &Parts, mount: &VolumeMount) -> Result<Option<String>, Error> {
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(text)) if !text.is_empty() => {
            let missing = std::cell::RefCell::new(None);
            let known = |name: &str| {
                let found = parts.env.iter().find(|(n, _)| n == name);
                if found.is_none() {
                    missing.replace(Some(name.to_owned()));
                }
                found.map(|(_, value)| value.clone())
            };
            let sub = expand(text, known);
            if let Some(name) = missing.into_inner() {
                return Err(Error(format!(
                    "failed to expand subPathExpr \"{text}\": missing value for {name}"
                )));
            }
            sub
        }
        _ => return Ok(None),
    };
    if subpath::is_local(&sub) {
        Ok(Some(sub).filter(|s| !s.is_empty()))
    } else {
        Err(Error(format!(
            "subPath \"{sub}\" must be a relative path without '..'"
        )))
    }
}

fn bind_sub_path(
    parts: &Parts,
    index: usize,
    mount: &VolumeMount,
    root: &Path,
    sub: &str,
) -> Result<PathBuf, Error> {
    let place = subpath::ContainerMount {
        volume: &mount.name,
        container: &parts.container.name,
        index,
    };
    subpath::bind(parts.pod_dir, root, sub, place).map_err(|e| {
        // The reason may reveal what is on the host, so it is for the node's log alone.
        tracing::warn!(
            pod = spec::full_name(parts.pod),
            container = parts.container.name,
            volume = mount.name,
            sub_path = sub,
            error = %e,
            "preparing a subPath failed"
        );
        Error(format!(
            "failed to prepare subPath for volumeMount \"{}\" of container \"{}\"",
            mount.name, parts.container.name
        ))
    })
}

/// Volumes whose files come from objects cannot be written.
fn is_read_only_volume(pod: &Pod, name: &str) -> bool {
    spec::of(pod).volumes.iter().flatten().any(|v| {
        v.name == name
            && (v.config_map.is_some()
                || v.secret.is_some()
                || v.downward_api.is_some()
                || v.projected.is_some()
                || v.image.is_some())
    })
}

fn security(parts: &Parts) -> Result<ContainerSecurity, Error> {
    let (pod, c, image) = (parts.pod, parts.container, parts.image);
    let own = c.security_context.clone().unwrap_or_default();
    let of_pod = spec::of(pod).security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user).or(image.user);
    let group = own.run_as_group.or(of_pod.run_as_group);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        check_not_root(pod, c, &own, of_pod.run_as_user, image)?;
    }
    let privileged = own.privileged.unwrap_or(false);
    let whole_proc = own.proc_mount.as_deref() == Some("Unmasked");
    if whole_proc && spec::of(pod).host_users != Some(false) {
        // The API refuses it; an object may be older than that rule.
        return Err(Error(
            "`hostUsers` must be false to use procMount `Unmasked`".into(),
        ));
    }
    let bare = privileged || whole_proc;
    let list = |paths: &[&str], more: &[String]| {
        if bare {
            return Vec::new();
        }
        let own = paths.iter().map(|p| (*p).to_owned());
        own.chain(more.iter().cloned()).collect()
    };
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let name_given = user.is_none() && !image.user_name.is_empty();
    let common = Security {
        namespaces: sandbox::namespaces(pod),
        privileged,
        user,
        group: group.filter(|_| user.is_some() || name_given),
        more_groups: sandbox::groups(pod),
        strict_groups: sandbox::strict_groups(pod),
        selinux: own
            .se_linux_options
            .as_ref()
            .or(of_pod.se_linux_options.as_ref())
            .map(selinux),
        seccomp: seccomp(
            own.seccomp_profile
                .as_ref()
                .or(of_pod.seccomp_profile.as_ref()),
            parts.seccomp_profiles,
        ),
    };
    let user_name = image.user_name.clone();
    Ok(ContainerSecurity {
        common,
        user_name: if name_given { user_name } else { String::new() },
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&MASKED, &parts.kernel.throttle_counters),
        read_only_paths: list(&READ_ONLY, &[]),
        app_armor: own
            .app_armor_profile
            .as_ref()
            .or(of_pod.app_armor_profile.as_ref())
            .map(app_armor),
    })
}

fn check_not_root(
    pod: &Pod,
    c: &Container,
    own: &SecurityContext,
    of_pod: Option<i64>,
    image: &Image,
) -> Result<(), Error> {
    let place = || format!("(pod: \"{}\", container: {})", spec::full_name(pod), c.name);
    match own.run_as_user.or(of_pod) {
        Some(0) => Err(Error(format!(
            "container's runAsUser breaks non-root policy {}",
            place()
        ))),
        Some(_) => Ok(()),
        None => match image.user {
            Some(0) => Err(Error(format!(
                "container has runAsNonRoot and image will run as root {}",
                place()
            ))),
            Some(_) => Ok(()),
            None if image.user_name.is_empty() => Err(Error(format!(
                "container has runAsNonRoot and image will run as root {}",
                place()
            ))),
            None => Err(Error(format!(
                "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {}",
                image.user_name,
                place()
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mount_is_read_only_with_all_below_it_where_the_runtime_can() {
        let ask = |mode: &str, more: serde_json::Value, supported: bool| {
            let mut mount = more;
            mount["name"] = "v".into();
            mount["mountPath"] = "/v".into();
            mount["recursiveReadOnly"] = mode.into();
            let mount: VolumeMount = serde_json::from_value(mount).unwrap();
            recursive_read_only(&mount, supported).map_err(|e| e.0)
        };
        let plain = || json!({ "readOnly": true });
        assert_eq!(ask("Disabled", plain(), true), Ok(false));
        assert_eq!(ask("IfPossible", plain(), true), Ok(true));
        assert_eq!(ask("IfPossible", plain(), false), Ok(false));
        assert_eq!(ask("Enabled", plain(), true), Ok(true));
        let why = |answer: Result<bool, String>| answer.unwrap_err();
        let begin = "volume \"v\" requested recursive read-only mode, but it is not ";
        for (answer, end) in [
            (ask("Enabled", plain(), false), "supported by the runtime"),
            (ask("IfPossible", json!({}), true), "read-only"),
            (
                ask(
                    "Enabled",
                    json!({ "readOnly": true, "mountPropagation": "HostToContainer" }),
                    true,
                ),
                "compatible with propagation \"HostToContainer\"",
            ),
        ] {
            assert_eq!(why(answer), format!("{begin}{end}"));
        }
        assert!(ask("Ever", plain(), true).is_err());
    }
}
