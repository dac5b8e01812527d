//! Policies of administrators between real pods: their kinds come, say the first and the last word
//! about connections, and go.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::{eventually, run};
use tests::context::{STAY, pod, web};

const GROUP: &str = "policy.networking.k8s.io";

/// A kind: its name, its name in paths, and its version.
type PolicyKind = (&'static str, &'static str, &'static str);
const KINDS: [PolicyKind; 3] = [
    ("ClusterNetworkPolicy", "clusternetworkpolicies", "v1alpha2"),
    ("AdminNetworkPolicy", "adminnetworkpolicies", "v1alpha1"),
    (
        "BaselineAdminNetworkPolicy",
        "baselineadminnetworkpolicies",
        "v1alpha1",
    ),
];

/// As much of a definition as is needed to store such policies.
fn definition((kind, plural, version): PolicyKind) -> Value {
    let object = json!({ "type": "object", "properties": {
        "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        // Names that end so need somebody's word that they are meant.
        "metadata": { "name": format!("{plural}.{GROUP}"), "annotations": {
            "api-approved.kubernetes.io": "unapproved, of a test" } },
        "spec": {
            "group": GROUP, "scope": "Cluster",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(),
                       "listKind": format!("{kind}List") },
            "versions": [{ "name": version, "served": true, "storage": true,
                           "schema": { "openAPIV3Schema": object } }],
        },
    })
}

fn policy((kind, _, version): PolicyKind, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": format!("{GROUP}/{version}"), "kind": kind,
            "metadata": { "name": name }, "spec": spec })
}

fn gone(cx: &Context, (_, plural, _): PolicyKind, name: &str) -> Result<()> {
    cx.kubectl(&format!("delete {plural}.{GROUP} {name}"))
        .map(drop)
}

/// Pods of the test's namespace with this label.
fn apps(cx: &Context, app: &str) -> Value {
    let home = json!({ "matchLabels": { "kubernetes.io/metadata.name": cx.ns } });
    let app = json!({ "matchLabels": { "app": app } });
    json!({ "pods": { "namespaceSelector": home, "podSelector": app } })
}

pub fn administrators_have_the_first_and_the_last_word(cx: &Context) -> Result<()> {
    let [cluster, admin, baseline] = KINDS;
    let nodes = cx.cluster.node_names();
    cx.apply_json(&web("server", 1))?;
    for (name, node) in [("near", &nodes[0]), ("far", &nodes[1])] {
        let mut client = pod(name, STAY);
        client["metadata"]["labels"] = json!({ "app": name });
        client["spec"]["nodeName"] = node.clone().into();
        cx.apply_json(&client)?;
    }
    cx.wait_rollout("deployment/server")?;
    let names = cx.pods("app=server")?;
    let server = cx.pod_ip(&names[0])?;
    for name in ["near", "far"] {
        cx.wait_ready(name)?;
    }
    let reach = |what: &str, near: bool, far: bool| -> Result<()> {
        for (name, wanted) in [("near", near), ("far", far)] {
            eventually(
                &format!("{what}: {name} reaches the server: {wanted}"),
                || {
                    let line = format!("timeout 2 wget -q -O - http://{server}:8080/hostname");
                    let mut command = cx.cluster.kubectl_command();
                    command.args(["--namespace", &cx.ns, "exec", name, "--", "sh", "-c", &line]);
                    ensure!((run(command, "")?.code == 0) == wanted);
                    Ok(())
                },
            )?;
        }
        Ok(())
    };
    reach("without these kinds", true, true)?;
    for kind in KINDS {
        cx.apply_json(&definition(kind))?;
        cx.kubectl(&format!(
            "wait customresourcedefinition/{}.{GROUP} --for=condition=Established --timeout=280s",
            kind.1
        ))?;
    }
    let rules = |rules: Value| json!({ "subject": apps(cx, "server"), "ingress": rules });
    let of = |tier: &str, priority: u32, said: Value| {
        let mut spec = rules(said);
        spec["tier"] = tier.into();
        spec["priority"] = priority.into();
        spec
    };
    let one = |action: &str, app: &str| json!([{ "action": action, "from": [apps(cx, app)] }]);
    let all = json!({ "namespaces": {} });
    let nobody = json!([{ "action": "Deny", "from": [all] }]);

    // Of the old kinds.
    let mut refused = rules(one("Deny", "far"));
    refused["priority"] = json!(10);
    cx.apply_json(&policy(admin, "refused", refused.clone()))?;
    reach("an administrator forbids one", true, false)?;
    let open = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "open" },
        "spec": { "podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"] } });
    cx.apply_json(&open)?;
    cx.apply_json(&policy(baseline, "default", rules(nobody.clone())))?;
    reach("a policy of the namespace opens what it may", true, false)?;
    cx.kubectl("delete networkpolicy open")?;
    reach("the last word is asked where no policy is", false, false)?;
    gone(cx, baseline, "default")?;
    gone(cx, admin, "refused")?;
    reach("no policy any more", true, true)?;

    // Of the kind that took their place.
    let last = of("Baseline", 5, nobody.clone());
    cx.apply_json(&policy(cluster, "last", last))?;
    reach("nobody by the last word", false, false)?;
    let first = of("Admin", 5, one("Accept", "near"));
    cx.apply_json(&policy(cluster, "first", first))?;
    reach("one by the first word", true, false)?;
    cx.apply_json(&policy(
        cluster,
        "before",
        of("Admin", 1, one("Deny", "near")),
    ))?;
    reach("a word before that", false, false)?;
    cx.apply_json(&policy(
        cluster,
        "before",
        of("Admin", 1, one("Pass", "near")),
    ))?;
    reach("it leaves it to others", false, false)?;
    cx.apply_json(&open)?;
    reach("who open it", true, true)?;

    // A pod that comes while there is a policy for it.
    let mut spec = json!({ "tier": "Admin", "priority": 3, "subject": apps(cx, "hasty") });
    spec["egress"] = json!([{ "action": "Deny", "to": [{ "networks": ["0.0.0.0/0"] }] }]);
    cx.apply_json(&policy(cluster, "hasty", spec))?;
    let line = format!(
        "timeout 3 wget -q -O - http://{server}:8080/hostname && echo out || echo kept; {STAY}"
    );
    for node in &nodes {
        let mut hasty = pod(&format!("hasty-{node}"), &line);
        hasty["metadata"]["labels"] = json!({ "app": "hasty" });
        hasty["spec"]["nodeName"] = node.clone().into();
        cx.apply_json(&hasty)?;
    }
    for node in &nodes {
        eventually("it has tried", || {
            let said = cx.logs(&format!("hasty-{node}"))?;
            ensure!(!said.contains("out"), "{said:?}");
            ensure!(said.contains("kept"), "{said:?}");
            Ok(())
        })?;
    }

    // Nodes by their labels: what serves there is another node's proxy.
    let path = ".status.addresses[0].address";
    let other = cx.field(&format!("node {}", nodes[1]), path)?;
    let reach_node = |what: &str, wanted: bool| {
        eventually(&format!("{what}: near reaches a node: {wanted}"), || {
            let line = format!("timeout 2 wget -q -O - http://{other}:10256/healthz");
            let mut command = cx.cluster.kubectl_command();
            command.args([
                "--namespace",
                &cx.ns,
                "exec",
                "near",
                "--",
                "sh",
                "-c",
                &line,
            ]);
            ensure!((run(command, "")?.code == 0) == wanted);
            Ok(())
        })
    };
    reach_node("without a rule", true)?;
    let named = json!({ "matchLabels": { "kubernetes.io/hostname": nodes[1] } });
    let mut spec = json!({ "tier": "Admin", "priority": 2, "subject": apps(cx, "near") });
    spec["egress"] = json!([{ "action": "Deny", "to": [{ "nodes": named }] }]);
    cx.apply_json(&policy(cluster, "nodes", spec))?;
    reach_node("it is forbidden", false)?;
    gone(cx, cluster, "nodes")?;
    reach_node("it is forbidden no more", true)?;

    // With the kinds their policies go.
    cx.kubectl("delete networkpolicy open")?;
    reach("nobody by the last word again", false, false)?;
    for kind in KINDS {
        cx.kubectl(&format!(
            "delete customresourcedefinition {}.{GROUP}",
            kind.1
        ))?;
    }
    reach("the kinds are gone", true, true)
}
