//! ValidatingAdmissionPolicies: judge what will be stored.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::Status;
use cel::Check;
use futures::future::BoxFuture;
use policy::{Annotation, Decision, Evaluated, ExpressionInputs, Outcome, Validating};
use registry::Row;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::hooks::{Binding, Hook, Hooks, Source};
use super::params::{self, Missing};
use super::{in_version, namespace_of, needs, passed_over, request};
use crate::admission::expressions::{resource_check, with_answers};
use crate::admission::matching::Hit;
use crate::admission::{AdmissionAttributes, Admit, Need, Operation, Review};
use crate::metrics::policies::ErrorType;
use crate::state::State;

/// Longest value of an audit annotation, in bytes; what is longer is cut.
const MAX_ANNOTATION: usize = 10 * 1024;

/// The plugin.
pub struct ValidatingPolicies(Source<Validating>);

impl Default for ValidatingPolicies {
    fn default() -> Self {
        Self(Source::new(Validating::compile))
    }
}

impl ValidatingPolicies {
    fn hooks(&self, state: &State) -> std::sync::Arc<(u64, Hooks<Validating>)> {
        let all = state.configurations();
        self.0
            .hooks(&all.validating_policies, &all.validating_bindings)
    }
}

impl Admit for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }
    fn handles(&self, _: Operation, _: &Row, _: &str) -> bool {
        true
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        needs(&self.hooks(asked.state).1.all, asked)
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.hooks(state);
        if hooks.1.all.is_empty() || review.subject().is_exempt() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            match judge(state, review, &hooks.1.all).await {
                Some(findings) => report(review, findings),
                None => Ok(()),
            }
        })
    }
}

/// The first refusal is the answer to the client.
struct Refusal {
    message: String,
    reason: String,
}

/// What the judgement of one write gathers.
#[derive(Default)]
struct Findings {
    refusal: Option<Refusal>,
    warnings: Vec<String>,
    /// By policy and key; values of several bindings stand beside each other.
    annotations: BTreeMap<String, Vec<String>>,
    failures: Vec<Value>,
}

impl Findings {
    fn refuse(&mut self, message: String, reason: &str) {
        self.refusal.get_or_insert(Refusal {
            message,
            reason: reason.to_owned(),
        });
    }

    /// What is wrong with a policy or binding refuses by the failure policy.
    fn misconfigured(&mut self, hook: &Hook<Validating>, binding: Option<&Binding>, what: &str) {
        if hook.evaluator.ignore {
            return passed_over(&hook.name, what);
        }
        let message = match binding {
            None => format!("failed to configure policy: {what}"),
            Some(_) => format!("failed to configure binding: {what}"),
        };
        self.refuse(denied(hook, binding, &message), "");
    }
}

fn denied(hook: &Hook<Validating>, binding: Option<&Binding>, message: &str) -> String {
    let policy = &hook.name;
    match binding {
        Some(binding) => format!(
            "ValidatingAdmissionPolicy '{policy}' with binding '{}' denied request: {message}",
            binding.name
        ),
        None => format!("ValidatingAdmissionPolicy '{policy}' denied request: {message}"),
    }
}

/// Judges a write by all policies; none names it.
async fn judge(state: &State, review: &Review<'_>, hooks: &[Hook<Validating>]) -> Option<Findings> {
    let subject = review.subject();
    let concerned = |h: &&Hook<Validating>| h.criteria.concerns(&subject);
    let concerned: Vec<&Hook<Validating>> = hooks.iter().filter(concerned).collect();
    if concerned.is_empty() {
        return None;
    }
    let judge = Judge {
        state,
        review,
        namespace: namespace_of(review),
        check: resource_check(&subject),
    };
    let mut findings = Findings::default();
    for hook in concerned {
        judge.hook(hook, &mut findings).await;
    }
    Some(findings)
}

/// One write before the policies.
struct Judge<'a> {
    state: &'a State,
    review: &'a Review<'a>,
    namespace: Option<Value>,
    check: Check,
}

/// What a policy sees of the write, in the version that it matched.
struct PolicyView<'a> {
    object: Option<Cow<'a, Value>>,
    old: Option<Cow<'a, Value>>,
    request: Value,
}

impl<'a> Judge<'a> {
    async fn hook(&self, hook: &Hook<Validating>, findings: &mut Findings) {
        let subject = self.review.subject();
        let hit = match hook.criteria.matches(self.state, &subject).await {
            Ok(Some(hit)) => hit,
            Ok(None) => return,
            Err(status) => return findings.misconfigured(hook, None, &status.message),
        };
        let mut shown = None;
        for binding in &hook.bindings {
            if let Some(criteria) = &binding.criteria {
                match criteria.matches(self.state, &subject).await {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(status) => {
                        findings.misconfigured(hook, Some(binding), &status.message);
                        continue;
                    }
                }
            }
            let params = match params::collect(self.review, hook, binding).await {
                Ok(params) => params,
                Err(Missing::Policy(what)) => return findings.misconfigured(hook, None, &what),
                Err(Missing::Binding(what)) => {
                    findings.misconfigured(hook, Some(binding), &what);
                    continue;
                }
            };
            if params.is_empty() {
                continue;
            }
            let seen = match shown.take() {
                Some(seen) => seen,
                None => match self.shown(&hit).await {
                    Ok(seen) => seen,
                    Err(what) => {
                        findings.misconfigured(hook, Some(binding), &what);
                        continue;
                    }
                },
            };
            for param in &params {
                let began = Instant::now();
                let said = self.run(hook, &seen, param.as_ref()).await;
                let count = |action, message: &str| {
                    let of = (&*hook.name, &*binding.name);
                    let metrics = &self.state.metrics().policies;
                    metrics.validation(of, ErrorType::of(message), action, began.elapsed());
                };
                weigh(hook, binding, said, findings, count);
            }
            shown = Some(seen);
        }
    }

    async fn shown(&self, hit: &Hit) -> Result<PolicyView<'a>, String> {
        let review = self.review;
        Ok(PolicyView {
            object: in_version(review, review.object.as_deref(), hit).await?,
            old: in_version(review, review.old, hit).await?,
            request: request(review, &review.subject(), hit),
        })
    }

    async fn run(
        &self,
        hook: &Hook<Validating>,
        shown: &PolicyView<'_>,
        params: Option<&Value>,
    ) -> Evaluated {
        let namespace = self.namespace.as_ref();
        let namespace = namespace.filter(|_| hook.evaluator.uses_namespace());
        with_answers(self.state, self.review.user, |answers| {
            hook.evaluator.run(&ExpressionInputs {
                object: shown.object.as_deref(),
                old_object: shown.old.as_deref(),
                params,
                request: &shown.request,
                namespace,
                authorizer: Some(answers),
                resource: &self.check,
            })
        })
        .await
    }
}

/// What follows from what a policy says, by the actions of the binding.
fn weigh(
    hook: &Hook<Validating>,
    binding: &Binding,
    said: Evaluated,
    findings: &mut Findings,
    count: impl Fn(&'static str, &str),
) {
    for (at, decision) in said.decisions.iter().enumerate() {
        if !decision.denied {
            if decision.outcome == Outcome::Error {
                count("allow", &decision.message);
                passed_over(&hook.name, &decision.message);
            }
            continue;
        }
        for action in &binding.actions {
            match &**action {
                "Deny" => {
                    let message = denied(hook, Some(binding), &decision.message);
                    findings.refuse(message, &decision.reason);
                    count("deny", &decision.message);
                }
                "Warn" => {
                    findings.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        hook.name, binding.name, decision.message
                    ));
                    count("warn", &decision.message);
                }
                _ => {
                    findings.failures.push(failure(hook, binding, at, decision));
                    count("audit", &decision.message);
                }
            }
        }
    }
    for annotation in said.annotations {
        match annotation {
            Annotation::Publish { key, mut value } => {
                let mut end = value.len().min(MAX_ANNOTATION);
                while !value.is_char_boundary(end) {
                    end -= 1;
                }
                value.truncate(end);
                let values = findings.annotations.entry(format!("{}/{key}", hook.name));
                let values = values.or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            Annotation::Error(what) => {
                count("deny", &what);
                findings.refuse(denied(hook, Some(binding), &what), "");
            }
            Annotation::Nothing => {}
        }
    }
}

fn failure(hook: &Hook<Validating>, binding: &Binding, at: usize, decision: &Decision) -> Value {
    json!({
        "message": decision.message,
        "policy": hook.name,
        "binding": binding.name,
        "expressionIndex": at,
        "validationActions": binding.actions,
    })
}

/// Tells the client and the audit log.
fn report(review: &mut Review<'_>, findings: Findings) -> Result<(), Status> {
    review.warnings.extend(findings.warnings);
    for (key, values) in findings.annotations {
        review.annotations.push((key, values.join(", ")));
    }
    // As upstream, the first one counts.
    if let Some(failure) = findings.failures.into_iter().next() {
        let key = "validation.policy.admission.k8s.io/validation_failure";
        let value = json!([failure]).to_string();
        review.annotations.push((key.into(), value));
    }
    let Some(Refusal { message, reason }) = findings.refusal else {
        return Ok(());
    };
    let reason = match &*reason {
        "" => "Invalid",
        reason => reason,
    };
    let mut status = review.forbidden(&message);
    status.reason = reason.to_owned();
    status.code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    let cause = api::Cause {
        message,
        ..Default::default()
    };
    if let Some(details) = &mut status.details {
        details.causes.push(cause);
    }
    Err(status)
}
