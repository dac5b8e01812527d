//! gnostic's messages of OpenAPI v3.0 (`openapi.v3`), with the numbers of their fields.

use serde_json::Value;

use super::both::{
    CONTACT, EXTERNAL_DOCS, LICENSE, SECURITY_REQUIREMENT, TAG, WORDS, XML, is_path, schema_or_flag,
};
use super::message::{
    Holds, Message, PLAIN, any, anys, each, extensions, flag, integer, members, number, one,
    or_reference, pairs, text, texts, whole,
};

pub static DOCUMENT: Message = Message {
    fields: &[
        text(1, "openapi"),
        one(2, "info", &INFO),
        each(3, "servers", &SERVER),
        one(4, "paths", &PATHS),
        one(5, "components", &COMPONENTS),
        each(6, "security", &SECURITY_REQUIREMENT),
        each(7, "tags", &TAG),
        one(8, "externalDocs", &EXTERNAL_DOCS),
        extensions(9),
    ],
    ..PLAIN
};

static INFO: Message = Message {
    fields: &[
        text(1, "title"),
        text(2, "description"),
        text(3, "termsOfService"),
        one(4, "contact", &CONTACT),
        one(5, "license", &LICENSE),
        text(6, "version"),
        extensions(7),
        text(8, "summary"),
    ],
    ..PLAIN
};

static SERVER: Message = Message {
    fields: &[
        text(1, "url"),
        text(2, "description"),
        one(3, "variables", &SERVER_VARIABLES),
        extensions(4),
    ],
    ..PLAIN
};

static SERVER_VARIABLES: Message = Message {
    fields: &[members(1, Holds::Of(&SERVER_VARIABLE))],
    ..PLAIN
};

static SERVER_VARIABLE: Message = Message {
    fields: &[
        texts(1, "enum"),
        text(2, "default"),
        text(3, "description"),
        extensions(4),
    ],
    ..PLAIN
};

static REFERENCE: Message = Message {
    fields: &[text(1, "$ref"), text(2, "summary"), text(3, "description")],
    ..PLAIN
};

static COMPONENTS: Message = Message {
    fields: &[
        one(1, "schemas", &SCHEMAS),
        one(2, "responses", &RESPONSE_DEFINITIONS),
        one(3, "parameters", &PARAMETERS),
        one(4, "examples", &EXAMPLES),
        one(5, "requestBodies", &REQUEST_BODIES),
        one(6, "headers", &HEADERS),
        one(7, "securitySchemes", &SECURITY_SCHEMES),
        one(8, "links", &LINKS),
        one(9, "callbacks", &CALLBACKS),
        extensions(10),
    ],
    ..PLAIN
};

static PATHS: Message = Message {
    fields: &[pairs(1, is_path, Holds::Of(&PATH_ITEM)), extensions(2)],
    ..PLAIN
};

static PATH_ITEM: Message = Message {
    fields: &[
        text(1, "$ref"),
        text(2, "summary"),
        text(3, "description"),
        one(4, "get", &OPERATION),
        one(5, "put", &OPERATION),
        one(6, "post", &OPERATION),
        one(7, "delete", &OPERATION),
        one(8, "options", &OPERATION),
        one(9, "head", &OPERATION),
        one(10, "patch", &OPERATION),
        one(11, "trace", &OPERATION),
        each(12, "servers", &SERVER),
        each(13, "parameters", &PARAMETER_OR_REFERENCE),
        extensions(14),
    ],
    ..PLAIN
};

static OPERATION: Message = Message {
    fields: &[
        texts(1, "tags"),
        text(2, "summary"),
        text(3, "description"),
        one(4, "externalDocs", &EXTERNAL_DOCS),
        text(5, "operationId"),
        each(6, "parameters", &PARAMETER_OR_REFERENCE),
        one(7, "requestBody", &REQUEST_BODY_OR_REFERENCE),
        one(8, "responses", &RESPONSES),
        one(9, "callbacks", &CALLBACKS),
        flag(10, "deprecated"),
        each(11, "security", &SECURITY_REQUIREMENT),
        each(12, "servers", &SERVER),
        extensions(13),
    ],
    ..PLAIN
};

static PARAMETERS: Message = Message {
    fields: &[members(1, Holds::Of(&PARAMETER_OR_REFERENCE))],
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

static PARAMETER: Message = Message {
    fields: &[
        text(1, "name"),
        text(2, "in"),
        text(3, "description"),
        flag(4, "required"),
        flag(5, "deprecated"),
        flag(6, "allowEmptyValue"),
        text(7, "style"),
        flag(8, "explode"),
        flag(9, "allowReserved"),
        one(10, "schema", &SCHEMA_OR_REFERENCE),
        any(11, "example"),
        one(12, "examples", &EXAMPLES),
        one(13, "content", &MEDIA_TYPES),
        extensions(14),
    ],
    ..PLAIN
};

static HEADERS: Message = Message {
    fields: &[members(1, Holds::Of(&HEADER_OR_REFERENCE))],
    ..PLAIN
};

static HEADER_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&HEADER)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static HEADER: Message = Message {
    fields: &[
        text(1, "description"),
        flag(2, "required"),
        flag(3, "deprecated"),
        flag(4, "allowEmptyValue"),
        text(5, "style"),
        flag(6, "explode"),
        flag(7, "allowReserved"),
        one(8, "schema", &SCHEMA_OR_REFERENCE),
        any(9, "example"),
        one(10, "examples", &EXAMPLES),
        one(11, "content", &MEDIA_TYPES),
        extensions(12),
    ],
    ..PLAIN
};

static REQUEST_BODIES: Message = Message {
    fields: &[members(1, Holds::Of(&REQUEST_BODY_OR_REFERENCE))],
    ..PLAIN
};

static REQUEST_BODY_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&REQUEST_BODY)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static REQUEST_BODY: Message = Message {
    fields: &[
        text(1, "description"),
        one(2, "content", &MEDIA_TYPES),
        flag(3, "required"),
        extensions(4),
    ],
    ..PLAIN
};

static MEDIA_TYPES: Message = Message {
    fields: &[members(1, Holds::Of(&MEDIA_TYPE))],
    ..PLAIN
};

static MEDIA_TYPE: Message = Message {
    fields: &[
        one(1, "schema", &SCHEMA_OR_REFERENCE),
        any(2, "example"),
        one(3, "examples", &EXAMPLES),
        one(4, "encoding", &ENCODINGS),
        extensions(5),
    ],
    ..PLAIN
};

static ENCODINGS: Message = Message {
    fields: &[members(1, Holds::Of(&ENCODING))],
    ..PLAIN
};

static ENCODING: Message = Message {
    fields: &[
        text(1, "contentType"),
        one(2, "headers", &HEADERS),
        text(3, "style"),
        flag(4, "explode"),
        flag(5, "allowReserved"),
        extensions(6),
    ],
    ..PLAIN
};

static RESPONSES: Message = Message {
    fields: &[
        one(1, "default", &RESPONSE_OR_REFERENCE),
        pairs(2, is_code, Holds::Of(&RESPONSE_OR_REFERENCE)),
        extensions(3),
    ],
    ..PLAIN
};

fn is_code(name: &str) -> bool {
    name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit() || b == b'X')
}

static RESPONSE_DEFINITIONS: Message = Message {
    fields: &[members(1, Holds::Of(&RESPONSE_OR_REFERENCE))],
    ..PLAIN
};

static RESPONSE_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&RESPONSE)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static RESPONSE: Message = Message {
    fields: &[
        text(1, "description"),
        one(2, "headers", &HEADERS),
        one(3, "content", &MEDIA_TYPES),
        one(4, "links", &LINKS),
        extensions(5),
    ],
    ..PLAIN
};

static EXAMPLES: Message = Message {
    fields: &[members(1, Holds::Of(&EXAMPLE_OR_REFERENCE))],
    ..PLAIN
};

static EXAMPLE_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&EXAMPLE)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static EXAMPLE: Message = Message {
    fields: &[
        text(1, "summary"),
        text(2, "description"),
        any(3, "value"),
        text(4, "externalValue"),
        extensions(5),
    ],
    ..PLAIN
};

static LINKS: Message = Message {
    fields: &[members(1, Holds::Of(&LINK_OR_REFERENCE))],
    ..PLAIN
};

static LINK_OR_REFERENCE: Message = Message {
    fields: &[whole(1, Holds::Of(&LINK)), whole(2, Holds::Of(&REFERENCE))],
    one_of: Some(or_reference),
    ..PLAIN
};

static LINK: Message = Message {
    fields: &[
        text(1, "operationRef"),
        text(2, "operationId"),
        one(3, "parameters", &ANY_OR_EXPRESSION),
        one(4, "requestBody", &ANY_OR_EXPRESSION),
        text(5, "description"),
        one(6, "server", &SERVER),
        extensions(7),
    ],
    ..PLAIN
};

/// An expression is anything, too.
static ANY_OR_EXPRESSION: Message = Message {
    fields: &[whole(1, Holds::Any)],
    ..PLAIN
};

static CALLBACKS: Message = Message {
    fields: &[members(1, Holds::Of(&CALLBACK_OR_REFERENCE))],
    ..PLAIN
};

static CALLBACK_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&CALLBACK)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static CALLBACK: Message = Message {
    fields: &[
        pairs(1, is_expression, Holds::Of(&PATH_ITEM)),
        extensions(2),
    ],
    ..PLAIN
};

fn is_expression(name: &str) -> bool {
    !name.starts_with("x-")
}

/// Of definitions and of properties.
static SCHEMAS: Message = Message {
    fields: &[members(1, Holds::Of(&SCHEMA_OR_REFERENCE))],
    ..PLAIN
};

static SCHEMA_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&SCHEMA)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static SCHEMA: Message = Message {
    fields: &[
        flag(1, "nullable"),
        one(2, "discriminator", &DISCRIMINATOR),
        flag(3, "readOnly"),
        flag(4, "writeOnly"),
        one(5, "xml", &XML),
        one(6, "externalDocs", &EXTERNAL_DOCS),
        any(7, "example"),
        flag(8, "deprecated"),
        text(9, "title"),
        number(10, "multipleOf"),
        number(11, "maximum"),
        flag(12, "exclusiveMaximum"),
        number(13, "minimum"),
        flag(14, "exclusiveMinimum"),
        integer(15, "maxLength"),
        integer(16, "minLength"),
        text(17, "pattern"),
        integer(18, "maxItems"),
        integer(19, "minItems"),
        flag(20, "uniqueItems"),
        integer(21, "maxProperties"),
        integer(22, "minProperties"),
        texts(23, "required"),
        anys(24, "enum"),
        text(25, "type"),
        each(26, "allOf", &SCHEMA_OR_REFERENCE),
        each(27, "oneOf", &SCHEMA_OR_REFERENCE),
        each(28, "anyOf", &SCHEMA_OR_REFERENCE),
        one(29, "not", &SCHEMA),
        one(30, "items", &ITEMS),
        one(31, "properties", &SCHEMAS),
        one(32, "additionalProperties", &SCHEMA_OR_FLAG),
        one(33, "default", &DEFAULT),
        text(34, "description"),
        text(35, "format"),
        extensions(36),
    ],
    ..PLAIN
};

/// One schema, although the field could be repeated.
static ITEMS: Message = Message {
    fields: &[whole(1, Holds::Of(&SCHEMA_OR_REFERENCE))],
    ..PLAIN
};

static SCHEMA_OR_FLAG: Message = Message {
    fields: &[
        whole(1, Holds::Of(&SCHEMA_OR_REFERENCE)),
        whole(2, Holds::Flag),
    ],
    one_of: Some(schema_or_flag),
    ..PLAIN
};

/// A default that is an object or a list has no field here: of it is said only that there is one.
static DEFAULT: Message = Message {
    fields: &[
        whole(1, Holds::Number),
        whole(2, Holds::Flag),
        whole(3, Holds::Text),
    ],
    one_of: Some(default),
    ..PLAIN
};

fn default(value: &Value) -> u32 {
    match value {
        Value::Number(_) => 1,
        Value::Bool(_) => 2,
        Value::String(_) => 3,
        _ => 0,
    }
}

static DISCRIMINATOR: Message = Message {
    fields: &[
        text(1, "propertyName"),
        one(2, "mapping", &WORDS),
        extensions(3),
    ],
    ..PLAIN
};

static SECURITY_SCHEMES: Message = Message {
    fields: &[members(1, Holds::Of(&SECURITY_SCHEME_OR_REFERENCE))],
    ..PLAIN
};

static SECURITY_SCHEME_OR_REFERENCE: Message = Message {
    fields: &[
        whole(1, Holds::Of(&SECURITY_SCHEME)),
        whole(2, Holds::Of(&REFERENCE)),
    ],
    one_of: Some(or_reference),
    ..PLAIN
};

static SECURITY_SCHEME: Message = Message {
    fields: &[
        text(1, "type"),
        text(2, "description"),
        text(3, "name"),
        text(4, "in"),
        text(5, "scheme"),
        text(6, "bearerFormat"),
        one(7, "flows", &OAUTH_FLOWS),
        text(8, "openIdConnectUrl"),
        extensions(9),
    ],
    ..PLAIN
};

static OAUTH_FLOWS: Message = Message {
    fields: &[
        one(1, "implicit", &OAUTH_FLOW),
        one(2, "password", &OAUTH_FLOW),
        one(3, "clientCredentials", &OAUTH_FLOW),
        one(4, "authorizationCode", &OAUTH_FLOW),
        extensions(5),
    ],
    ..PLAIN
};

static OAUTH_FLOW: Message = Message {
    fields: &[
        text(1, "authorizationUrl"),
        text(2, "tokenUrl"),
        text(3, "refreshUrl"),
        one(4, "scopes", &WORDS),
        extensions(5),
    ],
    ..PLAIN
};
