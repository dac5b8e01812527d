//! Objects of any kind, made and deleted by whatever the server says that their kinds are.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, oneshot};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::event::{Named, Scale};

/// Until a new namespace has its service account, without which pods are refused; until a new kind is
/// served.
const SETTLES: Duration = Duration::from_secs(1);

/// Makes, scales and deletes objects.
pub(super) struct Objects {
    client: Client,
    known: BTreeMap<(String, String), (ApiResource, bool)>,
}

/// What kept an object from being made, with its place in the file.
pub(super) type Refused = String;

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

impl Objects {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: BTreeMap::new(),
        }
    }

    /// The resource of a kind, and whether its objects lie in namespaces.
    async fn resource(
        &mut self,
        version: &str,
        kind: &str,
    ) -> Result<(ApiResource, bool), Refused> {
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, short, kind);
        let found = oneshot::pinned_kind(&self.client, &kind).await;
        let (resource, about) =
            found.map_err(|_| format!("no kind {} in {version} is served", kind.kind))?;
        let known = (resource, about.scope == Scope::Namespaced);
        self.known.insert(key, known.clone());
        Ok(known)
    }

    fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Makes an object; the namespace that it lies in, too, if there is none. `suffix` comes to the
    /// end of its name.
    pub async fn create(
        &mut self,
        path: &str,
        object: &Value,
        suffix: &str,
    ) -> Result<(), Refused> {
        let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
        let found = self.resource(version, kind).await;
        let (resource, namespaced) = found.map_err(|e| format!("{path}: {e}"))?;
        let mut object = object.clone();
        let name = format!("{}{suffix}", text(&object, "/metadata/name"));
        object["metadata"]["name"] = json!(name);
        let namespace = match text(&object, "/metadata/namespace") {
            "" => "default".to_owned(),
            given => given.to_owned(),
        };
        let namespace = namespaced.then_some(namespace);
        if let Some(namespace) = &namespace {
            object["metadata"]["namespace"] = json!(namespace);
            self.namespace(namespace)
                .await
                .map_err(|e| format!("{path}: {e}"))?;
        }
        let told = |e: String| format!("{path}: {kind} {name}: {e}");
        let api = self.api(&resource, namespace.as_deref());
        // A field that is misspelt would make another cluster of it, without a word.
        let place = format!("{}?fieldValidation=Strict", api.resource_url());
        let request = http::Request::post(place)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes());
        let request = request.map_err(|e| told(e.to_string()))?;
        let made = self.client.request::<Value>(request).await;
        made.map_err(|e| told(client::said(&e)))?;
        if matches!(kind, "Namespace" | "CustomResourceDefinition") {
            tokio::time::sleep(SETTLES).await;
        }
        Ok(())
    }

    async fn namespace(&mut self, name: &str) -> Result<(), Refused> {
        if name == "default" {
            return Ok(());
        }
        let (resource, _) = self.resource("v1", "Namespace").await?;
        let api = self.api(&resource, None);
        let new = DynamicObject::new(name, &resource);
        match api.create(&PostParams::default(), &new).await {
            Ok(_) => {
                tokio::time::sleep(SETTLES).await;
                Ok(())
            }
            Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
            Err(e) => Err(client::said(&e)),
        }
    }

    pub async fn delete(&mut self, path: &str, what: &Named) -> Result<(), Refused> {
        let found = self.resource(&what.api_version, &what.kind).await;
        let (resource, namespaced) = found.map_err(|e| format!("{path}: {e}"))?;
        let api = self.api(&resource, namespaced.then_some(what.namespace.as_str()));
        let deleted = api.delete(&what.name, &DeleteParams::background()).await;
        let told = |e| format!("{path}: {} {}: {}", what.kind, what.name, client::said(&e));
        deleted.map(drop).map_err(told)
    }

    pub async fn scale(&mut self, path: &str, to: &Scale) -> Result<(), Refused> {
        let found = self.resource("apps/v1", &to.kind).await;
        let (resource, _) = found.map_err(|e| format!("{path}: {e}"))?;
        let api = self.api(&resource, Some(&to.namespace));
        let patch = Patch::Merge(json!({ "spec": { "replicas": to.replicas } }));
        let scaled = api.patch(&to.name, &PatchParams::default(), &patch).await;
        let told = |e| format!("{path}: {} {}: {}", to.kind, to.name, client::said(&e));
        scaled.map(drop).map_err(told)
    }
}
