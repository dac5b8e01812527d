//! `eviction` deletes a pod if the disruption budget that selects it allows that. What it takes
//! from the budget is written before the pod goes, so that two evictions never take the same.

use api::status::Cause;
use api::{LabelSelector, Status};
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::call::{Answer, Call};
use crate::errors::from_store;
use crate::object::{meta_text, time_text};
use crate::verbs::admit::Admission;
use crate::verbs::decode::decode_body;
use crate::verbs::delete::{self, Options, Preconditions};
use crate::verbs::update::change;

/// Evicted pods that a budget lists and that are not seen to go; beyond, nothing more is evicted.
const MOST_DISRUPTED: usize = 2_000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What a budget has to do with the eviction of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Budget {
    /// It is not ready and not missed: it goes if it is still so.
    Unhealthy,
    /// It counts.
    Asked,
}

fn phase(pod: &Value) -> &str {
    pod.pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn is_deleting(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut all = conditions.into_iter().flatten();
    all.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// A pod that has ended, is not running yet, or is being deleted is guarded by no budget.
fn is_guarded(pod: &Value) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed" | "Pending") && !is_deleting(pod)
}

fn number(budget: &Value, field: &str) -> i64 {
    budget["status"][field].as_i64().unwrap_or(0)
}

fn asks(pod: &Value, budget: &Value) -> Budget {
    if is_ready(pod) {
        return Budget::Asked;
    }
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    let (healthy, wanted) = (
        number(budget, "currentHealthy"),
        number(budget, "desiredHealthy"),
    );
    if always || (healthy >= wanted && wanted > 0) {
        Budget::Unhealthy
    } else {
        Budget::Asked
    }
}

fn refused(message: String, retry_after_seconds: u32) -> Status {
    let mut status = Status::too_many_requests(REFUSED, retry_after_seconds);
    let details = status.details.get_or_insert_default();
    details.causes.push(Cause {
        reason: "DisruptionBudget".into(),
        message,
        ..Cause::default()
    });
    status
}

fn still_processed(name: &str) -> Status {
    refused(
        format!("The disruption budget {name} is still being processed by the server."),
        10,
    )
}

/// The condition that says whether a budget allows disruptions.
fn allowed_condition(budget: &Value) -> Option<&Value> {
    let all = budget.pointer("/status/conditions")?.as_array()?;
    all.iter().find(|c| c["type"] == "DisruptionAllowed")
}

fn why_not(name: &str, budget: &Value) -> String {
    let said = allowed_condition(budget).filter(|c| c["status"] == "False");
    let text = |field: &str| said.and_then(|c| c[field].as_str()).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    let (healthy, wanted) = (
        number(budget, "currentHealthy"),
        number(budget, "desiredHealthy"),
    );
    if reason == "SyncFailed" && !message.is_empty() {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        );
    }
    if healthy <= wanted {
        return format!(
            "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        );
    }
    if message.is_empty() {
        return format!("The disruption budget {name} does not allow evicting pods currently");
    }
    format!(
        "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
    )
}

/// The budget with one disruption less, and the pod noted.
fn taken(budget: &Value, pod: &str, now: i64) -> Result<Value, Status> {
    let name = meta_text(budget, "name");
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if number(budget, "observedGeneration") < generation {
        return Err(still_processed(name));
    }
    let resource = api::GroupResource::new("policy", "poddisruptionbudget");
    let forbidden = |why: &str| Err(Status::forbidden(&resource, name, why));
    let allowed = number(budget, "disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let noted = budget["status"]["disruptedPods"].as_object();
    if noted.is_some_and(|n| n.len() > MOST_DISRUPTED) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        return Err(refused(why_not(name, budget), 0));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if allowed == 1 {
        let condition = json!({ "type": "DisruptionAllowed", "status": "False",
            "reason": "InsufficientPods", "message": "", "lastTransitionTime": time_text(now),
            "observedGeneration": new["status"]["observedGeneration"] });
        let all = new["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let others = all.into_iter().filter(|c| c["type"] != "DisruptionAllowed");
        new["status"]["conditions"] = others.chain([condition]).collect();
    }
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][pod] = json!(time_text(now));
    Ok(new)
}

/// The pod with the condition that it is about to go.
fn disrupted(pod: &Value, now: i64) -> Value {
    let mut new = pod.clone();
    let condition = json!({ "type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastTransitionTime": time_text(now),
        "observedGeneration": new["metadata"]["generation"] });
    let all = new["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let others = all.into_iter().filter(|c| c["type"] != "DisruptionTarget");
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    new["status"]["conditions"] = others.chain([condition]).collect();
    new
}

/// Evicts the pod of the path.
pub async fn evict(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let mut eviction = decode_body(call, body)?;
    let name = meta_text(&eviction, "name");
    if !name.is_empty() && name != call.info.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let asked_dry = call.write_options()?;
    let name = &call.info.name;
    let mut admission = Admission::new(call, Operation::Create, "eviction", name, asked_dry);
    admission.mutate(Some(&mut eviction), None).await?;
    admission.validate(Some(&mut eviction), None).await?;
    let options = eviction.get("deleteOptions").cloned();
    let options: Options = serde_json::from_value(options.unwrap_or_else(|| json!({})))
        .map_err(|e| Status::bad_request(e.to_string()))?;
    let dry_run = asked_dry
        || crate::http::options::dry_run("delete", options.dry_run.iter().map(String::as_str))?;
    let stored = call.stored(&call.info.name).await?;
    let pod = stored.to_value();
    let version = stored.revision.to_string();
    let eviction = Eviction {
        call,
        options: &options,
        dry_run,
    };
    if !is_guarded(&pod) {
        // One that waits may begin to run meanwhile.
        let ends = is_deleting(&pod) || phase(&pod) != "Pending";
        return eviction.delete((!ends).then_some(version)).await;
    }
    // Any object of the namespace may be the pod's budget: one that the cache does not have yet must
    // not be passed over, wherever the pod was read.
    let cache = call.state.cache();
    cache.reach_newest().await.map_err(|e| from_store(&e))?;
    let budgets = eviction.budgets(&pod)?;
    let Some(budget) = budgets.first() else {
        return eviction.delete(None).await;
    };
    if budgets.len() > 1 {
        return Err(Status {
            code: 500,
            status: "Failure".into(),
            message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".into(),
            ..Status::default()
        });
    }
    let name = meta_text(budget, "name");
    match asks(&pod, budget) {
        Budget::Unhealthy => match eviction.delete(Some(version)).await {
            // It may be ready by now.
            Err(s) if s.is("Conflict") && eviction.any_version() => Err(still_processed(name)),
            done => done,
        },
        Budget::Asked => {
            eviction.take(name).await?;
            eviction.delete(None).await
        }
    }
}

struct Eviction<'a> {
    call: &'a Call,
    options: &'a Options,
    dry_run: bool,
}

impl Eviction<'_> {
    /// Whether the client did not name a version itself.
    fn any_version(&self) -> bool {
        let given = self.options.preconditions.as_ref();
        given.is_none_or(|p| p.resource_version.is_none())
    }

    /// The budgets that select the pod.
    fn budgets(&self, pod: &Value) -> Result<Vec<Value>, Status> {
        let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
        let selects = |budget: &Value| {
            let selector = budget.pointer("/spec/selector").filter(|s| s.is_object());
            let selector = selector.and_then(|s| LabelSelector::from_json(s).ok());
            selector.is_some_and(|s| s.matches(&labels))
        };
        // A budget that cannot be read may be one that protects the pod.
        let (state, namespace) = (&self.call.state, &self.call.info.namespace);
        let found = state.all_of("policy", "poddisruptionbudgets", namespace)?;
        let found = found.iter().map(|o| o.to_value());
        Ok(found.filter(selects).collect())
    }

    /// Takes one disruption from the budget; again and again while others write it, too.
    async fn take(&self, budget: &str) -> Result<(), Status> {
        let call = self
            .call
            .sibling("policy", "poddisruptionbudgets", budget)?;
        let (pod, now) = (&self.call.info.name, self.call.state.now());
        change(&call, budget, "status", self.dry_run, |_, old| {
            taken(old, pod, now)
        })
        .await?;
        Ok(())
    }

    /// Deletes the pod, if it is still at this version.
    async fn delete(&self, version: Option<String>) -> Result<Answer, Status> {
        let name = &self.call.info.name;
        let mut options = self.options.clone();
        let wanted = options
            .preconditions
            .get_or_insert_with(Preconditions::default);
        wanted.resource_version = wanted.resource_version.take().or(version);
        if !self.dry_run {
            let pods = self.call.sibling("", "pods", name)?.unjudged();
            let wanted = wanted.clone();
            let now = self.call.state.now();
            let changed = change(&pods, name, "status", false, |object, old| {
                let is =
                    |want: &Option<String>, have: &str| want.as_deref().is_none_or(|w| w == have);
                let version = object.revision.to_string();
                if is(&wanted.uid, meta_text(old, "uid")) && is(&wanted.resource_version, &version)
                {
                    return Ok(disrupted(old, now));
                }
                let why = "Precondition failed: the pod is another one, or was changed";
                Err(Status::conflict(&pods.resource(), name, why))
            });
            let changed = changed.await?;
            let bound = options.preconditions.as_mut();
            if let Some(p) = bound.filter(|p| p.resource_version.is_some()) {
                p.resource_version = Some(changed.revision.to_string());
            }
        }
        delete::with_options(self.call, name, &options, self.dry_run).await?;
        let mut done = Status::success();
        done.code = 201;
        Ok(Answer::Status(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: &Value, policy: &str) -> Value {
        json!({ "metadata": { "name": "b", "generation": 2 },
            "spec": { "unhealthyPodEvictionPolicy": policy }, "status": status })
    }

    fn pod(phase: &str, ready: bool) -> Value {
        let ready = if ready { "True" } else { "False" };
        json!({ "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] } })
    }

    #[test]
    fn pods_that_run_are_guarded_unless_they_are_sick_and_not_missed() {
        for (phase, guarded) in [
            ("Running", true),
            ("Unknown", true),
            ("Pending", false),
            ("Failed", false),
            ("Succeeded", false),
        ] {
            assert_eq!(is_guarded(&pod(phase, true)), guarded, "{phase}");
        }
        let enough = json!({ "currentHealthy": 2, "desiredHealthy": 2 });
        let few = json!({ "currentHealthy": 1, "desiredHealthy": 2 });
        let none = json!({ "currentHealthy": 0, "desiredHealthy": 0 });
        for (ready, status, policy, asks_it) in [
            (true, &enough, "AlwaysAllow", Budget::Asked),
            (false, &enough, "", Budget::Unhealthy),
            (false, &few, "", Budget::Asked),
            (false, &few, "IfHealthyBudget", Budget::Asked),
            (false, &few, "AlwaysAllow", Budget::Unhealthy),
            (false, &none, "IfHealthyBudget", Budget::Asked),
        ] {
            assert_eq!(
                asks(&pod("Running", ready), &budget(status, policy)),
                asks_it,
                "{ready} {status} {policy}"
            );
        }
    }

    #[test]
    fn a_disruption_is_taken_once() {
        let status = json!({ "observedGeneration": 2, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
            "conditions": [{ "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods" }] });
        let one = taken(&budget(&status, ""), "p", 0).unwrap();
        assert_eq!(one["status"]["disruptionsAllowed"], 0);
        assert_eq!(
            one["status"]["disruptedPods"],
            json!({ "p": "1970-01-01T00:00:00Z" })
        );
        assert_eq!(one["status"]["conditions"][0]["status"], "False");
        let refused = taken(&one, "q", 0).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (429, REFUSED));
        let cause = &refused.details.unwrap().causes[0];
        assert_eq!(
            (cause.reason.as_str(), cause.message.as_str()),
            (
                "DisruptionBudget",
                "The disruption budget b does not allow evicting pods currently"
            )
        );
    }

    #[test]
    fn a_budget_that_says_nothing_certain_refuses() {
        let few = json!({ "observedGeneration": 2, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 2 });
        let failed = json!({ "observedGeneration": 2, "conditions": [{ "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "found no controllers" }] });
        for (status, code, message) in [
            (
                json!({ "observedGeneration": 1, "disruptionsAllowed": 5 }),
                429,
                "The disruption budget b is still being processed by the server.",
            ),
            (
                few,
                429,
                "The disruption budget b needs 2 healthy pods and has 1 currently",
            ),
            (
                failed,
                429,
                "The disruption budget b does not allow evicting pods currently because it failed sync: found no controllers",
            ),
        ] {
            let refused = taken(&budget(&status, ""), "p", 0).unwrap_err();
            assert_eq!(
                (
                    refused.code,
                    refused.details.unwrap().causes[0].message.as_str()
                ),
                (code, message)
            );
        }
    }
}
