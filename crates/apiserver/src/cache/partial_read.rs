//! An object read as far as selection needs it: labels, and values at paths. What is long in an
//! object (managed fields, lists, annotations) is skipped without being built.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads JSON without what no selector can name: of the metadata all but name, namespace and
/// labels, and of every list all but its first item.
///
/// # Errors
/// It is not JSON.
pub(super) fn read(json: &[u8]) -> serde_json::Result<Value> {
    let mut input = serde_json::Deserializer::from_slice(json);
    let value = Part::Object.deserialize(&mut input)?;
    input.end()?;
    Ok(value)
}

/// Where in the object the reader is.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
    Other,
}

impl Part {
    /// What a member is read as; `None` for one that is skipped.
    fn member(self, name: &str) -> Option<Self> {
        match self {
            Self::Object if name == "metadata" => Some(Self::Metadata),
            Self::Metadata if !matches!(name, "name" | "namespace" | "labels") => None,
            _ => Some(Self::Other),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let first = items.next_element_seed(Self::Other)?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(first.into_iter().collect()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            match self.member(&name) {
                Some(part) => {
                    map.insert(name, members.next_value_seed(part)?);
                }
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_selectors_name_is_read_and_the_rest_is_skipped() {
        let object = json!({
            "kind": "Pod",
            "metadata": { "name": "a", "namespace": "b", "labels": { "x": "y" },
                "managedFields": [{ "manager": "m" }], "annotations": { "long": "text" } },
            "spec": { "nodeName": "n", "priority": -5, "hostNetwork": true,
                "containers": [{ "name": "c" }, { "name": "d" }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] },
        });
        let read = read(object.to_string().as_bytes()).expect("JSON");
        assert_eq!(
            read,
            json!({
                "kind": "Pod",
                "metadata": { "name": "a", "namespace": "b", "labels": { "x": "y" } },
                "spec": { "nodeName": "n", "priority": -5, "hostNetwork": true,
                    "containers": [{ "name": "c" }] },
                "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }] },
            })
        );
        assert!(super::read(b"{\"a\":1} x").is_err());
    }
}
