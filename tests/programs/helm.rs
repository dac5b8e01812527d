//! Helm with a chart of more than thirty kinds and all kinds of hooks: what it sends, waits for and
//! compares in the life of a release.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Context;
use tests::command::{self, Ran};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/chart");
/// A guard, no measure.
const TIMEOUT: &str = "--timeout=280s";

fn run(cx: &Context, words: &[&str]) -> Result<Ran> {
    let mut helm = Command::new("helm");
    helm.args(words)
        .args(["--namespace", &cx.ns])
        .env("KUBECONFIG", cx.cluster.kubeconfig())
        .env("HOME", cx.cluster.scratch()?);
    command::run(helm, "")
}

fn helm(cx: &Context, words: &[&str]) -> Result<String> {
    run(cx, words)?.ok()
}

/// The manifest within what a dry run prints.
fn printed_manifest(text: &str) -> Result<&str> {
    let (_, rest) = text.split_once("MANIFEST:\n").context("no manifest")?;
    Ok(rest.split("\nNOTES:").next().unwrap_or(rest).trim())
}

pub fn a_chart_of_thirty_kinds_lives_through_its_life(cx: &Context) -> Result<()> {
    a_dry_run_writes_nothing(cx)?;
    helm(cx, &["install", "thirty", CHART, "--wait", TIMEOUT])?;
    all_kinds_are_there(cx)?;
    let said = helm(cx, &["test", "thirty", "--logs", TIMEOUT])?;
    ensure!(said.contains("Succeeded"), "{said}");
    let hook = cx.logs("job/thirty-pre-install")?;
    ensure!(hook.trim() == "pre-install of revision 1", "{hook}");

    an_upgrade_does_what_its_dry_run_says(cx)?;
    conflicts_are_named_and_forced(cx)?;

    helm(
        cx,
        &[
            "rollback",
            "thirty",
            "1",
            "--wait",
            "--force-conflicts",
            TIMEOUT,
        ],
    )?;
    ensure!(cx.field("configmap thirty", ".data.colour")? == "blue");
    ensure!(cx.field("parcel thirty", ".spec.colour")? == "blue");
    cx.kubectl("get configmap thirty-extra")?;
    let hook = cx.logs("job/thirty-post-rollback")?;
    // Hooks are rendered when their revision is made: here the first.
    ensure!(hook.trim() == "post-rollback of revision 1", "{hook}");
    let history: Value = serde_json::from_str(&helm(cx, &["history", "thirty", "-o", "json"])?)?;
    let states: Vec<&str> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["status"].as_str())
        .collect();
    ensure!(
        states
            == [
                "superseded",
                "superseded",
                "failed",
                "superseded",
                "deployed"
            ],
        "{states:?}"
    );

    helm(cx, &["uninstall", "thirty", "--wait", TIMEOUT])?;
    all_is_gone(cx)
}

fn a_dry_run_writes_nothing(cx: &Context) -> Result<()> {
    let uid = cx.field(&format!("namespace {}", cx.ns), ".metadata.uid")?;
    let dry = |how: &str| {
        let words = ["install", "thirty", CHART, how, "--set=parcel=false"];
        helm(cx, &words)
    };
    let asked = dry("--dry-run=server")?;
    ensure!(asked.contains(&uid), "the server was not asked: {asked}");
    ensure!(!dry("--dry-run=client")?.contains(&uid));
    ensure!(helm(cx, &["list", "-q"])?.is_empty());
    cx.refused("get configmap thirty")?;
    cx.refused("get crd parcels.helm.example.com").map(drop)
}

fn all_kinds_are_there(cx: &Context) -> Result<()> {
    let manifest = helm(cx, &["get", "manifest", "thirty"])?;
    let found = cx.run_with("get -f - -o json", &manifest)?.ok()?;
    let found: Value = serde_json::from_str(&found)?;
    let items = found["items"].as_array().context("no items")?;
    let kinds: BTreeSet<_> = items.iter().filter_map(|i| i["kind"].as_str()).collect();
    ensure!(kinds.len() >= 30, "{} kinds: {kinds:?}", kinds.len());
    for item in items {
        let by_helm = |m: &Value| m["manager"] == "helm" && m["operation"] == "Apply";
        let managers = item["metadata"]["managedFields"].as_array();
        // kubectl leaves them out; the API has them.
        ensure!(
            managers.is_none_or(|all| all.iter().any(by_helm)),
            "{item:#}"
        );
    }
    let map = cx.kubectl("get configmap thirty -o json --show-managed-fields")?;
    let map: Value = serde_json::from_str(&map)?;
    ensure!(
        map["metadata"]["managedFields"][0]["manager"] == "helm"
            && map["metadata"]["managedFields"][0]["operation"] == "Apply",
        "{map:#}"
    );
    ensure!(cx.field("parcel thirty", ".spec.stamps")? == "1");
    ensure!(cx.field("deployment thirty", ".status.readyReplicas")? == "1");
    ensure!(cx.field("pvc thirty", ".status.phase")? == "Bound");
    // The chart's own policy judges what comes.
    let said = cx.refused(r#"patch parcel thirty --type=merge -p '{"spec":{"colour":"grey"}}'"#)?;
    ensure!(said.contains("nothing is grey here"), "{said}");
    Ok(())
}

fn an_upgrade_does_what_its_dry_run_says(cx: &Context) -> Result<()> {
    let changes = ["--set", "colour=red,extra=false"];
    let upgrade = |more: &[&str]| {
        let words = ["upgrade", "thirty", CHART]
            .iter()
            .chain(&changes)
            .chain(more);
        helm(cx, &words.copied().collect::<Vec<_>>())
    };
    let expected = upgrade(&["--dry-run=server"])?;
    ensure!(cx.field("configmap thirty", ".data.colour")? == "blue");
    upgrade(&["--wait", TIMEOUT])?;
    let manifest = helm(cx, &["get", "manifest", "thirty"])?;
    ensure!(
        printed_manifest(&expected)? == manifest.trim(),
        "{expected}\n---\n{manifest}"
    );
    ensure!(cx.field("configmap thirty", ".data.colour")? == "red");
    cx.refused("get configmap thirty-extra")?;
    for hook in ["pre-upgrade", "post-upgrade"] {
        let said = cx.logs(&format!("job/thirty-{hook}"))?;
        ensure!(said.trim() == format!("{hook} of revision 2"), "{said}");
    }
    // What nothing changed was not written.
    ensure!(
        cx.field("service thirty", ".metadata.managedFields[*].time")?
            .split(' ')
            .count()
            == 1
    );
    let of_pod = cx.field(
        "pods -l run=thirty-web",
        ".items[*].metadata.annotations.colour",
    )?;
    ensure!(of_pod.split(' ').any(|c| c == "red"), "{of_pod}");
    Ok(())
}

/// A field that somebody else has set since is not overwritten in silence.
fn conflicts_are_named_and_forced(cx: &Context) -> Result<()> {
    cx.kubectl("scale deployment thirty --replicas=0")?;
    let upgrade = [
        "upgrade",
        "thirty",
        CHART,
        "--set",
        "replicas=2,colour=green",
    ];
    let said = run(cx, &upgrade)?.failed()?;
    ensure!(
        said.contains("conflict") && said.contains("kubectl") && said.contains(".spec.replicas"),
        "{said}"
    );
    let forced: Vec<_> = upgrade
        .iter()
        .copied()
        .chain(["--force-conflicts", "--wait", TIMEOUT])
        .collect();
    helm(cx, &forced)?;
    ensure!(cx.field("deployment thirty", ".status.readyReplicas")? == "2");
    Ok(())
}

fn all_is_gone(cx: &Context) -> Result<()> {
    cx.refused("get deployment thirty")?;
    cx.refused("get configmap thirty")?;
    for kind in [
        "clusterrole",
        "priorityclass",
        "ingressclass",
        "persistentvolume",
    ] {
        cx.refused(&format!("get {kind} thirty-of-{}", cx.ns))?;
    }
    // Kept as its annotation says; made at the end; and definitions are nobody's to remove.
    cx.kubectl("get configmap thirty-kept")?;
    ensure!(cx.field("configmap thirty-post-delete", ".data.colour")? == "blue");
    ensure!(helm(cx, &["list", "-q"])?.is_empty());
    let secrets = cx.kubectl("get secrets -o name")?;
    ensure!(!secrets.contains("sh.helm.release"), "{secrets}");
    cx.kubectl("delete crd parcels.helm.example.com").map(drop)
}
