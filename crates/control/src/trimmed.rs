//! What the parts of the control plane keep of objects that are many and large: what some part
//! reads, and no more. A whole Pod takes some 10 KB as a typed value, of which half are the
//! volumes and half of the rest is how its containers run.

use client::Informers;
use clock::{Clock, Random};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use kube::Client;

/// Informers that keep of Pods what the control plane reads. What writes a Pod back as it was read
/// here would lose the rest: pods are patched, bound, evicted and deleted.
pub fn informers(client: Client, clock: Clock, random: Random) -> Informers {
    Informers::new(client, clock, random).keeping(pod)
}

/// Takes away what no part of the control plane reads: a part that reads more keeps it here.
pub fn pod(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        trim_spec(spec);
    }
    if let Some(status) = &mut pod.status {
        trim_status(status);
    }
}

fn trim_spec(spec: &mut PodSpec) {
    if let Some(volumes) = &mut spec.volumes {
        // The others concern the kubelet alone; each takes 3 KB, whatever it is.
        volumes.retain(|v| {
            let disk = v.gce_persistent_disk.is_some()
                || v.aws_elastic_block_store.is_some()
                || v.iscsi.is_some()
                || v.rbd.is_some();
            let claim = v.persistent_volume_claim.is_some() || v.ephemeral.is_some();
            claim || v.image.is_some() || disk
        });
        if volumes.is_empty() {
            spec.volumes = None;
        }
    }
    spec.ephemeral_containers = None;
    spec.image_pull_secrets = None;
    spec.security_context = None;
    spec.dns_config = None;
    spec.host_aliases = None;
    let init = spec.init_containers.as_mut();
    for containers in init.into_iter().chain([&mut spec.containers]) {
        for container in containers.iter_mut() {
            *container = kept_container(std::mem::take(container));
        }
        containers.shrink_to_fit();
    }
    if let Some(tolerations) = &mut spec.tolerations {
        tolerations.shrink_to_fit();
    }
}

/// What a container asks for, where it listens, whether it is a sidecar, and what its end does.
fn kept_container(whole: Container) -> Container {
    Container {
        name: whole.name,
        image: whole.image,
        ports: whole.ports,
        resources: whole.resources,
        restart_policy: whole.restart_policy,
        restart_policy_rules: whole.restart_policy_rules,
        ..Container::default()
    }
}

fn trim_status(status: &mut PodStatus) {
    status.ephemeral_container_statuses = None;
    let lists = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
    ];
    for statuses in lists.into_iter().flatten() {
        for status in statuses.iter_mut() {
            *status = kept_status(std::mem::take(status));
        }
        statuses.shrink_to_fit();
    }
    if let Some(conditions) = &mut status.conditions {
        conditions.shrink_to_fit();
    }
}

/// What a container was given, how it goes and how it ended.
fn kept_status(whole: ContainerStatus) -> ContainerStatus {
    ContainerStatus {
        name: whole.name,
        ready: whole.ready,
        started: whole.started,
        restart_count: whole.restart_count,
        state: whole.state,
        last_state: whole.last_state,
        allocated_resources: whole.allocated_resources,
        resources: whole.resources,
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_stays_and_the_rest_goes() {
        let whole = json!({
            "metadata": { "name": "p", "labels": { "a": "b" }, "annotations": { "c": "d" } },
            "spec": {
                "nodeName": "n", "volumes": [
                    { "name": "c", "persistentVolumeClaim": { "claimName": "x" } },
                    { "name": "v", "emptyDir": {} },
                ],
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{ "name": "c", "image": "i", "command": ["x"],
                    "env": [{ "name": "A", "value": "B" }],
                    "ports": [{ "containerPort": 80, "hostPort": 81 }],
                    "resources": { "requests": { "cpu": "1" } } }],
            },
            "status": { "phase": "Running", "podIPs": [{ "ip": "192.0.2.1" }],
                "conditions": [{ "type": "Ready", "status": "True" }],
                "containerStatuses": [{ "name": "c", "ready": true, "restartCount": 3,
                    "state": { "terminated": { "exitCode": 7 } },
                    "image": "i", "imageID": "sha256:0", "containerID": "containerd://0" }] },
        });
        let mut kept: Pod = serde_json::from_value(whole.clone()).expect("a pod");
        pod(&mut kept);
        let kept = serde_json::to_value(&kept).expect("a value");
        let mut want = whole;
        want["spec"]["volumes"].as_array_mut().expect("list").pop();
        let container = &mut want["spec"]["containers"][0];
        for field in ["command", "env"] {
            container.as_object_mut().expect("container").remove(field);
        }
        let status = &mut want["status"]["containerStatuses"][0];
        for field in ["image", "imageID"] {
            status[field] = json!("");
        }
        status
            .as_object_mut()
            .expect("status")
            .remove("containerID");
        want["apiVersion"] = json!("v1");
        want["kind"] = json!("Pod");
        assert_eq!(kept, want);
    }
}
