//! One device plugin as it is called.

use super::choose::Choice;
use super::inventory::Device;
use host::plugins::devices;
use host::plugins::devices::device_plugin_client::DevicePluginClient;
use host::plugins::devices::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, DevicePluginOptions, Empty, PreStartContainerRequest,
    PreferredAllocationRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// The longest that a plugin may take for an answer. 30 s: upstream's for what it does before a
/// container starts, such as to reset a device.
const ANSWER: Duration = Duration::from_secs(30);

/// A plugin that has registered.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    pub resource: String,
    pub options: DevicePluginOptions,
    /// Another one has taken its place.
    pub left: CancellationToken,
    channel: Channel,
}

impl Plugin {
    pub(super) fn new(resource: &str, socket: &Path, options: DevicePluginOptions) -> Self {
        Self {
            resource: resource.to_owned(),
            options,
            left: CancellationToken::new(),
            channel: host::plugins::channel(&socket.to_string_lossy()),
        }
    }

    /// What the plugin at a socket wants to be asked beside the usual.
    pub(super) async fn options_of(
        resource: &str,
        socket: &Path,
    ) -> Result<DevicePluginOptions, String> {
        let plugin = Self::new(resource, socket, DevicePluginOptions::default());
        let mut client = plugin.client();
        within(client.get_device_plugin_options(Empty {})).await
    }

    /// Whether the other is this life of the plugin.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        // The one that was replaced is cancelled.
        !self.left.is_cancelled() && !other.left.is_cancelled() && self.resource == other.resource
    }

    fn client(&self) -> DevicePluginClient<Channel> {
        DevicePluginClient::new(self.channel.clone())
    }

    /// Hands each list of devices over, until there are no more; why.
    pub(super) async fn follow(&self, each: impl Fn(BTreeMap<String, Device>)) -> String {
        let mut client = self.client();
        let mut lists = match client.list_and_watch(Empty {}).await {
            Ok(answer) => answer.into_inner(),
            Err(e) => return e.message().to_owned(),
        };
        loop {
            match lists.message().await {
                Ok(Some(list)) => {
                    let devices = list.devices.into_iter();
                    each(devices.map(read).collect());
                }
                Ok(None) => return "it has ended".into(),
                Err(e) => return e.message().to_owned(),
            }
        }
    }

    /// What the plugin would choose.
    pub(super) async fn prefer(&self, choice: &Choice) -> Result<Vec<String>, String> {
        let request = ContainerPreferredAllocationRequest {
            available_device_ids: choice.all(),
            must_include_device_ids: choice.settled().into_iter().collect(),
            allocation_size: i32::try_from(choice.count()).unwrap_or(i32::MAX),
        };
        let mut client = self.client();
        let asked = client.get_preferred_allocation(PreferredAllocationRequest {
            container_requests: vec![request],
        });
        let answer = within(asked).await?.container_responses;
        Ok(answer.into_iter().flat_map(|c| c.device_ids).collect())
    }

    /// Takes devices for a container; what it needs to use them.
    pub(super) async fn allocate(
        &self,
        ids: &BTreeSet<String>,
    ) -> Result<ContainerAllocateResponse, String> {
        let request = AllocateRequest {
            container_requests: vec![ContainerAllocateRequest {
                device_ids: ids.iter().cloned().collect(),
            }],
        };
        let mut client = self.client();
        let mut answer = within(client.allocate(request)).await?.container_responses;
        if answer.len() == 1 {
            return Ok(answer.remove(0));
        }
        let (resource, count) = (&self.resource, answer.len());
        Err(format!(
            "the plugin of {resource} answered for {count} containers, not for one"
        ))
    }

    /// Tells that a container with these devices is about to start.
    pub(super) async fn before_start(&self, ids: &BTreeSet<String>) -> Result<(), String> {
        let request = PreStartContainerRequest {
            device_ids: ids.iter().cloned().collect(),
        };
        let mut client = self.client();
        within(client.pre_start_container(request)).await.map(drop)
    }
}

fn read(device: devices::Device) -> (String, Device) {
    let places = device.topology.into_iter().flat_map(|t| t.nodes);
    let known = Device {
        healthy: device.health == "Healthy",
        // Some plugins say -1 for what has no place.
        nodes: places.filter_map(|n| u32::try_from(n.id).ok()).collect(),
    };
    (device.id, known)
}

async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(e)) => Err(format!(
            "rpc error: code = {:?} desc = {}",
            e.code(),
            e.message()
        )),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}
