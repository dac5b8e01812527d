//! Network policies between real pods on several nodes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::{eventually, run};
use tests::context::{STAY, pod, service};
use tests::policies::{from_the_first_packet_on, policy, server};

/// A pod with a shell, on a node.
fn client(name: &str, node: &str, namespace: &str) -> Value {
    let mut object = pod(name, STAY);
    object["metadata"]["labels"] = json!({ "app": name });
    object["metadata"]["namespace"] = namespace.into();
    object["spec"]["nodeName"] = node.into();
    object
}

/// Runs a line in a pod's shell; says whether it ended well.
fn works(cx: &Context, at: At, line: &str) -> Result<bool> {
    let mut command = cx.cluster.kubectl_command();
    command.args(["--namespace", at.0, "exec", at.1, "--", "sh", "-c", line]);
    Ok(run(command, "")?.code == 0)
}

/// A pod: its namespace and its name.
type At<'a> = (&'a str, &'a str);

/// Whether a pod gets the name of whoever answers at an address.
fn expect(cx: &Context, from: At, to: &str, wanted: bool) -> Result<()> {
    let word = if wanted { "reaches" } else { "does not reach" };
    eventually(&format!("{} of {} {word} {to}", from.1, from.0), || {
        let line = format!("timeout 2 wget -q -O - http://{to}/hostname");
        ensure!(works(cx, from, &line)? == wanted);
        Ok(())
    })
}

fn wait_ready(cx: &Context, pod: At) -> Result<()> {
    cx.kubectl(&format!(
        "--namespace {} wait pod/{} --for=condition=Ready --timeout=280s",
        pod.0, pod.1
    ))
    .map(drop)
}

pub fn a_pod_is_reached_by_whom_its_policies_allow(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    let (near, far) = (&nodes[0], &nodes[1]);
    let (home, away) = (cx.ns.clone(), format!("{}-away", cx.ns));
    cx.cluster.make_namespace(&away)?;
    cx.kubectl(&format!("label namespace {away} team=away"))?;
    let clients = [(&*home, "near"), (&*home, "far"), (&*away, "stranger")];
    cx.apply_json(&server("server", near, &home))?;
    for ((namespace, name), node) in clients.into_iter().zip([near, far, far]) {
        let mut apply = cx.cluster.kubectl_command();
        apply.args(["apply", "-f", "-"]);
        run(apply, &client(name, node, namespace).to_string())?.ok()?;
    }
    cx.apply_json(&service("server", "server", "ClusterIP"))?;
    for pod in clients.into_iter().chain([(&*home, "server")]) {
        wait_ready(cx, pod)?;
    }
    cx.wait_endpoints("server", 1)?;
    let at = format!("{}:8080", cx.pod_ip("server")?);
    let by_service = cx.field("service server", ".spec.clusterIP")?;
    let all = |what: &str, wanted: [bool; 3]| -> Result<()> {
        for (client, wanted) in clients.into_iter().zip(wanted) {
            for to in [&at, &by_service] {
                expect(cx, client, to, wanted).with_context(|| what.to_owned())?;
            }
        }
        Ok(())
    };
    all("no policy", [true, true, true])?;
    let rules = |rules: Value| {
        let spec = json!({ "ingress": rules, "policyTypes": ["Ingress"] });
        cx.apply_json(&policy(&home, "server", spec)).map(drop)
    };
    rules(json!([]))?;
    all("nothing is allowed", [false, false, false])?;
    cx.wait_ready("server")
        .context("its own node probes it all the same")?;
    let far_one = json!({ "podSelector": { "matchLabels": { "app": "far" } } });
    rules(json!([{ "from": [far_one], "ports": [{ "port": "http" }] }]))?;
    all(
        "a pod of the namespace, by the port's name",
        [false, true, false],
    )?;
    rules(
        json!([{ "from": [{ "namespaceSelector": { "matchLabels": { "team": "away" } },
        "podSelector": { "matchLabels": { "app": "stranger" } } }] }]),
    )?;
    all("a pod of another namespace", [false, false, true])?;
    cx.kubectl(&format!("label namespace {away} team-"))?;
    all("which has no such label any more", [false, false, false])?;
    rules(json!([{ "ports": [{ "port": 8000, "endPort": 8079 }] }]))?;
    all("other ports", [false, false, false])?;
    rules(json!([{ "ports": [{ "port": 8000, "endPort": 8080 }] }]))?;
    all("the port, as the last of a range", [true, true, true])?;
    let block = |except: Value| json!([{ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": except } }] }]);
    rules(block(json!([format!("{}/32", cx.pod_ip("near")?)])))?;
    all("everybody but one", [false, true, true])?;
    cx.kubectl("delete networkpolicy for-server")?;
    all("no policy any more", [true, true, true])?;
    cx.kubectl(&format!("delete namespace {away} --wait=false"))?;
    Ok(())
}

pub fn a_running_connection_ends_with_the_policy_that_allowed_it(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    // Says again what it hears, on one connection after another.
    let mut echo = pod("server", "while true; do nc -l -p 8080 -e cat; done");
    echo["spec"]["nodeName"] = nodes[0].clone().into();
    cx.apply_json(&echo)?;
    cx.apply_json(&client("client", &nodes[1], &cx.ns))?;
    cx.wait_ready("server")?;
    cx.wait_ready("client")?;
    let ip = cx.pod_ip("server")?;
    eventually("the server listens", || {
        cx.sh("server", "cat /proc/net/tcp* | grep ':1F90 .* 0A '")
    })?;
    cx.sh(
        "client",
        &format!(
            "(while echo x; do sleep 0.1; done) 2>/dev/null | nc {ip} 8080 >/tmp/got 2>&1 & sleep 0"
        ),
    )?;
    let got = || -> Result<u64> {
        let text = cx.sh("client", "wc -c </tmp/got")?;
        text.trim().parse().with_context(|| format!("{text:?}"))
    };
    let grows = |what: &str, wanted: bool| {
        eventually(what, || {
            let before = got()?;
            cx.sh("client", "sleep 2")?;
            let after = got()?;
            ensure!((after > before) == wanted, "{before} then {after} bytes");
            Ok(())
        })
    };
    grows("answers come", true)?;
    cx.apply_json(&policy(
        &cx.ns,
        "client",
        json!({ "egress": [], "policyTypes": ["Egress"] }),
    ))?;
    grows("no answer comes", false)?;
    cx.kubectl("delete networkpolicy for-client")?;
    grows("the same connection goes on", true)
}

/// Pods that send before they do anything else.
const HASTY: usize = 6;

pub fn a_pod_is_protected_from_its_first_packet_on(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    from_the_first_packet_on(cx, &nodes[0], &nodes, HASTY)
}
