//! What the table holds, at a glance.

use expect_test::expect;
use schema::{FieldType, ListType, TypeDef, builtin, openapi};

#[test]
fn counts() {
    let types = builtin().types();
    let fields: usize = types.iter().map(|t| t.fields.len()).sum();
    let of = |f: fn(&schema::FieldDef) -> bool| -> usize {
        types
            .iter()
            .map(|t| t.fields.iter().filter(|x| f(x)).count())
            .sum()
    };
    let text = format!(
        "types {}\nfields {fields}\nwith a number {}\npointers {}\nalways written {}\nrequired {}\n\
         lists by key {}\nsets {}\nmerge keys {}\ninline {}\n",
        types.len(),
        of(|f| f.proto != 0),
        of(|f| f.ptr),
        of(|f| f.always),
        of(|f| f.required),
        of(|f| matches!(&f.ty, FieldType::List(_, ListType::Map(_)))),
        of(|f| matches!(&f.ty, FieldType::List(_, ListType::Set))),
        of(|f| f.patch.merge_key.is_some()),
        of(|f| !f.proto_path.is_empty()),
    );
    expect![[r#"
        types 808
        fields 3365
        with a number 2893
        pointers 771
        always written 1137
        required 701
        lists by key 80
        sets 18
        merge keys 68
        inline 117
    "#]]
    .assert_eq(&text);
}

fn show(def: &TypeDef) -> String {
    let fields: Vec<String> = def
        .fields
        .iter()
        .map(|f| format!("{} {}{:?} {:?}\n", f.json, f.proto, f.proto_path, f.ty))
        .collect();
    fields.concat()
}

#[test]
fn a_service_port_and_a_key_selector() {
    let t = builtin();
    let def = |name: &str| t.get(t.by_name(name).expect(name));
    expect![[r#"
        name 1[] String
        protocol 2[] String
        port 3[] Int32
        targetPort 4[] IntOrString
        nodePort 5[] Int32
        appProtocol 6[] String
    "#]]
    .assert_eq(&show(def("io.k8s.api.core.v1.ServicePort")));
    expect![[r#"
        name 1[1] String
        key 2[] String
        optional 3[] Bool
    "#]]
    .assert_eq(&show(def("io.k8s.api.core.v1.SecretKeySelector")));
    let ports = def("io.k8s.api.core.v1.ServiceSpec")
        .field("ports")
        .expect("ports");
    assert_eq!(ports.patch.merge_key.as_deref(), Some("port"));
    let FieldType::List(_, ListType::Map(keys)) = &ports.ty else {
        panic!("{:?}", ports.ty)
    };
    assert_eq!(keys[1].default.as_deref(), Some("\"TCP\""));
}

#[test]
fn numbers_are_unique_and_ascend() {
    for def in builtin().types() {
        let numbers: Vec<Vec<u32>> = def
            .fields
            .iter()
            .filter(|f| f.proto != 0)
            .map(|f| f.proto_path.iter().copied().chain([f.proto]).collect())
            .collect();
        assert!(
            numbers.is_sorted_by(|a, b| a < b),
            "{}: {numbers:?}",
            def.name
        );
    }
}

#[test]
fn openapi_is_closed() {
    let v2 = openapi::v2_definitions(builtin());
    assert!(v2.len() > 771);
    let text = serde_json::to_string(&v2).expect("JSON");
    for reference in text.split("\"$ref\":\"#/definitions/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(v2.contains_key(name), "{name} is not defined");
    }
    let v3 = openapi::v3_components(builtin(), &["io.k8s.api.core.v1.Pod"]);
    assert!(v3.contains_key("io.k8s.api.core.v1.Container"));
    assert!(!v3.contains_key("io.k8s.api.apps.v1.Deployment"));
    assert_eq!(
        v3["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"],
        "TCP"
    );
}
