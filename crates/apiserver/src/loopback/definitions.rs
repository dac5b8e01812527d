//! Custom kinds: each established CustomResourceDefinition is a row of this server, and goes with
//! its objects when it is deleted. Every server of a cluster does the same by itself; what they
//! write is decided from what is stored, so that they write the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use registry::custom::status::{AcceptedNames, decide};
use registry::custom::{CLEANUP, Facts, row};
use registry::{Convert, Row};
use serde_json::Value;
use store::{Revision, StoreError};

use super::Loopback;
use super::conversion::Webhook;
use crate::cache::{Object, Selection};
use crate::object::time_text;
use crate::state::State;
use crate::verbs::delete::{self, Options};
use crate::verbs::update::change;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
/// After a failure, and to look again at what others hold up (finalizers of custom objects).
const AGAIN: Duration = Duration::from_secs(5);
/// Objects of a definition that goes that are deleted between two looks at what is left.
const DELETED_AT_ONCE: usize = 1000;

/// A definition as it was when it was looked at last.
struct ObservedDefinition {
    revision: Revision,
    facts: Arc<Facts>,
}

/// A row that stands for a definition, and what it was made from.
struct CustomRow {
    from: Arc<Facts>,
    row: Arc<Row>,
}

/// What is known of definitions, and the rows of custom kinds, by the definitions' names.
#[derive(Default)]
pub struct Rows {
    seen: HashMap<String, ObservedDefinition>,
    made: HashMap<String, CustomRow>,
}

/// Brings kinds in line with definitions, until the server stops.
pub async fn keep(loopback: Loopback, mut made: Rows) {
    loop {
        let kinds = loopback.state.kinds();
        let cache = kinds
            .resource(GROUP, RESOURCE)
            .and_then(|r| loopback.state.cache().of(r));
        let Some(cache) = cache else { return };
        let mut cursor = cache.from_now(&Selection::default());
        let again = match turn(&loopback, &mut made).await {
            Ok(true) => None,
            Ok(false) => Some(AGAIN),
            Err(error) => {
                tracing::warn!("custom resources: {error}");
                Some(AGAIN)
            }
        };
        let wait = async {
            match again {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = loopback.state.stop().cancelled() => return,
            () = cursor.changed() => {}
            () = wait => {}
        }
    }
}

/// Looks once at the definitions that changed, and at those whose names others have. False when
/// something is left for later.
pub async fn turn(loopback: &Loopback, known: &mut Rows) -> Result<bool, Status> {
    let stored = loopback.state.lookup_all(GROUP, RESOURCE, "");
    let mut all = Vec::with_capacity(stored.len());
    let mut open = Vec::new();
    for (nth, object) in stored.iter().enumerate() {
        let seen = known.seen.get(object.name());
        let seen = seen.filter(|seen| seen.revision == object.revision);
        let facts = seen.map(|s| s.facts.clone());
        let facts = facts.unwrap_or_else(|| Arc::new(Facts::of(&object.to_value())));
        if seen.is_none() || !facts.has_its_names {
            open.push(nth);
        }
        all.push(facts);
    }
    let now = time_text(loopback.state.now());
    let mut next: BTreeMap<String, Next> = BTreeMap::new();
    for nth in open {
        let mut crd = stored[nth].to_value();
        let taken = taken(loopback, &all[nth], &all);
        if let Some(status) = decide(&crd, &taken, &now) {
            crd["status"] = status.clone();
            // Those that come after it see the names that it gets.
            all[nth] = Arc::new(Facts::of(&crd));
            next.insert(all[nth].name.clone(), Next { taken, status });
        }
    }
    // Rows come first: who sees a definition established finds its objects served.
    rows(loopback, &mut known.made, &stored, &all, &next)
        .await
        .map_err(|e| crate::errors::from_store(&e))?;
    let mut done = true;
    for (name, next) in &next {
        match settle(loopback, name, &next.taken, &now).await {
            Ok(()) => {}
            // Somebody else was faster, or it is gone: its next state is coming.
            Err(s) if s.is("NotFound") || s.is("Conflict") => {}
            Err(s) => {
                tracing::warn!("{name}: {s}");
                done = false;
            }
        }
    }
    for facts in all.iter().filter(|f| f.is_terminating) {
        done &= clean(loopback, facts).await.unwrap_or_else(|s| {
            tracing::warn!("{}: its objects: {s}", facts.name);
            false
        });
    }
    let seen = stored.iter().zip(all);
    let seen = seen.filter(|(_, facts)| !next.contains_key(&facts.name));
    known.seen = seen
        .map(|(object, facts)| {
            let revision = object.revision;
            (facts.name.clone(), ObservedDefinition { revision, facts })
        })
        .collect();
    Ok(done)
}

/// A status that a definition does not have yet.
struct Next {
    /// The names that it was decided by.
    taken: AcceptedNames,
    status: Value,
}

/// The names that a definition cannot have.
fn taken(loopback: &Loopback, facts: &Facts, all: &[Arc<Facts>]) -> AcceptedNames {
    let all = all.iter().map(AsRef::as_ref);
    let mut taken = AcceptedNames::of(&facts.group, &facts.name, all);
    for row in loopback.state.kinds().rows() {
        // Built-in kinds of the group have their names already.
        if *row.group == *facts.group && !row.strategy.is_custom() {
            taken.add_row(row);
        }
    }
    taken
}

/// Writes the status that a definition should have, if it has another. It is decided once more, of
/// what is stored by now: what [`turn`] decided was for the row, which had to be there before, and
/// somebody may have written in between. Where that makes a difference, the definition has changed,
/// and the next turn makes its row of that.
async fn settle(
    loopback: &Loopback,
    name: &str,
    taken: &AcceptedNames,
    now: &str,
) -> Result<(), Status> {
    let mut call = loopback.call(GROUP, RESOURCE, "")?;
    call.info_mut().verb = "update".into();
    call.info_mut().name = name.into();
    call.info_mut().subresource = "status".into();
    let done = change(&call, name, "status", false, |_, old| {
        let mut new = old.clone();
        if let Some(status) = decide(old, taken, now) {
            new["status"] = status;
        }
        Ok(new)
    });
    let done = done.await?;
    loopback.state.reach(done.revision).await
}

/// Exchanges rows where definitions came, changed or went.
async fn rows(
    loopback: &Loopback,
    made: &mut HashMap<String, CustomRow>,
    stored: &[Arc<Object>],
    all: &[Arc<Facts>],
    statuses: &BTreeMap<String, Next>,
) -> Result<(), StoreError> {
    let mut next = HashMap::new();
    let mut changed = false;
    for (object, facts) in stored.iter().zip(all).filter(|(_, f)| f.is_established) {
        let (name, from) = (facts.name.clone(), facts.clone());
        if let Some(have) = made.get(&name)
            && have.from == from
        {
            let row = have.row.clone();
            next.insert(name, CustomRow { from, row });
            continue;
        }
        let mut crd = object.to_value();
        if let Some(next) = statuses.get(&name) {
            crd["status"] = next.status.clone();
        }
        if let Some(row) = compiled(loopback.state.clone(), &name, crd).await {
            changed = true;
            let row = Arc::new(row);
            next.insert(name, CustomRow { from, row });
        }
    }
    changed |= next.len() != made.len();
    if changed {
        let rows: Vec<Arc<Row>> = next.values().map(|m: &CustomRow| m.row.clone()).collect();
        loopback
            .state
            .change_rows(|all| {
                all.retain(|r| !r.strategy.is_custom());
                let built_in: Vec<_> = all
                    .iter()
                    .map(|r| (r.group.clone(), r.resource.clone()))
                    .collect();
                let mut rows = rows;
                rows.retain(|r| !built_in.contains(&(r.group.clone(), r.resource.clone())));
                rows.sort_by(|a, b| (&a.group, &a.resource).cmp(&(&b.group, &b.resource)));
                all.extend(rows);
            })
            .await?;
    }
    *made = next;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "long computing: rules are compiled; what comes of it does not depend on when"
)]
async fn compiled(state: State, name: &str, crd: Value) -> Option<Row> {
    let webhook = move |crd: &Value| -> Arc<dyn Convert> { Arc::new(Webhook::new(&state, crd)) };
    let made = tokio::task::spawn_blocking(move || row::row(&crd, webhook)).await;
    made.unwrap_or_else(|e| {
        tracing::error!(name, "a definition cannot be served: {e}");
        None
    })
}

/// Deletes the objects of a definition that goes, and lets it go when there are none left.
async fn clean(loopback: &Loopback, facts: &Facts) -> Result<bool, Status> {
    let group = facts.group.as_str();
    let resource = facts.accepted["plural"].as_str().unwrap_or_default();
    // One that cannot be read would be left behind.
    let mut objects = loopback.state.all_of(group, resource, "")?;
    while !objects.is_empty() {
        let before = objects.len();
        for object in objects.iter().take(DELETED_AT_ONCE) {
            remove(loopback, group, resource, object).await?;
        }
        loopback
            .state
            .catch_up(loopback.state.cache().revision())
            .await?;
        objects = loopback.state.all_of(group, resource, "")?;
        if objects.len() >= before {
            // Held by finalizers of others.
            return Ok(false);
        }
    }
    let made = loopback.change(GROUP, RESOURCE, "", &facts.name, |old| {
        let mut new = old.clone();
        if let Some(all) = new
            .pointer_mut("/metadata/finalizers")
            .and_then(Value::as_array_mut)
        {
            all.retain(|f| f != CLEANUP);
        }
        new
    });
    match made.await {
        Ok(_) => Ok(true),
        Err(s) if s.is("NotFound") || s.is("Conflict") => Ok(true),
        Err(s) => Err(s),
    }
}

async fn remove(
    loopback: &Loopback,
    group: &str,
    resource: &str,
    object: &Object,
) -> Result<(), Status> {
    let mut call = loopback.call(group, resource, object.namespace())?;
    call.info_mut().verb = "delete".into();
    call.info_mut().name = object.name().into();
    match delete::with_options(&call, object.name(), &Options::default(), false).await {
        // Somebody else was faster, or changes it: it is looked at again.
        Err(s) if !s.is("NotFound") && !s.is("Conflict") => Err(s),
        _ => Ok(()),
    }
}
