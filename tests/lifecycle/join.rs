//! A further machine joins: namespaces of its own, a cable to the nodes' network, and nothing
//! shared but that.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::command::{self, eventually};
use tests::context::{STAY, pod, service, web};
use tests::machine::{Machine, ROOM};
use tests::policies::from_the_first_packet_on;
use tests::{Cluster, Context, traffic};

fn token(cluster: &Cluster) -> Result<String> {
    let mut create = cluster.tiphys(&["token", "create", "--hours=1", "--kubeconfig"]);
    create.arg(cluster.kubeconfig());
    Ok(command::run(create, "")?.ok()?.trim().to_owned())
}

/// The agent's command line, as a person types it on another machine. The token is in a file: everybody
/// on a machine sees the arguments of its processes.
fn agent(cluster: &Cluster, token: &str, dir: &Path) -> Result<String> {
    let file = dir.join("token");
    std::fs::write(&file, token)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    Ok(format!(
        "{} node --server https://{}:{} --token-file {} --data-dir {} --service-cidr {} --pod-cidr {} {ROOM}",
        cluster.binary().display(),
        cluster.slot.bridge_ip(),
        cluster.slot.port(),
        file.display(),
        dir.join("node").display(),
        cluster.slot.service_cidr(),
        cluster.slot.pod_cidr(),
    ))
}

/// And what spares it making images of its own: those of the cluster's other nodes.
fn with_images(cluster: &Cluster, agent: &str) -> String {
    let images = cluster.data().join("images");
    format!("{agent} --images {}", images.display())
}

/// It was given no images: it makes those that pods need.
pub fn a_machine_joins_with_a_token(cx: &Context) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path())?;
    let machine = Machine::start(cx.cluster, "other", dir.path(), &line)?;
    join(cx, &machine).with_context(|| machine.init.text())?;
    drop(machine);
    cx.wait("node/other", "condition=Ready=Unknown")?;
    cx.kubectl("delete node other").map(drop)
}

const LEAVING: &str = "leaving";

/// An agent that ends leaves the network to its pods; a machine that is to be something else is rid of
/// it by a command, which an agent that runs would undo.
pub fn a_machine_that_left_is_rid_of_the_network(cx: &Context) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path())?;
    let line = with_images(cx.cluster, &line);
    // The machine goes on without it.
    let script = dir.path().join("boot.sh");
    std::fs::write(&script, format!("{line} &\nexec sleep 1000000\n"))?;
    let line = format!("sh {}", script.display());
    let machine = Machine::start(cx.cluster, LEAVING, dir.path(), &line)?;
    left_behind(cx, &machine, dir.path()).with_context(|| machine.init.text())?;
    drop(machine);
    cx.kubectl("delete pods --all --force --grace-period=0")?;
    cx.kubectl(&format!("delete node {LEAVING}")).map(drop)
}

fn left_behind(cx: &Context, machine: &Machine, dir: &Path) -> Result<()> {
    registered(cx, machine, LEAVING)?;
    pods_meet(cx, LEAVING)?;
    let seen = || -> Result<String> {
        let conf = dir.join("node/cni");
        let all = format!(
            "nft list tables; ip -o link; ip route; ip -6 route; ls {}",
            conf.display()
        );
        machine.run(&all)?.ok()
    };
    let ours = |seen: &str| -> Vec<String> {
        let is_ours =
            |l: &&str| l.contains("tiphys") || l.contains("veth") || l.contains("proto 85");
        seen.lines().filter(is_ours).map(str::to_owned).collect()
    };
    let clean_up = || {
        machine.run(&format!(
            "{} node clean-up --data-dir {}",
            cx.cluster.binary().display(),
            dir.join("node").display()
        ))
    };
    let refused = clean_up()?;
    ensure!(
        refused.code != 0 && refused.err.contains("end it first"),
        "{}",
        refused.err
    );
    let agent = "pgrep -f '^[^ ]*tiphys node --server'";
    machine.run(&format!("kill -TERM $({agent})"))?.ok()?;
    eventually("the agent has ended", || {
        ensure!(machine.run(agent)?.code != 0);
        Ok(())
    })?;
    let left = ours(&seen()?);
    for what in ["tiphys-proxy", "tiphys-network", "veth", "proto 85"] {
        ensure!(left.iter().any(|l| l.contains(what)), "{what}: {left:?}");
    }
    for pods in [1, 0] {
        let said = clean_up()?.ok()?;
        ensure!(
            said.contains(&format!("{pods} pods were connected")),
            "{said}"
        );
        let left = ours(&seen()?);
        ensure!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

const PARTED: &str = "parted";
/// The port of a node's DNS server, as /proc writes it.
const DNS_PORT: &str = ":2745 ";
/// The port of its kubelet.
const KUBELET_PORT: &str = ":280A";

/// Whether somebody listens at the kubelet's port, of whichever family.
fn has_kubelet(machine: &Machine) -> Result<bool> {
    let sockets = machine.run("cat /proc/net/tcp /proc/net/tcp6")?.ok()?;
    Ok(sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1).is_some_and(|at| at.ends_with(KUBELET_PORT));
        local && fields.get(3) == Some(&"0A")
    }))
}

/// Whoever brings a part of the network along finds none of ours in its way, also where it was before.
pub fn parts_of_the_network_can_be_replaced(cx: &Context) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path())?;
    let line = with_images(cx.cluster, &line);
    // The agent begins again with other flags.
    let (script, flags) = (dir.path().join("boot.sh"), dir.path().join("flags"));
    std::fs::write(&flags, "")?;
    let text = format!(
        "while :; do {line} $(cat {}); sleep 1; done\n",
        flags.display()
    );
    std::fs::write(&script, text)?;
    let line = format!("sh {}", script.display());
    let machine = Machine::start(cx.cluster, PARTED, dir.path(), &line)?;
    replaced(cx, &machine, &flags).with_context(|| machine.init.text())?;
    drop(machine);
    cx.kubectl("delete networkpolicies --all")?;
    cx.kubectl("delete pods --all --force --grace-period=0")?;
    cx.kubectl(&format!("delete node {PARTED}")).map(drop)
}

fn replaced(cx: &Context, machine: &Machine, flags: &Path) -> Result<()> {
    registered(cx, machine, PARTED)?;
    pods_meet(cx, PARTED)?;
    cx.apply_json(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "none" }, "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    }))?;
    let parts = || -> Result<[bool; 4]> {
        let seen = |line: &str| -> Result<String> { machine.run(line)?.ok() };
        let (tables, routes) = (seen("nft list tables")?, seen("ip route show proto 85")?);
        let ways = routes.lines().any(|l| !l.starts_with("unreachable"));
        let sockets = seen("cat /proc/net/udp")?;
        let policies = tables.contains("tiphys-policy");
        Ok([
            tables.contains("tiphys-proxy"),
            policies,
            ways,
            sockets.contains(DNS_PORT),
        ])
    };
    eventually("all parts are there", || {
        let there = parts()?;
        ensure!(there == [true; 4], "{there:?}");
        ensure!(has_kubelet(machine)?, "no kubelet listens");
        Ok(())
    })?;
    let names = ["proxy", "network-policy", "pod-routes", "cluster-dns"];
    for (index, name) in names.into_iter().enumerate() {
        std::fs::write(flags, format!("--{name}=none"))?;
        machine
            .run("kill -TERM $(pgrep -f '^[^ ]*tiphys node --server')")?
            .ok()?;
        let mut wanted = [true; 4];
        wanted[index] = false;
        eventually(&format!("all parts but {name} are there"), || {
            let there = parts()?;
            ensure!(there == wanted, "{there:?}");
            Ok(())
        })?;
        led_to_dns(cx, name != "cluster-dns")?;
    }
    std::fs::write(flags, "--kubelet=none")?;
    machine
        .run("kill -TERM $(pgrep -f '^[^ ]*tiphys node --server')")?
        .ok()?;
    eventually("the kubelet is somebody else's", || {
        let there = parts()?;
        ensure!(there == [true; 4], "{there:?}");
        ensure!(!has_kubelet(machine)?, "ours listens");
        // Ours registered it, and nobody makes volumes on its disk any more.
        let notes = cx.field(&format!("node {PARTED}"), ".metadata.annotations")?;
        ensure!(!notes.contains("tiphys.io/"), "{notes}");
        Ok(())
    })?;
    led_to_dns(cx, true)
}

/// Whether the pods of the node are led to its own DNS server.
fn led_to_dns(cx: &Context, wanted: bool) -> Result<()> {
    eventually(
        &format!("it is an endpoint of cluster DNS: {wanted}"),
        || {
            let line = "--namespace kube-system get endpointslice kube-dns-nodes -o json";
            let slice: Value = serde_json::from_str(&cx.cluster.kubectl(line)?.ok()?)?;
            let mut all = slice["endpoints"].as_array().into_iter().flatten();
            let is = all.any(|e| e["nodeName"] == PARTED);
            ensure!(is == wanted, "{slice}");
            Ok(())
        },
    )
}

const SECRET: &str = "secret";

/// A node that shall encrypt what pods send says its key, or that its kernel cannot, and does not run
/// then.
pub fn an_encrypting_node_has_a_key_or_says_why_not(cx: &Context) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path())?;
    let line = with_images(cx.cluster, &format!("{line} --pod-encryption wireguard"));
    let mut machine = Machine::start(cx.cluster, SECRET, dir.path(), &line)?;
    // Asked of the machine that runs the test: its kernel is the same one.
    let mut link = std::process::Command::new("unshare");
    link.args(["--net", "ip", "link", "add", "tpt-wg", "type", "wireguard"]);
    let knows = command::run(link, "")?.code == 0;
    let outcome = match knows {
        true => encrypts(cx, &machine),
        false => says_why_not(cx, &mut machine),
    };
    outcome.with_context(|| machine.init.text())?;
    drop(machine);
    cx.kubectl(&format!("delete node {SECRET} --ignore-not-found"))
        .map(drop)
}

fn encrypts(cx: &Context, machine: &Machine) -> Result<()> {
    registered(cx, machine, SECRET)?;
    eventually("its key stands in its Node", || {
        let path = r".metadata.annotations.tiphys\.io/wireguard-key";
        let key = cx.field(&format!("node {SECRET}"), path)?;
        ensure!(key.len() == 44, "{key:?}");
        Ok(())
    })?;
    eventually("its link is there", || {
        let link = machine.run("ip -o link show tiphys-wg")?.ok()?;
        ensure!(link.contains("mtu 1440"), "{link}");
        Ok(())
    })
}

fn says_why_not(cx: &Context, machine: &mut Machine) -> Result<()> {
    machine
        .init
        .line(|l| l.contains("--pod-encryption wireguard") && l.contains("no WireGuard"))?;
    ensure!(machine.init.end()? != 0, "it ended as if all were well");
    eventually("an event says so", || {
        let line = "--namespace default get events --field-selector \
                    reason=PodEncryptionUnavailable -o jsonpath={.items[*].message}";
        let said = cx.cluster.kubectl(line)?.ok()?;
        ensure!(said.contains("no WireGuard"), "{said:?}");
        Ok(())
    })?;
    cx.refused(&format!("get node {SECRET}")).map(drop)
}

fn registered(cx: &Context, machine: &Machine, node: &str) -> Result<()> {
    eventually("the node registers or ends", || {
        if !machine.init.is_running() {
            return Ok(String::new());
        }
        cx.kubectl(&format!("get node {node} -o name"))
    })?;
    ensure!(machine.init.is_running(), "it ended");
    Ok(())
}

fn join(cx: &Context, machine: &Machine) -> Result<()> {
    registered(cx, machine, "other")?;
    pods_meet(cx, "other")?;
    ensure!(
        cx.kubectl("get csr --no-headers")?
            .contains("Approved,Issued")
    );
    cx.kubectl("delete pods --all --force --grace-period=0")
        .map(drop)
}

/// A pod there and one here reach each other.
fn pods_meet(cx: &Context, other: &str) -> Result<()> {
    cx.wait(&format!("node/{other}"), "condition=Ready")?;
    for (name, node) in [("there", other), ("here", "node-1")] {
        let mut pod = pod(name, STAY);
        pod["spec"]["nodeName"] = node.into();
        cx.apply_json(&pod)?;
    }
    cx.wait_ready("there")?;
    cx.wait_ready("here")?;
    for (from, to) in [("here", "there"), ("there", "here")] {
        let ip = cx.pod_ip(to)?;
        eventually("the route is there", || {
            cx.sh(from, &format!("ping -c 1 -W 5 {ip}"))
        })?;
    }
    Ok(())
}

/// Of a name of its own: that of a node which was there a moment ago is not given to another key at
/// once.
const THEIRS: &str = "theirs";
/// Where Debian's containernetworking-plugins has them.
const PLUGINS: &str = "/usr/lib/cni";
/// Addresses that pods of the other machine have: those of a range's end.
const ADDRESSES: usize = 5;

/// The plugins of theirs that connect pods, one a configuration.
#[derive(Clone, Copy, Debug)]
enum Main {
    /// All pods of a node at one bridge.
    Bridge,
    /// A cable of its own for each pod.
    Pair,
}

impl Main {
    /// The first of its addresses in the node's range: each has its own.
    fn first(self) -> usize {
        match self {
            Self::Bridge => 100,
            Self::Pair => 120,
        }
    }

    fn plugin(self) -> Value {
        match self {
            Self::Bridge => json!({
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
            }),
            Self::Pair => json!({ "type": "ptp" }),
        }
    }
}

/// One of them, tuning and bandwidth, one after another, with addresses of the node's own range. What
/// the plugin gives out it writes down in `kept`, not on the machine, where other runs would find it.
fn chained(main: Main, range: &str, kept: &Path) -> Result<Value> {
    let (network, _) = range.split_once(".0/24").context(range.to_owned())?;
    let (first, last) = (main.first(), main.first() + ADDRESSES - 1);
    let mut plugin = main.plugin();
    plugin["ipam"] = json!({
        "type": "host-local", "dataDir": kept, "routes": [{ "dst": "0.0.0.0/0" }], "ranges": [[{
            "subnet": range, "gateway": format!("{network}.1"),
            "rangeStart": format!("{network}.{first}"), "rangeEnd": format!("{network}.{last}") }]],
    });
    Ok(json!({
        "cniVersion": "0.4.0", "name": "theirs",
        "plugins": [
            plugin,
            { "type": "tuning", "sysctl": { "net.ipv4.conf.all.log_martians": "1" } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ],
    }))
}

pub fn plugins_of_others_connect_pods(cx: &Context) -> Result<()> {
    for plugin in ["bridge", "ptp", "tuning", "bandwidth", "host-local"] {
        ensure!(
            Path::new(PLUGINS).join(plugin).is_file(),
            "there is no {PLUGINS}/{plugin}: apt-get install containernetworking-plugins"
        );
    }
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let conf = dir.path().join("net.d");
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path())?;
    let line = format!(
        "{} --cni-conf-dir {} --cni-bin-dir {PLUGINS}",
        with_images(cx.cluster, &line),
        conf.display()
    );
    let machine = Machine::start(cx.cluster, THEIRS, dir.path(), &line)?;
    let outcome = registered(cx, &machine, THEIRS).and_then(|()| {
        for main in [Main::Bridge, Main::Pair] {
            connected_by_others(cx, &machine, &conf, main).with_context(|| format!("{main:?}"))?;
        }
        Ok(())
    });
    outcome.with_context(|| machine.init.text())?;
    drop(machine);
    cx.kubectl("delete pods --all --force --grace-period=0")?;
    cx.kubectl(&format!("delete node {THEIRS}")).map(drop)
}

/// A configuration comes, serves, and goes.
fn connected_by_others(cx: &Context, machine: &Machine, conf: &Path, main: Main) -> Result<()> {
    let ready = ".status.conditions[?(@.type==\"Ready\")]";
    eventually("it says that no network is configured", || {
        let why = cx.field(&format!("node {THEIRS}"), &format!("{ready}.message"))?;
        ensure!(why.contains("cni") || why.contains("network"), "{why}");
        Ok(())
    })?;
    let range = eventually("the node has a range of addresses", || {
        let range = cx.field(&format!("node {THEIRS}"), ".spec.podCIDR")?;
        ensure!(!range.is_empty());
        Ok(range)
    })?;
    let file = conf.join("10-theirs.conflist");
    let kept = conf.with_file_name(format!("addresses-{main:?}"));
    std::fs::write(&file, chained(main, &range, &kept)?.to_string())?;
    pods_meet(cx, THEIRS)?;
    let way = machine.run(&format!("ip route get {}", cx.pod_ip("there")?))?;
    let way = way.ok()?;
    match main {
        Main::Bridge => {
            ensure!(way.contains("dev cni0"), "{way}");
            let links = machine.run("ip -o link show master cni0")?.ok()?;
            ensure!(
                links.lines().count() == 1,
                "one pod at their bridge: {links}"
            );
        }
        Main::Pair => ensure!(way.contains("dev veth"), "{way}"),
    }
    let sysctl = "cat /proc/sys/net/ipv4/conf/all/log_martians";
    ensure!(
        cx.sh("there", sysctl)?.trim() == "1",
        "the second plugin ran"
    );

    // The third limits what a pod may send, as its annotation says.
    let mut slow = pod("slow", STAY);
    slow["spec"]["nodeName"] = THEIRS.into();
    slow["metadata"]["annotations"] = json!({ "kubernetes.io/egress-bandwidth": "1M" });
    cx.apply_json(&slow)?;
    cx.wait_ready("slow")?;
    let limits = machine.run("tc qdisc show")?.ok()?;
    ensure!(
        limits.contains("tbf") && limits.contains("1Mbit"),
        "{limits}"
    );
    cx.kubectl("delete pod slow")?;
    // Behind a bridge an answer may pass the node by, so that Services are tried there; and it is
    // host-local that gives addresses out, whichever plugin asks it.
    if matches!(main, Main::Bridge) {
        their_services(cx)?;
    }
    kept_from_their_start(cx)?;
    if matches!(main, Main::Bridge) {
        addresses_run_out(cx)?;
    } else {
        cx.kubectl("delete pod there --now")?;
    }
    std::fs::remove_file(file)?;
    if matches!(main, Main::Bridge) {
        machine.run("ip link delete cni0")?.ok()?;
    }
    Ok(())
}

/// A Service of pods there is reached at every node.
fn their_services(cx: &Context) -> Result<()> {
    let mut deployment = web("web", 2);
    deployment["spec"]["template"]["spec"]["nodeName"] = THEIRS.into();
    cx.apply_json(&deployment)?;
    cx.apply_json(&service("web", "web", "NodePort"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 2)?;
    let port: u16 = cx
        .field("service web", ".spec.ports[0].nodePort")?
        .parse()?;
    for node in ["node-1", THEIRS] {
        let ip = cx.field(&format!("node {node}"), ".status.addresses[0].address")?;
        let address = SocketAddr::new(ip.parse()?, port);
        eventually(&format!("both pods answer at {node}"), || {
            let seen = traffic::spread(address, 10)?;
            let even = seen.len() == 2 && seen.values().all(|n| *n == 5);
            ensure!(even, "{seen:?}");
            Ok(())
        })?;
    }
    cx.kubectl("delete service web")?;
    cx.kubectl("delete deployment web --cascade=foreground --timeout=280s")
        .map(drop)
}

/// Pods with a policy of their own, of those that have an address beside the pod `there`; one more is
/// free.
const HASTY: usize = ADDRESSES - 2;

/// Also behind their plugins no pod runs before its policies are in place.
fn kept_from_their_start(cx: &Context) -> Result<()> {
    from_the_first_packet_on(cx, "node-1", &[THEIRS.to_owned()], HASTY)?;
    cx.kubectl("delete networkpolicy for-hasty")?;
    cx.kubectl("delete pods --selector 'app in (hasty, free, server)' --now")
        .map(drop)
}

/// More pods than addresses: that is said, and who goes makes room.
fn addresses_run_out(cx: &Context) -> Result<()> {
    let mut many = web("many", u32::try_from(ADDRESSES)?);
    many["spec"]["template"]["spec"]["nodeName"] = THEIRS.into();
    cx.apply_json(&many)?;
    // One address is that of the pod `there`.
    cx.wait(
        "deployment/many",
        &format!("jsonpath={{.status.readyReplicas}}={}", ADDRESSES - 1),
    )?;
    cx.wait_event("FailedCreatePodSandBox", "no IP addresses available")?;
    cx.kubectl("delete pod there --now")?;
    cx.wait_rollout("deployment/many")?;
    cx.kubectl("delete deployment many --cascade=foreground --timeout=280s")
        .map(drop)
}

pub fn a_wrong_token_is_refused(cx: &Context) -> Result<()> {
    let good = token(cx.cluster)?;
    let (head, secret) = good.rsplit_once('.').context("a token has parts")?;
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    // Another secret, and another cluster's CA: then the token is not even sent.
    let other_ca = match head.char_indices().find(|(_, c)| c.is_ascii_digit()) {
        Some((at, _)) => format!("{}f{}.{secret}", &head[..at], &head[at + 1..]),
        None => good.replacen('a', "b", 1),
    };
    // The agent says so, and goes on trying: the token may be made later, the server mended.
    for (wrong, message) in [
        (format!("{head}.0000000000000000"), "Unauthorized"),
        (other_ca, "is not the server that the token is for"),
    ] {
        let line = agent(cx.cluster, &wrong, dir.path())?;
        let machine = Machine::start(cx.cluster, "stranger", dir.path(), &line)?;
        machine.init.line(|l| l.contains(message))?;
        cx.refused("get node stranger")?;
    }
    let line = agent(cx.cluster, "nonsense", dir.path())?;
    let mut machine = Machine::start(cx.cluster, "stranger", dir.path(), &line)?;
    ensure!(
        machine.init.end()? != 0,
        "it joined: {}",
        machine.init.text()
    );
    ensure!(
        machine.init.text().contains("this is not a join token"),
        "{}",
        machine.init.text()
    );
    Ok(())
}
