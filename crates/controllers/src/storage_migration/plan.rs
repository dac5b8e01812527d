//! The plan of a StorageVersionMigration: notes the version from which on everything is stored as it
//! should be, writes what is older once more as it is, and says how that went; of a custom kind its
//! definition says it, too. Of one resource one migration runs at a time.

use control::action::{Action, Patch, Plan, Target};
use kube::core::ApiResource;
use serde_json::{Value, json};

use crate::common::{millis_of, time_text, wake_at};

/// A kind may be made a moment after its migration; and between looks for it. Upstream's minute.
const SERVED_WITHIN_MILLIS: i64 = 60_000;
const LOOK_AGAIN_MILLIS: i64 = 5_000;
/// Until the next step, when one was written.
const NEXT_STEP_MILLIS: u64 = 100;

/// An object that may be stored in an older form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub version: u64,
}

/// The resource that is to be migrated.
#[derive(Clone, Debug)]
pub enum Of {
    /// Nobody serves it.
    Nothing,
    /// It cannot be listed or patched.
    Unfit(String),
    /// What is at which version now; the objects where a migration runs already.
    Served {
        resource: ApiResource,
        newest: u64,
        items: Vec<Item>,
    },
}

/// A migration, as it is stored, and what it is about.
#[derive(Clone, Debug)]
pub struct Observed {
    pub migration: Value,
    /// Whether no other migration of the resource comes first.
    pub is_its_turn: bool,
    /// The definition of the resource, where it is a custom one.
    pub definition: Option<Value>,
    pub of: Of,
    /// Why an object could not be written, for a reason that stays.
    pub failure: Option<String>,
}

fn condition<'a>(of: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = of["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind)
}

fn is_true(of: &Value, kind: &str) -> bool {
    condition(of, kind).is_some_and(|c| c["status"] == "True")
}

/// Whether nothing is left to be written again.
pub fn has_ended(migration: &Value) -> bool {
    is_true(migration, "Succeeded") || is_true(migration, "Failed")
}

/// Whether nothing at all is left to do: its end is said everywhere, too.
pub fn is_done(migration: &Value) -> bool {
    has_ended(migration) && !is_true(migration, "Running")
}

/// Whether a migration is the one that runs of its resource, or the next: the oldest, then the first
/// by name.
pub fn is_its_turn(migration: &Value, all: &[Value]) -> bool {
    if is_true(migration, "Running") || has_ended(migration) {
        return true;
    }
    let resource = |of: &Value| {
        let asked = &of["spec"]["resource"];
        let part = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
        (part("group"), part("resource"))
    };
    // Times of one form, in the order of their texts.
    let rank = |of: &Value| {
        let meta = &of["metadata"];
        let part = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
        (part("creationTimestamp"), part("name"))
    };
    let (own, mine) = (resource(migration), rank(migration));
    let mut others = all
        .iter()
        .filter(|other| resource(other) == own && !has_ended(other));
    !others.any(|other| is_true(other, "Running") || rank(other) < mine)
}

/// The version up to which objects are written once more, if it was noted.
pub fn bound(migration: &Value) -> Option<u64> {
    migration["status"]["resourceVersion"]
        .as_str()?
        .parse()
        .ok()
}

/// A condition's new state.
#[derive(Clone, Copy)]
struct Said<'a> {
    kind: &'a str,
    is_true: bool,
    reason: &'a str,
    message: &'a str,
}

/// Sets a condition among those that an object has.
fn set(object: &mut Value, said: Said<'_>, now_millis: i64) {
    let status = if said.is_true { "True" } else { "False" };
    let before = condition(object, said.kind);
    let same = before.filter(|c| c["status"] == status);
    let since = same.map_or_else(
        || json!(time_text(now_millis)),
        |c| c["lastTransitionTime"].clone(),
    );
    let new = json!({
        "type": said.kind, "status": status, "reason": said.reason, "message": said.message,
        "lastTransitionTime": since,
    });
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(all) = conditions.as_array_mut() {
        match all.iter_mut().find(|c| c["type"] == said.kind) {
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}

/// The migration with a condition, to be written.
fn status(seen: &Value, said: Said<'_>, now_millis: i64) -> Action {
    let mut object = seen.clone();
    set(&mut object, said, now_millis);
    write(object)
}

fn write(mut object: Value) -> Action {
    let resource = resource();
    // Items of a list do not say it.
    object["apiVersion"] = json!(resource.api_version);
    object["kind"] = json!(resource.kind);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Action::Update {
        target: Target {
            resource,
            namespace: String::new(),
            name: name.to_owned(),
        },
        subresource: "status",
        object,
    }
}

/// The kind itself.
pub fn resource() -> ApiResource {
    ApiResource {
        group: "storagemigration.k8s.io".into(),
        version: "v1beta1".into(),
        api_version: "storagemigration.k8s.io/v1beta1".into(),
        kind: "StorageVersionMigration".into(),
        plural: "storageversionmigrations".into(),
    }
}

/// The kind of definitions.
pub fn definitions() -> ApiResource {
    ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    }
}

/// What a definition says of migrations.
const MIGRATING: &str = "StorageMigrating";

/// Tells the definition of a custom kind how its migration goes, as long as it is as it was read.
fn tell(definition: &Value, said: Said<'_>, stored: Option<&Value>, now_millis: i64) -> Action {
    let mut object = definition.clone();
    set(&mut object, said, now_millis);
    let generation = &definition["metadata"]["generation"];
    let conditions = object["status"]["conditions"].as_array_mut();
    for one in conditions.into_iter().flatten() {
        if one["type"] == said.kind {
            one["observedGeneration"] = generation.clone();
        }
    }
    let mut status = json!({ "conditions": object["status"]["conditions"] });
    if let Some(version) = stored {
        status["storedVersions"] = json!([version]);
    }
    let meta = &definition["metadata"];
    let version = json!({ "resourceVersion": meta["resourceVersion"] });
    Action::Patch {
        target: Target {
            resource: definitions(),
            namespace: String::new(),
            name: meta["name"].as_str().unwrap_or_default().to_owned(),
        },
        subresource: "status",
        patch: Patch::Merge(json!({ "metadata": version, "status": status })),
    }
}

/// What is said of a migration when it has ended: first in the definition, then that it does not run
/// any more.
fn told(seen: &Observed, now_millis: i64) -> Plan {
    let succeeded = is_true(&seen.migration, "Succeeded");
    let mut plan = Plan::nothing();
    if let Some(definition) = &seen.definition {
        let generation = &definition["metadata"]["generation"];
        let began = condition(definition, MIGRATING);
        // A definition that was changed meanwhile may store in another version by now.
        let is_same = began.is_some_and(|c| &c["observedGeneration"] == generation);
        let versions = definition["spec"]["versions"].as_array();
        let mut versions = versions.into_iter().flatten();
        let stores = versions.find(|v| v["storage"] == true);
        // Upstream forgets older versions after a failure, too, though objects may lie in them.
        let stored = stores.filter(|_| is_same && succeeded).map(|v| &v["name"]);
        let (reason, message) = match (succeeded, is_same) {
            (true, true) => (
                "MigrationSucceeded",
                "The migration has succeeded and the stored versions have been updated",
            ),
            (true, false) => (
                "MigrationSucceeded",
                "The migration has succeeded but the stored versions have not been updated due to \
                 a generation mismatch",
            ),
            (false, _) => ("MigrationFailed", "The migration has failed"),
        };
        let said = Said {
            kind: MIGRATING,
            is_true: false,
            reason,
            message,
        };
        plan.actions
            .push(tell(definition, said, stored, now_millis));
    }
    let said = Said {
        kind: "Running",
        is_true: false,
        reason: "MigrationCompleted",
        message: "Migration completed",
    };
    plan.then.push(status(&seen.migration, said, now_millis));
    plan
}

/// Notes the newest version, and that the migration runs.
fn begun(seen: &Observed, newest: u64, now_millis: i64) -> Plan {
    let migration = &seen.migration;
    let mut noted = migration.clone();
    noted["status"]["resourceVersion"] = json!(newest.to_string());
    let mut plan = Plan::nothing();
    plan.wake_after_millis = Some(NEXT_STEP_MILLIS);
    if is_true(migration, "Running") {
        plan.actions.push(write(noted));
        return plan;
    }
    if let Some(definition) = &seen.definition {
        let name = migration["metadata"]["name"].as_str().unwrap_or_default();
        let message = format!("Migration {name} is running");
        let said = Said {
            kind: MIGRATING,
            is_true: true,
            reason: "MigrationRunning",
            message: &message,
        };
        plan.actions.push(tell(definition, said, None, now_millis));
    }
    let said = Said {
        kind: "Running",
        is_true: true,
        reason: "MigrationRunning",
        message: "The migration is running",
    };
    plan.then.push(status(&noted, said, now_millis));
    plan
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let migration = &seen.migration;
    let mut plan = Plan::nothing();
    if is_done(migration) {
        return plan;
    }
    if has_ended(migration) {
        return told(seen, now_millis);
    }
    let ends = |kind: &str, reason: &str, message: &str| {
        let said = Said {
            kind,
            is_true: true,
            reason,
            message,
        };
        status(migration, said, now_millis)
    };
    let failed = |why: &str| {
        let text = format!("migration encountered unhandled error: {why}");
        Plan::from(ends("Failed", "StorageVersionMigrationFailed", &text))
    };
    if let Some(why) = &seen.failure {
        return failed(why);
    }
    if !seen.is_its_turn {
        plan.wake_after_millis = u64::try_from(LOOK_AGAIN_MILLIS).ok();
        return plan.because("another migration of its resource comes first");
    }
    let (resource, newest, items) = match &seen.of {
        Of::Served {
            resource,
            newest,
            items,
        } => (resource, newest, items),
        Of::Unfit(why) => return failed(why),
        Of::Nothing => {
            let made = serde_json::from_value(migration["metadata"]["creationTimestamp"].clone());
            let made = millis_of(made.ok().as_ref()).unwrap_or(0);
            if now_millis - made < SERVED_WITHIN_MILLIS {
                wake_at(Some(now_millis + LOOK_AGAIN_MILLIS), now_millis, &mut plan);
                return plan;
            }
            return failed("resource does not exist in discovery");
        }
    };
    let Some(bound) = bound(migration) else {
        return begun(seen, *newest, now_millis);
    };
    // What was written since is stored as it should be.
    let old = items.iter().filter(|item| item.version <= bound);
    plan.actions = old.map(|item| rewrite(resource, item)).collect();
    let done = ends("Succeeded", "StorageVersionMigrationSucceeded", "");
    plan.then.push(done);
    plan
}

/// Nothing is changed of the object: the server stores it again where it would be stored otherwise. It
/// is this very object at this very version, or what somebody else wrote meanwhile.
fn rewrite(resource: &ApiResource, item: &Item) -> Action {
    let metadata = json!({ "uid": item.uid, "resourceVersion": item.version.to_string() });
    Action::Patch {
        target: Target {
            resource: resource.clone(),
            namespace: item.namespace.clone(),
            name: item.name.clone(),
        },
        subresource: "",
        patch: Patch::Merge(json!({ "metadata": metadata })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn seen(status: Value, of: Of) -> Observed {
        Observed {
            migration: json!({
                "metadata": { "name": "m", "creationTimestamp": time_text(NOW - 30_000) },
                "spec": { "resource": { "group": "", "resource": "secrets" } },
                "status": status,
            }),
            is_its_turn: true,
            definition: None,
            of,
            failure: None,
        }
    }

    fn secrets(versions: &[u64]) -> Of {
        let item = |version: &u64| Item {
            namespace: "a".to_owned(),
            name: format!("s{version}"),
            uid: format!("u{version}"),
            version: *version,
        };
        Of::Served {
            resource: ApiResource {
                group: String::new(),
                version: "v1".to_owned(),
                api_version: "v1".to_owned(),
                kind: "Secret".to_owned(),
                plural: "secrets".to_owned(),
            },
            newest: 70,
            items: versions.iter().map(item).collect(),
        }
    }

    /// The condition that is written, and the version.
    fn written(actions: &[Action]) -> (String, Value) {
        let [
            Action::Update {
                subresource: "status",
                object,
                ..
            },
        ] = actions
        else {
            panic!("{actions:?}");
        };
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let last = conditions.last().unwrap();
        assert!(last["reason"].as_str().is_some_and(|r| !r.is_empty()));
        let kind = last["type"].as_str().unwrap().to_owned();
        (kind, object["status"]["resourceVersion"].clone())
    }

    #[test]
    fn what_is_older_than_the_noted_version_is_written_and_then_it_is_done() {
        let begins = plan(&seen(json!({}), secrets(&[])), NOW);
        assert_eq!(written(&begins.then), ("Running".into(), json!("70")));
        assert_eq!(begins.wake_after_millis, Some(NEXT_STEP_MILLIS));
        let runs = json!({ "resourceVersion": "70",
            "conditions": [{ "type": "Running", "status": "True" }] });
        let writes = plan(&seen(runs.clone(), secrets(&[9, 70, 71])), NOW);
        let [
            Action::Patch {
                target,
                patch: Patch::Merge(patch),
                ..
            },
            Action::Patch { target: second, .. },
        ] = &writes.actions[..]
        else {
            panic!("{writes:?}");
        };
        assert_eq!((&*target.name, &*second.name), ("s9", "s70"));
        let metadata = json!({ "uid": "u9", "resourceVersion": "9" });
        assert_eq!(*patch, json!({ "metadata": metadata }));
        assert_eq!(written(&writes.then).0, "Succeeded");
        let done = json!({ "conditions": [{ "type": "Succeeded", "status": "True" }] });
        assert!(plan(&seen(done, secrets(&[9])), NOW).is_empty());
        let mut refused = seen(runs, secrets(&[9]));
        refused.failure = Some("no".to_owned());
        assert_eq!(written(&plan(&refused, NOW).actions).0, "Failed");
    }

    #[test]
    fn what_has_ended_is_told_to_the_definition_and_runs_no_more() {
        let definition = |observed: u64| {
            json!({
                "metadata": { "name": "ships.sea.example.com", "generation": 3, "resourceVersion": "80" },
                "spec": { "versions": [{ "name": "v1" }, { "name": "v2", "storage": true }] },
                "status": { "storedVersions": ["v1", "v2"], "conditions": [
                    { "type": "Established", "status": "True" },
                    { "type": "StorageMigrating", "status": "True", "observedGeneration": observed,
                      "lastTransitionTime": "2026-01-01T00:00:00Z" },
                ] },
            })
        };
        let ended = |kind: &str| {
            json!({ "resourceVersion": "70", "conditions": [
                { "type": "Running", "status": "True" }, { "type": kind, "status": "True" }] })
        };
        let older = json!(["v2"]);
        for (kind, observed, reason, stored) in [
            ("Succeeded", 3, "MigrationSucceeded", Some(&older)),
            ("Succeeded", 2, "MigrationSucceeded", None),
            ("Failed", 3, "MigrationFailed", None),
        ] {
            let mut seen = seen(ended(kind), Of::Nothing);
            seen.definition = Some(definition(observed));
            let plan = plan(&seen, NOW);
            let [
                Action::Patch {
                    target,
                    subresource: "status",
                    patch: Patch::Merge(patch),
                },
            ] = &plan.actions[..]
            else {
                panic!("{plan:?}");
            };
            assert_eq!(target.name, "ships.sea.example.com");
            assert_eq!(patch["metadata"], json!({ "resourceVersion": "80" }));
            assert_eq!(patch["status"].get("storedVersions"), stored, "{kind}");
            let said = &patch["status"]["conditions"];
            assert_eq!(said[0]["type"], "Established");
            let wanted = ("False", reason, 3);
            let found = (
                said[1]["status"].as_str(),
                said[1]["reason"].as_str(),
                said[1]["observedGeneration"].as_u64(),
            );
            assert_eq!(found, (Some(wanted.0), Some(wanted.1), Some(wanted.2)));
            let [Action::Update { object, .. }] = &plan.then[..] else {
                panic!("{plan:?}");
            };
            let running = condition(object, "Running").unwrap();
            assert_eq!(running["status"], "False");
            assert_eq!(running["reason"], "MigrationCompleted");
            assert!(is_done(object));
        }
        let mut begins = seen(json!({}), secrets(&[]));
        begins.definition = Some(definition(1));
        let plan = plan(&begins, NOW);
        let [
            Action::Patch {
                patch: Patch::Merge(patch),
                ..
            },
        ] = &plan.actions[..]
        else {
            panic!("{plan:?}");
        };
        let said = &patch["status"]["conditions"][1];
        assert_eq!(
            (&said["status"], &said["observedGeneration"]),
            (&json!("True"), &json!(3))
        );
        assert_eq!(said["message"], "Migration m is running");
    }

    #[test]
    fn of_one_resource_one_migration_runs_at_a_time() {
        let one = |name: &str, second: u32, resource: &str, condition: Option<&str>| {
            let conditions: Vec<Value> = condition
                .map(|kind| json!({ "type": kind, "status": "True" }))
                .into_iter()
                .collect();
            json!({
                "metadata": { "name": name, "creationTimestamp": format!("2026-01-01T00:00:0{second}Z") },
                "spec": { "resource": { "resource": resource } },
                "status": { "conditions": conditions },
            })
        };
        let (old, new) = (one("b", 1, "secrets", None), one("a", 2, "secrets", None));
        let all = [old.clone(), new.clone(), one("c", 0, "pods", None)];
        assert!(is_its_turn(&old, &all) && !is_its_turn(&new, &all));
        let same = one("a", 1, "secrets", None);
        let all = [old.clone(), same.clone()];
        assert!(is_its_turn(&same, &all) && !is_its_turn(&old, &all));
        let running = one("d", 9, "secrets", Some("Running"));
        let all = [old.clone(), running.clone()];
        assert!(!is_its_turn(&old, &all) && is_its_turn(&running, &all));
        let ended = one("d", 0, "secrets", Some("Succeeded"));
        assert!(is_its_turn(&old, &[old.clone(), ended]));
        let mut waits = seen(json!({}), Of::Nothing);
        waits.is_its_turn = false;
        let plan = plan(&waits, NOW);
        assert!(plan.is_empty() && plan.wake_after_millis == Some(5_000));
    }

    #[test]
    fn a_kind_that_nobody_serves_is_waited_for_a_minute() {
        let waits = plan(&seen(json!({}), Of::Nothing), NOW);
        assert!(waits.is_empty() && waits.wake_after_millis == Some(5_000));
        let fails = plan(&seen(json!({}), Of::Nothing), NOW + 30_000);
        assert_eq!(written(&fails.actions).0, "Failed");
        let unfit = plan(&seen(json!({}), Of::Unfit("it cannot be".into())), NOW);
        assert_eq!(written(&unfit.actions).0, "Failed");
    }
}
