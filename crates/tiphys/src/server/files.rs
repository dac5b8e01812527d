//! The files by which others reach and trust a server: its serving certificate, and kubeconfigs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use wire::kubeconfig::{Credential, Kubeconfig};
use wire::pki::{LEAF_DAYS, Pair, Subject};

use super::{Keys, ServerArgs, now};

/// The server's own certificate, made again at each start, with the CA behind it, by which a
/// joining node recognises the cluster.
pub fn serving_pair(args: &ServerArgs, keys: &Keys, advertise: IpAddr) -> Result<Pair> {
    let domain = &args.ranges.cluster_domain;
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_lowercase(),
    );
    let mut ips: Vec<IpAddr> = vec![
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
        advertise,
    ];
    let first = args.ranges.service_cidr.nth(1);
    ips.extend(first.context("the service range is too small")?);
    if !args.bind_address.is_unspecified() {
        ips.push(args.bind_address);
    }
    for san in &args.tls_san {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(san.clone()),
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut pair = keys.ca.issue(
        &Subject::server("kube-apiserver", &names, &ips),
        now(),
        LEAF_DAYS,
    )?;
    pair.cert_pem.push_str(&keys.ca.pair.cert_pem);
    Ok(pair)
}

/// Kubeconfigs of the administrator and of the components that may run alone.
pub fn write_kubeconfigs(
    args: &ServerArgs,
    dir: &Path,
    keys: &Keys,
    advertise: IpAddr,
) -> Result<()> {
    let admin_file = args
        .kubeconfig_out
        .clone()
        .unwrap_or_else(|| dir.join("admin.kubeconfig"));
    // The administrator is on this machine, where loopback survives changes of address.
    let admin_server = if args.bind_address.is_unspecified() || args.bind_address.is_loopback() {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), args.port)
    } else {
        SocketAddr::new(args.bind_address, args.port)
    };
    let others = SocketAddr::new(advertise, args.port);
    for (file, server, user, groups) in [
        (
            admin_file,
            admin_server,
            "tiphys-admin",
            &["system:masters"][..],
        ),
        (
            dir.join("controller-manager.kubeconfig"),
            others,
            "system:kube-controller-manager",
            &[],
        ),
        (
            dir.join("scheduler.kubeconfig"),
            others,
            "system:kube-scheduler",
            &[],
        ),
        (
            dir.join("proxy.kubeconfig"),
            others,
            "system:kube-proxy",
            &[],
        ),
    ] {
        let pair = keys
            .ca
            .issue(&Subject::client(user, groups), now(), LEAF_DAYS)?;
        let config = Kubeconfig {
            name: "tiphys",
            server: &format!("https://{server}"),
            ca_pem: &keys.ca.pair.cert_pem,
            credential: Credential::Certificate(&pair),
        };
        config.write(&file)?;
    }
    Ok(())
}
