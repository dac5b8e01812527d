//! OpenAPI documents in gnostic's protobuf: the same document as in JSON, written by the tables of
//! its two editions. client-go's `OpenAPISchema`, older kubectl and Helm ask for it. It does not know
//! how documents are made.

mod both;
mod message;
mod v2;
mod v3;

use serde_json::Value;

use super::edition::Edition;

/// A document as gnostic's `Document`.
pub fn written(edition: Edition, document: &Value) -> Vec<u8> {
    let message = match edition {
        Edition::V2 => &v2::DOCUMENT,
        Edition::V3 => &v3::DOCUMENT,
    };
    let mut bytes = message::written(message, document);
    // They are kept, and had grown by doubling.
    bytes.shrink_to_fit();
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A length-delimited field of a number below 16.
    fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        let length = u8::try_from(content.len()).expect("a short field");
        assert!(number < 16 && length < 128);
        [&[(number << 3) | 2, length][..], content].concat()
    }

    /// The same of a number from 16 on, whose key takes two bytes.
    fn far(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        let length = u8::try_from(content.len()).expect("a short field");
        assert!((16..32).contains(&number) && length < 128);
        let key = [(number << 3) | 2 | 0x80, number >> 4];
        [&key[..], &[length], content].concat()
    }

    fn any(yaml: &str) -> Vec<u8> {
        field(2, yaml)
    }

    fn pair(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
        [field(1, name), field(2, value)].concat()
    }

    #[test]
    fn the_head_of_a_document_of_the_second_edition() {
        let document = json!({
            "swagger": "2.0",
            "info": { "title": "T", "version": "v1" },
            "paths": {},
            "security": [{ "BearerToken": [] }],
            "securityDefinitions": { "BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header" } },
            "x-own": { "a": ["b", 1] },
            "unheardOf": true,
        });
        let key = [
            field(1, "apiKey"),
            field(2, "authorization"),
            field(3, "header"),
        ];
        let expected = [
            field(1, "2.0"),
            field(2, [field(1, "T"), field(2, "v1")].concat()),
            field(8, ""),
            field(12, field(1, pair("BearerToken", ""))),
            field(13, field(1, pair("BearerToken", field(2, key.concat())))),
            far(16, pair("x-own", any("{\"a\":[\"b\",1]}\n"))),
        ];
        assert_eq!(written(Edition::V2, &document), expected.concat());
    }

    #[test]
    fn a_definition_with_all_that_clients_read() {
        let document = json!({ "definitions": { "A": {
            "description": "d", "type": "object", "required": ["n"],
            "properties": {
                "l": { "type": "array", "items": { "$ref": "#/definitions/B" } },
                "m": { "additionalProperties": false },
                "n": { "format": "int32", "minimum": 1.5, "maxLength": 300, "uniqueItems": true },
            },
            "x-kubernetes-group-version-kind": [{ "group": "", "kind": "A", "version": "v1" }],
        } } });
        let list = [
            far(22, field(1, "array")),
            far(23, field(1, field(1, "#/definitions/B"))),
        ];
        // False is said, since nothing at all would mean neither.
        let map = far(21, [2_u8 << 3, 0]);
        let number = [
            field(2, "int32"),
            [vec![(9 << 3) | 1], 1.5f64.to_le_bytes().to_vec()].concat(),
            vec![11 << 3, 0xac, 0x02],
            vec![0x80, 0x01, 1],
        ];
        let properties = [
            field(1, pair("l", list.concat())),
            field(1, pair("m", map)),
            field(1, pair("n", number.concat())),
        ];
        let kind = any("[{\"group\":\"\",\"kind\":\"A\",\"version\":\"v1\"}]\n");
        let schema = [
            field(4, "d"),
            far(19, "n"),
            far(22, field(1, "object")),
            far(25, properties.concat()),
            far(31, pair("x-kubernetes-group-version-kind", kind)),
        ]
        .concat();
        // Longer than 127 bytes: its length takes two.
        let length = |n: usize| {
            let n = u8::try_from(n - 128).expect("between 128 and 255");
            assert!(n < 128);
            [n | 0x80, 1]
        };
        let value = [&[(2 << 3) | 2][..], &length(schema.len()), &schema].concat();
        let named = [field(1, "A"), value].concat();
        let named = [&[(1 << 3) | 2][..], &length(named.len()), &named].concat();
        let expected = [&[(9 << 3) | 2][..], &length(named.len()), &named].concat();
        assert_eq!(written(Edition::V2, &document), expected);
    }

    #[test]
    fn a_parameter_is_what_its_place_says() {
        let get = json!({
            "parameters": [
                { "$ref": "#/parameters/p" },
                { "in": "body", "name": "b", "required": true, "schema": {} },
                { "in": "query", "name": "q", "type": "string" },
                { "in": "path", "name": "p", "type": "string" },
            ],
            "responses": {
                "200": { "description": "OK", "schema": { "type": "string" } },
                "default": { "$ref": "#/responses/r" },
            },
        });
        let body = [
            field(2, "b"),
            field(3, "body"),
            vec![4 << 3, 1],
            field(5, ""),
        ];
        let query = [field(2, "query"), field(4, "q"), field(6, "string")];
        let path = [field(2, "path"), field(4, "p"), field(5, "string")];
        let parameters = [
            field(2, field(1, "#/parameters/p")),
            field(1, field(1, body.concat())),
            field(1, field(2, field(3, query.concat()))),
            field(1, field(2, field(4, path.concat()))),
        ];
        let response = [
            field(1, "OK"),
            field(2, field(1, far(22, field(1, "string")))),
        ];
        let responses = [
            field(1, pair("200", field(1, response.concat()))),
            field(1, pair("default", field(2, field(1, "#/responses/r")))),
        ];
        let parameters: Vec<u8> = parameters.iter().flat_map(|p| field(8, p)).collect();
        let operation = [parameters, field(9, responses.concat())].concat();
        assert_eq!(message::written(&v2::OPERATION, &get), operation);
    }

    #[test]
    fn the_third_edition_has_numbers_of_its_own() {
        let document = json!({
            "openapi": "3.0.0",
            "info": { "title": "T", "version": "v1" },
            "components": { "schemas": {
                "A": { "description": "d", "default": "", "nullable": true, "type": "object" },
                "B": { "$ref": "#/components/schemas/A" },
            } },
        });
        let a = [
            vec![1 << 3, 1],
            far(25, "object"),
            // 33, in which text is 3, and 34.
            vec![0x8a, 2, 2, (3 << 3) | 2, 0],
            vec![0x92, 2, 1, b'd'],
        ];
        let schemas = [
            field(1, pair("A", field(1, a.concat()))),
            field(1, pair("B", field(2, field(1, "#/components/schemas/A")))),
        ];
        let expected = [
            field(1, "3.0.0"),
            field(2, [field(1, "T"), field(6, "v1")].concat()),
            field(5, field(1, schemas.concat())),
        ];
        assert_eq!(written(Edition::V3, &document), expected.concat());
    }
}
