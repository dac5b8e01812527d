//! A driver of dynamic resources: it prepares claims by describing their devices in CDI and notes in
//! a folder which are prepared. How its device is stands in a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use futures::Stream;
use host::plugins::dra::dra_plugin_server::{DraPlugin as V1, DraPluginServer as V1Server};
use host::plugins::dra::{
    Claim, Device, NodePrepareResourceResponse, NodePrepareResourcesRequest,
    NodePrepareResourcesResponse, NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse,
};
use host::plugins::dra_health::dra_resource_health_server::{
    DraResourceHealth, DraResourceHealthServer,
};
use host::plugins::dra_health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest,
    NodeWatchResourcesResponse,
};
use host::plugins::dra_v1beta1::dra_plugin_server::{
    DraPlugin as V1beta1, DraPluginServer as V1beta1Server,
};
use host::plugins::registration::PluginInfo;
use serde_json::json;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{introduce, listen};

/// Between looks at the file of the device's health.
const LOOK: Duration = Duration::from_millis(100);
/// Where descriptions of devices lie.
const CDI: &str = "/var/run/cdi";

/// The driver.
#[derive(Clone)]
pub struct Claimed {
    /// Its name.
    pub name: String,
    /// The folder of what is prepared; `health` in it says how the device is.
    pub data: PathBuf,
}

/// Runs a driver until it is killed; `root` is the kubelet's folder, `service` what it serves:
/// `v1` or `v1beta1`.
pub async fn run(root: &Path, service: &str, driver: Claimed) -> Result<()> {
    fs::create_dir_all(&driver.data)?;
    fs::create_dir_all(CDI)?;
    let socket = root.join("plugins").join(&driver.name).join("dra.sock");
    let incoming = listen(&socket)?;
    let info = PluginInfo {
        r#type: "DRAPlugin".into(),
        name: driver.name.clone(),
        endpoint: socket.to_string_lossy().into_owned(),
        supported_versions: vec![
            format!("{service}.DRAPlugin"),
            "v1alpha1.DRAResourceHealth".into(),
        ],
    };
    let server = Server::builder().add_service(DraResourceHealthServer::new(driver.clone()));
    let server = if service == "v1" {
        server.add_service(V1Server::new(driver))
    } else {
        server.add_service(V1beta1Server::new(driver))
    };
    let serving = async { Ok::<_, anyhow::Error>(server.serve_with_incoming(incoming).await?) };
    tokio::try_join!(serving, introduce(root, info))?;
    Ok(())
}

impl Claimed {
    fn kind(&self) -> String {
        format!("{}/device", self.name)
    }

    fn description(&self, uid: &str) -> PathBuf {
        Path::new(CDI).join(format!("{}-{uid}.json", self.name))
    }

    fn describe(&self, claim: &Claim) -> io::Result<()> {
        let edits = json!({
            "env": [format!("CLAIM={}", claim.name)],
            "deviceNodes": [{ "path": "/dev/claimed", "hostPath": "/dev/null", "type": "c" }],
        });
        let devices = json!([{ "name": claim.uid, "containerEdits": edits }]);
        let whole = json!({ "cdiVersion": "0.5.0", "kind": self.kind(), "devices": devices });
        fs::write(self.description(&claim.uid), whole.to_string())?;
        fs::write(self.data.join(&claim.uid), &claim.name)
    }

    fn prepare(&self, request: NodePrepareResourcesRequest) -> NodePrepareResourcesResponse {
        let each = |claim: Claim| {
            println!("prepare: {}", claim.name);
            let error = self.describe(&claim).err().map(|e| e.to_string());
            // What is claimed for extended resources has requests with names of the scheduler's: the device
            // is for all of them.
            let is_named = !claim.name.contains("-extended-resources-");
            let device = Device {
                request_names: is_named.then(|| "one".into()).into_iter().collect(),
                pool_name: "pool".into(),
                device_name: "device".into(),
                cdi_device_ids: vec![format!("{}={}", self.kind(), claim.uid)],
                share_id: None,
            };
            let answer = NodePrepareResourceResponse {
                devices: vec![device],
                error: error.unwrap_or_default(),
            };
            (claim.uid, answer)
        };
        NodePrepareResourcesResponse {
            claims: request.claims.into_iter().map(each).collect(),
        }
    }

    fn unprepare(&self, request: NodeUnprepareResourcesRequest) -> NodeUnprepareResourcesResponse {
        let each = |claim: Claim| {
            println!("unprepare: {}", claim.name);
            // Asked again, there is nothing left: that is fine.
            let _ = fs::remove_file(self.description(&claim.uid));
            let _ = fs::remove_file(self.data.join(&claim.uid));
            (claim.uid, NodeUnprepareResourceResponse::default())
        };
        NodeUnprepareResourcesResponse {
            claims: request.claims.into_iter().map(each).collect(),
        }
    }

    fn health(&self) -> HealthStatus {
        match fs::read_to_string(self.data.join("health")).as_deref() {
            Ok("bad") => HealthStatus::Unhealthy,
            _ => HealthStatus::Healthy,
        }
    }
}

#[tonic::async_trait]
impl V1 for Claimed {
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
impl V1beta1 for Claimed {
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
impl DraResourceHealth for Claimed {
    type NodeWatchResourcesStream =
        Pin<Box<dyn Stream<Item = Result<NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let lists = futures::stream::unfold((self.clone(), None), |(driver, last)| async move {
            loop {
                let now = driver.health();
                if last != Some(now) {
                    let device = DeviceHealth {
                        device: Some(DeviceIdentifier {
                            pool_name: "pool".into(),
                            device_name: "device".into(),
                        }),
                        health: now.into(),
                        health_check_timeout_seconds: 3_600,
                        ..DeviceHealth::default()
                    };
                    let list = NodeWatchResourcesResponse {
                        devices: vec![device],
                    };
                    return Some((Ok(list), (driver, Some(now))));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(Box::pin(lists)))
    }
}
