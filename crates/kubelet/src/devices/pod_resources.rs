//! The pod resources API: which devices the containers of the node have, and which there are, for
//! programs on the node that watch devices; also in its old version, which some of them speak.

use crate::cpus::set::CpuSet;
use crate::metrics::{COUNTS, Lookup};
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::spec;
use crate::topology::ledger::Block;
use host::plugins::pod_resources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use host::plugins::pod_resources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerMemory,
    ContainerResources, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, NumaNode, PodResources, TopologyInfo,
};
use host::plugins::pod_resources_alpha::pod_resources_lister_server as old_server;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// The folder of the socket below the kubelet's; upstream's.
const FOLDER: &str = "pod-resources";
/// The socket's name.
const SOCKET: &str = "kubelet.sock";
/// Between tries to listen: something is wrong with the folder.
const AGAIN: Duration = Duration::from_secs(10);

fn cpu_ids(cpus: Option<CpuSet>) -> Vec<i64> {
    cpus.into_iter()
        .flat_map(|set| set.0)
        .map(i64::from)
        .collect()
}

struct Lister {
    deps: Arc<Deps>,
    pods: Arc<Pods>,
}

fn at(nodes: impl IntoIterator<Item = u32>) -> TopologyInfo {
    let node = |id: u32| NumaNode { id: id.into() };
    TopologyInfo {
        nodes: nodes.into_iter().map(node).collect(),
    }
}

fn memory(block: Block) -> ContainerMemory {
    ContainerMemory {
        memory_type: block.kind,
        size: block.bytes,
        topology: Some(at(block.nodes)),
    }
}

impl Lister {
    /// As upstream: an entry for each device, and one for each NUMA node of a device that is at several.
    fn devices(&self, resource: &str, ids: BTreeSet<String>) -> Vec<ContainerDevices> {
        let mut out = Vec::new();
        for id in ids {
            let nodes = self.deps.devices.nodes_of(resource, &id);
            let entry = |topology| ContainerDevices {
                resource_name: resource.to_owned(),
                device_ids: vec![id.clone()],
                topology,
            };
            match nodes.count() {
                0 => out.push(entry(None)),
                _ => out.extend(nodes.iter().map(|node| entry(Some(at([node]))))),
            }
        }
        out
    }

    fn of(&self, pod: &Pod) -> PodResources {
        let all = spec::init_containers(pod)
            .iter()
            .filter(|c| spec::is_sidecar(c))
            .chain(spec::containers(pod));
        let containers = all.map(|c| {
            let given = self.deps.devices.of(spec::uid(pod), &c.name);
            let devices = given.resources.into_iter();
            let devices = devices.flat_map(|(name, given)| self.devices(&name, given.ids));
            let blocks = self.deps.topology.blocks(spec::uid(pod), &c.name);
            ContainerResources {
                name: c.name.clone(),
                devices: devices.collect(),
                cpu_ids: cpu_ids(self.deps.cpus.of(spec::uid(pod), &c.name)),
                memory: blocks.into_iter().map(memory).collect(),
                dynamic_resources: self.deps.dra.resources_of(pod, c),
            }
        });
        PodResources {
            name: spec::name(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            containers: containers.collect(),
        }
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        COUNTS.lookup(Lookup::List, true);
        let all = self.pods.snapshots();
        let active = all.iter().filter(|p| !p.over);
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: active.map(|p| self.of(&p.pod)).collect(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        COUNTS.lookup(Lookup::Allocatable, true);
        let all = self.deps.devices.healthy().into_iter();
        let devices = all.flat_map(|(name, ids)| self.devices(&name, ids));
        let blocks = self.deps.topology.allocatable();
        Ok(Response::new(AllocatableResourcesResponse {
            devices: devices.collect(),
            cpu_ids: cpu_ids(Some(self.deps.cpus.allocatable())),
            memory: blocks.into_iter().map(memory).collect(),
        }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        let asked = request.into_inner();
        let (namespace, name) = (&asked.pod_namespace, &asked.pod_name);
        let found = self.pods.find(namespace, name).filter(|p| !p.over);
        COUNTS.lookup(Lookup::Get, found.is_some());
        let found = found.ok_or_else(|| {
            Status::not_found(format!("pod {name} in namespace {namespace} not found"))
        })?;
        Ok(Response::new(GetPodResourcesResponse {
            pod_resources: Some(self.of(&found.pod)),
        }))
    }
}

#[tonic::async_trait]
impl old_server::PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        COUNTS.old_lookup();
        let all = self.pods.snapshots();
        let active = all.iter().filter(|p| !p.over);
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: active.map(|p| old(&p.pod, self.of(&p.pod))).collect(),
        }))
    }
}

/// What the API's old version has of what a pod has: the devices of its main containers.
fn old(pod: &Pod, mut found: PodResources) -> PodResources {
    let is_main = |name: &str| spec::containers(pod).iter().any(|c| c.name == name);
    found.containers.retain(|c| is_main(&c.name));
    for container in &mut found.containers {
        let had = std::mem::take(container);
        (container.name, container.devices) = (had.name, had.devices);
        for devices in &mut container.devices {
            devices.topology = None;
        }
    }
    found
}

/// Serves it as long as the kubelet runs.
pub async fn serve(deps: Arc<Deps>, pods: Arc<Pods>) {
    loop {
        let outcome = match listen(&deps) {
            Ok(incoming) => {
                let (deps, pods) = (deps.clone(), pods.clone());
                let lister = Arc::new(Lister { deps, pods });
                let old = old_server::PodResourcesListerServer::from_arc(lister.clone());
                let new = PodResourcesListerServer::from_arc(lister);
                let server = Server::builder().add_service(new).add_service(old);
                let served = server.serve_with_incoming(incoming).await;
                served.map_err(|e| e.to_string())
            }
            Err(e) => Err(e.to_string()),
        };
        tracing::error!(
            ?outcome,
            "the pod resources API is not served; trying again"
        );
        tokio::time::sleep(AGAIN).await;
    }
}

fn listen(deps: &Deps) -> io::Result<UnixListenerStream> {
    let folder = deps.config.root_dir.join(FOLDER);
    crate::volumes::error::private_folder(&folder)?;
    let socket = folder.join(SOCKET);
    crate::csi::record::gone(std::fs::remove_file(&socket))?;
    UnixListener::bind(socket).map(UnixListenerStream::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_version_has_devices_alone() {
        let pod = serde_json::json!({ "spec": {
            "initContainers": [{ "name": "side", "restartPolicy": "Always" }],
            "containers": [{ "name": "main" }] } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let device = |topology| ContainerDevices {
            resource_name: "example.com/gpu".into(),
            device_ids: vec!["gpu-1".into()],
            topology,
        };
        let container = |name: &str| ContainerResources {
            name: name.into(),
            devices: vec![device(Some(at([0])))],
            cpu_ids: vec![1, 2],
            ..ContainerResources::default()
        };
        let found = PodResources {
            name: "p".into(),
            namespace: "n".into(),
            containers: vec![container("side"), container("main")],
        };
        let want = PodResources {
            containers: vec![ContainerResources {
                name: "main".into(),
                devices: vec![device(None)],
                ..ContainerResources::default()
            }],
            ..found.clone()
        };
        assert_eq!(old(&pod, found), want);
    }
}
