//! What server-side apply promises, for every stored built-in kind in each of its versions, for a
//! custom one, and for those whose schemas are drawn: objects are made from the table of types, or to
//! fit a schema, thinned by chance, and what a result must hold is counted here, field by field,
//! without the code that owns fields.

#![recursion_limit = "256"]

mod drawn;
#[path = "../../../schema/tests/common/mod.rs"]
mod full;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use patch::{PatchError, Request, Set};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use registry::{Row, ServedVersion};
use schema::{AnyKind, FieldType, ListType, MapType, TypeId, TypeTable};
use serde_json::{Map, Value, json};

/// Metadata that has owners. The rest is the server's.
const OWNED: [&str; 4] = ["annotations", "finalizers", "labels", "ownerReferences"];

struct KindUnderTest {
    table: Arc<TypeTable>,
    ty: TypeId,
    api_version: String,
    kind: String,
    /// An object with every field.
    whole: Value,
}

/// A custom kind whose specification has these properties.
fn definition(properties: &Value) -> Value {
    json!({
        "metadata": {"name": "ships.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "ships", "kind": "Ship", "listKind": "ShipList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": properties}}}}}],
        },
        "status": {
            "acceptedNames": {"plural": "ships", "kind": "Ship", "listKind": "ShipList"},
            "conditions": [{"type": "Established", "status": "True"}],
        },
    })
}

fn custom(properties: &Value) -> Row {
    let no_webhook = |_: &Value| unreachable!("it converts by itself");
    registry::custom::row::row(&definition(properties), no_webhook).expect("it is established")
}

/// A custom kind with a list and a map of each sort.
fn ships() -> Value {
    json!({
        "helmsman": {"type": "string"},
        "length": {"type": "integer"},
        "port": {"x-kubernetes-int-or-string": true},
        "flags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "route": {"type": "array", "items": {"type": "string"}},
        "load": {"type": "object", "additionalProperties": {"type": "object",
            "properties": {"weight": {"type": "integer"}, "of": {"type": "string"}}}},
        "anchor": {"type": "object", "x-kubernetes-map-type": "atomic",
            "properties": {"chain": {"type": "integer"}, "iron": {"type": "boolean"}}},
        "oars": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["side", "place"],
            "items": {"type": "object", "required": ["side", "place"], "properties": {
                "side": {"type": "string"}, "place": {"type": "integer"},
                "rower": {"type": "string"},
                "rest": {"type": "object", "properties": {"hours": {"type": "number"}}}}}},
    })
}

static KINDS: LazyLock<Vec<KindUnderTest>> = LazyLock::new(|| {
    let custom = custom(&ships());
    let built_in = registry::kinds().rows().iter().filter(|r| !r.virtual_kind);
    let mut all = Vec::new();
    for row in built_in.map(|r| &**r).chain([&custom]) {
        for version in &row.versions {
            let whole = full::full(version.ty.table(), version.ty.id());
            all.push(KindUnderTest::new(row, version, whole));
        }
    }
    assert!(all.len() > 80, "{} kinds", all.len());
    all
});

static NONE: LazyLock<Set> = LazyLock::new(Set::new);

impl KindUnderTest {
    /// Of the metadata of the whole object there is what may be applied.
    fn new(row: &Row, version: &ServedVersion, mut whole: Value) -> Self {
        let meta = whole["metadata"].as_object_mut().expect("metadata");
        meta.retain(|field, _| OWNED.contains(&field.as_str()));
        Self {
            table: version.ty.table().clone(),
            ty: version.ty.id(),
            api_version: api::GroupVersion::new(&row.group, &version.version).to_string(),
            kind: row.kind.to_string(),
            whole,
        }
    }

    fn request<'a>(&'a self, manager: &'a str) -> Request<'a> {
        Request {
            table: &self.table,
            ty: self.ty,
            api_version: &self.api_version,
            kind: &self.kind,
            subresource: "",
            manager,
            time: "2026-01-01T00:00:00Z",
            ignored: &NONE,
            convert: None,
        }
    }

    /// An object with every field that may be applied.
    fn whole(&self) -> Value {
        self.named(self.whole.clone())
    }

    fn named(&self, mut object: Value) -> Value {
        object["apiVersion"] = self.api_version.as_str().into();
        object["kind"] = self.kind.as_str().into();
        object["metadata"]["name"] = "x".into();
        object
    }

    fn thinned(&self, dice: &[u8]) -> Value {
        let mut dice = dice.iter().copied().cycle();
        let ty = FieldType::Object(self.ty);
        let thinned = thin(&self.table, &ty, false, &self.whole(), &mut dice);
        self.named(thinned.unwrap_or_else(|| json!({})))
    }

    /// Two objects with every field between them, and none that both have but the keys of items.
    fn split(&self, dice: &[u8]) -> (Value, Value) {
        let mut dice = dice.iter().copied().cycle();
        let (one, two) = split(
            &self.table,
            Parts::Fields(self.ty),
            &self.whole(),
            &mut dice,
        );
        let named = |object: Option<Value>| self.named(object.unwrap_or_else(|| json!({})));
        (named(one), named(two))
    }

    fn leaves(&self, object: &Value) -> BTreeMap<String, Value> {
        let mut object = object.clone();
        if let Some(all) = object.as_object_mut() {
            all.remove("apiVersion");
            all.remove("kind");
        }
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.retain(|field, _| OWNED.contains(&field.as_str()));
        }
        let mut out = BTreeMap::new();
        let ty = FieldType::Object(self.ty);
        leaves(&self.table, &ty, false, &object, "", &mut out);
        out
    }
}

/// Applies to a whole object, as it is read and written.
fn apply(rq: &Request<'_>, live: &Value, config: &Value, force: bool) -> Result<Value, PatchError> {
    let managed = match api::meta::managed_fields(live) {
        [] => Vec::new(),
        list => json!(list).to_string().into(),
    };
    let (mut new, managed) = patch::apply(rq, live, &managed, config, force)?;
    if !managed.is_empty() {
        new["metadata"]["managedFields"] = serde_json::from_slice(&managed).expect("JSON");
    }
    Ok(new)
}

/// What a value consists of for apply: the fields of a type, the entries of a map, the items of a
/// list by their keys; none where it is one value.
enum Parts<'t> {
    One,
    Fields(TypeId),
    Entries(&'t FieldType),
    Items(&'t FieldType, Vec<&'t str>),
    Set,
    /// Whatever members it has, if it is an object.
    Open,
}

fn parts<'t>(table: &'t TypeTable, ty: &'t FieldType, atomic: bool) -> Parts<'t> {
    match ty {
        _ if atomic => Parts::One,
        FieldType::Object(id) if table.get(*id).atomic || table.get(*id).fields.is_empty() => {
            Parts::One
        }
        FieldType::Object(id) => Parts::Fields(*id),
        FieldType::Map(item, MapType::Granular) => Parts::Entries(item),
        FieldType::List(_, ListType::Set) => Parts::Set,
        FieldType::List(item, ListType::Map(keys)) => {
            Parts::Items(item, keys.iter().map(|k| &*k.name).collect())
        }
        FieldType::Any(AnyKind::PreserveUnknown) => Parts::Open,
        _ => Parts::One,
    }
}

/// Whether a field's value is one, and its type.
fn field<'t>(
    table: &'t TypeTable,
    id: TypeId,
    name: &str,
) -> Option<(&'t FieldType, Option<bool>)> {
    let field = table.get(id).field(name)?;
    let atomic = field.map_type.map(|kind| kind == MapType::Atomic);
    Some((&field.ty, atomic))
}

/// [`parts`] of a field, which may say otherwise than its type.
fn parts_of<'t>(table: &'t TypeTable, ty: &'t FieldType, says: Option<bool>) -> Parts<'t> {
    match (ty, says) {
        (FieldType::Object(id), Some(false)) => Parts::Fields(*id),
        (FieldType::Map(item, _), Some(false)) => Parts::Entries(item),
        (_, says) => parts(table, ty, says.unwrap_or(false)),
    }
}

/// The parts of a member of an object; none where no such field is known.
fn member<'t>(table: &'t TypeTable, id: TypeId, name: &str) -> Option<Parts<'t>> {
    match field(table, id, name) {
        Some((ty, says)) => Some(parts_of(table, ty, says)),
        None => table.get(id).preserve_unknown.then_some(Parts::Open),
    }
}

/// Leaves parts out as the dice say, and what holds nothing then. Keys of items stay.
fn thin(
    table: &TypeTable,
    ty: &FieldType,
    atomic: bool,
    value: &Value,
    dice: &mut impl Iterator<Item = u8>,
) -> Option<Value> {
    thin_parts(table, parts(table, ty, atomic), value, dice)
}

fn thin_parts(
    table: &TypeTable,
    parts: Parts<'_>,
    value: &Value,
    dice: &mut impl Iterator<Item = u8>,
) -> Option<Value> {
    let keep = |dice: &mut dyn Iterator<Item = u8>| !dice.next().unwrap_or(0).is_multiple_of(3);
    let mut out = Map::new();
    match (parts, value) {
        (Parts::Fields(id), Value::Object(map)) => {
            for (name, below) in map {
                if keep(dice)
                    && let Some(parts) = member(table, id, name)
                    && let Some(kept) = thin_parts(table, parts, below, dice)
                {
                    out.insert(name.clone(), kept);
                }
            }
        }
        (Parts::Open, Value::Object(map)) => {
            for (name, below) in map {
                if keep(dice)
                    && let Some(kept) = thin_parts(table, Parts::Open, below, dice)
                {
                    out.insert(name.clone(), kept);
                }
            }
        }
        (Parts::Entries(item), Value::Object(map)) => {
            for (name, below) in map {
                if keep(dice)
                    && let Some(kept) = thin(table, item, false, below, dice)
                {
                    out.insert(name.clone(), kept);
                }
            }
        }
        (Parts::Items(ty, keys), Value::Array(items)) => {
            let mut kept = Vec::new();
            for item in items {
                if !keep(dice) {
                    continue;
                }
                let mut thinned = thin(table, ty, false, item, dice).unwrap_or_else(|| json!({}));
                for key in &keys {
                    thinned[*key] = item[*key].clone();
                }
                kept.push(thinned);
            }
            return (!kept.is_empty()).then(|| kept.into());
        }
        (Parts::Set, Value::Array(items)) => {
            let kept: Vec<Value> = items.iter().filter(|_| keep(dice)).cloned().collect();
            return (!kept.is_empty()).then(|| kept.into());
        }
        (_, value) => return Some(value.clone()),
    }
    (!out.is_empty()).then(|| out.into())
}

/// Gives each part to one of two as the dice say; keys of items to whoever has some of the item.
fn split(
    table: &TypeTable,
    parts: Parts<'_>,
    value: &Value,
    dice: &mut dyn Iterator<Item = u8>,
) -> (Option<Value>, Option<Value>) {
    let (mut one, mut two) = (Map::new(), Map::new());
    match (parts, value) {
        (Parts::Fields(id), Value::Object(map)) => {
            for (name, below) in map {
                let parts = member(table, id, name).unwrap_or(Parts::One);
                give(&mut one, &mut two, name, split(table, parts, below, dice));
            }
        }
        (Parts::Entries(item), Value::Object(map)) => {
            for (name, below) in map {
                let halves = split(table, self::parts(table, item, false), below, dice);
                give(&mut one, &mut two, name, halves);
            }
        }
        (Parts::Open, Value::Object(map)) => {
            for (name, below) in map {
                let halves = split(table, Parts::Open, below, dice);
                give(&mut one, &mut two, name, halves);
            }
        }
        (Parts::Items(ty, keys), Value::Array(items)) => {
            let halves = items.iter().map(|item| {
                let with_keys = |mut half: Value| {
                    keys.iter().for_each(|key| half[*key] = item[*key].clone());
                    half
                };
                let (one, two) = split(table, self::parts(table, ty, false), item, dice);
                (one.map(with_keys), two.map(with_keys))
            });
            let (one, two): (Vec<_>, Vec<_>) = halves.unzip();
            let list = |half: Vec<Option<Value>>| -> Option<Value> {
                let items: Vec<Value> = half.into_iter().flatten().collect();
                (!items.is_empty()).then(|| items.into())
            };
            return (list(one), list(two));
        }
        (Parts::Set, Value::Array(items)) => {
            let (one, two): (Vec<Value>, Vec<Value>) =
                items.iter().cloned().partition(|_| heads(dice));
            let list = |half: Vec<Value>| (!half.is_empty()).then(|| half.into());
            return (list(one), list(two));
        }
        (_, value) if heads(dice) => return (Some(value.clone()), None),
        (_, value) => return (None, Some(value.clone())),
    }
    let object = |half: Map<String, Value>| (!half.is_empty()).then(|| half.into());
    (object(one), object(two))
}

fn heads(dice: &mut dyn Iterator<Item = u8>) -> bool {
    dice.next().unwrap_or(0).is_multiple_of(2)
}

fn give(
    one: &mut Map<String, Value>,
    two: &mut Map<String, Value>,
    name: &str,
    halves: (Option<Value>, Option<Value>),
) {
    for (map, half) in [(one, halves.0), (two, halves.1)] {
        map.extend(half.map(|half| (name.to_owned(), half)));
    }
}

/// Every part with an owner of its own, by its path.
fn leaves(
    table: &TypeTable,
    ty: &FieldType,
    atomic: bool,
    value: &Value,
    path: &str,
    out: &mut BTreeMap<String, Value>,
) {
    leaves_of(table, parts(table, ty, atomic), value, path, out);
}

fn leaves_of(
    table: &TypeTable,
    parts: Parts<'_>,
    value: &Value,
    path: &str,
    out: &mut BTreeMap<String, Value>,
) {
    match (parts, value) {
        (Parts::Fields(id), Value::Object(map)) => {
            for (name, below) in map {
                let path = format!("{path}.{name}");
                match member(table, id, name) {
                    Some(parts) => leaves_of(table, parts, below, &path, out),
                    None => drop(out.insert(path, below.clone())),
                }
            }
        }
        (Parts::Open, Value::Object(map)) => {
            for (name, below) in map {
                leaves_of(table, Parts::Open, below, &format!("{path}.{name}"), out);
            }
        }
        (Parts::Entries(item), Value::Object(map)) => {
            for (name, below) in map {
                leaves(table, item, false, below, &format!("{path}[{name}]"), out);
            }
        }
        (Parts::Items(ty, keys), Value::Array(items)) => {
            for item in items {
                let key: Vec<String> = keys.iter().map(|k| item[*k].to_string()).collect();
                let path = format!("{path}[{}]", key.join(","));
                leaves(table, ty, false, item, &path, out);
            }
        }
        (Parts::Set, Value::Array(items)) => {
            for item in items {
                out.insert(format!("{path}[{item}]"), item.clone());
            }
        }
        (_, value) => drop(out.insert(path.to_owned(), value.clone())),
    }
}

/// The same fields with other values.
fn changed(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, below)| {
                let keep = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                let below = if keep { below.clone() } else { changed(below) };
                (name.clone(), below)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(changed).collect(),
        Value::String(text) => format!("{text}-other").into(),
        Value::Number(n) => n.as_i64().map_or(json!(0.25), |n| json!(n + 1)),
        Value::Bool(b) => (!b).into(),
        Value::Null => Value::Null,
    }
}

fn dice() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 300)
}

/// Many cases, the same each time: what a change did not break does not stop it. Others are drawn with
/// another seed.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 400,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(136),
        ..ProptestConfig::default()
    }
}

type Checked = Result<(), TestCaseError>;

/// Applies, where nobody is in the way.
fn step(
    kind: &KindUnderTest,
    manager: &str,
    live: &Value,
    config: &Value,
) -> Result<Value, TestCaseError> {
    apply(&kind.request(manager), live, config, false)
        .map_err(|e| TestCaseError::fail(format!("{} {}: {e}", kind.api_version, kind.kind)))
}

/// An object is applied whole, once and again, and what somebody else would change of it conflicts.
fn is_applied_whole(kind: &KindUnderTest) -> Checked {
    let name = format!("{} {}", kind.api_version, kind.kind);
    let (whole, other) = (kind.whole(), changed(&kind.whole()));
    let live = step(kind, "one", &Value::Null, &whole)?;
    prop_assert_eq!(kind.leaves(&live), kind.leaves(&whole), "{}", name);
    prop_assert_eq!(&step(kind, "one", &live, &whole)?, &live, "{}", name);
    // Nobody conflicts with itself.
    let own = step(kind, "one", &live, &other)?;
    prop_assert_eq!(kind.leaves(&own), kind.leaves(&other), "{}", name);
    // Somebody else does, over each field that they would change.
    let (has, wants) = (kind.leaves(&live), kind.leaves(&other));
    let differs = |(path, value): (&String, &Value)| has.get(path).is_some_and(|v| v != value);
    let refused = apply(&kind.request("two"), &live, &other, false);
    prop_assert_eq!(refused.is_err(), wants.iter().any(differs), "{}", name);
    Ok(())
}

/// One applies, another applies, the first applies something else: an object has what the two apply
/// last, and nothing besides.
fn is_there_and_goes(kind: &KindUnderTest, dice: [&[u8]; 3]) -> Checked {
    let [first, others, second] = dice.map(|dice| kind.thinned(dice));
    let name = format!("{} {}", kind.api_version, kind.kind);
    // All say the same of what they share.
    let live = step(kind, "one", &Value::Null, &first)?;
    let live = step(kind, "two", &live, &others)?;
    let live = step(kind, "one", &live, &second)?;
    let mut wanted = kind.leaves(&second);
    wanted.extend(kind.leaves(&others));
    prop_assert_eq!(kind.leaves(&live), wanted, "{}", name);
    // Idempotent, for both.
    prop_assert_eq!(&step(kind, "one", &live, &second)?, &live, "{}", name);
    prop_assert_eq!(&step(kind, "two", &live, &others)?, &live, "{}", name);
    // Who applies nothing any more leaves the other's fields.
    let live = step(kind, "one", &live, &kind.named(json!({})))?;
    prop_assert_eq!(kind.leaves(&live), kind.leaves(&others), "{}", name);
    Ok(())
}

/// By force one takes fields over; the others keep theirs.
fn is_taken_by_force(kind: &KindUnderTest, mine: &[u8], others: &[u8]) -> Checked {
    let (mine, others) = (changed(&kind.thinned(mine)), kind.thinned(others));
    let live = step(kind, "two", &Value::Null, &others)?;
    let live = apply(&kind.request("one"), &live, &mine, true).expect("by force");
    let mut wanted = kind.leaves(&others);
    wanted.extend(kind.leaves(&mine));
    let name = format!("{} {}", kind.api_version, kind.kind);
    prop_assert_eq!(kind.leaves(&live), wanted, "{}", name);
    prop_assert_eq!(step(kind, "one", &live, &mine)?, live, "{}", name);
    Ok(())
}

/// Two who apply fields of their own never conflict, whatever they say next; and what nobody applied
/// stays when he goes who applied the rest.
fn is_shared_in_peace(kind: &KindUnderTest, dice: &[u8]) -> Checked {
    let name = format!("{} {}", kind.api_version, kind.kind);
    let (mine, others) = kind.split(dice);
    let live = step(kind, "one", &Value::Null, &mine)?;
    let both = step(kind, "two", &live, &others)?;
    prop_assert_eq!(kind.leaves(&both), kind.leaves(&kind.whole()), "{}", name);
    let next = changed(&others);
    let both = step(kind, "two", &both, &next)?;
    let mut wanted = kind.leaves(&mine);
    wanted.extend(kind.leaves(&next));
    prop_assert_eq!(kind.leaves(&both), wanted, "{}", name);
    // Nobody owns what was there before.
    let both = step(kind, "one", &others, &mine)?;
    prop_assert_eq!(kind.leaves(&both), kind.leaves(&kind.whole()), "{}", name);
    let left = step(kind, "one", &both, &kind.named(json!({})))?;
    prop_assert_eq!(kind.leaves(&left), kind.leaves(&others), "{}", name);
    Ok(())
}

#[test]
fn every_kind_can_be_applied_whole_and_again() {
    for kind in KINDS.iter() {
        is_applied_whole(kind).unwrap_or_else(|e| panic!("{e}"));
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_applied_is_there_and_what_is_not_goes(
        which in any::<prop::sample::Index>(),
        (first, second, others) in (dice(), dice(), dice()),
    ) {
        is_there_and_goes(which.get(&KINDS), [&first, &others, &second])?;
    }

    #[test]
    fn force_takes_what_conflicts_and_nothing_else(
        which in any::<prop::sample::Index>(),
        (mine, others) in (dice(), dice()),
    ) {
        is_taken_by_force(which.get(&KINDS), &mine, &others)?;
    }

    #[test]
    fn fields_of_ones_own_never_conflict(
        which in any::<prop::sample::Index>(),
        halves in dice(),
    ) {
        is_shared_in_peace(which.get(&KINDS), &halves)?;
    }
}
