//! What rules cost: as they run, and by the bounds of their schema before.

use super::*;

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
