//! metrics.k8s.io: what pods and nodes use. Answered from the kubelets and never stored; its types
//! are not in the published description of the API, so they stand here, as schemas.

use std::sync::Arc;

use serde_json::{Value, json};
use structural::{KindNames, Structural};

use super::columns;
use super::def::{Def, cluster, namespaced};
use crate::row::Row;

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

const POD: Def = namespaced(GROUP, "PodMetrics", "pods", &[VERSION]).only_read(columns::NAME_AGE);
const NODE: Def = cluster(GROUP, "NodeMetrics", "nodes", &[VERSION]).only_read(columns::NAME_AGE);

/// Both kinds.
pub(super) fn rows() -> [Row; 2] {
    let containers = json!({
        "description": "Use of each container.",
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "usage"],
            "properties": {
                "name": { "type": "string" },
                "usage": amounts(),
            },
        },
    });
    let pod = schema(
        "containers",
        &containers,
        "What the containers of a pod use.",
    );
    let node = schema("usage", &amounts(), "What a node uses.");
    [row(&POD, &pod), row(&NODE, &node)]
}

fn amounts() -> Value {
    json!({
        "description": "CPU and working set of memory.",
        "type": "object",
        "additionalProperties": {
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true,
        },
    })
}

fn schema(field: &str, of: &Value, description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "required": ["timestamp", "window", field],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "timestamp": {
                "description": "When the measuring ended.",
                "type": "string",
                "format": "date-time",
            },
            "window": {
                "description": "How long it took.",
                "type": "string",
            },
            field: of,
        },
    })
}

fn row(def: &Def, schema: &Value) -> Row {
    let mut row = def.row();
    let kind = KindNames {
        group: GROUP,
        version: VERSION,
        kind: &row.kind,
        list_kind: &row.list_kind,
    };
    let ty = structural::types(Structural::read(schema).ok().as_ref(), &kind);
    for version in &mut row.versions {
        version.ty = ty.clone();
    }
    row.storage_type = ty;
    // Upstream's: it is served beside the pods and nodes of the core.
    row.singular = Arc::from("");
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_read_and_nothing_else() {
        for row in rows() {
            let verbs: Vec<&str> = row.verbs.iter().map(|v| &**v).collect();
            assert_eq!(verbs, ["get", "list"]);
            assert!(row.virtual_kind && !row.inert);
            let name = format!("io.k8s.metrics.v1beta1.{}", row.kind);
            assert_eq!(**row.versions[0].ty.name(), *name);
        }
    }
}
