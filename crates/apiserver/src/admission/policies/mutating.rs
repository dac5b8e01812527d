//! MutatingAdmissionPolicies: change what is written, by applied configurations and JSON patches.

use api::Status;
use cel::Check;
use futures::future::BoxFuture;
use policy::{ExpressionInputs, Matched, Mutating, Patch};
use registry::Row;
use serde_json::Value;
use tokio::time::Instant;

use super::hooks::{Binding, Hook, Hooks, Source};
use super::params::{self, Missing};
use super::{in_version, namespace_of, needs, passed_over, request};
use crate::admission::expressions::{resource_check, with_answers};
use crate::admission::matching::Hit;
use crate::admission::versions::stored;
use crate::admission::{AdmissionAttributes, Admit, Need, Operation, Review};
use crate::metrics::policies::ErrorType;
use crate::state::State;

const PLUGIN: &str = "MutatingAdmissionPolicy";

/// The plugin.
pub struct MutatingPolicies(Source<Mutating>);

impl Default for MutatingPolicies {
    fn default() -> Self {
        Self(Source::new(Mutating::compile))
    }
}

impl MutatingPolicies {
    fn hooks(&self, state: &State) -> std::sync::Arc<(u64, Hooks<Mutating>)> {
        let all = state.configurations();
        self.0.hooks(&all.mutating_policies, &all.mutating_bindings)
    }
}

impl Admit for MutatingPolicies {
    fn name(&self) -> &'static str {
        PLUGIN
    }
    fn handles(&self, operation: Operation, _: &Row, _: &str) -> bool {
        // What is deleted has no object to change.
        operation != Operation::Delete
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        needs(&self.hooks(asked.state).1.all, asked)
    }
    fn mutate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.hooks(state);
        let nothing = hooks.1.all.is_empty() || review.object.is_none();
        if nothing || review.subject().is_exempt() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move { change(state, review, &hooks.1.all).await })
    }
}

/// What went wrong, by the order of policies.
struct Wrong {
    message: String,
    /// Empty: upstream's for refusals.
    reason: &'static str,
}

/// A policy that is to be asked, with a binding and a parameter.
struct Call<'h> {
    hook: &'h Hook<Mutating>,
    binding: &'h Binding,
    hit: Hit,
    param: Option<Value>,
}

async fn change(
    state: &State,
    review: &mut Review<'_>,
    hooks: &[Hook<Mutating>],
) -> Result<(), Status> {
    let mut wrong = Vec::new();
    let calls = calls(state, review, hooks, &mut wrong).await;
    if calls.is_empty() {
        return refuse(review, wrong);
    }
    review.passes.begin(PLUGIN, review.object.as_deref());
    let namespace = namespace_of(review);
    let mut any = false;
    for call in &calls {
        let changer = Changer {
            state,
            review,
            call,
            namespace: namespace.as_ref(),
            check: resource_check(&review.subject()),
        };
        let object = changer.run(&mut wrong).await;
        let Some(object) = object else { continue };
        let changed = review.object.as_deref() != Some(&object);
        any |= changed;
        if let (true, Some(to)) = (changed, review.object.as_deref_mut()) {
            *to = object;
        }
        let again = call.hook.evaluator.again;
        review.passes.ran(PLUGIN, &call.key(), again, changed);
    }
    if any {
        // As upstream, also those that made the changes.
        review.passes.require(PLUGIN);
    }
    review.passes.end(PLUGIN, review.object.as_deref());
    refuse(review, wrong)
}

/// All policies that want a write, with their bindings and parameters.
async fn calls<'h>(
    state: &State,
    review: &Review<'_>,
    hooks: &'h [Hook<Mutating>],
    wrong: &mut Vec<Wrong>,
) -> Vec<Call<'h>> {
    let subject = review.subject();
    let mut calls = Vec::new();
    for hook in hooks.iter().filter(|h| h.criteria.concerns(&subject)) {
        let mut fail = |binding: Option<&Binding>, what: &str| {
            if hook.evaluator.ignore {
                return passed_over(&hook.name, what);
            }
            let message = match binding {
                None => format!("failed to configure policy: {what}"),
                Some(_) => format!("failed to configure binding: {what}"),
            };
            wrong.push(Wrong {
                message: denied(hook, binding, &message),
                reason: "",
            });
        };
        let hit = match hook.criteria.matches(state, &subject).await {
            Ok(Some(hit)) => hit,
            Ok(None) => continue,
            Err(status) => {
                fail(None, &status.message);
                continue;
            }
        };
        for binding in &hook.bindings {
            if let Some(criteria) = &binding.criteria {
                match criteria.matches(state, &subject).await {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(status) => {
                        fail(Some(binding), &status.message);
                        continue;
                    }
                }
            }
            match params::collect(review, hook, binding).await {
                Ok(params) => calls.extend(params.into_iter().map(|param| Call {
                    hook,
                    binding,
                    hit: hit.clone(),
                    param,
                })),
                Err(Missing::Policy(what)) => {
                    fail(None, &what);
                    break;
                }
                Err(Missing::Binding(what)) => fail(Some(binding), &what),
            }
        }
    }
    calls
}

fn denied(hook: &Hook<Mutating>, binding: Option<&Binding>, message: &str) -> String {
    match binding {
        Some(binding) => format!(
            "policy '{}' with binding '{}' denied request: {message}",
            hook.name, binding.name
        ),
        None => format!("policy \"{}\" denied request: {message}", hook.name),
    }
}

/// The refusal of a write, if anything went wrong.
fn refuse(review: &Review<'_>, wrong: Vec<Wrong>) -> Result<(), Status> {
    let Some(first) = wrong.first() else {
        return Ok(());
    };
    let reason = match first.reason {
        "" => "Forbidden",
        reason => reason,
    };
    let mut status = review.forbidden("");
    status.reason = reason.to_owned();
    status.message.clone_from(&first.message);
    if let Some(details) = &mut status.details {
        details.causes.extend(wrong.into_iter().map(|w| api::Cause {
            message: w.message,
            ..Default::default()
        }));
    }
    Err(status)
}

impl Call<'_> {
    /// The policy with this binding and parameter, among all.
    fn key(&self) -> String {
        let param = self.param.as_ref().map(|p| {
            let field = |f: &str| p.pointer(f).and_then(Value::as_str).unwrap_or_default();
            let (namespace, name) = (field("/metadata/namespace"), field("/metadata/name"));
            format!("{namespace}/{name}")
        });
        let param = param.unwrap_or_default();
        format!("{}/{}/{param}", self.hook.name, self.binding.name)
    }
}

/// One policy before a write that it may change.
struct Changer<'a> {
    state: &'a State,
    review: &'a Review<'a>,
    call: &'a Call<'a>,
    namespace: Option<&'a Value>,
    check: Check,
}

impl Changer<'_> {
    /// What the policy makes of the object (in the storage version); none where it was not asked,
    /// or something was wrong before the first change.
    async fn run(&self, wrong: &mut Vec<Wrong>) -> Option<Value> {
        let (hook, review) = (self.call.hook, self.review);
        let mut fail = |what: String| {
            if hook.evaluator.ignore {
                return passed_over(&hook.name, &what);
            }
            wrong.push(Wrong {
                message: denied(hook, Some(self.call.binding), &what),
                reason: "Invalid",
            });
        };
        let hit = &self.call.hit;
        let object = in_version(review, review.object.as_deref(), hit).await;
        let (object, old) = match (object, in_version(review, review.old, hit).await) {
            (Ok(Some(object)), Ok(old)) => (object, old),
            (Ok(None), _) => return None,
            (Err(what), _) | (_, Err(what)) => {
                fail(what);
                return None;
            }
        };
        let request = request(review, &review.subject(), hit);
        let seen = MutationContext {
            changer: self,
            old: old.as_deref(),
            request: &request,
        };
        let policy = &hook.evaluator;
        let user = review.user;
        let matched = with_answers(self.state, user, |answers| {
            policy.matches(&seen.with(&object, answers))
        });
        match matched.await {
            Matched::Yes => {}
            Matched::No => return None,
            Matched::Error(what) => {
                fail(what);
                return None;
            }
        }
        if !review.passes.runs(PLUGIN, &self.call.key()) {
            return None;
        }
        let of = (&*hook.name, &*self.call.binding.name);
        let metrics = &self.state.metrics().policies;
        let mut shown = object.into_owned();
        let mut done = review.object.as_deref().cloned();
        for mutation in &policy.mutations {
            let began = Instant::now();
            let patch = with_answers(self.state, user, |answers| {
                policy.patch(mutation, &seen.with(&shown, answers))
            });
            let patched = match patch.await {
                Ok(patch) => self.apply(&shown, patch),
                Err(what) => Err(what),
            };
            let kept = match patched {
                Ok(patched) => self.stored(patched).await,
                Err(what) => Err(what),
            };
            match kept {
                Ok((in_storage, as_shown)) => {
                    done = Some(in_storage);
                    shown = as_shown;
                    metrics.mutation(of, ErrorType::NONE, began.elapsed());
                }
                Err(what) => {
                    metrics.mutation(of, ErrorType::of(&what), began.elapsed());
                    fail(what);
                }
            }
        }
        done
    }

    /// A changed object as it is stored, and as the policy sees it then: with defaults.
    async fn stored(&self, patched: Value) -> Result<(Value, Value), String> {
        let review = self.review;
        let is_object = *self.call.hit.kind.kind == *review.row.kind;
        if !is_object {
            return Ok((patched.clone(), patched));
        }
        let in_storage = stored(review.versions, review.row, patched).await;
        let in_storage = in_storage.map_err(|s| s.message)?;
        let shown = in_version(review, Some(&in_storage), &self.call.hit).await?;
        let shown = shown.map_or_else(|| in_storage.clone(), |s| s.into_owned());
        Ok((in_storage, shown))
    }

    /// The object with a patch.
    fn apply(&self, object: &Value, patch: Patch) -> Result<Value, String> {
        let ty = self.type_of().ok_or_else(|| {
            let kind = &self.call.hit.kind;
            format!(
                "Resource kind {}/{}, Kind={} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.",
                kind.group, kind.version, kind.kind
            )
        })?;
        let mut new = object.clone();
        match patch {
            Patch::Apply(config) => {
                let failed = |what: String| format!("error applying patch: {what}");
                let unfit = patch::validate(ty.table(), ty.id(), &config);
                if !unfit.is_empty() {
                    let unfit = unfit.join("\n");
                    let what = format!("failed to convert patch object to typed object: {unfit}");
                    return Err(failed(what));
                }
                let whole = patch::atomics(ty.table(), ty.id(), &config);
                if !whole.is_empty() {
                    let whole = whole.join(", ");
                    return Err(failed(format!(
                        "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {whole}"
                    )));
                }
                patch::merge(ty.table(), ty.id(), &mut new, &config);
            }
            Patch::Json(operations) => match patch::json_patch(&mut new, &operations) {
                Ok(()) => {}
                // A test that fails means that there is nothing to change.
                Err(patch::PatchError::Test(_)) => return Ok(object.clone()),
                Err(e) => return Err(format!("JSON Patch: {e}")),
            },
        }
        let decoded = schema::decode::value(ty.table(), ty.id(), new).map_err(|e| e.to_string())?;
        if let Some(problem) = decoded.problems.first() {
            return Err(format!("strict decoding error: {problem}"));
        }
        for field in ["apiVersion", "kind"] {
            if decoded.value.get(field) != object.get(field) {
                return Err(format!("a policy may not change the {field} of an object"));
            }
        }
        Ok(decoded.value)
    }

    fn type_of(&self) -> Option<schema::Type> {
        let hit = &self.call.hit;
        if *hit.kind.kind == *hit.row.kind {
            return hit.row.version(&hit.version).map(|v| v.ty.clone());
        }
        let sub = hit.row.subresource(self.review.subresource)?;
        sub.ty.clone()
    }
}

/// What a policy sees beside the object, which changes from mutation to mutation.
struct MutationContext<'a> {
    changer: &'a Changer<'a>,
    old: Option<&'a Value>,
    request: &'a Value,
}

impl MutationContext<'_> {
    fn with<'g>(
        &'g self,
        object: &'g Value,
        answers: &'g dyn cel::Authorizer,
    ) -> ExpressionInputs<'g> {
        let changer = self.changer;
        let policy = &changer.call.hook.evaluator;
        ExpressionInputs {
            object: Some(object),
            old_object: self.old,
            params: changer.call.param.as_ref(),
            request: self.request,
            namespace: changer.namespace.filter(|_| policy.uses_namespace()),
            authorizer: Some(answers),
            resource: &changer.check,
        }
    }
}
