//! The strategy of the objects of a CustomResourceDefinition: its schemas prune, default and
//! check them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{FieldError, FieldPath};
use serde_json::Value;
use structural::openapi::{Form, Packed, publish, publish_list};
use structural::{Kind, Rules, Structural, lists, validate, values};

use crate::check::{at, items, text};
use crate::strategy::{Context, Scale, Strategy, keep_other_half, no_status};

/// What one version says of objects.
pub(super) struct Shape {
    pub schema: Structural,
    pub rules: Option<Rules>,
}

/// See the head of this file.
pub(super) struct Instance {
    /// By version; versions without a structural schema are not in it.
    pub shapes: BTreeMap<Arc<str>, Shape>,
    pub storage: Arc<str>,
    /// What is published of each version; nothing of those without a schema.
    pub packed: BTreeMap<Arc<str>, Packed>,
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub list_kind: Arc<str>,
    /// Whether `status` is a subresource.
    pub status: bool,
    /// Where the number of replicas is (`.spec.replicas`); empty for none.
    pub replicas: String,
    pub scale: Scale,
}

impl Instance {
    /// The shape of the version in which an object is.
    fn shape(&self, object: &Value) -> Option<&Shape> {
        let version = text(object, "apiVersion").rsplit('/').next();
        let version = version.unwrap_or_default();
        self.shapes
            .get(version)
            .or_else(|| self.shapes.get(&self.storage))
    }

    /// What the schema and the rules of a version find wrong.
    fn check(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = self.check_replicas(object);
        let Some(shape) = self.shape(object) else {
            return errors;
        };
        let root = FieldPath::root();
        let own = match subresource {
            // A write of the status answers for the status alone.
            "status" => match (shape.schema.field("status"), object.get("status")) {
                (Some(schema), Some(status)) => {
                    let old = old.and_then(|o| o.get("status"));
                    validate(schema, &FieldPath::new("status"), status, old)
                }
                _ => Vec::new(),
            },
            _ => validate(&shape.schema, &root, object, old),
        };
        let before = old.map(|old| lists::validate(&shape.schema, &root, old));
        errors.extend(own);
        if before.is_none_or(|b| b.is_empty()) {
            errors.extend(lists::validate(&shape.schema, &root, object));
        }
        if let Some(rules) = &shape.rules {
            if errors.iter().any(blocks) {
                errors.push(FieldError::invalid(
                    &root,
                    &Value::Null,
                    "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
                ));
            } else {
                let ran = rules.run(&root, object, old, structural::BUDGET);
                errors.extend(ran.errors);
            }
        }
        errors
    }

    fn check_replicas(&self, object: &Value) -> Vec<FieldError> {
        if self.replicas.is_empty() {
            return Vec::new();
        }
        let pointer = self.replicas.replace('.', "/");
        let Some(given) = object.pointer(&pointer) else {
            return Vec::new();
        };
        let path = FieldPath::new(&self.replicas);
        let most = i64::from(i32::MAX);
        let why = match given.as_i64() {
            Some(n) if n < 0 => "should be a non-negative integer".to_owned(),
            Some(n) if n > most => format!("should be less than or equal to {most}"),
            _ => return Vec::new(),
        };
        vec![FieldError::invalid(&path, given, &why)]
    }
}

/// Whether an error makes it pointless to run rules: they may rely on what is wrong.
fn blocks(error: &FieldError) -> bool {
    use api::FieldErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(
        error.kind,
        Required | TooLong | TooMany | TypeInvalid | NotSupported
    )
}

impl Strategy for Instance {
    fn default(&self, object: &mut Value) {
        let Some(shape) = self.shape(object) else {
            return;
        };
        values::drop_nulls(&shape.schema, object);
        values::default(&shape.schema, object);
        values::prune(&shape.schema, object, true);
    }

    fn prepare_create(&self, object: &mut Value, _cx: &Context<'_>) {
        if self.status {
            no_status(object);
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, cx: &Context<'_>) {
        if self.status || !cx.subresource.is_empty() {
            keep_other_half(object, old, cx.subresource);
        }
    }

    fn validate(&self, object: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.check(object, None, cx.subresource)
    }

    fn validate_update(&self, object: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.check(object, Some(old), cx.subresource)
    }

    fn validates_whole_update(&self) -> bool {
        true
    }

    fn is_custom(&self) -> bool {
        true
    }

    fn published(&self, version: &str, v3: bool) -> Vec<(String, Value)> {
        let kind = Kind {
            group: &self.group,
            version,
            kind: &self.kind,
            list_kind: &self.list_kind,
        };
        let form = if v3 { Form::V3 } else { Form::V2 };
        let schema = self.packed.get(version).and_then(Packed::unpack);
        vec![
            (kind.definition(), publish(schema.as_ref(), &kind, form)),
            (kind.list_definition(), publish_list(&kind, form)),
        ]
    }

    fn scale(&self) -> Scale {
        self.scale.clone()
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let finalizers = |o: &Value| items(at(o, "metadata"), "finalizers").to_vec();
        let before = old.map(finalizers).unwrap_or_default();
        let new = finalizers(object);
        let new = new.iter().filter(|f| !before.contains(f));
        new.filter_map(Value::as_str).flat_map(finalizer).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// What is doubtful about the name of a finalizer.
fn finalizer(name: &str) -> Vec<String> {
    let line = |what: &str| format!("metadata.finalizers: {name:?}: {what}");
    let mut out: Vec<String> = api::names::is_qualified_name(name)
        .iter()
        .map(|what| line(what))
        .collect();
    let standard = ["orphan", "foregroundDeletion", "kubernetes"];
    if !name.contains('/') && !standard.contains(&name) {
        let how = if name.contains('.') {
            "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        } else {
            "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        };
        out.push(line(how));
    }
    out
}
