//! What of OpenAPI a schema may use, and whether its extensions and rules make sense. It goes over
//! the schema as it was written, since some of what is refused here has no place in the model.

use api::{FieldError, FieldPath};
use serde_json::{Map, Value as Json};

use super::Options;
use super::costs::{Costs, Rules};
use crate::model::{Rule, Structural, text, texts};
use crate::path;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
const META: [&str; 3] = ["metadata", "kind", "apiVersion"];

/// What stands around a node.
#[derive(Clone, Copy, Default)]
struct Around<'p> {
    /// Why defaults are refused here.
    no_defaults: Option<&'static str>,
    in_meta: bool,
    /// The part of the schema whose old values cannot be found.
    uncorrelatable: Option<&'p FieldPath>,
}

struct Checker<'c> {
    schema_errors: Vec<FieldError>,
    rule_errors: Vec<FieldError>,
    options: Options,
    costs: Option<Costs<'c>>,
}

/// `structural` is the schema's model; none if it is not structural, and rules are not looked at.
pub(super) fn check(
    schema: &Json,
    path: &FieldPath,
    structural: Option<&Structural>,
    options: Options,
) -> Vec<FieldError> {
    let mut checker = Checker {
        schema_errors: Vec::new(),
        rule_errors: Vec::new(),
        options,
        costs: structural.map(Costs::new),
    };
    checker.node(schema, path, Around::default(), true);
    let mut errors = checker.schema_errors;
    errors.append(&mut checker.rule_errors);
    if let Some(costs) = checker.costs
        && errors.is_empty()
    {
        costs.check(options.unlimited_costs, path, &mut errors);
    }
    errors
}

fn has(map: &Map<String, Json>, word: &str) -> bool {
    map.get(word).is_some_and(|v| match v {
        Json::Null => false,
        Json::Object(m) => !m.is_empty(),
        Json::Array(a) => !a.is_empty(),
        Json::String(s) => !s.is_empty(),
        _ => true,
    })
}

impl Checker<'_> {
    fn forbid(&mut self, path: &FieldPath, word: &str, what: &str) {
        let error = FieldError::forbidden(&path.child(word), what);
        self.schema_errors.push(error);
    }

    fn require(&mut self, path: &FieldPath, word: &str, what: &str) {
        let error = FieldError::required(&path.child(word), what);
        self.schema_errors.push(error);
    }

    fn invalid(&mut self, path: &FieldPath, value: &Json, what: &str) {
        self.schema_errors
            .push(FieldError::invalid(path, value, what));
    }

    fn node(&mut self, schema: &Json, path: &FieldPath, around: Around, root: bool) {
        let Json::Object(map) = schema else { return };
        self.standard(map, path, around);
        self.below(map, path, around, root);
        self.extensions(map, path);
        self.list_map(map, path);
        self.rules(schema, map, path, around);
    }

    /// What is not a part of the supported standard.
    fn standard(&mut self, map: &Map<String, Json>, path: &FieldPath, around: Around) {
        let ty = text(map, "type");
        if !ty.is_empty() && !TYPES.contains(&ty) {
            let at = path.child("type");
            self.schema_errors
                .push(FieldError::not_supported(&at, ty, &TYPES));
        }
        if let Some(why) = around.no_defaults
            && map.get("default").is_some_and(|d| !d.is_null())
        {
            let why = format!("must not be set {why}");
            self.forbid(path, "default", why.trim_end());
        }
        for word in [
            "id",
            "additionalItems",
            "patternProperties",
            "definitions",
            "dependencies",
            "$ref",
        ] {
            if has(map, word) {
                self.forbid(path, word, &format!("{word} is not supported"));
            }
        }
        if ty == "null" {
            let what = "type cannot be set to null, use nullable as an alternative";
            self.forbid(path, "type", what);
        }
        if matches!(map.get("items"), Some(Json::Array(_))) {
            let what = "items must be a schema object and not an array";
            self.forbid(path, "items", what);
        }
        if around.in_meta && map.get("x-kubernetes-embedded-resource") == Some(&Json::Bool(true)) {
            let what = "must not be used inside of resource meta";
            self.forbid(path, "x-kubernetes-embedded-resource", what);
        }
        if map.get("uniqueItems") == Some(&Json::Bool(true)) {
            let what =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(path, "uniqueItems", what);
        }
    }

    fn below(&mut self, map: &Map<String, Json>, path: &FieldPath, around: Around, root: bool) {
        let properties = map.get("properties").and_then(Json::as_object);
        if let Some(additional) = map.get("additionalProperties")
            && !additional.is_null()
        {
            let some = properties.is_some_and(|p| !p.is_empty());
            if some && additional != &Json::Bool(true) {
                let what = "additionalProperties and properties are mutual exclusive";
                self.forbid(path, "additionalProperties", what);
            }
            let mut inner = around;
            if around.in_meta {
                inner.no_defaults = Some("inside additionalProperties applying to object metadata");
            }
            if additional.is_object() {
                self.enter(|c| c.additional(map));
                self.node(
                    additional,
                    &path.child("additionalProperties"),
                    inner,
                    false,
                );
                self.leave();
            }
        }
        let embedded = map.get("x-kubernetes-embedded-resource") == Some(&Json::Bool(true));
        for (name, property) in properties.into_iter().flatten() {
            let mut inner = around;
            if text(map, "x-kubernetes-map-type") == "atomic" {
                inner.uncorrelatable = inner.uncorrelatable.or(Some(path));
            }
            if (root || embedded) && META.contains(&&**name) {
                inner.in_meta = true;
                if root {
                    inner.no_defaults = Some(match &**name {
                        "metadata" => "in top-level metadata",
                        "kind" => "in top-level kind",
                        _ => "in top-level apiVersion",
                    });
                }
            }
            self.enter(|c| c.property(map, name));
            self.node(property, &path.child("properties").key(name), inner, false);
            self.leave();
        }
        self.nested(map, path, around);
        match map.get("items") {
            Some(items @ Json::Object(_)) => {
                let mut inner = around;
                if text(map, "x-kubernetes-list-type") != "map" {
                    inner.uncorrelatable = inner.uncorrelatable.or(Some(path));
                }
                self.enter(|c| c.items(map));
                self.node(items, &path.child("items"), inner, false);
                self.leave();
            }
            Some(Json::Array(all)) => {
                for (i, items) in all.iter().enumerate() {
                    self.node(items, &path.child("items").index(i), around, false);
                }
            }
            _ => {}
        }
    }

    /// Alternatives: rules in them are not looked at.
    fn nested(&mut self, map: &Map<String, Json>, path: &FieldPath, around: Around) {
        let costs = self.costs.take();
        if let Some(not) = map.get("not") {
            self.node(not, &path.child("not"), around, false);
        }
        for word in ["allOf", "oneOf", "anyOf"] {
            let all = map.get(word).and_then(Json::as_array);
            for (i, node) in all.into_iter().flatten().enumerate() {
                self.node(node, &path.child(word).index(i), around, false);
            }
        }
        self.costs = costs;
    }

    fn enter(&mut self, go: impl FnOnce(&mut Costs)) {
        if let Some(costs) = &mut self.costs {
            go(costs);
        }
    }

    fn leave(&mut self) {
        if let Some(costs) = &mut self.costs {
            costs.leave();
        }
    }

    fn extensions(&mut self, map: &Map<String, Json>, path: &FieldPath) {
        let ty = text(map, "type");
        let at = |word: &str| path.child(word);
        let preserve = "x-kubernetes-preserve-unknown-fields";
        if map.get(preserve) == Some(&Json::Bool(false)) {
            self.invalid(&at(preserve), &false.into(), "must be true or undefined");
        }
        for (word, wanted, what, supported) in [
            (
                "x-kubernetes-map-type",
                "object",
                "must be object if x-kubernetes-map-type is specified",
                &["atomic", "granular"][..],
            ),
            (
                "x-kubernetes-list-type",
                "array",
                "must be array if x-kubernetes-list-type is specified",
                &["atomic", "set", "map"][..],
            ),
        ] {
            let Some(Json::String(given)) = map.get(word) else {
                continue;
            };
            if ty.is_empty() {
                self.require(path, "type", what);
            } else if ty != wanted {
                self.invalid(&at("type"), &ty.into(), what);
            } else if given == "set"
                && let Some(Json::Object(items)) = map.get("items")
            {
                self.set_items(items, &at("items"));
            }
            if !supported.contains(&&**given) {
                self.schema_errors
                    .push(FieldError::not_supported(&at(word), given, supported));
            }
        }
    }

    /// Items of a set are compared as a whole.
    fn set_items(&mut self, items: &Map<String, Json>, path: &FieldPath) {
        let what = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let null = Json::Null;
        match text(items, "type") {
            "array" => {
                let word = "x-kubernetes-list-type";
                if let Some(list) = items.get(word)
                    && list != "atomic"
                {
                    self.invalid(&path.child(word), list, what);
                }
            }
            "object" => {
                let word = "x-kubernetes-map-type";
                if text(items, word) != "atomic" {
                    self.invalid(&path.child(word), items.get(word).unwrap_or(&null), what);
                }
            }
            _ => {}
        }
    }

    fn list_map(&mut self, map: &Map<String, Json>, path: &FieldPath) {
        let list = text(map, "x-kubernetes-list-type");
        let keys_word = "x-kubernetes-list-map-keys";
        let keys: Vec<&str> = texts(map, keys_word).collect();
        if !keys.is_empty() && list != "map" {
            let what = "must be map if x-kubernetes-list-map-keys is non-empty";
            match list {
                "" => self.require(path, "x-kubernetes-list-type", what),
                other => {
                    let at = path.child("x-kubernetes-list-type");
                    self.invalid(&at, &other.into(), what);
                }
            }
        }
        let items = map.get("items").and_then(Json::as_object);
        if list == "map" {
            if keys.is_empty() {
                let what = "must not be empty if x-kubernetes-list-type is map";
                self.require(path, keys_word, what);
            }
            match items {
                None => {
                    let what = "must have a schema if x-kubernetes-list-type is map";
                    self.require(path, "items", what);
                }
                Some(items) if text(items, "type") != "object" => {
                    let what = "must be object if parent array's x-kubernetes-list-type is map";
                    let at = path.child("items").child("type");
                    self.invalid(&at, &text(items, "type").into(), what);
                }
                Some(items) => self.keys(map, items, &keys, path),
            }
        }
        if let Some(items) = items
            && matches!(list, "set" | "map")
        {
            self.required_keys(items, &keys, list, path);
        }
    }

    fn keys(
        &mut self,
        map: &Map<String, Json>,
        items: &Map<String, Json>,
        keys: &[&str],
        path: &FieldPath,
    ) {
        let at = path.child("x-kubernetes-list-map-keys");
        let all = map
            .get("x-kubernetes-list-map-keys")
            .cloned()
            .unwrap_or_default();
        for (i, key) in keys.iter().enumerate() {
            match items.get("properties").and_then(|p| p.get(*key)) {
                None => self.invalid(&at, &all, "entries must all be names of item properties"),
                Some(property) => {
                    if matches!(property["type"].as_str(), Some("array" | "object")) {
                        let what =
                            "must be a scalar type if parent array's x-kubernetes-list-type is map";
                        let at = path
                            .child("items")
                            .child("properties")
                            .key(key)
                            .child("type");
                        self.invalid(&at, &"object".into(), what);
                    }
                }
            }
            if keys[..i].contains(key) {
                self.invalid(&at, &all, "must not contain duplicate entries");
            }
        }
    }

    fn required_keys(
        &mut self,
        items: &Map<String, Json>,
        keys: &[&str],
        list: &str,
        path: &FieldPath,
    ) {
        let at = path.child("items");
        if items.get("nullable") == Some(&Json::Bool(true)) {
            let what = format!("cannot be nullable when x-kubernetes-list-type is {list}");
            self.forbid(&at, "nullable", &what);
        }
        if list != "map" {
            return;
        }
        let required: Vec<&str> = texts(items, "required").collect();
        for key in keys {
            let Some(property) = items.get("properties").and_then(|p| p.get(*key)) else {
                continue;
            };
            let at = at.child("properties").key(key);
            if !required.contains(key) && property["default"].is_null() {
                let what = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.require(&at, "default", what);
            }
            if property["nullable"] == true {
                let what =
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.forbid(&at, "nullable", what);
            }
        }
    }

    fn rules(&mut self, schema: &Json, map: &Map<String, Json>, path: &FieldPath, around: Around) {
        let Some(Json::Array(raw)) = map.get("x-kubernetes-validations") else {
            return;
        };
        let Ok(node) = Structural::read(schema) else {
            return;
        };
        let at = path.child("x-kubernetes-validations");
        for (i, rule) in node.rules.iter().enumerate() {
            self.rule_words(&node, rule, &at.index(i));
        }
        // Errors of the schema make those of rules hard to understand.
        if self.schema_errors.is_empty()
            && let Some(costs) = &mut self.costs
        {
            let place = Rules {
                rules: &node.rules,
                raw,
                at: &at,
                uncorrelatable: around.uncorrelatable,
                options: self.options,
            };
            costs.rules(&place, &mut self.rule_errors);
        }
    }

    fn rule_words(&mut self, node: &Structural, rule: &Rule, at: &FieldPath) {
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let (body, message) = (rule.rule.trim(), rule.message.trim());
        if body.is_empty() {
            self.require(at, "rule", "rule is not specified");
        } else if !rule.message.is_empty() && message.is_empty() {
            let what = "must be non-empty if specified";
            self.invalid(&at.child("message"), &(&*rule.message).into(), what);
        } else if breaks(message) {
            let what = "must not contain line breaks";
            self.invalid(&at.child("message"), &(&*rule.message).into(), what);
        } else if breaks(body) && message.is_empty() {
            let what = "message must be specified if rule contains line breaks";
            self.require(at, "message", what);
        }
        let expression = &rule.message_expression;
        if !expression.is_empty() && expression.trim().is_empty() {
            let what = "messageExpression must be non-empty if specified";
            self.require(at, "messageExpression", what);
        }
        if let Some(reason) = &rule.reason
            && !REASONS.contains(&&**reason)
        {
            let at = at.child("reason");
            self.schema_errors
                .push(FieldError::not_supported(&at, reason, &REASONS));
        }
        if rule.field_path.is_empty() {
            return;
        }
        let at = at.child("fieldPath");
        let given = Json::from(&*rule.field_path);
        if rule.field_path.trim().is_empty() {
            self.invalid(&at, &given, "must be non-empty if specified");
        }
        if breaks(&rule.field_path) {
            self.invalid(&at, &given, "must not contain line breaks");
        }
        if path::parse(&rule.field_path, node).is_err() {
            self.invalid(&at, &given, "must be a valid path");
        }
    }
}
