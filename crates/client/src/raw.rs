//! An object as the server wrote it. Lists and watches are the same for every kind, and only what
//! they bring ends in a type: so what lists, watches and begins again works on these, and is compiled
//! once and not for each of a hundred kinds; and a kind is decoded from text, never from what
//! serde keeps of a value whose type it does not know yet.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Its text, and of its metadata what a watch goes on from: the resourceVersion alone. `METADATA` is
/// whether objects' metadata alone is asked for.
#[derive(Debug, Clone)]
pub struct Raw<const METADATA: bool> {
    text: Box<RawValue>,
    meta: ObjectMeta,
}

impl<const METADATA: bool> Raw<METADATA> {
    /// The object, as a type.
    pub fn decode<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_str(self.text.get())
    }
}

#[derive(Deserialize)]
struct Head {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    #[serde(default)]
    resource_version: Option<String>,
}

impl<'de, const METADATA: bool> Deserialize<'de> for Raw<METADATA> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let head: Head = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let meta = ObjectMeta {
            resource_version: head.metadata.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Self { text, meta })
    }
}

impl<const METADATA: bool> Serialize for Raw<METADATA> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
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
