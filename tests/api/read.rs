//! Objects are read: forms, lists, watches, documents.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

pub fn objects_are_shown_in_every_form(cx: &Context) -> Result<()> {
    cx.apply(SERVICE)?;
    let table = cx.kubectl("get services")?;
    let words: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure!(
        words
            == [
                "NAME",
                "TYPE",
                "CLUSTER-IP",
                "EXTERNAL-IP",
                "PORT(S)",
                "AGE"
            ],
        "{table}"
    );
    ensure!(
        table.contains("ClusterIP") && table.contains("80/TCP") && table.contains("<none>"),
        "{table}"
    );
    let wide = cx.kubectl("get services -o wide")?;
    ensure!(
        wide.contains("SELECTOR") && wide.contains("app=web"),
        "{wide}"
    );
    let yaml = cx.kubectl("get service web -o yaml")?;
    ensure!(
        yaml.starts_with("apiVersion: v1\nkind: Service\nmetadata:\n"),
        "{yaml}"
    );
    ensure!(!yaml.contains("managedFields"), "{yaml}");
    let list = cx.json("get services")?;
    ensure!(
        list["kind"] == "List" && list["items"][0]["kind"] == "Service",
        "{list:#}"
    );
    ensure!(cx.kubectl("get service web -o name")?.trim() == "service/web");
    let columns = cx.kubectl(
        "get services -o custom-columns=N:.metadata.name,P:.spec.ports[0].port --no-headers",
    )?;
    ensure!(columns.split_whitespace().eq(["web", "80"]), "{columns}");
    let template = cx.kubectl("get service web -o 'go-template={{.spec.type}}'")?;
    ensure!(template == "ClusterIP", "{template}");
    let both = cx.kubectl("get services,configmaps")?;
    ensure!(both.contains("service/web"), "{both}");
    let all = cx.kubectl("get all --all-namespaces")?;
    ensure!(all.contains("service/kubernetes"), "{all}");
    Ok(())
}

pub fn a_watch_shows_changes(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap first")?;
    let watch = cx.start("get configmaps -w --output-watch-events -l '!x' --field-selector metadata.name!=kube-root-ca.crt")?;
    watch.line(|l| l.contains("ADDED") && l.contains("first"))?;
    cx.kubectl("create configmap second --from-literal=a=1")?;
    watch.line(|l| l.contains("ADDED") && l.contains("second"))?;
    cx.kubectl(r#"patch configmap second -p '{"data":{"b":"2"}}'"#)?;
    watch.line(|l| l.contains("MODIFIED") && l.contains("second") && l.contains(" 2 "))?;
    // What leaves the selection is gone for this watch.
    cx.kubectl("label configmap second x=y")?;
    watch.line(|l| l.contains("DELETED") && l.contains("second"))?;
    cx.kubectl("delete configmap first")?;
    watch.line(|l| l.contains("DELETED") && l.contains("first"))?;
    Ok(())
}

pub fn lists_are_selected_sorted_and_paged(cx: &Context) -> Result<()> {
    let items: Vec<Value> = (0..7)
        .map(|i| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("s{i}"), "labels": { "odd": (i % 2 == 1).to_string() } }, "type": if i == 3 { "example.com/t" } else { "Opaque" }, "stringData": { "n": i.to_string() } }))
        .collect();
    cx.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
    let names = |line: &str| -> Result<Vec<String>> {
        let out = cx.kubectl(&format!("get secrets {line} -o name"))?;
        Ok(out
            .lines()
            .map(|l| l.trim_start_matches("secret/").to_owned())
            .collect())
    };
    ensure!(names("-l odd=true")? == ["s1", "s3", "s5"]);
    ensure!(names("-l 'odd!=true'")?.len() == 4);
    ensure!(names("-l 'odd in (true,maybe),odd notin (false)'")?.len() == 3);
    ensure!(names("--field-selector type=example.com/t")? == ["s3"]);
    ensure!(names("--field-selector metadata.name=s4")? == ["s4"]);
    ensure!(names("--chunk-size=2")?.len() == 7);
    let sorted = names("--sort-by=.data.n")?;
    ensure!(sorted.first().is_some_and(|n| n == "s0"), "{sorted:?}");
    // Page by page: one revision, and the rest is counted.
    let path = format!("/api/v1/namespaces/{}/secrets?limit=3", cx.ns);
    let (_, first) = cx.api(Method::GET, &path, &Value::Null)?;
    ensure!(
        first["metadata"]["remainingItemCount"] == 4,
        "{}",
        first["metadata"]
    );
    let token = first["metadata"]["continue"]
        .as_str()
        .context("no continue token")?
        .to_owned();
    cx.kubectl("delete secret s6")?;
    let (_, second) = cx.api(
        Method::GET,
        &format!("{path}0&continue={token}"),
        &Value::Null,
    )?;
    let rest = second["items"].as_array().context("no items")?;
    ensure!(
        rest.len() == 4,
        "the page shows the first page's revision: {second:#}"
    );
    ensure!(first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]);
    Ok(())
}

pub fn kinds_are_explained(cx: &Context) -> Result<()> {
    let text = cx.kubectl("explain deployment.spec.template.spec.containers.image")?;
    ensure!(
        text.contains("GROUP:") && text.contains("apps") && text.contains("FIELD: image"),
        "{text}"
    );
    let pod = cx.kubectl("explain pods --recursive")?;
    ensure!(pod.contains("terminationGracePeriodSeconds"), "{pod}");
    let output = cx.refused("explain pods.spec.none")?;
    ensure!(output.contains("field \"none\" does not exist"), "{output}");
    // By the protobuf form of OpenAPI v2, which kubectl reads whole.
    let older = "explain deployment.spec.replicas --output=plaintext-openapiv2";
    let older = cx.kubectl(older)?;
    ensure!(
        older.contains("apps/v1") && older.contains("<integer>"),
        "{older}"
    );
    cx.kubectl("explain hpa --api-version=autoscaling/v1")
        .map(drop)
}

pub fn resources_are_listed(cx: &Context) -> Result<()> {
    let list = cx.kubectl("api-resources --no-headers")?;
    for wanted in [
        "pods",
        "deployments",
        "endpointslices",
        "customresourcedefinitions",
        "validatingadmissionpolicies",
        "leases",
    ] {
        ensure!(
            list.lines().any(|l| l.starts_with(wanted)),
            "no {wanted}: {list}"
        );
    }
    let wide = cx.kubectl("api-resources -o wide --api-group=apps")?;
    ensure!(
        wide.contains("deletecollection") && wide.contains("deploy"),
        "{wide}"
    );
    let cluster = cx.kubectl("api-resources --namespaced=false -o name")?;
    ensure!(
        cluster.contains("namespaces") && !cluster.contains("configmaps"),
        "{cluster}"
    );
    let versions = cx.kubectl("api-versions")?;
    ensure!(
        versions.contains("apps/v1\n") && versions.contains("autoscaling/v2\n"),
        "{versions}"
    );
    Ok(())
}

pub fn objects_are_described(cx: &Context) -> Result<()> {
    cx.apply(SERVICE)?;
    cx.kubectl("create configmap c --from-literal=colour=blue")?;
    cx.kubectl("create secret generic s --from-literal=word=open")?;
    cx.kubectl("create deployment d --image=i:1 --replicas=0")?;
    cx.kubectl("create quota q --hard=pods=5")?;
    let text =
        cx.kubectl("describe services,configmaps,secrets,deployments,quota,serviceaccounts")?;
    for wanted in ["colour", "blue", "4 bytes", "app=web", "Pod Template"] {
        ensure!(text.contains(wanted), "no {wanted:?}: {text}");
    }
    ensure!(!text.contains("open"), "a secret is shown: {text}");
    let text = cx.kubectl(&format!("describe namespace {}", cx.ns))?;
    ensure!(text.contains("Active"), "{text}");
    cx.kubectl("cluster-info").map(drop)
}

pub fn health_version_and_metrics_are_served(cx: &Context) -> Result<()> {
    ensure!(cx.kubectl("get --raw /healthz")? == "ok");
    let ready = cx.kubectl("get --raw '/readyz?verbose'")?;
    ensure!(
        ready.contains("[+]") && ready.contains("readyz check passed"),
        "{ready}"
    );
    let version: Value = serde_json::from_str(&cx.kubectl("get --raw /version")?)?;
    ensure!(
        version["major"] == "1" && version["minor"] == "36",
        "{version:#}"
    );
    let server = cx.kubectl("version")?;
    ensure!(server.contains("Server Version: v1.36"), "{server}");
    let metrics = cx.kubectl("get --raw /metrics")?;
    ensure!(
        metrics.contains("apiserver_request_total"),
        "no metric of requests"
    );
    let size = metrics.lines().find_map(|l| {
        l.strip_prefix("apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"} ")
    });
    ensure!(
        size.is_some_and(|bytes| bytes.parse::<f64>().is_ok_and(|bytes| bytes > 0.0)),
        "{size:?} is the size of the store"
    );
    let v3: Value = serde_json::from_str(&cx.kubectl("get --raw /openapi/v3")?)?;
    ensure!(
        v3["paths"]["apis/apps/v1"]["serverRelativeURL"].is_string(),
        "{v3:#}"
    );
    let v2: Value = serde_json::from_str(&cx.kubectl("get --raw /openapi/v2")?)?;
    ensure!(v2["swagger"] == "2.0", "no OpenAPI v2");
    Ok(())
}

/// The events of a watch that ends by itself.
fn events(cx: &Context, query: &str) -> Result<Vec<Value>> {
    let path = format!(
        "/api/v1/namespaces/{}/configmaps?watch=1&timeoutSeconds=1&{query}",
        cx.ns
    );
    let text = cx.kubectl(&format!("get --raw {path}"))?;
    text.lines()
        .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
        .collect()
}

pub fn a_watch_goes_on_where_it_stopped(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap a")?;
    let from = cx.json("get configmap a")?["metadata"]["resourceVersion"]
        .as_str()
        .context("no revision")?
        .to_owned();
    for i in 0..5 {
        cx.kubectl(&format!("label configmap a n={i} --overwrite"))?;
    }
    cx.kubectl("delete configmap a")?;
    let query = format!("resourceVersion={from}&fieldSelector=metadata.name%3Da");
    // A watch of a second may end before it has sent them all.
    let seen = eventually("all is seen again", || {
        let seen = events(cx, &query)?;
        ensure!(seen.len() >= 6, "{seen:?}");
        Ok(seen)
    })?;
    let kinds: Vec<&str> = seen.iter().filter_map(|e| e["type"].as_str()).collect();
    ensure!(
        kinds
            == [
                "MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"
            ],
        "{kinds:?}"
    );
    let labels: Vec<&str> = seen
        .iter()
        .filter_map(|e| e["object"]["metadata"]["labels"]["n"].as_str())
        .collect();
    ensure!(labels == ["0", "1", "2", "3", "4", "4"], "{labels:?}");
    Ok(())
}
