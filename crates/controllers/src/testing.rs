//! A pretended cluster for the tests of plans: objects as JSON, changed by actions as the API
//! server would change them, and pods that start and end when the test says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Patch, Plan};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use crate::common::merge;

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(all) => {
            all.retain(|_, v| !v.is_null());
            all.values_mut().for_each(without_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// A pod as the controllers' cache has it: without what no part of the control plane reads. So a
/// plan that reads more fails its own tests.
fn as_cached(pod: Value) -> Value {
    let mut pod = serde_json::from_value(pod).unwrap();
    control::trimmed::pod(&mut pod);
    serde_json::to_value(&pod).unwrap()
}

/// What starts a pod reaches.
pub const READY: &str = "True";

pub struct World {
    /// By kind and name.
    pub objects: BTreeMap<(String, String), Value>,
    pub now_millis: i64,
    /// What was done, as `Create Pod/web-0`; changes of a status as `Status Job/a`.
    pub log: Vec<String>,
    count: u64,
}

impl World {
    pub fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            now_millis: 1_700_000_000_000,
            log: Vec::new(),
            count: 0,
        }
    }

    pub fn put(&mut self, kind: &str, mut object: Value) {
        self.count += 1;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("{name}/{}", self.count));
        }
        if meta["namespace"].is_null() {
            meta["namespace"] = json!("a");
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(crate::common::time_text(self.now_millis));
        }
        meta["resourceVersion"] = json!(self.count.to_string());
        if kind == "Pod" && object["status"]["phase"].is_null() {
            object["status"] = json!({ "phase": "Pending" });
        }
        without_nulls(&mut object);
        self.objects.insert((kind.into(), name), object);
    }

    pub fn at(&mut self, kind: &str, name: &str) -> &mut Value {
        let found = self.objects.get_mut(&(kind.into(), name.into()));
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    pub fn names(&self, kind: &str) -> Vec<String> {
        let all = self.objects.keys().filter(|(k, _)| k == kind);
        all.map(|(_, n)| n.clone()).collect()
    }

    pub fn one<K: DeserializeOwned>(&self, kind: &str, name: &str) -> Arc<K> {
        let found = self.objects[&(kind.to_owned(), name.to_owned())].clone();
        let shown = match kind {
            "Pod" => as_cached(found),
            _ => found,
        };
        Arc::new(serde_json::from_value(shown).unwrap())
    }

    pub fn all<K: DeserializeOwned>(&self, kind: &str) -> Vec<Arc<K>> {
        let names = self.names(kind);
        names.iter().map(|n| self.one(kind, n)).collect()
    }

    /// Does what is planned; the number of actions, events not counted.
    pub fn apply(&mut self, plan: Plan) -> usize {
        let all = plan.actions.into_iter().chain(plan.then);
        let all = all.chain(plan.last);
        all.map(|action| usize::from(self.act(action))).sum()
    }

    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Noted { action, .. } => return self.act(*action),
            Action::Event { reason, .. } => {
                self.log.push(format!("Event {reason}"));
                return false;
            }
            // Only the namespace controller does, whose plans are looked at themselves.
            Action::DeleteCollection { target, .. } => panic!("all of {target:?}"),
            Action::Create { target, object } => {
                let kind = &target.resource.kind;
                self.log.push(format!("Create {kind}/{}", target.name));
                let key = (kind.clone(), target.name.clone());
                assert!(!self.objects.contains_key(&key), "{key:?} exists");
                self.put(kind, object);
                // Two plans never happen at the same time.
                self.now_millis += 1;
            }
            Action::Patch {
                target,
                subresource,
                patch,
            } => {
                let (kind, name) = (target.resource.kind, target.name);
                let verb = if subresource == "status" {
                    "Status"
                } else {
                    "Patch"
                };
                self.log.push(format!("{verb} {kind}/{name}"));
                let patch = match patch {
                    Patch::Merge(patch) => patch,
                    Patch::Strategic(patch) => self.without_finalizers(&kind, &name, patch),
                    Patch::Json(patch) => panic!("{patch:?}"),
                };
                let object = self.at(&kind, &name);
                for precondition in ["uid", "resourceVersion"] {
                    let wanted = &patch["metadata"][precondition];
                    assert!(wanted.is_null() || object["metadata"][precondition] == *wanted);
                }
                merge(object, &patch);
                self.touch(&kind, &name);
            }
            Action::Update {
                target,
                subresource,
                object,
            } => {
                let (kind, name) = (target.resource.kind, target.name);
                let verb = if subresource == "status" {
                    "Status"
                } else {
                    "Update"
                };
                self.log.push(format!("{verb} {kind}/{name}"));
                let now = self.at(&kind, &name);
                assert_eq!(
                    now["metadata"]["resourceVersion"],
                    object["metadata"]["resourceVersion"]
                );
                *now = object;
                without_nulls(now);
                self.touch(&kind, &name);
            }
            Action::Delete { target, uid, .. } => {
                let (kind, name) = (target.resource.kind, target.name);
                self.log.push(format!("Delete {kind}/{name}"));
                let now = json!(crate::common::time_text(self.now_millis));
                let object = self.at(&kind, &name);
                assert!(uid.is_none() || object["metadata"]["uid"].as_str() == uid.as_deref());
                if object["metadata"]["deletionTimestamp"].is_null() {
                    object["metadata"]["deletionTimestamp"] = now;
                }
                let runs = object["status"]["phase"] == "Running";
                if kind != "Pod" || !runs {
                    self.let_go(&kind, &name);
                } else {
                    self.touch(&kind, &name);
                }
            }
        }
        true
    }

    /// The one directive of strategic patches that is used, as a merge patch.
    fn without_finalizers(&mut self, kind: &str, name: &str, mut patch: Value) -> Value {
        let meta = patch["metadata"].as_object_mut().unwrap();
        let gone = meta.remove("$deleteFromPrimitiveList/finalizers").unwrap();
        let now = self.at(kind, name)["metadata"]["finalizers"].as_array();
        let mut now = now.cloned().unwrap_or_default();
        now.retain(|f| !gone.as_array().unwrap().contains(f));
        patch["metadata"]["finalizers"] = json!(now);
        patch
    }

    fn touch(&mut self, kind: &str, name: &str) {
        self.count += 1;
        let version = json!(self.count.to_string());
        self.at(kind, name)["metadata"]["resourceVersion"] = version;
        let meta = &self.at(kind, name)["metadata"];
        let held = meta["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let ended = self.at(kind, name)["status"]["phase"] != "Running";
        if !self.at(kind, name)["metadata"]["deletionTimestamp"].is_null() && !held && ended {
            self.let_go(kind, name);
        }
    }

    fn let_go(&mut self, kind: &str, name: &str) {
        let meta = &self.at(kind, name)["metadata"];
        if meta["finalizers"].as_array().is_none_or(Vec::is_empty) {
            self.objects.remove(&(kind.into(), name.into()));
        }
    }

    /// A pod's phase and whether it is ready, from now on.
    pub fn set_pod(&mut self, name: &str, phase: &str, ready: bool) {
        let since = crate::common::time_text(self.now_millis);
        let status = if ready { READY } else { "False" };
        let pod = self.at("Pod", name);
        let meta = pod["status"].clone();
        pod["status"] = json!({ "phase": phase, "conditions": [
            { "type": "Ready", "status": status, "lastTransitionTime": since }] });
        if let Some(containers) = meta.get("containerStatuses") {
            pod["status"]["containerStatuses"] = containers.clone();
        } else if matches!(phase, "Failed" | "Succeeded") {
            // It ran; one that its node refused has none.
            pod["status"]["containerStatuses"] = json!([{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0 }]);
        }
        self.touch("Pod", name);
    }

    /// Pods that wait run and are ready; those that are being deleted are gone.
    pub fn kubelets(&mut self) {
        self.now_millis += 1_000;
        for name in self.names("Pod") {
            let pod = self.at("Pod", &name);
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                if pod["status"]["phase"] == "Running" {
                    pod["status"]["phase"] = json!("Failed");
                    self.touch("Pod", &name);
                }
            } else if pod["status"]["phase"] == "Pending" {
                self.set_pod(&name, "Running", true);
            }
        }
    }

    /// What was done since the last call.
    pub fn done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}
