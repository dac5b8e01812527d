//! What a person does with the console: looks, scales, follows, types, and finds out why.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::command::eventually;
use tests::context::web;
use tests::{BUSYBOX, Context};

use crate::browser::Browser;
use crate::page::{go, quiet, signed_in};

pub fn a_person_sees_scales_and_repairs(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 2))?;
    cx.apply_json(&talker())?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_ready("talker")?;
    let mut page = signed_in(cx)?;
    page.until(
        "the token is gone from the address",
        "!location.href.includes('token')",
    )?;
    page.until_shown("Nothing is wrong")?;
    page.picture("overview")?;
    scaled_and_rolled(cx, &mut page)?;
    logs_and_terminal(cx, &mut page)?;
    broken_and_why(cx, &mut page)?;
    go(&mut page, "")?;
    page.until(
        "CPU, memory, network and pods are drawn",
        "document.querySelectorAll('.plot canvas').length === 4",
    )?;
    page.picture("used")?;
    go(&mut page, "nodes/node-1")?;
    page.until(
        "CPU, memory and network of the node are drawn",
        "document.querySelectorAll('.plot canvas').length === 3",
    )?;
    quiet(&mut page)
}

/// A pod that writes a line a second, and has a shell.
pub fn talker() -> Value {
    let line = "i=0; while true; do i=$((i+1)); echo line $i; sleep 1; done";
    tests::context::pod("talker", line)
}

fn scaled_and_rolled(cx: &Context, page: &mut Browser) -> Result<()> {
    go(page, "workloads")?;
    page.until_shown("web")?;
    go(page, &format!("workloads/deployments/{}/web", cx.ns))?;
    page.until_shown("All 2 pods are available.")?;
    page.click("Scale…")?;
    page.fill("dialog input[type=number]", "3")?;
    page.click("Scale")?;
    page.until_shown("All 3 pods are available.")?;
    let replicas = cx.field("deployment/web", ".spec.replicas")?;
    ensure!(replicas == "3", "{replicas}");
    // A rollout that another makes is seen as it goes.
    cx.kubectl("set env deployment/web COLOUR=blue")?;
    page.until_shown("Revision 2")?;
    page.until(
        "the rollout is through",
        "document.body.innerText.includes('All 3 pods are available.') \
         && !document.body.innerText.includes('Revision 1, old')",
    )?;
    page.picture("rollout")?;
    page.click("Undo…")?;
    page.click("Go back to 1")?;
    page.until_shown("Revision 3")?;
    eventually("the environment is the old one", || {
        let env = cx.field("deployment/web", ".spec.template.spec.containers[0].env")?;
        ensure!(env.is_empty(), "{env}");
        Ok(())
    })
}

fn logs_and_terminal(cx: &Context, page: &mut Browser) -> Result<()> {
    go(page, &format!("pods/{}/talker", cx.ns))?;
    page.until_shown("Containers")?;
    page.picture("pod")?;
    page.click("Logs")?;
    let count = "document.querySelectorAll('.log-lines > div').length";
    page.until("lines of the log are shown", &format!("{count} > 1"))?;
    let seen = page.value(count)?.as_u64().unwrap_or_default();
    page.until("more lines come", &format!("{count} > {seen}"))?;
    page.picture("logs")?;
    page.click("Terminal")?;
    let text = "document.querySelector('.shell')?.innerText ?? ''";
    page.until(
        "the shell asks for a command",
        &format!("/[#$] /.test({text})"),
    )?;
    page.value("document.querySelector('.shell textarea').focus()")?;
    // Key by key, as a person: a terminal takes what is put in at once for its own echo.
    for key in "echo answer $((40 + 2))".chars() {
        page.press(&key.to_string())?;
    }
    page.press("Enter")?;
    page.until("the shell answers", &format!("/answer\\s42/.test({text})"))?;
    page.picture("terminal")
}

fn broken_and_why(cx: &Context, page: &mut Browser) -> Result<()> {
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "broken" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": BUSYBOX,
            "command": ["sh", "-c", "echo no config at /etc/app; exit 3"],
        }] },
    }))?;
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "huge" },
        "spec": { "containers": [{ "name": "main", "image": BUSYBOX,
            "resources": { "requests": { "cpu": "4000" } } }] },
    }))?;
    go(page, "")?;
    page.until_shown("keeps ending with exit code 3")?;
    page.until_shown("Insufficient cpu")?;
    page.picture("trouble")?;
    go(page, &format!("pods/{}/broken", cx.ns))?;
    page.until_shown("Container main keeps ending: exit code 3")?;
    page.until_shown("no config at /etc/app")?;
    // The server's own answer stands beside what the page sees.
    page.until_shown("It is on node")?;
    page.picture("why")?;
    go(page, &format!("pods/{}/huge", cx.ns))?;
    page.until_shown("The smallest change that would help")?;
    page.until_shown("Would take it with")?;
    page.picture("why-pending")?;
    owner_and_claim_say_why(cx, page)
}

/// What owns broken pods says why, and so do a Job that has failed and a claim that waits.
fn owner_and_claim_say_why(cx: &Context, page: &mut Browser) -> Result<()> {
    let mut sick = web("sick", 2);
    sick["spec"]["template"]["spec"]["containers"] = json!([{ "name": "main", "image": BUSYBOX,
        "command": ["sh", "-c", "echo no key in /etc/keys; exit 4"] }]);
    cx.apply_json(&sick)?;
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Mi" } } },
    }))?;
    go(page, &format!("workloads/deployments/{}/sick", cx.ns))?;
    page.until_shown("container main keeps ending: exit code 4")?;
    page.until_shown("no key in /etc/keys")?;
    page.picture("why-deployment")?;
    failed_job_says_why(cx, page)?;
    go(
        page,
        &format!("o/core/v1/persistentvolumeclaims/{}/data", cx.ns),
    )?;
    page.until_shown("waits for the first pod that uses it")?;
    page.picture("why-claim")
}

/// A Job at its back-off limit: what the server answers, with what its last pod wrote.
fn failed_job_says_why(cx: &Context, page: &mut Browser) -> Result<()> {
    cx.apply_json(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once" },
        "spec": { "backoffLimit": 0, "template": { "spec": { "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": BUSYBOX,
                "command": ["sh", "-c", "echo no input in /data; exit 5"] }] } } },
    }))?;
    go(page, &format!("workloads/jobs/{}/once", cx.ns))?;
    page.until_shown("It has failed: BackoffLimitExceeded")?;
    page.until_shown("mend what its pods fail on, and create it again")?;
    page.until_shown("no input in /data")?;
    page.picture("why-job")
}

pub fn yaml_is_changed_with_its_mistakes_shown_in_place(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 1))?;
    let mut page = signed_in(cx)?;
    go(
        &mut page,
        &format!("workloads/deployments/{}/web?tab=yaml", cx.ns),
    )?;
    let field = ".yaml textarea";
    page.until(
        "the object is shown",
        "!!document.querySelector('.yaml textarea')",
    )?;
    let text = page.value("document.querySelector('.yaml textarea').value")?;
    let text = text.as_str().unwrap_or_default().to_owned();
    ensure!(text.contains("  replicas: 1\n"), "{text}");
    // What is not YAML, what has no such type, what is not a valid value, what nobody knows.
    let wrong = [
        ("  replicas: [1\n", ""),
        ("  replicas: many\n", "replicas"),
        ("  replicas: -1\n", "greater than or equal to 0"),
        ("  replicsa: 1\n  replicas: 1\n", "replicsa"),
    ];
    for (line, said) in wrong {
        page.fill(field, &text.replace("  replicas: 1\n", line))?;
        page.click("Review changes")?;
        let shown = format!(
            "document.querySelector('.problems')?.innerText.includes({}) \
             && !!document.querySelector('.gutter .marked')",
            json!(said)
        );
        page.until(&format!("{line:?} is refused in place"), &shown)?;
    }
    page.picture("mistake")?;
    page.fill(field, &text.replace("  replicas: 1\n", "  replicas: 2\n"))?;
    page.click("Review changes")?;
    let added = "[...document.querySelectorAll('.diff .added')].map((e) => e.innerText.trim())";
    page.until(
        "the difference is shown",
        &format!("JSON.stringify({added}) === '[\"+   replicas: 2\"]'"),
    )?;
    ensure!(
        cx.field("deployment/web", ".spec.replicas")? == "1",
        "reviewing changes nothing"
    );
    page.picture("diff")?;
    // Another has set the field, which is said before he is overruled.
    page.until_shown("Others have set, and may set again")?;
    page.click("Take over and apply")?;
    page.until_shown("web is changed")?;
    ensure!(cx.field("deployment/web", ".spec.replicas")? == "2", "two");
    let object = cx.json("get deployment/web --show-managed-fields")?;
    let managers = object["metadata"]["managedFields"].as_array();
    let own = managers
        .into_iter()
        .flatten()
        .find(|m| m["manager"] == "tiphys-console");
    let fields = own.map(|m| m["fieldsV1"].clone()).unwrap_or_default();
    ensure!(
        fields == json!({ "f:spec": { "f:replicas": {} } }),
        "the console owns what was changed and nothing else: {fields}"
    );
    text_outlives_its_object(cx, &mut page)?;
    // Refused requests are lines in the browser's console by its own doing, not the page's.
    let complaints = page.complaints()?;
    let other: Vec<_> = complaints
        .iter()
        .filter(|c| !c.contains("Failed to load resource"))
        .collect();
    ensure!(other.is_empty(), "{other:#?}");
    Ok(())
}

/// Somebody deletes what one edits: what was written stays, and that it was deleted is said.
fn text_outlives_its_object(cx: &Context, page: &mut Browser) -> Result<()> {
    // Nobody places it, so that it goes at once.
    let mut held = tests::context::pod("held", "exit 0");
    held["spec"]["schedulingGates"] = json!([{ "name": "example.com/held" }]);
    cx.apply_json(&held)?;
    for (place, object) in [
        ("workloads/deployments", "deployment/web"),
        ("pods", "pod/held"),
    ] {
        let (_, name) = object.split_once('/').unwrap_or_default();
        let field = ".yaml textarea";
        let value = format!("document.querySelector('{field}')?.value");
        go(page, &format!("{place}/{}/{name}?tab=yaml", cx.ns))?;
        page.until(
            &format!("{object} is shown, unchanged"),
            &format!(
                "!!{value}?.includes('name: {name}\\n') \
                 && document.querySelector('.editor .tools .primary').disabled"
            ),
        )?;
        page.fill(field, "what: I wrote")?;
        cx.kubectl(&format!("delete {object} --wait=false"))?;
        page.until_shown("It was deleted.")?;
        ensure!(page.value(&value)? == "what: I wrote", "{object}");
    }
    Ok(())
}
