//! gnostic's messages of OpenAPI v2 (`openapi.v2`), with the numbers of their fields.

use serde_json::Value;

use super::both::{
    CONTACT, EXTERNAL_DOCS, LICENSE, SECURITY_REQUIREMENT, TAG, TEXTS, WORDS, XML, is_path,
    schema_or_flag,
};
use super::message::{
    Field, Holds, Message, PLAIN, any, anys, each, extensions, flag, integer, members, number, one,
    or_reference, pairs, text, texts, whole,
};

pub static DOCUMENT: Message = Message {
    fields: &[
        text(1, "swagger"),
        one(2, "info", &INFO),
        text(3, "host"),
        text(4, "basePath"),
        texts(5, "schemes"),
        texts(6, "consumes"),
        texts(7, "produces"),
        one(8, "paths", &PATHS),
        one(9, "definitions", &SCHEMAS),
        one(10, "parameters", &PARAMETERS),
        one(11, "responses", &RESPONSE_DEFINITIONS),
        each(12, "security", &SECURITY_REQUIREMENT),
        one(13, "securityDefinitions", &SECURITY_DEFINITIONS),
        each(14, "tags", &TAG),
        one(15, "externalDocs", &EXTERNAL_DOCS),
        extensions(16),
    ],
    ..PLAIN
};

static INFO: Message = Message {
    fields: &[
        text(1, "title"),
        text(2, "version"),
        text(3, "description"),
        text(4, "termsOfService"),
        one(5, "contact", &CONTACT),
        one(6, "license", &LICENSE),
        extensions(7),
    ],
    ..PLAIN
};

static PATHS: Message = Message {
    fields: &[extensions(1), pairs(2, is_path, Holds::Of(&PATH_ITEM))],
    ..PLAIN
};

static PATH_ITEM: Message = Message {
    fields: &[
        text(1, "$ref"),
        one(2, "get", &OPERATION),
        one(3, "put", &OPERATION),
        one(4, "post", &OPERATION),
        one(5, "delete", &OPERATION),
        one(6, "options", &OPERATION),
        one(7, "head", &OPERATION),
        one(8, "patch", &OPERATION),
        each(9, "parameters", &PARAMETER_OR_REFERENCE),
        extensions(10),
    ],
    ..PLAIN
};

pub static OPERATION: Message = Message {
    fields: &[
        texts(1, "tags"),
        text(2, "summary"),
        text(3, "description"),
        one(4, "externalDocs", &EXTERNAL_DOCS),
        text(5, "operationId"),
        texts(6, "produces"),
        texts(7, "consumes"),
        each(8, "parameters", &PARAMETER_OR_REFERENCE),
        one(9, "responses", &RESPONSES),
        texts(10, "schemes"),
        flag(11, "deprecated"),
        each(12, "security", &SECURITY_REQUIREMENT),
        extensions(13),
    ],
    ..PLAIN
};

static PARAMETERS: Message = Message {
    fields: &[members(1, Holds::Of(&PARAMETER))],
    ..PLAIN
};

static PARAMETER_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&PARAMETER)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static REFERENCE: Message = Message {
    fields: &[text(1, "$ref"), text(2, "description")],
    ..PLAIN
};

static PARAMETER: Message = Message {
    fields: &[
        whole(1, Holds::Of(&BODY_PARAMETER)),
        whole(2, Holds::Of(&OTHER_PARAMETER)),
    ],
    one_of: Some(parameter),
    ..PLAIN
};

fn place(value: &Value) -> &str {
    value["in"].as_str().unwrap_or_default()
}

fn parameter(value: &Value) -> u32 {
    match place(value) {
        "body" => 1,
        _ => 2,
    }
}

static BODY_PARAMETER: Message = Message {
    fields: &[
        text(1, "description"),
        text(2, "name"),
        text(3, "in"),
        flag(4, "required"),
        one(5, "schema", &SCHEMA),
        extensions(6),
    ],
    ..PLAIN
};

static OTHER_PARAMETER: Message = Message {
    fields: &[
        whole(1, Holds::Of(&HEADER_OR_PATH_PARAMETER)),
        whole(2, Holds::Of(&FORM_OR_QUERY_PARAMETER)),
        whole(3, Holds::Of(&FORM_OR_QUERY_PARAMETER)),
        whole(4, Holds::Of(&HEADER_OR_PATH_PARAMETER)),
    ],
    one_of: Some(other_parameter),
    ..PLAIN
};

fn other_parameter(value: &Value) -> u32 {
    match place(value) {
        "header" => 1,
        "formData" => 2,
        "query" => 3,
        "path" => 4,
        _ => 0,
    }
}

/// What is said of a value that is not an object, from 1 on.
static VALUE: &[Field] = &[
    text(1, "type"),
    text(2, "format"),
    one(3, "items", &PRIMITIVE_ITEMS),
    text(4, "collectionFormat"),
    any(5, "default"),
    number(6, "maximum"),
    flag(7, "exclusiveMaximum"),
    number(8, "minimum"),
    flag(9, "exclusiveMinimum"),
    integer(10, "maxLength"),
    integer(11, "minLength"),
    text(12, "pattern"),
    integer(13, "maxItems"),
    integer(14, "minItems"),
    flag(15, "uniqueItems"),
    anys(16, "enum"),
    number(17, "multipleOf"),
];

static PRIMITIVE_ITEMS: Message = Message {
    fields: &[extensions(18)],
    shared: Some((0, VALUE)),
    ..PLAIN
};

static HEADER_OR_PATH_PARAMETER: Message = Message {
    fields: &[
        flag(1, "required"),
        text(2, "in"),
        text(3, "description"),
        text(4, "name"),
        extensions(22),
    ],
    shared: Some((4, VALUE)),
    ..PLAIN
};

static FORM_OR_QUERY_PARAMETER: Message = Message {
    fields: &[
        flag(1, "required"),
        text(2, "in"),
        text(3, "description"),
        text(4, "name"),
        flag(5, "allowEmptyValue"),
        extensions(23),
    ],
    shared: Some((5, VALUE)),
    ..PLAIN
};

static HEADERS: Message = Message {
    fields: &[members(1, Holds::Of(&HEADER))],
    ..PLAIN
};

static HEADER: Message = Message {
    fields: &[text(18, "description"), extensions(19)],
    shared: Some((0, VALUE)),
    ..PLAIN
};

static RESPONSES: Message = Message {
    fields: &[
        pairs(1, is_code, Holds::Of(&RESPONSE_OR_REFERENCE)),
        extensions(2),
    ],
    ..PLAIN
};

fn is_code(name: &str) -> bool {
    name == "default" || name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit())
}

static RESPONSE_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&RESPONSE)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static RESPONSE_DEFINITIONS: Message = Message {
    fields: &[members(1, Holds::Of(&RESPONSE))],
    ..PLAIN
};

static RESPONSE: Message = Message {
    fields: &[
        text(1, "description"),
        one(2, "schema", &SCHEMA_OR_FILE),
        one(3, "headers", &HEADERS),
        one(4, "examples", &EXAMPLES),
        extensions(5),
    ],
    ..PLAIN
};

static EXAMPLES: Message = Message {
    fields: &[members(1, Holds::Any)],
    ..PLAIN
};

static SCHEMA_OR_FILE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&SCHEMA)),
        whole(2, Holds::Of(&FILE_SCHEMA)),
    ],
    one_of: Some(schema_or_file),
    ..PLAIN
};

fn schema_or_file(value: &Value) -> u32 {
    match value["type"].as_str() {
        Some("file") => 2,
        _ => 1,
    }
}

static FILE_SCHEMA: Message = Message {
    fields: &[
        text(1, "format"),
        text(2, "title"),
        text(3, "description"),
        any(4, "default"),
        texts(5, "required"),
        text(6, "type"),
        flag(7, "readOnly"),
        one(8, "externalDocs", &EXTERNAL_DOCS),
        any(9, "example"),
        extensions(10),
    ],
    ..PLAIN
};

/// Of definitions and of properties.
static SCHEMAS: Message = Message {
    fields: &[members(1, Holds::Of(&SCHEMA))],
    ..PLAIN
};

static SCHEMA: Message = Message {
    fields: &[
        text(1, "$ref"),
        text(2, "format"),
        text(3, "title"),
        text(4, "description"),
        any(5, "default"),
        number(6, "multipleOf"),
        number(7, "maximum"),
        flag(8, "exclusiveMaximum"),
        number(9, "minimum"),
        flag(10, "exclusiveMinimum"),
        integer(11, "maxLength"),
        integer(12, "minLength"),
        text(13, "pattern"),
        integer(14, "maxItems"),
        integer(15, "minItems"),
        flag(16, "uniqueItems"),
        integer(17, "maxProperties"),
        integer(18, "minProperties"),
        texts(19, "required"),
        anys(20, "enum"),
        one(21, "additionalProperties", &SCHEMA_OR_FLAG),
        one(22, "type", &TEXTS),
        one(23, "items", &ITEMS),
        each(24, "allOf", &SCHEMA),
        one(25, "properties", &SCHEMAS),
        text(26, "discriminator"),
        flag(27, "readOnly"),
        one(28, "xml", &XML),
        one(29, "externalDocs", &EXTERNAL_DOCS),
        any(30, "example"),
        extensions(31),
    ],
    ..PLAIN
};

static SCHEMA_OR_FLAG: Message = Message {
    fields: &[whole(1, Holds::Of(&SCHEMA)), whole(2, Holds::Flag)],
    one_of: Some(schema_or_flag),
    ..PLAIN
};

/// One schema, although the field could be repeated: as gnostic, and clients take no others.
static ITEMS: Message = Message {
    fields: &[whole(1, Holds::Of(&SCHEMA))],
    ..PLAIN
};

static SECURITY_DEFINITIONS: Message = Message {
    fields: &[members(1, Holds::Of(&SECURITY))],
    ..PLAIN
};

static SECURITY: Message = Message {
    fields: &[
        whole(1, Holds::Of(&BASIC_AUTHENTICATION)),
        whole(2, Holds::Of(&API_KEY)),
        whole(3, Holds::Of(&OAUTH_IMPLICIT)),
        whole(4, Holds::Of(&OAUTH_BY_TOKEN_URL)),
        whole(5, Holds::Of(&OAUTH_BY_TOKEN_URL)),
        whole(6, Holds::Of(&OAUTH_ACCESS_CODE)),
    ],
    one_of: Some(security),
    ..PLAIN
};

fn security(value: &Value) -> u32 {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    match (text("type"), text("flow")) {
        ("basic", _) => 1,
        ("apiKey", _) => 2,
        ("oauth2", "implicit") => 3,
        ("oauth2", "password") => 4,
        ("oauth2", "application") => 5,
        ("oauth2", "accessCode") => 6,
        _ => 0,
    }
}

static BASIC_AUTHENTICATION: Message = Message {
    fields: &[text(1, "type"), text(2, "description"), extensions(3)],
    ..PLAIN
};

static API_KEY: Message = Message {
    fields: &[
        text(1, "type"),
        text(2, "name"),
        text(3, "in"),
        text(4, "description"),
        extensions(5),
    ],
    ..PLAIN
};

static OAUTH_IMPLICIT: Message = Message {
    fields: &[
        text(1, "type"),
        text(2, "flow"),
        one(3, "scopes", &WORDS),
        text(4, "authorizationUrl"),
        text(5, "description"),
        extensions(6),
    ],
    ..PLAIN
};

/// By a password, or of an application.
static OAUTH_BY_TOKEN_URL: Message = Message {
    fields: &[
        text(1, "type"),
        text(2, "flow"),
        one(3, "scopes", &WORDS),
        text(4, "tokenUrl"),
        text(5, "description"),
        extensions(6),
    ],
    ..PLAIN
};

static OAUTH_ACCESS_CODE: Message = Message {
    fields: &[
        text(1, "type"),
        text(2, "flow"),
        one(3, "scopes", &WORDS),
        text(4, "authorizationUrl"),
        text(5, "tokenUrl"),
        text(6, "description"),
        extensions(7),
    ],
    ..PLAIN
};
