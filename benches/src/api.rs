//! The API server alone, with its store: reads, writes and watches.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::Value;

use crate::hooks::Hooks;
use crate::load::{Client, JSON, LoadRequest, LoadResult, PROTOBUF, closed_loop};
use crate::objects::{
    NAMESPACE, POLICIES, config_map, config_maps, deployment, deployments, namespace, pod,
    pod_status, pods, policy, service_account,
};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, memory_of, scratch};
use crate::{flood, watch};

const PODS: u64 = 1_000;
const CONFIG_MAPS: u64 = 10_000;
/// Data of the listed ConfigMaps, so that 10,000 of them are about 5 MB.
const LISTED_BYTES: usize = 32;
const KIB: usize = 1024;
/// Creations per case at most: they stay for the rest of the run.
const MOST_CREATIONS: u64 = 20_000;
const CONNECTIONS: usize = 4;
const LEVELS: [usize; 3] = [1, 16, 64];
const UNDER_POLICIES: &str = "CREATE ConfigMap under ten CEL policies";
const MANY_POLICIES: usize = 10;
const UNDER_WEBHOOKS: &str = "CREATE ConfigMap under three webhooks";
const LIST_PODS: &str = "LIST 1,000 pods";
const LIST_MAPS: &str = "LIST 10,000 ConfigMaps";
const PATCH_STATUS: &str = "PATCH pod status";
const APPLY_CHANGE: &str = "APPLY Deployment, one annotation changed";
const APPLY_SAME: &str = "APPLY Deployment, nothing changed";
/// Deployments that are applied in turn.
const APPLIED: u64 = 500;

struct Bench<'a> {
    plan: &'a Plan,
    server: &'a Server,
    report: &'a mut Report,
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.plan.only)
    }

    /// Whether any form of this list is wanted.
    fn wants_any(&self, list: &str) -> bool {
        let name = |(form, ..): &(&str, _, _)| format!("{list}, {form}");
        FORMS.iter().map(name).any(|name| self.wants(&name))
    }

    async fn client(&self, concurrency: usize) -> Result<Arc<Client>> {
        let connections = concurrency.min(CONNECTIONS);
        Ok(Arc::new(
            Client::connect(&self.server.access, connections).await?,
        ))
    }

    /// One case: a short warm-up, then the measured loop.
    async fn case(
        &mut self,
        name: &str,
        concurrency: usize,
        most: u64,
        ask: impl Fn(u64) -> LoadRequest + Clone + Send + Sync + 'static,
    ) -> Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let client = self.client(concurrency).await?;
        // Warm-up requests take numbers of their own, for cases that create.
        let warm = ask.clone();
        closed_loop(
            &client,
            concurrency,
            self.plan.time / 10,
            most / 10,
            move |i| warm(u64::from(u32::MAX) + i),
        )
        .await
        .with_context(|| name.to_owned())?;
        let cpu = self.server.cpu();
        let seen = closed_loop(&client, concurrency, self.plan.time, most, ask)
            .await
            .with_context(|| name.to_owned())?;
        let used = self.server.cpu() - cpu;
        self.add(name, concurrency, &seen, used);
        Ok(())
    }

    fn add(&mut self, name: &str, concurrency: usize, seen: &LoadResult, cpu: Duration) {
        let count = seen.latencies.len().max(1) as f64;
        self.report.add(Row {
            case: name.into(),
            concurrency,
            per_second: Some(seen.per_second()),
            p50_ms: Some(seen.percentile_ms(50.0)),
            p99_ms: Some(seen.percentile_ms(99.0)),
            cpu_ms: Some(cpu.as_secs_f64() * 1e3 / count),
            bytes: Some(seen.bytes as f64 / count),
            ..Row::default()
        });
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let server = Server::start(plan, "apiserver", dir.path()).await?;
    let setup = Arc::new(Client::connect(&server.access, CONNECTIONS).await?);
    setup
        .must(0, LoadRequest::post("/api/v1/namespaces", &namespace()))
        .await?;
    let accounts = config_maps().replace("configmaps", "serviceaccounts");
    setup
        .must(0, LoadRequest::post(accounts, &service_account()))
        .await?;
    let mut bench = Bench {
        plan,
        server: &server,
        report,
    };
    gets(&mut bench, &setup).await?;
    lists(&mut bench, &setup).await?;
    writes(&mut bench).await?;
    applies(&mut bench, &setup).await?;
    if bench.wants(UNDER_POLICIES) {
        under_policies(&mut bench, &setup).await?;
    }
    if bench.wants(UNDER_WEBHOOKS) {
        under_webhooks(&mut bench, &setup).await?;
    }
    if bench.wants(flood::NAME) {
        flood::run(plan, &server, bench.report, "one").await?;
    }
    if bench.wants(watch::NAME) {
        watch::run(plan, &server, bench.report).await?;
    }
    let memory = memory_of(server.pid());
    report.add(Row::value(
        "API server after these cases, resident",
        "MB",
        memory.resident_mb,
    ));
    if watch::EACH.contains(&plan.only) {
        watch::run_each(plan, &server, report).await?;
    }
    drop(setup);
    server.stop().await
}

async fn gets(bench: &mut Bench<'_>, setup: &Client) -> Result<()> {
    setup
        .must(0, LoadRequest::post(config_maps(), &config_map("one", KIB)))
        .await?;
    let path = format!("{}/one", config_maps());
    for level in LEVELS {
        let path = path.clone();
        bench
            .case("GET ConfigMap", level, u64::MAX, move |_| {
                LoadRequest::get(path.clone())
            })
            .await?;
    }
    Ok(())
}

async fn fill(
    setup: &Arc<Client>,
    count: u64,
    ask: impl Fn(u64) -> LoadRequest + Send + Sync + 'static,
) -> Result<()> {
    closed_loop(setup, 64, Duration::from_secs(600), count, ask).await?;
    Ok(())
}

async fn lists(bench: &mut Bench<'_>, setup: &Arc<Client>) -> Result<()> {
    // Others list these pods or change them.
    let need_pods = [PATCH_STATUS, flood::NAME];
    if bench.wants_any(LIST_PODS) || need_pods.into_iter().any(|name| bench.wants(name)) {
        let name = |i: u64| format!("web-5d59d67564-{i:05}");
        fill(setup, PODS, move |i| {
            LoadRequest::post(pods(), &pod(&name(i), &format!("node-{}", i % 100)))
        })
        .await?;
        fill(setup, PODS, move |i| {
            LoadRequest::merge(format!("{}/{}/status", pods(), name(i)), &pod_status("up"))
        })
        .await?;
    }
    list(bench, LIST_PODS, &pods()).await?;
    if bench.wants_any(LIST_MAPS) {
        fill(setup, CONFIG_MAPS, move |i| {
            let name = format!("listed-{i:05}");
            LoadRequest::post(config_maps(), &config_map(&name, LISTED_BYTES))
        })
        .await?;
    }
    list(bench, LIST_MAPS, &config_maps()).await
}

/// How lists are asked for: name, `Accept`, compressed.
const FORMS: [(&str, &str, bool); 3] = [
    ("JSON", JSON, false),
    ("protobuf", PROTOBUF, false),
    ("JSON gzip", JSON, true),
];

async fn list(bench: &mut Bench<'_>, name: &str, path: &str) -> Result<()> {
    for (form, accept, gzip) in FORMS {
        let path = path.to_owned();
        let ask = move |_| LoadRequest {
            accept,
            gzip,
            ..LoadRequest::get(path.clone())
        };
        bench
            .case(&format!("{name}, {form}"), 4, u64::MAX, ask)
            .await?;
    }
    Ok(())
}

async fn writes(bench: &mut Bench<'_>) -> Result<()> {
    for level in LEVELS {
        bench
            .case("CREATE ConfigMap", level, MOST_CREATIONS, move |i| {
                LoadRequest::post(
                    config_maps(),
                    &config_map(&format!("made-{level}-{i:010}"), KIB),
                )
            })
            .await?;
    }
    for level in LEVELS {
        bench
            .case(PATCH_STATUS, level, u64::MAX, |i| {
                // A prime step, so that concurrent patches meet different pods.
                let nth = (i * 7919) % PODS;
                let text: Value = format!("patch {i}").into();
                let path = format!("{}/web-5d59d67564-{nth:05}/status", pods());
                LoadRequest::with(
                    Method::PATCH,
                    path,
                    crate::load::MERGE,
                    serde_json::json!({ "status": { "message": text } })
                        .to_string()
                        .into(),
                )
            })
            .await?;
    }
    Ok(())
}

/// Server-side apply of objects that are there, by the manager that made them.
async fn applies(bench: &mut Bench<'_>, setup: &Arc<Client>) -> Result<()> {
    if ![APPLY_CHANGE, APPLY_SAME]
        .into_iter()
        .any(|name| bench.wants(name))
    {
        return Ok(());
    }
    let apply = |nth: u64, text: &str| {
        let name = format!("applied-{nth:03}");
        LoadRequest::apply(
            &format!("{}/{name}", deployments()),
            &deployment(&name, text),
        )
    };
    fill(setup, APPLIED, move |i| apply(i, "first")).await?;
    for level in LEVELS {
        // The first ones as they were made: numbers of the changing case begin elsewhere.
        let same = move |i: u64| apply(i % APPLIED, "first");
        bench.case(APPLY_SAME, level, u64::MAX, same).await?;
    }
    for level in LEVELS {
        let change = move |i: u64| apply((i * 7919) % APPLIED, &format!("{level} {i}"));
        bench.case(APPLY_CHANGE, level, u64::MAX, change).await?;
    }
    Ok(())
}

/// Creations that ten policies judge; these go again, since later cases are not about them.
async fn under_policies(bench: &mut Bench<'_>, setup: &Client) -> Result<()> {
    for nth in 0..MANY_POLICIES {
        for (path, object) in POLICIES.iter().zip(policy(nth)) {
            setup.must(0, LoadRequest::post(*path, &object)).await?;
        }
    }
    creations(bench, UNDER_POLICIES, "judged").await?;
    for path in POLICIES {
        let ask = LoadRequest::with(Method::DELETE, path, JSON, "{}".into());
        setup.must(0, ask).await?;
    }
    Ok(())
}

/// Creations that one webhook changes and two allow; these go again as well.
async fn under_webhooks(bench: &mut Bench<'_>, setup: &Client) -> Result<()> {
    let hooks = Hooks::start().await?;
    let configurations = hooks.configurations(NAMESPACE);
    for (path, object) in &configurations {
        setup.must(0, LoadRequest::post(path, object)).await?;
    }
    // A row of what nobody asked for would be a lie.
    let probe = config_map("hooked", KIB);
    let made = setup
        .must(0, LoadRequest::post(config_maps(), &probe))
        .await?;
    if made["metadata"]["labels"]["hooked"] != "yes" {
        bail!("the webhooks were not asked: {made}");
    }
    creations(bench, UNDER_WEBHOOKS, "hooked").await?;
    for (path, _) in &configurations {
        let ask = LoadRequest::with(Method::DELETE, path, JSON, "{}".into());
        setup.must(0, ask).await?;
    }
    Ok(())
}

async fn creations(bench: &mut Bench<'_>, case: &str, prefix: &'static str) -> Result<()> {
    for level in LEVELS {
        bench
            .case(case, level, MOST_CREATIONS, move |i| {
                let name = format!("{prefix}-{level}-{i:010}");
                LoadRequest::post(config_maps(), &config_map(&name, KIB))
            })
            .await?;
    }
    Ok(())
}
