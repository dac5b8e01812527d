//! A device plugin whose devices stand in a file, a line each: `id` or `id unhealthy`. It registers
//! again whenever the kubelet's socket is a new one.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use futures::Stream;
use host::plugins::devices::device_plugin_server::{DevicePlugin, DevicePluginServer};
use host::plugins::devices::registration_client::RegistrationClient;
use host::plugins::devices::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, Device,
    DevicePluginOptions, DeviceSpec, Empty, ListAndWatchResponse, PreStartContainerRequest,
    PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
    RegisterRequest,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::listen;

/// Between looks at the file and at the kubelet's socket.
const LOOK: Duration = Duration::from_millis(100);

/// The plugin.
#[derive(Clone)]
pub struct Listed {
    /// Its resource.
    pub resource: String,
    /// The file of its devices.
    pub file: PathBuf,
}

/// Runs a plugin until it is killed; `root` is the kubelet's folder.
pub async fn run(root: &Path, plugin: Listed) -> Result<()> {
    let folder = root.join("device-plugins");
    let endpoint = format!("{}.sock", plugin.resource.replace('/', "_"));
    let mut kubelet = None;
    loop {
        let now = std::fs::metadata(folder.join("kubelet.sock"));
        let now = now.ok().map(|m| (m.ino(), m.ctime(), m.ctime_nsec()));
        if now.is_some() && now != kubelet {
            // The kubelet removes the sockets of all plugins when it makes its own.
            let incoming = listen(&folder.join(&endpoint))?;
            let server = Server::builder().add_service(DevicePluginServer::new(plugin.clone()));
            tokio::spawn(server.serve_with_incoming(incoming));
            if register(&folder, &endpoint, &plugin.resource).await.is_ok() {
                kubelet = now;
                println!("registered: {}", plugin.resource);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn register(folder: &Path, endpoint: &str, resource: &str) -> Result<()> {
    let socket = folder.join("kubelet.sock");
    let channel = host::plugins::channel(&socket.to_string_lossy());
    let request = RegisterRequest {
        version: "v1beta1".into(),
        endpoint: endpoint.into(),
        resource_name: resource.into(),
        options: Some(DevicePluginOptions::default()),
    };
    RegistrationClient::new(channel).register(request).await?;
    Ok(())
}

impl Listed {
    fn read(&self) -> BTreeMap<String, bool> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let id = words.next()?.to_owned();
            Some((id, words.next().is_none()))
        };
        text.lines().filter_map(line).collect()
    }
}

#[tonic::async_trait]
impl DevicePlugin for Listed {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let lists = futures::stream::unfold((self.clone(), None), |(plugin, last)| async move {
            loop {
                let now = plugin.read();
                if last.as_ref() != Some(&now) {
                    let device = |(id, healthy): (&String, &bool)| Device {
                        id: id.clone(),
                        health: if *healthy { "Healthy" } else { "Unhealthy" }.into(),
                        topology: None,
                    };
                    let devices = now.iter().map(device).collect();
                    return Some((Ok(ListAndWatchResponse { devices }), (plugin, Some(now))));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("any will do"))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let each = |asked: ContainerAllocateRequest| ContainerAllocateResponse {
            envs: [("DEVICES".to_owned(), asked.device_ids.join(","))].into(),
            devices: vec![DeviceSpec {
                container_path: "/dev/dongle".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            ..ContainerAllocateResponse::default()
        };
        let all = request.into_inner().container_requests.into_iter();
        Ok(Response::new(AllocateResponse {
            container_responses: all.map(each).collect(),
        }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
