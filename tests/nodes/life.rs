//! The life of `up`: death and adoption, what it prints, what it refuses.

use anyhow::{Result, ensure};
use tests::Context;
use tests::command::run;
use tests::context::{STAY, pod};

pub fn a_killed_supervisor_is_taken_up_again(cx: &Context) -> Result<()> {
    cx.apply_json(&pod("still", STAY))?;
    cx.wait_ready("still")?;
    let container = cx.field("pod still", ".status.containerStatuses[0].containerID")?;
    let pids: Vec<i32> = ["server", "node-1", "node-2", "node-3"]
        .iter()
        .map(|c| cx.cluster.pid(c))
        .collect::<Result<_>>()?;
    cx.cluster.kill_main()?;
    cx.kubectl("get pod still")?;
    cx.cluster.launch()?;
    let now: Vec<i32> = ["server", "node-1", "node-2", "node-3"]
        .iter()
        .map(|c| cx.cluster.pid(c))
        .collect::<Result<_>>()?;
    ensure!(now == pids, "{pids:?} became {now:?}");
    ensure!(cx.field("pod still", ".status.containerStatuses[0].containerID")? == container);
    Ok(())
}

pub fn status_lists_processes_and_nodes(cx: &Context) -> Result<()> {
    let text = cx.cluster.tiphys_on_data("status")?.ok()?;
    for part in [
        "server",
        "node-3",
        "tiphys node",
        "containerd",
        "MiB",
        "of 3 ready",
    ] {
        ensure!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let unknown = cx.cluster.tiphys_on_data("node kill node-9")?.failed()?;
    ensure!(unknown.contains("there is no node \"node-9\""), "{unknown}");
    Ok(())
}

pub fn ranges_in_use_are_refused(cx: &Context) -> Result<()> {
    let other = cx.cluster.scratch()?.join("other");
    let mut command = cx.cluster.tiphys(&["up"]);
    command
        .arg(format!("--data-dir={}", other.display()))
        .arg("--service-cidr=10.250.0.0/16")
        .arg("--pod-cidr=10.251.0.0/16")
        // The running cluster's own bridge has it.
        .arg(format!("--node-cidr={}", cx.cluster.slot.node_cidr()));
    let said = run(command, "")?.failed()?;
    ensure!(
        said.contains("--node-cidr") && said.contains("overlaps"),
        "{said}"
    );
    let mut command = cx.cluster.tiphys(&["up", "--pod-cidr=10.96.128.0/17"]);
    command.arg(format!("--data-dir={}", other.join("b").display()));
    let said = run(command, "")?.failed()?;
    ensure!(said.contains("overlaps"), "{said}");
    Ok(())
}

pub fn images_are_listed_imported_and_removed(cx: &Context) -> Result<()> {
    let list = cx.cluster.tiphys_on_data("image list")?.ok()?;
    ensure!(
        list.contains(tests::DEMO) && list.contains("node-3"),
        "{list}"
    );
    let archive = cx.cluster.data().join("images/busybox.tar");
    let mut command = cx
        .cluster
        .tiphys(&["image", "import", "--name=tiphys.local/again:7"]);
    command
        .arg(format!("--data-dir={}", cx.cluster.data().display()))
        .arg(archive);
    let said = run(command, "")?.ok()?;
    ensure!(said.contains("node-2: tiphys.local/again:7"), "{said}");
    let mut again = pod("again", STAY);
    again["spec"]["containers"][0]["image"] = "tiphys.local/again:7".into();
    again["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    cx.apply_json(&again)?;
    cx.wait_ready("again")?;
    cx.kubectl("delete pod again")?;
    cx.cluster
        .tiphys_on_data("image rm tiphys.local/again:7")?
        .ok()?;
    let list = cx.cluster.tiphys_on_data("image list")?.ok()?;
    ensure!(!list.contains("again:7"), "{list}");
    Ok(())
}
