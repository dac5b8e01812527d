//! A cluster without IPv4.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use tests::command::eventually;
use tests::context::{service, web};
use tests::traffic::spread;
use tests::{Cluster, Context, Families, Setup};

use crate::pods::{ask, client, ips};

pub fn a_cluster_of_ipv6_alone_works(cx: &Context) -> Result<()> {
    let cluster = Cluster::start(Setup {
        families: Families::Six,
        ..Setup::nodes(2)
    })?;
    let ns = cx.ns.clone();
    cluster.make_namespace(&ns)?;
    let cx = Context {
        cluster: &cluster,
        ns,
    };
    cx.apply_json(&web("web", 2))?;
    cx.apply_json(&service("web", "web", "NodePort"))?;
    cx.apply_json(&client("shell", "node-1"))?;
    // Its readiness is asked for by IPv6.
    cx.wait_rollout("deployment/web")?;
    cx.wait_ready("shell")?;
    cx.wait_endpoints("web", 2)?;
    let own = ips(&cx.json("get pod shell")?, "/status/podIPs", "ip")?;
    ensure!(matches!(own[..], [IpAddr::V6(_)]), "{own:?}");
    for pod in cx.pods("app=web")? {
        let ip = cx.pod_ip(&pod)?;
        // The way to another node may still be made.
        let seen = eventually(&format!("{pod} answers"), || {
            ask(&cx, "shell", ip, 8080, "/clientip")
        })?;
        ensure!(seen == own[0].to_string(), "{pod} saw {seen}");
    }
    let object = cx.json("get service web")?;
    let cluster_ips = ips(&object, "/spec/clusterIPs", "-")?;
    ensure!(
        matches!(cluster_ips[..], [IpAddr::V6(_)]),
        "{cluster_ips:?}"
    );
    eventually("the Service answers by its name", || {
        cx.sh("shell", "timeout 5 wget -q -O - http://web/hostname")
    })?;
    let port = object["spec"]["ports"][0]["nodePort"].as_u64();
    let port = u16::try_from(port.context("no node port")?)?;
    let node: IpAddr = cx.field("pod shell", ".status.hostIP")?.parse()?;
    let at = SocketAddr::new(node, port);
    eventually("both pods are in the node's rules", || {
        let answers = spread(at, 10)?;
        ensure!(answers.values().all(|n| *n == 5), "{answers:?}");
        Ok(())
    })?;
    let answers = spread(at, 100)?;
    ensure!(answers.values().all(|n| *n == 50), "{answers:?}");
    // Pods reach the API server at its Service.
    let api = cx
        .cluster
        .kubectl("get service kubernetes -n default -o json")?;
    let api = ips(&serde_json::from_str(&api.ok()?)?, "/spec/clusterIPs", "-")?;
    eventually("the API server is reached at its Service", || {
        cx.sh("shell", &format!("nc -w 5 {} 443 </dev/null", api[0]))
    })?;
    // Through the kubelets: exec was used, logs and a proxied request are left.
    let pod = cx.pods("app=web")?.pop().context("no pod")?;
    cx.logs(&pod)?;
    let raw = format!(
        "get --raw /api/v1/namespaces/{}/pods/{pod}:8080/proxy/hostname",
        cx.ns
    );
    ensure!(cx.kubectl(&raw)?.trim() == pod);
    Ok(())
}
