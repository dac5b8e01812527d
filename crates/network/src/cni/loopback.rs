//! The plugin `loopback`, which container runtimes call before the network's own: it takes the
//! pod's loopback interface up, and has nothing to take down.

use std::path::Path;

use host::netlink::Netlink;
use host::netns::NetNs;
use serde_json::{Value, json};

use super::protocol::{CniError, Command, Invocation, code};

/// The configuration's version if it is one for this plugin.
pub fn version_of(input: &str) -> Option<String> {
    let conf: Value = serde_json::from_str(input).ok()?;
    let version = conf
        .get("cniVersion")
        .and_then(Value::as_str)
        .unwrap_or("0.3.1")
        .to_owned();
    (conf.get("type")?.as_str()? == "loopback").then_some(version)
}

/// One call.
pub fn call(call: &Invocation, version: &str) -> Result<Option<Value>, CniError> {
    match call.command {
        Command::Add => add(call, version).map(Some),
        Command::Delete
        | Command::Check
        | Command::Collect
        | Command::Status
        | Command::Version => Ok(None),
    }
}

fn add(call: &Invocation, version: &str) -> Result<Value, CniError> {
    let path = call.netns()?;
    let pod = NetNs::open(Path::new(path))
        .map_err(|e| CniError::new(code::UNKNOWN_CONTAINER, &format!("open {path}"), e))?;
    pod.run_async(|| async {
        let netlink = Netlink::connect()?;
        let link = netlink.link("lo").await?;
        netlink.set_up(link.index).await
    })
    .map_err(|e| CniError::new(code::UNKNOWN_CONTAINER, "enter the pod", e))?
    .map_err(|e| CniError::new(code::NETWORK, "take lo up", e))?;
    let mut ip = json!({"address": "127.0.0.1/8", "interface": 0});
    if version.starts_with("0.") {
        ip["version"] = "4".into();
    }
    Ok(json!({
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": path}],
        "ips": [ip],
        "dns": {},
    }))
}
