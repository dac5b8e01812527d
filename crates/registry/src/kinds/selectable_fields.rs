//! The fields that field selectors may name, per kind.

use serde_json::Value;

use super::def::Field;
use crate::print::{flag, int, text};

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = [$($field:expr),+ $(,)?];)+) => {
        $($(#[$doc])* pub(super) const $name: &[Field] = &[$($field),+];)+
    };
}

/// A text at a pointer, under the selector's name.
macro_rules! by {
    ($name:literal, $pointer:literal) => {
        Field {
            name: $name,
            read: |o| text(o, $pointer),
            indexed: false,
        }
    };
    ($name:literal, $pointer:literal, indexed) => {
        Field {
            name: $name,
            read: |o| text(o, $pointer),
            indexed: true,
        }
    };
}

const fn number(name: &'static str, read: fn(&Value) -> String) -> Field {
    Field {
        name,
        read,
        indexed: false,
    }
}

/// The group in which an event is served decides on the names of its fields; both work here.
fn reporter(o: &Value) -> String {
    match text(o, "/reportingComponent") {
        r if r.is_empty() => text(o, "/reportingController"),
        r => r,
    }
}

fn source(o: &Value) -> String {
    match text(o, "/source/component") {
        s if s.is_empty() => reporter(o),
        s => s,
    }
}

fields! {
    PODS = [
        by!("spec.nodeName", "/spec/nodeName", indexed),
        by!("spec.restartPolicy", "/spec/restartPolicy"),
        by!("spec.schedulerName", "/spec/schedulerName"),
        by!("spec.serviceAccountName", "/spec/serviceAccountName"),
        number("spec.hostNetwork", |o| flag(o, "/spec/hostNetwork").to_string()),
        by!("status.phase", "/status/phase"),
        number("status.podIP", |o| {
            let first = text(o, "/status/podIPs/0/ip");
            if first.is_empty() { text(o, "/status/podIP") } else { first }
        }),
        by!("status.nominatedNodeName", "/status/nominatedNodeName"),
    ];
    EVENTS = [
        by!("involvedObject.kind", "/involvedObject/kind"),
        by!("involvedObject.namespace", "/involvedObject/namespace"),
        by!("involvedObject.name", "/involvedObject/name"),
        by!("involvedObject.uid", "/involvedObject/uid"),
        by!("involvedObject.apiVersion", "/involvedObject/apiVersion"),
        by!("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
        by!("involvedObject.fieldPath", "/involvedObject/fieldPath"),
        by!("reason", "/reason"),
        number("reportingComponent", reporter),
        number("source", source),
        by!("type", "/type"),
    ];
    NEW_EVENTS = [
        by!("regarding.kind", "/involvedObject/kind"),
        by!("regarding.namespace", "/involvedObject/namespace"),
        by!("regarding.name", "/involvedObject/name"),
        by!("regarding.uid", "/involvedObject/uid"),
        by!("regarding.apiVersion", "/involvedObject/apiVersion"),
        by!("regarding.resourceVersion", "/involvedObject/resourceVersion"),
        by!("regarding.fieldPath", "/involvedObject/fieldPath"),
        by!("reason", "/reason"),
        number("reportingController", reporter),
        by!("type", "/type"),
    ];
    NAMESPACES = [by!("status.phase", "/status/phase"), by!("name", "/metadata/name")];
    NAMED = [by!("name", "/metadata/name")];
    NODES = [number("spec.unschedulable", |o| flag(o, "/spec/unschedulable").to_string())];
    SECRETS = [by!("type", "/type")];
    SERVICES = [by!("spec.clusterIP", "/spec/clusterIP"), by!("spec.type", "/spec/type")];
    REPLICAS = [number("status.replicas", |o| int(o, "/status/replicas").to_string())];
    JOBS = [number("status.successful", |o| int(o, "/status/succeeded").to_string())];
    SIGNING_REQUESTS = [by!("spec.signerName", "/spec/signerName")];
    POD_CERTIFICATES = [
        by!("spec.signerName", "/spec/signerName"),
        by!("spec.podName", "/spec/podName"),
        by!("spec.nodeName", "/spec/nodeName", indexed),
    ];
    LEASE_CANDIDATES = [by!("spec.leaseName", "/spec/leaseName")];
    RESOURCE_SLICES = [
        by!("spec.nodeName", "/spec/nodeName", indexed),
        by!("spec.driver", "/spec/driver"),
    ];
}
