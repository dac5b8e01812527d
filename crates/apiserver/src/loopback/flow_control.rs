//! The objects of priority and fairness: those that every cluster has are made and kept as they are
//! built in, unless somebody has taken them over; and each flow schema says whether its priority
//! level exists. Every server does so by itself; they write the same.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use api::Status;
use clock::Instant;
use flowcontrol::defaults::{self, AUTO_UPDATE, Predefined};
use flowcontrol::{GROUP, config};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::Loopback;
use crate::cache::Selection;
use crate::http::request::Query;
use crate::object::time_text;
use crate::state::State;
use crate::verbs::delete::{self, Options};

const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// The managers of the fields, in upstream's words.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Somebody may have changed or deleted them; as upstream.
const EVERY: Duration = Duration::from_secs(60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// Writes of one flow schema's status in [`EVERY`] at most: another server may want another one (of
/// another version, say), and neither is to win by writing faster; as upstream.
const STATUSES: usize = 6;

/// Lends seats between priority levels, until the server stops.
pub async fn lend(state: State) {
    tokio::select! {
        biased;
        () = state.stop().cancelled() => {}
        () = state.flow_control().keep(state.configurations()) => {}
    }
}

/// Makes what is missing, and mends what is not as it should be. The writes run together and share
/// the store's commits.
pub async fn ensure(loopback: &Loopback) -> Result<(), Status> {
    let (schemas, levels) = (defaults::schemas(), defaults::levels());
    let schemas = schemas.iter().map(|d| (SCHEMAS, d));
    let all = levels.iter().map(|d| (LEVELS, d)).chain(schemas);
    let made = try_join_all(all.map(|(resource, d)| one(loopback, resource, d))).await?;
    loopback
        .state
        .reach(made.into_iter().max().unwrap_or(0))
        .await
}

/// Makes or mends one object; gives the revision of the write, 0 when there was none.
async fn one(loopback: &Loopback, resource: &str, want: &Predefined) -> Result<u64, Status> {
    let name = want.name();
    let done = match loopback.state.lookup(GROUP, resource, "", name) {
        Some(have) if mended(&have.to_value(), want).is_none() => return Ok(0),
        Some(_) => {
            let mut call = loopback.call_of("update", GROUP, resource, "", name)?;
            call.query = manager(PRODUCER);
            let make = |now: &Value| mended(now, want).unwrap_or_else(|| now.clone());
            loopback.change_by(&call, make).await
        }
        None => {
            let mut call = loopback.call_of("create", GROUP, resource, "", "")?;
            call.query = manager(PRODUCER);
            loopback.create_by(&call, want.value.clone()).await
        }
    };
    match done {
        Ok(o) => Ok(o.revision),
        // Another server was faster.
        Err(s) if s.is("AlreadyExists") || s.is("Conflict") || s.is("NotFound") => Ok(0),
        Err(s) => {
            tracing::error!("keeping {resource} {name}: {s}");
            Err(s)
        }
    }
}

fn manager(name: &str) -> Query {
    Query::parse(&format!("fieldManager={name}"))
}

/// The annotation's value, if it is a boolean.
fn auto_update(object: &Value) -> Option<bool> {
    let annotations = object.pointer("/metadata/annotations")?;
    match annotations.get(AUTO_UPDATE)?.as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The object as it should be; `None` when it is, or is somebody else's.
fn mended(have: &Value, want: &Predefined) -> Option<Value> {
    // Without a word on it, it is ours as long as nobody has changed it.
    let untouched = || have.pointer("/metadata/generation").and_then(Value::as_i64) == Some(1);
    let said = auto_update(have);
    let is_ours = want.is_mandatory || said.unwrap_or_else(untouched);
    let mut new = have.clone();
    if is_ours && !want.has_spec_of(have) {
        new["spec"] = want.value["spec"].clone();
    }
    if said != Some(is_ours) {
        if !new["metadata"]["annotations"].is_object() {
            new["metadata"]["annotations"] = json!({});
        }
        new["metadata"]["annotations"][AUTO_UPDATE] = is_ours.to_string().into();
    }
    (new != *have).then_some(new)
}

/// Deletes what an older server made and this one does not know any more.
async fn remove_unknown(loopback: &Loopback) -> Result<(), Status> {
    for (resource, known) in [(SCHEMAS, defaults::schemas()), (LEVELS, defaults::levels())] {
        for object in loopback.state.lookup_all(GROUP, resource, "") {
            let is_known = known.iter().any(|d| d.name() == object.name());
            if is_known || auto_update(&object.to_value()) != Some(true) {
                continue;
            }
            let name = object.name();
            let call = loopback.call_of("delete", GROUP, resource, "", name)?;
            match delete::with_options(&call, name, &Options::default(), false).await {
                Ok(_) => {
                    tracing::info!("deleted {resource} {name}, which this version does not have")
                }
                Err(s) if s.is("NotFound") || s.is("Conflict") => {}
                Err(s) => return Err(s),
            }
        }
    }
    Ok(())
}

/// Keeps objects and statuses up to date, until the server stops.
pub async fn keep(loopback: Loopback) {
    let kinds = loopback.state.kinds();
    let cache = |resource: &str| {
        let row = kinds.resource(GROUP, resource)?;
        loopback.state.cache().of(row)
    };
    let (Some(schemas), Some(levels)) = (cache(SCHEMAS), cache(LEVELS)) else {
        return;
    };
    let mut written = Written::default();
    let mut kept = Instant::now();
    loop {
        let mut schemas = schemas.from_now(&Selection::default());
        let mut levels = levels.from_now(&Selection::default());
        let mut wait = EVERY.saturating_sub(kept.elapsed());
        if let Err(e) = statuses(&loopback, &mut written).await {
            tracing::warn!("the status of flow schemas: {e}");
            wait = wait.min(AGAIN);
        }
        tokio::select! {
            biased;
            () = loopback.state.stop().cancelled() => return,
            () = schemas.changed() => {}
            () = levels.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
        if kept.elapsed() < EVERY {
            continue;
        }
        kept = Instant::now();
        for done in [ensure(&loopback).await, remove_unknown(&loopback).await] {
            if let Err(e) = done {
                tracing::warn!("the objects of priority and fairness: {e}");
            }
        }
    }
}

/// Which flow schemas' statuses were written when, in [`EVERY`].
#[derive(Default)]
struct Written(VecDeque<(Instant, String)>);

impl Written {
    /// Notes a write; whether it may be.
    fn note(&mut self, name: &str) -> bool {
        while self.0.front().is_some_and(|(at, _)| at.elapsed() > EVERY) {
            self.0.pop_front();
        }
        let lately = self.0.iter().filter(|(_, n)| n == name).count();
        let may = lately < STATUSES;
        if may {
            self.0.push_back((Instant::now(), name.to_owned()));
        }
        may
    }
}

/// Writes the conditions that are not as they should be.
async fn statuses(loopback: &Loopback, written: &mut Written) -> Result<(), Status> {
    let levels = loopback.state.lookup_all(GROUP, LEVELS, "");
    let levels = levels.iter().map(|o| o.to_value());
    // One that is broken counts as missing.
    let levels = levels.filter_map(|o| config::Level::read(&o).ok());
    let names: BTreeSet<String> = levels.map(|l| l.name).collect();
    let now = time_text(loopback.state.now());
    let mut all = Vec::new();
    for schema in loopback.state.lookup_all(GROUP, SCHEMAS, "") {
        let value = schema.to_value();
        if with_condition(&value, &names, &now).is_none() {
            continue;
        }
        if !written.note(schema.name()) {
            tracing::warn!(
                "somebody else writes the status of the flow schema {} as well",
                schema.name()
            );
            continue;
        }
        let (names, now) = (&names, &now);
        all.push(async move {
            let name = schema.name();
            let mut call = loopback.call_of("update", GROUP, SCHEMAS, "", name)?;
            call.info_mut().subresource = "status".into();
            call.query = manager(CONSUMER);
            let make = |old: &Value| with_condition(old, names, now).unwrap_or_else(|| old.clone());
            match loopback.change_by(&call, make).await {
                Err(s) if !s.is("NotFound") && !s.is("Conflict") => Err(s),
                _ => Ok(()),
            }
        });
    }
    try_join_all(all).await.map(drop)
}

/// The flow schema with the condition that it should have; `None` when it has it.
fn with_condition(schema: &Value, levels: &BTreeSet<String>, now: &str) -> Option<Value> {
    const DANGLING: &str = "Dangling";
    let level = schema.pointer("/spec/priorityLevelConfiguration/name");
    let level = level.and_then(Value::as_str).unwrap_or_default();
    let refers =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = if levels.contains(level) {
        ("False", "Found", format!("{refers} and it exists"))
    } else {
        (
            "True",
            "NotFound",
            format!("{refers} but there is no such object"),
        )
    };
    let conditions = schema.pointer("/status/conditions");
    let mut conditions = conditions
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let at = conditions.iter().position(|c| c["type"] == DANGLING);
    let have = at.and_then(|at| conditions.get(at));
    let is_same =
        |c: &&Value| c["status"] == status && c["reason"] == reason && c["message"] == *message;
    if have.is_some_and(|c| is_same(&c)) {
        return None;
    }
    let new = json!({
        "type": DANGLING,
        "status": status,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    });
    match at.and_then(|at| conditions.get_mut(at)) {
        Some(place) => *place = new,
        None => conditions.push(new),
    }
    let mut schema = schema.clone();
    if !schema["status"].is_object() {
        schema["status"] = json!({});
    }
    schema["status"]["conditions"] = conditions.into();
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested() -> Predefined {
        let all = defaults::schemas();
        let found = all.into_iter().find(|d| d.name() == "service-accounts");
        found.expect("built in")
    }

    #[test]
    fn what_somebody_took_over_is_left_alone() {
        let want = suggested();
        let mut have = want.value.clone();
        have["metadata"]["generation"] = 1.into();
        assert_eq!(mended(&have, &want), None);
        // Changed, and still ours by its annotation.
        have["metadata"]["generation"] = 2.into();
        have["spec"]["matchingPrecedence"] = 77.into();
        let new = mended(&have, &want).expect("mended");
        assert_eq!(new["spec"], want.value["spec"]);
        // Taken over.
        have["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(mended(&have, &want), None);
        // Changed without a word: what was changed stays, and the word is said.
        have["metadata"]["annotations"] = json!({});
        let new = mended(&have, &want).expect("mended");
        assert_eq!(new["spec"], have["spec"]);
        assert_eq!(auto_update(&new), Some(false));
        // Untouched without a word.
        have["metadata"]["generation"] = 1.into();
        let new = mended(&have, &want).expect("mended");
        assert_eq!(new["spec"], want.value["spec"]);
        assert_eq!(auto_update(&new), Some(true));
    }

    #[test]
    fn what_must_be_is_brought_back_whoever_changed_it() {
        let want = defaults::mandatory("FlowSchema", "catch-all").expect("built in");
        let mut have = want.value.clone();
        have["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        let new = mended(&have, &want).expect("mended");
        assert_eq!(auto_update(&new), Some(true));
    }

    #[test]
    fn a_flow_schema_says_whether_its_level_exists() {
        let mut levels = BTreeSet::new();
        let schema = suggested().value;
        let new = with_condition(&schema, &levels, "t").expect("to be written");
        let condition = &new["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("True"), &json!("NotFound"))
        );
        let message = "This FlowSchema references the PriorityLevelConfiguration object named \"workload-low\" but there is no such object";
        assert_eq!(condition["message"], message);
        assert_eq!(with_condition(&new, &levels, "u"), None);
        levels.insert("workload-low".to_owned());
        let new = with_condition(&new, &levels, "u").expect("to be written");
        let conditions = &new["status"]["conditions"];
        assert_eq!(conditions.as_array().map(Vec::len), Some(1));
        assert_eq!(
            (
                &conditions[0]["status"],
                &conditions[0]["lastTransitionTime"]
            ),
            (&json!("False"), &json!("u"))
        );
    }
}
