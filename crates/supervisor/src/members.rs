//! The etcd members of a cluster with several servers: one beside each server, with certificates
//! of an authority that only this cluster's members and servers know.

use std::path::{Path, PathBuf};

use wire::pki::{self, Ca, LEAF_DAYS, Pair, PkiError, Subject};

use crate::children::url;
use crate::config::{ClusterConfig, ServerConfig};
use crate::layout::Layout;

/// etcd's usual ports; each member has an address of its own.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Entries between two of etcd's snapshots: fewer than its default of 100,000, which it all
/// keeps in memory.
const SNAPSHOT_COUNT: u32 = 10_000;
/// Bytes at which a member takes no more writes: etcd's own recommendation for the most.
const QUOTA_BYTES: u64 = 8 << 30;
/// A certificate with less than this left is made again, in seconds.
const RENEW_BEFORE: i64 = 90 * 86_400;

fn pki_dir(layout: &Layout) -> PathBuf {
    layout.root().join("etcd-pki")
}

fn file(layout: &Layout, name: &str) -> String {
    pki_dir(layout).join(name).display().to_string()
}

/// How the `i`th server reaches the members: its own first, so that each has another one to
/// begin with.
pub fn client_args(layout: &Layout, config: &ClusterConfig, i: usize) -> Vec<String> {
    let count = config.servers.len();
    let ips = (0..count).filter_map(|k| config.servers.get((i + k) % count));
    let urls: Vec<String> = ips.map(|s| url(s.ip.primary(), CLIENT_PORT)).collect();
    vec![
        format!("--etcd-endpoints={}", urls.join(",")),
        format!("--etcd-cafile={}", file(layout, "ca.crt")),
        format!("--etcd-certfile={}", file(layout, "client.crt")),
        format!("--etcd-keyfile={}", file(layout, "client.key")),
    ]
}

/// The command of a server's member, the binary first.
pub fn member_command(
    layout: &Layout,
    config: &ClusterConfig,
    server: &ServerConfig,
) -> Vec<String> {
    let (name, ip) = (&server.name, server.ip.primary());
    let (clients, peer) = (url(ip, CLIENT_PORT), url(ip, PEER_PORT));
    let peers: Vec<String> = config
        .servers
        .iter()
        .map(|s| format!("{}={}", s.name, url(s.ip.primary(), PEER_PORT)))
        .collect();
    let data = layout.server_machine(name).join("etcd");
    let (cert, key) = (
        file(layout, &format!("{name}.crt")),
        file(layout, &format!("{name}.key")),
    );
    let ca = file(layout, "ca.crt");
    vec![
        config.etcd.clone().unwrap_or_else(|| "etcd".into()),
        format!("--name={name}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={}", peers.join(",")),
        "--initial-cluster-state=new".into(),
        format!("--initial-cluster-token=tiphys-{}", layout.id()),
        "--client-cert-auth".into(),
        format!("--trusted-ca-file={ca}"),
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        "--peer-client-cert-auth".into(),
        format!("--peer-trusted-ca-file={ca}"),
        format!("--peer-cert-file={cert}"),
        format!("--peer-key-file={key}"),
        format!("--snapshot-count={SNAPSHOT_COUNT}"),
        format!("--quota-backend-bytes={QUOTA_BYTES}"),
        "--logger=zap".into(),
        "--log-level=warn".into(),
    ]
}

/// Makes the authority and the certificates that are missing or about to end.
pub fn ensure_pki(layout: &Layout, config: &ClusterConfig, now: i64) -> Result<(), PkiError> {
    let dir = pki_dir(layout);
    let ca = Ca::load_or_create(&dir, "ca", "tiphys-etcd-ca", now)?;
    for server in &config.servers {
        let mut subject = Subject::server(&server.name, &[&server.name], &[server.ip.primary()]);
        // Members are each other's clients.
        subject.client = true;
        ensure_pair(&dir, &server.name, &ca, &subject, now)?;
    }
    let client = Subject::client("tiphys-server", &[]);
    ensure_pair(&dir, "client", &ca, &client, now)
}

fn ensure_pair(
    dir: &Path,
    stem: &str,
    ca: &Ca,
    subject: &Subject,
    now: i64,
) -> Result<(), PkiError> {
    let cert = dir.join(format!("{stem}.crt"));
    let key = dir.join(format!("{stem}.key"));
    let kept = std::fs::read_to_string(&cert).ok();
    let serves = kept.is_some_and(|pem| {
        let left = pki::not_after(&pem).is_ok_and(|end| end - now > RENEW_BEFORE);
        let same = pki::certificate_names_pem(&pem).is_ok_and(|n| n.ips == subject.ips);
        left && same
    });
    if serves && key.exists() {
        return Ok(());
    }
    let Pair { cert_pem, key_pem } = ca.issue(subject, now, LEAF_DAYS)?;
    pki::write_private(&key, key_pem.as_bytes())?;
    pki::write_public(&cert, cert_pem.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_made_once_and_renewed_in_time() {
        let dir = tempfile::tempdir().expect("dir");
        let layout = Layout::new(dir.path());
        let mut config = ClusterConfig::example();
        config.servers = vec![ServerConfig {
            name: "server-1".into(),
            ip: "10.245.0.2".parse().expect("ip"),
            stopped: false,
        }];
        let now = 1_790_000_000;
        let read = || std::fs::read_to_string(file(&layout, "server-1.crt")).expect("certificate");
        ensure_pki(&layout, &config, now).expect("make");
        let first = read();
        ensure_pki(&layout, &config, now + 86_400).expect("keep");
        assert_eq!(read(), first);
        ensure_pki(&layout, &config, now + 300 * 86_400).expect("renew");
        assert_ne!(read(), first);
        let names = pki::certificate_names_pem(&first).expect("names");
        assert_eq!(names.ips, [std::net::IpAddr::from([10, 245, 0, 2])]);
    }
}
