//! Tables of schemas, values and what comes of them; facts of upstream's own tables.

mod costs;
mod refused;

use api::FieldPath;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::check::{Options, check};
use crate::*;

fn read(schema: &Json) -> Structural {
    Structural::read(schema).expect("a schema")
}

fn object(properties: Json) -> Json {
    json!({ "type": "object", "properties": properties })
}

fn lines(errors: &[api::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Runs one rule at the root of a schema: what is wrong, and what it cost.
fn run(schema: &Json, rule: &str, value: &Json, old: Option<&Json>) -> (Vec<String>, u64) {
    let mut schema = schema.clone();
    schema["x-kubernetes-validations"] = json!([{ "rule": rule }]);
    run_schema(&schema, value, old)
}

fn run_schema(schema: &Json, value: &Json, old: Option<&Json>) -> (Vec<String>, u64) {
    let rules = Rules::compile(&read(schema)).expect("rules");
    let ran = rules.run(&FieldPath::root(), value, old, cel::PER_OBJECT_LIMIT);
    let spent = cel::PER_OBJECT_LIMIT - ran.budget.unwrap_or(0);
    (lines(&ran.errors), spent)
}

#[test]
fn rules_see_the_past() {
    let schema = json!({
        "type": "object",
        "properties": {
            "size": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "self >= oldSelf", "message": "must not shrink"},
                {"rule": "!oldSelf.hasValue() ? self > 0 : true", "optionalOldSelf": true},
            ]},
            "list": {
                "type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["k"],
                "items": {
                    "type": "object", "required": ["k"],
                    "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                    "x-kubernetes-validations": [
                        {"rule": "self.v == oldSelf.v", "fieldPath": ".v", "reason": "FieldValueForbidden",
                         "messageExpression": "'v of ' + self.k + ' is immutable'"},
                    ],
                },
            },
        },
        "x-kubernetes-validations": [{"rule": "self.metadata.name != 'bad'"}],
    });
    let at = FieldPath::root();
    let options = Options {
        status_subresource: false,
        unlimited_costs: false,
    };
    assert_eq!(lines(&check(&schema, &at, options)), [""; 0]);
    let value = |size: i64, v: i64| {
        json!({
            "metadata": {"name": "a"}, "size": size,
            "list": [{"k": "new", "v": 9}, {"k": "x", "v": v}],
        })
    };
    let old = json!({"metadata": {"name": "a"}, "size": 3, "list": [{"k": "x", "v": 1}]});
    assert_eq!(run_schema(&schema, &value(3, 1), Some(&old)).0, [""; 0]);
    assert_eq!(
        run_schema(&schema, &value(2, 2), Some(&old)).0,
        [
            "list[1].v: Forbidden: v of x is immutable",
            "size: Invalid value: 2: must not shrink",
        ]
    );
    assert_eq!(
        run_schema(
            &schema,
            &json!({"metadata": {"name": "bad"}, "size": 0}),
            None
        )
        .0,
        [
            "<nil>: Invalid value: failed rule: self.metadata.name != 'bad'",
            "size: Invalid value: 0: failed rule: !oldSelf.hasValue() ? self > 0 : true",
        ]
    );
}

#[test]
fn what_was_wrong_before_stays() {
    let schema = json!({
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 2, "x-kubernetes-validations": [{"rule": "self != 'bad'"}]},
            "b": {"type": "string", "pattern": "^x"},
        },
    });
    let node = read(&schema);
    let old = json!({"a": "bad", "b": "y"});
    let at = FieldPath::root();
    assert_eq!(lines(&validate(&node, &at, &old, Some(&old))), [""; 0]);
    let new = json!({"a": "bad", "b": "z"});
    assert_eq!(
        lines(&validate(&node, &at, &new, Some(&old))),
        ["b: Invalid value: \"z\": b in body should match '^x'"]
    );
    let rules = Rules::compile(&node).expect("rules");
    let ran = rules.run(&at, &new, Some(&old), cel::PER_OBJECT_LIMIT);
    assert_eq!(lines(&ran.errors), [""; 0]);
    assert_eq!(
        ran.warnings,
        ["a: Invalid value: \"bad\": failed rule: self != 'bad'"]
    );
}

#[track_caller]
fn wrong(schema: Json, value: Json, want: &[&str]) {
    let node = read(&schema);
    let mut got = lines(&validate(&node, &FieldPath::root(), &value, None));
    got.extend(lines(&lists::validate(&node, &FieldPath::root(), &value)));
    assert_eq!(got, want, "{value}");
}

#[test]
fn values_are_checked_in_upstreams_words() {
    let field = |schema: Json| object(json!({ "f": schema }));
    let int = || json!({"type": "integer"});
    let with = |mut schema: Json, more: Json| {
        for (k, v) in more.as_object().expect("an object") {
            schema[k] = v.clone();
        }
        field(schema)
    };
    let text = || json!({"type": "string"});
    for (schema, value, want) in [
        (
            field(int()),
            json!("x"),
            "f: Invalid value: \"string\": f in body must be of type integer: \"string\"",
        ),
        (
            field(int()),
            json!(1.5),
            "f: Invalid value: \"number\": f in body must be of type integer: \"number\"",
        ),
        (
            field(text()),
            json!(1),
            "f: Invalid value: \"integer\": f in body must be of type string: \"integer\"",
        ),
        (
            field(text()),
            json!(null),
            "f: Invalid value: \"null\": f in body must be of type string: \"null\"",
        ),
        (
            field(json!({"type": "boolean"})),
            json!([]),
            "f: Invalid value: \"array\": f in body must be of type boolean: \"array\"",
        ),
        (
            field(json!({"x-kubernetes-int-or-string": true})),
            json!(true),
            "f: Invalid value: \"boolean\": f in body must be of type integer,string: \"boolean\"",
        ),
        (
            with(int(), json!({"minimum": 3})),
            json!(2),
            "f: Invalid value: 2: f in body should be greater than or equal to 3",
        ),
        (
            with(int(), json!({"minimum": 3, "exclusiveMinimum": true})),
            json!(3),
            "f: Invalid value: 3: f in body should be greater than 3",
        ),
        (
            with(int(), json!({"maximum": 3.5})),
            json!(4),
            "f: Invalid value: 4: f in body should be less than or equal to 3.5",
        ),
        (
            with(int(), json!({"multipleOf": 2})),
            json!(3),
            "f: Invalid value: 3: f in body should be a multiple of 2",
        ),
        (
            with(text(), json!({"maxLength": 2})),
            json!("abc"),
            "f: Too long: may not be more than 2 bytes",
        ),
        (
            with(text(), json!({"minLength": 2})),
            json!("a"),
            "f: Invalid value: \"a\": f in body should be at least 2 chars long",
        ),
        (
            with(text(), json!({"pattern": "^a$"})),
            json!("b"),
            "f: Invalid value: \"b\": f in body should match '^a$'",
        ),
        (
            with(text(), json!({"enum": ["a", "b"]})),
            json!("c"),
            "f: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            with(text(), json!({"format": "ipv4"})),
            json!("x"),
            "f: Invalid value: \"x\": f in body must be of type ipv4: \"x\"",
        ),
        (
            with(
                json!({"type": "array", "items": {"type": "string"}}),
                json!({"minItems": 1}),
            ),
            json!([]),
            "f: Invalid value: 0: f in body should have at least 1 items",
        ),
        (
            with(
                json!({"type": "array", "items": {"type": "string"}}),
                json!({"maxItems": 1}),
            ),
            json!(["a", "b"]),
            "f: Too many: 2: must have at most 1 items",
        ),
        (
            field(json!({"type": "array", "items": {"type": "string"}})),
            json!(["a", 1]),
            "f[1]: Invalid value: \"integer\": f[1] in body must be of type string: \"integer\"",
        ),
        (
            field(json!({"type": "object", "additionalProperties": {"type": "string"}})),
            json!({"a": 1}),
            "f.a: Invalid value: \"integer\": f.a in body must be of type string: \"integer\"",
        ),
        (
            with(
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"maxProperties": 1}),
            ),
            json!({"a": "", "b": ""}),
            "f: Too many: 2: must have at most 1 items",
        ),
        (
            with(json!({"type": "object"}), json!({"required": ["a"]})),
            json!({}),
            "f.a: Required value",
        ),
        (
            with(
                json!({"type": "object"}),
                json!({"not": {"required": ["a"]}}),
            ),
            json!({"a": 1}),
            "<nil>: Invalid value: \"\": \"f\" must not validate the schema (not)",
        ),
        (
            field(
                json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            ),
            json!(["a", "b", "a", "a"]),
            "f[2]: Duplicate value: \"a\"",
        ),
        (
            field(
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object"}}),
            ),
            json!([{"k": 1}, {"k": 1, "v": 2}]),
            "f[1]: Duplicate value: {\"k\":1}",
        ),
    ] {
        wrong(schema, json!({ "f": value }), &[want]);
    }
    wrong(
        object(
            json!({"f": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}),
        ),
        json!({"f": {"a": 1, "b": 2}}),
        &[
            "<nil>: Invalid value: \"\": \"f\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
    );
    wrong(
        object(json!({"f": {"type": "string", "anyOf": [{"pattern": "^a"}, {"maxLength": 1}]}})),
        json!({"f": "bb"}),
        &[
            "<nil>: Invalid value: \"\": \"f\" must validate at least one schema (anyOf)",
            "f: Invalid value: \"bb\": f in body should match '^a'",
        ],
    );
    wrong(
        object(json!({"f": {"type": "number"}})),
        json!({"f": 1}),
        &[],
    );
    wrong(
        object(json!({"f": {"type": "integer"}})),
        json!({"f": 1.0}),
        &[],
    );
    wrong(
        object(json!({"f": {"type": "string", "nullable": true}})),
        json!({"f": null}),
        &[],
    );
}

#[test]
fn unknown_fields_go_and_defaults_come() {
    let schema = read(&object(json!({
        "spec": {
            "type": "object",
            "properties": {
                "known": {"type": "string", "default": "d"},
                "nullable": {"type": "string", "nullable": true, "default": "n"},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer", "default": 2}}}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        "properties": {"inner": {"type": "object", "properties": {}}}},
                "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            },
        },
    })));
    let mut value = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "more": 1}, "extra": 1,
        "spec": {
            "unknown": {"x": 1}, "known": null, "nullable": null,
            "map": {"k": {"b": 1}}, "list": [{"b": 1}, {"a": 5}],
            "any": {"free": {"x": 1}, "inner": {"gone": 1}},
            "embedded": {"apiVersion": "v1", "kind": "P", "metadata": {"x": 1}, "gone": 1, "spec": {"gone": 1}},
        },
    });
    prune_and_default::drop_nulls(&schema, &mut value);
    prune_and_default::default(&schema, &mut value);
    let gone = prune_and_default::prune(&schema, &mut value, true);
    assert_eq!(
        gone,
        [
            "extra",
            "spec.any.inner.gone",
            "spec.embedded.gone",
            "spec.embedded.spec.gone",
            "spec.list[0].b",
            "spec.map.k.b",
            "spec.unknown",
        ]
    );
    assert_eq!(
        value,
        json!({
            "apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "more": 1},
            "spec": {
                "known": "d", "nullable": null,
                "map": {"k": {"a": 1}}, "list": [{"a": 2}, {"a": 5}],
                "any": {"free": {"x": 1}, "inner": {}},
                "embedded": {"apiVersion": "v1", "kind": "P", "metadata": {"x": 1}, "spec": {}},
            },
        })
    );
}

#[test]
fn types_for_apply() {
    let schema = read(&object(json!({
        "spec": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string"}, "b": {"x-kubernetes-int-or-string": true},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "properties": {"k": {"type": "string", "default": "x"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "unit": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"x": {"type": "integer"}}},
        }},
    })));
    let kind = KindNames {
        group: "sea.example.com",
        version: "v1",
        kind: "Ship",
        list_kind: "ShipList",
    };
    let ty = types(Some(&schema), &kind);
    assert_eq!(&**ty.name(), "com.example.sea.v1.Ship");
    let table = ty.table();
    assert!(table.by_gvk("sea.example.com", "v1", "ShipList").is_some());
    let root = table.get(ty.id());
    let spec = match &root.field("spec").expect("spec").ty {
        schema::FieldType::Object(id) => table.get(*id),
        other => panic!("{other:?}"),
    };
    let of = |name: &str| spec.field(name).expect("a field").ty.clone();
    assert!(spec.field("a").expect("a").required);
    assert_eq!(of("b"), schema::FieldType::IntOrString);
    assert!(matches!(
        of("set"),
        schema::FieldType::List(_, schema::ListType::Set)
    ));
    match of("map") {
        schema::FieldType::List(_, schema::ListType::Map(keys)) => {
            assert_eq!(keys[0].default.as_deref(), Some("\"x\""));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(of("labels"), schema::FieldType::Map(..)));
    assert!(matches!(of("free"), schema::FieldType::Any(_)));
    match of("unit") {
        schema::FieldType::Object(id) => assert!(table.get(id).atomic),
        other => panic!("{other:?}"),
    }
    assert!(root.field("metadata").is_some());
    let free = types(None, &kind);
    assert!(free.table().get(free.id()).preserve_unknown);
}

/// The definitions of a group below `k8s.io` are named as the built-in ones are.
#[test]
fn a_wrong_type_is_left_to_the_schema_in_every_group() {
    let schema = read(&object(json!({
        "spec": {"type": "object", "properties": {
            "name": {"type": "string"}, "port": {"type": "integer"},
            "rules": {"type": "array", "items": {"type": "object", "properties": {}}},
        }},
    })));
    for group in ["sea.example.com", "gateway.networking.k8s.io"] {
        let kind = KindNames {
            group,
            version: "v1",
            kind: "Ship",
            list_kind: "ShipList",
        };
        let ty = types(Some(&schema), &kind);
        let sent = json!({
            "apiVersion": format!("{group}/v1"), "kind": "Ship", "metadata": {"name": "x"},
            "spec": {"name": 7, "port": "many", "rules": {"a": 1}},
        });
        let decoded = schema::decode::value(ty.table(), ty.id(), sent.clone());
        let kept = decoded.map(|d| d.value["spec"].clone());
        assert_eq!(kept.as_ref(), Ok(&sent["spec"]), "{group}");
    }
}

#[test]
fn schemas_are_published() {
    use crate::openapi::{Form, publish, publish_list};
    let kind = KindNames {
        group: "sea.example.com",
        version: "v1",
        kind: "Ship",
        list_kind: "ShipList",
    };
    let schema = object(json!({
        "spec": {"type": "object", "required": ["n", "a"], "properties": {
            "a": {"type": "string", "anyOf": [{"minLength": 1}, {"pattern": "x"}]},
            "n": {"type": "string", "nullable": true},
            "i": {"x-kubernetes-int-or-string": true},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}},
        }},
    }));
    let packed = openapi::Packed::new(&schema);
    assert_eq!(packed.unpack().as_ref(), Some(&schema));
    let v2 = publish(Some(&schema), &kind, Form::V2);
    let spec = &v2["properties"]["spec"];
    assert_eq!(spec["required"], json!(["a"]));
    assert_eq!(spec["properties"]["n"], json!({}));
    assert_eq!(spec["properties"]["a"], json!({"type": "string"}));
    assert_eq!(
        spec["properties"]["i"],
        json!({"x-kubernetes-int-or-string": true})
    );
    assert_eq!(
        v2["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert_eq!(v2["x-kubernetes-group-version-kind"][0]["kind"], "Ship");
    let v3 = publish(Some(&schema), &kind, Form::V3);
    let spec = &v3["properties"]["spec"]["properties"];
    assert_eq!(
        spec["i"]["anyOf"],
        json!([{"type": "integer"}, {"type": "string"}])
    );
    assert_eq!(spec["n"]["nullable"], true);
    assert_eq!(spec["e"]["required"], json!(["kind", "apiVersion"]));
    assert!(spec["e"]["properties"]["metadata"]["allOf"].is_array());
    assert!(v3["properties"]["kind"]["description"].is_string());
    let list = publish_list(&kind, Form::V3);
    assert_eq!(
        list["properties"]["items"]["items"]["$ref"],
        "#/components/schemas/com.example.sea.v1.Ship"
    );
    assert_eq!(publish(None, &kind, Form::V3)["properties"], json!(null));
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[a-z]{0,3}".prop_map(Json::from),
        Just(json!("object")),
        Just(json!("array")),
        Just(json!("string")),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let word = prop_oneof![
            Just("type"),
            Just("properties"),
            Just("items"),
            Just("a"),
            Just("additionalProperties"),
            Just("default"),
            Just("anyOf"),
            Just("not"),
            Just("required"),
            Just("enum"),
            Just("pattern"),
            Just("x-kubernetes-list-type"),
            Just("x-kubernetes-list-map-keys"),
            Just("nullable"),
            Just("x-kubernetes-validations"),
            Just("rule"),
            Just("x-kubernetes-int-or-string"),
            Just("x-kubernetes-preserve-unknown-fields"),
            Just("metadata"),
            Just("format"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(word.prop_map(str::to_owned), inner, 0..5)
                .prop_map(|m| m.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    /// Whatever a schema and a value are, there is an answer; pruning and defaulting end, and
    /// doing them again changes nothing.
    #[test]
    fn nothing_panics(schema in any_json(), value in any_json()) {
        let options = Options { status_subresource: true, unlimited_costs: false };
        let _ = check(&schema, &FieldPath::root(), options);
        if let Ok(node) = Structural::read(&schema) {
            let mut value = value;
            prune_and_default::drop_nulls(&node, &mut value);
            prune_and_default::default(&node, &mut value);
            prune_and_default::prune(&node, &mut value, true);
            let once = value.clone();
            prop_assert!(prune_and_default::prune(&node, &mut value, true).is_empty());
            prop_assert_eq!(&value, &once);
            let _ = validate(&node, &FieldPath::root(), &value, Some(&schema));
            let _ = lists::validate(&node, &FieldPath::root(), &value);
            if let Some(rules) = Rules::compile(&node) {
                let _ = rules.run(&FieldPath::root(), &value, None, 1000);
            }
            let kind = KindNames { group: "g", version: "v1", kind: "K", list_kind: "KList" };
            let _ = types(Some(&node), &kind);
            let _ = openapi::publish(Some(&schema), &kind, openapi::Form::V2);
        }
    }
}
