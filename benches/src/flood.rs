//! One tenant floods the API server with lists; what another one, who asks for little, sees of it.
//! Both are ordinary users, whom the server's default flow schemas put into the same priority level.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::load::{Client, LoadRequest, LoadResult, closed_loop};
use crate::objects::{config_maps, pods};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Access, Server};

pub const NAME: &str = "GET ConfigMap of a quiet tenant";
const FLOOD: &str = "bench-flood";
const QUIET: &str = "bench-quiet";
/// Requests of the flood at once: more than its level has seats.
const AT_ONCE: usize = 256;
/// Connections of the flood.
const CONNECTIONS: usize = 8;
/// Until the flood is as high as it gets.
const RISE: Duration = Duration::from_secs(1);

/// `one` is the name of a ConfigMap that is there; pods are listed that are there as well.
pub async fn run(plan: &Plan, server: &Server, report: &mut Report, one: &str) -> Result<()> {
    let admin = Client::connect(&server.access, 1).await?;
    let subject = |name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name });
    let binding = json!({
        "metadata": { "name": "bench-tenants" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [subject(FLOOD), subject(QUIET)],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    admin.must(0, LoadRequest::post(path, &binding)).await?;
    let path = format!("{}/{one}", config_maps());
    let ask = move |_| LoadRequest {
        user: QUIET,
        ..LoadRequest::get(path.clone())
    };
    // Warm-up.
    quiet(&server.access, plan.time / 10, ask.clone()).await?;
    let alone = quiet(&server.access, plan.time, ask.clone()).await?;
    let elsewhere = elsewhere()?;
    let access = server.access.clone();
    let begun = elsewhere.spawn(async move {
        let flood = Arc::new(Client::connect(&access, CONNECTIONS).await?);
        for nth in 0..AT_ONCE {
            tokio::spawn(ask_for_ever(flood.clone(), nth));
        }
        anyhow::Ok(())
    });
    begun.await??;
    tokio::time::sleep(RISE).await;
    let beside = quiet(&server.access, plan.time, ask).await;
    elsewhere.shutdown_background();
    let beside = beside?;
    add(report, ", alone", &alone);
    add(report, ", beside a flood of lists", &beside);
    let ratio = beside.percentile_ms(99.0) / alone.percentile_ms(99.0).max(1e-6);
    let name = format!("{NAME}: p99 beside a flood by p99 alone");
    report.add(Row::value(&name, "times", ratio));
    Ok(())
}

/// The flood's clients would have machines of their own. Here they give way to the server and to the
/// quiet tenant, so that what is seen is how the server divides its time, and not how the kernel
/// divides this machine's.
fn elsewhere() -> Result<Runtime> {
    let made = Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(|| {
            let _ = rustix::process::setpriority_process(None, 19);
        })
        .enable_all()
        .build();
    Ok(made?)
}

/// What the quiet tenant sees. He has a thread of his own: what he would wait for among the flood's
/// own tasks is nothing of the server.
async fn quiet(
    access: &Access,
    time: Duration,
    ask: impl Fn(u64) -> LoadRequest + Send + Sync + 'static,
) -> Result<LoadResult> {
    let (told, seen) = tokio::sync::oneshot::channel();
    let access = access.clone();
    std::thread::spawn(move || {
        let alone = || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build()?;
            runtime.block_on(async {
                let client = Arc::new(Client::connect(&access, 1).await?);
                closed_loop(&client, 1, time, u64::MAX, ask).await
            })
        };
        // Nobody waits any more when the run has failed elsewhere.
        let _ = told.send(alone());
    });
    seen.await?
}

fn add(report: &mut Report, what: &str, seen: &LoadResult) {
    report.add(Row {
        case: format!("{NAME}{what}"),
        concurrency: 1,
        per_second: Some(seen.per_second()),
        p50_ms: Some(seen.percentile_ms(50.0)),
        p99_ms: Some(seen.percentile_ms(99.0)),
        ..Row::default()
    });
}

/// Lists without end, and as fast as it is let; a client that does not care for refusals.
async fn ask_for_ever(client: Arc<Client>, nth: usize) {
    loop {
        let ask = LoadRequest {
            user: FLOOD,
            ..LoadRequest::get(pods())
        };
        if let Ok(answer) = client.begin(nth, ask).await {
            let mut body = answer.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
    }
}
