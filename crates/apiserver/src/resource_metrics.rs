//! metrics.k8s.io: what pods and nodes use now, asked of the kubelets when somebody wants to know;
//! nothing is measured beside. An extension server that is registered for the group answers in
//! its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{GroupResource, Status};
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use serde_json::{Value, json};
use wire::stream::upgrade;

use crate::cache::{Object, Objects, Selection, walk};
use crate::call::{Answer, Call};
use crate::dialer::dial::dial;
use crate::egress::service_resolver;
use crate::object::time_text;
use crate::resource_samples::{Next, Pair, Sample, Used, read};
use crate::state::State;
use crate::verbs::list::selection;

/// Kubelets that are asked at once.
const AT_ONCE: usize = 32;
/// The most that one is waited for; a list does without it then.
const WITHIN: Duration = Duration::from_secs(10);
/// The most that is read of one: 110 pods of ten containers take some 500 KB.
const MAX_BYTES: usize = 16 << 20;
/// Between two samples of a node of which there was none.
const BETWEEN: Duration = Duration::from_millis(1_500);

/// Answers a GET.
pub async fn get(call: &Call) -> Result<Answer, Status> {
    let name = &call.info.name;
    let kind = GroupResource::new("", &call.row.resource);
    let objects = selected(call)?;
    let object = objects.into_iter().next();
    let object = object.ok_or_else(|| Status::not_found(&kind, name))?;
    let known = ask(call, std::slice::from_ref(&object)).await;
    let value = metrics(call, &object, &known);
    let value = value.ok_or_else(|| {
        let kind = format!("{}metrics", call.row.resource.trim_end_matches('s'));
        let name = match &*call.info.namespace {
            namespace if call.row.namespaced => format!("{namespace}/{name}"),
            _ => name.clone(),
        };
        Status::not_found(&GroupResource::new("metrics.k8s.io", &kind), &name)
    })?;
    Ok(answer(value))
}

/// Answers a list: those of which something is known.
pub async fn list(call: &Call) -> Result<Answer, Status> {
    let objects = selected(call)?;
    let known = ask(call, &objects).await;
    let items: Vec<Value> = objects
        .iter()
        .filter_map(|o| metrics(call, o, &known))
        .collect();
    Ok(answer(json!({
        "kind": call.row.list_kind,
        "apiVersion": call.group_version().to_string(),
        "metadata": {},
        "items": items,
    })))
}

fn answer(value: Value) -> Answer {
    Answer::Value {
        code: 200,
        value,
        ty: None,
    }
}

/// The pods or nodes that are asked about.
fn selected(call: &Call) -> Result<Vec<Arc<Object>>, Status> {
    let selection: Selection = selection(call)?;
    let row = call.kinds.resource("", &call.row.resource);
    let row = row.ok_or_else(Status::no_such_path)?;
    let cache = call
        .state
        .cache()
        .of(row)
        .ok_or_else(Status::no_such_path)?;
    let objects: Objects = cache.snapshot();
    let all = walk(&objects, &selection.namespace, None);
    Ok(all.filter(|o| selection.matches(o)).cloned().collect())
}

/// The node that knows an object's use; none where nothing runs.
fn node_of(call: &Call, object: &Value) -> Option<String> {
    if !call.row.namespaced {
        return object["metadata"]["name"].as_str().map(str::to_owned);
    }
    if object["status"]["phase"] != "Running" {
        return None;
    }
    service_resolver::node_name(object).map(str::to_owned)
}

/// Asks the nodes of these objects. Those that do not answer are missing, and the client is warned.
async fn ask(call: &Call, objects: &[Arc<Object>]) -> BTreeMap<String, Pair> {
    let nodes: BTreeSet<String> = objects
        .iter()
        .filter_map(|o| node_of(call, &o.to_value()))
        .collect();
    call.state.samples().forget_old(call.state.now());
    let each = nodes.into_iter().map(|node| async move {
        match pair(&call.state, &node).await {
            Ok(pair) => Some((node, pair)),
            Err(why) => {
                // Without a way to nodes it is so for all of them, each time.
                if call.state.ways().dialer.is_some() {
                    tracing::warn!(node, "what its pods use is not known: {why}");
                }
                call.warn(format!(
                    "node {node} does not say what is used there: {why}"
                ));
                None
            }
        }
    });
    let answers = futures::stream::iter(each).buffer_unordered(AT_ONCE);
    answers.filter_map(std::future::ready).collect().await
}

/// A node's last two samples, the later one of now. A node that is silent is not waited for, or each
/// question about its pods would take as long.
async fn pair(state: &State, node: &str) -> Result<Pair, String> {
    let object = state.lookup("", "nodes", "", node);
    if object.is_some_and(|node| is_lost(&node.to_value())) {
        return Err("its kubelet stopped posting its status".into());
    }
    let slot = state.samples().of(node);
    // Who is before asks for all.
    let mut known = slot.lock().await;
    let in_vain = || format!("no answer within {} s", WITHIN.as_secs());
    if known.is_silent(state.now()) {
        return Err(in_vain());
    }
    let asked = tokio::time::timeout(WITHIN, next_pair(state, node, known.pair.as_ref())).await;
    let Ok(asked) = asked else {
        known.in_vain = Some(state.now());
        return Err(in_vain());
    };
    let pair = asked?;
    known.in_vain = None;
    known.pair = Some(pair.clone());
    Ok(pair)
}

/// Whether nobody knows how a node does.
fn is_lost(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "Unknown")
}

async fn next_pair(state: &State, node: &str, last: Option<&Pair>) -> Result<Pair, String> {
    let last = match (Pair::next(last, state.now()), last) {
        (Next::Nothing, Some(pair)) => return Ok(pair.clone()),
        (Next::One, Some(pair)) => pair.clone(),
        _ => {
            let now = Arc::new(sample(state, node).await?);
            let (before, taken) = (now.clone(), state.now());
            tokio::time::sleep(BETWEEN).await;
            Pair { before, now, taken }
        }
    };
    let now = sample(state, node).await?;
    Ok(last.followed(now, state.now()))
}

async fn sample(state: &State, node: &str) -> Result<Sample, String> {
    let text = match &state.settings().node_usage {
        Some(usage) => usage(node),
        None => scrape(state, node).await?,
    };
    read(&text).ok_or_else(|| "its kubelet could not read what is used".into())
}

/// Asks a kubelet.
async fn scrape(state: &State, node: &str) -> Result<String, String> {
    let dialer = state.ways().dialer.clone();
    let dialer = dialer.ok_or("this server has no way to nodes")?;
    let (host, port) = service_resolver::kubelet(state, node).map_err(|e| e.message)?;
    let io = dial(&host, port, Some(&dialer.kubelet)).await;
    let request = Request::get("/metrics/resource").header("host", api::host_port(&host, port));
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| e.to_string())?;
    let io = io.map_err(|e| e.to_string())?;
    let answer = upgrade::send(io, request)
        .await
        .map_err(|e| e.to_string())?;
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        return Err(format!("its kubelet answered {}", head.status.as_u16()));
    }
    let body = Limited::new(body, MAX_BYTES).collect().await;
    let body = body.map_err(|e| e.to_string())?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// What an object uses, in the API's words.
fn metrics(call: &Call, object: &Object, known: &BTreeMap<String, Pair>) -> Option<Value> {
    let object = object.to_value();
    let pair = known.get(&node_of(call, &object)?)?;
    let word = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let mut metadata = json!({
        "name": word("name"),
        "creationTimestamp": time_text(call.state.now()),
    });
    if let Some(labels) = object["metadata"].get("labels") {
        metadata["labels"] = labels.clone();
    }
    let mut value = json!({
        "kind": call.row.kind,
        "apiVersion": call.group_version().to_string(),
    });
    let used = if call.row.namespaced {
        metadata["namespace"] = word("namespace").into();
        let containers = pair.pod(word("namespace"), word("name"))?;
        let shown = containers
            .iter()
            .map(|(name, used)| json!({"name": name, "usage": usage(used)}));
        value["containers"] = shown.collect();
        containers.first()?.1
    } else {
        let used = pair.node()?;
        value["usage"] = usage(&used);
        used
    };
    value["metadata"] = metadata;
    value["timestamp"] = api::time::format_seconds(used.at_millis.div_euclid(1_000)).into();
    value["window"] = format!("{}s", used.window_millis as f64 / 1_000.0).into();
    Some(value)
}

fn usage(used: &Used) -> Value {
    let cpu = format!("{}n", used.nano_cores);
    json!({
        "cpu": api::Quantity::canonical(&cpu).unwrap_or(cpu),
        "memory": api::Quantity::from_bytes(used.memory_bytes).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_whose_kubelet_is_silent_is_lost() {
        let node = |ready: &str| {
            json!({ "status": { "conditions": [
                { "type": "MemoryPressure", "status": "Unknown" },
                { "type": "Ready", "status": ready }] } })
        };
        assert!(is_lost(&node("Unknown")));
        // Its kubelet speaks, and says that something else is wrong.
        assert!(!is_lost(&node("False")) && !is_lost(&node("True")));
        assert!(!is_lost(&json!({})));
    }
}
