//! The plan of a StorageVersionMigration: notes the version from which on everything is stored as it
//! should be, writes what is older once more as it is, and says how that went.

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
    pub of: Of,
    /// Why an object could not be written, for a reason that stays.
    pub failure: Option<String>,
}

fn is_true(migration: &Value, kind: &str) -> bool {
    let conditions = migration["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    all.any(|c| c["type"] == kind && c["status"] == "True")
}

/// Whether nothing is left to do.
pub fn has_ended(migration: &Value) -> bool {
    is_true(migration, "Succeeded") || is_true(migration, "Failed")
}

/// The version up to which objects are written once more, if it was noted.
pub fn bound(migration: &Value) -> Option<u64> {
    migration["status"]["resourceVersion"]
        .as_str()?
        .parse()
        .ok()
}

/// The migration with one more condition, to be written.
fn status(seen: &Value, kind: &str, reason: &str, message: &str, now_millis: i64) -> Action {
    let mut object = seen.clone();
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(all) = conditions.as_array_mut() {
        all.push(json!({
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": time_text(now_millis),
        }));
    }
    write(object)
}

fn write(object: Value) -> Action {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Action::Update {
        target: Target {
            resource: resource(),
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

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let migration = &seen.migration;
    let mut plan = Plan::nothing();
    if has_ended(migration) {
        return plan;
    }
    let failed = |why: &str| {
        let text = format!("migration encountered unhandled error: {why}");
        let reason = "StorageVersionMigrationFailed";
        Plan::from(status(migration, "Failed", reason, &text, now_millis))
    };
    if let Some(why) = &seen.failure {
        return failed(why);
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
        let mut noted = migration.clone();
        noted["status"]["resourceVersion"] = json!(newest.to_string());
        let action = match is_true(migration, "Running") {
            true => write(noted),
            false => {
                let reason = "StorageVersionMigrationInProgress";
                status(&noted, "Running", reason, "", now_millis)
            }
        };
        plan.actions.push(action);
        plan.wake_after_millis = Some(NEXT_STEP_MILLIS);
        return plan;
    };
    // What was written since is stored as it should be.
    let old = items.iter().filter(|item| item.version <= bound);
    plan.actions = old.map(|item| rewrite(resource, item)).collect();
    let reason = "StorageVersionMigrationSucceeded";
    let done = status(migration, "Succeeded", reason, "", now_millis);
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
        assert_eq!(last["status"], "True");
        let kind = last["type"].as_str().unwrap().to_owned();
        (kind, object["status"]["resourceVersion"].clone())
    }

    #[test]
    fn what_is_older_than_the_noted_version_is_written_and_then_it_is_done() {
        let begins = plan(&seen(json!({}), secrets(&[])), NOW);
        assert_eq!(written(&begins.actions), ("Running".into(), json!("70")));
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
    fn a_kind_that_nobody_serves_is_waited_for_a_minute() {
        let waits = plan(&seen(json!({}), Of::Nothing), NOW);
        assert!(waits.is_empty() && waits.wake_after_millis == Some(5_000));
        let fails = plan(&seen(json!({}), Of::Nothing), NOW + 30_000);
        assert_eq!(written(&fails.actions).0, "Failed");
        let unfit = plan(&seen(json!({}), Of::Unfit("it cannot be".into())), NOW);
        assert_eq!(written(&unfit.actions).0, "Failed");
    }
}
