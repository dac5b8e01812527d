//! A CSI driver whose volumes are folders: staged and published by bind mounts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::plugins::csi::identity_server::{Identity, IdentityServer};
use host::plugins::csi::node_server::{Node, NodeServer};
use host::plugins::csi::node_service_capability::rpc::Type as Rpc;
use host::plugins::csi::node_service_capability::{Rpc as Ability, Type};
use host::plugins::csi::{
    GetPluginInfoRequest, GetPluginInfoResponse, NodeExpandVolumeRequest, NodeExpandVolumeResponse,
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, ProbeRequest,
    ProbeResponse, Topology, VolumeUsage, volume_usage,
};
use host::plugins::registration::PluginInfo;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{introduce, listen};

/// How large each volume says that it is, in bytes.
pub const TOTAL: i64 = 1_000_000;
/// How much of it says that it is used.
pub const USED: i64 = 250_000;

/// The driver.
#[derive(Clone)]
pub struct Folders {
    /// Its name.
    pub name: String,
    /// The folder of its volumes.
    pub data: PathBuf,
}

/// Runs a driver until it is killed; `root` is the kubelet's folder.
pub async fn run(root: &Path, driver: Folders) -> Result<()> {
    let socket = root.join("plugins").join(&driver.name).join("csi.sock");
    let incoming = listen(&socket)?;
    let info = PluginInfo {
        r#type: "CSIPlugin".into(),
        name: driver.name.clone(),
        endpoint: socket.to_string_lossy().into_owned(),
        supported_versions: vec!["1.0.0".into()],
    };
    let server = Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(NodeServer::new(driver));
    let serving = async { Ok::<_, anyhow::Error>(server.serve_with_incoming(incoming).await?) };
    tokio::try_join!(serving, introduce(root, info))?;
    Ok(())
}

fn failed(e: io::Error) -> Status {
    Status::internal(e.to_string())
}

/// Shows a folder at a place; what is shown there already is fine.
fn show(from: &Path, at: &str) -> Result<(), Status> {
    let at = Path::new(at);
    fs::create_dir_all(at).map_err(failed)?;
    if !host::mounts::is_mount_point(at).map_err(failed)? {
        host::mounts::bind(from, at).map_err(failed)?;
    }
    Ok(())
}

/// Takes it away, and the place with it.
fn hide(at: &str) -> Result<(), Status> {
    let at = Path::new(at);
    if at.exists() {
        host::mounts::unmount(at).map_err(failed)?;
        fs::remove_dir(at).map_err(failed)?;
    }
    Ok(())
}

impl Folders {
    fn volume(&self, id: &str) -> PathBuf {
        self.data.join(id)
    }
}

#[tonic::async_trait]
impl Identity for Folders {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: "1".into(),
            ..GetPluginInfoResponse::default()
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Folders {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = self.volume(&request.volume_id);
        fs::create_dir_all(&volume).map_err(failed)?;
        show(&volume, &request.staging_target_path)?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        hide(&request.into_inner().staging_target_path)?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let own = self.volume(&request.volume_id);
        let from = match request.staging_target_path.as_str() {
            "" => own,
            staged => PathBuf::from(staged),
        };
        fs::create_dir_all(&from).map_err(failed)?;
        let mut told: Vec<String> = request
            .volume_context
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        told.sort();
        fs::write(from.join("told"), told.concat()).map_err(failed)?;
        show(&from, &request.target_path)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        hide(&request.target_path)?;
        // Kubelets name the volumes of pods so: they go with the pod.
        if request.volume_id.starts_with("csi-") {
            let _ = fs::remove_dir_all(self.volume(&request.volume_id));
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let usage = VolumeUsage {
            available: TOTAL - USED,
            total: TOTAL,
            used: USED,
            unit: volume_usage::Unit::Bytes.into(),
        };
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![usage],
            volume_condition: None,
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let size = request.capacity_range.map_or(0, |r| r.required_bytes);
        let file = self.volume(&request.volume_id).join("size");
        fs::write(file, size.to_string()).map_err(failed)?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: size,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let all = [
            Rpc::StageUnstageVolume,
            Rpc::GetVolumeStats,
            Rpc::ExpandVolume,
        ];
        let ability = |rpc: Rpc| NodeServiceCapability {
            r#type: Some(Type::Rpc(Ability { r#type: rpc.into() })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: all.into_iter().map(ability).collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let segments = [(format!("{}/host", self.name), "here".to_owned())];
        Ok(Response::new(NodeGetInfoResponse {
            node_id: "id-of-node".into(),
            max_volumes_per_node: 9,
            accessible_topology: Some(Topology {
                segments: segments.into(),
            }),
        }))
    }
}
