//! What controllers make of workloads.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::command::eventually;
use tests::context::{STAY, pod, service, web};
use tests::{BUSYBOX, Context};

pub fn a_replication_controller_keeps_one_pod(cx: &Context) -> Result<()> {
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": "rc" },
        "spec": { "replicas": 1, "selector": { "app": "rc" }, "template": {
            "metadata": { "labels": { "app": "rc" } },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [{ "name": "main", "image": BUSYBOX, "command": ["sh", "-c", "exec sleep 7654321"] }] },
        } },
    }))?;
    cx.wait("rc/rc", "jsonpath={.status.readyReplicas}=1")?;
    let first = cx.pods("app=rc")?.pop().context("no pod")?;
    let node = cx.field(&format!("pod {first}"), ".spec.nodeName")?;
    // kill -9 from outside: restarted in place. A container that runs may still be the shell before it.
    eventually("its process is killed", || {
        cx.cluster
            .in_node(&node, "pkill -9 -x -f 'sleep 7654321'")?
            .ok()
    })?;
    cx.wait(
        &format!("pod/{first}"),
        "jsonpath={.status.containerStatuses[0].restartCount}=1",
    )?;
    cx.wait_ready(&first)?;
    ensure!(cx.field(&format!("pod {first}"), ".spec.nodeName")? == node);
    ensure!(cx.pods("app=rc")? == std::slice::from_ref(&first));
    // Deleted: replaced.
    cx.kubectl(&format!("delete pod {first}"))?;
    eventually("another pod has taken its place", || {
        let now = cx.pods("app=rc")?;
        ensure!(now.len() == 1 && now[0] != first, "{now:?}");
        Ok(())
    })?;
    cx.wait("rc/rc", "jsonpath={.status.readyReplicas}=1")?;
    cx.kubectl("scale rc rc --replicas=2")?;
    cx.wait("rc/rc", "jsonpath={.status.readyReplicas}=2")?;
    cx.kubectl("scale rc rc --replicas=0")?;
    eventually("all its pods are gone", || {
        ensure!(cx.pods("app=rc")?.is_empty());
        Ok(())
    })
}

pub fn what_a_full_quota_refuses_is_said(cx: &Context) -> Result<()> {
    cx.kubectl("create quota two --hard=pods=2")?;
    cx.wait("quota/two", "jsonpath={.status.hard.pods}=2")?;
    cx.apply_json(&web("full", 3))?;
    cx.wait("deployment/full", "condition=ReplicaFailure")?;
    let set = cx.json("get rs -l app=full")?["items"][0].take();
    let said = &set["status"]["conditions"][0];
    ensure!(
        said["type"] == "ReplicaFailure" && said["reason"] == "FailedCreate",
        "{said}"
    );
    let message = said["message"].as_str().unwrap_or_default();
    ensure!(message.contains("exceeded quota: two"), "{message}");
    cx.kubectl("scale deployment full --replicas=2")?;
    cx.wait_rollout("deployment/full")?;
    eventually("nothing fails any more", || {
        let types = cx.field("deployment full", ".status.conditions[*].type")?;
        ensure!(!types.contains("ReplicaFailure"), "{types}");
        Ok(())
    })
}

pub fn a_deployment_rolls_forward_and_back(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 3))?;
    cx.wait_rollout("deployment/web")?;
    cx.kubectl("annotate deployment web kubernetes.io/change-cause=first")?;
    // The controller copies what it says by the time it comes to it.
    eventually("the first ReplicaSet says its cause", || {
        let sets = cx.kubectl("get replicasets -l app=web -o yaml")?;
        ensure!(sets.contains("kubernetes.io/change-cause: first"), "{sets}");
        Ok(())
    })?;
    cx.kubectl("set env deployment/web COLOUR=blue")?;
    cx.kubectl("annotate deployment web kubernetes.io/change-cause=second --overwrite")?;
    let status = cx.kubectl("rollout status deployment/web --timeout=280s")?;
    ensure!(status.contains("successfully rolled out"), "{status}");
    let pods = cx.pods("app=web")?;
    ensure!(pods.len() == 3, "{pods:?}");
    ensure!(cx.sh(&pods[0], "echo $COLOUR")? == "blue\n");
    eventually("both revisions say their causes", || {
        let history = cx.kubectl("rollout history deployment/web")?;
        let revisions = history
            .lines()
            .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()));
        ensure!(revisions.count() == 2, "{history}");
        ensure!(
            history.contains("first") && history.contains("second"),
            "{history}"
        );
        Ok(())
    })?;
    let one = cx.kubectl("rollout history deployment/web --revision=2")?;
    ensure!(one.contains("COLOUR"), "{one}");
    cx.kubectl("rollout undo deployment/web")?;
    cx.wait_rollout("deployment/web")?;
    let env = cx.field("deployment web", ".spec.template.spec.containers[0].env")?;
    ensure!(env.is_empty(), "{env}");
    let revision = cx.field(
        "deployment web",
        ".metadata.annotations.deployment\\.kubernetes\\.io/revision",
    )?;
    ensure!(revision == "3", "{revision}");
    // A broken image stops the rollout and leaves what works.
    cx.kubectl("set image deployment/web web=tiphys.local/none:1")?;
    eventually("the new pod cannot start", || {
        let pods = cx.kubectl("get pods -l app=web --no-headers")?;
        ensure!(
            pods.contains("ErrImage") || pods.contains("ImagePullBackOff"),
            "{pods}"
        );
        Ok(())
    })?;
    ensure!(cx.field("deployment web", ".status.availableReplicas")? == "3");
    cx.kubectl("rollout undo deployment/web")?;
    cx.wait_rollout("deployment/web")?;
    cx.kubectl("rollout restart deployment/web")?;
    cx.wait_rollout("deployment/web")?;
    cx.kubectl("rollout pause deployment/web")?;
    cx.kubectl("rollout resume deployment/web").map(drop)
}

pub fn labels_move_pods_between_services(cx: &Context) -> Result<()> {
    for name in ["one", "two"] {
        cx.apply_json(&service(name, name, "ClusterIP"))?;
    }
    let names = ["a", "b", "c"];
    for name in names {
        let mut pod = pod(name, STAY);
        pod["metadata"]["labels"] = json!({ "app": "one" });
        cx.apply_json(&pod)?;
    }
    cx.wait_endpoints("one", 3)?;
    cx.wait_endpoints("two", 0)?;
    let ip = cx.field("service one", ".spec.clusterIP")?;
    cx.kubectl("label pod b app=two --overwrite")?;
    cx.wait_endpoints("one", 2)?;
    cx.wait_endpoints("two", 1)?;
    // Written by another controller than the slices.
    eventually("the Endpoints name it, too", || {
        let at = cx.field("endpoints two", ".subsets[0].addresses[0].targetRef.name")?;
        ensure!(at == "b", "{at}");
        Ok(())
    })?;
    cx.kubectl("label pods -l app=one app=two --overwrite")?;
    cx.wait_endpoints("one", 0)?;
    cx.wait_endpoints("two", 3)?;
    cx.kubectl(r#"patch service one -p '{"spec":{"selector":{"app":"two"}}}'"#)?;
    cx.wait_endpoints("one", 3)?;
    ensure!(cx.field("service one", ".spec.clusterIP")? == ip);
    Ok(())
}

pub fn owners_take_their_own_with_them(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 2))?;
    cx.wait_rollout("deployment/web")?;
    cx.kubectl("delete deployment web --cascade=orphan")?;
    let set = cx.names("replicasets", "app=web")?;
    ensure!(
        set.len() == 1 && cx.pods("app=web")?.len() == 2,
        "orphans stay: {set:?}"
    );
    let owners = cx.field(&format!("rs {}", set[0]), ".metadata.ownerReferences")?;
    ensure!(owners.is_empty(), "{owners}");
    // The same Deployment takes them up again.
    let before = cx.pods("app=web")?;
    cx.apply_json(&web("web", 2))?;
    cx.wait_rollout("deployment/web")?;
    ensure!(cx.pods("app=web")? == before, "pods were replaced");
    cx.kubectl("delete deployment web --cascade=foreground")?;
    ensure!(
        cx.kubectl("get pods,rs -l app=web -o name")?.is_empty(),
        "something outlived its owner"
    );
    Ok(())
}

pub fn a_namespace_ends_with_all_in_it(cx: &Context) -> Result<()> {
    let ns = format!("{}-inner", cx.ns);
    cx.kubectl(&format!("create namespace {ns}"))?;
    cx.run_with(&format!("apply -n {ns} -f -"), &web("web", 1).to_string())?
        .ok()?;
    cx.kubectl(&format!(
        "rollout status deployment/web -n {ns} --timeout=280s"
    ))?;
    cx.kubectl(&format!("create configmap c -n {ns}"))?;
    cx.kubectl(&format!("delete namespace {ns}"))?;
    cx.refused(&format!("get namespace {ns}"))?;
    let left = cx.kubectl(&format!(
        "get pods,configmaps,rs,deployments -n {ns} -o name"
    ))?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

pub fn happenings_are_reported_as_events(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 1))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_event("ScalingReplicaSet", "Scaled up replica set")?;
    cx.wait_event("SuccessfulCreate", "Created pod: web-")?;
    cx.wait_event("Scheduled", "Successfully assigned")?;
    cx.wait_event("Pulled", "already present on machine")?;
    cx.wait_event("Created", "ontainer")?;
    cx.wait_event("Started", "ontainer")?;
    let name = cx.pods("app=web")?.pop().context("no pod")?;
    let described = cx.kubectl(&format!("describe pod {name}"))?;
    ensure!(
        described.contains("Events:") && described.contains("Scheduled"),
        "{described}"
    );
    let table = cx.kubectl("events")?;
    ensure!(table.contains("LAST SEEN"), "{table}");
    Ok(())
}

pub fn traffic_stays_where_its_distribution_says(cx: &Context) -> Result<()> {
    let mut web = web("web", 2);
    web["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } } }]);
    cx.apply_json(&web)?;
    let mut service = service("web", "web", "ClusterIP");
    service["spec"]["trafficDistribution"] = json!("PreferSameNode");
    let output = cx.apply_json(&service)?;
    ensure!(!output.contains("Warning"), "{output}");
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 2)?;
    let mut asker = pod("asker", STAY);
    asker["spec"]["nodeName"] = json!("node-1");
    cx.apply_json(&asker)?;
    cx.wait_ready("asker")?;
    let answers = || -> Result<std::collections::BTreeSet<String>> {
        let ask = "for i in 1 2 3 4 5 6; do wget -q -O - http://web/hostname || exit 1; done";
        Ok(cx.sh("asker", ask)?.lines().map(str::to_owned).collect())
    };
    let near = cx.json("get pods -l app=web --field-selector spec.nodeName=node-1")?;
    let near = near["items"][0]["metadata"]["name"].clone();
    eventually("only the pod of the asker's node answers", || {
        let seen = answers()?;
        ensure!(
            seen.len() == 1 && near == *seen.first().context("none")?,
            "{seen:?}"
        );
        Ok(())
    })?;
    cx.kubectl("patch service web --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/trafficDistribution\"}]'")?;
    eventually("both answer", || {
        let seen = answers()?;
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    })
}
