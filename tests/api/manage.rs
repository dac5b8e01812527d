//! Objects are made, changed and removed with kubectl.

use anyhow::{Context as _, Result, ensure};
use tests::Context;
use tests::command;

const MANY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: NS}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: NS}
data: {word: b3Blbg==}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: worker, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads, namespace: NS}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [get]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: worker
      containers:
      - {name: web, image: 'tiphys.local/demo:1'}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

pub fn a_manifest_of_many_documents_is_applied(cx: &Context) -> Result<()> {
    let ns = format!("{}-2", cx.ns);
    let manifest = MANY.replace("NS", &ns);
    // Its documents name their namespaces themselves.
    let apply = |line: &str, manifest: &str| {
        let mut kubectl = cx.cluster.kubectl_command();
        kubectl.args(line.split(' '));
        command::run(kubectl, manifest)?.ok()
    };
    let output = apply("apply -f -", &manifest)?;
    for line in [
        &format!("namespace/{ns} created") as &str,
        "configmap/settings created",
        "secret/password created",
        "serviceaccount/worker created",
        "role.rbac.authorization.k8s.io/reads created",
        "deployment.apps/web created",
        "service/web created",
    ] {
        ensure!(output.contains(line), "no {line:?}: {output}");
    }
    let again = apply("apply -f -", &manifest)?;
    ensure!(
        again.lines().count() == 7 && again.lines().all(|l| l.ends_with(" unchanged")),
        "{again}"
    );
    let changed = apply(
        "apply -f -",
        &manifest.replace("colour: blue", "colour: red"),
    )?;
    ensure!(
        changed.contains("configmap/settings configured"),
        "{changed}"
    );
    ensure!(changed.matches("unchanged").count() == 6, "{changed}");
    let word = cx.kubectl(&format!(
        "get secret password -n {ns} -o 'jsonpath={{.data.word}}'"
    ))?;
    ensure!(word == "b3Blbg==", "{word}");
    // The namespace takes along what is named after it: both orders are right.
    apply("delete --wait=false --ignore-not-found -f -", &manifest)?;
    Ok(())
}

pub fn labels_and_annotations_are_set_and_removed(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap c")?;
    cx.kubectl("label configmap c tier=front zone=a")?;
    let output = cx.refused("label configmap c tier=back")?;
    ensure!(
        output.contains("already has a value (front), and --overwrite is false"),
        "{output}"
    );
    cx.kubectl("label configmap c tier=back --overwrite")?;
    cx.kubectl("label configmap c zone-")?;
    cx.kubectl("annotate configmap c note='two words'")?;
    let object = cx.json("get configmap c")?;
    ensure!(
        object["metadata"]["labels"] == serde_json::json!({ "tier": "back" }),
        "{object:#}"
    );
    ensure!(
        object["metadata"]["annotations"]["note"] == "two words",
        "{object:#}"
    );
    cx.kubectl("annotate configmap c note-")?;
    let shown = cx.kubectl("get configmaps -l 'tier in (back)' --show-labels --no-headers")?;
    ensure!(shown.contains("tier=back"), "{shown}");
    ensure!(cx.field("configmap c", ".metadata.annotations")?.is_empty());
    Ok(())
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 0
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      containers:
      - {name: one, image: 'i:1'}
      - {name: two, image: 'i:1'}
";

pub fn patches_of_three_types_are_applied(cx: &Context) -> Result<()> {
    cx.apply(DEPLOYMENT)?;
    let images = || cx.field("deployment d", ".spec.template.spec.containers[*].image");
    // Strategic: lists are merged by their key.
    cx.kubectl(r#"patch deployment d -p '{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"i:2"}]}}}}'"#)?;
    ensure!(images()? == "i:1 i:2", "{}", images()?);
    cx.kubectl(r#"patch deployment d -p '{"spec":{"template":{"spec":{"containers":[{"name":"two","$patch":"delete"}]}}}}'"#)?;
    ensure!(images()? == "i:1", "{}", images()?);
    cx.kubectl(r#"patch deployment d --type=json -p '[{"op":"test","path":"/spec/replicas","value":0},{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"three","image":"i:3"}}]'"#)?;
    ensure!(images()? == "i:1 i:3", "{}", images()?);
    // Merge: a list is replaced as a whole, null removes.
    cx.kubectl(r#"patch deployment d --type=merge -p '{"metadata":{"labels":{"x":"y"}},"spec":{"template":{"spec":{"containers":[{"name":"four","image":"i:4"}]}}}}'"#)?;
    ensure!(images()? == "i:4", "{}", images()?);
    cx.kubectl(r#"patch deployment d --type=merge -p '{"metadata":{"labels":null}}'"#)?;
    ensure!(cx.field("deployment d", ".metadata.labels")?.is_empty());
    cx.kubectl(
        r#"patch deployment d --subresource=scale --type=merge -p '{"spec":{"replicas":0}}'"#,
    )?;
    // Its controller may write its status between what kubectl reads and what it patches.
    command::eventually("a patch changes nothing", || {
        let same = cx.kubectl(r#"patch deployment d -p '{"spec":{"replicas":0}}'"#)?;
        ensure!(same.contains("(no change)"), "{same}");
        Ok(())
    })
}

pub fn an_object_is_edited(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap c --from-literal=colour=blue")?;
    let mut edit = cx.command("edit configmap c");
    // No script of our own: what has just been written cannot be run while another check's program, just
    // begun, still has it open.
    edit.env("KUBE_EDITOR", "sed -i s/blue/green/");
    let output = command::run(edit, "")?.ok()?;
    ensure!(output.contains("configmap/c edited"), "{output}");
    ensure!(cx.field("configmap c", ".data.colour")? == "green");
    Ok(())
}

pub fn a_deployment_is_scaled(cx: &Context) -> Result<()> {
    cx.apply(DEPLOYMENT)?;
    let output = cx.kubectl("scale deployment d --replicas=2")?;
    ensure!(output.contains("deployment.apps/d scaled"), "{output}");
    ensure!(cx.field("deployment d", ".spec.replicas")? == "2");
    let output = cx.refused("scale deployment d --current-replicas=5 --replicas=1")?;
    ensure!(
        output.contains("Expected replicas to be 5, was 2"),
        "{output}"
    );
    cx.kubectl("scale deployment d --current-replicas=2 --replicas=0")?;
    let scale = cx.kubectl(&format!(
        "get --raw /apis/apps/v1/namespaces/{}/deployments/d/scale",
        cx.ns
    ))?;
    let scale: serde_json::Value = serde_json::from_str(&scale)?;
    ensure!(
        scale["kind"] == "Scale" && scale["status"]["selector"] == "app=d",
        "{scale:#}"
    );
    Ok(())
}

pub fn differences_are_shown(cx: &Context) -> Result<()> {
    cx.apply(DEPLOYMENT)?;
    let none = cx.run_with("diff -f -", DEPLOYMENT)?;
    ensure!(none.code == 0 && none.out.is_empty(), "{none:?}");
    let some = cx.run_with("diff -f -", &DEPLOYMENT.replace("i:1", "i:9"))?;
    ensure!(some.code == 1, "{some:?}");
    ensure!(
        some.out.contains("-      - image: i:1") && some.out.contains("+      - image: i:9"),
        "{some:?}"
    );
    ensure!(
        cx.field("deployment d", ".spec.template.spec.containers[0].image")? == "i:1",
        "diff wrote"
    );
    Ok(())
}

pub fn a_dry_run_writes_nothing(cx: &Context) -> Result<()> {
    let output = cx
        .run_with("apply --dry-run=server -f -", DEPLOYMENT)?
        .ok()?;
    ensure!(
        output.contains("deployment.apps/d created (server dry run)"),
        "{output}"
    );
    cx.refused("get deployment d")?;
    let refused = cx
        .run_with(
            "apply --dry-run=server -f -",
            &DEPLOYMENT.replace("replicas: 0", "replicas: -1"),
        )?
        .failed()?;
    ensure!(
        refused.contains("spec.replicas: Invalid value: -1"),
        "{refused}"
    );
    cx.kubectl("create configmap c")?;
    cx.kubectl("label configmap c a=b --dry-run=server")?;
    cx.kubectl("delete configmap c --dry-run=server")?;
    let object = cx.json("get configmap c")?;
    ensure!(object["metadata"]["labels"].is_null(), "{object:#}");
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n";
    let ip = cx
        .run_with(
            "apply --dry-run=server -o 'jsonpath={.spec.clusterIP}' -f -",
            service,
        )?
        .ok()?;
    ensure!(
        !ip.is_empty(),
        "a dry run shows the address that it would give"
    );
    cx.refused("get service s").map(drop)
}

pub fn appliers_share_an_object(cx: &Context) -> Result<()> {
    let apply = |manager: &str, force: &str, data: &str| {
        let manifest =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {data}\n");
        cx.run_with(
            &format!("apply --server-side --field-manager={manager} {force} -f -"),
            &manifest,
        )
    };
    let output = apply("one", "", "{a: '1', b: '1'}")?.ok()?;
    ensure!(
        output.contains("configmap/c serverside-applied"),
        "{output}"
    );
    apply("two", "", "{c: '2'}")?.ok()?;
    let output = apply("two", "", "{c: '2', a: '2'}")?.failed()?;
    ensure!(
        output.contains("conflict with \"one\": .data.a"),
        "{output}"
    );
    apply("two", "--force-conflicts", "{c: '2', a: '2'}")?.ok()?;
    // What a manager leaves out, and nobody else has, goes.
    apply("one", "", "{}")?.ok()?;
    let object = cx.json("get configmap c --show-managed-fields")?;
    ensure!(
        object["data"] == serde_json::json!({ "a": "2", "c": "2" }),
        "{object:#}"
    );
    let managers: Vec<&str> = object["metadata"]["managedFields"]
        .as_array()
        .context("no managed fields")?
        .iter()
        .filter_map(|m| m["manager"].as_str())
        .collect();
    ensure!(managers.contains(&"two"), "{managers:?}");
    Ok(())
}

pub fn applied_fields_are_pruned(cx: &Context) -> Result<()> {
    let cm = |name: &str, label: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: s, x: '{label}'}}}}\ndata: {{a: '1'}}\n"
        )
    };
    cx.apply(&format!("{}{}", cm("one", "1"), cm("two", "1")))?;
    // A field that the next manifest leaves out is removed.
    cx.apply(&cm("one", "1").replace("data: {a: '1'}", "data: {b: '1'}"))?;
    let object = cx.json("get configmap one")?;
    ensure!(
        object["data"] == serde_json::json!({ "b": "1" }),
        "{object:#}"
    );
    let output = cx
        .run_with(
            "apply --prune -l set=s --prune-allowlist=core/v1/ConfigMap -f -",
            &cm("one", "2"),
        )?
        .ok()?;
    ensure!(output.contains("configmap/two pruned"), "{output}");
    cx.refused("get configmap two").map(drop)
}

pub fn objects_are_created_by_subcommands(cx: &Context) -> Result<()> {
    for line in [
        "create configmap a --from-literal=x=y",
        "create secret generic a --from-literal=x=y",
        "create deployment a --image=i:1 --replicas=0",
        "expose deployment a --port=80 --target-port=8080",
        "create service nodeport b --tcp=80:8080",
        "create serviceaccount a",
        "create role a --verb=get --resource=pods",
        "create rolebinding a --role=a --serviceaccount=default:a",
        "create quota a --hard=pods=1000",
        "create poddisruptionbudget a --selector=app=a --min-available=1",
        "create job a --image=i:1 --dry-run=server",
        "create cronjob a --image=i:1 --schedule='0 0 1 1 *' --dry-run=server",
        "create ingress a --rule=example.com/*=a:80",
        "set image deployment/a *=i:2",
        "set env deployment/a KEY=value",
        "set resources deployment/a --limits=cpu=1,memory=64Mi",
        "autoscale deployment a --min=1 --max=2 --dry-run=server",
    ] {
        cx.kubectl(line)?;
    }
    let deployment = cx.json("get deployment a")?;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    ensure!(
        container["image"] == "i:2" && container["env"][0]["value"] == "value",
        "{container:#}"
    );
    let port: u16 = cx.field("service b", ".spec.ports[0].nodePort")?.parse()?;
    ensure!((30_000..=32_767).contains(&port), "{port}");
    Ok(())
}

pub fn objects_are_replaced(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap c --from-literal=a=1")?;
    let mut object = cx.json("get configmap c")?;
    object["data"] = serde_json::json!({ "b": "2" });
    cx.run_with("replace -f -", &object.to_string())?.ok()?;
    let output = cx.run_with("replace -f -", &object.to_string())?.failed()?;
    ensure!(output.contains("the object has been modified"), "{output}");
    let uid = cx.field("configmap c", ".metadata.uid")?;
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    cx.run_with("replace --force -f -", manifest)?.ok()?;
    ensure!(
        cx.field("configmap c", ".metadata.uid")? != uid,
        "the same object"
    );
    Ok(())
}

pub fn deletion_is_waited_for(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap c")?;
    let mut waiting = cx.start("wait configmap/c --for=delete --timeout=280s")?;
    cx.kubectl("delete configmap c")?;
    ensure!(waiting.end()? == 0, "{}", waiting.text());
    cx.kubectl("create configmap d --from-literal=a=1")?;
    cx.wait("configmap/d", "jsonpath={.data.a}=1")?;
    // Long enough to be read once.
    let output = cx.refused("wait configmap/d --for=jsonpath={.data.a}=2 --timeout=5s")?;
    ensure!(
        output.contains("timed out waiting for the condition"),
        "{output}"
    );
    Ok(())
}

pub fn many_are_deleted_by_selector(cx: &Context) -> Result<()> {
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        cx.kubectl(&format!("create configmap {name}"))?;
        cx.kubectl(&format!("label configmap {name} set={label}"))?;
    }
    cx.kubectl("delete configmaps -l set=x")?;
    ensure!(cx.names("configmaps", "set")? == ["c"]);
    cx.kubectl("delete configmap --all")?;
    ensure!(cx.names("configmaps", "set")?.is_empty());
    Ok(())
}

pub fn finalizers_hold_a_deletion(cx: &Context) -> Result<()> {
    cx.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, finalizers: [example.com/hold]}\n",
    )?;
    cx.kubectl("delete configmap c --wait=false")?;
    ensure!(
        !cx.field("configmap c", ".metadata.deletionTimestamp")?
            .is_empty()
    );
    cx.kubectl(r#"patch configmap c --type=merge -p '{"metadata":{"finalizers":null}}'"#)?;
    cx.wait("configmap/c", "delete")
}

pub fn a_custom_warning_is_shown(cx: &Context) -> Result<()> {
    // No controller of this cluster acts on them yet.
    let manifest = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec: {defaultBackend: {service: {name: web, port: {number: 80}}}}\n";
    let ran = cx.run_with("apply -f -", manifest)?;
    ensure!(ran.err.contains("Warning:"), "{ran:?}");
    ran.ok()?;
    let shown = cx.kubectl("get ingress web")?;
    ensure!(shown.contains("80"), "{shown}");
    Ok(())
}

const TEMPLATE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: '{{ .Release.Name }}-settings'}
data: {colour: '{{ .Values.colour }}'}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: '{{ .Release.Name }}'}
spec:
  replicas: 0
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec:
      containers:
      - {name: c, image: 'i:1'}
";

pub fn helm_installs_and_removes_a_chart(cx: &Context) -> Result<()> {
    let chart = cx.cluster.scratch()?.join("chart");
    std::fs::create_dir_all(chart.join("templates"))?;
    std::fs::write(
        chart.join("Chart.yaml"),
        "apiVersion: v2\nname: small\nversion: 1.0.0\n",
    )?;
    std::fs::write(chart.join("values.yaml"), "colour: blue\n")?;
    std::fs::write(chart.join("templates/all.yaml"), TEMPLATE)?;
    let helm = |words: &[&str]| {
        let mut helm = std::process::Command::new("helm");
        helm.args(words)
            .args(["--namespace", &cx.ns])
            .env("KUBECONFIG", cx.cluster.kubeconfig());
        helm.env("HOME", cx.cluster.data().with_file_name("home"));
        command::run(helm, "")?.ok()
    };
    let path = chart.display().to_string();
    helm(&["install", "release", &path])?;
    ensure!(cx.field("configmap release-settings", ".data.colour")? == "blue");
    helm(&["upgrade", "release", &path, "--set", "colour=red"])?;
    ensure!(cx.field("configmap release-settings", ".data.colour")? == "red");
    helm(&["rollback", "release", "1"])?;
    ensure!(cx.field("configmap release-settings", ".data.colour")? == "blue");
    let list = helm(&["list"])?;
    ensure!(list.contains("deployed"), "{list}");
    helm(&["uninstall", "release"])?;
    cx.refused("get configmap release-settings")?;
    cx.refused("get deployment release").map(drop)
}
