//! The words between runtime and plugin: parameters, configuration, errors.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use host::nft::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The versions of the specification that the plugin speaks.
pub const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// Error codes: below 100 the specification's, above our own.
pub mod code {
    /// The version is not spoken.
    pub const VERSION: u32 = 1;
    /// The pod's namespace does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A parameter is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration is no JSON.
    pub const DECODE: u32 = 6;
    /// The configuration is wrong.
    pub const CONFIGURATION: u32 = 7;
    /// No address is free.
    pub const EXHAUSTED: u32 = 101;
    /// The kernel refused.
    pub const NETWORK: u32 = 102;
}

/// An error in the form that runtimes expect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub struct CniError {
    /// What kind of error.
    pub code: u32,
    /// What was attempted.
    pub message: String,
    /// Why it failed.
    pub details: String,
}

impl CniError {
    /// An error with its cause.
    pub fn new(code: u32, attempt: &str, cause: impl Display) -> Self {
        Self {
            code,
            message: attempt.to_owned(),
            details: cause.to_string(),
        }
    }

    /// As it is printed.
    pub fn to_json(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "code": self.code,
            // Some runtimes show the message alone.
            "msg": self.to_string(),
            "details": self.details,
        })
    }
}

/// What the plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Connect a pod.
    Add,
    /// Remove all of a pod's.
    Delete,
    /// Say whether a pod is still connected.
    Check,
    /// Say which versions are spoken.
    Version,
}

/// The parameters of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The sandbox's identifier.
    pub container: String,
    /// The pod's namespace; may be missing when it is deleted.
    pub netns: Option<String>,
    /// The name of the pod's interface.
    pub interface: String,
}

impl Invocation {
    /// From the environment.
    pub fn of(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let wrong = |what: &str| CniError::new(code::ENVIRONMENT, "read the environment", what);
        let command = match variable("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Delete,
            Some("CHECK") => Command::Check,
            Some("VERSION") => Command::Version,
            Some(other) => return Err(wrong(&format!("unknown CNI_COMMAND {other}"))),
            None => return Err(wrong("CNI_COMMAND is missing")),
        };
        let required = |name: &str| match variable(name).filter(|value| !value.is_empty()) {
            Some(value) => Ok(value),
            None if command == Command::Version => Ok(String::new()),
            None => Err(wrong(&format!("{name} is missing"))),
        };
        let container = required("CNI_CONTAINERID")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !container.chars().all(plain) || container.starts_with('.') {
            return Err(wrong("CNI_CONTAINERID has characters that are not allowed"));
        }
        let interface = required("CNI_IFNAME")?;
        if interface.len() > 15 || interface.contains(['/', ':']) || interface.contains(' ') {
            return Err(wrong("CNI_IFNAME is no name of an interface"));
        }
        let netns = variable("CNI_NETNS").filter(|path| !path.is_empty());
        Ok(Self {
            command,
            container,
            netns,
            interface,
        })
    }

    /// The pod's namespace, where it is needed.
    pub fn netns(&self) -> Result<&str, CniError> {
        self.netns.as_deref().ok_or_else(|| {
            CniError::new(
                code::ENVIRONMENT,
                "read the environment",
                "CNI_NETNS is missing",
            )
        })
    }

    /// The name of the attachment in the state folder.
    pub fn key(&self) -> String {
        format!("{}-{}", self.container, self.interface)
    }
}

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
    /// Only at this address of the node.
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
    /// The range of this node's pods.
    pub pod_cidr: Prefix,
    /// Where addresses are recorded.
    pub state_dir: PathBuf,
    /// The largest packet in bytes; zero for the kernel's default.
    pub mtu: u32,
    /// The address that the node itself talks to pods from.
    pub node_address: Option<Ipv4Addr>,
    /// The pod's host ports.
    pub port_mappings: Vec<PortMapping>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConf {
    cni_version: Option<String>,
    name: Option<String>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    mtu: u32,
    node_address: Option<Ipv4Addr>,
    #[serde(default)]
    runtime_config: RawRuntime,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRuntime {
    port_mappings: Vec<PortMapping>,
}

impl NetConf {
    /// From standard input.
    pub fn parse(input: &str) -> Result<Self, CniError> {
        let raw: RawConf = serde_json::from_str(input)
            .map_err(|e| CniError::new(code::DECODE, "decode the configuration", e))?;
        let wrong =
            |what: String| CniError::new(code::CONFIGURATION, "read the configuration", what);
        let cni_version = raw.cni_version.unwrap_or_else(|| "0.3.0".into());
        if !VERSIONS.contains(&cni_version.as_str()) {
            let attempt = format!("version {cni_version}");
            return Err(CniError::new(code::VERSION, &attempt, "not supported"));
        }
        let name = raw
            .name
            .filter(|name| !name.is_empty() && !name.contains('/'));
        let pod_cidr: Prefix = raw
            .pod_cidr
            .ok_or_else(|| wrong("podCIDR is missing".into()))?
            .parse()
            .map_err(wrong)?;
        if !pod_cidr.address.is_ipv4() {
            return Err(wrong("podCIDR is not an IPv4 network".into()));
        }
        Ok(Self {
            cni_version,
            name: name.ok_or_else(|| wrong("name is missing".into()))?,
            pod_cidr,
            state_dir: raw
                .state_dir
                .ok_or_else(|| wrong("stateDir is missing".into()))?,
            mtu: raw.mtu,
            node_address: raw.node_address,
            port_mappings: raw
                .runtime_config
                .port_mappings
                .into_iter()
                .filter(|mapping| mapping.host_port > 0)
                .collect(),
        })
    }
}
