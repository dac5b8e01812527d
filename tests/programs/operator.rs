//! An operator by kube-rs, run twice beside each other, and killed.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};
use tests::command::{self, Running, eventually};
use tests::operator::kinds::{GROUP, definition};
use tests::{Context, DEMO};

use crate::hooks::{Hooks, LABEL};

const REGISTRATION: &str = "admissionregistration.k8s.io/v1";

/// Starts the operator under a name.
fn operator(cx: &Context, identity: &str) -> Result<Running> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
    command
        .args([&cx.ns, identity, DEMO])
        .env("KUBECONFIG", cx.cluster.kubeconfig());
    Running::start(command)
}

/// Makes the kind, by kube's own way of waiting for it, and its webhooks of admission.
fn install(cx: &Context, hooks: &Hooks) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(cx.cluster.client()?);
    let name = format!("sites.{GROUP}");
    let made = definition(&format!("{}/convert", hooks.url), &hooks.bundle)?;
    cx.cluster.block_on(async {
        let apply = PatchParams::apply("programs").force();
        api.patch(&name, &apply, &Patch::Apply(&made)).await?;
        let established = await_condition(api, &name, conditions::is_crd_established());
        tokio::time::timeout(command::GUARD, established).await??;
        anyhow::Ok(())
    })?;
    let hook = |path: &str| {
        json!({ "name": format!("{path}.{GROUP}"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "clientConfig": { "url": format!("{}/{path}", hooks.url), "caBundle": hooks.bundle },
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": cx.ns } },
            "rules": [{ "apiGroups": [GROUP], "apiVersions": ["v1"], "resources": ["sites"],
                "operations": ["CREATE", "UPDATE"], "scope": "Namespaced" }] })
    };
    for (kind, path) in [("Mutating", "mutate"), ("Validating", "validate")] {
        cx.apply_json(&json!({ "apiVersion": REGISTRATION,
            "kind": format!("{kind}WebhookConfiguration"),
            "metadata": { "name": "programs" }, "webhooks": [hook(path)] }))?;
    }
    Ok(())
}

fn site(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "Site",
        "metadata": { "name": name }, "spec": spec })
}

pub fn sites_are_kept_in_order_whoever_leads(cx: &Context) -> Result<()> {
    let hooks = cx.cluster.block_on(Hooks::start())?;
    install(cx, &hooks)?;
    let first = operator(cx, "first")?;
    first.line(|l| l == "first leads")?;
    let second = operator(cx, "second")?;
    second.line(|l| l == "second waits")?;

    both_versions_are_served(cx, &hooks)?;
    bad_ones_are_refused(cx, &hooks)?;
    what_is_owned_comes_back(cx)?;

    // Killed, not ended: its lease has to run out.
    drop(first);
    second.line(|l| l == "second leads")?;
    cx.kubectl("scale site/old --replicas=2")?;
    cx.wait("site/old", "jsonpath={.status.ready}=2")?;
    many_are_brought_in_order(cx)?;

    // What is in order is not written again by who looks at it again.
    let before = cx.field("site old", ".metadata.resourceVersion")?;
    drop(second);
    let third = operator(cx, "first")?;
    third.line(|l| l.contains("leads"))?;
    third.line(|l| l == "in order: old")?;
    ensure!(cx.field("site old", ".metadata.resourceVersion")? == before);

    all_is_cleaned_up(cx)?;
    cx.kubectl(&format!("delete crd sites.{GROUP}"))?;
    cx.kubectl("delete mutatingwebhookconfiguration,validatingwebhookconfiguration programs")?;
    // What kubectl remembers of discovery may still name it.
    let line = format!("get --raw /apis/{GROUP}/v1/sites");
    eventually("the kind is gone", || cx.refused(&line)).map(drop)
}

/// An object of the old version is stored as the new one, and read as both.
fn both_versions_are_served(cx: &Context, hooks: &Hooks) -> Result<()> {
    cx.apply_json(
        &json!({ "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Site",
        "metadata": { "name": "old" }, "spec": { "name": "Old", "text": "welcome", "servers": 1 } }),
    )?;
    cx.wait("site/old", "condition=Ready")?;
    let new = cx.json("get sites.v1.programs.example.com old")?;
    ensure!(
        new["spec"]
            == json!({ "title": "Old", "pages": { "index": "welcome" }, "replicas": 1,
            "tier": "Paid" }),
        "{new:#}"
    );
    ensure!(new["metadata"]["labels"][LABEL] == "yes", "{new:#}");
    let old = cx.json("get sites.v1alpha1.programs.example.com old")?;
    ensure!(
        old["spec"] == json!({ "name": "Old", "text": "welcome", "servers": 1 }),
        "{old:#}"
    );
    ensure!(hooks.calls("/convert") > 0 && hooks.calls("/mutate") > 0);
    let shown = cx.kubectl("get st --field-selector spec.title=Old")?;
    ensure!(shown.contains("TITLE") && shown.contains("Old"), "{shown}");
    let none = cx.kubectl("get programs --field-selector spec.title=New -o name")?;
    ensure!(none.is_empty(), "{none}");
    let text = cx.kubectl("explain site.spec.domains.aliases")?;
    ensure!(text.contains("FIELD: aliases"), "{text}");
    cx.wait_event("Shown", "1 servers show Old").map(drop)
}

fn bad_ones_are_refused(cx: &Context, hooks: &Hooks) -> Result<()> {
    let apply = |spec: Value| cx.run_with("apply -f -", &site("bad", &spec).to_string());
    let said = apply(json!({ "title": "casino" }))?.failed()?;
    ensure!(
        said.contains(r#"admission webhook "validate.programs.example.com" denied the request: no casino here"#),
        "{said}"
    );
    let said = apply(json!({ "title": "x", "replicas": 3, "tier": "Free" }))?.failed()?;
    ensure!(
        said.contains("failed rule: self.spec.tier != 'Free'"),
        "{said}"
    );
    let said = apply(json!({ "title": "x", "replicas": 11 }))?.failed()?;
    ensure!(
        said.contains("spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10"),
        "{said}"
    );
    let said = apply(json!({ "title": "x", "tier": "Gold" }))?.failed()?;
    ensure!(
        said.contains(r#"spec.tier: Unsupported value: "Gold": supported values: "Free", "Paid""#),
        "{said}"
    );
    let warned = cx.run_with(
        "apply --dry-run=server -f -",
        &site("big", &json!({ "title": "Big", "replicas": 6 })).to_string(),
    )?;
    ensure!(warned.code == 0, "{warned:?}");
    ensure!(
        warned.err.contains("Warning: that is many servers"),
        "{warned:?}"
    );
    ensure!(hooks.calls("/validate") > 0);
    cx.refused("get site big")?;
    // An owner is set once.
    let owned = |owner: &str| {
        site(
            "owned",
            &json!({ "title": "x", "replicas": 0, "owner": owner }),
        )
    };
    cx.apply_json(&owned("me"))?;
    let said = cx
        .run_with("apply -f -", &owned("you").to_string())?
        .failed()?;
    ensure!(said.contains("failed rule: self == oldSelf"), "{said}");
    Ok(())
}

/// Owned objects that somebody changes or removes are as they were, and others' fields stay.
fn what_is_owned_comes_back(cx: &Context) -> Result<()> {
    let first = cx.field("deployment old", ".metadata.uid")?;
    cx.kubectl("delete deployment old")?;
    eventually("the Deployment is made again", || {
        let uid = cx.field("deployment old", ".metadata.uid")?;
        ensure!(!uid.is_empty() && uid != first, "{uid}");
        Ok(())
    })?;
    cx.kubectl("label configmap old mine=yes")?;
    cx.kubectl(r#"patch configmap old -p '{"data":{"index":"spoilt"}}'"#)?;
    cx.wait("configmap/old", "jsonpath={.data.index}=welcome")?;
    ensure!(cx.field("configmap old", ".metadata.labels.mine")? == "yes");
    // A page that is taken out of the site goes from the map.
    cx.kubectl(r#"patch site old --type=merge -p '{"spec":{"pages":{"more":"text"}}}'"#)?;
    cx.wait("configmap/old", "jsonpath={.data.more}=text")?;
    cx.kubectl(r#"patch site old --type=merge -p '{"spec":{"pages":{"more":null}}}'"#)?;
    eventually("the page has gone from the map", || {
        let more = cx.field("configmap old", ".data.more")?;
        ensure!(more.is_empty(), "{more}");
        Ok(())
    })?;
    cx.wait("site/old", "condition=Ready")
}

fn many_are_brought_in_order(cx: &Context) -> Result<()> {
    let items: Vec<Value> = (0..20)
        .map(|n| {
            let mut made = site(
                &format!("many-{n}"),
                &json!({ "title": "Many", "replicas": 0 }),
            );
            made["metadata"]["labels"] = json!({ "many": "yes" });
            made
        })
        .collect();
    cx.apply_json(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
    cx.wait("site -l many=yes", "condition=Ready")?;
    let maps = cx.kubectl("get configmaps -o name")?;
    ensure!(maps.matches("/many-").count() == 20, "{maps}");
    Ok(())
}

/// Sites go when their notes are left, and what they own goes with them.
fn all_is_cleaned_up(cx: &Context) -> Result<()> {
    cx.kubectl("delete sites --all")?;
    ensure!(cx.field("configmap farewell-old", ".data.title")? == "Old");
    let notes = cx.kubectl("get configmaps -o name")?;
    ensure!(notes.matches("/farewell-").count() == 22, "{notes}");
    eventually("what the sites owned is gone", || {
        let left = cx.kubectl("get deployments -o name")?;
        let left = left + &cx.kubectl("get configmaps -l site -o name")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    let lease = cx.json("get lease site-operator")?;
    let changes = lease["spec"]["leaseTransitions"].as_i64().context("none")?;
    ensure!(changes >= 3, "{lease:#}");
    Ok(())
}
