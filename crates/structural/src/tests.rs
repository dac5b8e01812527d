//! Tables of schemas, values and what comes of them; facts of upstream's own tables.

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

/// Values `val1`, `val2` and so on, with their schemas.
fn numbered(pairs: &[(Json, Json)]) -> (Json, Json) {
    let mut properties = json!({});
    let mut value = json!({});
    for (i, (schema, v)) in pairs.iter().enumerate() {
        let name = format!("val{}", i + 1);
        properties[&name] = schema.clone();
        value[&name] = v.clone();
    }
    (object(properties), value)
}

#[track_caller]
fn costs(schema: &Json, value: &Json, rules: &[(&str, u64)]) {
    let mut wrong = Vec::new();
    for (rule, want) in rules {
        let (errors, cost) = run(schema, rule, value, None);
        if !errors.is_empty() || cost != *want {
            wrong.push(format!("{rule}: {cost} instead of {want}, {errors:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_cost_what_they_cost_upstream() {
    let (text, int) = (json!({"type": "string"}), json!({"type": "integer"}));
    let number = json!({"type": "number"});
    let list = |items: &Json| json!({"type": "array", "items": items});
    let format = |f: &str| json!({"type": "string", "format": f});

    let max = i64::MAX;
    let (schema, value) = numbered(&[(int.clone(), json!(max)), (int.clone(), json!(max))]);
    costs(
        &schema,
        &value,
        &[("self.val1 == self.val2", 5), ("type(self.val1) == int", 4)],
    );
    let (schema, value) = numbered(&[
        (int.clone(), json!(5)),
        (number.clone(), json!(10.0)),
        (number.clone(), json!(1)),
    ]);
    costs(
        &schema,
        &value,
        &[
            ("double(self.val1) < self.val2", 6),
            ("self.val1 < int(self.val2)", 6),
            ("double(5) < 10.0", 1),
            ("5 < int(10.0)", 1),
            ("double(self.val1) < 10.0", 4),
            ("type(self.val3) == double", 4),
            ("self.val3 == 1.0", 3),
        ],
    );
    let rook = json!("Rook takes 👑");
    let (schema, value) = numbered(&[(text.clone(), rook.clone()), (text.clone(), rook)]);
    costs(
        &schema,
        &value,
        &[
            ("self.val1.startsWith('Rook')", 4),
            ("!self.val1.startsWith('knight')", 5),
            ("self.val1.matches('^[^0-9]*$')", 8),
            ("!self.val1.matches('^[0-9]*$')", 7),
            ("type(self.val1) == string", 4),
            ("size(self.val1) == 12", 4),
            ("self.val1.charAt(3) == 'k'", 4),
            ("self.val1.indexOf('o') == 1", 4),
            ("self.val1.indexOf('o', 2) == 2", 4),
            ("self.val1.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
            ("self.val1.replace(' ', 'x', 1) == 'Rookxtakes 👑'", 7),
            ("self.val1.split(' ') == ['Rook', 'takes', '👑']", 6),
            ("self.val1.split(' ', 2) == ['Rook', 'takes 👑']", 6),
            ("self.val1.substring(5) == 'takes 👑'", 5),
            ("self.val1.substring(0, 4) == 'Rook'", 5),
            ("self.val1.substring(4, 10).trim() == 'takes'", 6),
            ("self.val1.upperAscii() == 'ROOK TAKES 👑'", 6),
            ("self.val1.lowerAscii() == self.val1.lowerAscii()", 10),
            ("'%e'.format([3.14]) == '3.140000×10⁰⁰'", 3),
            ("'%o %o %o'.format([7, 8, 9]) == '7 10 11'", 2),
            ("'%b %b %b'.format([7, 8, 9]) == '111 1000 1001'", 3),
        ],
    );
    let (schema, value) = numbered(&[
        (format("byte"), json!("QUI=")),
        (format("duration"), json!("1h2m3s4ms")),
        (format("date"), json!("1997-07-16")),
        (
            format("date-time"),
            json!("2011-08-18T19:03:37.010000000+01:00"),
        ),
    ]);
    costs(
        &schema,
        &value,
        &[
            ("self.val1 == b'AB'", 3),
            ("size(self.val1) == 2", 4),
            ("self.val2 == duration('1h2m') + duration('3s4ms')", 4),
            ("self.val2.getHours() == 1", 4),
            ("self.val3.getDate() == 16", 4),
            ("type(self.val3) == google.protobuf.Timestamp", 4),
            (
                "self.val4 == timestamp('2011-08-18T00:00:00.000+01:00') + duration('19h3m37s10ms')",
                4,
            ),
            ("self.val4.getDate('01:00') == 18", 4),
        ],
    );
    let numbers = json!([1, 2, 3]);
    let (schema, value) = numbered(&[(list(&int), numbers.clone()), (list(&int), numbers)]);
    costs(
        &schema,
        &value,
        &[
            ("1 in self.val1", 5),
            ("self.val2[0] in self.val1", 8),
            ("!(0 in self.val1)", 6),
            ("self.val1 + self.val2 == [1, 2, 3, 1, 2, 3]", 6),
            ("self.val1 + [4, 5] == [1, 2, 3, 4, 5]", 4),
            ("has(self.val1)", 1),
            ("has(self.val1) && has(self.val2)", 2),
        ],
    );
    let mut set = list(&text);
    set["x-kubernetes-list-type"] = "set".into();
    let (schema, value) = numbered(&[
        (set.clone(), json!(["a", "b", "c"])),
        (set, json!(["a", "c", "b"])),
    ]);
    costs(
        &schema,
        &value,
        &[
            ("self.val1 == ['c', 'b', 'a']", 3),
            ("self.val1 == self.val2", 5),
            ("'a' in self.val1", 5),
            ("self.val2[0] in self.val1", 8),
            ("self.val1 + self.val2 == ['a', 'b', 'c']", 6),
            ("self.val1 + ['c', 'd'] == ['a', 'b', 'c', 'd']", 4),
            ("sets.contains(self.val1, ['a'])", 6),
            ("sets.equivalent(self.val1, ['a', 'b', 'c'])", 21),
            ("sets.intersects(self.val1, ['a'])", 6),
        ],
    );
}

#[test]
fn rules_cost_what_they_cost_upstream_on_collections() {
    let text = json!({"type": "string"});
    let item = object(json!({ "k": text, "v": text }));
    let map_list = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": item,
    });
    let schema = object(json!({ "objs": { "type": "array", "items": map_list } }));
    let value = json!({ "objs": [
        [{"k": "a", "v": "1"}, {"k": "b", "v": "2"}],
        [{"k": "b", "v": "2"}, {"k": "a", "v": "1"}],
        [{"k": "b", "v": "3"}, {"k": "a", "v": "1"}],
        [{"k": "c", "v": "4"}],
    ]});
    costs(
        &schema,
        &value,
        &[
            ("self.objs[0] == self.objs[1]", 7),
            ("self.objs[0] + self.objs[2] == self.objs[2]", 11),
            ("self.objs[2] + self.objs[0] == self.objs[0]", 11),
            ("self.objs[0] == [self.objs[0][0], self.objs[0][1]]", 22),
            ("self.objs[0] == [self.objs[0][1], self.objs[0][0]]", 22),
            (
                "self.objs[2] + [self.objs[0][0], self.objs[0][1]] == self.objs[0]",
                26,
            ),
            ("size(self.objs[0] + [self.objs[3][0]]) == 3", 20),
        ],
    );
    let map = json!({"type": "object", "additionalProperties": text});
    let (schema, value) = numbered(&[
        (map.clone(), json!({"k1": "a", "k2": "b"})),
        (map, json!({"k2": "b", "k1": "a"})),
    ]);
    costs(
        &schema,
        &value,
        &[
            ("self.val1 == self.val2", 5),
            ("'k1' in self.val1", 3),
            ("!('k3' in self.val1)", 4),
            ("self.val1 == {'k1': 'a', 'k2': 'b'}", 3),
        ],
    );
    let mut enumerated = json!({"type": "string"});
    enumerated["enum"] = json!(["Pending", "Available"]);
    let schema = object(json!({ "enumStr": enumerated }));
    costs(
        &schema,
        &json!({"enumStr": "Pending"}),
        &[
            ("self.enumStr == 'Pending'", 3),
            ("self.enumStr in ['Pending', 'Available']", 2),
        ],
    );
    let mixed = json!({"x-kubernetes-int-or-string": true});
    let (schema, value) = numbered(&[(mixed.clone(), json!(5)), (mixed, json!("50%"))]);
    let sees = |rule: &str| run(&schema, rule, &value, None).0;
    assert!(sees("type(self.val1) == int ? self.val1 < 6 : false").is_empty());
    assert!(sees("type(self.val2) == string && self.val2.endsWith('%')").is_empty());
    assert_eq!(
        sees("self.val2 < 6"),
        [
            "<nil>: Invalid value: \"object\": 'no such overload: _<_': call arguments did not match a supported operator, function or macro signature for rule: self.val2 < 6"
        ]
    );
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

#[test]
fn budgets_end_rules() {
    let schema = object(json!({ "list": {"type": "array", "items": {"type": "integer"}} }));
    let value = json!({ "list": (0..2000).collect::<Vec<i64>>() });
    let rule = "self.list.all(x, self.list.all(y, x == x))";
    assert_eq!(
        run(&schema, rule, &value, None).0,
        [format!(
            "<nil>: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {rule}"
        )]
    );
    let mut schema = schema;
    schema["x-kubernetes-validations"] = json!([{ "rule": "self.list.all(x, x >= 0)" }]);
    let rules = Rules::compile(&read(&schema)).expect("rules");
    let ran = rules.run(&FieldPath::root(), &value, None, 100);
    assert_eq!(
        lines(&ran.errors),
        [
            "<nil>: Invalid value: \"object\": validation failed due to running out of cost budget, no further validation rules will be run"
        ]
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

#[track_caller]
fn refused(schema: Json, want: &[&str]) {
    let options = Options {
        status_subresource: false,
        unlimited_costs: false,
    };
    let got = lines(&check(&schema, &FieldPath::new("schema"), options));
    assert_eq!(got, want, "{schema}");
}

#[test]
fn schemas_that_are_refused() {
    refused(object(json!({"a": {"type": "string"}})), &[]);
    refused(
        json!({}),
        &["schema.type: Required value: must not be empty at the root"],
    );
    refused(
        json!({"type": "string"}),
        &["schema.type: Invalid value: \"string\": must be object at the root"],
    );
    refused(
        object(json!({"a": {}})),
        &[
            "schema.properties[a].type: Required value: must not be empty for specified object fields",
        ],
    );
    refused(
        object(json!({"a": {"type": "array"}})),
        &["schema.properties[a].items: Required value: must be specified"],
    );
    refused(
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        &["schema.additionalProperties: Forbidden: must not be used at the root"],
    );
    refused(
        json!({"type": "object", "anyOf": [{"properties": {"a": {"type": "string", "minLength": 1}}}]}),
        &[
            "schema.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
            "schema.properties[a]: Required value: because it is defined in schema.anyOf[0].properties[a]",
        ],
    );
    refused(
        object(
            json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
        ),
        &[],
    );
    refused(
        object(
            json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}),
        ),
        &[
            "schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ],
    );
    refused(
        object(
            json!({"metadata": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a"}}}}),
        ),
        &[],
    );
    refused(
        object(json!({"a": {"type": "string", "pattern": "("}})),
        &[
            "schema.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: unclosed group: `(`",
        ],
    );
    refused(
        object(json!({"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}})),
        &[
            "schema.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ],
    );
    refused(
        object(json!({"a": {"$ref": "#/x", "type": "string"}})),
        &["schema.properties[a].$ref: Forbidden: $ref is not supported"],
    );
    refused(
        object(json!({"a": {"type": "date"}})),
        &[
            "schema.properties[a].type: Unsupported value: \"date\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ],
    );
    refused(
        object(json!({"a": {"type": "array", "items": [{"type": "string"}]}})),
        &["schema.properties[a].items: Forbidden: items must be a schema object and not an array"],
    );
    refused(
        object(
            json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}),
        ),
        &[
            "schema.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ],
    );
    refused(
        object(
            json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}}}, "x-kubernetes-list-map-keys": ["k"]}}),
        ),
        &[
            "schema.properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ],
    );
    refused(
        object(
            json!({"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}}),
        ),
        &[
            "schema.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ],
    );
    refused(
        object(json!({"a": {"type": "integer", "default": "x"}})),
        &[
            "schema.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
        ],
    );
    refused(
        object(json!({"a": {"type": "object", "default": {"b": 1}}})),
        &["schema.properties[a].default: Invalid value: {\"b\":1}: must not have unknown fields"],
    );
    refused(
        object(json!({"metadata": {"type": "object", "default": {}}})),
        &["schema.properties[metadata].default: Forbidden: must not be set in top-level metadata"],
    );
}

#[test]
fn rules_that_are_refused() {
    let with = |schema: Json, rule: Json| {
        let mut schema = schema;
        schema["properties"]["a"]["x-kubernetes-validations"] = json!([rule]);
        schema
    };
    let text = || object(json!({"a": {"type": "string"}}));
    let list = || object(json!({"a": {"type": "array", "items": {"type": "string"}}}));
    let at = "schema.properties[a].x-kubernetes-validations[0]";
    for (schema, want) in [
        (
            with(text(), json!({"rule": ""})),
            format!("{at}.rule: Required value: rule is not specified"),
        ),
        (
            with(text(), json!({"rule": "true", "message": " "})),
            format!("{at}.message: Invalid value: \" \": must be non-empty if specified"),
        ),
        (
            with(text(), json!({"rule": "true\n&& true"})),
            format!(
                "{at}.message: Required value: message must be specified if rule contains line breaks"
            ),
        ),
        (
            with(text(), json!({"rule": "true", "reason": "x"})),
            format!(
                "{at}.reason: Unsupported value: \"x\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
        ),
        (
            with(text(), json!({"rule": "true", "fieldPath": ".b"})),
            format!("{at}.fieldPath: Invalid value: \".b\": must be a valid path"),
        ),
        (
            with(text(), json!({"rule": "self"})),
            format!(
                "{at}.rule: Invalid value: {{\"rule\":\"self\"}}: cel expression must evaluate to a bool"
            ),
        ),
        (
            with(text(), json!({"rule": "self.x == 1"})),
            format!(
                "{at}.rule: Invalid value: {{\"rule\":\"self.x == 1\"}}: compilation failed: ERROR: <input>:1:5: type 'string' does not support field selection\n | self.x == 1\n | ....^"
            ),
        ),
        (
            with(text(), json!({"rule": "true", "messageExpression": "1"})),
            format!(
                "{at}.messageExpression: Invalid value: {{\"messageExpression\":\"1\",\"rule\":\"true\"}}: messageExpression must evaluate to a string"
            ),
        ),
        (
            with(text(), json!({"rule": "true", "optionalOldSelf": true})),
            format!(
                "{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ),
        (
            with(list(), json!({"rule": "self.all(x, self.all(y, x == y))"})),
            format!(
                "{at}.rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
            ),
        ),
    ] {
        let options = Options {
            status_subresource: false,
            unlimited_costs: false,
        };
        let got = lines(&check(&schema, &FieldPath::new("schema"), options));
        assert_eq!(got.first(), Some(&want), "{schema}");
    }
    let mut schema = list();
    schema["properties"]["a"]["maxItems"] = 5.into();
    schema["properties"]["a"]["items"]["maxLength"] = 5.into();
    schema["properties"]["a"]["items"]["x-kubernetes-validations"] =
        json!([{"rule": "self == oldSelf"}]);
    refused(
        schema,
        &[
            "schema.properties[a].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within schema.properties[a]",
        ],
    );
}

#[test]
fn costs_follow_from_bounds() {
    let cost = |schema: &Json, rule: &str| {
        let decl = declare(&read(schema), false).expect("a declaration");
        let env = cel::Env::new().variable("self", decl).with_declared_sizes();
        let program = cel::Program::compile(rule, &env).unwrap_or_else(|e| panic!("{rule}: {e}"));
        program.cost().max
    };
    let list = |items: Json, max: Option<i64>| {
        let mut schema = json!({"type": "array", "items": items});
        if let Some(max) = max {
            schema["maxItems"] = max.into();
        }
        schema
    };
    let int = json!({"type": "integer"});
    // Facts of upstream's table of estimates.
    assert_eq!(
        cost(&list(int.clone(), None), "self.all(x, true)"),
        4_718_591
    );
    assert_eq!(cost(&list(int.clone(), Some(10)), "self.all(x, true)"), 32);
    assert_eq!(
        cost(&list(json!({"type": "boolean"}), None), "self.all(x, true)"),
        1_887_437
    );
    assert_eq!(
        cost(&list(json!({"type": "string"}), None), "self.all(x, true)"),
        3_145_727
    );
    assert_eq!(
        cost(&json!({"type": "string"}), "self.matches('a')"),
        314_574
    );
    assert_eq!(
        cost(
            &json!({"type": "string", "maxLength": 10}),
            "self.contains('test')"
        ),
        5
    );
    // What no path leads to is as large as `self`, which is not a list here; a path that leads nowhere
    // is without bound.
    let text = json!({"type": "string", "maxLength": 64});
    let schema = object(json!({
        "a": list(text, Some(256)),
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }));
    let rule = |of: &str| format!("({of}).exists(k, k.contains('/'))");
    assert_eq!(cost(&schema, &rule("has(self.a) ? self.a : []")), 1_292);
    assert_eq!(cost(&schema, &rule("self.a")), 7_939);
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
