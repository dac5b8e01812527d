//! The plugin's configuration, as runtimes send it.
//!
//! Keys are found whatever their case is, as the runtimes' own language does: containerd writes
//! `HostPort` where the convention says `hostPort`. To remove a pod no more is needed than where its
//! state is, so nothing else can be wrong with a configuration then.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use host::netlink::Rate;
use host::nft::Prefix;
use host::podlink::Limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::protocol::{CniError, VERSIONS, code, key_of};

/// A host port that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// tcp, udp or sctp.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Only at this address of the node; empty for all.
    #[serde(
        default,
        rename = "hostIP",
        alias = "hostIp",
        skip_serializing_if = "String::is_empty"
    )]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".into()
}

/// The plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// The version that the result is written in.
    pub cni_version: String,
    /// The network's name.
    pub name: String,
    /// Where addresses are recorded.
    pub state_dir: PathBuf,
    rest: Map<String, Value>,
}

/// What is needed to connect a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddConf {
    /// The ranges of this node's pods, one of a family at most: a pod gets an address of each.
    pub pod_cidrs: Vec<Prefix>,
    /// The largest packet in bytes; zero for the kernel's default.
    pub mtu: u32,
    /// The addresses that the node itself talks to pods from.
    pub node_addresses: Vec<IpAddr>,
    /// The pod's host ports.
    pub port_mappings: Vec<PortMapping>,
    /// How fast the pod receives and sends at most.
    pub limits: Limits,
}

fn wrong(what: impl Into<String>) -> CniError {
    CniError::new(code::CONFIGURATION, "read the configuration", what.into())
}

/// A field of any case; the exact one first.
fn field<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let similar = || {
        let found = map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    };
    map.get(name).or_else(similar).filter(|v| !v.is_null())
}

fn text(map: &Map<String, Value>, name: &str) -> Result<Option<String>, CniError> {
    let text = |value: &Value| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong(format!("{name} is not a string")))
    };
    field(map, name).map(text).transpose()
}

fn number<T: TryFrom<u64>>(map: &Map<String, Value>, name: &str) -> Result<Option<T>, CniError> {
    let number = |value: &Value| {
        let number = value.as_u64().and_then(|n| T::try_from(n).ok());
        number.ok_or_else(|| wrong(format!("{name} is out of range")))
    };
    field(map, name).map(number).transpose()
}

impl NetConf {
    /// From standard input.
    pub fn parse(input: &str) -> Result<Self, CniError> {
        let rest: Map<String, Value> = serde_json::from_str(input)
            .map_err(|e| CniError::new(code::DECODE, "decode the configuration", e))?;
        let cni_version = text(&rest, "cniVersion")?.unwrap_or_else(|| "0.3.0".into());
        if !VERSIONS.contains(&cni_version.as_str()) {
            let attempt = format!("version {cni_version}");
            return Err(CniError::new(code::VERSION, &attempt, "not supported"));
        }
        let name = text(&rest, "name")?;
        let name = name.filter(|n| !n.is_empty() && !n.contains('/') && !n.starts_with('.'));
        let state_dir = text(&rest, "stateDir")?;
        Ok(Self {
            cni_version,
            name: name.ok_or_else(|| wrong("name is missing"))?,
            state_dir: state_dir
                .ok_or_else(|| wrong("stateDir is missing"))?
                .into(),
            rest,
        })
    }

    /// Where the agent of network policies hears of pods; none where there is no such agent.
    pub fn policy_socket(&self) -> Result<Option<PathBuf>, CniError> {
        let path = text(&self.rest, "policySocket")?;
        Ok(path.filter(|path| !path.is_empty()).map(PathBuf::from))
    }

    /// Plugins of others connect pods, and this one stands behind them.
    pub fn is_chained(&self) -> bool {
        field(&self.rest, "chained").and_then(Value::as_bool) == Some(true)
    }

    /// What the plugin before this one has said.
    pub fn previous(&self) -> Option<&Value> {
        field(&self.rest, "prevResult").filter(|result| result.is_object())
    }

    /// What is needed to connect a pod.
    pub fn to_add(&self) -> Result<AddConf, CniError> {
        let pod_cidrs = self.list("podCIDRs", "podCIDR")?;
        let pod_cidrs: Vec<Prefix> = pod_cidrs
            .iter()
            .map(|cidr| cidr.parse().map_err(|e: String| wrong(e)))
            .collect::<Result<_, _>>()?;
        if pod_cidrs.is_empty() {
            return Err(wrong("podCIDRs is missing"));
        }
        for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            if pod_cidrs.iter().filter(|c| family(&c.address)).count() > 1 {
                return Err(wrong("podCIDRs has two networks of one family"));
            }
        }
        let node_addresses = self.list("nodeAddresses", "nodeAddress")?;
        let node_addresses = node_addresses.iter().map(|a| {
            a.parse()
                .map_err(|_| wrong(format!("node address {a:?} is not an address")))
        });
        Ok(AddConf {
            pod_cidrs,
            mtu: number(&self.rest, "mtu")?.unwrap_or(0),
            node_addresses: node_addresses.collect::<Result<_, _>>()?,
            port_mappings: self.port_mappings()?,
            limits: self.limits()?,
        })
    }

    /// A list of texts; where there is none, the one that an earlier version wrote.
    fn list(&self, name: &str, single: &str) -> Result<Vec<String>, CniError> {
        let Some(list) = field(&self.rest, name) else {
            let one = text(&self.rest, single)?;
            return Ok(one.filter(|one| !one.is_empty()).into_iter().collect());
        };
        let list = list
            .as_array()
            .ok_or_else(|| wrong(format!("{name} is not a list")))?;
        let one = |value: &Value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| wrong(format!("{name} holds what is not a string")))
        };
        list.iter().map(one).collect()
    }

    /// What the runtime says of this pod alone.
    fn of_pod(&self, name: &str) -> Option<&Value> {
        let runtime = field(&self.rest, "runtimeConfig")?.as_object()?;
        field(runtime, name)
    }

    /// The limits of a pod's annotations, in bits and bits per second; zero is not a limit.
    fn limits(&self) -> Result<Limits, CniError> {
        let Some(bandwidth) = self.of_pod("bandwidth") else {
            return Ok(Limits::default());
        };
        let bandwidth = bandwidth
            .as_object()
            .ok_or_else(|| wrong("bandwidth is not an object"))?;
        let rate = |rate: &str, burst: &str| -> Result<Option<Rate>, CniError> {
            let per_second = number::<u64>(bandwidth, rate)?.filter(|bits| *bits > 0);
            let burst = number::<u64>(bandwidth, burst)?.unwrap_or(0);
            Ok(per_second.map(|bits| Rate::of_bits(bits, burst)))
        };
        Ok(Limits {
            to_pod: rate("ingressRate", "ingressBurst")?,
            from_pod: rate("egressRate", "egressBurst")?,
        })
    }

    fn port_mappings(&self) -> Result<Vec<PortMapping>, CniError> {
        let Some(list) = self.of_pod("portMappings") else {
            return Ok(Vec::new());
        };
        let list = list
            .as_array()
            .ok_or_else(|| wrong("portMappings is not a list"))?;
        let all = list.iter().map(|entry| {
            let entry = entry.as_object();
            mapping(entry.ok_or_else(|| wrong("an entry of portMappings is not an object"))?)
        });
        all.filter_map(Result::transpose).collect()
    }

    /// The attachments that are in use, by their names in the state folder; none where the caller
    /// does not say.
    pub fn in_use(&self) -> Result<Option<BTreeSet<String>>, CniError> {
        let Some(list) = field(&self.rest, "cni.dev/valid-attachments") else {
            return Ok(None);
        };
        let list = list
            .as_array()
            .ok_or_else(|| wrong("cni.dev/valid-attachments is not a list"))?;
        let all = list.iter().map(|entry| {
            let entry = entry
                .as_object()
                .ok_or_else(|| wrong("an attachment is not an object"))?;
            let container = text(entry, "containerID")?;
            let interface = text(entry, "ifname")?;
            match (container, interface) {
                (Some(container), Some(interface)) => Ok(key_of(&container, &interface)),
                _ => Err(wrong("an attachment lacks containerID or ifname")),
            }
        });
        all.collect::<Result<_, _>>().map(Some)
    }
}

/// One host port; none for a port of the pod that is not mapped.
fn mapping(entry: &Map<String, Value>) -> Result<Option<PortMapping>, CniError> {
    let host_port: u16 = number(entry, "hostPort")?.unwrap_or(0);
    if host_port == 0 {
        return Ok(None);
    }
    let container_port = number(entry, "containerPort")?.filter(|p: &u16| *p > 0);
    let protocol = text(entry, "protocol")?.unwrap_or_default();
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => tcp(),
        known @ ("udp" | "sctp") => known.to_owned(),
        other => return Err(wrong(format!("protocol {other:?} is not known"))),
    };
    let host_ip = text(entry, "hostIP")?.unwrap_or_default();
    if !host_ip.is_empty() && host_ip.parse::<IpAddr>().is_err() {
        return Err(wrong(format!("hostIP {host_ip:?} is not an address")));
    }
    Ok(Some(PortMapping {
        host_port,
        container_port: container_port.ok_or_else(|| wrong("containerPort is missing"))?,
        protocol,
        host_ip,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(runtime: Value) -> NetConf {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "n", "stateDir": "/s", "podCIDR": "10.0.0.0/24",
            "runtimeConfig": runtime,
        });
        NetConf::parse(&conf.to_string()).expect("well formed")
    }

    #[test]
    fn host_ports_are_read_as_runtimes_write_them() {
        let wanted = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "udp".into(),
            host_ip: "192.0.2.1".into(),
        };
        for entry in [
            json!({"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.1"}),
            // containerd
            json!({"HostPort": 8080, "ContainerPort": 80, "Protocol": "udp", "HostIP": "192.0.2.1"}),
            // cri-o
            json!({"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIp": "192.0.2.1"}),
        ] {
            let read = conf(json!({"portMappings": [entry]}))
                .to_add()
                .expect("read");
            assert_eq!(
                read.port_mappings.as_slice(),
                std::slice::from_ref(&wanted),
                "{entry}"
            );
        }
        for none in [
            json!(null),
            json!({}),
            json!({"portMappings": null}),
            json!({"portMappings": [{"HostPort": 0, "ContainerPort": 80, "Protocol": "", "HostIP": ""}]}),
        ] {
            let read = conf(none.clone()).to_add().expect("read");
            assert!(read.port_mappings.is_empty(), "{none}");
        }
        for bad in [
            json!({"hostPort": 70_000, "containerPort": 80}),
            json!({"hostPort": 80}),
            json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}),
            json!({"hostPort": 80, "containerPort": 80, "hostIP": "here"}),
        ] {
            let conf = conf(json!({"portMappings": [bad]}));
            assert_eq!(
                conf.to_add().map_err(|e| e.code),
                Err(code::CONFIGURATION),
                "{bad}"
            );
        }
    }

    #[test]
    fn limits_are_read_as_runtimes_write_them() {
        let read = |bandwidth: Value| conf(json!({ "bandwidth": bandwidth })).to_add();
        let limits = read(json!({
            "ingressRate": 8_000_000, "ingressBurst": 4_294_967_295_u64, "egressRate": 0, "egressBurst": 0,
        }));
        let expected = Limits {
            to_pod: Some(Rate::of_bits(8_000_000, 4_294_967_295)),
            from_pod: None,
        };
        assert_eq!(limits.expect("read").limits, expected);
        // containerd's own names.
        let limits = read(json!({ "EgressRate": 1_000_000, "EgressBurst": 1_000_000 }));
        let expected = Limits {
            to_pod: None,
            from_pod: Some(Rate::of_bits(1_000_000, 1_000_000)),
        };
        assert_eq!(limits.expect("read").limits, expected);
        for bad in [
            json!("fast"),
            json!({ "egressRate": -1 }),
            json!({ "egressRate": "1M" }),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        assert_eq!(read(json!(null)).expect("read").limits, Limits::default());
    }

    #[test]
    fn a_pod_gets_an_address_of_each_family() {
        let read = |more: Value| {
            let mut conf = json!({"name": "n", "stateDir": "/s"});
            for (key, value) in more.as_object().expect("an object") {
                conf[key] = value.clone();
            }
            NetConf::parse(&conf.to_string())
                .expect("well formed")
                .to_add()
        };
        let both = read(json!({
            "podCIDRs": ["10.0.0.0/24", "fd00::/64"], "nodeAddresses": ["192.0.2.1", "2001:db8::1"],
        }));
        let both = both.expect("both");
        let shown = |c: &Prefix| c.to_string();
        let cidrs: Vec<String> = both.pod_cidrs.iter().map(shown).collect();
        assert_eq!(cidrs, ["10.0.0.0/24", "fd00::/64"]);
        assert_eq!(both.node_addresses.len(), 2);
        // As versions before wrote it.
        let one = read(json!({"podCIDR": "10.0.0.0/24", "nodeAddress": "192.0.2.1"}));
        let one = one.expect("one");
        assert_eq!((one.pod_cidrs.len(), one.node_addresses.len()), (1, 1));
        let six = read(json!({"podCIDRs": ["fd00::/64"]})).expect("IPv6 alone");
        assert_eq!(six.node_addresses, Vec::<IpAddr>::new());
        for bad in [
            json!({}),
            json!({"podCIDRs": []}),
            json!({"podCIDRs": "10.0.0.0/24"}),
            json!({"podCIDRs": [1]}),
            json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}),
            json!({"podCIDRs": ["10.0.0.0/24"], "nodeAddresses": ["x"]}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_in_use_is_read() {
        let with = |list: Value| {
            let conf = json!({"name": "n", "stateDir": "/s", "cni.dev/valid-attachments": list});
            NetConf::parse(&conf.to_string())
                .expect("well formed")
                .in_use()
        };
        let one = json!([{"containerID": "c1", "ifname": "eth0"}]);
        assert_eq!(with(one), Ok(Some(["c1-eth0".to_owned()].into())));
        assert_eq!(with(json!([])), Ok(Some(BTreeSet::new())));
        assert_eq!(with(json!(null)), Ok(None), "not said is not none");
        assert!(with(json!([{"ifname": "eth0"}])).is_err());
    }
}
