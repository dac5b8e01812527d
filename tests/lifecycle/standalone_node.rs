//! Kubelet and service proxy as processes of their own on a machine with a container runtime and a
//! network plugin that are not ours, as upstream's would be.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::command::eventually;
use tests::context::{service, web};
use tests::machine::{Machine, ROOM};
use tests::{Cluster, Context, DEMO, Running, traffic};
use wire::kubeconfig::{Credential, Kubeconfig};
use wire::pki::{Ca, Pair, Subject};

use crate::statistics::machine_is_reported_as_it_is;

const NAME: &str = "alone";
const PLUGINS: &str = "/usr/lib/cni";
const DAYS: i64 = 1;

/// Containerd with the plugins of Debian's containernetworking-plugins.
fn runtime_config(dir: &Path) -> String {
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "tiphys.local/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{dir}/cni"
"#,
        dir = dir.display()
    )
}

/// The plugin writes down what it gives out in `kept`, not on the machine, where other runs would find
/// it.
fn network_config(range: &str, kept: &Path) -> String {
    json!({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": { "type": "host-local", "dataDir": kept, "ranges": [[{ "subnet": range }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        }],
    })
    .to_string()
}

/// Certificates as an administrator makes them by hand, and a configuration that names one of them.
fn credentials(cluster: &Cluster, dir: &Path) -> Result<()> {
    let pki = cluster.data().join("server/pki");
    let read = |name: &str| fs::read_to_string(pki.join(name)).with_context(|| name.to_owned());
    let pair = Pair {
        cert_pem: read("ca.crt")?,
        key_pem: read("ca.key")?,
    };
    let ca = Ca { pair };
    let now = jiff::Timestamp::now().as_second();
    let server = format!(
        "https://{}:{}",
        cluster.slot.bridge_ip(),
        cluster.slot.port()
    );
    let node = format!("system:node:{NAME}");
    for (file, user, groups) in [
        ("kubelet", node.as_str(), &["system:nodes"][..]),
        ("proxy", "system:kube-proxy", &[]),
    ] {
        let pair = ca.issue(&Subject::client(user, groups), now, DAYS)?;
        let config = Kubeconfig {
            name: file,
            server: &server,
            ca_pem: &ca.pair.cert_pem,
            credential: Credential::Certificate(&pair),
        };
        config.write(&dir.join(format!("{file}.kubeconfig")))?;
    }
    let subject = Subject::server(&node, &[NAME], &[cluster.slot.spare_node_ip().into()]);
    let serving = ca.issue(&subject, now, DAYS)?;
    fs::write(dir.join("serving.crt"), serving.cert_pem)?;
    fs::write(dir.join("serving.key"), serving.key_pem)?;
    let believed = dir.join("ca.crt");
    fs::write(&believed, &ca.pair.cert_pem)?;
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": { "x509": { "clientCAFile": believed } },
    });
    Ok(fs::write(
        dir.join("kubelet.yaml"),
        configuration.to_string(),
    )?)
}

/// What the machine runs: the runtime, its images, then kubelet and proxy.
fn script(cluster: &Cluster, dir: &Path) -> String {
    let ranges = format!(
        "--service-cidr={} --pod-cidr={}",
        cluster.slot.service_cidr(),
        cluster.slot.pod_cidr()
    );
    format!(
        "set -e; cd {dir}; containerd --config config.toml & \
         until ctr --address /run/containerd/containerd.sock version > /dev/null 2>&1; do sleep 0.1; done; \
         for i in {images}/*.tar; do ctr --address /run/containerd/containerd.sock -n k8s.io images import $i; done; \
         {tiphys} kubelet --kubeconfig kubelet.kubeconfig --hostname-override {NAME} --node-ip {ip} \
           --tls-cert-file serving.crt --tls-private-key-file serving.key --config kubelet.yaml {ranges} {ROOM} & \
         while true; do {tiphys} proxy --kubeconfig proxy.kubeconfig --hostname-override {NAME} {ranges} || true; done",
        dir = dir.display(),
        images = cluster.data().join("images").display(),
        tiphys = cluster.binary().display(),
        ip = cluster.slot.spare_node_ip(),
    )
}

pub fn kubelet_and_proxy_run_alone(cx: &Context) -> Result<()> {
    ensure!(
        Path::new(PLUGINS).join("ptp").is_file(),
        "there is no {PLUGINS}/ptp: apt-get install containernetworking-plugins"
    );
    let dir = tempfile::Builder::new().prefix("tiphys-alone-").tempdir()?;
    fs::write(dir.path().join("config.toml"), runtime_config(dir.path()))?;
    fs::create_dir(dir.path().join("cni"))?;
    // The last of the cluster's pod ranges: the first ones are given to nodes.
    let range = cx.cluster.slot.last_pod_range();
    fs::write(
        dir.path().join("cni/10-pods.conflist"),
        network_config(&range, &dir.path().join("addresses")),
    )?;
    credentials(cx.cluster, dir.path())?;
    fs::write(dir.path().join("run.sh"), script(cx.cluster, dir.path()))?;
    let line = format!("sh {}", dir.path().join("run.sh").display());
    let machine = Machine::start(cx.cluster, NAME, dir.path(), &line)?;
    serve_there(cx, &machine)
        .and_then(|()| {
            // What else runs on the machine takes and gives back memory meanwhile.
            eventually("the machine is reported as it is", || {
                machine_is_reported_as_it_is(cx, NAME, dir.path())
            })
        })
        .map_err(|error| anyhow::anyhow!("{error:#}\n{}", machine.init.text()))?;
    drop(machine);
    cx.kubectl(&format!("delete node {NAME}"))?;
    Ok(())
}

fn serve_there(cx: &Context, machine: &Machine) -> Result<()> {
    eventually("the kubelet registers its node", || {
        cx.kubectl(&format!("get node {NAME} -o name"))
    })?;
    cx.wait(&format!("node/{NAME}"), "condition=Ready")?;
    let mut web = web("web", 2);
    web["spec"]["template"]["spec"]["nodeName"] = NAME.into();
    cx.apply_json(&web)?;
    cx.apply_json(&service("web", "web", "NodePort"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 2)?;
    let pods = cx.pods("app=web")?;
    let name = pods.first().context("no pod")?;
    ensure!(cx.sh(name, "hostname")?.trim() == name.as_str());
    ensure!(cx.field(&format!("pod {name}"), ".spec.containers[0].image")? == DEMO);
    // Its own proxy spreads connections to its node port over its pods.
    let port = cx
        .field("service web", ".spec.ports[0].nodePort")?
        .parse()?;
    let address = (cx.cluster.slot.spare_node_ip(), port).into();
    eventually("the proxy has both pods", || {
        let seen = traffic::spread(address, 10)?;
        ensure!(
            seen.len() == 2 && seen.values().all(|n| *n == 5),
            "{seen:?}"
        );
        Ok(())
    })?;
    exec_outlives_the_proxy(cx, machine, name, address)?;
    // Collectors of logs look for links of these names, and read what they lead to.
    let links = format!("ls -L /var/log/containers/{name}_{}_*.log", cx.ns);
    machine.run(&links)?.ok()?;
    cx.kubectl("delete deployment web --cascade=foreground --timeout=280s")?;
    eventually("no link to a log is left", || {
        let left = machine.run("ls /var/log/containers")?.ok()?;
        ensure!(!left.contains(&format!("_{}_", cx.ns)), "{left}");
        Ok(())
    })
}

/// Kills of the proxy.
const KILLS: usize = 5;

/// A command in a pod stays connected, and the Service answers, while the proxy dies and comes back.
fn exec_outlives_the_proxy(
    cx: &Context,
    machine: &Machine,
    pod: &str,
    service: SocketAddr,
) -> Result<()> {
    let line = "i=0; while true; do echo tick $i; i=$((i+1)); sleep 0.1; done";
    let mut exec = cx.command(&format!("exec {pod}"));
    exec.args(["--", "sh", "-c", line]);
    let exec = Running::start(exec)?;
    exec.line(|l| l == "tick 0")?;
    let load = traffic::Load::start(&[service]);
    for _ in 0..KILLS {
        let before = machine.run("pgrep -o -f 'tiphys prox[y]'")?.ok()?;
        machine.run(&format!("kill -9 {}", before.trim()))?.ok()?;
        eventually("another proxy runs", || {
            let now = machine.run("pgrep -o -f 'tiphys prox[y]'")?.ok()?;
            ensure!(now != before, "{now}");
            machine.get("127.0.0.1:10256", "/healthz")
        })?;
        // Lines go on without a gap: none is lost with a connection.
        let ticks = exec.text().lines().count();
        exec.line(|l| l == format!("tick {}", ticks + 1))?;
        ensure!(exec.is_running(), "{}", exec.text());
    }
    let seen = load.end()?;
    println!(
        "    {} requests beside {KILLS} kills of the proxy, {} failed",
        seen.answered,
        seen.failures.len()
    );
    ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
    let text = exec.text();
    for (number, line) in text.lines().enumerate() {
        ensure!(line == format!("tick {number}"), "{text}");
    }
    Ok(())
}
