//! Containers that run are moved when the CPUs that they share change.

use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::runtime_state::Run;
use crate::pod::{resources, spec};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Between looks whether containers run where they should; upstream's.
const LOOK: Duration = Duration::from_secs(10);

/// Moves containers that run to where they should, as long as the kubelet runs.
pub async fn run(deps: Arc<Deps>, pods: Arc<Pods>) {
    if !deps.cpus.is_static() {
        return std::future::pending().await;
    }
    // Where each container was moved last, by its id.
    let mut moved: HashMap<String, String> = HashMap::new();
    loop {
        let _ = tokio::time::timeout(LOOK, deps.cpus.changed.notified()).await;
        let mut now = HashMap::new();
        for snapshot in pods.snapshots() {
            let uid = spec::uid(&snapshot.pod);
            let runs = snapshot
                .seen
                .containers
                .iter()
                .filter(|c| c.run == Run::Running);
            for c in runs {
                let words = deps.cpus.words(uid, &c.name);
                if moved.get(&c.id) != Some(&words)
                    && let Err(e) = update(&deps, &snapshot.pod, &c.name, &c.id, &words).await
                {
                    tracing::warn!(container = c.id, cpus = words, error = %e, "a container could not be moved; trying again");
                    continue;
                }
                now.insert(c.id.clone(), words);
            }
        }
        moved = now;
    }
}

async fn update(
    deps: &Deps,
    pod: &Pod,
    name: &str,
    id: &str,
    words: &str,
) -> Result<(), host::runtime::Error> {
    let Some(container) = spec::find(pod, name) else {
        return Ok(());
    };
    let memory = i64::try_from(deps.resources.memory_bytes).unwrap_or(i64::MAX);
    let mut linux = resources::container(pod, &container, memory, deps.oom);
    deps.cpus.place(spec::uid(pod), name, &mut linux);
    linux.cpus = words.to_owned();
    linux.memory_nodes = deps.topology.words(spec::uid(pod), name);
    deps.runtime.update_resources(id, &linux).await
}
