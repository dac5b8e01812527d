//! Schemas and rules that a CustomResourceDefinition may not hold, in upstream's words.

use super::*;

#[track_caller]
fn refused(schema: Json, want: &[&str]) {
    let options = Options {
        status_subresource: false,
        unlimited_costs: false,
    };
    let got = lines(&check(&schema, &FieldPath::new("schema"), options));
    assert_eq!(got, want, "{schema}");
}

#[test]
fn schemas_that_are_refused() {
    refused(object(json!({"a": {"type": "string"}})), &[]);
    refused(
        json!({}),
        &["schema.type: Required value: must not be empty at the root"],
    );
    refused(
        json!({"type": "string"}),
        &["schema.type: Invalid value: \"string\": must be object at the root"],
    );
    refused(
        object(json!({"a": {}})),
        &[
            "schema.properties[a].type: Required value: must not be empty for specified object fields",
        ],
    );
    refused(
        object(json!({"a": {"type": "array"}})),
        &["schema.properties[a].items: Required value: must be specified"],
    );
    refused(
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        &["schema.additionalProperties: Forbidden: must not be used at the root"],
    );
    refused(
        json!({"type": "object", "anyOf": [{"properties": {"a": {"type": "string", "minLength": 1}}}]}),
        &[
            "schema.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
            "schema.properties[a]: Required value: because it is defined in schema.anyOf[0].properties[a]",
        ],
    );
    refused(
        object(
            json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
        ),
        &[],
    );
    refused(
        object(
            json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}),
        ),
        &[
            "schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ],
    );
    refused(
        object(
            json!({"metadata": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a"}}}}),
        ),
        &[],
    );
    refused(
        object(json!({"a": {"type": "string", "pattern": "("}})),
        &[
            "schema.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: unclosed group: `(`",
        ],
    );
    refused(
        object(json!({"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}})),
        &[
            "schema.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ],
    );
    refused(
        object(json!({"a": {"$ref": "#/x", "type": "string"}})),
        &["schema.properties[a].$ref: Forbidden: $ref is not supported"],
    );
    refused(
        object(json!({"a": {"type": "date"}})),
        &[
            "schema.properties[a].type: Unsupported value: \"date\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ],
    );
    refused(
        object(json!({"a": {"type": "array", "items": [{"type": "string"}]}})),
        &["schema.properties[a].items: Forbidden: items must be a schema object and not an array"],
    );
    refused(
        object(
            json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}),
        ),
        &[
            "schema.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ],
    );
    refused(
        object(
            json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}}}, "x-kubernetes-list-map-keys": ["k"]}}),
        ),
        &[
            "schema.properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ],
    );
    refused(
        object(
            json!({"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}}),
        ),
        &[
            "schema.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ],
    );
    refused(
        object(json!({"a": {"type": "integer", "default": "x"}})),
        &[
            "schema.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
        ],
    );
    refused(
        object(json!({"a": {"type": "object", "default": {"b": 1}}})),
        &["schema.properties[a].default: Invalid value: {\"b\":1}: must not have unknown fields"],
    );
    refused(
        object(json!({"metadata": {"type": "object", "default": {}}})),
        &["schema.properties[metadata].default: Forbidden: must not be set in top-level metadata"],
    );
}

#[test]
fn rules_that_are_refused() {
    let with = |schema: Json, rule: Json| {
        let mut schema = schema;
        schema["properties"]["a"]["x-kubernetes-validations"] = json!([rule]);
        schema
    };
    let text = || object(json!({"a": {"type": "string"}}));
    let list = || object(json!({"a": {"type": "array", "items": {"type": "string"}}}));
    let at = "schema.properties[a].x-kubernetes-validations[0]";
    for (schema, want) in [
        (
            with(text(), json!({"rule": ""})),
            format!("{at}.rule: Required value: rule is not specified"),
        ),
        (
            with(text(), json!({"rule": "true", "message": " "})),
            format!("{at}.message: Invalid value: \" \": must be non-empty if specified"),
        ),
        (
            with(text(), json!({"rule": "true\n&& true"})),
            format!(
                "{at}.message: Required value: message must be specified if rule contains line breaks"
            ),
        ),
        (
            with(text(), json!({"rule": "true", "reason": "x"})),
            format!(
                "{at}.reason: Unsupported value: \"x\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
        ),
        (
            with(text(), json!({"rule": "true", "fieldPath": ".b"})),
            format!("{at}.fieldPath: Invalid value: \".b\": must be a valid path"),
        ),
        (
            with(text(), json!({"rule": "self"})),
            format!(
                "{at}.rule: Invalid value: {{\"rule\":\"self\"}}: cel expression must evaluate to a bool"
            ),
        ),
        (
            with(text(), json!({"rule": "self.x == 1"})),
            format!(
                "{at}.rule: Invalid value: {{\"rule\":\"self.x == 1\"}}: compilation failed: ERROR: <input>:1:5: type 'string' does not support field selection\n | self.x == 1\n | ....^"
            ),
        ),
        (
            with(text(), json!({"rule": "true", "messageExpression": "1"})),
            format!(
                "{at}.messageExpression: Invalid value: {{\"messageExpression\":\"1\",\"rule\":\"true\"}}: messageExpression must evaluate to a string"
            ),
        ),
        (
            with(text(), json!({"rule": "true", "optionalOldSelf": true})),
            format!(
                "{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ),
        (
            with(list(), json!({"rule": "self.all(x, self.all(y, x == y))"})),
            format!(
                "{at}.rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
            ),
        ),
    ] {
        let options = Options {
            status_subresource: false,
            unlimited_costs: false,
        };
        let got = lines(&check(&schema, &FieldPath::new("schema"), options));
        assert_eq!(got.first(), Some(&want), "{schema}");
    }
    let mut schema = list();
    schema["properties"]["a"]["maxItems"] = 5.into();
    schema["properties"]["a"]["items"]["maxLength"] = 5.into();
    schema["properties"]["a"]["items"]["x-kubernetes-validations"] =
        json!([{"rule": "self == oldSelf"}]);
    refused(
        schema,
        &[
            "schema.properties[a].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within schema.properties[a]",
        ],
    );
}
