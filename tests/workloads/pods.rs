//! What a pod has when it runs.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::command::eventually;
use tests::context::{STAY, pod};
use tests::{BUSYBOX, Context, DEMO};

pub fn two_containers_share_one_address(cx: &Context) -> Result<()> {
    let mut pod = pod("pair", STAY);
    pod["spec"]["containers"] = json!([
        { "name": "web", "image": DEMO },
        { "name": "client", "image": BUSYBOX, "command": ["sh", "-c", STAY] },
    ]);
    cx.apply_json(&pod)?;
    cx.wait_ready("pair")?;
    let ip = cx.pod_ip("pair")?.to_string();
    for container in ["web", "client"] {
        let addresses = cx.sh_in("pair", container, "ip -4 -o addr show eth0")?;
        ensure!(addresses.contains(&ip), "{container}: {addresses}");
    }
    let answer = eventually("the web container listens", || {
        cx.sh_in("pair", "client", "wget -qO- http://localhost:8080/hostname")
    })?;
    ensure!(answer.trim() == "pair", "{answer}");
    let status = cx.json("get pod pair")?;
    let statuses = status["status"]["containerStatuses"]
        .as_array()
        .context("no statuses")?;
    ensure!(
        statuses.len() == 2 && statuses.iter().all(|s| s["ready"] == true),
        "{status:#}"
    );
    ensure!(cx.kubectl("get pod pair --no-headers")?.contains("2/2"));
    Ok(())
}

pub fn init_containers_run_first_and_in_order(cx: &Context) -> Result<()> {
    let mut pod = pod("p", "cat /shared/order; exec sleep 1000000");
    let mount = json!([{ "name": "shared", "mountPath": "/shared" }]);
    let init = |name: &str| json!({ "name": name, "image": BUSYBOX, "volumeMounts": mount, "command": ["sh", "-c", format!("sleep 0.2; echo {name} >> /shared/order")] });
    pod["spec"]["initContainers"] = json!([init("one"), init("two")]);
    pod["spec"]["containers"][0]["volumeMounts"] = mount.clone();
    pod["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    cx.wait_logs("p -c main", "one\ntwo\n")?;
    let status = cx.json("get pod p")?;
    let inits = status["status"]["initContainerStatuses"]
        .as_array()
        .context("no statuses")?;
    ensure!(
        inits
            .iter()
            .all(|s| s["state"]["terminated"]["exitCode"] == 0),
        "{inits:#?}"
    );
    Ok(())
}

pub fn environment_comes_from_everywhere(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap settings --from-literal=COLOUR=blue --from-literal=data-1=big")?;
    cx.kubectl("create secret generic password --from-literal=word=open")?;
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["envFrom"] =
        json!([{ "prefix": "CM_", "configMapRef": { "name": "settings" } }]);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "64Mi" } });
    pod["spec"]["containers"][0]["env"] = json!([
        { "name": "PLAIN", "value": "1" },
        { "name": "BUILT", "value": "$(PLAIN)-$$(PLAIN)-$(NONE)" },
        { "name": "WORD", "valueFrom": { "secretKeyRef": { "name": "password", "key": "word" } } },
        { "name": "MAYBE", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "x", "optional": true } } },
        { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
        { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        { "name": "MEMORY", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
    ]);
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    // Without a shell, which takes names into its environment that it can spell, and no others.
    let env = cx.kubectl("exec p -- env")?;
    let (ip, node) = (cx.pod_ip("p")?, cx.field("pod p", ".spec.nodeName")?);
    for wanted in [
        "CM_COLOUR=blue",
        "CM_data-1=big",
        "PLAIN=1",
        "BUILT=1-$(PLAIN)-$(NONE)",
        "WORD=open",
        &format!("NODE={node}"),
        &format!("IP={ip}"),
        "MEMORY=64",
        "HOSTNAME=p",
    ] {
        ensure!(env.lines().any(|l| l == wanted), "no {wanted}: {env}");
    }
    ensure!(env.contains("KUBERNETES_SERVICE_HOST="), "{env}");
    ensure!(!env.contains("MAYBE="), "{env}");
    Ok(())
}

pub fn names_resolve_inside_pods(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    cx.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: p}, ports: [{port: 80}]}\n")?;
    cx.apply("apiVersion: v1\nkind: Service\nmetadata: {name: direct}\nspec: {clusterIP: None, selector: {app: p}, ports: [{port: 80}]}\n")?;
    cx.wait_endpoints("direct", 1)?;
    let conf = cx.sh("p", "cat /etc/resolv.conf")?;
    ensure!(
        conf.contains(&format!("nameserver {}", cx.cluster.slot.dns_ip())),
        "{conf}"
    );
    ensure!(
        conf.contains(&format!(
            "search {}.svc.cluster.local svc.cluster.local cluster.local",
            cx.ns
        )),
        "{conf}"
    );
    ensure!(conf.contains("ndots:5"), "{conf}");
    let ip = cx.field("service web", ".spec.clusterIP")?;
    let resolves = |name: &str, address: &str| {
        eventually(&format!("{name} resolves to {address}"), || {
            let answer = cx.sh("p", &format!("nslookup -type=a {name}"))?;
            // As a word: the address of the server that is asked begins with another one.
            let mut words = answer.split_whitespace();
            ensure!(words.any(|word| word == address), "{answer}");
            Ok(())
        })
    };
    let full = format!("web.{}.svc.cluster.local", cx.ns);
    resolves(&full, &ip)?;
    resolves(
        &format!("direct.{}.svc.cluster.local", cx.ns),
        &cx.pod_ip("p")?.to_string(),
    )?;
    resolves(
        "kubernetes.default.svc.cluster.local",
        &cx.cluster
            .kubectl("get service kubernetes -n default -o 'jsonpath={.spec.clusterIP}'")?
            .ok()?,
    )?;
    // Again where the busy server's answer came too late for the program that asked.
    let says = |line: &str, word: &str| {
        eventually(&format!("`{line}` says {word}"), || {
            let said = cx.sh("p", &format!("{line} 2>&1; true"))?;
            ensure!(said.contains(word), "{said}");
            Ok(())
        })
    };
    // Short names by the search list, as the C library takes it.
    says("ping -c 1 -W 1 web", &format!("({ip})"))?;
    let none = format!("nslookup none.{}.svc.cluster.local", cx.ns);
    says(&none, "NXDOMAIN")
}

pub fn a_pod_calls_the_api_with_its_own_token(cx: &Context) -> Result<()> {
    let ns = &cx.ns;
    cx.kubectl("create serviceaccount reader")?;
    cx.kubectl("create role reads --verb=get --resource=configmaps")?;
    cx.kubectl(&format!(
        "create rolebinding reads --role=reads --serviceaccount={ns}:reader"
    ))?;
    cx.kubectl("create configmap seen --from-literal=colour=blue")?;
    let mut pod = pod("p", STAY);
    pod["spec"]["serviceAccountName"] = "reader".into();
    // The static kubectl of this machine, which nodes of `up` see, too.
    let kubectl = tests::command::find("kubectl")?;
    pod["spec"]["volumes"] =
        json!([{ "name": "kubectl", "hostPath": { "path": kubectl, "type": "File" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "kubectl", "mountPath": "/kubectl" }]);
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    ensure!(cx.sh("p", &format!("cat {dir}/namespace"))? == *ns);
    ensure!(
        cx.sh("p", &format!("cat {dir}/ca.crt"))?
            .contains("BEGIN CERTIFICATE")
    );
    let ask = |line: &str| {
        cx.sh(
            "p",
            &format!("cd /tmp; HOME=/tmp /kubectl {line} 2>&1; true"),
        )
    };
    // As it finds the server by itself, and by its name with the mounted CA and token.
    let by_name = format!(
        "--server=https://kubernetes.default.svc --certificate-authority={dir}/ca.crt --token=$(cat {dir}/token)"
    );
    for server in ["", &by_name] {
        let answer = ask(&format!(
            "{server} get --namespace {ns} configmap seen -o 'jsonpath={{.data.colour}}'"
        ))?;
        ensure!(answer == "blue", "{server}: {answer}");
    }
    let answer = ask("get secrets")?;
    ensure!(
        answer.contains(&format!(
            "User \"system:serviceaccount:{ns}:reader\" cannot list resource \"secrets\""
        )),
        "{answer}"
    );
    Ok(())
}

/// A seccomp profile that lies on the node: the kernel refuses the calls that it names.
pub fn a_seccomp_profile_of_the_node_is_enforced(cx: &Context) -> Result<()> {
    let node = "node-1";
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }] });
    let place = format!("profiles/{}.json", cx.ns);
    let folder = "/var/lib/kubelet/seccomp";
    let line =
        format!("mkdir -p {folder}/profiles && cat > {folder}/{place} <<'END'\n{profile}\nEND\n");
    cx.cluster.in_node(node, &line)?.ok()?;
    let mut pod = pod("p", STAY);
    pod["spec"]["nodeName"] = node.into();
    let local = json!({ "type": "Localhost", "localhostProfile": place });
    pod["spec"]["containers"][0]["securityContext"] = json!({ "seccompProfile": local });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let answer = cx.sh(
        "p",
        "touch /tmp/file && mkdir /tmp/folder 2>&1 || echo refused",
    )?;
    ensure!(answer.contains("not permitted"), "{answer}");
    ensure!(answer.contains("refused"), "{answer}");
    Ok(())
}

pub fn limits_reach_the_kernel(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["resources"] = json!({
        "requests": { "cpu": "100m", "memory": "32Mi" }, "limits": { "cpu": "200m", "memory": "64Mi" },
    });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let memory = cx.sh("p", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true")?;
    ensure!(memory.lines().any(|l| l == "67108864"), "{memory}");
    let cpu = cx.sh(
        "p",
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true",
    )?;
    ensure!(
        cpu.lines().any(|l| l == "20000" || l == "20000 100000"),
        "{cpu}"
    );
    ensure!(cx.field("pod p", ".status.qosClass")? == "Burstable");
    Ok(())
}

pub fn a_pod_that_fits_nowhere_says_why(cx: &Context) -> Result<()> {
    let mut large = pod("large", STAY);
    large["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "1000" } });
    cx.apply_json(&large)?;
    cx.wait(
        "pod/large",
        "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].reason}=Unschedulable",
    )?;
    // It is tried again when something has changed for it, and says what came of that.
    eventually("it says why", || {
        let message = cx.field(
            "pod large",
            ".status.conditions[?(@.type==\"PodScheduled\")].message",
        )?;
        ensure!(
            message.starts_with("0/2 nodes are available: 2 Insufficient cpu."),
            "{message}"
        );
        Ok(())
    })?;
    cx.wait_event("FailedScheduling", "2 Insufficient cpu")?;
    let mut choosy = pod("choosy", STAY);
    choosy["spec"]["nodeSelector"] = json!({ "no": "such" });
    cx.apply_json(&choosy)?;
    cx.wait_event(
        "FailedScheduling",
        "2 node(s) didn't match Pod's node affinity/selector",
    )?;
    ensure!(
        cx.kubectl("get pod choosy --no-headers")?
            .contains("Pending")
    );
    Ok(())
}

pub fn a_node_selector_is_followed(cx: &Context) -> Result<()> {
    for node in cx.cluster.node_names() {
        let mut pod = pod(&format!("on-{node}"), STAY);
        pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        cx.apply_json(&pod)?;
        cx.wait_ready(&format!("on-{node}"))?;
        ensure!(cx.field(&format!("pod on-{node}"), ".spec.nodeName")? == node);
    }
    // Pods of different nodes reach each other under their own addresses.
    let (one, two) = (cx.pod_ip("on-node-1")?, cx.pod_ip("on-node-2")?);
    for (from, to) in [("on-node-1", two), ("on-node-2", one)] {
        eventually(&format!("{from} reaches the other"), || {
            cx.sh(from, &format!("ping -c 1 -W 5 {to}"))
        })?;
    }
    Ok(())
}

pub fn variables_come_from_a_file_that_the_pod_wrote(cx: &Context) -> Result<()> {
    let variable = |name: &str, key: &str, optional: bool| {
        json!({ "name": name, "valueFrom": { "fileKeyRef":
            { "volumeName": "v", "path": "dir/env", "key": key, "optional": optional } } })
    };
    let write = "mkdir /v/dir; printf \"# by the init container\\nCOLOUR='dark\\nblue' # two lines\\n\" > /v/dir/env";
    let mut good = pod("good", STAY);
    good["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    good["spec"]["initContainers"] = json!([{ "name": "init", "image": BUSYBOX,
        "command": ["sh", "-c", write], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }]);
    good["spec"]["containers"][0]["env"] = json!([
        variable("COLOUR", "COLOUR", false),
        variable("SHAPE", "SHAPE", true),
        { "name": "BOTH", "value": "$(COLOUR)!" },
    ]);
    let mut missing = good.clone();
    missing["metadata"]["name"] = json!("missing");
    missing["spec"]["containers"][0]["env"] = json!([variable("SHAPE", "SHAPE", false)]);
    // A link that leads out of the volume is not a way to a file of the node.
    let mut out = missing.clone();
    out["metadata"]["name"] = json!("out");
    let link = "mkdir /v/dir; ln -s /etc/hostname /v/dir/env";
    out["spec"]["initContainers"][0]["command"] = json!(["sh", "-c", link]);
    for pod in [&good, &missing, &out] {
        cx.apply_json(pod)?;
    }
    cx.wait_ready("good")?;
    let seen = cx.sh("good", "echo \"$COLOUR|$BOTH|${SHAPE-none}\"")?;
    ensure!(seen == "dark\nblue|dark\nblue!|none\n", "{seen:?}");
    for (name, why) in [
        (
            "missing",
            "environment variable key \"SHAPE\" not found in file",
        ),
        ("out", "couldn't parse env file"),
    ] {
        let what = format!("pod/{name}");
        let reason = "{.status.containerStatuses[0].state.waiting.reason}";
        cx.wait(
            &what,
            &format!("jsonpath={reason}=CreateContainerConfigError"),
        )?;
        let message = ".status.containerStatuses[0].state.waiting.message";
        let message = cx.field(&format!("pod {name}"), message)?;
        ensure!(message.contains(why), "{message}");
    }
    Ok(())
}
