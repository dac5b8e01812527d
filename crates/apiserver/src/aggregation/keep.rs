//! Keeps APIServices: those of what this server serves are made, changed and removed with it, and
//! each extension server is asked, by a task of its own, whether it answers and what it serves. So
//! one that does not answer holds up no other.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::Status;
use futures::StreamExt;
use metrics::Counters;
use registry::aggregation::{Available, Step, conditions, step, wanted};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Aggregation, ApiServiceSpec, fetch};
use crate::cache::{Cursor, Selection};
use crate::loopback::Loopback;
use crate::object::{meta_text, time_text};
use crate::state::State;
use crate::verbs::delete;

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
/// Writes at once: those of a start go to disk together.
const AT_ONCE: usize = 16;
/// After a failure to write.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two questions to a server that answers; upstream's.
const EVERY: Duration = Duration::from_secs(30);
/// Between two questions to one that does not: this, doubled up to [`EVERY`].
const RETRY: Duration = Duration::from_secs(1);

/// What was done since this server's start.
#[derive(Default)]
pub struct Done {
    /// APIServices that were compared once.
    compared: BTreeSet<String>,
}

/// Follows APIServices and definitions until the server stops.
pub async fn keep(loopback: Loopback, aggregation: Arc<Aggregation>, mut done: Done) {
    loop {
        let state = &loopback.state;
        let Some(mut services) = cursor(state, GROUP, RESOURCE, "") else {
            return;
        };
        let Some(mut definitions) = cursor(state, DEFINITIONS.0, DEFINITIONS.1, "") else {
            return;
        };
        let again = match turn(&loopback, &aggregation, &mut done).await {
            Ok(()) => None,
            Err(s) => {
                tracing::warn!("APIServices: {s}");
                Some(AGAIN)
            }
        };
        tokio::select! {
            biased;
            () = state.stop().cancelled() => return,
            () = services.changed() => {}
            () = definitions.changed() => {}
            () = after(again) => {}
        }
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

fn cursor(state: &State, group: &str, resource: &str, namespace: &str) -> Option<Cursor> {
    let kinds = state.kinds();
    let row = kinds.resource(group, resource)?;
    let selection = Selection::new(row, namespace, "", "").ok()?;
    Some(state.cache().of(row)?.from_now(&selection))
}

fn values(state: &State, (group, resource): (&str, &str)) -> Vec<Value> {
    let all = state.lookup_all(group, resource, "");
    all.iter().map(|o| o.to_value()).collect()
}

/// Looks at all APIServices once.
pub async fn turn(
    loopback: &Loopback,
    aggregation: &Arc<Aggregation>,
    done: &mut Done,
) -> Result<(), Status> {
    let registered = register(loopback, done).await;
    let services = values(&loopback.state, (GROUP, RESOURCE));
    for known in aggregation.take(loopback.state.settings(), &services) {
        tokio::spawn(follow(loopback.clone(), aggregation.clone(), known));
    }
    let is_local = |s: &&Value| !s["spec"]["service"].is_object();
    for service in services.iter().filter(is_local) {
        let name = meta_text(service, "name");
        say(loopback, name, service, &Available::local()).await?;
    }
    registered
}

/// Brings the APIServices of what this server serves up to date.
async fn register(loopback: &Loopback, done: &mut Done) -> Result<(), Status> {
    let state = &loopback.state;
    let definitions = values(state, DEFINITIONS);
    let kinds = state.kinds();
    let rows = kinds.rows().iter().filter(|r| !r.strategy.is_custom());
    let built_in: Vec<(&str, &str)> = rows
        .flat_map(|r| r.versions.iter().map(|v| (&*r.group, &*v.version)))
        .collect();
    let wanted = wanted(built_in, &definitions);
    let current = values(state, (GROUP, RESOURCE));
    let find = |name: &str| current.iter().find(|s| meta_text(s, "name") == name);
    let names = wanted.keys().map(String::as_str);
    let names: BTreeSet<&str> = names
        .chain(current.iter().map(|s| meta_text(s, "name")))
        .collect();
    let mut steps = Vec::new();
    for name in &names {
        let is_start = !done.compared.contains(*name);
        if let Some(step) = step(name, wanted.get(*name), find(name), is_start) {
            steps.push(((*name).to_owned(), step));
        }
    }
    let work = steps
        .into_iter()
        .map(|(name, step)| perform(loopback, name, step));
    let results: Vec<Result<(), Status>> = futures::stream::iter(work)
        .buffered(AT_ONCE)
        .collect()
        .await;
    results.into_iter().collect::<Result<(), Status>>()?;
    done.compared.extend(names.into_iter().map(str::to_owned));
    Ok(())
}

async fn perform(loopback: &Loopback, name: String, step: Step) -> Result<(), Status> {
    let result = match step {
        Step::Create(object) => loopback
            .create(GROUP, RESOURCE, object)
            .await
            .map(|o| o.revision),
        Step::Update(spec) => {
            let make = |old: &Value| {
                let mut new = old.clone();
                new["spec"] = spec.clone();
                new
            };
            let made = loopback.change(GROUP, RESOURCE, "", &name, make).await;
            made.map(|o| o.revision)
        }
        Step::Delete => {
            let call = loopback.call_of("delete", GROUP, RESOURCE, "", &name)?;
            let options = delete::Options::default();
            let gone = delete::with_options(&call, &name, &options, false).await;
            gone.map(|_| loopback.state.cache().revision())
        }
    };
    match result {
        Ok(revision) => loopback.state.reach(revision).await,
        // Another server was faster, or somebody changes it: its next state is coming.
        Err(s) if s.is("AlreadyExists") || s.is("NotFound") || s.is("Conflict") => Ok(()),
        Err(s) => Err(s),
    }
}

static UNAVAILABLE: LazyLock<Counters<2>> = LazyLock::new(|| {
    Counters::new(
        "aggregator_unavailable_apiservice_total",
        "How often an APIService became unavailable, by its name and the reason",
        ["name", "reason"],
    )
});

/// Writes whether an APIService is available, where its object says something else.
async fn say(
    loopback: &Loopback,
    name: &str,
    service: &Value,
    available: &Available,
) -> Result<(), Status> {
    let now = time_text(loopback.state.now());
    if conditions(service, available, &now).is_none() {
        return Ok(());
    }
    let (is, reason, message) = (available.is, available.reason, &available.message);
    tracing::info!(name, is, reason, message, "availability of an APIService");
    if !is {
        UNAVAILABLE.add([name, reason]);
    }
    let make = |old: &Value| {
        let mut new = old.clone();
        if let Some(all) = conditions(old, available, &now) {
            new["status"]["conditions"] = all;
        }
        new
    };
    match loopback.change_status(GROUP, RESOURCE, name, make).await {
        Ok(made) => loopback.state.reach(made.revision).await,
        Err(s) if s.is("NotFound") || s.is("Conflict") => Ok(()),
        Err(s) => Err(s),
    }
}

/// Asks one extension server for as long as its APIService stays as it is.
async fn follow(loopback: Loopback, aggregation: Arc<Aggregation>, known: Arc<ApiServiceSpec>) {
    let state = loopback.state.clone();
    let mut failures = 0;
    loop {
        let namespace = &known.service.0;
        let services = cursor(&state, "", "services", namespace);
        let slices = cursor(&state, "discovery.k8s.io", "endpointslices", namespace);
        let work = ask(&loopback, &aggregation, &known);
        let is_fine = tokio::select! {
            biased;
            () = ended(&state, &known.stop) => return,
            is_fine = work => is_fine,
        };
        failures = if is_fine { 0 } else { failures + 1 };
        let wait = match failures {
            0 => EVERY,
            n => RETRY.saturating_mul(1 << n.min(5)).min(EVERY),
        };
        tokio::select! {
            biased;
            () = ended(&state, &known.stop) => return,
            () = changed(services) => {}
            () = changed(slices) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn ended(state: &State, stop: &CancellationToken) {
    tokio::select! {
        biased;
        () = state.stop().cancelled() => {}
        () = stop.cancelled() => {}
    }
}

async fn changed(cursor: Option<Cursor>) {
    match cursor {
        Some(mut cursor) => cursor.changed().await,
        None => std::future::pending().await,
    }
}

/// Asks once whether a server answers, and what it serves; whether all went well.
async fn ask(loopback: &Loopback, aggregation: &Aggregation, known: &Arc<ApiServiceSpec>) -> bool {
    let state = &loopback.state;
    let available = fetch::check(state, known).await;
    let mut is_fine = available.is;
    if let Some(service) = state.lookup(GROUP, RESOURCE, "", &known.name) {
        let service = service.to_value();
        if meta_text(&service, "uid") == known.uid
            && let Err(s) = say(loopback, &known.name, &service, &available).await
        {
            tracing::warn!("{}: {s}", known.name);
            is_fine = false;
        }
    }
    let before = known.pages.load_full();
    let pages = match available.is {
        true => fetch::pages(state, known).await,
        false => before.stale(),
    };
    is_fine &= pages.is_current;
    if pages != *before {
        known.pages.store(Arc::new(pages));
        aggregation.show();
    }
    is_fine
}
