//! What a write does to the quotas of its namespace: refused, or what each of them has used then.
//! Rules and words are upstream's; in addition a quota whose controller has not taken it up yet is
//! touched, so that what is being counted at this moment is counted again.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::amounts::{self, Amounts, Names};
use crate::evaluator::Evaluator;
pub use crate::evaluator::Operation;
use crate::scope::Scope;

/// A ResourceQuota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub name: String,
    /// As the specification wants it.
    pub wanted: Amounts,
    /// As the controller took it up: this is enforced.
    pub hard: Amounts,
    pub used: Amounts,
    pub scopes: Vec<Scope>,
}

impl Quota {
    pub fn read(object: &Value) -> Self {
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        Self {
            name: name.unwrap_or_default().to_owned(),
            wanted: Amounts::read(object.pointer("/spec/hard")),
            hard: Amounts::read(object.pointer("/status/hard")),
            used: Amounts::read(object.pointer("/status/used")),
            scopes: object.get("spec").map(Scope::all).unwrap_or_default(),
        }
    }

    /// Whether all its scopes hold an object.
    pub fn holds(&self, evaluator: &Evaluator, object: &Value) -> bool {
        self.scopes.iter().all(|s| evaluator.is_in(s, object))
    }

    /// Resources that the specification names and the status does not yet.
    fn awaited(&self, evaluator: &Evaluator) -> Names {
        let names = self.wanted.names().filter(|n| self.hard.get(n).is_none());
        evaluator.concerned(names)
    }
}

/// Something that may be used only where a quota covers it (`limitedResources`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    pub group: String,
    pub resource: String,
    /// Of resources whose names contain one of these.
    pub contains: Vec<String>,
    /// By objects of these scopes.
    pub scopes: Vec<Scope>,
}

/// A write that is to be judged.
#[derive(Clone, Copy)]
pub struct WriteRequest<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub object: &'a Value,
    /// Absent for a creation.
    pub old: Option<&'a Value>,
    /// Since the epoch.
    pub now_seconds: i64,
}

/// A quota that is written with the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its place among the quotas.
    pub quota: usize,
    /// What it has used then; absent where it is only touched.
    pub used: Option<Amounts>,
}

/// A write that no quota refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The write uses more of something that quotas count, whether or not one does: it must not be
    /// committed after a quota came that it does not know.
    pub grows: bool,
    pub charges: Vec<Charge>,
}

/// Why a write is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Forbidden(String),
    /// It is in a scope that is limited, and no quota covers that; upstream's answer has no form.
    Uncovered(String),
}

/// What a write uses more than before.
struct Growth {
    /// Of an object that a quota did not count before.
    whole: Amounts,
    /// Of one that it did.
    delta: Amounts,
}

/// Judges a write beside the quotas of its namespace.
pub fn check(
    evaluator: &Evaluator,
    quotas: &[Quota],
    asked: &WriteRequest<'_>,
    limited: &[Limited],
) -> Result<Verdict, Refusal> {
    if !evaluator.handles(asked.operation, asked.subresource, asked.object, asked.old) {
        return Ok(Verdict::default());
    }
    let growth = growth(evaluator, asked)?;
    let interesting = interesting(evaluator, quotas, asked)?;
    let of = |quota: &Quota| match asked.old {
        Some(old) if quota.holds(evaluator, old) => growth.delta.clone(),
        _ => growth.whole.clone(),
    };
    let mut more: Vec<(usize, Amounts)> = Vec::new();
    for n in &interesting {
        let amounts = quotas.get(*n).map(of).unwrap_or_default();
        more.push((*n, amounts.without_zeros()));
    }
    let counts = more.iter().any(|(_, amounts)| !amounts.is_empty());
    let alone = interesting.is_empty() && !growth.delta.clone().without_zeros().is_empty();
    if counts || alone {
        covered(evaluator, quotas, &interesting, asked, limited)?;
    }
    let mut verdict = Verdict {
        grows: counts || !growth.delta.clone().without_zeros().is_empty(),
        charges: Vec::new(),
    };
    for (n, quota) in quotas.iter().enumerate() {
        let own = more.iter().find(|(m, _)| *m == n);
        let used = own.map_or(Ok(None), |(_, amounts)| charge(quota, amounts, asked))?;
        let awaited = quota.awaited(evaluator);
        let touched = !awaited.is_empty()
            && quota.holds(evaluator, asked.object)
            && of(quota).names().any(|name| awaited.contains(name));
        if used.is_some() || touched {
            verdict.charges.push(Charge { quota: n, used });
        }
    }
    Ok(verdict)
}

fn growth(evaluator: &Evaluator, asked: &WriteRequest<'_>) -> Result<Growth, Refusal> {
    let whole = evaluator.usage(asked.object, asked.now_seconds);
    let negative: Names = whole
        .iter()
        .filter(|(_, q)| q.is_negative())
        .map(|(name, _)| name.to_owned())
        .collect();
    if !negative.is_empty() {
        return Err(Refusal::Forbidden(format!(
            "quota usage is negative for resource(s): {}",
            amounts::show(&negative)
        )));
    }
    let delta = match asked.old {
        Some(old) => whole.beyond(&evaluator.usage(old, asked.now_seconds)),
        None => whole.clone(),
    };
    Ok(Growth { whole, delta })
}

/// The quotas that count such an object, and can.
fn interesting(
    evaluator: &Evaluator,
    quotas: &[Quota],
    asked: &WriteRequest<'_>,
) -> Result<Vec<usize>, Refusal> {
    let mut all = Vec::new();
    for (n, quota) in quotas.iter().enumerate() {
        let restricted = evaluator.concerned(quota.hard.names());
        if restricted.is_empty() || !quota.holds(evaluator, asked.object) {
            continue;
        }
        if let Some(missing) = evaluator.missing(&restricted, asked.object) {
            let why = format!("failed quota: {}: {missing}", quota.name);
            return Err(Refusal::Forbidden(why));
        }
        if restricted.iter().any(|name| quota.used.get(name).is_none()) {
            return Err(Refusal::Forbidden(format!(
                "status unknown for quota: {}, resources: {}",
                quota.name,
                amounts::show(&restricted)
            )));
        }
        all.push(n);
    }
    Ok(all)
}

/// What is limited must be covered by a quota.
fn covered(
    evaluator: &Evaluator,
    quotas: &[Quota],
    interesting: &[usize],
    asked: &WriteRequest<'_>,
    limited: &[Limited],
) -> Result<(), Refusal> {
    if limited.is_empty() {
        return Ok(());
    }
    let own = limited
        .iter()
        .filter(|l| l.group == asked.group && l.resource == asked.resource);
    let used = evaluator.usage(asked.object, asked.now_seconds);
    let used = used.without_zeros();
    let mut uncovered: Names = own
        .flat_map(|l| {
            let limits = |name: &&str| l.contains.iter().any(|part| name.contains(part.as_str()));
            used.names().filter(limits).map(str::to_owned)
        })
        .collect();
    for quota in interesting.iter().filter_map(|n| quotas.get(*n)) {
        for name in evaluator.concerned(quota.hard.names()) {
            uncovered.remove(&name);
        }
    }
    if !uncovered.is_empty() {
        let why = format!(
            "insufficient quota to consume: {}",
            amounts::show(&uncovered)
        );
        return Err(Refusal::Forbidden(why));
    }
    if !evaluator.has_scopes() {
        return Ok(());
    }
    let matches = |scope: &&Scope| evaluator.is_in(scope, asked.object);
    let held: BTreeSet<&str> = quotas
        .iter()
        .flat_map(|q| q.scopes.iter().filter(matches))
        .map(|s| s.name.as_str())
        .collect();
    let open = limited.iter().flat_map(|l| l.scopes.iter().filter(matches));
    let open: Vec<String> = open
        .filter(|s| !held.contains(s.name.as_str()))
        .map(Scope::to_string)
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(Refusal::Uncovered(format!(
        "insufficient quota to match these scopes: [{}]",
        open.join(" ")
    )))
}

/// What a quota has used with this write; nothing where the write does not change it.
fn charge(
    quota: &Quota,
    more: &Amounts,
    asked: &WriteRequest<'_>,
) -> Result<Option<Amounts>, Refusal> {
    let is_hard = |name: &str| quota.hard.get(name).is_some();
    let more = more.clone().masked(is_hard);
    if more.is_empty() {
        return Ok(None);
    }
    let mut used = quota.used.clone();
    used.add(&more);
    // What the cluster itself reports of an object is counted, but never refused.
    if asked.subresource != "status" {
        let exceeds = |name: &str| match (used.get(name), quota.hard.get(name)) {
            (Some(used), Some(hard)) => more.get(name).is_some() && used > hard,
            _ => false,
        };
        let only = |all: &Amounts| all.clone().masked(exceeds);
        let failed = only(&more);
        if !failed.is_empty() {
            return Err(Refusal::Forbidden(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name,
                failed.show(),
                only(&quota.used).show(),
                only(&quota.hard).show()
            )));
        }
    }
    Ok(Some(used))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(spec: Value, status: Value) -> Quota {
        Quota::read(&json!({ "metadata": { "name": "q" }, "spec": spec, "status": status }))
    }

    fn counted(hard: Value, used: Value) -> Quota {
        quota(
            json!({ "hard": hard }),
            json!({ "hard": hard, "used": used }),
        )
    }

    fn judge(
        quotas: &[Quota],
        (group, resource): (&str, &str),
        object: &Value,
        old: Option<&Value>,
        limited: &[Limited],
    ) -> Result<Verdict, Refusal> {
        let evaluator = Evaluator::of(group, resource).expect("counted");
        let operation = if old.is_some() {
            Operation::Update
        } else {
            Operation::Create
        };
        let asked = WriteRequest {
            operation,
            group,
            resource,
            subresource: "",
            object,
            old,
            now_seconds: 0,
        };
        check(&evaluator, quotas, &asked, limited)
    }

    fn pod(cpu: &str) -> Value {
        json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] } })
    }

    const POD: (&str, &str) = ("", "pods");

    #[test]
    fn a_creation_is_charged_or_refused() {
        let q = counted(
            json!({ "pods": "2", "requests.cpu": "1" }),
            json!({ "pods": "1", "requests.cpu": "600m" }),
        );
        let verdict = judge(std::slice::from_ref(&q), POD, &pod("400m"), None, &[]).expect("fits");
        let used = verdict.charges[0].used.as_ref().expect("used");
        assert_eq!(used.show(), "pods=2,requests.cpu=1");
        assert_eq!(
            judge(&[q], POD, &pod("500m"), None, &[]),
            Err(Refusal::Forbidden(
                "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1".into()
            ))
        );
    }

    #[test]
    fn what_a_quota_needs_must_be_said_and_known() {
        let q = counted(
            json!({ "requests.cpu": "1" }),
            json!({ "requests.cpu": "0" }),
        );
        let silent = json!({ "spec": { "containers": [{ "name": "c" }] } });
        assert_eq!(
            judge(&[q], POD, &silent, None, &[]),
            Err(Refusal::Forbidden(
                "failed quota: q: must specify requests.cpu for: c".into()
            ))
        );
        let unknown = counted(
            json!({ "pods": "1", "count/pods": "1" }),
            json!({ "pods": "0" }),
        );
        assert_eq!(
            judge(&[unknown], POD, &silent, None, &[]),
            Err(Refusal::Forbidden(
                "status unknown for quota: q, resources: count/pods,pods".into()
            ))
        );
    }

    #[test]
    fn a_quota_that_nobody_took_up_yet_is_touched() {
        let new = quota(json!({ "hard": { "pods": "1" } }), json!({}));
        let verdict = judge(std::slice::from_ref(&new), POD, &pod("1"), None, &[]).expect("free");
        assert_eq!(
            verdict.charges,
            [Charge {
                quota: 0,
                used: None
            }]
        );
        let other = judge(&[new], ("", "secrets"), &json!({}), None, &[]).expect("free");
        assert!(other.grows && other.charges.is_empty());
    }

    #[test]
    fn an_update_is_charged_what_it_adds() {
        let hard = json!({ "services.nodeports": "2", "services": "1" });
        let q = counted(hard, json!({ "services.nodeports": "1", "services": "1" }));
        let service =
            |n: usize| json!({ "spec": { "type": "NodePort", "ports": vec![json!({}); n] } });
        let go = |from, to| {
            judge(
                std::slice::from_ref(&q),
                ("", "services"),
                &service(to),
                Some(&service(from)),
                &[],
            )
        };
        let used = go(1, 2).expect("fits").charges[0].used.clone();
        assert_eq!(
            used.expect("used").show(),
            "services=1,services.nodeports=2"
        );
        assert!(go(1, 3).is_err());
        assert_eq!(go(2, 1), Ok(Verdict::default()));
    }

    #[test]
    fn a_pod_that_comes_into_a_scope_is_charged_whole() {
        let hard = json!({ "pods": "1" });
        let q = |used: &str| {
            quota(
                json!({ "hard": hard, "scopes": ["Terminating"] }),
                json!({ "hard": hard, "used": { "pods": used } }),
            )
        };
        let mut new = pod("1");
        new["spec"]["activeDeadlineSeconds"] = json!(5);
        let verdict = judge(&[q("0")], POD, &new, Some(&pod("1")), &[]).expect("fits");
        assert_eq!(verdict.charges.len(), 1);
        assert!(judge(&[q("1")], POD, &new, Some(&pod("1")), &[]).is_err());
        // Outside of the scope nothing is counted.
        let verdict = judge(&[q("1")], POD, &pod("1"), None, &[]).expect("free");
        assert!(verdict.charges.is_empty());
    }

    #[test]
    fn limited_resources_need_a_quota() {
        let scope = Scope::read(
            &json!({ "scopeName": "PriorityClass", "operator": "In", "values": ["high"] }),
        );
        let limited = [Limited {
            resource: "pods".into(),
            contains: vec![".cpu".into()],
            scopes: vec![scope],
            ..Limited::default()
        }];
        assert_eq!(
            judge(&[], POD, &pod("1"), None, &limited),
            Err(Refusal::Forbidden(
                "insufficient quota to consume: requests.cpu".into()
            ))
        );
        let mut high = json!({ "spec": { "priorityClassName": "high", "containers": [] } });
        assert_eq!(
            judge(&[], POD, &high, None, &limited),
            Err(Refusal::Uncovered(
                "insufficient quota to match these scopes: [{PriorityClass In [high]}]".into()
            ))
        );
        high["spec"]["priorityClassName"] = json!("low");
        assert!(judge(&[], POD, &high, None, &limited).is_ok());
    }
}
