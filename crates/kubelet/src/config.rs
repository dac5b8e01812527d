//! The configuration of a kubelet. Every period and limit has its reason beside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::cpus::policy::Policy;
use crate::eviction::thresholds::Thresholds;
use crate::images::provider::Provider;
use crate::images::verification::Verification;
use crate::pod::sysctls::Allowed;
use crate::shutdown::plan::Graceful;
use crate::static_pods::manifest::Source;
use crate::tls_files::TlsFiles;
use crate::topology::MemoryPolicy;
use crate::topology::merge::Rules;

/// What the node declares to have. Absent parts are taken from the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPU in thousandths.
    pub cpu_millis: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Local storage in bytes.
    pub ephemeral_storage_bytes: Option<u64>,
    /// The most pods.
    pub pods: Option<u64>,
}

/// What the node keeps from pods, for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// CPU in thousandths.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Local storage in bytes.
    pub storage_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Reserved {
    /// How many processes and threads pods may have where the machine may have so many; none: that is
    /// not limited.
    #[must_use]
    pub fn pids_left(&self, most: u64) -> Option<i64> {
        let left = most.saturating_sub(self.pids);
        i64::try_from(left).ok().filter(|_| self.pids > 0)
    }
}

/// A group of the machine that is limited to what is reserved for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedGroup {
    /// For whom, in upstream's word: `System` or `Kube`.
    pub what: &'static str,
    /// The group, which must be there.
    pub group: String,
    /// Its part of the CPU in thousandths.
    pub cpu_millis: Option<i64>,
    /// Its memory in bytes.
    pub memory_bytes: Option<i64>,
    /// Its processes and threads.
    pub pids: Option<i64>,
}

/// Which groups are limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Pods together have what is allocatable; else what the machine has.
    pub pods: bool,
    /// Others.
    pub groups: Vec<LimitedGroup>,
}

impl Default for Enforced {
    fn default() -> Self {
        Self {
            pods: true,
            groups: Vec::new(),
        }
    }
}

/// When the node is under pressure and pods are evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// What is too little: pods are ended at once.
    pub hard: Thresholds,
    /// What is too little when it lasts.
    pub soft: Thresholds,
    /// For how long it must last, by upstream's name of the signal.
    pub soft_grace: BTreeMap<String, Duration>,
    /// The most seconds that a pod gets to end for what lasts.
    pub max_pod_grace_seconds: i64,
    /// How much more than the threshold must be there again before nobody is ended any more.
    pub minimum_reclaim: Thresholds,
    /// How long a pressure condition stays after the pressure went. Upstream: 5 minutes.
    pub transition_period: Duration,
    /// How often the signals are read. Upstream: 10 s.
    pub period: Duration,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            hard: Thresholds::default(),
            soft: Thresholds::none(),
            soft_grace: BTreeMap::new(),
            max_pod_grace_seconds: 0,
            minimum_reclaim: Thresholds::none(),
            transition_period: Duration::from_secs(300),
            period: Duration::from_secs(10),
        }
    }
}

/// Whether the port shows logs of the machine itself, to who may read `nodes/log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemLogs {
    /// Files below the machine's folder of logs. True as upstream.
    pub files: bool,
    /// What services and files say, by name. False as upstream.
    pub query: bool,
}

impl Default for SystemLogs {
    fn default() -> Self {
        Self {
            files: true,
            query: false,
        }
    }
}

/// How memory is shared beside limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryQos {
    /// Containers are slowed down before they reach their limit.
    pub is_on: bool,
    /// Where that begins, as part of what lies between what is asked for and the limit.
    pub throttling: f64,
    /// What is asked for is protected: from everything for Guaranteed pods, as far as others have some
    /// left for Burstable ones.
    pub is_tiered: bool,
}

impl Default for MemoryQos {
    fn default() -> Self {
        Self {
            is_on: false,
            throttling: 0.9,
            is_tiered: false,
        }
    }
}

/// Which pages the port has, beside those of metrics and statistics. All as upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handlers {
    /// Logs, commands, forwarded ports.
    pub debugging: bool,
    /// Profiles of the process.
    pub profiling: bool,
    /// The level of its log.
    pub debug_flags: bool,
}

impl Default for Handlers {
    fn default() -> Self {
        Self {
            debugging: true,
            profiling: true,
            debug_flags: true,
        }
    }
}

/// Configuration of one kubelet.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Address of the node; of two, the one that it is known by.
    pub node_ip: IpAddr,
    /// Its address of the other family, where it has one.
    pub other_node_ip: Option<IpAddr>,
    /// Where volumes of pods live.
    pub root_dir: PathBuf,
    /// Where the runtime writes logs of containers, `<ns>_<name>_<uid>/` below it.
    pub log_dir: PathBuf,
    /// Socket of the CRI runtime, which is also containerd's.
    pub runtime_endpoint: String,
    /// Group under which `kubepods` is made, such as `/tiphys/node-1`; `/` for the top.
    pub cgroup_parent: String,
    /// Name servers for pods of DNS policy ClusterFirst.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// Resolver file of the node; empty: pods that use the node's resolver ask the node itself.
    pub resolv_conf: PathBuf,
    /// What the node declares to have.
    pub capacity: Capacity,
    /// What pods do not get of it.
    pub reserved: Reserved,
    /// Which groups are limited to what they get.
    pub enforced: Enforced,
    /// Address of the server; none starts none.
    pub listen: Option<SocketAddr>,
    /// TLS of the server: its certificate and the authority whose client certificates are believed, which
    /// may be exchanged meanwhile.
    pub tls: Option<wire::tls::ServerTls>,
    /// The files that this TLS is made of, where it is.
    pub tls_files: TlsFiles,
    /// Image of sandboxes: never collected.
    pub pause_image: String,
    /// Labels that the node is registered with, beside the usual.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the node beside its own; those without a value it does not have.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Taints that the node is registered with, `key=value:Effect`.
    pub taints: Vec<String>,
    /// Machine id to report, where several nodes share one machine; else the machine's own.
    pub machine_id: Option<String>,
    /// Boot id to report; else the kernel's own. A node in namespaces boots without the machine.
    pub boot_id: Option<String>,
    /// Between renewals of the node's lease. 2 s: the lease is the cheapest write there is,
    /// and a dead node is seen three missed renewals sooner than with upstream's 10 s.
    pub lease_period: Duration,
    /// How long the lease says that it is good for.
    pub lease_duration: Duration,
    /// Between looks whether the node's status changed. 10 s as upstream.
    pub status_check_period: Duration,
    /// Between writes of an unchanged status. 5 minutes as upstream.
    pub status_report_period: Duration,
    /// Between lists of all containers, which repair lost events. 30 s: events carry the
    /// daily work, a list of a full node costs milliseconds.
    pub relist_period: Duration,
    /// Back-off after a container's first failed restart. 10 s as upstream.
    pub crash_backoff_initial: Duration,
    /// Longest back-off. 5 minutes as upstream.
    pub crash_backoff_max: Duration,
    /// Eviction.
    pub eviction: Eviction,
    /// Size at which a container's log is rotated, bytes. 10 MiB as upstream.
    pub log_max_bytes: u64,
    /// How many files of a container's log are kept. 5 as upstream.
    pub log_max_files: usize,
    /// Disk use above which unused images go, percent. 85 as upstream.
    pub image_gc_high_percent: u64,
    /// Disk use down to which they go, percent. 80 as upstream.
    pub image_gc_low_percent: u64,
    /// Unused images younger than this stay. 2 minutes as upstream.
    pub image_gc_min_age: Duration,
    /// Images that nobody used for longer go; none: only when the disk is full. Counted from the
    /// kubelet's start, as upstream.
    pub image_gc_max_age: Option<Duration>,
    /// Images that are pulled at a time; none: as many as pods want.
    pub parallel_pulls: Option<u32>,
    /// Kernel parameters that pods may set beside the safe ones.
    pub allowed_unsafe_sysctls: Allowed,
    /// Where volumes of the provisioner `tiphys.io/local` live; none: the node keeps none.
    pub local_volumes: Option<PathBuf>,
    /// Plugins of the node (CSI drivers, device plugins) are listened to, in folders below the root; so
    /// is its kernel.
    pub plugins: bool,
    /// Containers that name no seccomp profile get the runtime's, not none.
    pub seccomp_default: bool,
    /// Processes and threads of a pod at most; none: as many as the machine allows.
    pub pod_pids_limit: Option<i64>,
    /// CPUs that containers have for themselves.
    pub cpus: Policy,
    /// NUMA nodes whose memory containers have for themselves.
    pub memory: MemoryPolicy,
    /// Burstable pods may swap, each in proportion to the memory that it asks for.
    pub limited_swap: bool,
    /// How CPUs and memory are chosen together.
    pub topology: Rules,
    /// How long pods may take to end when the machine goes down.
    pub shutdown: Graceful,
    /// Logs of the machine.
    pub system_logs: SystemLogs,
    /// Which images a pod must prove that it may use.
    pub image_verification: Verification,
    /// Programs that give credentials for images.
    pub image_providers: Vec<Provider>,
    /// The most images that the node's status names; none: all.
    pub status_images: Option<usize>,
    /// What the node is called where it was made; empty: nothing is said of it.
    pub provider_id: String,
    /// The most pods for each whole CPU, beside the most of all; none: as many as there may be.
    pub pods_per_core: Option<u64>,
    /// What the port shows to who may see it.
    pub handlers: Handlers,
    /// Between looks at the sizes of logs. 10 s as upstream.
    pub log_check_period: Duration,
    /// Where memory runs out, the kernel ends one process of a container and not all of it. With control
    /// groups of version 2; those of version 1 know nothing else.
    pub oom_kills_one: bool,
    /// How memory is shared beside limits, with control groups of version 2.
    pub memory_qos: MemoryQos,
    /// The kubelet does not run where the machine may swap.
    pub fail_on_swap: bool,
    /// The kubelet does not run with control groups of version 1.
    pub fail_on_cgroup_v1: bool,
    /// What a call to the runtime may take that waits for no program. 2 minutes as upstream.
    pub runtime_timeout: Duration,
    /// Numbers of users that a pod with a user namespace of its own gets; a multiple of 65536, which is
    /// upstream's default.
    pub user_ids_per_pod: u32,
    /// How long nothing may flow in the streams of exec, attach and port-forward; none: for ever.
    /// 4 hours as upstream.
    pub stream_idle: Option<Duration>,
    /// Files that say which pods the node runs by itself; none: there are none.
    pub static_pods: Option<Source>,
    /// Where spans of its work are sent; none: none are made.
    pub tracing: Option<traces::Configuration>,
    /// Written when the node is registered and pods can start.
    pub ready_file: Option<PathBuf>,
}

impl Config {
    /// All addresses of the node.
    #[must_use]
    pub fn node_ips(&self) -> Vec<String> {
        let all = std::iter::once(self.node_ip).chain(self.other_node_ip);
        all.map(|ip| ip.to_string()).collect()
    }

    /// A configuration with all defaults.
    #[must_use]
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip,
            other_node_ip: None,
            root_dir: "/var/lib/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            runtime_endpoint: "/run/containerd/containerd.sock".into(),
            cgroup_parent: "/".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            capacity: Capacity::default(),
            reserved: Reserved::default(),
            enforced: Enforced::default(),
            listen: None,
            tls: None,
            tls_files: TlsFiles::default(),
            pause_image: "registry.k8s.io/pause:3.10.1".into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            machine_id: None,
            boot_id: None,
            lease_period: Duration::from_secs(2),
            lease_duration: Duration::from_secs(8),
            status_check_period: Duration::from_secs(10),
            status_report_period: Duration::from_secs(300),
            relist_period: Duration::from_secs(30),
            crash_backoff_initial: Duration::from_secs(10),
            crash_backoff_max: Duration::from_secs(300),
            eviction: Eviction::default(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_gc_min_age: Duration::from_secs(120),
            image_gc_max_age: None,
            parallel_pulls: None,
            allowed_unsafe_sysctls: Allowed::default(),
            local_volumes: None,
            plugins: true,
            seccomp_default: false,
            pod_pids_limit: None,
            cpus: Policy::default(),
            memory: MemoryPolicy::default(),
            limited_swap: false,
            topology: Rules::default(),
            shutdown: Graceful::default(),
            system_logs: SystemLogs::default(),
            image_verification: Verification::default(),
            image_providers: Vec::new(),
            status_images: Some(50),
            provider_id: String::new(),
            pods_per_core: None,
            handlers: Handlers::default(),
            log_check_period: Duration::from_secs(10),
            oom_kills_one: false,
            memory_qos: MemoryQos::default(),
            fail_on_swap: false,
            fail_on_cgroup_v1: false,
            runtime_timeout: Duration::from_secs(120),
            user_ids_per_pod: crate::user_ids::UNIT,
            stream_idle: Some(Duration::from_secs(4 * 3600)),
            static_pods: None,
            tracing: None,
            ready_file: None,
        }
    }

    /// Folder of a pod below the root.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Folder of the seccomp profiles that pods name as `Localhost`.
    #[must_use]
    pub fn seccomp_profiles(&self) -> PathBuf {
        self.root_dir.join("seccomp")
    }

    /// Folder of a pod's logs.
    #[must_use]
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Group of all pods.
    #[must_use]
    pub fn kubepods(&self) -> String {
        format!("{}/kubepods", self.cgroup_parent.trim_end_matches('/'))
    }
}
