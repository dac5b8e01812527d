//! One driver of dynamic resources as it is called.

use super::metrics::METRICS;
use super::prepared_claims::{Claim, Device};
use host::plugins::dra;
use host::plugins::dra::dra_plugin_client::DraPluginClient as V1;
use host::plugins::dra_health::NodeWatchResourcesRequest;
use host::plugins::dra_health::NodeWatchResourcesResponse;
use host::plugins::dra_health::dra_resource_health_client::DraResourceHealthClient;
use host::plugins::dra_v1beta1::dra_plugin_client::DraPluginClient as V1beta1;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

/// The longest that a driver may take for an answer; upstream's.
const ANSWER: Duration = Duration::from_secs(45);
/// The longest that a driver that lives may take to let somebody in.
const CONNECT: Duration = Duration::from_secs(1);

/// The services that this kubelet calls, as plugins name them.
const SERVICES: [(&str, Service); 2] = [
    ("v1.DRAPlugin", Service::V1),
    ("v1beta1.DRAPlugin", Service::V1beta1),
];

/// By which service a driver is called. Their messages are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    V1,
    V1beta1,
}

impl Service {
    /// Its path, as gRPC has it.
    fn path(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
            Self::V1beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin",
        }
    }
}

/// A driver's plugin that has registered. A driver may have several, while it is replaced.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    pub name: String,
    pub socket: PathBuf,
    /// It is no longer asked.
    pub left: CancellationToken,
    service: Service,
    channel: Channel,
}

impl Driver {
    /// The first of its services that this kubelet knows is the one that it is called by.
    pub(super) fn new(name: &str, socket: &Path, services: &[String]) -> Result<Self, String> {
        let known = |service: &String| {
            let mut all = SERVICES.iter();
            all.find(|(name, _)| name == service).map(|(_, s)| *s)
        };
        let service = services.iter().find_map(known).ok_or_else(|| {
            let ours = SERVICES.map(|(name, _)| name);
            format!(
                "none of services supported by the plugin ({services:?}) are supported by the kubelet ({ours:?})"
            )
        })?;
        Ok(Self {
            name: name.to_owned(),
            socket: socket.to_owned(),
            left: CancellationToken::new(),
            service,
            channel: host::plugins::channel(&socket.to_string_lossy()),
        })
    }

    /// Whether somebody listens: a plugin that was killed leaves its socket behind.
    pub(super) async fn listens(&self) -> bool {
        let connecting = tokio::net::UnixStream::connect(&self.socket);
        matches!(tokio::time::timeout(CONNECT, connecting).await, Ok(Ok(_)))
    }

    /// Prepares the devices of a claim; which they are. Asked again, it gives the same answer.
    pub(super) async fn prepare(&self, claim: &Claim) -> Result<Vec<Device>, String> {
        let request = dra::NodePrepareResourcesRequest {
            claims: vec![named(claim)],
        };
        let (channel, method) = (self.channel.clone(), "NodePrepareResources");
        let answer = match self.service {
            Service::V1 => {
                let mut plugin = V1::new(channel);
                self.ask(method, plugin.node_prepare_resources(request))
                    .await
            }
            Service::V1beta1 => {
                let mut plugin = V1beta1::new(channel);
                self.ask(method, plugin.node_prepare_resources(request))
                    .await
            }
        };
        let answer = answer.map_err(|e| format!("NodePrepareResources: {e}"))?;
        let own = only("NodePrepareResources", claim, answer.claims)?;
        failed("NodePrepareResources", claim, &own.error)?;
        let device = |d: dra::Device| Device {
            requests: d.request_names,
            pool: d.pool_name,
            device: d.device_name,
            share: d.share_id,
            cdi: d.cdi_device_ids,
        };
        Ok(own.devices.into_iter().map(device).collect())
    }

    /// Gives the devices of a claim back; none there is fine.
    pub(super) async fn unprepare(&self, claim: &Claim) -> Result<(), String> {
        let request = dra::NodeUnprepareResourcesRequest {
            claims: vec![named(claim)],
        };
        let (channel, method) = (self.channel.clone(), "NodeUnprepareResources");
        let answer = match self.service {
            Service::V1 => {
                let mut plugin = V1::new(channel);
                self.ask(method, plugin.node_unprepare_resources(request))
                    .await
            }
            Service::V1beta1 => {
                let mut plugin = V1beta1::new(channel);
                self.ask(method, plugin.node_unprepare_resources(request))
                    .await
            }
        };
        let answer = answer.map_err(|e| format!("NodeUnprepareResources: {e}"))?;
        let own = only("NodeUnprepareResources", claim, answer.claims)?;
        failed("NodeUnprepareResources", claim, &own.error)
    }

    /// One call of its service, which is counted.
    async fn ask<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, String> {
        let began = clock::Instant::now();
        let answer = tokio::time::timeout(ANSWER, call).await;
        let code = match &answer {
            Ok(Ok(_)) => Code::Ok,
            Ok(Err(e)) => e.code(),
            Err(_) => Code::DeadlineExceeded,
        };
        let path = format!("{}/{method}", self.service.path());
        METRICS.called(&self.name, &path, began, code);
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(e)) => Err(format!(
                "rpc error: code = {:?} desc = {}",
                e.code(),
                e.message()
            )),
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        }
    }

    /// Lists of how its devices are, as long as it lives.
    pub(super) async fn health(&self) -> Result<Streaming<NodeWatchResourcesResponse>, Status> {
        let mut client = DraResourceHealthClient::new(self.channel.clone());
        let lists = client.node_watch_resources(NodeWatchResourcesRequest {});
        Ok(lists.await?.into_inner())
    }
}

fn named(claim: &Claim) -> dra::Claim {
    dra::Claim {
        namespace: claim.namespace.clone(),
        uid: claim.uid.clone(),
        name: claim.name.clone(),
    }
}

/// The answer for the claim that was asked about.
fn only<T>(call: &str, claim: &Claim, mut all: HashMap<String, T>) -> Result<T, String> {
    let own = all.remove(&claim.uid);
    if let Some(other) = all.keys().next() {
        return Err(format!(
            "{call} returned result for unknown claim UID {other}"
        ));
    }
    own.ok_or_else(|| format!("{call} skipped 1 ResourceClaims"))
}

fn failed(call: &str, claim: &Claim, error: &str) -> Result<(), String> {
    if error.is_empty() {
        return Ok(());
    }
    let name = &claim.name;
    Err(format!("{call} failed for ResourceClaim {name}: {error}"))
}
