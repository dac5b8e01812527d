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
        always written 1146
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
    let names: Vec<&str> = builtin().types().iter().map(|t| &*t.name).collect();
    let v2 = openapi::v2_closure(builtin(), &names);
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

#[test]
fn openapi_shows_what_upstreams_documents_show() {
    let roots = [
        "io.k8s.api.core.v1.SeccompProfile",
        "io.k8s.api.flowcontrol.v1.Subject",
        "io.k8s.api.authorization.v1.SubjectAccessReviewSpec",
        "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        "io.k8s.api.autoscaling.v1.Scale",
        "io.k8s.api.networking.v1.NetworkPolicyList",
        "io.k8s.api.storage.v1.StorageClassList",
        "io.k8s.api.core.v1.EndpointsList",
    ];
    let v2 = openapi::v2_closure(builtin(), &roots);
    let items = |list: &str| v2[list]["properties"]["items"]["description"].clone();
    assert_eq!(items(roots[5]), "List of networkpolicies.");
    assert_eq!(items(roots[6]), "List of storageclasses.");
    assert_eq!(items(roots[7]), "List of endpoints.");
    assert_eq!(
        v2[roots[0]]["x-kubernetes-unions"][0]["fields-to-discriminateBy"]["localhostProfile"],
        "LocalhostProfile"
    );
    assert_eq!(
        v2[roots[1]]["x-kubernetes-unions"][0]["discriminator"],
        "kind"
    );
    let extra = &v2[roots[2]]["properties"]["extra"]["additionalProperties"];
    assert_eq!(extra.get("x-kubernetes-list-type"), None, "{extra}");
    let v3 = openapi::v3_components_of(builtin(), "apps", "v1", &roots);
    let gvks = &v3[roots[3]]["x-kubernetes-group-version-kind"];
    let gvks: Vec<&str> = gvks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|gvk| gvk["group"].as_str())
        .collect();
    assert_eq!(gvks, ["", "apps"]);
    let scale = &v3[roots[4]]["x-kubernetes-group-version-kind"];
    assert_eq!(scale[0]["group"], "autoscaling", "where it is served from");
}
