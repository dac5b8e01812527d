//! Events of the node that say that its kernel has ended a program because the machine had no memory
//! left. Where it was but a group that had none, the state of its containers says so.

use crate::events::Severity;
use crate::pod::deps::Deps;
use host::kernel_log::KernelLog;
use std::io;
use std::sync::Arc;

/// As long as the kubelet runs and the kernel can be heard.
pub async fn run(deps: Arc<Deps>) {
    if let Err(error) = follow(&deps).await {
        tracing::info!(
            %error,
            "the kernel cannot be heard: no event will say that the machine had no memory left"
        );
    }
}

async fn follow(deps: &Deps) -> io::Result<()> {
    let log = KernelLog::open()?;
    loop {
        if let Some(text) = event(&log.next().await?) {
            let (node, warning) = (&deps.config.node_name, Severity::Warning);
            deps.recorder.node(node, warning, "SystemOOM", text);
        }
    }
}

/// What an event says of something that the kernel said, if that is a program's end for want of memory
/// of the whole machine; upstream's words.
fn event(said: &str) -> Option<String> {
    let facts = said.strip_prefix("oom-kill:")?;
    if !facts.split(',').any(|f| f == "global_oom") {
        return None;
    }
    let mut text = "System OOM encountered".to_owned();
    // A program may be named with commas.
    let named = facts.split_once(",task=").map(|(_, rest)| rest);
    if let Some((name, rest)) = named.and_then(|n| n.rsplit_once(",pid="))
        && let Some(pid) = rest.split(',').next()
    {
        text += &format!(", victim process: {name}, pid: {pid}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_machine_lacked_is_an_event() {
        let said = |whose: &str| {
            let place = "nodemask=(null),cpuset=a,mems_allowed=0";
            let task = "task_memcg=/kubepods/a,task=a,b,pid=42,uid=0";
            format!("oom-kill:constraint=CONSTRAINT_NONE,{place},{whose},{task}")
        };
        assert_eq!(
            event(&said("global_oom")).as_deref(),
            Some("System OOM encountered, victim process: a,b, pid: 42")
        );
        assert_eq!(event(&said("oom_memcg=/kubepods/a")), None);
        assert_eq!(event("eth0: link is up"), None);
        let short = event("oom-kill:global_oom");
        assert_eq!(short.as_deref(), Some("System OOM encountered"));
    }
}
