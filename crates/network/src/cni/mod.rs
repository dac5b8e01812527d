//! The CNI plugin: one pod in, one pod out (CNI specification 0.3.0 to 1.1.0).
//!
//! Called with the configuration type `loopback`, it takes a pod's loopback interface up: container
//! runtimes ask for that plugin too. With `chained` in the configuration it stands behind plugins of
//! others, and connects nothing.
//!
//! A pod gets a routed line to its node (see [`host::podlink`]), an address of each of the node's pod
//! ranges, and mappings of its host ports. Each run holds the lock of the state folder, so what
//! stands there and what stands in the kernel change together; a run that was killed leaves at
//! most an entry whose interface is missing, which the next sweep frees.

pub mod chained;
pub mod conf;
mod ipam;
mod loopback;
mod ports;
mod protect;
mod protocol;

pub use conf::{AddConf, NetConf, PortMapping};
pub use ipam::{Entry, Store, choose};
pub use ports::{HOST_PORT_TABLE, host_port_rules};
pub use protocol::{CniError, Command, PodName};

use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use host::netlink::Netlink;
use host::netns::NetNs;
use host::nft::{Family, Prefix};
use host::podlink::{Ends, PodLink, connect, gateway};
use serde_json::{Value, json};

use crate::policy::world::Tenant;
use protect::{give_up, protect};
use protocol::{Invocation, VERSIONS, code, interface_name};

/// Runs the plugin as the runtime calls it: parameters in the environment, configuration on
/// standard input, result on standard output.
pub fn main() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    let result = read
        .map_err(|e| CniError::new(code::IO, "read the configuration", e))
        .and_then(|_| call(|name| std::env::var(name).ok(), &input));
    match result {
        Ok(output) => {
            if let Some(output) = output {
                println!("{output}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", error.to_json());
            ExitCode::FAILURE
        }
    }
}

/// One call, with its parameters as `variable` gives them.
pub fn call(
    variable: impl Fn(&str) -> Option<String>,
    input: &str,
) -> Result<Option<Value>, CniError> {
    let invocation = Invocation::of(&variable)?;
    if invocation.command == Command::Version {
        let asked: Value = serde_json::from_str(input).unwrap_or_default();
        let version = asked
            .get("cniVersion")
            .and_then(Value::as_str)
            .unwrap_or("1.0.0");
        return Ok(Some(
            json!({ "cniVersion": version, "supportedVersions": VERSIONS }),
        ));
    }
    if let Some(version) = loopback::version_of(input) {
        return loopback::call(&invocation, &version);
    }
    let conf = NetConf::parse(input)?;
    if conf.is_chained() {
        return chained::call(&invocation, &conf);
    }
    match invocation.command {
        Command::Version => Ok(None),
        Command::Add => add(&invocation, &conf).map(Some),
        Command::Delete => delete(&invocation, &conf).map(|()| None),
        Command::Check => check(&invocation, &conf).map(|()| None),
        Command::Collect => collect(&conf).map(|()| None),
        Command::Status => status(&conf).map(|()| None),
    }
}

fn add(call: &Invocation, conf: &NetConf) -> Result<Value, CniError> {
    let wanted = conf.to_add()?;
    let path = call.netns()?;
    let pod = NetNs::open(Path::new(path))
        .map_err(|e| CniError::new(code::UNKNOWN_CONTAINER, &format!("open {path}"), e))?;
    let store = Store::open(&conf.state_dir, &conf.name)?;
    let links = links()?;
    let host_name = interface_name(&call.container, &call.interface);
    let key = call.key();
    let ports = &wanted.port_mappings;
    let addresses = store.allocate(&wanted.pod_cidrs, &key, &host_name, ports, &links)?;
    let result = attach(call, &wanted, &pod, &addresses, &host_name)
        .and_then(|ends| program_ports(&store, !ports.is_empty()).map(|()| ends));
    let result = result.and_then(|ends| {
        if let Some(pod) = &call.pod {
            store.note(&key, pod)?;
        }
        // Others may be connected while this one waits for the agent.
        drop(store);
        protect(call, conf, &addresses).map(|()| ends)
    });
    match result {
        Ok(ends) => Ok(result_of(call, conf, &addresses, &host_name, &ends)),
        Err(error) => {
            let store = Store::open(&conf.state_dir, &conf.name)?;
            // Nothing half done remains: the runtime may not ask for its removal.
            if let Err(error) = remove(&store, &key, &host_name) {
                tracing::warn!(%key, %error, "what was half done for a pod is not removed");
            }
            Err(error)
        }
    }
}

fn attach(
    call: &Invocation,
    conf: &AddConf,
    pod: &NetNs,
    addresses: &[IpAddr],
    host_name: &str,
) -> Result<Ends, CniError> {
    let spec = PodLink {
        host_name: host_name.to_owned(),
        pod_name: call.interface.clone(),
        addresses: addresses.to_vec(),
        mtu: conf.mtu,
        node_addresses: conf.node_addresses.clone(),
        from_loopback: conf.port_mappings.iter().any(at_loopback),
        limits: conf.limits,
    };
    forward(addresses)?;
    runtime()?
        .block_on(connect(&spec, pod))
        .map_err(|e| CniError::new(code::NETWORK, "connect the pod", e))
}

/// Whether a host port is one of the node's IPv4 loopback addresses; from IPv6's nothing leaves a
/// host.
fn at_loopback(mapping: &PortMapping) -> bool {
    let ip = mapping.host_ip.parse::<IpAddr>();
    ip.is_ok_and(|ip| ip.is_ipv4() && ip.is_loopback())
}

/// The node is its pods' router.
fn forward(addresses: &[IpAddr]) -> Result<(), CniError> {
    let failed = |e| CniError::new(code::NETWORK, "let the node forward packets", e);
    if addresses.iter().any(IpAddr::is_ipv4) {
        host::sysctl::set("net.ipv4.ip_forward", "1").map_err(failed)?;
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        host::sysctl::forward_ipv6().map_err(failed)?;
    }
    Ok(())
}

fn delete(call: &Invocation, conf: &NetConf) -> Result<(), CniError> {
    let store = Store::open(&conf.state_dir, &conf.name)?;
    let (key, host_name) = (call.key(), interface_name(&call.container, &call.interface));
    let entry = store.find(&key)?;
    remove(&store, &key, &host_name)?;
    if let Some(entry) = entry {
        give_up(call, conf, entry.addresses().collect());
    }
    Ok(())
}

/// Removes all of a pod; what is gone already is not an error.
fn remove(store: &Store, key: &str, host_name: &str) -> Result<(), CniError> {
    block_on(async { Netlink::connect()?.delete_link(host_name).await })?;
    let Some(entry) = store.release(key)? else {
        // Asked again, perhaps because host ports could not be programmed: they are tried once
        // more, but nothing of the pod is left that removing it could depend on.
        if let Err(error) = program_ports(store, true) {
            tracing::warn!(%error, "host ports");
        }
        return Ok(());
    };
    if !entry.ports.is_empty() {
        program_ports(store, true)?;
        forget_flows(&entry);
    }
    Ok(())
}

/// Removes all pods but those in use, as far as it can.
fn collect(conf: &NetConf) -> Result<(), CniError> {
    let in_use = conf.in_use()?.ok_or_else(|| {
        let why = "cni.dev/valid-attachments is missing";
        CniError::new(code::CONFIGURATION, "read the configuration", why)
    })?;
    let store = Store::open(&conf.state_dir, &conf.name)?;
    let mut result = Ok(());
    for (key, entry) in store.entries()? {
        if !in_use.contains(&key) {
            result = result.and(remove(&store, &key, &entry.interface));
        }
    }
    result
}

/// Whether pods can be connected.
fn status(conf: &NetConf) -> Result<(), CniError> {
    conf.to_add()?;
    Store::open(&conf.state_dir, &conf.name)
        .map(drop)
        .map_err(|e| CniError::new(code::UNAVAILABLE, "open the state folder", e))
}

/// Flows to a host port would keep leading to the pod that is gone. A flow that cannot be forgotten
/// ends by its own timeout.
fn forget_flows(entry: &Entry) {
    let forget = || -> std::io::Result<()> {
        let mut conntrack = host::conntrack::Conntrack::open()?;
        for address in entry.addresses() {
            for protocol in ports::FLOWING {
                let flows = conntrack.list(Family::of(address), protocol)?;
                let ours = flows.iter().filter(|f| f.answers_from.ip() == address);
                for flow in ours {
                    conntrack.delete(flow)?;
                }
            }
        }
        Ok(())
    };
    if let Err(error) = forget() {
        tracing::debug!(%error, "stale flows");
    }
}

fn check(call: &Invocation, conf: &NetConf) -> Result<(), CniError> {
    let store = Store::open(&conf.state_dir, &conf.name)?;
    let wrong = |what: &str| CniError::new(code::NETWORK, "check", what);
    let entry = store
        .find(&call.key())?
        .ok_or_else(|| wrong("no address is allocated"))?;
    let path = call.netns()?;
    let pod = NetNs::open(Path::new(path))
        .map_err(|e| CniError::new(code::UNKNOWN_CONTAINER, &format!("open {path}"), e))?;
    let host_link = block_on(async { Netlink::connect()?.find_link(&entry.interface).await })?;
    if !host_link.is_some_and(|link| link.up) {
        return Err(wrong("the node's interface is missing or down"));
    }
    let addresses = pod
        .run_async(|| async {
            let netlink = Netlink::connect()?;
            let link = netlink.link(&call.interface).await?;
            netlink.addresses(Some(link.index)).await
        })
        .map_err(|e| CniError::new(code::UNKNOWN_CONTAINER, "enter the pod", e))?
        .map_err(|e| CniError::new(code::NETWORK, "check", e))?;
    let has = |wanted: &IpAddr| addresses.iter().any(|a| a.address == *wanted);
    if let Some(missing) = entry.addresses().find(|wanted| !has(wanted)) {
        return Err(wrong(&format!(
            "the pod does not have its address {missing}"
        )));
    }
    Ok(())
}

/// Brings the mappings of host ports to what the state says. Read back and compared, so it does
/// not matter what ran before.
fn program_ports(store: &Store, needed: bool) -> Result<(), CniError> {
    if !needed {
        return Ok(());
    }
    ports::program(&store.entries()?)
        .map_err(|e| CniError::new(code::NETWORK, "program host ports", e))
}

/// Frees addresses whose interfaces are gone, such as after a reboot.
pub fn sweep(state_dir: &Path, network: &str) -> Result<usize, CniError> {
    let store = Store::open(state_dir, network)?;
    let freed = store.sweep(&links()?)?;
    program_ports(&store, freed > 0)?;
    Ok(freed)
}

/// Removes all pods that are on record, as far as it can: for a machine that is not a node any more.
pub fn remove_all(state_dir: &Path, network: &str) -> Result<usize, CniError> {
    let store = Store::open(state_dir, network)?;
    let (mut count, mut result) = (0, Ok(()));
    for (key, entry) in store.entries()? {
        let removed = remove(&store, &key, &entry.interface);
        count += usize::from(removed.is_ok());
        result = result.and(removed);
    }
    result.map(|()| count)
}

/// Brings the mappings of host ports to what is on record, where there are any.
pub fn refresh_ports(state_dir: &Path, network: &str) -> Result<(), CniError> {
    let store = Store::open(state_dir, network)?;
    let mapped = store.entries()?.iter().any(|(_, e)| !e.ports.is_empty());
    program_ports(&store, mapped)
}

/// Whose the addresses on record are, as far as it is known.
pub fn tenants(state_dir: &Path, network: &str) -> Result<Vec<(IpAddr, Tenant)>, CniError> {
    let entries = Store::open(state_dir, network)?.entries()?;
    let mut tenants = Vec::new();
    for (sandbox, entry) in entries {
        let Some(pod) = &entry.pod else { continue };
        let tenant = Tenant {
            name: (pod.namespace.clone(), pod.name.clone()),
            uid: pod.uid.clone(),
            sandbox,
        };
        tenants.extend(entry.addresses().map(|ip| (ip, tenant.clone())));
    }
    Ok(tenants)
}

/// The node's ends of all pods' lines that are on record.
pub fn interfaces(state_dir: &Path, network: &str) -> Result<BTreeSet<String>, CniError> {
    let entries = Store::open(state_dir, network)?.entries()?;
    Ok(entries.into_iter().map(|(_, e)| e.interface).collect())
}

/// The names of the node's links.
fn links() -> Result<BTreeSet<String>, CniError> {
    block_on(async {
        let links = Netlink::connect()?.links().await?;
        Ok(links.into_iter().map(|link| link.name).collect())
    })
}

fn result_of(
    call: &Invocation,
    conf: &NetConf,
    addresses: &[IpAddr],
    host_name: &str,
    ends: &Ends,
) -> Value {
    let ip = |address: &IpAddr| {
        let mut ip = json!({
            "address": Prefix::of_one(*address).to_string(),
            "gateway": gateway(*address).to_string(),
            "interface": 1,
        });
        if conf.cni_version.starts_with("0.") {
            ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
        }
        ip
    };
    let route = |address: &IpAddr| {
        let everywhere = if address.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        json!({"dst": everywhere, "gw": gateway(*address).to_string()})
    };
    json!({
        "cniVersion": conf.cni_version,
        "interfaces": [
            {"name": host_name, "mac": mac_text(&ends.host_mac)},
            {"name": call.interface, "mac": mac_text(&ends.pod_mac), "sandbox": call.netns},
        ],
        "ips": addresses.iter().map(ip).collect::<Vec<_>>(),
        "routes": addresses.iter().map(route).collect::<Vec<_>>(),
        "dns": {},
    })
}

fn mac_text(mac: &[u8]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn runtime() -> Result<tokio::runtime::Runtime, CniError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CniError::new(code::IO, "start", e))
}

fn block_on<T>(
    work: impl Future<Output = Result<T, host::netlink::NetlinkError>>,
) -> Result<T, CniError> {
    runtime()?
        .block_on(work)
        .map_err(|e| CniError::new(code::NETWORK, "netlink", e))
}
