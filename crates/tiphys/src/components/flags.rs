//! Flags of components that run alone or within other programs; they have upstream's names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::cidr::Cidrs;
use clap::{Args, ValueEnum};
use control::lease::Times;
use controllers::chosen::Chosen;
use controllers::load_balancer::{Pool, Reserved, Source};
use controllers::nodes::cidr::{NODE_PREFIX_IPV4, NODE_PREFIX_IPV6};
use kubelet::images::provider::{self, Provider};

use super::autoscaling::AutoscalingFlags;
use super::scheduling::SchedulerFile;
use crate::flags::{BoolFlag as _, Ranges};
use crate::machine::read;

/// Periods of failure detection. A node's heartbeat comes every 2 s; upstream's defaults (40 s
/// and 300 s) let work lie for almost six minutes.
#[derive(Args, Clone)]
pub struct ControllerFlags {
    /// Which controllers run, by upstream's names: `*` for all that no word names, `NAME`, and `-NAME` for
    /// one that does not.
    #[arg(long, default_value_t = Chosen::default(), allow_hyphen_values = true)]
    pub controllers: Chosen,
    /// Seconds without a heartbeat after which a node is taken for failed: four heartbeats, so
    /// that three may be lost.
    #[arg(long, default_value_t = 10)]
    pub node_monitor_grace_period: u64,
    /// Nodes of a zone per second that may lose their pods when they have failed.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same where the share of --unhealthy-zone-threshold of a zone has failed, if the zone is
    /// large; in smaller ones none loses them then.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// Zones of more nodes than this are large.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// The share of a zone's nodes, three at least, that must have failed for the zone to be taken
    /// for cut off.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    /// Pods that have ended beyond this number are removed, the oldest first; nought keeps all.
    #[arg(long, default_value_t = 12_500)]
    pub terminated_pod_gc_threshold: usize,
    /// Give each node its ranges of pod IPs, as this program's nodes need them; false where every
    /// node's network plugin has addresses of its own.
    #[arg(long, bool_flag(true))]
    pub allocate_node_cidrs: bool,
    /// Length of the prefixes of nodes' ranges of pod IPs, in a cluster of one family [default: as
    /// of the family].
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// The same of IPv4.
    #[arg(long, default_value_t = NODE_PREFIX_IPV4)]
    pub node_cidr_mask_size_ipv4: u8,
    /// The same of IPv6.
    #[arg(long, default_value_t = NODE_PREFIX_IPV6)]
    pub node_cidr_mask_size_ipv6: u8,
    /// Seconds for which pods stay on a node that is not ready: it may restart its agent.
    #[arg(long, default_value_t = 30)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds for which pods stay on a node that is unreachable.
    #[arg(long, default_value_t = 30)]
    pub default_unreachable_toleration_seconds: i64,
    #[command(flatten)]
    pub autoscaling: AutoscalingFlags,
    /// Who gives addresses to Services of type LoadBalancer without a class, or with the class
    /// `tiphys.io/node`.
    #[arg(long, value_enum, default_value_t = LoadBalancer::Builtin)]
    pub load_balancer: LoadBalancer,
    /// Addresses of the nodes' network for Services of type LoadBalancer, each announced by one
    /// node: ranges such as `192.0.2.0/28,192.0.2.40-192.0.2.60` [default: the nodes' own
    /// addresses].
    #[arg(long)]
    pub load_balancer_pool: Option<Pool>,
    /// Ports at the nodes' own addresses that no Service of type LoadBalancer gets, such as
    /// `22,8472/UDP`.
    #[arg(long, default_value = Reserved::DEFAULT)]
    pub load_balancer_reserved_ports: Reserved,
}

/// Who gives addresses to Services of type LoadBalancer.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadBalancer {
    /// This cluster's controllers and nodes.
    Builtin,
    /// Somebody who is brought along; nothing is done here.
    None,
}

impl ControllerFlags {
    /// How the ranges of pods are cut for nodes, if nodes get any.
    pub(super) fn node_ranges(
        &self,
        pods: &Cidrs,
    ) -> Result<Option<controllers::nodes::cidr::Ranges>> {
        if !self.allocate_node_cidrs {
            return Ok(None);
        }
        let both = (self.node_cidr_mask_size_ipv4, self.node_cidr_mask_size_ipv6);
        let (four, six) = match self.node_cidr_mask_size {
            // As upstream.
            Some(_) if pods.is_dual() => {
                bail!("--node-cidr-mask-size: a cluster of two families has one for each")
            }
            Some(size) => (size, size),
            None => both,
        };
        let ranges = controllers::nodes::cidr::Ranges::new(pods, four, six);
        ranges.map(Some).map_err(anyhow::Error::msg)
    }

    pub(super) fn load_balancer(&self) -> Option<Source> {
        match (self.load_balancer, &self.load_balancer_pool) {
            (LoadBalancer::None, _) => None,
            (LoadBalancer::Builtin, Some(pool)) => Some(Source::Pool(pool.clone())),
            (LoadBalancer::Builtin, None) => Some(Source::Nodes {
                reserved: self.load_balancer_reserved_ports.clone(),
                node_ports: controllers::load_balancer::NODE_PORTS,
            }),
        }
    }
}

/// Leading by Lease. The periods are shorter than upstream's (15 s, 10 s, 2 s), since a leader's
/// writes are fenced: one that is replaced too early does no harm.
#[derive(Args, Clone)]
pub struct ElectionFlags {
    /// Lead by Lease [default: where several servers can run].
    #[arg(long, bare_is_true())]
    leader_elect: Option<bool>,
    /// Time after which a silent leader is replaced, such as `6s`.
    #[arg(long, default_value = "6s")]
    leader_elect_lease_duration: jiff::SignedDuration,
    /// Time after which a leader that cannot renew its lease gives up by itself.
    #[arg(long, default_value = "4s")]
    leader_elect_renew_deadline: jiff::SignedDuration,
    /// Time between two tries to get or renew the lease.
    #[arg(long, default_value = "1s")]
    leader_elect_retry_period: jiff::SignedDuration,
}

impl ElectionFlags {
    /// The flags, where a configuration does not say otherwise.
    pub(super) fn or_as(self, file: scheduler::config::Election) -> Result<Self> {
        let time = |text: Option<String>, flag: jiff::SignedDuration, name: &str| match text {
            None => Ok(flag),
            Some(text) => text
                .parse()
                .with_context(|| format!("leaderElection.{name} of the scheduler's configuration")),
        };
        Ok(Self {
            leader_elect: file.leader_elect.or(self.leader_elect),
            leader_elect_lease_duration: time(
                file.lease_duration,
                self.leader_elect_lease_duration,
                "leaseDuration",
            )?,
            leader_elect_renew_deadline: time(
                file.renew_deadline,
                self.leader_elect_renew_deadline,
                "renewDeadline",
            )?,
            leader_elect_retry_period: time(
                file.retry_period,
                self.leader_elect_retry_period,
                "retryPeriod",
            )?,
        })
    }

    /// How to stand for election; `None` to work at once. `several`: more than one may run.
    pub fn election(&self, several: bool) -> Result<Option<Times>> {
        if !self.leader_elect.unwrap_or(several) {
            return Ok(None);
        }
        let times = Times::new(
            self.leader_elect_lease_duration.try_into()?,
            self.leader_elect_renew_deadline.try_into()?,
            self.leader_elect_retry_period.try_into()?,
        );
        times
            .map(Some)
            .context("--leader-elect-lease-duration, -renew-deadline and -retry-period")
    }
}

/// The scheduler within the server's process.
#[derive(Args, Clone)]
pub struct SchedulerFlags {
    /// A KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1: profiles, plugins and waits
    /// of the scheduler. Elections are the server's.
    #[arg(long)]
    scheduler_config: Option<PathBuf>,
}

impl SchedulerFlags {
    /// Reads and checks the file.
    pub fn open(&self) -> Result<SchedulerFile> {
        SchedulerFile::open(self.scheduler_config.as_deref())
    }
}

/// What a kubelet does. Upstream's defaults; what is given here outranks the files.
#[derive(Args, Clone)]
pub struct KubeletFlags {
    /// A KubeletConfiguration of kubelet.config.k8s.io/v1beta1, in YAML or JSON.
    #[arg(long = "config", value_name = "FILE", overrides_with = "configuration")]
    configuration: Option<PathBuf>,
    /// Folder of further ones, whose names end in `.conf`: what they say is put over that of `--config`,
    /// in the order of their names.
    #[arg(
        long = "config-dir",
        value_name = "DIR",
        overrides_with = "configuration_dir"
    )]
    configuration_dir: Option<PathBuf>,
    /// Below what pods are evicted, such as `memory.available<100Mi,nodefs.available<10%`; what is
    /// not named is not looked at [default: upstream's].
    #[arg(long, overrides_with = "eviction_hard")]
    eviction_hard: Option<kubelet::eviction::Thresholds>,
    /// Seconds for which a node stays under pressure after the pressure went [default: 300].
    #[arg(long, overrides_with = "eviction_pressure_transition_period")]
    eviction_pressure_transition_period: Option<u64>,
    /// Disk use above which unused images go, in percent; 100 for never [default: 85].
    #[arg(long, overrides_with = "image_gc_high_threshold")]
    image_gc_high_threshold: Option<u64>,
    /// Disk use down to which they go, in percent [default: 80].
    #[arg(long, overrides_with = "image_gc_low_threshold")]
    image_gc_low_threshold: Option<u64>,
    /// Kernel parameters that pods may set beside the safe ones, such as
    /// `net.core.somaxconn,kernel.msg*`.
    #[arg(long, overrides_with = "allowed_unsafe_sysctls")]
    allowed_unsafe_sysctls: Option<kubelet::pod::sysctls::Allowed>,
    /// Folder of the volumes of the provisioner `tiphys.io/local`; `none`: this node keeps none
    /// [default: `volumes` in the node's data directory].
    #[arg(long, overrides_with = "local_volumes_dir")]
    local_volumes_dir: Option<PathBuf>,
    /// A CredentialProviderConfig of kubelet.config.k8s.io, in YAML or JSON, or a folder of some: which
    /// programs give credentials for images.
    #[arg(
        long,
        value_name = "FILE",
        requires = "image_credential_provider_bin_dir",
        overrides_with = "image_credential_provider_config"
    )]
    image_credential_provider_config: Option<PathBuf>,
    /// The folder of these programs.
    #[arg(
        long,
        value_name = "DIR",
        requires = "image_credential_provider_config",
        overrides_with = "image_credential_provider_bin_dir"
    )]
    image_credential_provider_bin_dir: Option<PathBuf>,
}

impl KubeletFlags {
    /// Sets what files and flags say.
    pub fn set(&self, config: &mut kubelet::Config) -> Result<()> {
        let (read, gates) = (
            registry::manifest::pod,
            registry::feature_gates::is_what_we_do,
        );
        for warning in self.files()?.set(config, read, gates)? {
            tracing::warn!("the kubelet's configuration: {warning}");
        }
        if let Some(hard) = &self.eviction_hard {
            config.eviction.hard = hard.clone();
        }
        if let Some(seconds) = self.eviction_pressure_transition_period {
            config.eviction.transition_period = Duration::from_secs(seconds);
        }
        if let Some(percent) = self.image_gc_high_threshold {
            config.image_gc_high_percent = percent;
        }
        if let Some(percent) = self.image_gc_low_threshold {
            config.image_gc_low_percent = percent;
        }
        if let Some(allowed) = &self.allowed_unsafe_sysctls {
            config.allowed_unsafe_sysctls = allowed.clone();
        }
        if let Some(dir) = &self.local_volumes_dir {
            config.local_volumes = Some(dir.clone()).filter(|d| d.as_os_str() != "none");
        }
        let (file, programs) = (
            &self.image_credential_provider_config,
            &self.image_credential_provider_bin_dir,
        );
        if let (Some(file), Some(programs)) = (file, programs) {
            config.image_providers = credential_providers(file, programs)?;
        }
        Ok(())
    }

    /// What the files say together.
    fn files(&self) -> Result<kubelet::kubelet_configuration::Configuration> {
        let mut paths: Vec<PathBuf> = self.configuration.iter().cloned().collect();
        if let Some(dir) = &self.configuration_dir {
            paths.extend(files_in(dir, &["conf"])?);
        }
        let mut out = kubelet::kubelet_configuration::Configuration::default();
        for path in paths {
            let fault = || format!("the kubelet's configuration {}", path.display());
            let value = value_in(&path).with_context(fault)?;
            out.add(value).with_context(fault)?;
        }
        Ok(out)
    }
}

/// The files of a folder whose names end so, in the order of their names.
fn files_in(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", dir.display());
    let all = std::fs::read_dir(dir).with_context(reading)?;
    let paths = all.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths
        .collect::<std::io::Result<_>>()
        .with_context(reading)?;
    let ends = |path: &PathBuf| {
        let ending = path.extension().and_then(|e| e.to_str());
        ending.is_some_and(|e| endings.contains(&e))
    };
    paths.retain(ends);
    paths.sort();
    Ok(paths)
}

/// What a file of YAML or JSON says.
fn value_in(path: &Path) -> Result<serde_json::Value> {
    let decoded = schema::decode::yaml(read(path)?.as_bytes())?;
    if let Some(problem) = decoded.problems.first() {
        bail!("{problem}");
    }
    Ok(decoded.value)
}

/// The programs that give credentials for images, as a file says, or those of a folder together.
fn credential_providers(file: &Path, programs: &Path) -> Result<Vec<Provider>> {
    let fault = || format!("the credential providers of {}", file.display());
    let paths = if file.is_dir() {
        files_in(file, &["json", "yaml", "yml"])?
    } else {
        vec![file.to_owned()]
    };
    let values: Result<Vec<_>> = paths.iter().map(|path| value_in(path)).collect();
    let all = provider::read(&values.with_context(fault)?, programs);
    let all = all.map_err(anyhow::Error::msg).with_context(fault)?;
    for one in &all {
        if !one.program.is_file() {
            bail!("{}: there is no program {}", fault(), one.program.display());
        }
    }
    Ok(all)
}

/// Where a node's Services answer.
#[derive(Args, Clone)]
pub struct ProxyFlags {
    /// Addresses of the machine at which node ports answer: networks such as `10.0.0.0/8`, or
    /// `primary` for the node's own address [default: all but loopback ones].
    #[arg(long, value_delimiter = ',', overrides_with = "nodeport_addresses")]
    nodeport_addresses: Vec<NodePortAddresses>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NodePortAddresses {
    Primary,
    In(host::nft::Prefix),
}

impl std::str::FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            network => network.parse().map(Self::In),
        }
    }
}

impl ProxyFlags {
    /// `own` are the node's addresses, where they are known.
    pub fn set(&self, ranges: &Ranges, own: &[IpAddr], config: &mut proxy::Config) -> Result<()> {
        let mut networks = Vec::new();
        for given in &self.nodeport_addresses {
            match given {
                NodePortAddresses::In(network) => networks.push(*network),
                NodePortAddresses::Primary if own.is_empty() => {
                    bail!("--nodeport-addresses=primary needs the node's agent")
                }
                NodePortAddresses::Primary => {
                    networks.extend(own.iter().map(|ip| host::nft::Prefix::of_one(*ip)));
                }
            }
        }
        config.node_port_addresses = networks;
        config.cluster_cidrs = ranges.pods();
        config.serve(ranges.families());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line<F: Args> {
        #[command(flatten)]
        flags: F,
    }

    fn flags<F: Args>(words: &[&str]) -> F {
        let words = std::iter::once("x").chain(words.iter().copied());
        <Line<F> as clap::Parser>::parse_from(words).flags
    }

    #[test]
    fn nodes_get_ranges_of_pod_addresses_unless_it_is_said() {
        let pods: Cidrs = "10.244.0.0/16".parse().expect("a range");
        let ranges = |words: &[&str]| flags::<ControllerFlags>(words).node_ranges(&pods);
        assert!(ranges(&[]).expect("flags").is_some());
        assert!(ranges(&["--allocate-node-cidrs"]).expect("flags").is_some());
        let none = ranges(&["--allocate-node-cidrs=false"]).expect("flags");
        assert!(none.is_none());
        assert!(ranges(&["--node-cidr-mask-size=8"]).is_err());
    }

    #[test]
    fn controllers_are_chosen_by_upstreams_names() {
        let all: ControllerFlags = flags(&[]);
        assert!(all.controllers.has("job-controller"));
        for given in [
            &["--controllers=*,-job-controller"][..],
            &["--controllers", "-job-controller,*"],
        ] {
            let some: ControllerFlags = flags(given);
            assert!(!some.controllers.has("job-controller"), "{given:?}");
            assert!(some.controllers.has("cronjob-controller"), "{given:?}");
        }
    }

    #[test]
    fn one_server_works_at_once_and_several_are_elected() {
        assert_eq!(
            flags::<ElectionFlags>(&[]).election(false).expect("flags"),
            None
        );
        let several = flags::<ElectionFlags>(&[]).election(true).expect("flags");
        assert_eq!(several, Some(Times::default()));
        let asked: ElectionFlags = flags(&["--leader-elect", "--leader-elect-lease-duration=9s"]);
        let asked = asked.election(false).expect("flags").expect("times");
        assert_eq!(asked.duration(), Duration::from_secs(9));
        let off = flags::<ElectionFlags>(&["--leader-elect=false"]).election(true);
        assert_eq!(off.expect("flags"), None);
    }

    #[test]
    fn periods_that_cannot_work_are_refused() {
        for wrong in [
            "--leader-elect-lease-duration=3s",
            "--leader-elect-renew-deadline=1s",
            "--leader-elect-retry-period=0s",
            "--leader-elect-retry-period=-1s",
        ] {
            assert!(
                flags::<ElectionFlags>(&[wrong]).election(true).is_err(),
                "{wrong}"
            );
        }
    }
}
