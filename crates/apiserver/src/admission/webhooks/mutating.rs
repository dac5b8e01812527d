//! Webhooks that may change an object: one after the other.

use api::Status;
use bytes::Bytes;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ask::{Failure, Passed, Question, warnings};
use super::hook::{Hook, Hooks, Source};
use super::invocation::invocation;
use super::review;
use crate::admission::matching::Hit;
use crate::admission::versions::stored;
use crate::admission::{Admit, Operation, Review};
use crate::codec::{self, Expected, Strictness};
use crate::object::meta_mut;
use crate::state::State;

/// The step as figures call it.
const STEP: &str = "admit";
const PLUGIN: &str = "MutatingAdmissionWebhook";
/// The beginnings of the keys under which the audit log has who changed what, and who failed.
const MUTATION: &str = "mutation.webhook.admission.k8s.io/";
const FAILED_OPEN: &str = "failed-open.mutation.webhook.admission.k8s.io/";
const PATCH: &str = "patch.webhook.admission.k8s.io/";
const MANAGED: &str = "managedFields";

/// The plugin.
#[derive(Default)]
pub struct MutatingWebhooks(Source);

impl Admit for MutatingWebhooks {
    fn name(&self) -> &'static str {
        PLUGIN
    }
    fn handles(&self, _: Operation, _: &Row, _: &str) -> bool {
        true
    }
    fn mutate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.0.hooks(&state.configurations().mutating_webhooks);
        if hooks.1.all.is_empty() || review.subject().is_exempt() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move { dispatch(state, &hooks.1, review).await })
    }
}

async fn dispatch(state: &State, hooks: &Hooks, review: &mut Review<'_>) -> Result<(), Status> {
    review.passes.begin(PLUGIN, review.object.as_deref());
    for (nth, hook) in hooks.all.iter().enumerate() {
        one(state, nth, hook, review).await?;
    }
    review.passes.end(PLUGIN, review.object.as_deref());
    Ok(())
}

/// Asks one webhook, if it is to be asked.
async fn one(
    state: &State,
    nth: usize,
    hook: &Hook,
    review: &mut Review<'_>,
) -> Result<(), Status> {
    let Some(asked) = invocation(hook, state, review, STEP).await? else {
        return Ok(());
    };
    if !review.passes.runs(PLUGIN, &hook.id) {
        return Ok(());
    }
    let revision = review.revision;
    let shown = |value: Option<&Value>, managed: &Bytes| {
        value.map(|v| review::object(v, managed, revision))
    };
    let object = shown(asked.object.as_deref(), review.managed);
    let old = shown(asked.old.as_deref(), review.old_managed);
    let before = asked.object.map(|o| o.into_owned());
    let (hit, operation) = (asked.hit, review.operation.word());
    let question = Question {
        request: asked.request,
        object: object.as_ref(),
        old: old.as_ref(),
        dry_run: review.dry_run,
        mutating: true,
    };
    let began = Instant::now();
    let (mut said, mut failure) = match hook.ask(state, question).await {
        Ok(said) => (said, None),
        Err(answered) => (answered.said, Some(answered.failure)),
    };
    let place = format!("round_{}_index_{nth}", u8::from(review.passes.is_second()));
    let named = std::mem::take(&mut said.annotations).into_iter();
    let named = named.map(|(key, value)| (format!("{}/{key}", hook.name), value));
    review.annotations.extend(named);
    let told = warnings(std::mem::take(&mut said.warnings));
    review.warnings.extend(told);
    let mut changed = false;
    if failure.is_none() {
        match patched(review, before, &hit, hook, &said.patch, &said.patch_type).await {
            Ok(None) => {}
            Ok(Some(done)) => {
                changed = done.changed;
                let note = json!({"configuration": hook.configuration, "webhook": hook.name,
                    "patch": done.patch, "patchType": "JSONPatch"});
                review
                    .annotations
                    .push((format!("{PATCH}{place}"), note.to_string()));
            }
            Err(e) => failure = Some(e),
        }
    }
    let note = json!({"configuration": hook.configuration, "webhook": hook.name,
        "mutated": changed});
    review
        .annotations
        .push((format!("{MUTATION}{place}"), note.to_string()));
    review.passes.ran(PLUGIN, &hook.id, hook.again, changed);
    if hook.settle(state, (STEP, operation), began, failure)? == Passed::FailedOpen {
        let key = format!("{FAILED_OPEN}{place}");
        review.annotations.push((key, hook.name.clone()));
    }
    Ok(())
}

/// What a patch did.
struct Done {
    changed: bool,
    patch: Value,
}

/// Carries out a webhook's patch on the object, which is `before` in the version that it was shown.
async fn patched(
    review: &mut Review<'_>,
    before: Option<Value>,
    hit: &Hit,
    hook: &Hook,
    patch: &[u8],
    patch_type: &str,
) -> Result<Option<Done>, Failure> {
    if patch.is_empty() {
        return Ok(None);
    }
    let undecodable = |why: String| Failure::Calling {
        why: format!("received undecodable patch in webhook response: {why}"),
        code: 503,
    };
    let patch = schema::decode::untyped(patch).map_err(|e| undecodable(e.to_string()))?;
    let patch = patch.value;
    let Some(operations) = patch.as_array() else {
        return Err(undecodable("a JSON patch is a list".into()));
    };
    if operations.is_empty() {
        return Ok(None);
    }
    let internal = |why: String| Failure::Unjudged(Status::internal(why));
    let Some(before) = before.filter(|_| review.operation != Operation::Delete) else {
        let name = &hook.name;
        return Err(internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        )));
    };
    if patch_type != "JSONPatch" {
        return Err(Failure::Calling {
            why: format!("unsupported patch type {patch_type:?}"),
            code: 500,
        });
    }
    let managed = reads_managed(operations).then(|| review.managed.clone());
    let mut after = before;
    if let Some(list) = managed.as_ref().filter(|list| !list.is_empty()) {
        let list = serde_json::from_slice(list).map_err(|e| internal(e.to_string()))?;
        meta_mut(&mut after).insert(MANAGED.into(), list);
    }
    patch::json_patch(&mut after, &patch).map_err(|e| internal(e.to_string()))?;
    if managed.is_some() {
        let list = meta_mut(&mut after).remove(MANAGED);
        set_managed(review.managed, list);
    }
    let after = decoded(review, hit, after).map_err(internal)?;
    let own = *hit.kind.kind == *review.row.kind;
    let after = match own {
        true => stored(review.versions, review.row, after).await,
        false => Ok(after),
    };
    let after = after.map_err(|s| internal(s.message))?;
    let Some(object) = review.object.as_deref_mut() else {
        return Ok(None);
    };
    let changed = *object != after;
    *object = after;
    Ok(Some(Done { changed, patch }))
}

/// Whether operations meet the managed fields of the object, or all of it, or all of its metadata.
fn reads_managed(operations: &[Value]) -> bool {
    let meets = |pointer: &str| {
        const AT: &str = "/metadata/managedFields";
        pointer.starts_with(AT) || AT.starts_with(pointer)
    };
    operations.iter().any(|operation| {
        let named = ["path", "from"].iter();
        named
            .filter_map(|member| operation.get(member)?.as_str())
            .any(meets)
    })
}

/// Managed fields that a webhook left; a list that is none stays as it was, as upstream.
fn set_managed(managed: &mut Bytes, list: Option<Value>) {
    match list {
        None | Some(Value::Null) => *managed = Bytes::new(),
        Some(Value::Array(all)) => {
            let is_entry = |e: &Value| e["manager"].is_string() && e["fieldsV1"].is_object();
            if all.is_empty() {
                *managed = Bytes::new();
            } else if all.iter().all(is_entry) {
                *managed = Value::Array(all).to_string().into();
            }
        }
        Some(_) => {}
    }
}

/// A patched object as its type allows: what the type does not know is gone.
fn decoded(review: &Review<'_>, hit: &Hit, mut after: Value) -> Result<Value, String> {
    let kind = &hit.kind;
    if !after.is_object() {
        return Err("the patched value is not an object".into());
    }
    let ty = match *kind.kind == *review.row.kind {
        true => hit.row.version(&kind.version).map(|v| &v.ty),
        false => hit
            .row
            .subresource(review.subresource)
            .and_then(|s| s.ty.as_ref()),
    };
    let api_version = kind.api_version();
    if let Some(map) = after.as_object_mut() {
        map.insert("kind".into(), (*kind.kind).into());
        map.insert("apiVersion".into(), api_version.as_str().into());
    }
    let Some(ty) = ty else {
        return Ok(after);
    };
    let expected = Expected {
        api_version: &api_version,
        kind: &kind.kind,
        ty,
    };
    let mut unheard = Vec::new();
    let why = std::cell::OnceCell::new();
    codec::decode_value(
        after,
        None,
        &expected,
        Strictness::Ignore,
        &mut unheard,
        &why,
    )
    .map_err(|s| s.message)
}
