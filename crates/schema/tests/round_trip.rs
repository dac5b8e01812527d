//! Every type of the table goes from JSON to protobuf and back without loss.

mod common;

use proptest::prelude::*;
use schema::{TypeId, builtin, decode, proto, settle};
use serde_json::{Value, json};

fn check(id: TypeId, object: &Value) {
    let table = builtin();
    let name = &table.get(id).name;
    let bytes = serde_json::to_vec(object).expect("JSON");
    let decoded = decode::json(table, id, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(decoded.problems, [], "{name}");
    let again = decode::value(table, id, decoded.value.clone()).expect("decodes again");
    assert_eq!(again.value, decoded.value, "{name}: decoding is idempotent");
    let message = proto::encode(table, id, &decoded.value).expect("encodes");
    let mut back = proto::decode(table, id, &message).expect("reads its own message");
    for field in ["kind", "apiVersion"] {
        if let (Some(v), Some(map)) = (decoded.value.get(field), back.as_object_mut()) {
            map.entry(field).or_insert(v.clone());
        }
    }
    if table.get(id).fields.iter().any(|f| f.proto != 0) && !name.contains("Table") {
        // Free-form parts of definitions are not settled: these are never stored as protobuf.
        if !name.contains("apiextensions") {
            let mut settled = decoded.value.clone();
            settle(table, id, &mut settled);
            assert_eq!(settled, back, "{name}: settled before, as it is afterwards");
        }
        assert_eq!(strip(back), strip(decoded.value), "{name}");
    }
}

/// Protobuf cannot distinguish an empty list or map from none.
fn strip(v: Value) -> Value {
    let nothing = |v: &Value| match v {
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
        v => v.is_null(),
    };
    match v {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, strip(v)));
            Value::Object(kept.filter(|(_, v)| !nothing(v)).collect())
        }
        Value::Array(items) => items.into_iter().map(strip).collect(),
        other => other,
    }
}

/// The types that have a protobuf form; those of `Table`, which only answers, have none.
fn ids() -> impl Iterator<Item = TypeId> {
    builtin()
        .types()
        .iter()
        .filter(|t| t.has_proto())
        .filter_map(|t| builtin().by_name(&t.name))
}

#[test]
fn what_has_no_protobuf_form_is_not_written_empty() {
    let name = "io.k8s.apimachinery.pkg.apis.meta.v1.Table";
    let id = builtin().by_name(name).expect("a built-in type");
    let refused = proto::encode(builtin(), id, &json!({ "kind": "Table", "rows": [] }));
    assert!(matches!(refused, Err(schema::ProtoError::NoForm(_))));
}

#[test]
fn full_objects_of_every_type() {
    for id in ids() {
        let object = common::full(builtin(), id);
        let decoded = decode::value(builtin(), id, object.clone()).expect("full object");
        assert_eq!(decoded.value, object, "a full object stays as it is");
        check(id, &object);
    }
}

#[test]
fn empty_objects_of_every_type() {
    for id in ids() {
        check(id, &json!({}));
    }
}

/// Schemas inside schemas, as deep as allowed and one deeper.
#[test]
fn depth_is_bounded() {
    let table = builtin();
    let id = table
        .by_name(schema::JSON_SCHEMA_PROPS)
        .expect("schema type");
    let nested = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({"not": inner}));
    let decoded = |depth| decode::json(table, id, nested(depth).to_string().as_bytes());
    let fits = decoded(100).expect("100 levels");
    assert_eq!(fits.value, nested(100));
    assert_eq!(
        decoded(101).expect_err("too deep").to_string(),
        "exceeded max depth"
    );
    let read = |depth| {
        proto::decode(
            table,
            id,
            &proto::encode(table, id, &nested(depth)).expect("encodes"),
        )
    };
    assert_eq!(read(50).expect("50 levels"), nested(50));
    assert_eq!(read(51), Err(schema::ProtoError::Depth));
}

/// False once in `n` throws.
fn roll(dice: &mut impl Iterator<Item = u8>, n: u8) -> bool {
    !dice.next().unwrap_or(0).is_multiple_of(n)
}

/// Removes, empties or keeps each part as the dice say.
fn thin(v: Value, dice: &mut impl Iterator<Item = u8>) -> Value {
    match v {
        Value::Object(map) => {
            let mut out = serde_json::Map::new();
            for (k, v) in map {
                if roll(dice, 3) {
                    out.insert(k, thin(v, dice));
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => items.into_iter().filter(|_| roll(dice, 2)).collect(),
        Value::String(s) if !roll(dice, 5) && s.contains('-') && !s.contains(':') => "".into(),
        Value::Number(_) if !roll(dice, 5) => 0.into(),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn thinned_objects(which in 0usize..1000, dice in prop::collection::vec(any::<u8>(), 400)) {
        let all: Vec<TypeId> = ids().collect();
        let id = all[which % all.len()];
        let object = thin(common::full(builtin(), id), &mut dice.into_iter().cycle());
        check(id, &object);
    }

    /// Whatever bytes arrive, reading them ends with a value or an error.
    #[test]
    fn noise_is_refused_quietly(which in 0usize..1000, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let all: Vec<TypeId> = ids().collect();
        let id = all[which % all.len()];
        let _ = proto::decode(builtin(), id, &noise);
        let _ = proto::unwrap_unknown(&noise);
        let _ = decode::json(builtin(), id, &noise);
    }

    /// Bytes of a real message, cut or changed at one place.
    #[test]
    fn damaged_messages(which in 0usize..1000, at in any::<prop::sample::Index>(), byte: u8) {
        let all: Vec<TypeId> = ids().collect();
        let id = all[which % all.len()];
        let mut message = proto::encode(builtin(), id, &common::full(builtin(), id)).expect("encodes");
        if message.is_empty() {
            return Ok(());
        }
        let at = at.index(message.len());
        let _ = proto::decode(builtin(), id, &message[..at]);
        message[at] = byte;
        let _ = proto::decode(builtin(), id, &message);
    }
}
