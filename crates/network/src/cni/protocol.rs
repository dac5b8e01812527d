//! The words between runtime and plugin: parameters, configuration, errors.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The versions of the specification that the plugin speaks.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

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
    /// The configuration is not JSON.
    pub const DECODE: u32 = 6;
    /// The configuration is wrong.
    pub const CONFIGURATION: u32 = 7;
    /// No pod can be connected now.
    pub const UNAVAILABLE: u32 = 50;
    /// No address is free.
    pub const EXHAUSTED: u32 = 101;
    /// The kernel refused.
    pub const NETWORK: u32 = 102;
    /// The rules of the pod's network policies are not in place.
    pub const POLICY: u32 = 103;
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
    /// Remove all but what is named as in use.
    Collect,
    /// Say whether pods can be connected.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Command {
    /// Whether it is about one pod's interface.
    fn is_of_pod(self) -> bool {
        matches!(self, Self::Add | Self::Delete | Self::Check)
    }
}

/// The pod that an attachment is for, as runtimes for Kubernetes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity; empty where the runtime does not say.
    #[serde(default)]
    pub uid: String,
}

impl PodName {
    /// From `CNI_ARGS`: pairs such as `K8S_POD_NAME=web`.
    fn of(args: &str) -> Option<Self> {
        let value = |key: &str| {
            let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
            let mut found = pairs
                .filter(|(k, _)| k.trim() == key)
                .map(|(_, v)| v.trim());
            found
                .next_back()
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        Some(Self {
            namespace: value("K8S_POD_NAMESPACE")?,
            name: value("K8S_POD_NAME")?,
            uid: value("K8S_POD_UID").unwrap_or_default(),
        })
    }
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
    /// The pod.
    pub pod: Option<PodName>,
}

impl Invocation {
    /// From the environment.
    pub fn of(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let wrong = |what: &str| CniError::new(code::ENVIRONMENT, "read the environment", what);
        let command = match variable("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Delete,
            Some("CHECK") => Command::Check,
            Some("GC") => Command::Collect,
            Some("STATUS") => Command::Status,
            Some("VERSION") => Command::Version,
            Some(other) => return Err(wrong(&format!("unknown CNI_COMMAND {other}"))),
            None => return Err(wrong("CNI_COMMAND is missing")),
        };
        let required = |name: &str| match variable(name).filter(|value| !value.is_empty()) {
            Some(value) => Ok(value),
            None if !command.is_of_pod() => Ok(String::new()),
            None => Err(wrong(&format!("{name} is missing"))),
        };
        let container = required("CNI_CONTAINERID")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !container.chars().all(plain) || container.starts_with('.') {
            return Err(wrong("CNI_CONTAINERID has characters that are not allowed"));
        }
        let interface = required("CNI_IFNAME")?;
        if interface.len() > 15 || interface.contains(['/', ':']) || interface.contains(' ') {
            return Err(wrong("CNI_IFNAME is not a name of an interface"));
        }
        let netns = variable("CNI_NETNS").filter(|path| !path.is_empty());
        Ok(Self {
            command,
            container,
            netns,
            interface,
            pod: PodName::of(&variable("CNI_ARGS").unwrap_or_default()),
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
        key_of(&self.container, &self.interface)
    }
}

/// The name of an attachment in the state folder.
pub fn key_of(container: &str, interface: &str) -> String {
    format!("{container}-{interface}")
}

/// The node's end of a pod's line, the same for the same pod.
pub fn interface_name(container: &str, interface: &str) -> String {
    let hash = [container, "/", interface]
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
    // Fifteen bytes is what an interface's name can have.
    format!("veth{:011x}", hash & 0xfff_ffff_ffff)
}

/// The node's end of the line of an attachment, by its name; none where that is not a name of one.
pub fn line_of(key: &str) -> Option<String> {
    let (container, interface) = key.rsplit_once('-')?;
    Some(interface_name(container, interface))
}
