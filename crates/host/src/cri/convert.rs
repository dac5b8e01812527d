//! Between our words and CRI's.

use super::v1;
use crate::runtime::{
    CgroupDriver, Condition, Container, ContainerSecurity, ContainerSpec, ContainerStatus,
    Credential, Device, Dns, Handler, Health, IdRange, Image, ImageFs, LayerUse, Mount, Namespace,
    Namespaces, PodName, PortMapping, ProcessUser, Profile, Propagation, Protocol, Resources,
    Sandbox, SandboxNetwork, SandboxSpec, SeLinux, Security, State, Texts,
};
use std::collections::HashMap;

fn table(texts: &Texts) -> HashMap<String, String> {
    let pairs = texts.iter();
    pairs.map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn texts(table: HashMap<String, String>) -> Texts {
    table.into_iter().collect()
}

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn namespaces(n: &Namespaces) -> v1::NamespaceOption {
    let mode = |n: &Namespace| match n {
        Namespace::Pod => v1::NamespaceMode::Pod,
        Namespace::Container => v1::NamespaceMode::Container,
        Namespace::Node => v1::NamespaceMode::Node,
        Namespace::Of(_) => v1::NamespaceMode::Target,
    } as i32;
    v1::NamespaceOption {
        network: mode(&n.network),
        pid: mode(&n.pid),
        ipc: mode(&n.ipc),
        target_id: match &n.pid {
            Namespace::Of(id) => id.clone(),
            _ => String::new(),
        },
        userns_options: Some(user_namespace(n.users)),
    }
}

fn mapping(range: IdRange) -> v1::IdMapping {
    v1::IdMapping {
        host_id: range.host,
        container_id: 0,
        length: range.length,
    }
}

fn user_namespace(range: Option<IdRange>) -> v1::UserNamespace {
    let mode = match range {
        None => v1::NamespaceMode::Node,
        Some(_) => v1::NamespaceMode::Pod,
    };
    let mappings: Vec<_> = range.map(mapping).into_iter().collect();
    v1::UserNamespace {
        mode: mode as i32,
        uids: mappings.clone(),
        gids: mappings,
    }
}

fn profile(p: &Profile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, path) = match p {
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Profile::Unconfined => (ProfileType::Unconfined, String::new()),
        Profile::Localhost(path) => (ProfileType::Localhost, path.clone()),
    };
    v1::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: path,
    }
}

fn selinux(s: &SeLinux) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: s.user.clone(),
        role: s.role.clone(),
        r#type: s.kind.clone(),
        level: s.level.clone(),
    }
}

fn groups_policy(strict: bool) -> i32 {
    if strict {
        v1::SupplementalGroupsPolicy::Strict as i32
    } else {
        v1::SupplementalGroupsPolicy::Merge as i32
    }
}

fn dns(d: &Dns) -> v1::DnsConfig {
    v1::DnsConfig {
        servers: d.servers.clone(),
        searches: d.searches.clone(),
        options: d.options.clone(),
    }
}

fn port(p: &PortMapping) -> v1::PortMapping {
    let protocol = match p.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    v1::PortMapping {
        protocol: protocol as i32,
        container_port: p.container_port,
        host_port: p.host_port,
        host_ip: p.host_ip.clone(),
    }
}

pub(super) fn sandbox_config(s: &SandboxSpec) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: s.pod.name.clone(),
            uid: s.pod.uid.clone(),
            namespace: s.pod.namespace.clone(),
            attempt: s.attempt,
        }),
        hostname: s.hostname.clone(),
        log_directory: s.log_directory.clone(),
        dns_config: Some(dns(&s.dns)),
        port_mappings: s.ports.iter().map(port).collect(),
        labels: table(&s.labels),
        annotations: table(&s.annotations),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: s.group.clone(),
            security_context: Some(sandbox_security(&s.security)),
            sysctls: table(&s.sysctls),
            overhead: Some(resources(&s.overhead)),
            resources: Some(resources(&s.resources)),
        }),
    }
}

fn sandbox_security(s: &Security) -> v1::LinuxSandboxSecurityContext {
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: s.user.map(number),
        run_as_group: s.group.map(number),
        supplemental_groups: s.more_groups.clone(),
        supplemental_groups_policy: groups_policy(s.strict_groups),
        selinux_options: s.selinux.as_ref().map(selinux),
        privileged: s.privileged,
        seccomp: Some(profile(&s.seccomp)),
        ..Default::default()
    }
}

/// `users`: those of the sandbox, by which owners of what is mounted are shown in it.
fn mount(m: &Mount, users: Option<IdRange>) -> v1::Mount {
    let mappings: Vec<_> = users.map(mapping).into_iter().collect();
    let propagation = match m.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.read_only,
        recursive_read_only: m.recursive_read_only,
        selinux_relabel: m.relabel,
        propagation: propagation as i32,
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        ..Default::default()
    }
}

fn device(d: &Device) -> v1::Device {
    v1::Device {
        container_path: d.container_path.clone(),
        host_path: d.host_path.clone(),
        permissions: d.permissions.clone(),
    }
}

pub(super) fn resources(r: &Resources) -> v1::LinuxContainerResources {
    let pages = r.huge_pages.iter().map(|(size, limit)| v1::HugepageLimit {
        page_size: size.clone(),
        limit: *limit,
    });
    v1::LinuxContainerResources {
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit_in_bytes: r.memory_bytes,
        memory_swap_limit_in_bytes: r.memory_and_swap_bytes,
        oom_score_adj: r.oom_score,
        hugepage_limits: pages.collect(),
        cpuset_cpus: r.cpus.clone(),
        cpuset_mems: r.memory_nodes.clone(),
        unified: table(&r.unified),
    }
}

pub(super) fn container_config(c: &ContainerSpec) -> v1::ContainerConfig {
    let env = c.env.iter().map(|(key, value)| v1::KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes(),
    });
    let users = c.security.common.namespaces.users;
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: c.name.clone(),
            attempt: c.attempt,
        }),
        image: Some(v1::ImageSpec {
            image: c.image_id.clone(),
            user_specified_image: c.image.clone(),
            ..Default::default()
        }),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        envs: env.collect(),
        mounts: c.mounts.iter().map(|m| mount(m, users)).collect(),
        devices: c.devices.iter().map(device).collect(),
        labels: table(&c.labels),
        annotations: table(&c.annotations),
        log_path: c.log_path.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        stop_signal: signal_number(&c.stop_signal),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&c.resources)),
            security_context: Some(container_security(&c.security)),
        }),
        cdi_devices: c.cdi_devices.iter().cloned().map(cdi_device).collect(),
    }
}

/// CRI's number of a signal in the API's words (`SIGRTMIN+1`); 0 for the image's.
fn signal_number(name: &str) -> i32 {
    let name = name.replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&name).unwrap_or_default() as i32
}

/// The API's word of CRI's number; empty where the runtime does not say.
fn signal_name(number: i32) -> String {
    match v1::Signal::try_from(number) {
        Ok(v1::Signal::RuntimeDefault) | Err(_) => String::new(),
        Ok(signal) => {
            let name = signal.as_str_name();
            name.replace("PLUS", "+").replace("MINUS", "-")
        }
    }
}

fn cdi_device(name: String) -> v1::CdiDevice {
    v1::CdiDevice { name }
}

fn container_security(c: &ContainerSecurity) -> v1::LinuxContainerSecurityContext {
    let s = &c.common;
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: c.add_capabilities.clone(),
            drop_capabilities: c.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: s.privileged,
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: s.user.map(number),
        run_as_group: s.group.map(number),
        run_as_username: c.user_name.clone(),
        readonly_rootfs: c.read_only_root,
        supplemental_groups: s.more_groups.clone(),
        supplemental_groups_policy: groups_policy(s.strict_groups),
        selinux_options: s.selinux.as_ref().map(selinux),
        apparmor: c.app_armor.as_ref().map(profile),
        no_new_privs: c.no_new_privileges,
        masked_paths: c.masked_paths.clone(),
        readonly_paths: c.read_only_paths.clone(),
        seccomp: Some(profile(&s.seccomp)),
    }
}

pub(super) fn credential(c: &Credential) -> v1::AuthConfig {
    v1::AuthConfig {
        username: c.username.clone(),
        password: c.password.clone(),
        server_address: c.server.clone(),
        ..Default::default()
    }
}

pub(super) fn health(found: v1::StatusResponse) -> Option<Health> {
    let condition = |c: v1::RuntimeCondition| Condition {
        kind: c.r#type,
        ok: c.status,
        reason: c.reason,
        message: c.message,
    };
    let handler = |h: v1::RuntimeHandler| {
        let features = h.features.unwrap_or_default();
        Handler {
            name: h.name,
            user_namespaces: features.user_namespaces,
            recursive_read_only: features.recursive_read_only_mounts,
        }
    };
    Some(Health {
        conditions: found
            .status?
            .conditions
            .into_iter()
            .map(condition)
            .collect(),
        strict_groups: found.features.is_some_and(|f| f.supplemental_groups_policy),
        handlers: found.runtime_handlers.into_iter().map(handler).collect(),
    })
}

/// Who makes control groups; none where the runtime does not say, which reads as systemd's number.
pub(super) fn cgroup_driver(said: v1::RuntimeConfigResponse) -> Option<CgroupDriver> {
    let number = said.linux?.cgroup_driver;
    Some(match v1::CgroupDriver::try_from(number) {
        Ok(v1::CgroupDriver::Systemd) => CgroupDriver::Systemd,
        Ok(v1::CgroupDriver::Cgroupfs) => CgroupDriver::Cgroupfs,
        Err(_) => CgroupDriver::Other(number),
    })
}

pub(super) fn sandbox(s: v1::PodSandbox) -> Sandbox {
    let meta = s.metadata.unwrap_or_default();
    Sandbox {
        id: s.id,
        pod: PodName {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
        },
        attempt: meta.attempt,
        ready: s.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: s.created_at,
        labels: texts(s.labels),
    }
}

pub(super) fn network(s: v1::PodSandboxStatus) -> SandboxNetwork {
    let options = s.linux.and_then(|l| l.namespaces?.options);
    let network = s.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|p| p.ip);
    let all = std::iter::once(network.ip).chain(more);
    SandboxNetwork {
        ips: all.filter(|ip| !ip.is_empty()).collect(),
        is_nodes: options.is_some_and(|o| o.network == v1::NamespaceMode::Node as i32),
    }
}

/// The first process, as a verbose status names it.
pub(super) fn pid(info: &HashMap<String, String>) -> Option<u32> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    let pid = info.get("pid")?.as_u64()?;
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

fn state(state: i32) -> State {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => State::Unknown,
    }
}

pub(super) fn container(c: v1::Container) -> Container {
    Container {
        id: c.id,
        sandbox_id: c.pod_sandbox_id,
        state: state(c.state),
        image: c.image.map(|i| i.image).unwrap_or_default(),
        image_ref: c.image_ref,
        labels: texts(c.labels),
    }
}

pub(super) fn container_status(s: v1::ContainerStatus) -> ContainerStatus {
    let meta = s.metadata.unwrap_or_default();
    let mounts = s.mounts.into_iter().map(|m| Mount {
        container_path: m.container_path,
        host_path: m.host_path,
        read_only: m.readonly,
        recursive_read_only: m.recursive_read_only,
        ..Default::default()
    });
    ContainerStatus {
        container: Container {
            id: s.id,
            // A status does not say; lists do.
            sandbox_id: String::new(),
            state: state(s.state),
            image: s.image.map(|i| i.image).unwrap_or_default(),
            image_ref: s.image_ref,
            labels: texts(s.labels),
        },
        name: meta.name,
        attempt: meta.attempt,
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        annotations: texts(s.annotations),
        mounts: mounts.collect(),
        log_path: s.log_path,
        stop_signal: signal_name(s.stop_signal),
        user: s.user.and_then(|u| u.linux).map(process_user),
    }
}

fn process_user(u: v1::LinuxContainerUser) -> ProcessUser {
    ProcessUser {
        user: u.uid,
        group: u.gid,
        more_groups: u.supplemental_groups,
    }
}

pub(super) fn image(i: v1::Image) -> Image {
    Image {
        id: i.id,
        tags: i.repo_tags,
        digests: i.repo_digests,
        bytes: i.size,
        user: i.uid.map(|u| u.value),
        user_name: i.username,
        pinned: i.pinned,
    }
}

pub(super) fn image_fs(f: v1::FilesystemUsage) -> ImageFs {
    ImageFs {
        mountpoint: f.fs_id.map(|id| id.mountpoint).unwrap_or_default(),
        bytes: f.used_bytes.map_or(0, |v| v.value),
        inodes: f.inodes_used.map_or(0, |v| v.value),
    }
}

pub(super) fn layer(s: v1::ContainerStats) -> Option<LayerUse> {
    let layer = s.writable_layer?;
    Some(LayerUse {
        id: s.attributes?.id,
        bytes: layer.used_bytes.map_or(0, |v| v.value),
        inodes: layer.inodes_used.map_or(0, |v| v.value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_control_groups_is_known_where_it_is_said() {
        let of = |number: Option<i32>| {
            cgroup_driver(v1::RuntimeConfigResponse {
                linux: number.map(|n| v1::LinuxRuntimeConfiguration { cgroup_driver: n }),
            })
        };
        assert_eq!(of(None), None);
        assert_eq!(of(Some(0)), Some(CgroupDriver::Systemd));
        assert_eq!(of(Some(1)), Some(CgroupDriver::Cgroupfs));
        assert_eq!(of(Some(7)), Some(CgroupDriver::Other(7)));
    }

    #[test]
    fn users_of_a_pod_are_told_to_the_runtime() {
        let range = IdRange {
            host: 131_072,
            length: 65_536,
        };
        let namespaces = |users| Namespaces {
            users,
            ..Default::default()
        };
        let node = super::namespaces(&namespaces(None)).userns_options;
        let node = node.expect("it says whose users they are");
        assert_eq!(node.mode, v1::NamespaceMode::Node as i32);
        assert!(node.uids.is_empty() && node.gids.is_empty());
        let mut spec = ContainerSpec {
            mounts: vec![Mount::default()],
            ..Default::default()
        };
        spec.security.common.namespaces = namespaces(Some(range));
        let made = container_config(&spec);
        let wanted = [v1::IdMapping {
            host_id: 131_072,
            container_id: 0,
            length: 65_536,
        }];
        assert_eq!(made.mounts[0].uid_mappings, wanted);
        assert_eq!(made.mounts[0].gid_mappings, wanted);
        let options = made
            .linux
            .and_then(|l| l.security_context?.namespace_options);
        let users = options.and_then(|o| o.userns_options).expect("users");
        assert_eq!(users.mode, v1::NamespaceMode::Pod as i32);
        assert!(users.uids == wanted && users.gids == wanted);
    }

    #[test]
    fn as_whom_a_container_runs_is_known_where_the_runtime_says_it() {
        let of = |linux| {
            let user = Some(v1::ContainerUser { linux });
            let said = v1::ContainerStatus {
                user,
                ..Default::default()
            };
            container_status(said).user
        };
        let said = v1::LinuxContainerUser {
            uid: 1000,
            gid: 3000,
            supplemental_groups: vec![3000, 4000],
        };
        let want = ProcessUser {
            user: 1000,
            group: 3000,
            more_groups: vec![3000, 4000],
        };
        assert_eq!(of(Some(said)), Some(want));
        assert_eq!(of(None), None);
        assert_eq!(container_status(Default::default()).user, None);
    }

    #[test]
    fn a_sandbox_says_how_much_room_it_needs() {
        let of = |cpu_shares| Resources {
            cpu_shares,
            ..Default::default()
        };
        let made = sandbox_config(&SandboxSpec {
            resources: of(1024),
            overhead: of(256),
            ..Default::default()
        });
        let linux = made.linux.unwrap();
        let shares = |r: Option<v1::LinuxContainerResources>| r.map(|r| r.cpu_shares);
        assert_eq!(
            (shares(linux.resources), shares(linux.overhead)),
            (Some(1024), Some(256))
        );
    }

    #[test]
    fn signals_have_the_apis_words() {
        for (name, number) in [
            ("SIGABRT", 1),
            ("SIGINT", 10),
            ("SIGTERM", 23),
            ("SIGRTMIN", 35),
            ("SIGRTMIN+15", 50),
            ("SIGRTMAX-14", 51),
            ("SIGRTMAX", 65),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
            assert_eq!(signal_name(number), name);
        }
        assert_eq!((signal_number(""), signal_number("SIGNONE")), (0, 0));
        assert_eq!(
            (signal_name(0), signal_name(99)),
            (String::new(), String::new())
        );
    }
}
