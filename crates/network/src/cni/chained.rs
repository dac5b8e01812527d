//! The plugin behind plugins of others, which have connected the pod: it changes nothing of that, and
//! lets the pod start when its network policies are in place. What the others gave the pod stands in
//! the result before; whose it is, is on record for an agent that starts again.

use std::net::IpAddr;
use std::path::Path;

use host::nft::Prefix;
use serde_json::Value;

use super::conf::NetConf;
use super::ipam::Store;
use super::protect::{give_up, protect};
use super::protocol::{CniError, Command, Invocation, code};

/// The name of the folder of what others' plugins have connected, whatever their networks are called.
pub const NETWORK: &str = "others";

/// One call.
pub fn call(call: &Invocation, conf: &NetConf) -> Result<Option<Value>, CniError> {
    match call.command {
        Command::Add => add(call, conf).map(Some),
        Command::Delete => delete(call, conf).map(|()| None),
        Command::Collect => collect(conf).map(|()| None),
        Command::Status => Store::open(&conf.state_dir, NETWORK)
            .map(|_| None)
            .map_err(|e| CniError::new(code::UNAVAILABLE, "open the state folder", e)),
        // Pods that were connected before this plugin came are in order, too.
        Command::Check | Command::Version => Ok(None),
    }
}

fn add(call: &Invocation, conf: &NetConf) -> Result<Value, CniError> {
    let before = conf.previous().ok_or_else(|| {
        let why = "prevResult is missing: this plugin stands behind others";
        CniError::new(code::CONFIGURATION, "read the configuration", why)
    })?;
    let addresses = addresses_of(before);
    let key = call.key();
    let store = Store::open(&conf.state_dir, NETWORK)?;
    store.record(&key, &addresses, call.pod.as_ref())?;
    // Others may be connected while this one waits for the agent.
    drop(store);
    match protect(call, conf, &addresses) {
        Ok(()) => Ok(before.clone()),
        Err(error) => {
            // The runtime may not ask for its removal.
            let store = Store::open(&conf.state_dir, NETWORK)?;
            store.release(&key)?;
            Err(error)
        }
    }
}

fn delete(call: &Invocation, conf: &NetConf) -> Result<(), CniError> {
    let store = Store::open(&conf.state_dir, NETWORK)?;
    if let Some(entry) = store.release(&call.key())? {
        give_up(call, conf, entry.addresses().collect());
    }
    Ok(())
}

/// Forgets all attachments but those in use.
fn collect(conf: &NetConf) -> Result<(), CniError> {
    let Some(in_use) = conf.in_use()? else {
        return Ok(());
    };
    let store = Store::open(&conf.state_dir, NETWORK)?;
    for (key, _) in store.entries()? {
        if !in_use.contains(&key) {
            store.release(&key)?;
        }
    }
    Ok(())
}

/// Forgets all that others' plugins have connected: nobody keeps record of it from now on.
pub fn forget(state_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(state_dir.join(NETWORK)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The addresses that a result gives to the pod: not those of links that stay on the node.
fn addresses_of(result: &Value) -> Vec<IpAddr> {
    let interfaces = result["interfaces"].as_array();
    let stays = |ip: &Value| {
        let index = ip["interface"]
            .as_u64()
            .and_then(|i| usize::try_from(i).ok());
        let link = index.and_then(|index| interfaces?.get(index));
        link.is_some_and(|link| link["sandbox"].as_str().unwrap_or_default().is_empty())
    };
    let ips = result["ips"].as_array().into_iter().flatten();
    let theirs = ips.filter(|ip| !stays(ip));
    let address = |ip: &Value| ip["address"].as_str()?.parse::<Prefix>().ok();
    theirs.filter_map(address).map(|p| p.address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_the_pod_are_found_in_results() {
        let interfaces = json!([
            { "name": "cni0" }, { "name": "veth1" }, { "name": "eth0", "sandbox": "/var/run/netns/a" },
        ]);
        for (result, expected) in [
            (
                json!({ "interfaces": interfaces, "ips": [
                    { "address": "10.1.2.3/24", "interface": 2 },
                    { "address": "fd00::3/64", "interface": 2 },
                    { "address": "10.1.2.1/24", "interface": 0 },
                ] }),
                &["10.1.2.3", "fd00::3"][..],
            ),
            // Those that do not say on which link they are.
            (
                json!({ "ips": [{ "address": "10.1.2.3/32" }] }),
                &["10.1.2.3"],
            ),
            (json!({ "ips": [{ "address": "x" }, {}] }), &[]),
            (json!({}), &[]),
        ] {
            let found = addresses_of(&result);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{result}");
        }
    }
}
