//! Claims of pods are prepared and given back by a driver in this process.
#![expect(
    clippy::disallowed_types,
    reason = "a driver of the tests sends its changes as a stream of tokio"
)]

use super::*;
use crate::csi::testing::Api;
use host::plugins::dra::dra_plugin_server::{DraPlugin as ServiceV1, DraPluginServer as ServerV1};
use host::plugins::dra::{
    self, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use host::plugins::dra_health::dra_resource_health_server::{
    DraResourceHealth, DraResourceHealthServer,
};
use host::plugins::dra_health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest,
    NodeWatchResourcesResponse,
};
use host::plugins::dra_v1beta1::dra_plugin_server::{
    DraPlugin as ServiceV1beta1, DraPluginServer as ServerV1beta1,
};
use serde_json::json;
use std::pin::Pin;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const DRIVER: &str = "d.example.com";

/// What the driver was asked, and what it says.
#[derive(Clone)]
struct Fake {
    asked: Arc<Mutex<Vec<String>>>,
    error: Arc<Mutex<String>>,
    health: watch::Receiver<HealthStatus>,
}

impl Fake {
    fn note(&self, call: &str, claims: &[dra::Claim]) -> String {
        let named = claims.iter().map(|c| format!("{call} {}", c.name));
        self.asked.lock().extend(named);
        self.error.lock().clone()
    }

    fn prepare(&self, request: NodePrepareResourcesRequest) -> NodePrepareResourcesResponse {
        let error = self.note("prepare", &request.claims);
        let device = dra::Device {
            request_names: vec!["r".into()],
            pool_name: "pool".into(),
            device_name: "one".into(),
            cdi_device_ids: vec!["example.com/d=one".into()],
            share_id: None,
        };
        let answer = NodePrepareResourceResponse {
            devices: vec![device],
            error,
        };
        let all = request.claims.into_iter();
        NodePrepareResourcesResponse {
            claims: all.map(|c| (c.uid, answer.clone())).collect(),
        }
    }

    fn unprepare(&self, request: NodeUnprepareResourcesRequest) -> NodeUnprepareResourcesResponse {
        let error = self.note("unprepare", &request.claims);
        let answer = NodeUnprepareResourceResponse { error };
        let all = request.claims.into_iter();
        NodeUnprepareResourcesResponse {
            claims: all.map(|c| (c.uid, answer.clone())).collect(),
        }
    }
}

#[tonic::async_trait]
impl ServiceV1 for Fake {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        Ok(Response::new(self.prepare(request.into_inner())))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        Ok(Response::new(self.unprepare(request.into_inner())))
    }
}

#[tonic::async_trait]
impl ServiceV1beta1 for Fake {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        Ok(Response::new(self.prepare(request.into_inner())))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        Ok(Response::new(self.unprepare(request.into_inner())))
    }
}

#[tonic::async_trait]
impl DraResourceHealth for Fake {
    type NodeWatchResourcesStream =
        Pin<Box<dyn futures::Stream<Item = Result<NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let lists = WatchStream::new(self.health.clone()).map(|health| {
            let device = DeviceHealth {
                device: Some(DeviceIdentifier {
                    pool_name: "pool".into(),
                    device_name: "one".into(),
                }),
                health: health.into(),
                message: "hot".into(),
                ..DeviceHealth::default()
            };
            Ok(NodeWatchResourcesResponse {
                devices: vec![device],
            })
        });
        Ok(Response::new(Box::pin(lists)))
    }
}

struct Bench {
    root: tempfile::TempDir,
    api: Api,
    fake: Fake,
    health: watch::Sender<HealthStatus>,
    dra: Arc<Dra>,
}

impl Bench {
    fn new() -> Self {
        let (root, api) = (tempfile::tempdir().unwrap(), Api::default());
        let (health, receiver) = watch::channel(HealthStatus::Healthy);
        let fake = Fake {
            asked: Arc::default(),
            error: Arc::default(),
            health: receiver,
        };
        let dra = Arc::new(Dra::new(root.path(), "node", api.client()));
        Self {
            root,
            api,
            fake,
            health,
            dra,
        }
    }

    /// The driver begins to listen and registers.
    fn register(&self, service: &str) -> tokio::task::JoinHandle<()> {
        let socket = self.root.path().join("d.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = Server::builder()
            .add_service(ServerV1::new(self.fake.clone()))
            .add_service(ServerV1beta1::new(self.fake.clone()))
            .add_service(DraResourceHealthServer::new(self.fake.clone()));
        let incoming = UnixListenerStream::new(listener);
        let serving = tokio::spawn(async move {
            let _ = server.serve_with_incoming(incoming).await;
        });
        let services = ["v9.DRAPlugin".to_owned(), service.to_owned()];
        self.dra.register(DRIVER, &socket, &services).unwrap();
        serving
    }

    /// The claim, as it is when it is allocated for these pods.
    fn claim(&self, pods: &[&str]) {
        let reserved = pods
            .iter()
            .map(|uid| json!({ "resource": "pods", "name": uid, "uid": uid }));
        let path = "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims/c";
        self.api.put(
            path,
            json!({
                "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                "metadata": { "name": "c", "namespace": "n", "uid": "claim-uid" }, "spec": {},
                "status": {
                    "reservedFor": reserved.collect::<Vec<_>>(),
                    "allocation": { "devices": { "results": [
                        { "driver": DRIVER, "pool": "pool", "device": "one", "request": "r" }] } },
                },
            }),
        );
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.asked.lock())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.root.path().join(FOLDER)).map_or(0, Iterator::count)
    }
}

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": uid, "namespace": "n", "uid": uid },
        "spec": {
            "resourceClaims": [{ "name": "own", "resourceClaimName": "c" }],
            "containers": [
                { "name": "with", "resources": { "claims": [{ "name": "own", "request": "r" }] } },
                { "name": "without" }],
        },
    }))
    .unwrap()
}

fn cdi(dra: &Dra, pod: &Pod, container: usize) -> Result<Vec<String>, String> {
    let mut made = ContainerSpec::default();
    dra.add_to(pod, &spec::containers(pod)[container], &mut made)?;
    Ok(made.cdi_devices)
}

#[tokio::test]
async fn a_claim_is_prepared_once_and_given_back_after_its_last_pod() {
    for service in ["v1.DRAPlugin", "v1beta1.DRAPlugin"] {
        let bench = Bench::new();
        let _serving = bench.register(service);
        bench.claim(&["p", "q"]);
        let (p, q) = (pod("p"), pod("q"));
        bench.dra.prepare(&p).await.unwrap();
        bench.dra.prepare(&p).await.unwrap();
        bench.dra.prepare(&q).await.unwrap();
        assert_eq!(bench.asked(), ["prepare c"], "{service}");
        assert_eq!(cdi(&bench.dra, &p, 0).unwrap(), ["example.com/d=one"]);
        assert!(cdi(&bench.dra, &p, 1).unwrap().is_empty());
        let listed = bench.dra.resources_of(&p, &spec::containers(&p)[0]);
        assert_eq!(listed[0].claim_resources[0].driver_name, DRIVER);
        // Another pod has nothing of it.
        assert!(cdi(&bench.dra, &pod("other"), 0).is_err());
        bench.dra.release("p").await.unwrap();
        assert!(bench.asked().is_empty() && bench.files() == 1);
        // The next kubelet knows it, and gives it back.
        let next = Arc::new(Dra::new(bench.root.path(), "node", bench.api.client()));
        assert_eq!(next.pods(), ["q".to_owned()].into());
        assert_eq!(cdi(&next, &q, 0).unwrap(), ["example.com/d=one"]);
        let why = next.release("q").await.unwrap_err();
        assert_eq!(why, format!("DRA driver {DRIVER} is not registered"));
        assert_eq!(next.pods().len(), 1);
        let socket = bench.root.path().join("d.sock");
        next.register(DRIVER, &socket, &[service.to_owned()])
            .unwrap();
        // It asks once more, since it cannot know whether that came to an end.
        next.prepare(&q).await.unwrap();
        next.release("q").await.unwrap();
        assert_eq!(bench.asked(), ["prepare c", "unprepare c"]);
        assert!(next.pods().is_empty() && bench.files() == 0);
    }
}

#[tokio::test]
async fn what_cannot_be_prepared_leaves_nothing_or_is_given_back() {
    let bench = Bench::new();
    bench.claim(&["p"]);
    let p = pod("p");
    // Without its driver nothing of the claim is noted, so that the pod can end.
    let why = bench.dra.prepare(&p).await.unwrap_err();
    assert_eq!(why, format!("DRA driver {DRIVER} is not registered"));
    assert!(bench.dra.pods().is_empty() && bench.files() == 0);
    let why = bench.dra.prepare(&pod("q")).await.unwrap_err();
    assert!(
        why.contains("is not allowed to use ResourceClaim c"),
        "{why}"
    );
    assert!(
        bench
            .dra
            .register(DRIVER, Path::new("/s"), &["v9.DRAPlugin".into()])
            .is_err()
    );
    // A driver that failed may have done half of it.
    let _serving = bench.register("v1.DRAPlugin");
    *bench.fake.error.lock() = "no power".into();
    let why = bench.dra.prepare(&p).await.unwrap_err();
    assert_eq!(
        why,
        "NodePrepareResources failed for ResourceClaim c: no power"
    );
    assert_eq!(bench.files(), 1);
    let why = bench.dra.release("p").await.unwrap_err();
    assert!(why.starts_with("NodeUnprepareResources failed"), "{why}");
    *bench.fake.error.lock() = String::new();
    bench.dra.release("p").await.unwrap();
    bench.dra.release("p").await.unwrap();
    assert_eq!(bench.asked(), ["prepare c", "unprepare c", "unprepare c"]);
    assert_eq!(bench.files(), 0);
}

#[tokio::test]
async fn pods_show_how_their_devices_are() {
    let bench = Bench::new();
    bench.claim(&["p"]);
    let p = pod("p");
    let mut changes = bench.dra.health_changes();
    let serving = bench.register("v1.DRAPlugin");
    bench.dra.prepare(&p).await.unwrap();
    let shown = || {
        let mut status: PodStatus = serde_json::from_value(json!({ "containerStatuses": [
            { "name": "with", "image": "", "imageID": "", "ready": true, "restartCount": 0 },
            { "name": "without", "image": "", "imageID": "", "ready": true, "restartCount": 0 }] }))
        .unwrap();
        bench.dra.show(&p, &mut status);
        let all = status.container_statuses.unwrap();
        assert_eq!(all[1].allocated_resources_status, None);
        let mut own = all[0].allocated_resources_status.clone().unwrap();
        let own = own.remove(0);
        assert_eq!(own.name, "claim:own/r");
        let device = own.resources.unwrap().remove(0);
        assert_eq!(device.resource_id, "example.com/d=one");
        device.health.unwrap()
    };
    while shown() != "Healthy" {
        changes.changed().await.unwrap();
    }
    bench.health.send_replace(HealthStatus::Unhealthy);
    while shown() != "Unhealthy" {
        changes.changed().await.unwrap();
    }
    // A driver that is gone says nothing.
    serving.abort();
    bench
        .dra
        .unregister(DRIVER, &bench.root.path().join("d.sock"));
    while shown() != "Unknown" {
        changes.changed().await.unwrap();
    }
    assert_eq!(bench.dra.usable().await, [(DRIVER.to_owned(), false)]);
}
