//! A stored object as a write takes it up. Its managed fields, half of what a pod is stored as,
//! are not parsed: most writes change the fields of one manager, or of none.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// See the module.
#[derive(Default)]
pub struct Live {
    /// The object with its resourceVersion, without managed fields.
    pub value: Value,
    /// The managed fields as they are stored: a JSON list, or nothing.
    pub managed: Bytes,
}

/// Parses an object; its managed fields are given apart, as they are.
pub(super) fn read(json: &Bytes) -> serde_json::Result<(Value, Bytes)> {
    let mut input = serde_json::Deserializer::from_slice(json);
    let mut managed = None;
    let value = input.deserialize_map(Members {
        managed: &mut managed,
        are_metadata: false,
    })?;
    input.end()?;
    let managed = managed.map_or_else(Bytes::new, |raw: &RawValue| {
        json.slice_ref(raw.get().as_bytes())
    });
    Ok((value, managed))
}

/// Reads the members of the object, or those of its metadata.
struct Members<'m, 'de> {
    managed: &'m mut Option<&'de RawValue>,
    are_metadata: bool,
}

impl<'de> serde::de::DeserializeSeed<'de> for Members<'_, 'de> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            match name.as_str() {
                "metadata" if !self.are_metadata => {
                    let meta = Members {
                        managed: &mut *self.managed,
                        are_metadata: true,
                    };
                    map.insert(name, members.next_value_seed(meta)?);
                }
                "managedFields" if self.are_metadata => {
                    *self.managed = Some(members.next_value()?);
                }
                _ => {
                    map.insert(name, members.next_value()?);
                }
            }
        }
        Ok(Value::Object(map))
    }
}
