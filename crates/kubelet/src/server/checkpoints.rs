//! `/checkpoint`: a container's processes and files as an archive in the kubelet's folder, while it goes on
//! running. Only some runtimes can make one; what others say is passed on.

use super::common::{Answer, Query, Shared, find_pod, json, text};
use crate::pod::runtime_state::Run;
use crate::pod::spec;
use http::StatusCode;
use std::path::PathBuf;
use std::time::Duration;

/// The folder below the kubelet's; upstream's.
const FOLDER: &str = "checkpoints";

pub(super) async fn serve(
    server: &Shared,
    [namespace, pod, container]: [&str; 3],
    query: &Query,
) -> Answer {
    match make(server, [namespace, pod, container], query).await {
        Ok(archive) => json(&serde_json::json!({ "items": [archive.to_string_lossy()] })),
        Err(answer) => *answer,
    }
}

async fn make(
    server: &Shared,
    [namespace, pod, container]: [&str; 3],
    query: &Query,
) -> Result<PathBuf, Box<Answer>> {
    let missing = |words: &str| Box::new(text(StatusCode::NOT_FOUND, words));
    let snapshot = find_pod(server, namespace, pod, None)?;
    if spec::find(&snapshot.pod, container).is_none() {
        return Err(missing(&format!("container {container} does not exist")));
    }
    // Of several the last one counts.
    let seconds = query.all("timeout").pop().map(|t| t.parse::<u64>());
    let seconds = seconds
        .transpose()
        .map_err(|_| missing("cannot parse value of timeout parameter"))?;
    let failed = |why: &str| {
        let words = format!("checkpointing of {namespace}/{pod}/{container} failed ({why})");
        Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, &words))
    };
    let newest = snapshot.seen.newest(container);
    let running = newest.filter(|c| c.run == Run::Running);
    let running = running.ok_or_else(|| failed(&format!("container {container} not found")))?;
    let deps = &server.deps;
    let folder = deps.config.root_dir.join(FOLDER);
    crate::volumes::private_folder(&folder).map_err(|e| failed(&e.to_string()))?;
    let now = deps.clock.now_in_seconds();
    let archive = folder.join(format!(
        "checkpoint-{pod}_{namespace}-{container}-{now}.tar"
    ));
    let limit = seconds.filter(|s| *s > 0).map(Duration::from_secs);
    let made = deps.runtime.checkpoint(&running.id, &archive, limit).await;
    made.map_err(|e| failed(&e.to_string()))?;
    Ok(archive)
}
