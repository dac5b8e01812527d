//! Streams that nobody uses: the kubelets of this suite are told how long they may be idle.

use anyhow::{Result, ensure};
use tests::Context;
use tests::command::eventually;
use tests::context::STAY;

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
