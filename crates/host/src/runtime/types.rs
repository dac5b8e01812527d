//! What a container runtime makes and shows, in plain values: nothing of a protocol.

use std::collections::BTreeMap;
use std::time::Duration;

/// Labels and annotations: names and values.
pub type Texts = BTreeMap<String, String>;

/// Nanoseconds since 1970; zero or less: it did not happen.
pub type Nanos = i64;

/// The pod that a sandbox is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodName {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

/// A sandbox that the runtime has: what the containers of a pod share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Its pod.
    pub pod: PodName,
    /// Which attempt of the pod's it is.
    pub attempt: u32,
    /// Whether it works.
    pub ready: bool,
    /// When it was made.
    pub created_at: Nanos,
    /// Labels that it was made with.
    pub labels: Texts,
}

/// The network of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxNetwork {
    /// Its addresses; none on the node's network.
    pub ips: Vec<String>,
    /// It has the node's own network.
    pub is_nodes: bool,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    #[default]
    Unknown,
}

/// A container in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The sandbox that it is in.
    pub sandbox_id: String,
    /// How far it is.
    pub state: State,
    /// The image that it was asked for with.
    pub image: String,
    /// The image as it was found: an id or a digest form.
    pub image_ref: String,
    /// Labels that it was made with.
    pub labels: Texts,
}

/// A container in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// What a list says of it.
    pub container: Container,
    /// The name that it was made with.
    pub name: String,
    /// The attempt that it was made with.
    pub attempt: u32,
    /// When it was made.
    pub created_at: Nanos,
    /// When it was started.
    pub started_at: Nanos,
    /// When it ended.
    pub finished_at: Nanos,
    /// What it ended with.
    pub exit_code: i32,
    /// The runtime's word for the end, such as `OOMKilled`.
    pub reason: String,
    /// What the runtime has to say.
    pub message: String,
    /// Annotations that it was made with.
    pub annotations: Texts,
    /// What is mounted in it.
    pub mounts: Vec<Mount>,
    /// The file of its log.
    pub log_path: String,
    /// The signal that it is stopped with; empty where the runtime does not say.
    pub stop_signal: String,
    /// As whom its first process was started; none where the runtime does not say.
    pub user: Option<ProcessUser>,
}

/// As whom a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessUser {
    /// The user's number.
    pub user: i64,
    /// The main group's.
    pub group: i64,
    /// Those of its other groups, the image's among them.
    pub more_groups: Vec<i64>,
}

/// Whose namespace something lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// One that all containers of the pod share.
    #[default]
    Pod,
    /// One of the container's own.
    Container,
    /// The machine's.
    Node,
    /// That of the container with this id.
    Of(String),
}

/// Numbers of users, and of groups alike, on the machine, which are those from 0 on in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRange {
    /// The first on the machine.
    pub host: u32,
    /// How many.
    pub length: u32,
}

impl IdRange {
    /// Whether some number is in both.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        let end = |r: Self| u64::from(r.host) + u64::from(r.length);
        u64::from(self.host) < end(other) && u64::from(other.host) < end(self)
    }
}

/// Namespaces of a sandbox or a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Of the network.
    pub network: Namespace,
    /// Of processes.
    pub pid: Namespace,
    /// Of shared memory and the like.
    pub ipc: Namespace,
    /// Of users: which of the machine's the sandbox's are; none: they are the machine's.
    pub users: Option<IdRange>,
}

/// A profile that restricts what a process may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    #[default]
    Unconfined,
    /// One that the machine has, by its name.
    Localhost(String),
}

/// SELinux labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeLinux {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level.
    pub level: String,
}

/// What processes may do, as far as sandboxes and containers have it in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// They may do everything.
    pub privileged: bool,
    /// The user by number.
    pub user: Option<i64>,
    /// The main group.
    pub group: Option<i64>,
    /// More groups.
    pub more_groups: Vec<i64>,
    /// The groups that the image gives to the user are left out.
    pub strict_groups: bool,
    /// SELinux labels.
    pub selinux: Option<SeLinux>,
    /// Which system calls they may make.
    pub seccomp: Profile,
}

/// What a process in a container may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSecurity {
    /// What sandboxes have too.
    pub common: Security,
    /// The user by name, where it has no number.
    pub user_name: String,
    /// Capabilities beside the runtime's default.
    pub add_capabilities: Vec<String>,
    /// Capabilities of the runtime's default that it lacks.
    pub drop_capabilities: Vec<String>,
    /// Its root file system cannot be written.
    pub read_only_root: bool,
    /// It cannot gain rights by what it executes.
    pub no_new_privileges: bool,
    /// Paths that it does not see.
    pub masked_paths: Vec<String>,
    /// Paths that it cannot write.
    pub read_only_paths: Vec<String>,
    /// What AppArmor lets it do; none: the runtime chooses.
    pub app_armor: Option<Profile>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of a container, and perhaps one of the node that leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// The port in the pod.
    pub container_port: i32,
    /// The port of the node; zero for none.
    pub host_port: i32,
    /// The node's address; empty for all.
    pub host_ip: String,
}

/// The resolver file of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// A sandbox to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Its pod.
    pub pod: PodName,
    /// Which attempt it is.
    pub attempt: u32,
    /// Host name; empty for the node's.
    pub hostname: String,
    /// Folder of the logs of its containers.
    pub log_directory: String,
    /// Names.
    pub dns: Dns,
    /// Ports.
    pub ports: Vec<PortMapping>,
    /// Labels.
    pub labels: Texts,
    /// Annotations.
    pub annotations: Texts,
    /// The control group in which all of it runs.
    pub group: String,
    /// What its containers have together, for runtimes that make room for them before.
    pub resources: Resources,
    /// What the sandbox itself takes beside them.
    pub overhead: Resources,
    /// What its processes may do.
    pub security: Security,
    /// Kernel parameters of its namespaces.
    pub sysctls: Texts,
}

/// Whether mounts of one side appear on the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They do not.
    #[default]
    Private,
    /// Those of the node in the container.
    HostToContainer,
    /// Those of each in the other.
    Bidirectional,
}

/// A file or folder of the node in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// Where on the node.
    pub host_path: String,
    /// It cannot be written.
    pub read_only: bool,
    /// What is mounted below it cannot be written either.
    pub recursive_read_only: bool,
    /// Its files get the container's SELinux label.
    pub relabel: bool,
    /// Whether mounts below it are passed on.
    pub propagation: Propagation,
}

/// A device of the node in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Where in the container.
    pub container_path: String,
    /// Where on the node.
    pub host_path: String,
    /// `r`, `w` and `m` (make nodes of it), as in the control group of devices.
    pub permissions: String,
}

/// Limits of a container. Zero: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Microseconds of a period of CPU time.
    pub cpu_period: i64,
    /// Microseconds of CPU time in a period.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of memory and swap together.
    pub memory_and_swap_bytes: i64,
    /// Score by which the kernel chooses what to end for want of memory.
    pub oom_score: i64,
    /// Bytes of huge pages, by the kernel's names of their sizes.
    pub huge_pages: Vec<(String, u64)>,
    /// The CPUs that it runs on, as the kernel writes them (`0-3,8`); empty: nothing is said of it.
    pub cpus: String,
    /// The NUMA nodes whose memory it has, written alike; empty: nothing is said of it.
    pub memory_nodes: String,
    /// Files of control groups v2 with what is written into them.
    pub unified: Texts,
}

/// A container to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: String,
    /// Which attempt it is.
    pub attempt: u32,
    /// Id of its image.
    pub image_id: String,
    /// The image as its pod names it.
    pub image: String,
    /// What runs in place of the image's entry point; empty for that.
    pub command: Vec<String>,
    /// Arguments in place of the image's; empty for those.
    pub args: Vec<String>,
    /// Working directory; empty for the image's.
    pub working_dir: String,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Devices that the runtime knows by name (CDI).
    pub cdi_devices: Vec<String>,
    /// Labels.
    pub labels: Texts,
    /// Annotations.
    pub annotations: Texts,
    /// Its log, below the sandbox's folder of logs.
    pub log_path: String,
    /// It has standard input.
    pub stdin: bool,
    /// Standard input ends with the first client that attaches.
    pub stdin_once: bool,
    /// It has a terminal.
    pub tty: bool,
    /// The signal that it is stopped with, such as `SIGINT`; empty for the image's.
    pub stop_signal: String,
    /// Limits.
    pub resources: Resources,
    /// What its processes may do.
    pub security: ContainerSecurity,
}

/// An image that the runtime has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Its size.
    pub bytes: u64,
    /// The user that it runs as by number.
    pub user: Option<i64>,
    /// The user that it runs as by name.
    pub user_name: String,
    /// The runtime keeps it for itself.
    pub pinned: bool,
}

/// How a registry is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// The registry.
    pub server: String,
}

/// What happened to a container, or to a sandbox, which is one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first process runs.
    Started(String),
    /// The first process ended.
    Exited(String),
    /// The kernel killed something in the container for want of memory.
    OutOfMemory(String),
    /// It was removed.
    Deleted(String),
    /// A command that somebody wants to have run in it has begun.
    CommandStarted {
        /// The container's id.
        container: String,
        /// Its process, as the node counts them.
        pid: u32,
    },
}

impl Event {
    /// The container's id.
    #[must_use]
    pub fn container(&self) -> &str {
        match self {
            Self::Started(id) | Self::Exited(id) | Self::OutOfMemory(id) | Self::Deleted(id) => id,
            Self::CommandStarted { container, .. } => container,
        }
    }
}

/// What a container has written into its own layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerUse {
    /// The container's id.
    pub id: String,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// A file system that holds images, or what containers write into their own layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFs {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Bytes that these take.
    pub bytes: u64,
    /// Inodes that these take.
    pub inodes: u64,
}

/// The file systems that the runtime keeps things on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFs {
    /// Of images.
    pub images: Vec<ImageFs>,
    /// Of layers that are written; none where it does not distinguish the two.
    pub layers: Vec<ImageFs>,
}

/// What the runtime says of a part of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Such as `NetworkReady`.
    pub kind: String,
    /// It works.
    pub ok: bool,
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Condition {
    /// What is wrong, in upstream's words; none where it works.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let what = match self.kind.as_str() {
            _ if self.ok => return None,
            "NetworkReady" => "container runtime network not ready",
            _ => "container runtime not ready",
        };
        let (kind, reason, message) = (&self.kind, &self.reason, &self.message);
        Some(format!(
            "{what}: {kind}=false reason:{reason} message:{message}"
        ))
    }
}

/// What one of the runtime's handlers can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// Its name; empty for the default.
    pub name: String,
    /// It gives sandboxes user namespaces of their own.
    pub user_namespaces: bool,
    /// It can make mounts read-only with all below them.
    pub recursive_read_only: bool,
}

/// How the runtime is, and what it can do. Runtimes that do not say can do none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Its parts.
    pub conditions: Vec<Condition>,
    /// It can leave out the groups that an image gives to a user.
    pub strict_groups: bool,
    /// Its handlers.
    pub handlers: Vec<Handler>,
}

impl Health {
    /// Whether a handler gives sandboxes user namespaces of their own.
    #[must_use]
    pub fn has_user_namespaces(&self, handler: &str) -> bool {
        let mut handlers = self.handlers.iter();
        handlers.any(|h| h.name == handler && h.user_namespaces)
    }

    /// Whether a handler can make mounts read-only with all below them.
    #[must_use]
    pub fn has_recursive_read_only(&self, handler: &str) -> bool {
        let mut handlers = self.handlers.iter();
        handlers.any(|h| h.name == handler && h.recursive_read_only)
    }
}

/// Who makes the control groups of a runtime's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd, which is asked for slices and scopes.
    Systemd,
    /// The runtime itself, as folders.
    Cgroupfs,
    /// One that is not known here, by its number.
    Other(i32),
}

/// Name and version of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Such as `containerd`.
    pub name: String,
    /// Such as `1.6.24`.
    pub version: String,
}

/// What a command in a container came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Streams of a command, or of a container's own first process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// They are a terminal.
    pub tty: bool,
}

/// How long a command may take; none: until the runtime's own bound, one hour.
pub type Limit = Option<Duration>;
