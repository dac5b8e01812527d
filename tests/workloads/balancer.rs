//! Services of type LoadBalancer at the nodes' own addresses.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{service, web};
use tests::machine::Machine;

fn balanced(name: &str, app: &str, port: u16) -> Value {
    let mut balanced = service(name, app, "LoadBalancer");
    balanced["spec"]["ports"][0]["port"] = json!(port);
    balanced
}

fn addresses(cx: &Context, name: &str) -> Result<Vec<String>> {
    let path = ".status.loadBalancer.ingress[*].ip";
    let text = cx.field(&format!("service {name}"), path)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

pub fn services_have_the_nodes_addresses(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 2))?;
    let said = cx.run_with("apply -f -", &balanced("web", "web", 8081).to_string())?;
    ensure!(!said.err.contains("Warning"), "{}", said.err);
    said.ok()?;
    let ips = eventually("it has the addresses of both nodes", || {
        let ips = addresses(cx, "web")?;
        ensure!(ips.len() == 2, "{ips:?}");
        Ok(ips)
    })?;
    let shown = cx.kubectl("get service web --no-headers")?;
    ensure!(shown.contains(&ips.join(",")), "{shown}");
    cx.wait_event("EnsuringLoadBalancer", "Ensuring load balancer")?;
    cx.wait_event("EnsuredLoadBalancer", "Ensured load balancer")?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 2)?;

    let dir = tempfile::tempdir()?;
    let client = Machine::idle(cx.cluster, "client", dir.path())?;
    let pods = cx.pods("app=web")?;
    for ip in &ips {
        eventually(&format!("{ip} answers from outside"), || {
            let name = client.get(&format!("{ip}:8081"), "/hostname")?;
            ensure!(pods.contains(&name), "{name}");
            Ok(())
        })?;
    }
    shared_by_port(cx, &ips, &client)?;
    restricted_and_local(cx, &ips, &client)?;
    given_back(cx, &ips, &client)
}

/// A second Service has the same addresses at another port; a third waits for the port.
fn shared_by_port(cx: &Context, ips: &[String], client: &Machine) -> Result<()> {
    cx.apply_json(&balanced("twin", "web", 8082))?;
    cx.apply_json(&balanced("late", "web", 8081))?;
    cx.apply_json(&balanced("greedy", "web", 10_250))?;
    let mut theirs = balanced("theirs", "web", 8081);
    theirs["spec"]["loadBalancerClass"] = json!("example.com/vip");
    cx.apply_json(&theirs)?;
    for ip in ips {
        eventually(&format!("{ip} answers at both ports"), || {
            client.get(&format!("{ip}:8082"), "/hostname")?;
            client.get(&format!("{ip}:8081"), "/hostname")
        })?;
    }
    cx.wait_event("SyncLoadBalancerFailed", "port 8081/TCP")?;
    cx.wait_event("SyncLoadBalancerFailed", "one of the nodes' own")?;
    for waits in ["late", "greedy", "theirs"] {
        ensure!(addresses(cx, waits)?.is_empty(), "{waits}");
    }
    let class = cx.json("get service theirs")?;
    ensure!(class["metadata"]["finalizers"].is_null(), "{class}");
    Ok(())
}

/// Sources that are not listed get nothing, and the client's address is kept where that is asked.
fn restricted_and_local(cx: &Context, ips: &[String], client: &Machine) -> Result<()> {
    let own = cx.cluster.slot.spare_node_ip().to_string();
    let restrict = |range: &str| {
        let patch = json!({ "spec": { "loadBalancerSourceRanges": [range] } });
        cx.kubectl(&format!("patch service twin -p '{patch}'"))
    };
    restrict("192.0.2.0/24")?;
    let at = format!("{}:8082", ips[0]);
    eventually("the client is shut out", || {
        ensure!(client.get(&at, "/hostname").is_err());
        Ok(())
    })?;
    restrict(&format!("{own}/32"))?;
    eventually("the client is let in", || client.get(&at, "/hostname"))?;

    let seen = eventually("it says whom it sees", || client.get(&at, "/clientip"))?;
    ensure!(seen != own, "translated, so that any node may serve it");
    cx.kubectl(r#"patch service twin -p '{"spec":{"externalTrafficPolicy":"Local"}}'"#)?;
    let health = cx.field("service twin", ".spec.healthCheckNodePort")?;
    eventually("the server sees the client's address", || {
        let ip = addresses(cx, "twin")?.pop().context("no address")?;
        let seen = client.get(&format!("{ip}:8082"), "/clientip")?;
        ensure!(seen == own, "{seen}");
        let health = client.get(&format!("{ip}:{health}"), "/")?;
        let health: Value = serde_json::from_str(&health)?;
        ensure!(health["localEndpoints"].as_u64() > Some(0), "{health}");
        Ok(())
    })
}

/// Deleted, it is let go, and who waited has its port.
fn given_back(cx: &Context, ips: &[String], client: &Machine) -> Result<()> {
    cx.kubectl("delete service web --timeout=280s")?;
    for ip in ips {
        eventually("the one that waited has the port", || {
            ensure!(addresses(cx, "late")? == ips);
            client.get(&format!("{ip}:8081"), "/hostname")
        })?;
    }
    cx.kubectl(r#"patch service late -p '{"spec":{"type":"ClusterIP"}}'"#)?;
    cx.wait_event("DeletedLoadBalancer", "Deleted load balancer")?;
    eventually("it has nothing of a load balancer any more", || {
        let late = cx.json("get service late")?;
        ensure!(late["status"]["loadBalancer"] == json!({}), "{late}");
        ensure!(late["metadata"]["finalizers"].is_null(), "{late}");
        Ok(())
    })
}
