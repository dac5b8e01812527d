//! The cluster's own life: doctor, down and up again, further machines, single components.
#![forbid(unsafe_code)]

mod closed_pipe;
mod components;
mod join;
mod prometheus;
mod standalone_node;
mod statistics;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use tests::command::{self, Running, eventually};
use tests::context::{STAY, service, web};
use tests::runner::{Check, Suite};
use tests::slot::Slot;
use tests::{Context, Setup, checks, run, traces, traffic};

fn main() -> ExitCode {
    run(&Suite {
        name: "lifecycle",
        setup: Setup::nodes(1),
        side_by_side: 1,
        checks: CHECKS,
    })
}

const CHECKS: &[Check] = checks![
    the_machine_is_examined,
    a_second_supervisor_is_refused,
    a_dead_server_is_started_again,
    a_pause_container_ends_when_it_is_asked,
    statistics::known_loads_appear,
    statistics::figures_are_the_kernels_through_restarts,
    prometheus::prometheus_reads_all_of_it,
    prometheus::promtool_is_content_with_every_page,
    components::the_controllers_run_alone,
    components::the_scheduler_runs_alone,
    components::logs_are_for_programs_and_their_level_changes,
    standalone_node::kubelet_and_proxy_run_alone,
    join::a_machine_joins_with_a_token,
    join::a_wrong_token_is_refused,
    join::plugins_of_others_connect_pods,
    join::an_encrypting_node_has_a_key_or_says_why_not,
    join::a_machine_that_left_is_rid_of_the_network,
    join::parts_of_the_network_can_be_replaced,
    closed_pipe::a_reader_that_is_gone_stops_nothing,
    a_server_needs_no_root,
    after_down_nothing_is_left_and_up_continues,
];

fn the_machine_is_examined(cx: &Context) -> Result<()> {
    let ran = cx.cluster.tiphys_on_data("doctor")?;
    ensure!(ran.code == 0 && !ran.out.contains("missing:"), "{ran:?}");
    // Nobody but root runs nodes; others get an error that says so.
    let dir = tempfile::tempdir()?;
    let binary = copy_for_all(cx, dir.path())?;
    let mut doctor = Command::new("setpriv");
    doctor
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary);
    doctor
        .arg("doctor")
        .arg("--data-dir")
        .arg(dir.path().join("data"));
    let ran = command::run(doctor, "")?;
    ensure!(
        ran.code == 1 && ran.out.contains("missing:") && ran.out.contains("root"),
        "{ran:?}"
    );
    Ok(())
}

fn a_second_supervisor_is_refused(cx: &Context) -> Result<()> {
    let output = cx.cluster.tiphys_on_data("up")?.failed()?;
    ensure!(output.contains("another `tiphys up` runs"), "{output}");
    cx.kubectl("get nodes").map(drop)
}

fn a_dead_server_is_started_again(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    let pid = cx.cluster.pid("server")?;
    let process = rustix::process::Pid::from_raw(pid).context("pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
    eventually("the server is back", || {
        ensure!(cx.cluster.pid("server")? != pid, "not yet");
        cx.kubectl("get --raw /readyz").map(drop)
    })?;
    eventually("the pod is reached", || cx.sh("p", "true"))?;
    ensure!(cx.field("pod p", ".status.containerStatuses[0].restartCount")? == "0");
    Ok(())
}

/// As PID 1, which no signal ends that it has not asked for.
fn a_pause_container_ends_when_it_is_asked(cx: &Context) -> Result<()> {
    let mut pause = Command::new("unshare");
    pause.args(["--pid", "--fork", "--kill-child"]);
    pause.arg(cx.cluster.binary()).arg("pause");
    let mut running = Running::start(pause)?;
    let pid = eventually("it is started", || running.child_pid())?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    // It may not listen yet at the first time.
    eventually("it ends", || {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        ensure!(!running.is_running(), "it still runs");
        Ok(())
    })?;
    let code = running.end()?;
    ensure!(code == 0, "it ended with {code}");
    Ok(())
}

fn a_server_needs_no_root(cx: &Context) -> Result<()> {
    let (slot, dir) = (Slot::take()?, tempfile::tempdir()?);
    let mut server = Command::new("setpriv");
    server.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    server.arg(copy_for_all(cx, dir.path())?);
    server.args([
        "server",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
    ]);
    server.arg(format!("--data-dir={}", dir.path().join("data").display()));
    server.arg(format!("--port={}", slot.port()));
    let running = Running::start(server)?;
    running.line(|l| l.contains("serving at"))?;
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["get", "namespaces"]).env("HOME", dir.path());
    kubectl.env("KUBECONFIG", dir.path().join("data/admin.kubeconfig"));
    let list = command::run(kubectl, "")?.ok()?;
    ensure!(list.contains("kube-system"), "{list}");
    Ok(())
}

/// The binary in a folder where everybody may run it and write.
fn copy_for_all(cx: &Context, dir: &std::path::Path) -> Result<std::path::PathBuf> {
    let copy = dir.join("tiphys");
    std::fs::copy(cx.cluster.binary(), &copy)?;
    for path in [dir, &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    Ok(copy)
}

fn after_down_nothing_is_left_and_up_continues(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 2))?;
    cx.apply_json(&service("web", "web", "NodePort"))?;
    cx.wait_rollout("deployment/web")?;
    let uid = cx.field("deployment web", ".metadata.uid")?;
    let ids = traces::ids(&cx.cluster.data());
    ensure!(!ids.is_empty(), "the cluster has no name");
    cx.cluster.tiphys_on_data("down")?.ok()?;
    let left = traces::of(&cx.cluster.data(), &ids);
    ensure!(left.is_empty(), "after `down`:\n{}", left.join("\n"));
    let changed = traces::changes(&cx.cluster.before, &traces::settings()?);
    ensure!(changed.is_empty(), "after `down`:\n{}", changed.join("\n"));
    cx.cluster.tiphys_on_data("down")?.ok()?;
    cx.cluster.launch()?;
    ensure!(
        cx.field("deployment web", ".metadata.uid")? == uid,
        "another object"
    );
    // Pods start again, as after a reboot.
    let port = cx
        .field("service web", ".spec.ports[0].nodePort")?
        .parse()?;
    let path = ".status.addresses[?(@.type==\"InternalIP\")].address";
    let ip: IpAddr = cx.field("node node-1", path)?.parse()?;
    eventually("the demo answers again", || {
        traffic::get((ip, port).into(), "/hostname")
    })?;
    cx.wait_rollout("deployment/web")
}
