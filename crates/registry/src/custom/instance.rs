//! The strategy of the objects of a CustomResourceDefinition: its schemas prune, default and
//! check them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api::{FieldError, FieldPath};
use serde_json::{Value, json};
use structural::openapi::{Form, Packed, publish, publish_list};
use structural::{KindNames, Rules, Structural, lists, prune_and_default, validate};

use crate::check::{at, items, text};
use crate::status_writes::{METADATA, keep_other_half, no_status};
use crate::strategy::{Context, Scale, Strategy};

/// A schema that is ready for values.
pub(super) struct Shape {
    pub schema: Structural,
    pub rules: OnceLock<Option<Rules>>,
}

impl Shape {
    /// Compiled when an object is first judged by them.
    fn rules(&self) -> Option<&Rules> {
        let rules = self.rules.get_or_init(|| Rules::compile(&self.schema));
        rules.as_ref()
    }
}

/// What one version says of objects.
pub(super) struct Version {
    /// The schema as it was written; none where everything is kept, or where it is not structural.
    packed: Option<Packed>,
    /// Made of that when the first object is met: most kinds of a cluster are idle.
    shape: OnceLock<Option<Shape>>,
    /// Whether `status` is a subresource.
    status: bool,
    /// Where the subresource `scale` is.
    scale: Option<Scale>,
    /// Names of the fields that selectors may name.
    selectable: Vec<Arc<str>>,
}

impl Version {
    pub fn new(
        schema: Option<&Value>,
        status: bool,
        scale: Option<Scale>,
        selectable: Vec<Arc<str>>,
    ) -> Self {
        let schema = schema.filter(|schema| Structural::read(schema).is_ok());
        Self {
            packed: schema.map(Packed::new),
            shape: OnceLock::new(),
            status,
            scale,
            selectable,
        }
    }

    /// Says in a definition of OpenAPI what selectors may name.
    fn add_selectable(&self, definition: &mut Value) {
        if !self.selectable.is_empty() {
            let field = |name: &Arc<str>| json!({ "fieldPath": name });
            definition["x-kubernetes-selectable-fields"] =
                self.selectable.iter().map(field).collect();
        }
    }

    pub fn shape(&self) -> Option<&Shape> {
        let make = || {
            let schema = Structural::read(&self.packed.as_ref()?.unpack()?).ok()?;
            Some(Shape {
                schema,
                rules: OnceLock::new(),
            })
        };
        self.shape.get_or_init(make).as_ref()
    }

    fn check_replicas(&self, object: &Value) -> Vec<FieldError> {
        let Some(scale) = &self.scale else {
            return Vec::new();
        };
        let Some(given) = object.pointer(&scale.replicas) else {
            return Vec::new();
        };
        let path = FieldPath::new(&scale.replicas.replace('/', "."));
        let most = i64::from(i32::MAX);
        let why = match given.as_i64() {
            Some(n) if n < 0 => "should be a non-negative integer".to_owned(),
            Some(n) if n > most => format!("should be less than or equal to {most}"),
            _ => return Vec::new(),
        };
        vec![FieldError::invalid(&path, given, &why)]
    }
}

/// See the head of this file.
pub(super) struct Instance {
    pub versions: BTreeMap<Arc<str>, Arc<Version>>,
    pub storage: Arc<str>,
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub list_kind: Arc<str>,
    /// No webhook converts: versions differ in what they know of objects alone.
    pub is_pure: bool,
}

/// The version in which an object is.
fn version_of(object: &Value) -> &str {
    let version = text(object, "apiVersion").rsplit('/').next();
    version.unwrap_or_default()
}

impl Instance {
    /// A version, or the stored one instead of one that is not known.
    fn version(&self, name: &str) -> Option<&Version> {
        let found = self.versions.get(name);
        let found = found.or_else(|| self.versions.get(&self.storage));
        found.map(|v| &**v)
    }

    fn shape(&self, object: &Value) -> Option<&Shape> {
        self.version(version_of(object))?.shape()
    }

    /// The object in the version of the request, where that is but a matter of its schema; what a
    /// webhook converts is judged as it is stored.
    fn as_asked(&self, object: &Value, version: &str) -> Option<Value> {
        if !self.is_pure || version_of(object) == version || !self.versions.contains_key(version) {
            return None;
        }
        let mut object = object.clone();
        self.convert(&mut object, version, &self.group);
        Some(object)
    }

    fn judge(&self, object: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<FieldError> {
        let asked = self.as_asked(object, cx.version);
        let old_asked = old.and_then(|old| self.as_asked(old, cx.version));
        let object = asked.as_ref().unwrap_or(object);
        let old = old_asked.as_ref().or(old);
        self.check(object, old, cx.subresource)
    }

    /// What the schema and the rules of a version find wrong.
    fn check(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let Some(version) = self.version(version_of(object)) else {
            return Vec::new();
        };
        let mut errors = version.check_replicas(object);
        let Some(shape) = version.shape() else {
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
        if let Some(rules) = shape.rules() {
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

    fn has_status(&self, cx: &Context<'_>) -> bool {
        self.version(cx.version).is_some_and(|v| v.status)
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

/// What a version makes of an object before it is judged.
fn settle(shape: &Shape, object: &mut Value) {
    prune_and_default::drop_nulls(&shape.schema, object);
    prune_and_default::default(&shape.schema, object);
    prune_and_default::prune(&shape.schema, object, true);
}

impl Strategy for Instance {
    fn default(&self, object: &mut Value) {
        if let Some(shape) = self.shape(object) {
            settle(shape, object);
        }
    }

    fn refreshes(&self) -> bool {
        true
    }

    fn refresh(&self, object: &mut Value) -> bool {
        let before = object.clone();
        self.default(object);
        if self.is_pure && version_of(object) != &*self.storage {
            self.convert(object, &self.storage, &self.group);
            self.default(object);
        }
        // Very old objects have none.
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && meta.get("generation").and_then(Value::as_i64).unwrap_or(0) == 0
        {
            meta.insert("generation".into(), 1.into());
        }
        *object != before
    }

    fn converted(&self, object: &mut Value) {
        if let Some(shape) = self.shape(object) {
            prune_and_default::prune(&shape.schema, object, true);
            prune_and_default::drop_nulls(&shape.schema, object);
        }
    }

    fn convert(&self, object: &mut Value, to_version: &str, group: &str) {
        // Defaults are those of the version in which somebody wrote it.
        self.default(object);
        object["apiVersion"] = api::GroupVersion::new(group, to_version).to_string().into();
        self.converted(object);
    }

    fn prepare_create(&self, object: &mut Value, cx: &Context<'_>) {
        if self.has_status(cx) {
            no_status(object);
        }
    }

    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, cx: &Context<'_>) {
        if self.has_status(cx) || !cx.subresource.is_empty() {
            keep_other_half(object, old, cx.subresource);
        }
    }

    fn validate(&self, object: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.judge(object, None, cx)
    }

    fn validate_update(&self, object: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.judge(object, Some(old), cx)
    }

    fn validates_whole_update(&self) -> bool {
        true
    }

    fn is_custom(&self) -> bool {
        true
    }

    fn published(&self, version: &str, v3: bool) -> Vec<(String, Value)> {
        let kind = KindNames {
            group: &self.group,
            version,
            kind: &self.kind,
            list_kind: &self.list_kind,
        };
        let form = if v3 { Form::V3 } else { Form::V2 };
        let parts = self.versions.get(version);
        let schema = parts.and_then(|v| v.packed.as_ref()?.unpack());
        let mut own = publish(schema.as_ref(), &kind, form);
        if let Some(parts) = parts {
            parts.add_selectable(&mut own);
        }
        vec![
            (kind.definition(), own),
            (kind.list_definition(), publish_list(&kind, form)),
        ]
    }

    fn scale(&self, version: &str) -> Scale {
        let own = self.version(version).and_then(|v| v.scale.clone());
        own.unwrap_or_default()
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
