//! The parts of a cluster of several servers: which one leads, and how a part is taken away.

use anyhow::{Context as _, Result, bail, ensure};
use store::{Etcd, EtcdConfig, EtcdTls, MemberStatus};
use tests::command::eventually;
use tests::{Cluster, Context, is_soak};

pub const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];

/// The servers that get their turn in checks that take one: one every day, all in the soak.
pub fn victims() -> &'static [&'static str] {
    if is_soak() { &SERVERS } else { &SERVERS[..1] }
}

/// The servers that get their turn after those that lead: none every day, all in the soak.
pub fn others() -> &'static [&'static str] {
    if is_soak() { &SERVERS } else { &[] }
}

/// The server that holds a Lease of `kube-system`.
pub fn holder(cx: &Context, lease: &str) -> Result<String> {
    // A server that is stopped may have taken the connection.
    let line = format!(
        "--request-timeout=10s get lease {lease} -n kube-system -o jsonpath={{.spec.holderIdentity}}"
    );
    let identity = cx.cluster.kubectl(&line)?.ok()?;
    let host = identity.split('_').next().unwrap_or_default().to_owned();
    ensure!(
        SERVERS.contains(&host.as_str()),
        "{lease} is held by {identity:?}"
    );
    Ok(host)
}

/// Runs a line in a server's machine.
pub fn there(cluster: &Cluster, server: &str, line: &str) -> Result<String> {
    cluster.in_node(server, line)?.ok()
}

/// Sends a signal to the control plane's process of a server; its etcd member goes on.
pub fn signal(cluster: &Cluster, server: &str, signal: &str) -> Result<()> {
    // The brackets keep the shell that runs this line from finding itself.
    there(
        cluster,
        server,
        &format!("pkill -{signal} -f 'tiphys serve[r] --data-dir'"),
    )
    .map(drop)
}

/// Pulls the plug of a server's machine, or boots it.
pub fn switch(cluster: &Cluster, verb: &str, server: &str) -> Result<()> {
    cluster
        .tiphys_on_data(&format!("server {verb} {server}"))?
        .ok()?;
    Ok(())
}

/// Name and address of each server.
fn servers(cx: &Context) -> Result<Vec<(String, String)>> {
    let config = std::fs::read(cx.cluster.data().join("cluster.json"))?;
    let config: serde_json::Value = serde_json::from_slice(&config)?;
    let servers = config["servers"].as_array().context("no servers")?;
    let text = |server: &serde_json::Value, field: &str| -> Result<String> {
        let text = server[field]
            .as_str()
            .with_context(|| format!("no {field}"))?;
        Ok(text.to_owned())
    };
    servers
        .iter()
        .map(|s| Ok((text(s, "name")?, text(s, "ip")?)))
        .collect()
}

/// Waits until every server answers that it is ready, and every etcd member that it follows a leader: what the
/// next check takes away is then all that is missing.
pub fn all_are_ready(cx: &Context) -> Result<()> {
    for (name, ip) in servers(cx)? {
        let port = cx.cluster.slot.port();
        let line = format!("--server=https://{ip}:{port} --request-timeout=10s get --raw /readyz");
        eventually(&format!("{name} is ready"), || {
            cx.cluster.kubectl(&line)?.ok()
        })?;
        eventually(&format!("the etcd member of {name} answers"), || {
            ensure!(member(cx, &ip)?.has_leader, "it follows nobody");
            Ok(())
        })?;
    }
    Ok(())
}

/// What the etcd member at an address says of itself.
fn member(cx: &Context, ip: &str) -> Result<MemberStatus> {
    let pki = cx.cluster.data().join("etcd-pki");
    let read = |name: &str| std::fs::read(pki.join(name)).with_context(|| name.to_owned());
    let config = EtcdConfig {
        endpoints: vec![format!("https://{ip}:2379")],
        tls: Some(EtcdTls {
            ca: read("ca.crt")?,
            certificate: read("client.crt")?,
            key: read("client.key")?,
        }),
    };
    let mut members = cx.cluster.block_on(async {
        let etcd = Etcd::connect(&config).await?;
        Ok::<_, store::ConnectError>(etcd.status().await)
    })?;
    let (_, status) = members.pop().context("no member is asked")?;
    Ok(status?)
}

/// The etcd member that leads, by the name of its server.
pub fn leading_member(cx: &Context) -> Result<String> {
    for (name, ip) in servers(cx)? {
        if member(cx, &ip)?.is_leader {
            return Ok(name);
        }
    }
    bail!("no member leads")
}
