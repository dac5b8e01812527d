//! Which of the runtime's handlers a pod's sandbox is made by.

use super::spec;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;

/// The handler of the pod's RuntimeClass; empty for the default one.
///
/// # Errors
/// The class cannot be read.
pub async fn of(client: &kube::Client, pod: &Pod) -> Result<String, String> {
    let name = spec::of(pod).runtime_class_name.as_deref();
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(String::new());
    };
    let classes = kube::Api::<RuntimeClass>::all(client.clone());
    let found = classes.get(name).await;
    found
        .map(|class| class.handler)
        .map_err(|e| format!("failed to get RuntimeClass {name:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::testing::Api;
    use serde_json::json;

    #[tokio::test]
    async fn a_class_names_a_handler() {
        let api = Api::default();
        let class = json!({ "metadata": { "name": "safe" }, "handler": "gvisor" });
        api.put("/apis/node.k8s.io/v1/runtimeclasses/safe", class);
        let client = api.client();
        for (class, want) in [
            ("", Ok("")),
            ("safe", Ok("gvisor")),
            ("none", Err("\"none\"")),
        ] {
            let pod = json!({ "spec": { "runtimeClassName": class, "containers": [] } });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            match (of(&client, &pod).await, want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want),
                (Err(found), Err(want)) => assert!(found.contains(want), "{found}"),
                (found, _) => panic!("{class}: {found:?}"),
            }
        }
    }
}
