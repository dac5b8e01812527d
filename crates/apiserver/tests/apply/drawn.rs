//! The same of schemas that are drawn, with objects that fit them: whatever sorts of values lie in one
//! another. And null, which is a value of some of them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{
    KindUnderTest, apply, config, custom, dice, is_applied_whole, is_shared_in_peace,
    is_taken_by_force, is_there_and_goes,
};

/// What has no schema of its parts, or parts that are alike.
fn simple() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"type": "string"}),
        json!({"type": "integer"}),
        json!({"type": "number"}),
        json!({"type": "boolean"}),
        json!({"x-kubernetes-int-or-string": true}),
        json!({"type": "string", "nullable": true}),
        json!({"type": "integer", "nullable": true}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}),
    ])
}

/// Some properties, by names.
fn properties(of: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec(of, 1..4).prop_map(|all| {
        let named = all.into_iter().enumerate();
        let named: Map<String, Value> = named.map(|(n, s)| (format!("f{n}"), s)).collect();
        Value::Object(named)
    })
}

/// A schema with others in it, to a depth.
fn schema() -> impl Strategy<Value = Value> {
    simple().prop_recursive(3, 24, 3, |below| {
        let seldom = || prop::bool::weighted(0.2);
        let object = (properties(below.clone()), seldom(), seldom()).prop_map(
            |(properties, is_atomic, is_open)| {
                let object = json!({"type": "object", "properties": properties});
                with_open(with_atomic(object, is_atomic), is_open)
            },
        );
        let map = (below.clone(), seldom()).prop_map(|(value, is_atomic)| {
            let map = json!({"type": "object", "additionalProperties": value});
            with_atomic(map, is_atomic)
        });
        let list = below
            .clone()
            .prop_map(|items| json!({"type": "array", "items": items}));
        let keyed = (properties(below), any::<bool>()).prop_map(|(mut properties, has_two)| {
            let keys = if has_two { vec!["k", "n"] } else { vec!["k"] };
            properties["k"] = json!({"type": "string"});
            properties["n"] = json!({"type": "integer"});
            json!({
                "type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": keys,
                "items": {"type": "object", "required": keys, "properties": properties},
            })
        });
        prop_oneof![object, map, list, keyed]
    })
}

fn with_atomic(mut schema: Value, is_atomic: bool) -> Value {
    if is_atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn with_open(mut schema: Value, is_open: bool) -> Value {
    if is_open {
        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    schema
}

type Dice<'a> = &'a mut dyn Iterator<Item = u8>;

fn throw(dice: Dice<'_>, sides: u8) -> u8 {
    dice.next().unwrap_or(0) % sides
}

/// A value that fits a schema, with every field of it. None of its containers is empty: nobody would
/// see who has one.
fn fitting(schema: &Value, dice: Dice<'_>) -> Value {
    let n = throw(dice, 90);
    if schema["nullable"] == true && n.is_multiple_of(3) {
        return Value::Null;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return match n.is_multiple_of(2) {
            true => n.into(),
            false => format!("{n}%").into(),
        };
    }
    match schema["type"].as_str() {
        Some("string") => format!("s{n}").into(),
        Some("integer") => n.into(),
        Some("number") => (f64::from(n) + 0.5).into(),
        Some("boolean") => n.is_multiple_of(2).into(),
        Some("array") => list(schema, dice),
        Some("object") => object(schema, dice),
        _ => open(dice, 2),
    }
}

fn list(schema: &Value, dice: Dice<'_>) -> Value {
    let (items, count) = (&schema["items"], 1 + throw(dice, 3));
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => {
            let numbers: BTreeSet<u8> = (0..count).map(|_| throw(dice, 8)).collect();
            let is_text = items["type"] == "string";
            let item = |n: u8| match is_text {
                true => Value::from(format!("s{n}")),
                false => Value::from(n),
            };
            numbers.into_iter().map(item).collect()
        }
        Some("map") => {
            let keyed = |nth: u8| {
                let mut item = fitting(items, dice);
                // Far from one another: a number is changed by adding one.
                item["k"] = format!("k{}", nth / 2).into();
                item["n"] = (nth * 10).into();
                if schema["x-kubernetes-list-map-keys"] == json!(["k"]) {
                    item["k"] = format!("k{nth}").into();
                }
                item
            };
            (0..count).map(keyed).collect()
        }
        _ => (0..count).map(|_| fitting(items, dice)).collect(),
    }
}

fn object(schema: &Value, dice: Dice<'_>) -> Value {
    let mut out = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        out.insert(name.clone(), fitting(property, dice));
    }
    let entry = &schema["additionalProperties"];
    if entry.is_object() {
        for n in 0..=throw(dice, 2) {
            out.insert(format!("m{n}"), fitting(entry, dice));
        }
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        for n in 0..=throw(dice, 2) {
            out.insert(format!("u{n}"), open(dice, 1));
        }
    }
    out.into()
}

/// Any value at all.
fn open(dice: Dice<'_>, depth: u8) -> Value {
    let n = throw(dice, 90);
    let sorts = if depth == 0 { 5 } else { 7 };
    match n % sorts {
        0 => format!("s{n}").into(),
        1 => n.into(),
        2 => true.into(),
        3 => Value::Null,
        4 => json!([n, "two"]),
        _ => {
            let mut out = Map::new();
            for n in 0..=throw(dice, 2) {
                out.insert(format!("o{n}"), open(dice, depth - 1));
            }
            out.into()
        }
    }
}

/// A custom kind whose specification has these properties, with an object of it.
fn kind(properties: &Value, values: &[u8]) -> KindUnderTest {
    let row = custom(properties);
    let version = row.versions.first().expect("a version");
    let spec = version.ty.table().get(version.ty.id()).field("spec");
    assert!(spec.is_some(), "no schema: {properties}");
    let mut dice = values.iter().copied().cycle();
    let spec = json!({"type": "object", "properties": properties});
    let whole = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": fitting(&spec, &mut dice),
    });
    KindUnderTest::new(&row, version, whole)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whole_and_again(properties in properties(schema()), values in dice()) {
        is_applied_whole(&kind(&properties, &values))?;
    }

    #[test]
    fn what_is_applied_is_there_and_what_is_not_goes(
        (properties, values) in (properties(schema()), dice()),
        (first, second, others) in (dice(), dice(), dice()),
    ) {
        is_there_and_goes(&kind(&properties, &values), [&first, &others, &second])?;
    }

    #[test]
    fn force_takes_what_conflicts_and_nothing_else(
        (properties, values) in (properties(schema()), dice()),
        (mine, others) in (dice(), dice()),
    ) {
        is_taken_by_force(&kind(&properties, &values), &mine, &others)?;
    }

    #[test]
    fn fields_of_ones_own_never_conflict(
        (properties, values) in (properties(schema()), dice()),
        halves in dice(),
    ) {
        is_shared_in_peace(&kind(&properties, &values), &halves)?;
    }
}

#[test]
fn null_is_a_value_where_it_may_be() {
    let kind = kind(&json!({"n": {"type": "string", "nullable": true}}), &[1]);
    let (one, two) = (kind.request("one"), kind.request("two"));
    let config = |n: Value| kind.named(json!({"spec": {"n": n}}));
    let null = config(Value::Null);
    let live = apply(&one, &Value::Null, &null, false).expect("made");
    assert_eq!(live["spec"].get("n"), Some(&Value::Null));
    assert_eq!(apply(&one, &live, &null, false).expect("again"), live);
    // It has an owner, as any value.
    assert!(apply(&two, &live, &config("x".into()), false).is_err());
    let text = apply(&one, &live, &config("x".into()), false).expect("mine");
    assert_eq!(text["spec"]["n"], "x");
    assert!(apply(&two, &text, &null, false).is_err());
    let live = apply(&one, &text, &null, false).expect("mine");
    assert_eq!(live["spec"].get("n"), Some(&Value::Null));
}

#[test]
fn what_is_open_and_atomic_is_owned_as_one() {
    let hold = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-map-type": "atomic"});
    let kind = kind(&json!({ "hold": hold }), &[1]);
    let (one, two) = (kind.request("one"), kind.request("two"));
    let config = |hold: Value| kind.named(json!({"spec": {"hold": hold}}));
    let live = apply(&one, &Value::Null, &config(json!({"a": 1})), false).expect("made");
    assert!(apply(&two, &live, &config(json!({"b": 2})), false).is_err());
    let forced = apply(&two, &live, &config(json!({"b": 2})), true).expect("by force");
    assert_eq!(forced["spec"]["hold"], json!({"b": 2}));
}
