//! What `up` was asked for. It is written to the data directory, so that the next `up` continues
//! with the same cluster; pure checks on it are here, too.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

pub use api::cidr::{Cidr, Cidrs, IpFamily};
use serde::{Deserialize, Serialize};

/// The addresses of a machine, one of each of the cluster's families; by the first one it is known.
/// In the file they are one text, with commas between them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Addresses {
    first: IpAddr,
    others: Vec<IpAddr>,
}

impl Addresses {
    /// The `n`th address of each range.
    fn of(ranges: &Cidrs, n: u32) -> Option<Self> {
        let all = ranges.nth(n.into())?;
        let (first, others) = all.split_first()?;
        Some(Self {
            first: *first,
            others: others.to_vec(),
        })
    }

    pub fn primary(&self) -> IpAddr {
        self.first
    }

    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// With the lengths of the ranges that they are in: `10.245.0.10/24,fd00:10:245::a/64`.
    pub fn within(&self, ranges: &Cidrs) -> String {
        let length = |ip: IpAddr| {
            let family = IpFamily::of(ip);
            ranges
                .of(family)
                .map_or(family.bits(), |range| range.prefix)
        };
        let all: Vec<String> = self
            .iter()
            .map(|ip| format!("{ip}/{}", length(ip)))
            .collect();
        all.join(",")
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            let ip = part.trim().parse();
            ip.map_err(|_| format!("{part:?} is not an address"))
        };
        let mut all = text.split(',').map(one);
        Ok(Self {
            first: all.next().unwrap_or_else(|| one(""))?,
            others: all.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<String> for Addresses {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Addresses> for String {
    fn from(addresses: Addresses) -> Self {
        addresses.to_string()
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.iter().map(|ip| ip.to_string()).collect();
        f.write_str(&all.join(","))
    }
}

/// One node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    pub name: String,
    pub ip: Addresses,
    /// Declared CPU capacity in thousandths of a core.
    pub cpu_millis: u64,
    /// Declared memory in bytes; also the limit of the node's cgroup.
    pub memory_bytes: u64,
    /// Most pods the node takes.
    pub pods: u32,
    /// Killed by hand: `up` does not boot it until `node start`.
    pub stopped: bool,
}

/// One of several servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerConfig {
    pub name: String,
    pub ip: Addresses,
    /// As of a node.
    pub stopped: bool,
}

/// The whole cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterConfig {
    pub port: u16,
    /// Each with a range of every family that the cluster has.
    pub service_cidr: Cidrs,
    pub pod_cidr: Cidrs,
    pub node_cidr: Cidrs,
    pub cluster_domain: String,
    /// Servers with namespaces and an etcd member of their own; none for the one server with the
    /// embedded store, which is a process of the machine.
    #[serde(default)]
    pub servers: Vec<ServerConfig>,
    /// The etcd binary, where there are such servers.
    #[serde(default)]
    pub etcd: Option<String>,
    pub nodes: Vec<NodeConfig>,
    /// Further arguments of the control plane and of the nodes' agents.
    #[serde(default)]
    pub server_args: Vec<String>,
    #[serde(default)]
    pub node_args: Vec<String>,
}

/// Server addresses start here, below those of nodes; the bridge has the first address of the
/// range.
const FIRST_SERVER: u32 = 2;
/// Node addresses start here.
const FIRST_NODE: u32 = 10;
/// As many as etcd's own advice for members: more only make writes slower.
pub const MOST_SERVERS: u32 = 7;

impl ClusterConfig {
    /// The machine's side of the nodes' network: the first address of each node range.
    pub fn bridge_ip(&self) -> Option<Addresses> {
        Addresses::of(&self.node_cidr, 1)
    }
    /// The addresses of the `i`th of several servers.
    pub fn server_ip(node_cidr: &Cidrs, i: u32) -> Option<Addresses> {
        Addresses::of(node_cidr, FIRST_SERVER + i)
    }
    /// The addresses of the `i`th node.
    pub fn node_ip(node_cidr: &Cidrs, i: u32) -> Option<Addresses> {
        Addresses::of(node_cidr, FIRST_NODE + i)
    }

    /// Ranges that overlap each other or one of `taken` (ranges that the machine routes already,
    /// with the link that has them): one line each, in words for a person.
    pub fn conflicts(&self, taken: &[(Cidr, String)]) -> Vec<String> {
        let flags = [
            ("--service-cidr", &self.service_cidr),
            ("--pod-cidr", &self.pod_cidr),
            ("--node-cidr", &self.node_cidr),
        ];
        let ranges =
            |(flag, ranges): (&'static str, &Cidrs)| ranges.iter().map(move |range| (flag, range));
        let own: Vec<_> = flags.into_iter().flat_map(ranges).collect();
        let mut lines = Vec::new();
        for (i, (flag, range)) in own.iter().enumerate() {
            for (other_flag, other) in &own[i + 1..] {
                if range.overlaps(*other) {
                    lines.push(format!("{flag} {range} overlaps {other_flag} {other}"));
                }
            }
            for (other, link) in taken.iter().filter(|(t, _)| range.overlaps(*t)) {
                // A cluster whose data directory went while it was up can be ended by nobody.
                let or = if link.starts_with(crate::bridge::PREFIX) {
                    format!("; or, if no cluster runs that has it: ip link delete {link}")
                } else {
                    String::new()
                };
                lines.push(format!(
                    "{flag} {range} overlaps {other}, which this machine reaches through {link}; choose another range{or}"
                ));
            }
        }
        lines
    }
}

/// Divides the machine among `n` nodes: `(cpu in thousandths, memory in bytes)` each.
pub fn share(cpus: u64, memory_bytes: u64, n: u64) -> (u64, u64) {
    let n = n.max(1);
    (cpus * 1000 / n, memory_bytes / n)
}

#[cfg(test)]
impl ClusterConfig {
    /// A cluster without nodes, for tests.
    pub(crate) fn example() -> Self {
        let cidr = |s: &str| s.parse().expect("ranges");
        Self {
            port: 6443,
            service_cidr: cidr("10.96.0.0/16"),
            pod_cidr: cidr("10.244.0.0/16"),
            node_cidr: cidr("10.245.0.0/24"),
            cluster_domain: "cluster.local".into(),
            servers: Vec::new(),
            etcd: None,
            nodes: Vec::new(),
            server_args: Vec::new(),
            node_args: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(s: &str) -> Cidr {
        s.parse().expect("range")
    }

    fn config() -> ClusterConfig {
        ClusterConfig::example()
    }

    #[test]
    fn overlaps_are_named() {
        let mut c = config();
        assert!(c.conflicts(&[]).is_empty());
        let taken = [(cidr("10.244.128.0/17"), "eth1".to_owned())];
        assert!(c.conflicts(&taken)[0].contains("through eth1"));
        assert!(!c.conflicts(&taken)[0].contains("ip link"));
        let left = [(taken[0].0, "tph-0525cf".to_owned())];
        assert!(c.conflicts(&left)[0].ends_with("ip link delete tph-0525cf"));
        c.node_cidr = cidr("10.96.4.0/24").into();
        assert_eq!(c.conflicts(&[]).len(), 1);
        let mut c = config();
        c.pod_cidr = "10.244.0.0/16,fd00:10:244::/56".parse().expect("ranges");
        c.node_cidr = "10.245.0.0/24,fd00:10:244:3::/64".parse().expect("ranges");
        let said = c.conflicts(&[(cidr("fd00::/64"), "eth0".to_owned())]);
        let why = "--pod-cidr fd00:10:244::/56 overlaps --node-cidr fd00:10:244:3::/64";
        assert_eq!(said, [why]);
    }

    #[test]
    fn machines_have_an_address_of_each_family() {
        let ranges: Cidrs = "10.245.0.0/24,fd00:10:245::/64".parse().expect("ranges");
        let ips = ClusterConfig::node_ip(&ranges, 1).expect("addresses");
        assert_eq!(ips.to_string(), "10.245.0.11,fd00:10:245::b");
        assert_eq!(ips.within(&ranges), "10.245.0.11/24,fd00:10:245::b/64");
        assert_eq!(ips.to_string().parse(), Ok(ips));
        assert!("10.245.0.11,".parse::<Addresses>().is_err() && "".parse::<Addresses>().is_err());
    }

    #[test]
    fn the_machine_is_shared() {
        assert_eq!(share(2, 24 << 30, 3), (666, 8 << 30));
    }

    #[test]
    fn a_configuration_survives_the_file() {
        let text = serde_json::to_string(&config()).expect("json");
        assert_eq!(
            serde_json::from_str::<ClusterConfig>(&text).expect("parse"),
            config()
        );
        // As it was written while clusters had IPv4 alone.
        let old = r#"{"name":"node-1","ip":"10.245.0.10","cpu_millis":1,"memory_bytes":1,"pods":1,"stopped":false}"#;
        let node: NodeConfig = serde_json::from_str(old).expect("parse");
        assert_eq!(node.ip.to_string(), "10.245.0.10");
    }
}
