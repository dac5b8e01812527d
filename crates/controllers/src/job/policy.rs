//! What a Job's policies say: what a failed pod means, and which successes suffice.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::indexes::Indexes;
use crate::common::key_of;

/// What becomes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the back-off limit.
    Count,
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The whole Job has failed; why.
    FailJob(String),
}

/// The first rule that matches a failed pod decides; without one it counts.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let Some(status) = pod.status.as_ref() else {
        return Verdict::Count;
    };
    let (namespace, name) = key_of(pod);
    let rules = policy.map(|p| p.rules.as_slice()).unwrap_or_default();
    for (i, rule) in rules.iter().enumerate() {
        let why = if let Some(wanted) = &rule.on_exit_codes {
            let Some((container, code)) = exit_code(status, wanted) else {
                continue;
            };
            format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
        } else {
            let patterns = rule.on_pod_conditions.iter().flatten();
            let is_met = |c: &&PodCondition| {
                let mut patterns = patterns.clone();
                patterns.any(|p| {
                    p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status
                })
            };
            let mut conditions = status.conditions.iter().flatten();
            let Some(met) = conditions.find(is_met) else {
                continue;
            };
            format!("Pod {namespace}/{name} has condition {}", met.type_)
        };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {i}")),
            "Count" => Verdict::Count,
            // Of a later version, which was taken back.
            _ => continue,
        };
    }
    Verdict::Count
}

/// The first container, others before init containers, whose exit code is meant.
fn exit_code<'a>(
    status: &'a PodStatus,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let of = |statuses: &'a Option<Vec<ContainerStatus>>| statuses.iter().flatten();
    let all = of(&status.container_statuses).chain(of(&status.init_container_statuses));
    let named = |s: &&ContainerStatus| wanted.container_name.as_ref().is_none_or(|n| *n == s.name);
    let ended = all.filter(named).filter_map(|s| {
        let ended = s.state.as_ref()?.terminated.as_ref()?;
        Some((s.name.as_str(), ended.exit_code))
    });
    let mut failed = ended.filter(|(_, code)| *code != 0);
    failed.find(|(_, code)| match wanted.operator.as_str() {
        "In" => wanted.values.contains(code),
        "NotIn" => !wanted.values.contains(code),
        _ => false,
    })
}

/// Which rule the succeeded indexes meet, if one.
pub fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let mut rules = policy
        .map(|p| p.rules.as_slice())
        .unwrap_or_default()
        .iter();
    let met = rules.position(|rule| {
        let enough = |n: i32| rule.succeeded_count.is_some_and(|count| n >= count);
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let reached = wanted.in_both(succeeded);
                !wanted.is_empty() && (reached == wanted.total() || enough(reached))
            }
            None => enough(succeeded.total()),
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a" }, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = json!({ "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "Count", "onExitCodes": { "containerName": "other", "operator": "NotIn", "values": [7] } },
            { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [2] } },
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [1, 3] } },
        ] });
        let policy: PodFailurePolicy = serde_json::from_value(policy).unwrap();
        let exits = |name: &str, code: i32| {
            json!({ "containerStatuses": [
            { "name": "running", "state": { "running": {} }, "image": "", "imageID": "", "ready": false, "restartCount": 0 },
            { "name": name, "state": { "terminated": { "exitCode": code } }, "image": "", "imageID": "", "ready": false, "restartCount": 0 },
        ] })
        };
        let fails =
            "Container main for pod a/p failed with exit code 3 matching FailJob rule at index 3";
        for (status, verdict) in [
            (exits("main", 0), Verdict::Count),
            (exits("main", 2), Verdict::FailIndex),
            (exits("main", 3), Verdict::FailJob(fails.into())),
            (exits("main", 4), Verdict::Count),
            (exits("other", 2), Verdict::Count),
            (exits("other", 7), Verdict::Count),
            (
                json!({ "conditions": [{ "type": "DisruptionTarget", "status": "True" }] }),
                Verdict::Ignore,
            ),
            (
                json!({ "conditions": [{ "type": "DisruptionTarget", "status": "False" }] }),
                Verdict::Count,
            ),
        ] {
            assert_eq!(
                judge(Some(&policy), &pod(status.clone())),
                verdict,
                "{status}"
            );
        }
        assert_eq!(judge(None, &pod(exits("main", 3))), Verdict::Count);
    }

    #[test]
    fn a_rule_is_met_by_its_indexes_or_their_number() {
        let all = |text: &str| Indexes::parse(text, 10);
        for (rule, succeeded, met) in [
            (json!({ "succeededIndexes": "0-2" }), "0-2", true),
            (json!({ "succeededIndexes": "0-2" }), "0,1,5-9", false),
            (
                json!({ "succeededIndexes": "0-2,8", "succeededCount": 2 }),
                "1,8",
                true,
            ),
            (
                json!({ "succeededIndexes": "0-2", "succeededCount": 2 }),
                "1,5-9",
                false,
            ),
            (json!({ "succeededCount": 3 }), "1,5,9", true),
            (json!({ "succeededCount": 3 }), "1,5", false),
            (json!({ "succeededIndexes": "0" }), "", false),
        ] {
            let policy: SuccessPolicy =
                serde_json::from_value(json!({ "rules": [{ "succeededCount": 99 }, rule] }))
                    .unwrap();
            let expected = met.then(|| "Matched rules at index 1".to_owned());
            assert_eq!(
                success(Some(&policy), 10, &all(succeeded)),
                expected,
                "{rule} {succeeded}"
            );
        }
    }
}
