//! What several rules of pods ask of a container, an image or a quantity.

use std::collections::HashMap;

use api::FieldPath;
use serde_json::Value;

use crate::check::{at, is_empty, items, text};
use crate::strategies::quantity;

/// The three lists of containers of a pod.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Calls a function with the path and the value of every container.
pub fn each_container<'a>(
    path: &FieldPath,
    spec: &'a Value,
    mut f: impl FnMut(FieldPath, &'a Value),
) {
    for list in CONTAINER_LISTS {
        for (i, c) in items(spec, list).iter().enumerate() {
            f(path.child(list).index(i), c);
        }
    }
}

/// The pull policy that fits an image: `latest`, said or meant, is pulled each time.
pub fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        // A digest never changes; a tag before it does not matter.
        let before = image.split('@').next().unwrap_or("");
        return if tag(before) == Some("latest") {
            "Always"
        } else {
            "IfNotPresent"
        };
    }
    match tag(image) {
        None | Some("latest") => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn tag(image: &str) -> Option<&str> {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map(|(_, t)| t)
}

/// Whether two quantities are the same amount.
pub fn same_quantity(a: &Value, b: &Value) -> bool {
    a == b || quantity::parse(a).is_some_and(|x| quantity::parse(b) == Some(x))
}

/// Whether a container of `initContainers` runs beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// Whether this is an empty or absent member, for the checks of this folder.
pub fn absent(v: &Value, field: &str) -> bool {
    is_empty(at(v, field))
}

/// What a container does, by one of its resize policies, that is not given to those that run to their
/// end.
pub const RESTART: &str = "RestartContainer";

/// The items of a list by their names; of several with one name the first.
pub fn by_name(all: &[Value]) -> HashMap<&str, &Value> {
    let mut named = HashMap::new();
    for item in all {
        named.entry(text(item, "name")).or_insert(item);
    }
    named
}
