//! What `up` was asked for. It is written to the data directory, so that the next `up` continues
//! with the same cluster; pure checks on it are here, too.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    pub base: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    fn mask(self) -> u32 {
        if self.prefix == 0 {
            0
        } else {
            u32::MAX << (32 - u32::from(self.prefix))
        }
    }
    pub fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        u32::from(self.base) & mask == u32::from(other.base) & mask
    }
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.base)
    }
    /// The `n`th address of the range, if it has so many (the last one is the broadcast address).
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let last = !self.mask();
        (n < last).then(|| Ipv4Addr::from(u32::from(self.base) + n))
    }
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not an IPv4 range such as 10.96.0.0/16");
        let (base, prefix) = s.split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = base.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|p| (8..=30).contains(p))
            .ok_or_else(bad)?;
        let cidr = Self { base, prefix };
        if u32::from(base) & !cidr.mask() != 0 {
            return Err(format!("{s:?} has bits beyond its prefix of {prefix}"));
        }
        Ok(cidr)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Cidr> for String {
    fn from(c: Cidr) -> Self {
        c.to_string()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// One node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    pub name: String,
    pub ip: Ipv4Addr,
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
    pub ip: Ipv4Addr,
    /// As of a node.
    pub stopped: bool,
}

/// The whole cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterConfig {
    pub port: u16,
    pub service_cidr: Cidr,
    pub pod_cidr: Cidr,
    pub node_cidr: Cidr,
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
    /// The machine's side of the nodes' network: the first address of the node range.
    pub fn bridge_ip(&self) -> Option<Ipv4Addr> {
        self.node_cidr.nth(1)
    }
    /// The address of the `i`th of several servers.
    pub fn server_ip(node_cidr: Cidr, i: u32) -> Option<Ipv4Addr> {
        node_cidr.nth(FIRST_SERVER + i)
    }
    /// The address of the `i`th node.
    pub fn node_ip(node_cidr: Cidr, i: u32) -> Option<Ipv4Addr> {
        node_cidr.nth(FIRST_NODE + i)
    }

    /// Ranges that overlap each other or one of `taken` (ranges that the machine routes already,
    /// with the link that has them): one line each, in words for a person.
    pub fn conflicts(&self, taken: &[(Cidr, String)]) -> Vec<String> {
        let own = [
            ("--service-cidr", self.service_cidr),
            ("--pod-cidr", self.pod_cidr),
            ("--node-cidr", self.node_cidr),
        ];
        let mut lines = Vec::new();
        for (i, (flag, range)) in own.iter().enumerate() {
            for (other_flag, other) in &own[i + 1..] {
                if range.overlaps(*other) {
                    lines.push(format!("{flag} {range} overlaps {other_flag} {other}"));
                }
            }
            for (other, link) in taken.iter().filter(|(t, _)| range.overlaps(*t)) {
                lines.push(format!(
                    "{flag} {range} overlaps {other}, which this machine reaches through {link}; choose another range"
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

/// The range of an address and prefix as a link has them; `None` for IPv6.
pub fn range_of(ip: IpAddr, prefix: u8) -> Option<Cidr> {
    match ip {
        IpAddr::V4(v4) => {
            let mut cidr = Cidr { base: v4, prefix };
            cidr.base = Ipv4Addr::from(u32::from(v4) & cidr.mask());
            Some(cidr)
        }
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
impl ClusterConfig {
    /// A cluster without nodes, for tests.
    pub(crate) fn example() -> Self {
        let cidr = |s: &str| s.parse().expect("range");
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
    fn ranges_are_read_and_refused() {
        assert_eq!(cidr("10.96.0.0/12").to_string(), "10.96.0.0/12");
        for bad in [
            "10.96.0.1/16",
            "10.0.0.0",
            "a/8",
            "10.0.0.0/33",
            "10.0.0.0/0",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!(cidr("10.1.0.0/30").nth(3), None);
    }

    #[test]
    fn overlaps_are_named() {
        let mut c = config();
        assert!(c.conflicts(&[]).is_empty());
        let taken = [(cidr("10.244.128.0/17"), "eth1".to_owned())];
        assert!(c.conflicts(&taken)[0].contains("through eth1"));
        c.node_cidr = cidr("10.96.4.0/24");
        assert_eq!(c.conflicts(&[]).len(), 1);
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
    }
}
