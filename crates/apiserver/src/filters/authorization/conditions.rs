//! Match conditions of authorization webhooks: CEL over `request`, the spec of a v1
//! SubjectAccessReview. Pure.

use std::sync::{Arc, LazyLock};

use api::{FieldError, FieldPath};
use cel::decl::NO_MAX;
use cel::{Decl, DeclKind, Env, ListKind, PER_CALL_LIMIT, Program, Type, Value};
use serde_json::{Value as Json, json};

use super::config::MatchCondition;

/// Conditions of one webhook; upstream's bound.
const MOST: usize = 64;

/// One condition.
pub struct Condition {
    source: String,
    program: Program,
}

/// What came of the conditions of a webhook.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    No,
    /// None was false, and these went wrong.
    Failed(String),
}

fn text() -> Arc<Decl> {
    Arc::new(Decl::new("string", DeclKind::String, NO_MAX, 1))
}

fn list(of: Arc<Decl>) -> Arc<Decl> {
    let kind = DeclKind::List(of, ListKind::Atomic);
    Arc::new(Decl::new("list", kind, NO_MAX, 1))
}

fn object(name: &str, fields: &[(&str, Arc<Decl>)]) -> Arc<Decl> {
    let fields = fields.iter().map(|(n, d)| ((*n).to_owned(), d.clone()));
    Arc::new(Decl::object(&format!("kubernetes.{name}"), fields))
}

/// As upstream declares it.
static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let requirement = object(
        "SelectorRequirement",
        &[
            ("key", text()),
            ("operator", text()),
            ("values", list(text())),
        ],
    );
    let selector = |name| {
        let fields = [
            ("rawSelector", text()),
            ("requirements", list(requirement.clone())),
        ];
        object(name, &fields)
    };
    let resource = object(
        "ResourceAttributes",
        &[
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("FieldSelectorAttributes")),
            ("labelSelector", selector("LabelSelectorAttributes")),
        ],
    );
    let path = object(
        "NonResourceAttributes",
        &[("path", text()), ("verb", text())],
    );
    let extra = Decl::new("map", DeclKind::Map(list(text())), NO_MAX, 1);
    object(
        "SubjectAccessReviewSpec",
        &[
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", list(text())),
            ("extra", Arc::new(extra)),
            ("uid", text()),
        ],
    )
});

impl Condition {
    fn compile(source: &str) -> Result<Self, String> {
        let env = Env::new().variable("request", REQUEST.clone());
        let program =
            Program::compile(source, &env).map_err(|e| format!("compilation failed: {e}"))?;
        match program.result() {
            Type::Bool => Ok(Self {
                source: source.to_owned(),
                program,
            }),
            other => Err(format!("must evaluate to bool but got {}", other.text())),
        }
    }
}

/// Compiles the conditions of a webhook.
pub(super) fn compile(
    errors: &mut Vec<FieldError>,
    all: &[MatchCondition],
    path: &FieldPath,
) -> Vec<Condition> {
    if all.len() > MOST {
        errors.push(FieldError::too_many(path, all.len(), MOST));
        return Vec::new();
    }
    let mut compiled = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let path = path.index(i).child("expression");
        let source = &one.expression;
        if source.trim().is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if all.iter().take(i).any(|other| other.expression == *source) {
            errors.push(FieldError::duplicate(&path, &json!(source)));
        } else {
            match Condition::compile(source) {
                Ok(condition) => compiled.push(condition),
                Err(why) => errors.push(FieldError::invalid_str(&path, source, &why)),
            }
        }
    }
    compiled
}

/// Whether a webhook is asked about this; `spec` is what it would be asked.
pub fn matches(conditions: &[Condition], spec: &Json) -> Matched {
    if conditions.is_empty() {
        return Matched::Yes;
    }
    let spec = whole(spec);
    let mut errors = Vec::new();
    for condition in conditions {
        let value = Value::read(&spec, &REQUEST).ok();
        let source = &condition.source;
        match condition.program.evaluate(&[value], PER_CALL_LIMIT).result {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => return Matched::No,
            Ok(other) => errors.push(format!(
                "cel evaluation error: expression '{source}' eval result type should be bool but got {}",
                &*other.type_name()
            )),
            Err(e) => errors.push(format!(
                "cel evaluation error: expression '{source}' resulted in error: {e}"
            )),
        }
    }
    match &errors[..] {
        [] => Matched::Yes,
        [one] => Matched::Failed(one.clone()),
        all => Matched::Failed(format!("[{}]", all.join(", "))),
    }
}

/// With all fields of the user and texts of the attributes, also those that a review leaves out.
fn whole(spec: &Json) -> Json {
    let mut out = json!({"user": "", "uid": "", "groups": [], "extra": {}});
    let texts = [
        "namespace",
        "verb",
        "group",
        "version",
        "resource",
        "subresource",
        "name",
    ];
    for (field, value) in spec.as_object().into_iter().flatten() {
        out[field] = value.clone();
    }
    if let Some(attributes) = out["resourceAttributes"].as_object_mut() {
        for field in texts {
            attributes.entry(field).or_insert_with(|| "".into());
        }
    }
    if out["resourceAttributes"].is_null()
        && let Some(map) = out.as_object_mut()
    {
        map.remove("resourceAttributes");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sources: &[&str], spec: &Json) -> Matched {
        let all: Vec<Condition> = sources
            .iter()
            .map(|s| Condition::compile(s).expect("compiles"))
            .collect();
        matches(&all, spec)
    }

    #[test]
    fn conditions_are_over_the_request() {
        let spec = json!({
            "user": "jane", "groups": ["g"],
            "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a",
                "labelSelector": {"requirements": [{"key": "k", "operator": "In", "values": ["v"]}]}},
        });
        for source in [
            "request.user == 'jane' && 'g' in request.groups",
            "has(request.resourceAttributes) && request.resourceAttributes.name == ''",
            "!has(request.nonResourceAttributes)",
            "request.uid == '' && size(request.extra) == 0",
            "request.resourceAttributes.labelSelector.requirements.exists(r, r.key == 'k')",
            "!has(request.resourceAttributes.fieldSelector)",
        ] {
            assert_eq!(run(&[source], &spec), Matched::Yes, "{source}");
        }
        let wrong = "request.nonResourceAttributes.path == '/x'";
        assert_eq!(run(&["request.user == 'x'"], &spec), Matched::No);
        // One that is false decides, whatever went wrong before.
        assert_eq!(run(&[wrong, "request.user == 'x'"], &spec), Matched::No);
        assert!(matches!(run(&[wrong], &spec), Matched::Failed(_)));
        assert!(Condition::compile("request.user").is_err());
        assert!(Condition::compile("request.nothing == ''").is_err());
        let path = json!({"user": "x", "nonResourceAttributes": {"path": "/x", "verb": "get"}});
        assert_eq!(run(&[wrong], &path), Matched::Yes);
    }
}
