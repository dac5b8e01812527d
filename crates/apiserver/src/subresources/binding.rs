//! `binding` gives a pod its node, once.

use api::{FieldError, FieldPath, GroupKind, Status};
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::call::{Answer, Call};
use crate::object::{meta, meta_mut, meta_text};
use crate::verbs::admit::Admission;
use crate::verbs::decode::{decode_body, match_name};
use crate::verbs::update::change;

/// Binds the pod of the path.
pub async fn bind(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let mut binding = decode_body(call, body)?;
    match_name(call, &mut binding)?;
    bind_to(call, binding, &call.info.name).await
}

/// Binds the pod that the body names (`POST …/bindings`).
pub async fn bind_value(call: &Call, binding: Value) -> Result<Answer, Status> {
    let name = meta_text(&binding, "name").to_owned();
    let pods = call.sibling("", "pods", &name)?;
    bind_to(&pods, binding, &name).await
}

async fn bind_to(call: &Call, mut binding: Value, name: &str) -> Result<Answer, Status> {
    let dry_run = call.write_options()?;
    let mut admission = Admission::new(call, Operation::Create, "binding", name, dry_run);
    admission.mutate(Some(&mut binding), None).await?;
    admission.validate(Some(&mut binding), None).await?;
    let node = check_target(&binding)?;
    let uid = meta_text(&binding, "uid").to_owned();
    let added = ["annotations", "labels"].map(|f| (f, meta(&binding).get(f).cloned()));
    change(call, name, "binding", dry_run, |_, old| {
        let conflict = |why: String| Status::conflict(&call.resource(), name, &why);
        let have = meta_text(old, "uid");
        if !uid.is_empty() && uid != have {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
            )));
        }
        if old.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        let now = old
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !now.is_empty() {
            return Err(conflict(format!(
                "pod {name} is already assigned to node {now:?}"
            )));
        }
        if old
            .pointer("/spec/schedulingGates")
            .and_then(Value::as_array)
            .is_some_and(|g| !g.is_empty())
        {
            return Err(conflict(format!(
                "pod {name} has non-empty .spec.schedulingGates"
            )));
        }
        Ok(bound(old, &node, &added, call.state.now()))
    })
    .await?;
    let mut done = Status::success();
    done.code = 201;
    Ok(Answer::Status(done))
}

fn check_target(binding: &Value) -> Result<String, Status> {
    let target = |f: &str| {
        binding
            .get("target")
            .and_then(|t| t.get(f))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let path = FieldPath::new("target");
    let mut errors = Vec::new();
    if !matches!(target("kind"), "" | "Node") {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            target("kind"),
            &["Node", "<empty>"],
        ));
    }
    if target("name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(target("name").to_owned());
    }
    Err(Status::invalid(
        &GroupKind::new("", "Binding"),
        meta_text(binding, "name"),
        &errors,
    ))
}

/// The pod with its node, the binding's annotations and labels, and the condition that it is
/// scheduled.
fn bound(old: &Value, node: &str, added: &[(&str, Option<Value>)], now: i64) -> Value {
    let mut new = old.clone();
    new["spec"]["nodeName"] = node.into();
    // Room was made for it until now.
    if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("nominatedNodeName");
    }
    for (field, more) in added {
        let more = more.as_ref().and_then(Value::as_object);
        let Some(more) = more.filter(|m| !m.is_empty()) else {
            continue;
        };
        let all = meta_mut(&mut new)
            .entry(*field)
            .or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut() {
            all.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    let scheduled = json!({
        "type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": crate::object::time_text(now),
    });
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    match new
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut)
    {
        Some(all) => {
            all.retain(|c| c.get("type").and_then(Value::as_str) != Some("PodScheduled"));
            all.push(scheduled);
        }
        None => new["status"]["conditions"] = json!([scheduled]),
    }
    new
}
