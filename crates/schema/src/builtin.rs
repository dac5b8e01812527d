//! The table of the built-in types: `data/types.txt` (its head describes the format), parsed once.
//! The file is written by `cargo xtask schema` and holds facts only, no sentences.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::model::*;

const TEXT: &str = include_str!("../data/types.txt");

/// The types of the Kubernetes v1.36 API. The first call parses the table (about a millisecond).
pub fn builtin() -> &'static Arc<TypeTable> {
    static TABLE: OnceLock<Arc<TypeTable>> = OnceLock::new();
    // The text is a part of the program, and a test parses it: it cannot fail at run time.
    TABLE.get_or_init(|| Arc::new(parse(TEXT).unwrap_or_default()))
}

/// Where the text of a table is wrong.
#[derive(Debug, thiserror::Error)]
#[error("type table, line {line}: {what}")]
pub struct TableError {
    pub line: usize,
    pub what: String,
}

/// Names are repeated thousands of times (`name`, `metadata`): one allocation for each.
#[derive(Default)]
struct Words(HashMap<&'static str, Arc<str>>);

impl Words {
    fn get(&mut self, word: &'static str) -> Arc<str> {
        self.0
            .entry(word)
            .or_insert_with(|| Arc::from(word))
            .clone()
    }
}

fn parse(text: &'static str) -> Result<TypeTable, TableError> {
    let ids = type_ids(text);
    let mut table = TypeTable::default();
    let mut words = Words::default();
    let mut package = "";
    let mut open: Option<TypeDef> = None;
    for (i, line) in text.lines().enumerate() {
        let fail = |what: &str| TableError {
            line: i + 1,
            what: what.to_owned(),
        };
        if line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("P ") {
            package = name;
        } else if let Some(head) = line.strip_prefix("T ") {
            table_push(&mut table, open.take());
            open = Some(type_head(head, package, &mut words));
        } else {
            let field =
                field(line, package, &ids, &mut words).ok_or_else(|| fail("not a field"))?;
            open.as_mut()
                .ok_or_else(|| fail("a field outside a type"))?
                .fields
                .push(field);
        }
    }
    table_push(&mut table, open);
    Ok(table)
}

fn table_push(table: &mut TypeTable, def: Option<TypeDef>) {
    if let Some(def) = def {
        table.push(def);
    }
}

/// Types name each other freely, so that all indices are needed before the first field.
fn type_ids(text: &'static str) -> HashMap<(&'static str, &'static str), TypeId> {
    let mut ids = HashMap::with_capacity(1024);
    let mut package = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("P ") {
            package = name;
        } else if let Some(head) = line.strip_prefix("T ") {
            let name = head.split(' ').next().unwrap_or_default();
            let id = TypeId(u32::try_from(ids.len()).unwrap_or(u32::MAX));
            ids.insert((package, name), id);
        }
    }
    ids
}

fn type_head(head: &'static str, package: &str, words: &mut Words) -> TypeDef {
    let mut parts = head.split(' ');
    let name = parts.next().unwrap_or_default();
    let mut def = TypeDef {
        name: Arc::from(format!("{package}.{name}")),
        fields: Vec::new(),
        atomic: false,
        preserve_unknown: false,
        custom: false,
        gvks: Vec::new(),
    };
    for part in parts {
        let mut gvk = part.split('/');
        match (gvk.next(), gvk.next(), gvk.next()) {
            (Some(g), Some(v), Some(k)) => {
                def.gvks.push((words.get(g), words.get(v), words.get(k)));
            }
            _ => def.atomic = part == "atomic",
        }
    }
    def
}

type Ids = HashMap<(&'static str, &'static str), TypeId>;

fn field(
    line: &'static str,
    package: &'static str,
    ids: &Ids,
    words: &mut Words,
) -> Option<FieldDef> {
    let mut parts = line.splitn(4, ' ');
    let (json, number, ty) = (parts.next()?, parts.next()?, parts.next()?);
    let mut field = FieldDef::plain("", field_type(ty, package, ids, words)?);
    field.json = words.get(json);
    field.proto = number.parse().ok()?;
    field.ptr = false;
    for word in parts.next().unwrap_or_default().split(' ') {
        match word.split_once('=') {
            None => flags(&mut field, word),
            Some(("path", v)) => field.proto_path = v.split('/').flat_map(str::parse).collect(),
            Some(("merge", v)) => field.patch.merge_key = Some(words.get(v)),
            Some(("strategy", v)) => strategy(&mut field.patch, v),
            Some(("map", v)) => {
                field.map_type = Some(if v == "atomic" {
                    MapType::Atomic
                } else {
                    MapType::Granular
                });
            }
            Some(("default", v)) => field.default = Some(words.get(v)),
            Some(("inline", v)) => field.inline = Some(words.get(v)),
            Some(("go", v)) => field.go = Some(words.get(v)),
            Some(_) => return None,
        }
    }
    Some(field)
}

fn flags(field: &mut FieldDef, word: &str) {
    field.required = word.contains('r');
    field.always = word.contains('a');
    field.ptr = word.contains('p');
    field.wrapped = word.contains('w');
}

fn strategy(patch: &mut PatchFacts, words: &str) {
    for word in words.split(',') {
        match word {
            "merge" => patch.merge = true,
            "retainKeys" => patch.retain_keys = true,
            "replace" => patch.replace = true,
            _ => {}
        }
    }
}

fn field_type(
    text: &'static str,
    package: &'static str,
    ids: &Ids,
    words: &mut Words,
) -> Option<FieldType> {
    if let Some(rest) = text.strip_prefix('[') {
        let (kind, inner) = rest.split_once(']')?;
        let inner = Arc::new(field_type(inner, package, ids, words)?);
        let kind = match kind.strip_prefix("map:") {
            Some(keys) => ListType::Map(keys.split(',').map(|k| list_key(k, words)).collect()),
            None if kind == "set" => ListType::Set,
            None => ListType::Atomic,
        };
        return Some(FieldType::List(inner, kind));
    }
    if let Some(rest) = text.strip_prefix('{') {
        let (kind, inner) = rest.split_once('}')?;
        let inner = Arc::new(field_type(inner, package, ids, words)?);
        let kind = if kind == "atomic" {
            MapType::Atomic
        } else {
            MapType::Granular
        };
        return Some(FieldType::Map(inner, kind));
    }
    Some(match text {
        "string" => FieldType::String,
        "bool" => FieldType::Bool,
        "int32" => FieldType::Int32,
        "int64" => FieldType::Int64,
        "float64" => FieldType::Float64,
        "bytes" => FieldType::Bytes,
        "time" => FieldType::Time,
        "micro" => FieldType::MicroTime,
        "duration" => FieldType::Duration,
        "quantity" => FieldType::Quantity,
        "intorstring" => FieldType::IntOrString,
        "raw" => FieldType::Any(AnyKind::RawExtension),
        "fieldsv1" => FieldType::Any(AnyKind::FieldsV1),
        "json" => FieldType::Any(AnyKind::Json),
        "schema_or_array" => FieldType::Any(AnyKind::SchemaOrArray),
        "schema_or_bool" => FieldType::Any(AnyKind::SchemaOrBool),
        "schema_or_strings" => FieldType::Any(AnyKind::SchemaOrStrings),
        name => FieldType::Object(reference(name, package, ids)?),
    })
}

fn reference(name: &'static str, package: &'static str, ids: &Ids) -> Option<TypeId> {
    let (package, name) = match name.strip_prefix('.') {
        Some(local) => (package, local),
        None => name.rsplit_once('.')?,
    };
    ids.get(&(package, name)).copied()
}

fn list_key(text: &'static str, words: &mut Words) -> ListKey {
    match text.split_once('=') {
        Some((name, default)) => ListKey {
            name: words.get(name),
            default: Some(words.get(default)),
        },
        None => ListKey {
            name: words.get(text),
            default: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_table_parses() {
        let table = parse(TEXT).expect("the committed table");
        assert!(table.types().len() > 700);
    }

    #[test]
    fn lookups_agree() {
        let t = builtin();
        let pod = t.by_gvk("", "v1", "Pod").expect("Pod");
        assert_eq!(t.by_name("io.k8s.api.core.v1.Pod"), Some(pod));
        assert_eq!(&*t.get(pod).name, "io.k8s.api.core.v1.Pod");
        for (i, def) in t.types().iter().enumerate() {
            assert_eq!(
                t.by_name(&def.name),
                Some(TypeId(u32::try_from(i).expect("small")))
            );
        }
    }
}
