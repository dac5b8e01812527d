//! Strategic merge patch: merges by type, with merge keys and directives.
//! The directives: `$patch` (`delete`, `replace`, `merge`), `$retainKeys`,
//! `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use schema::model::{FieldType, PatchFacts, TypeId, TypeTable};
use serde_json::{Map, Value};

use crate::PatchError;
use crate::json::go_kind;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Most list items and fields that are looked at in one patch. Each list is indexed once for each
/// item of the patch that names it, and a patch may name one ten thousand times; an honest one
/// looks at each item of the object a few times, and the largest object has some ten thousands.
const MAX_STEPS: usize = 1_000_000;

type Fields = Map<String, Value>;
type Outcome<T> = Result<T, PatchError>;

/// What is known of a value's type; `None` is free-form.
#[derive(Clone, Copy)]
struct Ctx<'a> {
    table: &'a TypeTable,
    ty: Option<&'a FieldType>,
    /// What is left of [`MAX_STEPS`].
    steps: &'a Cell<usize>,
}

impl<'a> Ctx<'a> {
    fn charge(self, steps: usize) -> Outcome<()> {
        match self.steps.get().checked_sub(steps) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(PatchError::TooLarge(
                "the patch takes too much work: it names the same lists too often".to_owned(),
            )),
        }
    }
    fn field(self, name: &str) -> (Ctx<'a>, PatchFacts) {
        let none = (Ctx { ty: None, ..self }, PatchFacts::default());
        match self.ty {
            Some(FieldType::Object(id)) => match self.table.get(*id).field(name) {
                Some(f) => (
                    Ctx {
                        ty: Some(&f.ty),
                        ..self
                    },
                    f.patch.clone(),
                ),
                None => none,
            },
            Some(FieldType::Map(item, _)) => (
                Ctx {
                    ty: Some(item),
                    ..self
                },
                PatchFacts::default(),
            ),
            _ => none,
        }
    }
    fn item(self) -> Ctx<'a> {
        let ty = match self.ty {
            Some(FieldType::List(item, _)) => Some(&**item),
            _ => None,
        };
        Ctx { ty, ..self }
    }
    fn name(self) -> &'a str {
        match self.ty {
            Some(FieldType::Object(id)) => {
                let name = &*self.table.get(*id).name;
                name.rsplit('.').next().unwrap_or(name)
            }
            _ => "",
        }
    }
}

fn malformed<T>(text: &str) -> Outcome<T> {
    Err(PatchError::Malformed(text.to_owned()))
}
fn failed<T>(text: String) -> Outcome<T> {
    Err(PatchError::Failed(text))
}
fn no_key<T>(item: &Fields, key: &str) -> Outcome<T> {
    failed(format!(
        "map: {} does not contain declared merge key: {key}",
        Value::Object(item.clone())
    ))
}

/// Applies a strategic merge patch; on an error the document is unspecified.
pub fn strategic(
    table: &TypeTable,
    ty: TypeId,
    original: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    counted(table, ty, original, patch, &Cell::new(MAX_STEPS))
}

fn counted(
    table: &TypeTable,
    ty: TypeId,
    original: &mut Value,
    patch: &Value,
    steps: &Cell<usize>,
) -> Result<(), PatchError> {
    let Value::Object(p) = patch else {
        return Err(PatchError::Malformed(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(patch)
        )));
    };
    let root = FieldType::Object(ty);
    let cx = Ctx {
        table,
        ty: Some(&root),
        steps,
    };
    if !original.is_object() {
        *original = Value::Object(Fields::new());
    }
    match original {
        Value::Object(o) => merge_map(cx, o, p),
        _ => Ok(()),
    }
}

fn merge_map(cx: Ctx<'_>, original: &mut Fields, patch: &Fields) -> Outcome<()> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return whole_map(directive, original, patch);
    }
    cx.charge(patch.len())?;
    retain_keys(cx, original, patch)?;
    let mut done: HashSet<&str> = HashSet::new();
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER) {
            let Value::Array(order) = order else {
                return malformed("invalid patch format of setElementOrder list");
            };
            ordered_list(cx, original, patch, field, order)?;
            done.insert(field);
        }
    }
    for (key, value) in patch {
        if key == RETAIN || key.starts_with(ORDER) || done.contains(key.as_str()) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            // With an order list, that has taken this one up already.
            if !done.contains(field) {
                delete_from(cx, original, field, value)?;
            }
            continue;
        }
        merge_field(cx, original, key, value)?;
    }
    Ok(())
}

fn whole_map(directive: &Value, original: &mut Fields, patch: &Fields) -> Outcome<()> {
    match directive.as_str() {
        Some("replace") => {
            *original = patch.clone();
            original.remove(DIRECTIVE);
            Ok(())
        }
        Some("delete") => {
            original.clear();
            Ok(())
        }
        _ => {
            let shown = directive
                .as_str()
                .map_or_else(|| directive.to_string(), str::to_owned);
            failed(format!(
                "unknown patch type: {shown} in map: {}",
                Value::Object(patch.clone())
            ))
        }
    }
}

/// Drops the fields of `original` that `$retainKeys` does not name.
fn retain_keys(cx: Ctx<'_>, original: &mut Fields, patch: &Fields) -> Outcome<()> {
    let Some(list) = patch.get(RETAIN) else {
        return Ok(());
    };
    let Value::Array(list) = list else {
        return malformed("invalid patch format of retainKeys");
    };
    cx.charge(original.len() + list.len())?;
    let names: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    for (key, value) in patch {
        let plain = !key.starts_with('$');
        if plain && !value.is_null() && !names.contains(key.as_str()) {
            return Err(PatchError::Unfit(
                "patch content doesn't match retainKeys list".into(),
            ));
        }
    }
    original.retain(|k, _| names.contains(k.as_str()));
    Ok(())
}

fn delete_from(cx: Ctx<'_>, original: &mut Fields, field: &str, gone: &Value) -> Outcome<()> {
    let Value::Array(gone) = gone else {
        return malformed("invalid patch format of primitive list");
    };
    if let Some(Value::Array(list)) = original.get_mut(field) {
        cx.charge(list.len() + gone.len())?;
        let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
        list.retain(|v| !gone.contains(&v.to_string()));
    }
    Ok(())
}

fn merge_field(cx: Ctx<'_>, original: &mut Fields, key: &str, value: &Value) -> Outcome<()> {
    if value.is_null() {
        original.remove(key);
        return Ok(());
    }
    let (below, facts) = cx.field(key);
    match (original.get_mut(key), value) {
        (Some(Value::Object(o)), Value::Object(p)) if !facts.replace => merge_map(below, o, p),
        (Some(Value::Array(o)), Value::Array(p)) if facts.merge => {
            merge_list(below, o, p, facts.merge_key.as_deref().unwrap_or_default())
        }
        (Some(Value::Array(o)), Value::Array(p)) => {
            o.clone_from(p);
            Ok(())
        }
        _ => {
            match added(value) {
                Some(v) => original.insert(key.to_owned(), v),
                None => original.remove(key),
            };
            Ok(())
        }
    }
}

/// A patch value where there is nothing to merge with: without directives and null fields.
fn added(value: &Value) -> Option<Value> {
    match value {
        Value::Object(o) if o.contains_key(DIRECTIVE) => None,
        Value::Object(o) => {
            let kept = o
                .iter()
                .filter(|(k, v)| {
                    !v.is_null()
                        && !k.starts_with(ORDER)
                        && !k.starts_with(DELETE_FROM)
                        && *k != RETAIN
                })
                .filter_map(|(k, v)| Some((k.clone(), added(v)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(a) => Some(Value::Array(a.iter().filter_map(added).collect())),
        other => Some(other.clone()),
    }
}

fn merge_list(cx: Ctx<'_>, original: &mut Vec<Value>, patch: &[Value], key: &str) -> Outcome<()> {
    let before = Places::of(original, key);
    let Some(rest) = merge_unordered(cx, original, patch, key)? else {
        return Ok(());
    };
    let all = std::mem::take(original);
    *original = in_order(all, &Places::of(&rest, key), &before);
    Ok(())
}

/// Merges the items; gives the patch's items without those that are directives, and nothing where
/// these take the place of all that there was: as they are then, whatever keys they have.
fn merge_unordered(
    cx: Ctx<'_>,
    original: &mut Vec<Value>,
    patch: &[Value],
    key: &str,
) -> Outcome<Option<Vec<Value>>> {
    cx.charge(patch.len() + original.len())?;
    if patch.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let objects = patch
        .iter()
        .chain(original.iter())
        .filter(|v| v.is_object())
        .count();
    if patch.iter().chain(original.iter()).any(Value::is_array) {
        return Err(PatchError::Unfit("lists of lists are not supported".into()));
    }
    if objects == 0 {
        let mut known: HashSet<String> = original.iter().map(Value::to_string).collect();
        for v in patch {
            if known.insert(v.to_string()) {
                original.push(v.clone());
            }
        }
        return Ok(Some(patch.to_vec()));
    }
    if objects != patch.len() + original.len() {
        return failed("list element types are not identical".into());
    }
    if key.is_empty() {
        return failed(format!(
            "cannot merge lists without merge key for {}",
            cx.item().name()
        ));
    }
    let Some(rest) = special_items(original, patch, key)? else {
        return Ok(None);
    };
    let mut places = Places::of(original, key);
    for item in &rest {
        let Value::Object(p) = item else { continue };
        if !p.contains_key(key) {
            return no_key(p, key);
        }
        match places.place(item).and_then(|at| original.get_mut(at)) {
            Some(Value::Object(o)) => merge_map(cx.item(), o, p)?,
            _ => {
                places.add(item, original.len());
                original.extend(added(item));
            }
        }
    }
    Ok(Some(rest))
}

/// Carries out `$patch` items; gives the others, unless they have replaced the list.
fn special_items(
    original: &mut Vec<Value>,
    patch: &[Value],
    key: &str,
) -> Outcome<Option<Vec<Value>>> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut gone = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(p) = item else { continue };
        match p.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => rest.push(item.clone()),
            Some("delete") => {
                let Some(id) = p.get(key) else {
                    return no_key(p, key);
                };
                gone.insert(id.to_string());
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return failed("merging lists cannot yet be specified in the patch".into());
            }
            Some(other) => return failed(format!("unknown patch type: {other} in map: {item}")),
        }
    }
    if replace {
        *original = rest.iter().filter_map(added).collect();
        return Ok(None);
    }
    if !gone.is_empty() {
        original.retain(|o| !o.get(key).is_some_and(|id| gone.contains(&id.to_string())));
    }
    Ok(Some(rest))
}

/// What identifies list items: the merge key's value, or the scalar itself.
fn id<'v>(item: &'v Value, key: &str) -> Option<&'v Value> {
    if key.is_empty() {
        Some(item)
    } else {
        item.get(key)
    }
}

/// Where the items of a list are, by what identifies them: the first of each.
struct Places<'k> {
    key: &'k str,
    at: HashMap<String, usize>,
}

impl<'k> Places<'k> {
    fn of(list: &[Value], key: &'k str) -> Self {
        let mut places = Self {
            key,
            at: HashMap::with_capacity(list.len()),
        };
        for (at, item) in list.iter().enumerate() {
            places.add(item, at);
        }
        places
    }
    fn add(&mut self, item: &Value, at: usize) {
        if let Some(id) = id(item, self.key) {
            self.at.entry(id.to_string()).or_insert(at);
        }
    }
    fn place(&self, item: &Value) -> Option<usize> {
        self.at.get(&id(item, self.key)?.to_string()).copied()
    }
}

/// Puts merged items in order: those the patch names in the patch's order, the server's own in
/// the order they had, interleaved so that neighbours of old stay neighbours.
fn in_order(merged: Vec<Value>, order: &Places<'_>, before: &Places<'_>) -> Vec<Value> {
    let (mut named, mut own) = (Vec::new(), Vec::new());
    for item in merged {
        let was = before.place(&item);
        match order.place(&item) {
            Some(at) => named.push((at, was, item)),
            None => own.push((was, item)),
        }
    }
    named.sort_by_key(|(at, ..)| *at);
    own.sort_by_key(|(was, _)| was.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + own.len());
    let (mut named, mut own) = (named.into_iter().peekable(), own.into_iter().peekable());
    loop {
        let own_first = match (named.peek(), own.peek()) {
            (None, None) => return out,
            (None, _) => true,
            (_, None) => false,
            (Some((_, Some(n), _)), Some((Some(o), _))) => o < n,
            // A new item of the patch goes first.
            _ => false,
        };
        out.extend(if own_first {
            own.next().map(|(_, item)| item)
        } else {
            named.next().map(|(.., item)| item)
        });
    }
}

/// A list with `$setElementOrder`.
fn ordered_list(
    cx: Ctx<'_>,
    original: &mut Fields,
    patch: &Fields,
    field: &str,
    order: &[Value],
) -> Outcome<()> {
    let (below, facts) = cx.field(field);
    let key = facts.merge_key.as_deref().unwrap_or_default();
    if let Some(gone) = patch.get(&format!("{DELETE_FROM}{field}")) {
        delete_from(cx, original, field, gone)?;
    }
    let items = match patch.get(field) {
        None => None,
        Some(Value::Null) => {
            original.remove(field);
            return Ok(());
        }
        Some(Value::Array(a)) => Some(a),
        Some(_) => return failed("expected a slice, but received a map".into()),
    };
    check_order(items.map_or(&[], Vec::as_slice), order, key)?;
    let mut list = match original.remove(field) {
        Some(Value::Array(a)) => a,
        _ if items.is_none() => return Ok(()),
        _ => Vec::new(),
    };
    cx.charge(list.len() + order.len())?;
    let before = Places::of(&list, key);
    if let Some(items) = items {
        if facts.merge {
            merge_unordered(below, &mut list, items, key)?;
        } else {
            list.clone_from(items);
        }
    }
    original.insert(
        field.to_owned(),
        Value::Array(in_order(list, &Places::of(order, key), &before)),
    );
    Ok(())
}

/// The items of the patch must come in the order that the directive gives.
fn check_order(items: &[Value], order: &[Value], key: &str) -> Outcome<()> {
    if !key.is_empty()
        && let Some(Value::Object(o)) = order.iter().find(|o| o.is_object() && o.get(key).is_none())
    {
        return no_key(o, key);
    }
    let mut left = order.iter();
    for item in items.iter().filter(|i| i.get(DIRECTIVE).is_none()) {
        let wanted = id(item, key);
        // Both go forwards only.
        if wanted.is_none() || !left.any(|o| id(o, key) == wanted) {
            return failed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::from(items.to_vec()),
                Value::from(order.to_vec())
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps(original: &Value, patch: &Value) -> Result<usize, PatchError> {
        let table = schema::builtin();
        let ty = table.by_name("io.k8s.api.core.v1.Pod").expect("type");
        let left = Cell::new(MAX_STEPS);
        counted(table, ty, &mut original.clone(), patch, &left)?;
        Ok(MAX_STEPS - left.get())
    }

    fn pod(names: impl Iterator<Item = usize>) -> Value {
        let all: Vec<Value> = names.map(|n| json!({ "name": format!("c{n}") })).collect();
        json!({ "spec": { "containers": all, "tolerations": [] } })
    }

    #[test]
    fn twice_the_items_take_twice_the_steps() {
        let reordered = |n: usize| {
            let mut patch = pod((0..n).rev());
            patch["spec"]["$setElementOrder/containers"] = patch["spec"]["containers"].clone();
            steps(&pod(0..n), &patch).unwrap()
        };
        let merged = |n: usize| steps(&pod(0..n), &pod((0..n).rev())).unwrap();
        let deleted = |n: usize| {
            let mut patch = pod(0..n);
            for c in patch["spec"]["containers"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                c["$patch"] = "delete".into();
            }
            steps(&pod(0..n), &patch).unwrap()
        };
        let primitive = |n: usize| {
            let names: Vec<String> = (0..n).map(|i| format!("example.com/{i}")).collect();
            let object = json!({ "metadata": { "finalizers": names } });
            let patch = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": names } });
            steps(&object, &object).unwrap() + steps(&object, &patch).unwrap()
        };
        let all: [&dyn Fn(usize) -> usize; 4] = [&reordered, &merged, &deleted, &primitive];
        for (i, cost) in all.iter().enumerate() {
            let (one, two) = (cost(4_000), cost(8_000));
            assert!(one >= 4_000 && two <= 2 * one, "{i}: {one}, then {two}");
        }
    }

    #[test]
    fn a_patch_that_names_one_list_again_and_again_is_refused() {
        let env: Vec<Value> = (0..10_000)
            .map(|n| json!({ "name": format!("E{n}") }))
            .collect();
        let object = json!({ "spec": { "containers": [{ "name": "c", "env": env }] } });
        let again = vec![json!({ "name": "c", "env": [{ "name": "E0", "value": "x" }] }); 10_000];
        let patch = json!({ "spec": { "containers": again } });
        assert!(matches!(
            steps(&object, &patch),
            Err(PatchError::TooLarge(_))
        ));
    }
}
