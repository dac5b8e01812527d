//! A pod as a node reads it from a file of its own: with the defaults and checks that the API server
//! would apply. Such a pod must not refer to anything that only the API has: nobody would answer for
//! it while no server is there.

use api::FieldError;
use serde_json::{Map, Value};

use crate::check::{at, items, text};
use crate::strategy::Context;
use crate::validate_object_meta;

/// Reads a manifest, YAML or JSON, of one Pod of `v1`: the pod, and what in it is unknown.
///
/// # Errors
/// It is not a pod, it is not valid, or it refers to objects of the API; upstream's words where it has
/// some.
pub fn pod(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let plain = schema::decode::yaml(bytes).map_err(|e| e.to_string())?;
    let kind = (text(&plain.value, "apiVersion"), text(&plain.value, "kind"));
    if kind != ("v1", "Pod") {
        return Err(format!(
            "a static pod is a Pod of v1, and this is a {:?} of {:?}",
            kind.1, kind.0
        ));
    }
    let row = crate::kinds().by_kind("", "v1", "Pod");
    let row = row.ok_or("pods are not known")?;
    let ty = &row.storage_type;
    let decoded = schema::decode::value(ty.table(), ty.id(), plain.value);
    let decoded = decoded.map_err(|e| e.to_string())?;
    let problems = plain.problems.iter().chain(&decoded.problems);
    let warnings = problems.map(ToString::to_string).collect();
    let mut pod = decoded.value;
    let name = text(at(&pod, "metadata"), "name").to_owned();
    if name.is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        let namespace = meta.entry("namespace").or_insert_with(|| "default".into());
        if namespace == "" {
            *namespace = "default".into();
        }
    }
    row.strategy.default(&mut pod);
    valid(row, &pod)?;
    if let Some(what) = referred_to(&pod) {
        return Err(format!("static pods may not reference {what}"));
    }
    Ok((pod, warnings))
}

fn valid(row: &crate::Row, pod: &Value) -> Result<(), String> {
    let namespace = text(at(pod, "metadata"), "namespace").to_owned();
    let cx = Context {
        namespace: &namespace,
        // A pod has no families of its own.
        ..Context::of_nobody()
    };
    let rule = |name: &str, generate| row.strategy.validate_name(name, generate);
    let mut errors = validate_object_meta(pod, true, &rule);
    errors.extend(row.strategy.validate(pod, &cx));
    if errors.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    Err(format!("invalid pod: {}", all.join(", ")))
}

/// What a pod needs of the API, in upstream's words.
fn referred_to(pod: &Value) -> Option<&'static str> {
    let spec = at(pod, "spec");
    if !text(spec, "serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    if !items(spec, "resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    if !items(spec, "imagePullSecrets").is_empty() {
        return Some("secrets");
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    let mut containers = containers.iter().flat_map(|list| items(spec, list));
    containers
        .find_map(of_environment)
        .or_else(|| items(spec, "volumes").iter().find_map(of_volume))
}

fn of_environment(container: &Value) -> Option<&'static str> {
    let whole = items(container, "envFrom").iter();
    let one = items(container, "env").iter().map(|e| at(e, "valueFrom"));
    let mut all = whole.chain(one).filter_map(Value::as_object);
    all.find_map(|source| {
        let names = |name: &str| source.contains_key(name);
        if names("secretRef") || names("secretKeyRef") {
            Some("secrets")
        } else if names("configMapRef") || names("configMapKeyRef") {
            Some("configmaps")
        } else {
            None
        }
    })
}

/// Kinds of volumes that need the API.
const VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    (
        "ephemeral",
        "persistentvolumeclaims (via ephemeral volumes)",
    ),
    ("azureFile", "secrets (via azureFile volumes)"),
];
/// Sources of projected volumes that do.
const PROJECTED: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    (
        "serviceAccountToken",
        "serviceaccounts (via projected volumes)",
    ),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

fn of_volume(volume: &Value) -> Option<&'static str> {
    let known = |table: &[(&str, &'static str)], map: &Map<String, Value>| {
        let mut rows = table.iter();
        rows.find(|(kind, _)| map.contains_key(*kind)).map(|r| r.1)
    };
    let own = volume.as_object().and_then(|map| known(&VOLUMES, map));
    let sources = items(at(volume, "projected"), "sources").iter();
    own.or_else(|| {
        let mut sources = sources.filter_map(Value::as_object);
        sources.find_map(|map| known(&PROJECTED, map))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  colour: blue
  containers: [{name: a, image: web}]
";

    #[test]
    fn a_manifest_has_defaults_and_says_what_is_unknown() {
        let (pod, warnings) = pod(PLAIN.as_bytes()).unwrap();
        assert_eq!(text(at(&pod, "spec"), "restartPolicy"), "Always");
        assert_eq!(text(at(&pod, "metadata"), "namespace"), "default");
        assert_eq!(warnings, ["unknown field \"spec.colour\""]);
    }

    #[test]
    fn what_is_no_pod_or_needs_the_api_is_refused() {
        let refused = |from: &str, to: &str| {
            assert!(PLAIN.contains(from));
            pod(PLAIN.replace(from, to).as_bytes()).unwrap_err()
        };
        assert!(refused("kind: Pod", "kind: List").contains("List"));
        assert!(refused("name: web", "labels: {a: b}").contains("name is needed"));
        assert!(refused("image: web", "image: ''").contains("spec.containers[0].image"));
        for (what, words) in [
            ("serviceAccountName: a", "serviceaccounts"),
            (
                "resourceClaims: [{name: c, resourceClaimName: c}]",
                "resourceclaims",
            ),
            (
                "volumes: [{name: v, secret: {secretName: s}}]",
                "secrets (via secret volumes)",
            ),
            (
                "volumes: [{name: v, projected: {sources: [{configMap: {name: c}}]}}]",
                "configmaps (via projected volumes)",
            ),
        ] {
            let said = refused("colour: blue", what);
            assert_eq!(said, format!("static pods may not reference {words}"));
        }
        let said = refused(
            "image: web",
            "image: web, envFrom: [{secretRef: {name: s}}]",
        );
        assert_eq!(said, "static pods may not reference secrets");
        assert!(pod(b"\xff").is_err() && pod(b"").is_err());
    }
}
