//! The kind `Site` in two versions, as kube derives its definition from Rust types, and what it
//! means to be converted from one into the other.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use kube::core::crd::merge_crds;
use serde_json::{Map, Value, json};

pub const GROUP: &str = "programs.example.com";
/// Where an object of the old version keeps what only the new one can say.
pub const KEPT: &str = "programs.example.com/kept";

/// The version that is stored.
pub mod v1 {
    use super::BTreeMap;
    use kube::{CustomResource, KubeSchema};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// Pages that some servers show.
    #[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[kube(
        group = "programs.example.com",
        version = "v1",
        kind = "Site",
        namespaced,
        status = "SiteStatus",
        derive = "PartialEq",
        shortname = "st",
        category = "programs",
        selectable = ".spec.title",
        scale(
            spec_replicas_path = ".spec.replicas",
            status_replicas_path = ".status.replicas",
            label_selector_path = ".status.selector"
        ),
        printcolumn(name = "Title", type_ = "string", json_path = ".spec.title"),
        printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
        validation = "self.spec.tier != 'Free' || self.spec.replicas <= 2"
    )]
    #[serde(rename_all = "camelCase")]
    pub struct SiteSpec {
        /// What the site is called.
        #[schemars(length(min = 1, max = 60))]
        pub title: String,
        /// Text by the name of its page.
        #[serde(default)]
        pub pages: BTreeMap<String, String>,
        /// How many servers show it.
        #[serde(default = "one")]
        #[schemars(range(min = 0, max = 10))]
        pub replicas: i32,
        /// What it may use.
        #[serde(default)]
        pub tier: Tier,
        /// Who owns it; it never changes hands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[x_kube(validation = "self == oldSelf")]
        pub owner: Option<String>,
        /// Where it is found.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
        pub domains: Vec<Domain>,
    }

    fn one() -> i32 {
        1
    }

    #[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, JsonSchema)]
    pub enum Tier {
        Free,
        #[default]
        Paid,
    }

    #[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub struct Domain {
        pub name: String,
        #[serde(default)]
        pub aliases: Vec<String>,
    }

    #[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub struct SiteStatus {
        #[serde(default)]
        pub replicas: i32,
        #[serde(default)]
        pub ready: i32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub observed_generation: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub selector: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub conditions: Vec<SiteCondition>,
    }

    #[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub struct SiteCondition {
        #[serde(rename = "type")]
        pub kind: String,
        pub status: String,
        pub reason: String,
    }
}

/// The version that came first: one page, and no domains.
pub mod v1alpha1 {
    use kube::CustomResource;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// One page that some servers show.
    #[derive(CustomResource, Serialize, Deserialize, Clone, Debug, JsonSchema)]
    #[kube(
        group = "programs.example.com",
        version = "v1alpha1",
        kind = "Site",
        namespaced,
        shortname = "st",
        category = "programs",
        status = "super::v1::SiteStatus"
    )]
    #[serde(rename_all = "camelCase")]
    pub struct SiteSpec {
        pub name: String,
        #[serde(default)]
        pub text: String,
        #[serde(default)]
        pub servers: i32,
    }
}

/// The definition with both versions, converted by a webhook.
///
/// # Errors
/// When the derived definitions do not fit together.
pub fn definition(url: &str, bundle: &str) -> Result<CustomResourceDefinition> {
    let both = vec![v1alpha1::Site::crd(), v1::Site::crd()];
    let mut merged = serde_json::to_value(merge_crds(both, "v1")?)?;
    let client = json!({ "url": url, "caBundle": bundle });
    merged["spec"]["conversion"] = json!({ "strategy": "Webhook",
        "webhook": { "clientConfig": client, "conversionReviewVersions": ["v1"] } });
    Ok(serde_json::from_value(merged)?)
}

/// The object in another version.
///
/// # Errors
/// When the object is none of this kind, or the version none of it.
pub fn convert(object: &Value, version: &str) -> Result<Value> {
    let mut out = object.clone();
    out["apiVersion"] = version.into();
    let spec = object["spec"].as_object().context("no spec")?;
    let from = object["apiVersion"].as_str().context("no apiVersion")?;
    let (old, new) = (format!("{GROUP}/v1alpha1"), format!("{GROUP}/v1"));
    match (from, version) {
        (from, to) if from == to => {}
        (from, to) if from == old && to == new => {
            let kept = out["metadata"]["annotations"]
                .as_object_mut()
                .and_then(|all| all.remove(KEPT));
            let kept = kept.and_then(|v| serde_json::from_str(v.as_str()?).ok());
            out["spec"] = newer(spec, kept.unwrap_or_default());
            drop_empty_annotations(&mut out);
        }
        (from, to) if from == new && to == old => {
            let mut rest = spec.clone();
            let mut index = Value::Null;
            if let Some(pages) = rest.get_mut("pages").and_then(Value::as_object_mut) {
                index = pages.remove("index").unwrap_or_default();
            }
            let title = rest.remove("title").unwrap_or_default();
            let servers = rest.remove("replicas").unwrap_or_default();
            out["spec"] = json!({ "name": title, "text": index.as_str().unwrap_or_default(),
                "servers": servers.as_i64().unwrap_or_default() });
            if !out["metadata"]["annotations"].is_object() {
                out["metadata"]["annotations"] = json!({});
            }
            out["metadata"]["annotations"][KEPT] = Value::Object(rest).to_string().into();
        }
        (from, to) => bail!("{from} is not converted into {to}"),
    }
    Ok(out)
}

fn newer(old: &Map<String, Value>, mut kept: Map<String, Value>) -> Value {
    let of = |field: &str| old.get(field).cloned().unwrap_or_default();
    if of("text").as_str().is_some_and(|text| !text.is_empty()) {
        let pages = kept.entry("pages").or_insert_with(|| json!({}));
        pages["index"] = of("text");
    }
    kept.insert("title".into(), of("name"));
    kept.insert("replicas".into(), of("servers"));
    kept.into()
}

/// An object that never had annotations has none afterwards.
fn drop_empty_annotations(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut()
        && metadata
            .get("annotations")
            .and_then(Value::as_object)
            .is_some_and(Map::is_empty)
    {
        metadata.remove("annotations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_old_version_cannot_say_is_kept() {
        let new = json!({ "apiVersion": "programs.example.com/v1", "kind": "Site",
            "metadata": { "name": "a" },
            "spec": { "title": "A", "pages": { "index": "x", "more": "y" }, "replicas": 2,
                "tier": "Free", "domains": [{ "name": "a.example", "aliases": [] }] } });
        let old = convert(&new, "programs.example.com/v1alpha1").expect("older");
        assert_eq!(
            old["spec"],
            json!({ "name": "A", "text": "x", "servers": 2 })
        );
        assert_eq!(
            convert(&old, "programs.example.com/v1").expect("newer"),
            new
        );
        assert!(convert(&new, "programs.example.com/v2").is_err());
    }

    #[test]
    fn the_derived_definition_has_both_versions() {
        let made = definition("https://127.0.0.1:1/convert", "").expect("definition");
        let names: Vec<_> = made.spec.versions.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["v1", "v1alpha1"]);
    }
}
