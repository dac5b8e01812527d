//! What the stories have in common: an administrator who asks again until it works, objects, and
//! waiting until nothing is lacking.
#![allow(dead_code, reason = "each story uses some of it")]

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use sim::Failed;

/// The objects of the story, by kind.
pub struct Admin {
    pub client: Client,
}

pub fn kind(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Asks again until it works.
pub async fn patiently<T, F: Future<Output = kube::Result<T>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(done) => return done,
            Err(e) => {
                // What the story asks for is at fault then.
                assert!(!has_code(&e, 400) && !has_code(&e, 422), "{e}");
                tracing::debug!("asked again: {e}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

pub fn has_code(e: &kube::Error, code: u16) -> bool {
    matches!(e, kube::Error::Api(e) if e.code == code)
}

impl Admin {
    fn of(&self, what: &str) -> Api<DynamicObject> {
        self.within("default", what)
    }

    /// The objects of a kind in another namespace.
    pub fn within(&self, namespace: &str, what: &str) -> Api<DynamicObject> {
        let resource = match what {
            "Deployment" | "StatefulSet" | "ReplicaSet" | "DaemonSet" | "ControllerRevision" => {
                kind("apps", "v1", what)
            }
            "Job" | "CronJob" => kind("batch", "v1", what),
            "EndpointSlice" => kind("discovery.k8s.io", "v1", what),
            "PodDisruptionBudget" => kind("policy", "v1", what),
            "PriorityClass" => kind("scheduling.k8s.io", "v1", what),
            "PodGroup" => kind("scheduling.k8s.io", "v1alpha2", what),
            "StorageClass" => kind("storage.k8s.io", "v1", what),
            "HorizontalPodAutoscaler" => kind("autoscaling", "v2", what),
            "DeviceClass" | "ResourceSlice" | "ResourceClaim" | "ResourceClaimTemplate" => {
                kind("resource.k8s.io", "v1", what)
            }
            _ => kind("", "v1", what),
        };
        let whole = [
            "Node",
            "Namespace",
            "PriorityClass",
            "PersistentVolume",
            "StorageClass",
            "DeviceClass",
            "ResourceSlice",
        ];
        if whole.contains(&what) {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    pub async fn create(&self, what: &str, object: Value) {
        self.create_within("default", what, object).await;
    }

    pub async fn create_within(&self, namespace: &str, what: &str, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let api = self.within(namespace, what);
        patiently(|| async {
            match api.create(&PostParams::default(), &object).await {
                Err(e) if has_code(&e, 409) => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    pub async fn patch(&self, what: &str, name: &str, patch: &Value) {
        let (api, params) = (self.of(what), PatchParams::default());
        patiently(|| async {
            match api.patch(name, &params, &Patch::Merge(patch)).await {
                Err(e) if has_code(&e, 404) => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    pub async fn delete(&self, what: &str, name: &str, params: &DeleteParams) {
        let api = self.of(what);
        patiently(|| async {
            match api.delete(name, params).await {
                Err(e) if has_code(&e, 404) => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    pub async fn get(&self, what: &str, name: &str) -> Option<DynamicObject> {
        let api = self.of(what);
        patiently(|| api.get_opt(name)).await
    }

    pub async fn list(&self, what: &str) -> Vec<DynamicObject> {
        let api = self.of(what);
        patiently(|| async { Ok(api.list(&ListParams::default()).await?.items) }).await
    }

    /// Asks once whether a pod may go; a budget may say no.
    pub async fn evict(&self, name: &str) {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        if let Err(e) = pods.evict(name, &EvictParams::default()).await {
            tracing::debug!("not evicted: {e}");
        }
    }

    pub async fn pods(&self) -> Vec<Pod> {
        let api: Api<Pod> = Api::default_namespaced(self.client.clone());
        patiently(|| async { Ok(api.list(&ListParams::default()).await?.items) }).await
    }
}

pub fn pod(app: &str, image: &str, restart: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "automountServiceAccountToken": false, "restartPolicy": restart,
            "terminationGracePeriodSeconds": 10,
            "containers": [{
                "name": "c", "image": image,
                "resources": { "requests": { "cpu": "400m", "memory": "64Mi" } },
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
            }],
            "volumes": [{ "name": "v", "configMap": { "name": "settings" } }],
        },
    })
}

pub fn workload(name: &str, replicas: u64, image: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "serviceName": name, "template": pod(name, image, "Always"),
        },
    })
}

pub fn job(name: &str, image: &str, completions: u64, indexed: bool) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "completions": completions, "parallelism": 3, "backoffLimit": 1000,
            "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
            "template": pod(name, image, "Never"),
        },
    })
}

pub fn number(object: Option<&DynamicObject>, pointer: &str) -> u64 {
    let value = object.and_then(|o| o.data.pointer(pointer));
    value.and_then(Value::as_u64).unwrap_or(0)
}

pub fn has_condition(object: Option<&DynamicObject>, kind: &str) -> bool {
    let all = object.and_then(|o| o.data.pointer("/status/conditions"));
    let mut all = all.and_then(Value::as_array).into_iter().flatten();
    all.any(|c| c["type"] == kind && c["status"] == "True")
}

/// Waits until nothing is lacking.
pub async fn settle<F: Future<Output = Vec<String>>>(
    what: &str,
    most: Duration,
    lacking: impl Fn() -> F,
) -> Result<(), Failed> {
    let end = clock::Instant::now() + most;
    loop {
        let all = lacking().await;
        if all.is_empty() {
            return Ok(());
        }
        if clock::Instant::now() > end {
            return Err(Failed(format!("{what}: not within {most:?}: {all:#?}")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
