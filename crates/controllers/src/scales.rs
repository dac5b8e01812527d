//! Scales of whatever kind the server serves them for, as autoscalers and disruption budgets read
//! them, and the few words of HTTP that asking takes.

use api::percent::encoded_part;
use client::discovery::{Discovery, Served};
use http::Request;
use kube::Client;
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the server answers at a path.
pub async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, kube::Error> {
    let request = Request::get(path).body(Vec::new());
    client
        .request(request.map_err(kube::Error::HttpError)?)
        .await
}

/// The path of a namespace in a version of an API.
pub fn root(api_version: &str, namespace: &str) -> String {
    let root = if api_version.contains('/') {
        "/apis"
    } else {
        "/api"
    };
    format!("{root}/{api_version}/namespaces/{namespace}")
}

/// The resource of a kind, as the server serves it.
pub async fn served(
    discovery: &Discovery,
    api_version: &str,
    kind: &str,
) -> Result<Served, String> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    if api_version.matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {api_version}"));
    }
    let found = discovery.ask().await.map_err(|e| e.to_string())?;
    let mut all = found.served.iter();
    let is = |s: &&Served| s.resource.group == group && s.resource.kind == kind;
    all.find(is)
        .cloned()
        .ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))
}

/// A resource as messages name it.
pub fn name_of(resource: &ApiResource) -> String {
    match resource.group.as_str() {
        "" => resource.plural.clone(),
        group => format!("{}.{group}", resource.plural),
    }
}

/// The scale of an object.
pub async fn scale(
    client: &Client,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
) -> Result<Value, kube::Error> {
    let root = root(&resource.api_version, namespace);
    let path = format!("{root}/{}/{}/scale", resource.plural, encoded_part(name));
    get(client, &path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_of_the_core_group_have_no_group() {
        assert_eq!(root("v1", "n"), "/api/v1/namespaces/n");
        assert_eq!(root("a.b/v1", "n"), "/apis/a.b/v1/namespaces/n");
        let resource = |group: &str| ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: "Job".to_owned(),
            plural: "jobs".to_owned(),
        };
        assert_eq!(name_of(&resource("")), "jobs");
        assert_eq!(name_of(&resource("batch")), "jobs.batch");
    }
}
