//! Values against a schema, in upstream's words. An update is lenient: what was wrong before and
//! has not changed stays.

use api::{FieldError, FieldErrorType, FieldPath};
use serde_json::{Map, Number, Value as Json};

use crate::correlate::Pair;
use crate::formats;
use crate::model::{Additional, Checks, Structural};

/// Most errors that are reported of one value.
const MAX_ERRORS: usize = 200;

/// What is wrong with a value. With an old one, errors of what has not changed are left out.
pub fn validate(
    schema: &Structural,
    path: &FieldPath,
    value: &Json,
    old: Option<&Json>,
) -> Vec<FieldError> {
    let mut result = Outcome::default();
    let pair = Pair::root(value, old);
    node(schema, &mut String::new(), &pair, &mut result);
    let mut errors = result.problems;
    errors.truncate(MAX_ERRORS);
    errors
        .into_iter()
        .map(|problem| problem.error(path))
        .collect()
}

/// One thing wrong, with the path below the value that was given.
struct Problem {
    path: String,
    kind: FieldErrorType,
    value: Option<String>,
    detail: String,
}

impl Problem {
    fn error(self, above: &FieldPath) -> FieldError {
        let field = match (above.as_str(), self.path.trim_start_matches('.')) {
            (_, "") => above.clone(),
            ("", path) => FieldPath::new(path),
            (_, path) if path.starts_with('[') => FieldPath::new(&format!("{above}{path}")),
            (_, path) => above.child(path),
        };
        FieldError {
            kind: self.kind,
            field,
            value: self.value,
            detail: self.detail,
        }
    }
}

/// Problems, and how much was right: of several alternatives, the one that fits best is reported.
#[derive(Default)]
struct Outcome {
    problems: Vec<Problem>,
    right: u32,
}

impl Outcome {
    fn add(&mut self, path: &str, kind: FieldErrorType, value: Option<String>, detail: String) {
        if self.problems.len() < MAX_ERRORS {
            self.problems.push(Problem {
                path: path.to_owned(),
                kind,
                value,
                detail,
            });
        }
    }
    fn invalid(&mut self, path: &str, value: &Json, what: String) {
        let detail = format!("{} in body {what}", shown(path));
        self.add(
            path,
            FieldErrorType::Invalid,
            Some(value.to_string()),
            detail,
        );
    }
    /// Of a whole that has no field of its own.
    fn whole(&mut self, detail: String) {
        self.add("", FieldErrorType::Invalid, Some("\"\"".into()), detail);
    }
    fn merge(&mut self, other: Outcome) {
        self.problems.extend(other.problems);
        self.problems.truncate(MAX_ERRORS);
        self.right += other.right;
    }
}

/// A path as messages have it: without the dot at its beginning.
fn shown(path: &str) -> &str {
    path.strip_prefix('.').unwrap_or(path)
}

fn node(schema: &Structural, path: &mut String, pair: &Pair, out: &mut Outcome) {
    let mut result = Outcome::default();
    check(schema, path, pair, &mut result);
    if !result.problems.is_empty() && pair.is_unchanged_here() {
        result.problems.clear();
    }
    out.merge(result);
}

fn check(schema: &Structural, path: &mut String, pair: &Pair, out: &mut Outcome) {
    let value = pair.new;
    let before = out.problems.len();
    types(schema, path, value, out);
    if value.is_null() {
        if let Some(checks) = &schema.checks {
            values(checks, path, value, out);
        }
        return;
    }
    if out.problems.len() == before {
        out.right += 1;
    }
    static NONE: std::sync::LazyLock<Checks> = std::sync::LazyLock::new(Checks::default);
    let checks = schema.checks.as_deref().unwrap_or(&NONE);
    alternatives(checks, path, pair, out);
    match value {
        Json::String(text) => texts(schema, checks, path, text, out),
        Json::Number(number) => numbers(checks, path, number, out),
        Json::Array(items) => arrays(schema, checks, path, items, pair, out),
        _ => {}
    }
    values(checks, path, value, out);
    if let Json::Object(map) = value {
        objects(schema, checks, path, map, pair, out);
    }
    if out.problems.len() == before {
        out.right += 1;
    }
}

/// Type and format of a value, in JSON's words.
fn type_of(value: &Json) -> (&'static str, &'static str) {
    match value {
        Json::Null => ("null", ""),
        Json::Bool(_) => ("boolean", ""),
        Json::String(_) => ("string", ""),
        // Beyond 64 bits with a sign upstream has a double, also of a whole number.
        Json::Number(n) if n.as_i64().is_none() => ("number", "double"),
        Json::Number(_) => ("integer", "int64"),
        Json::Array(_) => ("array", ""),
        Json::Object(_) => ("object", ""),
    }
}

fn is_whole(value: &Json) -> bool {
    value
        .as_f64()
        .is_some_and(|n| n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0)
}

fn types(schema: &Structural, path: &str, value: &Json, out: &mut Outcome) {
    let int_or_string = ["integer", "string"];
    let one = [&*schema.ty];
    let wanted: &[&str] = match (schema.int_or_string, &*schema.ty) {
        (true, _) => &int_or_string,
        (false, "") => &[],
        _ => &one,
    };
    let format = schema.checks.as_ref().and_then(|c| c.format.as_deref());
    let format = format
        .filter(|f| formats::is_known(&schema.ty, f))
        .unwrap_or_default();
    if wanted.is_empty() && format.is_empty() {
        return;
    }
    let (given, given_format) = type_of(value);
    let mut wrong = |wanted: &str, given: &str| {
        let detail = format!(
            "{} in body must be of type {wanted}: {given:?}",
            shown(path)
        );
        let value = Some(format!("{given:?}"));
        out.add(path, FieldErrorType::TypeInvalid, value, detail);
    };
    if value.is_null() {
        if !wanted.is_empty() && !schema.nullable {
            wrong(&wanted.join(","), "null");
        }
        return;
    }
    let numeric = wanted.contains(&"number") || wanted.contains(&"integer");
    let fits = wanted.contains(&given)
        || (given == "number" && wanted.contains(&"integer") && is_whole(value))
        || (given == "integer" && wanted.contains(&"number"));
    let sequence = matches!(value, Json::String(_) | Json::Array(_));
    if !sequence && !format.is_empty() && !fits && format != given_format {
        wrong(format, given_format);
    } else if !numeric && !format.is_empty() && sequence {
        // A format says more than a type.
    } else if !fits {
        wrong(&wanted.join(","), given);
    }
}

fn alternatives(checks: &Checks, path: &mut String, pair: &Pair, out: &mut Outcome) {
    let try_one = |schema: &Structural, path: &mut String| {
        let mut result = Outcome::default();
        check(schema, path, pair, &mut result);
        result
    };
    let quoted = |path: &str| format!("{:?}", shown(path));
    if !checks.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut found = false;
        for schema in &checks.any_of {
            let result = try_one(schema, path);
            if result.problems.is_empty() {
                found = true;
                break;
            }
            if best.as_ref().is_none_or(|b| result.right > b.right) {
                best = Some(result);
            }
        }
        if !found {
            out.whole(format!(
                "{} must validate at least one schema (anyOf)",
                quoted(path)
            ));
            out.merge(best.unwrap_or_default());
        }
    }
    if !checks.one_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut valid = 0;
        for schema in &checks.one_of {
            let result = try_one(schema, path);
            if result.problems.is_empty() {
                valid += 1;
                best = None;
            } else if valid == 0 && best.as_ref().is_none_or(|b| result.right > b.right) {
                best = Some(result);
            }
        }
        if valid != 1 {
            let more = match valid {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            out.whole(format!(
                "{} must validate one and only one schema (oneOf). {more}",
                quoted(path)
            ));
            out.merge(best.unwrap_or_default());
        }
    }
    if !checks.all_of.is_empty() {
        let mut valid = 0;
        for schema in &checks.all_of {
            let result = try_one(schema, path);
            valid += usize::from(result.problems.is_empty());
            out.merge(result);
        }
        if valid != checks.all_of.len() {
            let more = if valid == 0 { ". None validated" } else { "" };
            out.whole(format!(
                "{} must validate all the schemas (allOf){more}",
                quoted(path)
            ));
        }
    }
    if let Some(not) = &checks.not
        && try_one(not, path).problems.is_empty()
    {
        out.whole(format!(
            "{} must not validate the schema (not)",
            quoted(path)
        ));
    }
}

fn texts(schema: &Structural, checks: &Checks, path: &str, text: &str, out: &mut Outcome) {
    let value = || Json::String(text.to_owned());
    if checks.max_length.is_some() || checks.min_length.is_some() {
        let length = text.chars().count() as i64;
        if let Some(max) = checks.max_length
            && length > max
        {
            let detail = format!("may not be more than {max} bytes");
            out.add(path, FieldErrorType::TooLong, None, detail);
            return;
        }
        if let Some(min) = checks.min_length
            && length < min
        {
            out.invalid(
                path,
                &value(),
                format!("should be at least {min} chars long"),
            );
            return;
        }
    }
    if let Some(pattern) = &checks.pattern
        && pattern.regex().is_some_and(|regex| !regex.is_match(text))
    {
        let what = format!("should match '{}'", pattern.text);
        out.invalid(path, &value(), what);
    }
    if let Some(format) = &checks.format
        && formats::is_known(&schema.ty, format)
        && !formats::has(format, text)
    {
        let detail = format!("{} in body must be of type {format}: {text:?}", shown(path));
        let value = Some(value().to_string());
        out.add(path, FieldErrorType::TypeInvalid, value, detail);
    }
}

/// A number as Go's `%v` writes it.
fn plain(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e21 {
        return format!("{n:.0}");
    }
    n.to_string()
}

fn numbers(checks: &Checks, path: &str, number: &Number, out: &mut Outcome) {
    let Some(n) = number.as_f64() else { return };
    let value = Json::Number(number.clone());
    if let Some(of) = checks.multiple_of
        && of != 0.0
        && (n / of).fract() != 0.0
    {
        out.invalid(
            path,
            &value,
            format!("should be a multiple of {}", plain(of)),
        );
    }
    if let Some(max) = checks.maximum {
        if checks.exclusive_maximum && n >= max {
            out.invalid(path, &value, format!("should be less than {}", plain(max)));
        } else if n > max {
            let what = format!("should be less than or equal to {}", plain(max));
            out.invalid(path, &value, what);
        }
    }
    if let Some(min) = checks.minimum {
        if checks.exclusive_minimum && n <= min {
            out.invalid(
                path,
                &value,
                format!("should be greater than {}", plain(min)),
            );
        } else if n < min {
            let what = format!("should be greater than or equal to {}", plain(min));
            out.invalid(path, &value, what);
        }
    }
}

fn too_many(path: &str, actual: usize, max: i64, out: &mut Outcome) {
    let detail = format!("must have at most {max} items");
    let actual = Some(actual.to_string());
    out.add(path, FieldErrorType::TooMany, actual, detail);
}

fn arrays(
    schema: &Structural,
    checks: &Checks,
    path: &mut String,
    items: &[Json],
    pair: &Pair,
    out: &mut Outcome,
) {
    if let Some(below) = &schema.items {
        for i in 0..items.len() {
            let len = path.len();
            path.push_str(&format!("[{i}]"));
            if let Some(item) = pair.item(i, &schema.list) {
                node(below, path, &item, out);
            }
            path.truncate(len);
        }
    }
    if let Some(min) = checks.min_items
        && (items.len() as i64) < min
    {
        let value = Json::from(items.len());
        out.invalid(path, &value, format!("should have at least {min} items"));
    }
    if let Some(max) = checks.max_items
        && items.len() as i64 > max
    {
        too_many(path, items.len(), max, out);
    }
}

/// The values that an enumeration allows.
fn values(checks: &Checks, path: &str, value: &Json, out: &mut Outcome) {
    if checks.values.is_empty() {
        return;
    }
    let same = |allowed: &Json| match (allowed, value) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    };
    if checks.values.iter().any(same) {
        return;
    }
    let supported: Vec<String> = checks
        .values
        .iter()
        .map(|v| match v {
            Json::String(text) => format!("{text:?}"),
            other => format!("{:?}", other.to_string()),
        })
        .collect();
    let detail = format!("supported values: {}", supported.join(", "));
    let value = Some(value.to_string());
    out.add(path, FieldErrorType::NotSupported, value, detail);
}

fn objects(
    schema: &Structural,
    checks: &Checks,
    path: &mut String,
    map: &Map<String, Json>,
    pair: &Pair,
    out: &mut Outcome,
) {
    let count = map.len();
    let value = Json::from(count);
    if let Some(min) = checks.min_properties
        && (count as i64) < min
    {
        let what = format!("should have at least {min} properties");
        out.invalid(path, &value, what);
    }
    if let Some(max) = checks.max_properties
        && count as i64 > max
    {
        too_many(path, count, max, out);
    }
    for key in map.keys() {
        let below = match (schema.properties.get(&**key), &schema.additional) {
            (Some(property), _) => property,
            (None, Additional::Schema(below)) => below,
            (None, Additional::Bool(false)) => {
                let name = format!("{}.{key}", shown(path));
                let detail = format!("{name} in body is a forbidden property");
                let value = Some(format!("{key:?}"));
                out.add(path, FieldErrorType::Invalid, value, detail);
                continue;
            }
            _ => continue,
        };
        let len = path.len();
        path.push('.');
        path.push_str(key);
        if let Some(field) = pair.field(key, schema.atomic) {
            node(below, path, &field, out);
        }
        path.truncate(len);
    }
    for name in &checks.required {
        if !map.contains_key(&**name) {
            out.add(
                &format!("{path}.{name}"),
                FieldErrorType::Required,
                None,
                String::new(),
            );
        }
    }
}
