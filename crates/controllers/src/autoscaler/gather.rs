//! What an autoscaler asks the API for: the scale of its target, and its metrics from
//! metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io.

use std::collections::BTreeMap;

use api::percent::encoded_part;
use client::discovery::Discovery;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, MetricIdentifier, MetricSpec,
};
use kube::Client;
use serde::Deserialize;

use super::plan::{Sample, Scale};
use super::replicas::{Measured, Measures};
use crate::common::{key_of, value_of};
use crate::scales::{self, get, root};

/// A metric of somebody else's that does not say how long it was measured. Upstream's value.
const WINDOW_MILLIS: i64 = 60_000;
/// Versions of the APIs of metrics, the best first.
const CUSTOM: &[&str] = &["v1beta2", "v1beta1"];

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, api::Quantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Option<Named>,
    timestamp: Timestamp,
    #[serde(default, alias = "window")]
    window_seconds: Option<i64>,
    value: api::Quantity,
}

/// The scale of what an autoscaler scales, or why there is none.
pub async fn scale(
    client: &Client,
    discovery: &Discovery,
    hpa: &HorizontalPodAutoscaler,
) -> Result<Scale, String> {
    let of = &hpa.spec.scale_target_ref;
    let version = of.api_version.as_deref().unwrap_or_default();
    let resource = scales::served(discovery, version, &of.kind).await?.resource;
    let (namespace, _) = key_of(hpa);
    let found = scales::scale(client, &resource, &namespace, &of.name).await;
    let object = found.map_err(|e| client::said(&e))?;
    Ok(Scale { resource, object })
}

/// One metric, or why it is not known.
pub async fn sample(
    client: &Client,
    discovery: &Discovery,
    namespace: &str,
    selector: &str,
    spec: &MetricSpec,
) -> Result<Sample, String> {
    if let Some(resource) = &spec.resource {
        let found = pods(client, namespace, selector, &resource.name, None).await;
        return found
            .map(Sample::Pods)
            .map_err(|e| of_resource(&resource.name, &e));
    }
    if let Some(resource) = &spec.container_resource {
        let (name, container) = (&resource.name, Some(resource.container.as_str()));
        let found = pods(client, namespace, selector, name, container).await;
        return found.map(Sample::Pods).map_err(|e| of_resource(name, &e));
    }
    if let Some(pods) = &spec.pods {
        let name = &pods.metric.name;
        let path = format!("pods/%2A/{}", encoded_part(name));
        let query = format!(
            "labelSelector={}&{}",
            encoded_part(selector),
            query_of(&pods.metric)?
        );
        let found = custom(client, namespace, &path, &query).await;
        let found = found.map_err(|e| format!("unable to get metric {name}: {e}"))?;
        let by_name = found.into_iter().filter_map(|v| {
            let seconds = v.window_seconds.map(|s| s.saturating_mul(1_000));
            let measured = Measured {
                millis: v.value.milli_value(),
                at_millis: v.timestamp.as_millisecond(),
                window_millis: seconds.unwrap_or(WINDOW_MILLIS),
            };
            Some((v.described_object?.name, measured))
        });
        return Ok(Sample::Pods(by_name.collect()));
    }
    if let Some(object) = &spec.object {
        let (of, name) = (&object.described_object, &object.metric.name);
        let found = of_object(client, discovery, namespace, of, &object.metric).await;
        let value = found.map_err(|e| {
            format!(
                "unable to get metric {name}: {} on {namespace} {}/{e}",
                of.kind, of.name
            )
        })?;
        return Ok(Sample::Value(value));
    }
    if let Some(external) = &spec.external {
        let name = &external.metric.name;
        let found = of_outside(client, namespace, &external.metric).await;
        let wrong = |e| format!("unable to get external metric {namespace}/{name}: {e}");
        return found.map(Sample::Value).map_err(wrong);
    }
    Err(format!("unknown metric source type {:?}", spec.type_))
}

fn of_resource(name: &str, e: &str) -> String {
    format!("unable to get metrics for resource {name}: {e}")
}

async fn pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Measures, String> {
    let root = root("metrics.k8s.io/v1beta1", namespace);
    let path = format!("{root}/pods?labelSelector={}", encoded_part(selector));
    let found: List<PodMetrics> = get(client, &path).await.map_err(|e| {
        format!(
            "unable to fetch metrics from resource metrics API: {}",
            client::said(&e)
        )
    })?;
    if found.items.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    Ok(found
        .items
        .iter()
        .filter_map(|m| measured(m, resource, container))
        .collect())
}

/// One pod's use of a resource; none where a container's is not known.
fn measured(
    pod: &PodMetrics,
    resource: &str,
    container: Option<&str>,
) -> Option<(String, Measured)> {
    let wanted = pod
        .containers
        .iter()
        .filter(|c| container.is_none_or(|name| c.name == name));
    let used: Option<Vec<i64>> = wanted
        .map(|c| Some(c.usage.get(resource)?.milli_value()))
        .collect();
    let used = used.filter(|all| !all.is_empty())?;
    let window = pod.window.parse::<SignedDuration>().ok();
    let window = window.and_then(|w| i64::try_from(w.as_millis()).ok());
    let measured = Measured {
        millis: used.into_iter().fold(0, i64::saturating_add),
        at_millis: pod.timestamp.as_millisecond(),
        window_millis: window.unwrap_or(WINDOW_MILLIS),
    };
    Some((pod.metadata.name.clone(), measured))
}

/// The part of a query that selects series of a metric.
fn query_of(metric: &MetricIdentifier) -> Result<String, String> {
    Ok(match selector_text(metric)? {
        text if text.is_empty() => String::new(),
        text => format!("metricLabelSelector={}", encoded_part(&text)),
    })
}

/// Empty where all series are meant; one that cannot be read must not come to mean all.
fn selector_text(metric: &MetricIdentifier) -> Result<String, String> {
    let Some(selector) = &metric.selector else {
        return Ok(String::new());
    };
    api::LabelSelector::from_json(&value_of(selector)).map(|s| s.to_string())
}

/// Values of a custom metric, from the newest version that is served.
async fn custom(
    client: &Client,
    namespace: &str,
    path: &str,
    query: &str,
) -> Result<Vec<MetricValue>, String> {
    let mut last = String::new();
    for version in CUSTOM {
        let root = root(&format!("custom.metrics.k8s.io/{version}"), namespace);
        match get::<List<MetricValue>>(client, &format!("{root}/{path}?{query}")).await {
            Ok(found) if found.items.is_empty() => {
                return Err("no metrics returned from custom metrics API".into());
            }
            Ok(found) => return Ok(found.items),
            Err(e) => {
                last = client::said(&e);
                if !matches!(&e, kube::Error::Api(s) if s.code == 404) {
                    break;
                }
            }
        }
    }
    Err(format!(
        "unable to fetch metrics from custom metrics API: {last}"
    ))
}

async fn of_object(
    client: &Client,
    discovery: &Discovery,
    namespace: &str,
    of: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let version = of.api_version.as_deref().unwrap_or_default();
    let resource = scales::served(discovery, version, &of.kind).await?.resource;
    let resource = scales::name_of(&resource);
    let path = format!(
        "{resource}/{}/{}",
        encoded_part(&of.name),
        encoded_part(&metric.name)
    );
    let found = custom(client, namespace, &path, &query_of(metric)?).await?;
    let first = found.first().map(|v| v.value.milli_value());
    first.ok_or_else(|| "no metrics returned from custom metrics API".into())
}

async fn of_outside(
    client: &Client,
    namespace: &str,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let root = root("external.metrics.k8s.io/v1beta1", namespace);
    let selector = encoded_part(&selector_text(metric)?);
    let path = format!(
        "{root}/{}?labelSelector={selector}",
        encoded_part(&metric.name)
    );
    let found: List<MetricValue> = get(client, &path).await.map_err(|e| {
        format!(
            "unable to fetch metrics from external metrics API: {}",
            client::said(&e)
        )
    })?;
    if found.items.is_empty() {
        return Err("no metrics returned from external metrics API".into());
    }
    let values = found.items.iter().map(|v| v.value.milli_value());
    Ok(values.fold(0, i64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_whose_container_is_unknown_is_unknown() {
        let pod: PodMetrics = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "timestamp": "2026-01-02T03:04:05Z", "window": "15.5s",
            "containers": [
                {"name": "a", "usage": {"cpu": "250m", "memory": "1Mi"}},
                {"name": "b", "usage": {"cpu": "1500000n"}},
            ],
        }))
        .unwrap();
        let (name, cpu) = measured(&pod, "cpu", None).unwrap();
        assert_eq!(
            (name.as_str(), cpu.millis, cpu.window_millis),
            ("p", 252, 15_500)
        );
        assert!(measured(&pod, "memory", None).is_none());
        assert_eq!(
            measured(&pod, "memory", Some("a")).unwrap().1.millis,
            1_000 << 20
        );
        assert!(measured(&pod, "cpu", Some("none")).is_none());
    }
}
