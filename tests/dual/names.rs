//! DNS in both families: what names stand for, and who is asked.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::Context;
use tests::command::eventually;
use tests::context::web;

use crate::pods::{client, ips, pod_ips};
use crate::services::{both, cluster_ips};

/// What a server answers about a name: as `nslookup` prints it.
fn look_up(cx: &Context, kind: &str, name: &str, server: IpAddr) -> Result<String> {
    cx.sh(
        "shell",
        &format!("timeout 5 nslookup -type={kind} {name} {server}"),
    )
}

/// The name below ip6.arpa or in-addr.arpa of an address.
fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(six) => {
            let digits: Vec<String> = format!("{:032x}", six.to_bits())
                .chars()
                .rev()
                .map(String::from)
                .collect();
            format!("{}.ip6.arpa", digits.join("."))
        }
    }
}

pub fn names_stand_for_addresses_of_both_families(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 2))?;
    cx.apply_json(&both("web", "ClusterIP"))?;
    let mut headless = both("each", "ClusterIP");
    headless["spec"]["clusterIP"] = json!("None");
    cx.apply_json(&headless)?;
    cx.apply_json(&client("shell", "node-1"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_ready("shell")?;
    let dns = cx
        .cluster
        .kubectl("get service kube-dns -n kube-system -o json")?;
    let servers = ips(&serde_json::from_str(&dns.ok()?)?, "/spec/clusterIPs", "-")?;
    ensure!(servers.len() == 2 && servers[1].is_ipv6(), "{servers:?}");
    let own = cx.cluster.slot.dns_ip();
    let told = cx.sh("shell", "cat /etc/resolv.conf")?;
    ensure!(told.contains(&format!("nameserver {own}\n")), "{told}");
    let mut pods = Vec::new();
    for pod in cx.pods("app=web")? {
        pods.extend(pod_ips(cx, &pod)?);
    }
    for server in servers {
        for (name, addresses) in [("web", cluster_ips(cx, "web")?), ("each", pods.clone())] {
            let full = format!("{name}.{}.svc.cluster.local", cx.ns);
            for (kind, six) in [("a", false), ("aaaa", true)] {
                eventually(&format!("{server} answers {kind} of {name}"), || {
                    let said = look_up(cx, kind, &full, server)?;
                    for ip in addresses.iter().filter(|ip| ip.is_ipv6() == six) {
                        ensure!(said.contains(&format!("{ip}\n")), "{ip}: {said}");
                    }
                    for ip in addresses.iter().filter(|ip| ip.is_ipv6() != six) {
                        ensure!(!said.contains(&format!("{ip}\n")), "{ip}: {said}");
                    }
                    Ok(())
                })?;
            }
        }
        for ip in cluster_ips(cx, "web")? {
            eventually(&format!("{server} answers whose {ip} is"), || {
                let said = look_up(cx, "ptr", &reverse(ip), server)?;
                ensure!(said.contains(&format!("web.{}.svc", cx.ns)), "{said}");
                Ok(())
            })?;
        }
    }
    Ok(())
}
