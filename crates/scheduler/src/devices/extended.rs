//! Extended resources that device classes stand for: where a node has no plugin that offers one, a pod
//! that asks for an amount of it gets devices of the class. What it asks for becomes a claim of its
//! own, made before the pod is bound; which container has which request stands in the pod's status.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::store::Devices;
use crate::pod::{Amount, ExtendedRequests, Pod};

/// Marks such a claim.
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// The request by which a container gets a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub container: String,
    pub resource: String,
    pub request: String,
}

/// The claim for a pod's extended resources, as it is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtendedClaim {
    pub claim: Arc<k8s::ResourceClaim>,
    pub mappings: Vec<Mapping>,
}

/// The extended resources that a pod asks for and that a class stands for.
pub fn mapped<'a>(pod: &'a Pod, devices: &Devices) -> BTreeSet<&'a str> {
    let amounts = pod.wants.extended.iter().flat_map(|c| &c.amounts);
    let names = amounts.map(|a| a.resource.as_str());
    names
        .filter(|name| devices.class_of_resource(name).is_some())
        .collect()
}

/// A request for devices.
struct Request {
    name: String,
    class: String,
    count: i64,
}

/// The requests for one resource: how many devices, by which names, for which containers.
#[derive(Default)]
struct OfResource {
    requests: Vec<(String, i64)>,
    mappings: Vec<Mapping>,
}

impl OfResource {
    /// What containers get that run on has its request each. Init containers that end before others
    /// start use what those get that come after them, and together what is lacking of it at most.
    fn of(pod: &Pod, resource: &str) -> Self {
        let mut out = Self::default();
        let asked = pod.wants.extended.iter().filter_map(|container| {
            let mut amounts = container.amounts.iter();
            Some((container, amounts.find(|a| a.resource == resource)?))
        });
        let (ending, lasting): (Vec<_>, Vec<_>) = asked.partition(|(c, _)| c.ends);
        let name = |of: &ExtendedRequests, amount: &Amount| {
            format!("container-{}-request-{}", of.index, amount.nth)
        };
        let mapping = |of: &ExtendedRequests, request: &str| Mapping {
            container: of.container.clone(),
            resource: resource.to_owned(),
            request: request.to_owned(),
        };
        let mut kept: Vec<(usize, String, i64)> = Vec::new();
        for (container, amount) in lasting {
            let request = name(container, amount);
            out.mappings.push(mapping(container, &request));
            kept.push((container.index, request, amount.count));
        }
        let (mut shared, mut names) = (Vec::new(), BTreeSet::new());
        let mut most: Option<(String, i64)> = None;
        for (container, amount) in ending {
            let mut has = 0;
            for (_, request, count) in kept.iter().filter(|(at, ..)| *at >= container.index) {
                shared.push(mapping(container, request));
                has += count;
                if has >= amount.count {
                    break;
                }
            }
            if has >= amount.count {
                continue;
            }
            let request = name(container, amount);
            shared.push(mapping(container, &request));
            names.insert(request.clone());
            let lacks = amount.count - has;
            if most.as_ref().is_none_or(|(_, count)| *count < lacks) {
                most = Some((request, lacks));
            }
        }
        if let Some((request, count)) = most {
            for mapping in shared.iter_mut().filter(|m| names.contains(&m.request)) {
                mapping.request.clone_from(&request);
            }
            out.requests.push((request, count));
        }
        let kept = kept.into_iter();
        out.requests
            .extend(kept.map(|(_, name, count)| (name, count)));
        out.mappings.append(&mut shared);
        out
    }
}

/// The claim for these of a pod's extended resources.
pub fn claim(pod: &Pod, resources: &BTreeSet<&str>, devices: &Devices) -> ExtendedClaim {
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for resource in resources {
        let Some(class) = devices.class_of_resource(resource) else {
            continue;
        };
        let class = class.metadata.name.clone().unwrap_or_default();
        let mut of = OfResource::of(pod, resource);
        mappings.append(&mut of.mappings);
        requests.extend(of.requests.into_iter().map(|(name, count)| Request {
            name,
            class: class.clone(),
            count,
        }));
    }
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    let requests = requests.into_iter().map(|request| k8s::DeviceRequest {
        name: request.name,
        exactly: Some(k8s::ExactDeviceRequest {
            device_class_name: request.class,
            allocation_mode: Some("ExactCount".to_owned()),
            count: Some(request.count),
            ..Default::default()
        }),
        ..Default::default()
    });
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        ..Default::default()
    };
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-extended-resources-", pod.name)),
        namespace: Some(pod.namespace.to_string()),
        owner_references: Some(vec![owner]),
        annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
        ..Default::default()
    };
    let devices = k8s::DeviceClaim {
        requests: Some(requests.collect()),
        ..Default::default()
    };
    let claim = k8s::ResourceClaim {
        metadata,
        spec: k8s::ResourceClaimSpec {
            devices: Some(devices),
        },
        status: None,
    };
    ExtendedClaim {
        claim: Arc::new(claim),
        mappings,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::Cluster;

    fn class(name: &str, resource: Option<&str>, created: &str) -> k8s::DeviceClass {
        let class = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"extendedResourceName": resource}});
        serde_json::from_value(class).expect("a class")
    }

    #[test]
    fn a_class_stands_for_its_resource() {
        let mut devices = Devices::default();
        let resource = Some("example.com/gpu");
        for (name, created) in [
            ("old", "2026-01-01T00:00:00Z"),
            ("b", "2026-01-02T00:00:00Z"),
            ("a", "2026-01-02T00:00:00Z"),
        ] {
            devices.set_class(name, Some(&class(name, resource, created)));
        }
        let found = |name: &str| {
            let class = devices.class_of_resource(name)?;
            class.metadata.name.clone()
        };
        assert_eq!(found("example.com/gpu").as_deref(), Some("a"));
        let implicit = "deviceclass.resource.kubernetes.io/old";
        assert_eq!(found(implicit).as_deref(), Some("old"));
        assert_eq!(found("example.com/other"), None);
    }

    #[test]
    fn init_containers_use_what_others_get_after_them() {
        let mut cluster = Cluster::default();
        let class = class("gpus", Some("example.com/gpu"), "2026-01-01T00:00:00Z");
        let devices = cluster.snapshot.devices_mut();
        devices.set_class("gpus", Some(&class));
        let asks = |name: &str, count: &str| {
            json!({"name": name, "resources": {"requests": {
                "cpu": "1", "example.com/gpu": count, "other.com/x": "9"}}})
        };
        let pod = cluster.pod(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [asks("small", "1"), asks("large", "5"), asks("largest", "7")],
            "containers": [asks("a", "2"), asks("b", "1")]}}));
        let devices = cluster.snapshot.devices();
        let resources = mapped(&pod, devices);
        assert_eq!(resources, ["example.com/gpu"].into());
        let made = claim(&pod, &resources, devices);
        let spec = made.claim.spec.devices.clone().expect("devices");
        let requests = spec.requests.unwrap_or_default().into_iter();
        let requests: Vec<(String, Option<i64>)> = requests
            .map(|r| (r.name, r.exactly.and_then(|e| e.count)))
            .collect();
        let request = |index: usize| format!("container-{index}-request-1");
        assert_eq!(
            requests,
            [
                (request(2), Some(4)),
                (request(3), Some(2)),
                (request(4), Some(1))
            ]
        );
        let mappings: Vec<(&str, &str)> = made
            .mappings
            .iter()
            .map(|m| (m.container.as_str(), m.request.as_str()))
            .collect();
        let (two, three, four) = (request(2), request(3), request(4));
        assert_eq!(
            mappings,
            [
                ("a", three.as_str()),
                ("b", four.as_str()),
                ("small", three.as_str()),
                ("large", three.as_str()),
                ("large", four.as_str()),
                ("large", two.as_str()),
                ("largest", three.as_str()),
                ("largest", four.as_str()),
                ("largest", two.as_str()),
            ]
        );
    }
}
