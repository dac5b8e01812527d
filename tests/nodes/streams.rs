//! Streams that nobody uses, and logs that are followed while they are rotated: the kubelets of this suite
//! are configured for both.

use anyhow::{Context as _, Result, ensure};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

/// What `tests/nodes/kubelet.yaml` says.
const IDLE_SECONDS: u64 = 60;

pub fn streams_that_nobody_uses_end(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    let line = "sh -c 'echo here; sleep 7000009; true'";
    let mut quiet = cx.start(&format!("exec p -- {line}"))?;
    quiet.line(|l| l == "here")?;
    let code = quiet.end()?;
    let text = quiet.text();
    ensure!(code != 0, "{text}");
    let said = format!("the streams were idle for {IDLE_SECONDS} s");
    ensure!(text.contains(&said), "{text}");
    eventually("its command has ended", || {
        let count = cx.sh("p", "ps | grep -c 'sleep [7]000009'; true")?;
        ensure!(count.trim() == "0", "{count}");
        Ok(())
    })
}

/// Writes numbered lines of a KiB: one, and some hundred a second from when somebody follows until
/// somebody stops it.
const WRITES: &str = "text=$(head -c 1000 /dev/zero | tr '\\0' x); i=1; echo line $i $text; \
     until test -e /tmp/go; do sleep 0.1; done; \
     while test ! -e /tmp/stop; do i=$((i+1)); echo line $i $text; sleep 0.01; done; echo last $i";

/// Who follows a log hears every line of it, each once, however often the file is another one.
pub fn a_followed_log_is_rotated_without_a_gap(cx: &Context) -> Result<()> {
    let node = "node-1";
    let mut writer = pod("p", WRITES);
    writer["spec"]["nodeName"] = node.into();
    writer["spec"]["restartPolicy"] = "Never".into();
    cx.apply_json(&writer)?;
    cx.wait_ready("p")?;
    let mut follow = cx.start("logs -f p")?;
    follow.line(|l| l.starts_with("line 1 "))?;
    cx.sh("p", "touch /tmp/go")?;
    let uid = cx.field("pod p", ".metadata.uid")?;
    let data = cx.cluster.data();
    let folder = format!("{}/nodes/{node}/pod-logs/*_p_{uid}/main", data.display());
    eventually("the log was rotated, more than once", || {
        let files = format!("ls {folder} | wc -l");
        let count = cx.cluster.in_node(node, &files)?.ok()?;
        ensure!(count.trim().parse::<u32>()? > 2, "{count}");
        Ok(())
    })?;
    eventually("an older file is compressed, and whole", || {
        let lines = format!("zcat {folder}/0.log.*.gz | grep -c ' stdout F line '");
        let count = cx.cluster.in_node(node, &lines)?.ok()?;
        ensure!(count.trim().parse::<u32>()? > 100, "{count}");
        Ok(())
    })?;
    cx.sh("p", "touch /tmp/stop")?;
    let last = follow.line(|l| l.starts_with("last "))?;
    let count: usize = last.trim_start_matches("last ").parse()?;
    ensure!(follow.end()? == 0, "following ends with the container");
    let text = follow.text();
    let mut expected = 1..=count;
    for line in text.lines().filter(|l| l.starts_with("line ")) {
        let number: usize = line.split(' ').nth(1).context("no number")?.parse()?;
        let wanted = expected.next();
        ensure!(
            wanted == Some(number),
            "line {number} in place of {wanted:?}"
        );
    }
    ensure!(expected.next().is_none(), "lines are missing: {expected:?}");
    Ok(())
}
