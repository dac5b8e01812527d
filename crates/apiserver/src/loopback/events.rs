//! Warnings about objects, as events: whether or not one is stored, the log has it.

use serde_json::{Value, json};

use super::Loopback;
use crate::object::{meta_text, time_text};

/// What an event is about.
pub struct About<'a> {
    pub kind: &'a str,
    pub api_version: &'a str,
    /// Empty for objects of the whole cluster.
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

impl<'a> About<'a> {
    pub fn of(object: &'a Value, api_version: &'a str, kind: &'a str) -> Self {
        Self {
            kind,
            api_version,
            namespace: meta_text(object, "namespace"),
            name: meta_text(object, "name"),
            uid: meta_text(object, "uid"),
        }
    }
}

/// Logs a warning, and makes an event of it in the name of a component.
pub async fn warn(
    loopback: &Loopback,
    component: &str,
    about: &About<'_>,
    (reason, message): (&str, &str),
) {
    tracing::warn!("{reason}: {message}");
    let state = &loopback.state;
    // As upstream, those about objects of the whole cluster lie in `default`.
    let namespace = match about.namespace {
        "" => "default",
        namespace => namespace,
    };
    let now = time_text(state.now());
    let mut involved = json!({
        "kind": about.kind, "apiVersion": about.api_version, "name": about.name, "uid": about.uid,
    });
    if !about.namespace.is_empty() {
        involved["namespace"] = about.namespace.into();
    }
    let event = json!({
        "kind": "Event", "apiVersion": "v1",
        "metadata": {
            "name": format!("{}.{:x}", about.name, state.random().number()),
            "namespace": namespace,
        },
        "involvedObject": involved,
        "reason": reason, "message": message, "type": "Warning", "count": 1,
        "source": { "component": component },
        "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now,
    });
    if let Err(e) = loopback.create("", "events", event).await {
        tracing::warn!("the event of {} {}: {e}", about.kind, about.name);
    }
}
