//! An object as the server wrote it. Lists and watches are the same for every kind, and only what
//! they bring ends in a type: so what lists, watches and begins again works on these, and is compiled
//! once and not for each of a hundred kinds; and a kind is decoded from text, never from what
//! serde keeps of a value whose type it does not know yet. Who set which field nobody reads who lists and
//! watches, and as trees these records cost more than the rest of most objects: they are cut out of the
//! text.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Its text without managed fields, and of its metadata what a watch goes on from: the resourceVersion
/// alone. `METADATA` is whether objects' metadata alone is asked for.
#[derive(Debug, Clone)]
pub struct Raw<const METADATA: bool> {
    text: Box<str>,
    meta: ObjectMeta,
}

impl<const METADATA: bool> Raw<METADATA> {
    /// The object, as a type.
    pub fn decode<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_str(&self.text)
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Parts<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts<'a> {
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default, borrow)]
    managed_fields: Option<&'a RawValue>,
}

/// The text with nothing in the place of a part of it, which is a value in it.
fn without(text: &str, part: &str) -> Option<Box<str>> {
    let from = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let (before, after) = (text.get(..from)?, text.get(from + part.len()..)?);
    Some([before, "null", after].concat().into_boxed_str())
}

impl<'de, const METADATA: bool> Deserialize<'de> for Raw<METADATA> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let text = text.get();
        let Head { metadata } = serde_json::from_str(text).map_err(D::Error::custom)?;
        let managed = metadata.managed_fields.map(RawValue::get);
        let meta = ObjectMeta {
            resource_version: metadata.resource_version,
            ..ObjectMeta::default()
        };
        let rest = managed.and_then(|managed| without(text, managed));
        let text = rest.unwrap_or_else(|| text.into());
        Ok(Self { text, meta })
    }
}

impl<const METADATA: bool> Serialize for Raw<METADATA> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: &RawValue = serde_json::from_str(&self.text).map_err(S::Error::custom)?;
        text.serialize(serializer)
    }
}

/// Which objects: their path on the server.
#[derive(Debug, Clone)]
pub struct Path(pub String);

impl<const METADATA: bool> Resource for Raw<METADATA> {
    type DynamicType = Path;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(_: &Path) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
    fn group(_: &Path) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
    fn version(_: &Path) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
    fn plural(_: &Path) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
    fn metadata_api() -> bool {
        METADATA
    }
    fn url_path(path: &Path, _: Option<&str>) -> String {
        path.0.clone()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{ObjectList, WatchEvent};

    use super::*;

    type Object = Raw<false>;

    #[test]
    fn the_text_of_events_and_lists_becomes_a_type_later() {
        let line = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"7"},
            "data":{"key":"\"resourceVersion\":\"8\""}}}"#;
        let event: WatchEvent<Object> = serde_json::from_str(line).unwrap();
        let WatchEvent::Modified(raw) = event else {
            panic!("{event:?}");
        };
        assert_eq!(raw.meta().resource_version.as_deref(), Some("7"));
        let map: ConfigMap = raw.decode().unwrap();
        assert_eq!(map.data.unwrap()["key"], "\"resourceVersion\":\"8\"");

        let list = r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"9"},
            "items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}"#;
        let list: ObjectList<Object> = serde_json::from_str(list).unwrap();
        let names = list.items.iter().map(|raw| raw.decode::<ConfigMap>());
        let names: Vec<_> = names.map(|map| map.unwrap().metadata.name).collect();
        assert_eq!(names, [Some("a".to_owned()), Some("b".to_owned())]);
    }

    #[test]
    fn managed_fields_are_left_out_and_nothing_else_of_that_name() {
        let line = r#"{"type":"ADDED","object":{"kind":"ConfigMap","metadata":{"name":"a","managedFields":
            [{"manager":"m","fieldsV1":{"f:data":{"f:\"}]":{}}}}],"annotations":{"managedFields":"mine"},
            "resourceVersion":"7"},"data":{"managedFields":"[]"}}}"#;
        let event: WatchEvent<Object> = serde_json::from_str(line).unwrap();
        let WatchEvent::Added(raw) = event else {
            panic!("{event:?}");
        };
        assert!(!raw.text.contains("fieldsV1"), "{raw:?}");
        assert_eq!(raw.meta().resource_version.as_deref(), Some("7"));
        let map: ConfigMap = raw.decode().unwrap();
        assert_eq!(map.metadata.managed_fields, None);
        assert_eq!(map.metadata.annotations.unwrap()["managedFields"], "mine");
        assert_eq!(map.data.unwrap()["managedFields"], "[]");
        assert_eq!(serde_json::to_string(&raw).unwrap(), *raw.text);
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in [
            r#"{"type":"ADDED","object":"text"}"#,
            r#"{"type":"ADDED","object":{"metadata":{"resourceVersion":7}}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"#,
            r#"{"object":{"metadata":{}},"type":"ADDED"}"#,
        ] {
            assert!(
                serde_json::from_str::<WatchEvent<Object>>(text).is_err(),
                "{text}"
            );
        }
    }
}
