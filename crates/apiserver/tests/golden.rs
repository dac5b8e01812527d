//! What is made of golden files, shown with small ones: `cargo xtask compare --golden FOLDER` does
//! the same with upstream's, of which the project holds no copy.

#[path = "common/golden.rs"]
mod files;

use std::collections::BTreeMap;

use files::{Files, Golden, golden};
use serde_json::{Value, json};

/// A ConfigMap's message, byte by byte, in its envelope.
const CONFIG_MAP: &[u8] = b"k8s\0\
    \x0a\x0f\x0a\x02v1\x12\x09ConfigMap\
    \x12\x1b\
    \x0a\x11\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00\
    \x12\x06\x0a\x01k\x12\x01v\
    \x1a\x00\x22\x00";

fn of(name: &str, protobuf: &[u8], json: &Value, yaml: &str) -> Golden {
    let files = Files {
        protobuf: protobuf.to_vec(),
        json: json.to_string().into_bytes(),
        yaml: yaml.as_bytes().to_vec(),
    };
    golden(
        &BTreeMap::from([(name.to_owned(), files)]),
        registry::kinds(),
    )
}

#[test]
fn an_object_of_the_stored_version_comes_through_every_form() {
    let object = json!({ "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": { "name": "a" }, "data": { "k": "v" } });
    let yaml = "apiVersion: v1\nkind: ConfigMap\ndata:\n  k: v\nmetadata:\n  name: a\n";
    let all = of("core.v1.ConfigMap", CONFIG_MAP, &object, yaml);
    let made = all.objects["core.v1.ConfigMap"].as_ref().expect("a type");
    for form in [&made.decoded, &made.read, &made.yaml, &made.written] {
        assert_eq!(form.value.as_ref(), Ok(&object));
        assert!(form.warnings.is_empty());
    }
    let stored = made.stored.as_ref().expect("it is stored");
    assert_eq!(stored.value.as_ref(), Ok(&object));
    assert_eq!(made.message.as_deref(), Ok(CONFIG_MAP));
    // An answer leaves out the envelope's two empty texts.
    let answer = CONFIG_MAP
        .strip_suffix(b"\x1a\x00\x22\x00")
        .expect("two texts");
    assert_eq!(made.answer.as_deref(), Ok(answer));
    assert!(made.served && made.stored_as.is_none());
    assert!(!all.without.contains("core.v1.ConfigMap"));
    assert!(all.without.contains("apps.v1.Deployment"));
}

#[test]
fn what_cannot_be_read_or_is_not_known_is_kept_with_the_reason() {
    let object = json!({ "kind": "ClusterTrustBundle",
        "apiVersion": "certificates.k8s.io/v1alpha1",
        "metadata": { "name": "a" }, "spec": { "trustBundle": "t", "x": 1 } });
    let name = "certificates.k8s.io.v1alpha1.ClusterTrustBundle";
    let all = of(name, b"none", &object, "a: [");
    let made = all.objects[name].as_ref().expect("a type");
    assert!(made.decoded.value.is_err() && made.yaml.value.is_err());
    assert_eq!(made.read.warnings, ["unknown field \"spec.x\""]);
    assert!(made.stored.is_none());
    assert_eq!(
        made.stored_as.as_deref(),
        Some("certificates.k8s.io/v1beta1")
    );
}

#[test]
fn versions_without_a_type_and_bodies_without_a_resource() {
    let object = json!({ "kind": "Deployment", "apiVersion": "apps/v1beta1" });
    let all = of("apps.v1beta1.Deployment", b"", &object, "");
    assert!(all.objects["apps.v1beta1.Deployment"].is_none());
    let event = json!({ "type": "t", "object": { "a": 1 } });
    let all = of(
        "core.v1.WatchEvent",
        b"",
        &event,
        "object: {a: 1}\ntype: t\n",
    );
    let made = all.objects["core.v1.WatchEvent"].as_ref().expect("a type");
    assert_eq!(made.read.value.as_ref(), Ok(&event));
    assert_eq!(made.yaml.value.as_ref(), Ok(&event));
    assert!(!made.served && made.stored.is_none());
}
