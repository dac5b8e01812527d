//! The ServiceCIDR `kubernetes`, of the server's own flag, as upstream's: made when it is missing,
//! ready from the start, and given the second family when the flag got one. Where the flag says
//! something else than is stored, what is stored holds, and the log and an event say so.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::cidr::Cidrs;
use serde_json::{Value, json};

use super::Loopback;
use super::events::{About, warn};
use crate::cache::Object;
use crate::cluster_ips::{DEFAULT, READY, readiness};
use crate::errors::from_store;
use crate::object::{meta_text, time_text};

const GROUP: &str = "networking.k8s.io";
const RESOURCE: &str = "servicecidrs";
/// How often it is looked at; upstream's.
const EVERY: Duration = Duration::from_secs(10);
/// To make it, to make it ready, and a race with another server at each.
const STEPS: usize = 4;
/// Whose name its events have.
const COMPONENT: &str = "kubernetes-service-cidr-controller";

/// What is to be done about the object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// It has the flag's first range and lacks the second.
    Widen,
    SetReady,
    /// To be reported: reason and message.
    Tell(String, String),
    Nothing,
}

fn texts(ranges: &Cidrs) -> Vec<String> {
    ranges.iter().map(|range| range.to_string()).collect()
}

fn step(ranges: &Cidrs, object: Option<&Value>) -> Step {
    let Some(object) = object else {
        return Step::Create;
    };
    let wanted = texts(ranges);
    let list = object.pointer("/spec/cidrs").and_then(Value::as_array);
    let stored: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if let ([have], [first, _]) = (&*stored, &*wanted)
        && *have == first.as_str()
    {
        return Step::Widen;
    }
    if !meta_text(object, "deletionTimestamp").is_empty() {
        return Step::Nothing;
    }
    if stored != wanted {
        let (stored, wanted) = (stored.join(" "), wanted.join(" "));
        return Step::Tell(
            "KubernetesDefaultServiceCIDRInconsistent".to_owned(),
            format!(
                "The default ServiceCIDR [{stored}] does not match the controller flag \
                 configurations [{wanted}]"
            ),
        );
    }
    match readiness(object) {
        Some("True") => Step::Nothing,
        Some("False") => {
            let all = object.pointer("/status/conditions");
            let all = all.and_then(Value::as_array);
            let ready = all.and_then(|all| all.iter().find(|c| c["type"] == READY));
            let word = |name: &str| {
                let word = ready.and_then(|c| c[name].as_str());
                word.unwrap_or_default().to_owned()
            };
            let message = format!("Configuration matches, but {}", word("message"));
            Step::Tell(word("reason"), message)
        }
        _ => Step::SetReady,
    }
}

/// What was reported last, so that it is reported once.
#[derive(Default)]
pub struct LastReported(Option<Step>);

/// Brings the object in line with the flag.
pub async fn turn(loopback: &Loopback, told: &mut LastReported) -> Result<(), Status> {
    let state = &loopback.state;
    let ranges = &state.settings().service_cidrs;
    for _ in 0..STEPS {
        let object = state.lookup(GROUP, RESOURCE, "", DEFAULT);
        let object = object.map(|o| o.to_value());
        let step = step(ranges, object.as_ref());
        let done = match &step {
            Step::Nothing => {
                told.0 = None;
                return Ok(());
            }
            Step::Tell(reason, message) => {
                if told.0.as_ref() != Some(&step) {
                    let object = object.unwrap_or_default();
                    let about = About::of(&object, "networking.k8s.io/v1", "ServiceCIDR");
                    warn(
                        loopback,
                        COMPONENT,
                        &about,
                        (reason.as_str(), message.as_str()),
                    )
                    .await;
                    told.0 = Some(step.clone());
                }
                return Ok(());
            }
            Step::Create => loopback.create(GROUP, RESOURCE, made(ranges)).await,
            Step::Widen => widen(loopback, ranges).await,
            Step::SetReady => {
                let now = state.now();
                let make = |old: &Value| ready(old, now);
                loopback.change_status(GROUP, RESOURCE, DEFAULT, make).await
            }
        };
        match done {
            Ok(object) => state.reach(object.revision).await?,
            Err(refused) => {
                // Another server may have been faster.
                let newest = state.cache().reach_newest().await;
                newest.map_err(|e| from_store(&e))?;
                let now = state.lookup(GROUP, RESOURCE, "", DEFAULT);
                let now = now.map(|o| o.to_value());
                if self::step(ranges, now.as_ref()) == step {
                    return Err(refused);
                }
            }
        }
    }
    Ok(())
}

/// Does so every few seconds, until the server stops.
pub async fn keep(loopback: Loopback, mut told: LastReported) {
    while loopback.goes_on_after(EVERY).await {
        if let Err(e) = turn(&loopback, &mut told).await {
            tracing::warn!("the ServiceCIDR {DEFAULT}: {e}");
        }
    }
}

fn made(ranges: &Cidrs) -> Value {
    json!({
        "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": { "name": DEFAULT },
        "spec": { "cidrs": texts(ranges) },
    })
}

async fn widen(loopback: &Loopback, ranges: &Cidrs) -> Result<Arc<Object>, Status> {
    tracing::info!("the ServiceCIDR {DEFAULT} gets its second range: {ranges}");
    let make = |old: &Value| {
        let mut new = old.clone();
        new["spec"]["cidrs"] = json!(texts(ranges));
        new
    };
    loopback.change(GROUP, RESOURCE, "", DEFAULT, make).await
}

fn ready(old: &Value, now: i64) -> Value {
    let mut new = old.clone();
    let list = old.pointer("/status/conditions").and_then(Value::as_array);
    let others = list.into_iter().flatten().filter(|c| c["type"] != READY);
    let mut all: Vec<Value> = others.cloned().collect();
    all.push(json!({
        "type": READY, "status": "True", "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": time_text(now),
    }));
    new["status"] = json!({ "conditions": all });
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(cidrs: &[&str], ready: Option<&str>, deleted: &str) -> Value {
        let condition = json!({ "type": "Ready", "status": ready, "reason": "Why",
            "message": "it is so" });
        let conditions: Vec<Value> = ready.map(|_| condition).into_iter().collect();
        json!({ "metadata": { "name": DEFAULT, "deletionTimestamp": deleted },
            "spec": { "cidrs": cidrs }, "status": { "conditions": conditions } })
    }

    #[test]
    fn the_flag_makes_the_range_and_never_moves_it() {
        let flag = |text: &str| -> Cidrs { text.parse().expect("ranges") };
        let (four, six) = ("10.96.0.0/16", "fd00:10:96::/112");
        let both = flag("10.96.0.0/16,fd00:10:96::/112");
        let one = flag(four);
        let of = |ranges: &Cidrs, object: Value| step(ranges, Some(&object));
        assert_eq!(step(&one, None), Step::Create);
        assert_eq!(of(&one, stored(&[four], None, "")), Step::SetReady);
        assert_eq!(
            of(&one, stored(&[four], Some("Unknown"), "")),
            Step::SetReady
        );
        assert_eq!(of(&one, stored(&[four], Some("True"), "")), Step::Nothing);
        assert_eq!(of(&both, stored(&[four], Some("True"), "")), Step::Widen);
        assert_eq!(
            of(&both, stored(&[four, six], Some("True"), "")),
            Step::Nothing
        );
        let told = |ranges: &Cidrs, object: Value| match of(ranges, object) {
            Step::Tell(reason, message) => (reason, message),
            other => panic!("{other:?}"),
        };
        let (reason, message) = told(&one, stored(&["10.97.0.0/16"], None, ""));
        assert_eq!(reason, "KubernetesDefaultServiceCIDRInconsistent");
        assert!(
            message.contains("[10.97.0.0/16]") && message.contains("[10.96.0.0/16]"),
            "{message}"
        );
        told(&one, stored(&[four, six], Some("True"), ""));
        told(&both, stored(&[six], Some("True"), ""));
        let (reason, message) = told(&one, stored(&[four], Some("False"), ""));
        assert_eq!(
            (&*reason, &*message),
            ("Why", "Configuration matches, but it is so")
        );
        let later = "2026-01-01T00:00:00Z";
        let going = stored(&["10.97.0.0/16"], Some("False"), later);
        assert_eq!(of(&one, going), Step::Nothing);
    }
}
