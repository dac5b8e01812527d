//! Objects as upstream's programs hold them inside, written as JSON line by line: some of its texts
//! for people show how two of them differ. Only the types of `data/go_forms.txt` (its head describes
//! it) have such a form; what lies below them is written as it is.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::check::{at, has};
use crate::line_diff;

const TEXT: &str = include_str!("../data/go_forms.txt");

/// A field: its name inside, its name in the API, and what stands for one that is not there.
type Field = (&'static str, &'static str, &'static str);

/// What a line shows the value of.
enum Shown<'v> {
    /// As it stands here.
    Literal(&'static str),
    Plain(&'v Value),
    /// A value of a type of the table.
    Of(&'static str, &'v Value),
}

/// The difference of two values of a type, as upstream appends it to a sentence: unified, without a
/// head, and ended by a new line.
pub fn difference(ty: &'static str, old: &Value, new: &Value) -> String {
    line_diff::unified(&lines(ty, old), &lines(ty, new))
}

/// A value of a type (or, where it is a list, several of them) as lines.
fn lines(ty: &'static str, value: &Value) -> Vec<String> {
    let mut out = String::new();
    show(&Shown::Of(ty, value), 0, &mut out);
    out.split('\n').map(str::to_owned).collect()
}

fn show(shown: &Shown<'_>, depth: usize, out: &mut String) {
    match shown {
        Shown::Literal(text) => out.push_str(text),
        Shown::Of(ty, Value::Array(items)) => {
            let ty = *ty;
            let items = items.iter().map(|item| (None, Shown::Of(ty, item)));
            group(('[', ']'), items.collect(), depth, out);
        }
        Shown::Of(ty, value) => {
            let known = fields(ty).iter();
            let fields = known.filter_map(|f| Some((Some(f.0), shown_of(f, value)?)));
            group(('{', '}'), fields.collect(), depth, out);
        }
        Shown::Plain(Value::Array(items)) => {
            let items = items.iter().map(|item| (None, Shown::Plain(item)));
            group(('[', ']'), items.collect(), depth, out);
        }
        Shown::Plain(Value::Object(members)) => {
            let members = members.iter();
            let members = members.map(|(name, v)| (Some(name.as_str()), Shown::Plain(v)));
            group(('{', '}'), members.collect(), depth, out);
        }
        Shown::Plain(value) => out.push_str(&escaped(value)),
    }
}

/// What a field of an object shows; nothing where it is left out.
fn shown_of<'v>(field: &Field, object: &'v Value) -> Option<Shown<'v>> {
    let (_, json, absent) = *field;
    let (value, is_there) = (at(object, json), has(object, json));
    let is_type = |ty: &str| ty.starts_with(|c: char| c.is_ascii_uppercase());
    match absent.strip_prefix('*') {
        Some(ty) if is_there => Some(Shown::Of(ty, value)),
        Some(_) => Some(Shown::Literal("null")),
        None if is_type(absent) => Some(Shown::Of(absent, value)),
        None if is_there => Some(Shown::Plain(value)),
        None if absent == "omit" => None,
        None => Some(Shown::Literal(absent)),
    }
}

/// Members or items between brackets, each on a line of its own.
fn group(
    (open, close): (char, char),
    entries: Vec<(Option<&str>, Shown<'_>)>,
    depth: usize,
    out: &mut String,
) {
    let new_line = |depth: usize| format!("\n{}", " ".repeat(depth));
    let any = !entries.is_empty();
    out.push(open);
    for (i, (name, shown)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&new_line(depth + 1));
        if let Some(name) = name {
            out.push_str(&escaped(&name.into()));
            out.push_str(": ");
        }
        show(&shown, depth + 1, out);
    }
    if any {
        out.push_str(&new_line(depth));
    }
    out.push(close);
}

/// JSON of one value, with what could be read as HTML written as numbers.
fn escaped(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

/// The fields of a type, in order.
fn fields(ty: &str) -> &'static [Field] {
    static TYPES: OnceLock<HashMap<&'static str, Vec<Field>>> = OnceLock::new();
    let types = TYPES.get_or_init(read);
    types.get(ty).map_or(&[], Vec::as_slice)
}

/// The table. A line that cannot be read is left out here; a test finds it.
fn read() -> HashMap<&'static str, Vec<Field>> {
    let mut out: HashMap<&'static str, Vec<Field>> = HashMap::new();
    let mut current = "";
    for line in content() {
        let words: Vec<&'static str> = line.split(' ').collect();
        match words.as_slice() {
            ["T", name] => current = *name,
            [name, json, absent] => {
                let of = out.entry(current).or_default();
                of.push((*name, *json, *absent));
            }
            _ => {}
        }
    }
    out
}

fn content() -> impl Iterator<Item = &'static str> {
    let lines = TEXT.lines().map(str::trim);
    lines.filter(|l| !l.is_empty() && !l.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        let types = content().filter(|l| l.starts_with("T ")).count();
        let table = read();
        assert_eq!(table.len(), types);
        let fields: usize = table.values().map(Vec::len).sum();
        assert_eq!(fields + types, content().count());
        for (_, _, absent) in table.values().flatten() {
            let ty = absent.trim_start_matches('*');
            let is_type = ty.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(!is_type || table.contains_key(ty), "{ty}");
            assert!(
                is_type || ["null", "\"\"", "0", "false", "omit"].contains(&ty),
                "{ty}"
            );
        }
    }

    #[test]
    fn values_are_written_as_upstream_holds_them() {
        let claim = json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "<a>",
            "selector": { "matchLabels": { "b": "c" } },
            "resources": { "requests": { "storage": "1Gi" } },
            "dataSource": { "kind": "PersistentVolumeClaim", "name": "x" } });
        let want = r#"{
 "AccessModes": [
  "ReadWriteOnce"
 ],
 "Selector": {
  "matchLabels": {
   "b": "c"
  }
 },
 "Resources": {
  "Limits": null,
  "Requests": {
   "storage": "1Gi"
  }
 },
 "VolumeName": "",
 "StorageClassName": "\u003ca\u003e",
 "VolumeMode": null,
 "DataSource": {
  "APIGroup": null,
  "Kind": "PersistentVolumeClaim",
  "Name": "x"
 },
 "DataSourceRef": null,
 "VolumeAttributesClassName": null
}"#;
        assert_eq!(lines("PersistentVolumeClaimSpec", &claim).join("\n"), want);
        let none = lines("PersistentVolumeClaimSpec", &Value::Null);
        assert_eq!(none[3], " \"Resources\": {");
        let conditions = json!([{ "type": "Approved" }]);
        let all = lines("CertificateSigningRequestCondition", &conditions);
        assert_eq!(
            all[..4],
            [
                "[",
                " {",
                "  \"Type\": \"Approved\",",
                "  \"Status\": \"\","
            ]
        );
    }

    #[test]
    fn a_difference_shows_what_is_around_it() {
        let host = |path: &str| json!({ "hostPath": { "path": path } });
        let want = "@@ -2,7 +2,7 @@\n  \"GCEPersistentDisk\": null,\n  \"AWSElasticBlockStore\": null,\n  \"HostPath\": {\n-  \"Path\": \"/a\",\n+  \"Path\": \"/b\",\n   \"Type\": null\n  },\n  \"Glusterfs\": null,\n";
        let found = difference("PersistentVolumeSource", &host("/a"), &host("/b"));
        assert_eq!(found, want);
    }
}
