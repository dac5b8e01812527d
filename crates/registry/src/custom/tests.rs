//! Definitions that are accepted and refused, their statuses and rows.

use serde_json::{Value, json};

use super::status::{AcceptedNames, decide};
use super::*;
use crate::strategy::{Context, Strategy};

const NOW: &str = "2026-01-02T03:04:05Z";

fn cx(subresource: &str) -> Context<'_> {
    Context {
        subresource,
        ..Context::of_nobody()
    }
}

fn ships() -> Value {
    let mut crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "ships", "kind": "Ship", "shortNames": ["sh"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {"type": "object", "properties": {
                            "oars": {"type": "integer", "minimum": 0, "default": 2},
                            "flag": {"type": "string"},
                        }, "x-kubernetes-validations": [{"rule": "self.oars % 2 == 0"}]},
                        "status": {"type": "object", "properties": {"place": {"type": "string"}}},
                    },
                }},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.oars", "statusReplicasPath": ".status.oars"}},
                "additionalPrinterColumns": [{"name": "Oars", "type": "integer", "jsonPath": ".spec.oars"}],
                "selectableFields": [{"jsonPath": ".spec.flag"}],
            }],
        },
    });
    Definition.default(&mut crd);
    Definition.prepare_create(&mut crd, &cx(""));
    crd
}

/// The row of a definition that no webhook converts for.
fn made(crd: &Value) -> Option<crate::Row> {
    row::row(crd, |_| panic!("a webhook"))
}

fn errors(crd: &Value) -> Vec<String> {
    let found = Definition.validate(crd, &cx(""));
    found.iter().map(ToString::to_string).collect()
}

fn established() -> Value {
    let mut crd = ships();
    let taken = AcceptedNames::of("sea.example.com", "ships.sea.example.com", []);
    crd["status"] = decide(&crd, &taken, NOW).expect("a new status");
    crd
}

#[test]
fn definitions_get_defaults() {
    let crd = ships();
    assert_eq!(crd["spec"]["names"]["listKind"], "ShipList");
    assert_eq!(crd["spec"]["names"]["singular"], "ship");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(errors(&crd), [""; 0]);
}

#[test]
fn definitions_are_checked() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut crd = ships();
        change(&mut crd);
        errors(&crd)
    };
    let spec = |pointer: &'static str, value: Value| {
        move |crd: &mut Value| {
            *crd.pointer_mut(pointer).expect(pointer) = value.clone();
        }
    };
    for (found, want) in [
        (
            with(&spec("/metadata/name", json!("boats.sea.example.com"))),
            "metadata.name: Invalid value: \"boats.sea.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            with(&spec("/spec/scope", json!("Global"))),
            "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            with(&spec("/spec/names/listKind", json!("Ship"))),
            "spec.names.listKind: Invalid value: \"Ship\": kind and listKind may not be the same",
        ),
        (
            with(&spec(
                "/spec/versions/0/additionalPrinterColumns/0/type",
                json!("int"),
            )),
            "spec.additionalPrinterColumns[0].type: Invalid value: \"int\": must be one of boolean,date,integer,number,string",
        ),
        (
            with(&spec(
                "/spec/versions/0/selectableFields/0/jsonPath",
                json!(".spec"),
            )),
            "spec.selectableFields[0].jsonPath: Invalid value: \".spec\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
        ),
        (
            with(&spec(
                "/spec/versions/0/subresources/scale/specReplicasPath",
                json!(".oars"),
            )),
            "spec.subresources.scale.specReplicasPath: Invalid value: \".oars\": should be a json path under .spec",
        ),
        (
            with(&spec(
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/type",
                json!("array"),
            )),
            "spec.validation.openAPIV3Schema.properties[spec].items: Required value: must be specified",
        ),
        (
            with(&spec("/spec/conversion/strategy", json!("Webhook"))),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            with(&|crd| crd["spec"]["versions"][0]["schema"] = json!(null)),
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            with(&|crd| crd["spec"]["preserveUnknownFields"] = true.into()),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
    ] {
        assert!(found.iter().any(|f| f == want), "{want}\n{found:?}");
    }
    let mut kube = ships();
    kube["spec"]["group"] = "sea.k8s.io".into();
    kube["metadata"]["name"] = "ships.sea.k8s.io".into();
    assert_eq!(
        errors(&kube),
        [
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
        ]
    );
}

#[test]
fn what_a_definition_is_cannot_change() {
    let old = established();
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    new["spec"]["names"]["kind"] = "Boat".into();
    let found = Definition.validate_update(&new, &old, &cx(""));
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "spec.names.kind: Invalid value: \"Boat\": field is immutable",
        ]
    );
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = "v2".into();
    Definition.prepare_update(&mut new, &old, &cx(""));
    assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    let found = Definition.validate_update(&new, &old, &cx(""));
    assert!(found[0].to_string().starts_with(
        "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"
    ));
}

#[test]
fn names_are_accepted_once() {
    let crd = established();
    let conditions = crd["status"]["conditions"].as_array().expect("conditions");
    let of = |ty: &str| {
        let found = conditions.iter().find(|c| c["type"] == ty);
        found.map(|c| (c["status"].clone(), c["reason"].clone()))
    };
    assert_eq!(
        of("NamesAccepted"),
        Some((json!("True"), json!("NoConflicts")))
    );
    assert_eq!(
        of("Established"),
        Some((json!("True"), json!("InitialNamesAccepted")))
    );
    assert_eq!(of("NonStructuralSchema"), None);
    assert_eq!(crd["status"]["acceptedNames"]["shortNames"], json!(["sh"]));
    let taken = AcceptedNames::of("sea.example.com", "ships.sea.example.com", []);
    assert_eq!(
        decide(&crd, &taken, "later"),
        None,
        "deciding again changes nothing"
    );

    let mut other = ships();
    other["metadata"]["name"] = "boats.sea.example.com".into();
    other["spec"]["names"]["plural"] = "boats".into();
    let all = [&crd, &other].map(Facts::of);
    assert!(all[0].has_its_names && all[0].is_established);
    assert!(!all[1].has_its_names && !all[1].is_established);
    let taken = AcceptedNames::of("sea.example.com", "boats.sea.example.com", &all);
    let status = decide(&other, &taken, NOW).expect("a status");
    let condition = &status["conditions"][0];
    assert_eq!(condition["reason"], "ListKindConflict");
    assert_eq!(condition["message"], "\"ShipList\" is already in use");
    assert_eq!(status["acceptedNames"]["plural"], "boats");
    assert_eq!(status["acceptedNames"].get("kind"), None);
    assert_eq!(status["conditions"][1]["status"], "False");
}

/// Such a schema is refused today; a store may have one from when it was not.
#[test]
fn what_keeps_a_schema_from_being_structural_is_said_until_it_is_mended() {
    let mended = established();
    let mut crd = mended.clone();
    crd["spec"]["preserveUnknownFields"] = true.into();
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let part = schema["properties"]["status"].as_object_mut();
    part.expect("a schema").remove("type");
    let taken = AcceptedNames::of("sea.example.com", "ships.sea.example.com", []);
    let found = |status: &Value| {
        let all = status["conditions"].as_array().expect("conditions");
        let found = all.iter().find(|c| c["type"] == "NonStructuralSchema");
        found.cloned()
    };
    let status = decide(&crd, &taken, "later").expect("a new status");
    let said = found(&status).expect("a condition");
    assert_eq!(said["status"], "True");
    assert_eq!(said["reason"], "Violations");
    assert_eq!(
        said["message"],
        "[spec.preserveUnknownFields: Invalid value: true: must be false, \
         spec.versions[0].schema.openAPIV3Schema.properties[status].type: Required value: \
         must not be empty for specified object fields]"
    );
    let mut crd = mended;
    crd["status"] = status;
    let status = decide(&crd, &taken, "later still").expect("a new status");
    assert_eq!(found(&status), None);
}

#[test]
fn a_definition_becomes_a_row() {
    assert!(made(&ships()).is_none(), "not established yet");
    let row = made(&established()).expect("a row");
    assert_eq!(
        (&*row.resource, &*row.kind, row.namespaced),
        ("ships", "Ship", true)
    );
    assert_eq!(&*row.storage_prefix, "/registry/sea.example.com/ships");
    assert!(row.subresource("status").is_some());
    assert_eq!(&*row.subresource("scale").expect("scale").kind, "Scale");
    let columns = row.columns_of(&row.versions[0]);
    let names: Vec<&str> = columns.iter().map(|c| &*c.name).collect();
    assert_eq!(names, ["Name", "Oars"]);
    assert_eq!(&*row.selectable_fields[0].name, "spec.flag");
    let ship = json!({"spec": {"flag": "black"}});
    assert_eq!(row.selectable_fields[0].value(&ship), "black");
}

#[test]
fn versions_have_an_order() {
    let mut crd = established();
    let one = crd["spec"]["versions"][0].clone();
    let all = ["v1alpha1", "v2", "v1beta2", "foo", "v10", "v1"].map(|name| {
        let mut version = one.clone();
        version["name"] = name.into();
        version["storage"] = (name == "v1").into();
        version
    });
    crd["spec"]["versions"] = json!(all);
    let row = made(&crd).expect("a row");
    let names: Vec<&str> = row.versions.iter().map(|v| &*v.version).collect();
    assert_eq!(names, ["v10", "v2", "v1", "v1beta2", "v1alpha1", "foo"]);
    assert_eq!(&*row.storage_version, "v1");
}

#[test]
fn objects_follow_their_definition() {
    let row = made(&established()).expect("a row");
    let strategy = &row.strategy;
    let mut ship = json!({
        "apiVersion": "sea.example.com/v1", "kind": "Ship", "metadata": {"name": "argo"},
        "spec": {"sail": "white", "oars": null}, "status": {"place": "iolcus"},
    });
    strategy.default(&mut ship);
    assert_eq!(ship["spec"], json!({"oars": 2}));
    strategy.prepare_create(&mut ship, &cx(""));
    assert_eq!(ship.get("status"), None);
    let lines = |ship: &Value, old: Option<&Value>| -> Vec<String> {
        let found = match old {
            None => strategy.validate(ship, &cx("")),
            Some(old) => strategy.validate_update(ship, old, &cx("")),
        };
        found.iter().map(ToString::to_string).collect()
    };
    assert_eq!(lines(&ship, None), [""; 0]);
    let mut odd = ship.clone();
    odd["spec"]["oars"] = 3.into();
    assert_eq!(
        lines(&odd, None),
        ["spec: Invalid value: failed rule: self.oars % 2 == 0"]
    );
    let mut flagged = odd.clone();
    flagged["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(lines(&flagged, Some(&odd)), [""; 0], "it was odd before");
    let mut wrong = ship.clone();
    wrong["spec"]["oars"] = "many".into();
    assert_eq!(
        lines(&wrong, None),
        [
            "spec.oars: Invalid value: \"string\": spec.oars in body must be of type integer: \"string\"",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        ]
    );
    ship["metadata"]["finalizers"] = json!(["own"]);
    assert_eq!(
        strategy.warnings(&ship, None),
        [
            "metadata.finalizers: \"own\": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        ]
    );
}
