//! Custom kinds: each established CustomResourceDefinition is a row of this server, and goes with
//! its objects when it is deleted. Every server of a cluster does the same by itself; what they
//! write is decided from what is stored, so that they write the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use registry::custom::status::{Taken, decide};
use registry::custom::{CLEANUP, is_established, is_terminating, row};
use registry::{Convert, Row};
use serde_json::Value;
use store::StoreError;

use super::Loopback;
use super::conversion::Webhook;
use crate::cache::{Object, Selection};
use crate::object::{meta_text, time_text};
use crate::state::State;
use crate::verbs::delete::{self, Options};
use crate::verbs::update::change;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
/// After a failure, and to look again at what others hold up (finalizers of custom objects).
const AGAIN: Duration = Duration::from_secs(5);
/// Objects of a definition that goes that are deleted between two looks at what is left.
const DELETED_AT_ONCE: usize = 1000;

/// A row that stands for a definition, and what it was made from.
struct Made {
    from: Signature,
    row: Arc<Row>,
}

/// The rows of custom kinds, by the names of their definitions.
#[derive(Default)]
pub struct Rows(HashMap<String, Made>);

/// What a row follows from: another one is made when it changes.
#[derive(Clone, PartialEq, Eq)]
struct Signature {
    uid: String,
    generation: i64,
    names: Value,
    goes: bool,
}

/// Brings kinds in line with definitions, until the server stops.
pub async fn keep(loopback: Loopback, mut made: Rows) {
    loop {
        let kinds = loopback.state.kinds();
        let cache = kinds
            .resource(GROUP, RESOURCE)
            .and_then(|r| loopback.state.cache().of(r));
        let Some(cache) = cache else { return };
        let (_, mut cursor, _) = cache.shown(&Selection::default());
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

/// Looks at all definitions once. False when something is left for later.
pub async fn turn(loopback: &Loopback, made: &mut Rows) -> Result<bool, Status> {
    let stored = loopback.state.lookup_all(GROUP, RESOURCE, "");
    let all: Vec<Value> = stored.iter().map(|o| o.to_value()).collect();
    let mut done = true;
    for crd in &all {
        match settle(loopback, crd, &all).await {
            Ok(()) => {}
            // Somebody else was faster, or it is gone: its next state is coming.
            Err(s) if s.is("NotFound") || s.is("Conflict") => {}
            Err(s) => {
                tracing::warn!("{}: {s}", meta_text(crd, "name"));
                done = false;
            }
        }
    }
    rows(loopback, made, &all)
        .await
        .map_err(|e| crate::errors::from_store(&e))?;
    for crd in all.iter().filter(|c| is_terminating(c)) {
        done &= clean(loopback, crd).await?;
    }
    Ok(done)
}

/// Writes the status that a definition should have, if it has another.
async fn settle(loopback: &Loopback, crd: &Value, all: &[Value]) -> Result<(), Status> {
    let group = crd["spec"]["group"].as_str().unwrap_or_default();
    let name = meta_text(crd, "name");
    let mut taken = Taken::of(group, name, all);
    for row in loopback.state.kinds().rows() {
        // Built-in kinds of the group have their names already.
        if *row.group == *group && !row.strategy.is_custom() {
            taken.add_row(row);
        }
    }
    let now = time_text(loopback.state.now());
    if decide(crd, &taken, &now).is_none() {
        return Ok(());
    }
    let mut call = loopback.call(GROUP, RESOURCE, "")?;
    call.info_mut().verb = "update".into();
    call.info_mut().name = name.into();
    call.info_mut().subresource = "status".into();
    let done = change(&call, name, "status", false, |_, old| {
        let mut new = old.clone();
        if let Some(status) = decide(old, &taken, &now) {
            new["status"] = status;
        }
        Ok(new)
    });
    let done = done.await?;
    loopback.state.reach(done.revision).await
}

/// Exchanges rows where definitions came, changed or went.
async fn rows(loopback: &Loopback, made: &mut Rows, all: &[Value]) -> Result<(), StoreError> {
    let mut next = HashMap::new();
    let mut changed = false;
    for crd in all.iter().filter(|c| is_established(c)) {
        let name = meta_text(crd, "name").to_owned();
        let from = Signature {
            uid: meta_text(crd, "uid").to_owned(),
            generation: crd["metadata"]["generation"].as_i64().unwrap_or(0),
            names: crd["status"]["acceptedNames"].clone(),
            goes: is_terminating(crd),
        };
        if let Some(have) = made.0.get(&name)
            && have.from == from
        {
            let row = have.row.clone();
            next.insert(name, Made { from, row });
            continue;
        }
        if let Some(row) = compiled(loopback.state.clone(), crd.clone()).await {
            changed = true;
            let row = Arc::new(row);
            next.insert(name, Made { from, row });
        }
    }
    changed |= next.len() != made.0.len();
    if changed {
        let rows: Vec<Arc<Row>> = next.values().map(|m: &Made| m.row.clone()).collect();
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
    made.0 = next;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "long computing: rules are compiled; what comes of it does not depend on when"
)]
async fn compiled(state: State, crd: Value) -> Option<Row> {
    let webhook = move |crd: &Value| -> Arc<dyn Convert> { Arc::new(Webhook::new(&state, crd)) };
    let made = tokio::task::spawn_blocking(move || row::row(&crd, webhook)).await;
    made.ok().flatten()
}

/// Deletes the objects of a definition that goes, and lets it go when there are none left.
async fn clean(loopback: &Loopback, crd: &Value) -> Result<bool, Status> {
    let text = |pointer: &str| {
        crd.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (group, resource) = (text("/spec/group"), text("/status/acceptedNames/plural"));
    let mut objects = loopback.state.lookup_all(group, resource, "");
    while !objects.is_empty() {
        let before = objects.len();
        for object in objects.iter().take(DELETED_AT_ONCE) {
            remove(loopback, group, resource, object).await?;
        }
        loopback
            .state
            .catch_up(loopback.state.cache().revision())
            .await;
        objects = loopback.state.lookup_all(group, resource, "");
        if objects.len() >= before {
            // Held by finalizers of others.
            return Ok(false);
        }
    }
    let name = meta_text(crd, "name");
    let made = loopback.change(GROUP, RESOURCE, "", name, |old| {
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
