//! Pods get devices of a plugin in this process.

use super::*;
use crate::topology::merge::Hint;
use crate::topology::nodes::{Machine, Node};
use host::plugins::devices::device_plugin_server::{DevicePlugin, DevicePluginServer};
use host::plugins::devices::registration_client::RegistrationClient;
use host::plugins::devices::*;
use host::runtime::ContainerSpec;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

const RESOURCE: &str = "example.com/dongle";

/// Devices by id, and whether they are healthy; those after the first are at NUMA node 1.
struct Fake {
    devices: watch::Receiver<Vec<(&'static str, bool)>>,
}

#[tonic::async_trait]
impl DevicePlugin for Fake {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    type ListAndWatchStream =
        std::pin::Pin<Box<dyn futures::Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let lists = WatchStream::new(self.devices.clone()).map(|all| {
            let device = |(id, healthy): (&str, bool)| Device {
                id: id.into(),
                health: if healthy { "Healthy" } else { "Unhealthy" }.into(),
                topology: (id != "a").then(|| TopologyInfo {
                    nodes: vec![NumaNode { id: 1 }],
                }),
            };
            Ok(ListAndWatchResponse {
                devices: all.into_iter().map(device).collect(),
            })
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let mut all = request
            .into_inner()
            .container_requests
            .remove(0)
            .available_device_ids;
        all.reverse();
        Ok(Response::new(PreferredAllocationResponse {
            container_responses: vec![ContainerPreferredAllocationResponse { device_ids: all }],
        }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let ids = request.into_inner().container_requests.remove(0).device_ids;
        Ok(Response::new(AllocateResponse {
            container_responses: vec![ContainerAllocateResponse {
                envs: [("DONGLES".to_owned(), ids.join(","))].into(),
                ..ContainerAllocateResponse::default()
            }],
        }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Err(Status::internal("it does not reset"))
    }
}

fn pod(uid: &str, init: Option<u32>, count: u32) -> Pod {
    let container = |name: &str, count: u32| {
        let limits = json!({ RESOURCE: count.to_string() });
        json!({ "name": name, "resources": { "limits": limits } })
    };
    let mut spec = json!({ "containers": [container("main", count)] });
    if let Some(count) = init {
        spec["initContainers"] = Value::Array(vec![container("init", count)]);
    }
    serde_json::from_value(json!({ "metadata": { "uid": uid, "name": uid }, "spec": spec }))
        .unwrap()
}

fn env(devices: &Devices, uid: &str, container: &str) -> String {
    let mut spec = ContainerSpec::default();
    devices.of(uid, container).add_to(&mut spec);
    let found = spec.env.into_iter().find(|(name, _)| name == "DONGLES");
    found.map(|(_, value)| value).unwrap_or_default()
}

async fn allocate(devices: &Devices, pod: &Pod) -> Result<(), Error> {
    let turn = devices.turn(pod).await.expect("it asks for some");
    turn.allocate(pod, &BTreeMap::new()).await
}

/// Waits until so many devices can be had.
async fn until(devices: &Devices, amount: (u64, u64)) {
    let mut changes = devices.health_changes();
    loop {
        let now = devices.amounts().get(RESOURCE).copied().unwrap_or_default();
        if (now.capacity, now.allocatable) == amount {
            return;
        }
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn pods_get_devices_of_a_plugin_and_keep_them() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(FOLDER);
    let devices = Arc::new(Devices::new(root.path(), Arc::new(Notify::new())));
    let serving = tokio::spawn(devices.clone().serve());
    let (lists, receiver) = watch::channel(vec![("a", true), ("b", true), ("c", true)]);
    while !folder.join("kubelet.sock").exists() {
        tokio::task::yield_now().await;
    }
    let socket = tokio::net::UnixListener::bind(folder.join("dongle.sock")).unwrap();
    let fake = Fake { devices: receiver };
    let plugin = tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(DevicePluginServer::new(fake));
        server
            .serve_with_incoming(UnixListenerStream::new(socket))
            .await
            .unwrap();
    });
    let channel = host::plugins::channel(&folder.join("kubelet.sock").to_string_lossy());
    let register = |version: &str| RegisterRequest {
        version: version.into(),
        endpoint: "dongle.sock".into(),
        resource_name: RESOURCE.into(),
        options: Some(DevicePluginOptions {
            pre_start_required: true,
            get_preferred_allocation_available: true,
        }),
    };
    let mut door = RegistrationClient::new(channel);
    assert!(door.register(register("v1alpha")).await.is_err());
    door.register(register("v1beta1")).await.unwrap();
    until(&devices, (3, 3)).await;

    // The plugin prefers the last ones; the init container's device is used again.
    allocate(&devices, &pod("p", Some(1), 2)).await.unwrap();
    assert_eq!(env(&devices, "p", "init"), "c");
    assert_eq!(env(&devices, "p", "main"), "b,c");
    let short = allocate(&devices, &pod("q", None, 2)).await;
    let short = short.unwrap_err().to_string();
    assert!(short.contains("Requested: 2, Available: 1"), "{short}");
    allocate(&devices, &pod("p", Some(1), 2)).await.unwrap();
    assert_eq!(env(&devices, "p", "main"), "b,c");
    let refused = devices.before_start("p", "main").await.unwrap_err();
    assert!(refused.contains("it does not reset"), "{refused}");

    // Near to the node that its container is to have, whatever the plugin prefers.
    let near = pod("near", None, 1);
    devices.forget("p");
    let turn = devices.turn(&near).await.expect("it asks for some");
    let draft = turn.draft(&near);
    let machine = Machine([(0, Node::default()), (1, Node::default())].into());
    let hints = draft.hints(&machine, &spec::containers(&near)[0]);
    let one: Nodes = [1].into_iter().collect();
    let wanted = Hint {
        nodes: Some(one),
        preferred: true,
    };
    assert_eq!(hints, [Some(vec![wanted])]);
    let zero: Nodes = [0].into_iter().collect();
    for (nodes, want) in [(one, "c"), (zero, "c")] {
        let places = [("main".to_owned(), nodes)].into();
        turn.allocate(&near, &places).await.unwrap();
        assert_eq!(env(&devices, "near", "main"), want);
    }
    drop(turn);
    devices.forget("near");
    devices.load("p");

    lists.send_replace(vec![("a", true), ("b", true), ("c", false)]);
    until(&devices, (3, 2)).await;
    let health = &devices.health_of("p", "main")[RESOURCE];
    assert_eq!((health["b"], health["c"]), (true, false));

    // Another kubelet reads what the pod has; the plugin has not registered yet.
    let next = Devices::new(root.path(), Arc::new(Notify::new()));
    next.load("p");
    assert_eq!(env(&next, "p", "main"), "b,c");
    assert!(allocate(&next, &pod("q", None, 1)).await.is_err());
    assert_eq!(next.amounts()[RESOURCE], Amount::default());

    drop(lists);
    plugin.abort();
    until(&devices, (3, 0)).await;
    devices.forget("p");
    assert_eq!(env(&devices, "p", "main"), "");
    serving.abort();
}
