//! A driver as it is called: over its socket, with a limit of time for each call.

use host::plugins::csi::node_client::NodeClient;
use host::plugins::csi::node_service_capability::Type;
use host::plugins::csi::node_service_capability::rpc::Type as Rpc;
use host::plugins::csi::{
    NodeExpandVolumeRequest, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
};
use std::path::Path;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// The longest that a driver may take for one call; upstream's value. A driver may have to make a
/// file system.
const CALL: Duration = Duration::from_secs(120);
/// The longest for what a driver knows without work.
const ASK: Duration = Duration::from_secs(15);

/// A call that went wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CallError {
    /// The kind of failure.
    pub code: Code,
    /// What the driver said.
    pub message: String,
}

impl CallError {
    /// Whether nothing of the call can still be under way, so that it left nothing behind.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(
            self.code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Unavailable
                | Code::ResourceExhausted
                | Code::Aborted
        )
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

/// What a driver can do on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// A volume is staged once for the node, and published to pods from there.
    pub stage: bool,
    /// It says how full volumes are.
    pub stats: bool,
    /// Volumes grow on the node.
    pub expand: bool,
    /// It distinguishes one pod that writes from several on one node.
    pub several_writers: bool,
    /// It gives volumes to a group by itself.
    pub mount_group: bool,
    /// It says whether something is wrong with volumes.
    pub condition: bool,
}

/// Whether something is wrong with a volume, as its driver says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeHealth {
    /// Something is.
    pub abnormal: bool,
    /// What, or that nothing is.
    pub message: String,
}

impl Abilities {
    fn of(answer: &NodeGetCapabilitiesResponse) -> Self {
        let mut out = Self::default();
        let all = answer.capabilities.iter().filter_map(|c| c.r#type.as_ref());
        for Type::Rpc(rpc) in all {
            match rpc.r#type() {
                Rpc::StageUnstageVolume => out.stage = true,
                Rpc::GetVolumeStats => out.stats = true,
                Rpc::ExpandVolume => out.expand = true,
                Rpc::SingleNodeMultiWriter => out.several_writers = true,
                Rpc::VolumeMountGroup => out.mount_group = true,
                Rpc::VolumeCondition => out.condition = true,
                Rpc::Unknown => {}
            }
        }
        out
    }
}

/// A registered driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// Its name.
    pub name: String,
    channel: Channel,
}

impl Driver {
    /// The driver that listens on a socket. Nothing is sent yet; one that comes back is connected
    /// to again.
    #[must_use]
    pub fn at(name: &str, socket: &Path) -> Self {
        Self {
            name: name.to_owned(),
            channel: host::plugins::channel(&socket.to_string_lossy()),
        }
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// Where the node is in the driver's words.
    pub async fn info(&self) -> Result<NodeGetInfoResponse, CallError> {
        let mut node = self.node();
        within(ASK, node.node_get_info(NodeGetInfoRequest {})).await
    }

    /// What it can do.
    pub async fn abilities(&self) -> Result<Abilities, CallError> {
        let mut node = self.node();
        let asked = node.node_get_capabilities(NodeGetCapabilitiesRequest {});
        within(ASK, asked)
            .await
            .map(|answer| Abilities::of(&answer))
    }

    /// Makes a volume ready on the node.
    pub async fn stage(&self, request: NodeStageVolumeRequest) -> Result<(), CallError> {
        let mut node = self.node();
        within(CALL, node.node_stage_volume(request))
            .await
            .map(drop)
    }

    /// Undoes that.
    pub async fn unstage(&self, request: NodeUnstageVolumeRequest) -> Result<(), CallError> {
        let mut node = self.node();
        within(CALL, node.node_unstage_volume(request))
            .await
            .map(drop)
    }

    /// Shows a volume to a pod.
    pub async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), CallError> {
        let mut node = self.node();
        within(CALL, node.node_publish_volume(request))
            .await
            .map(drop)
    }

    /// Undoes that.
    pub async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), CallError> {
        let mut node = self.node();
        let done = within(CALL, node.node_unpublish_volume(request)).await;
        done.map(drop)
    }

    /// Lets a volume grow on the node.
    pub async fn expand(&self, request: NodeExpandVolumeRequest) -> Result<(), CallError> {
        let mut node = self.node();
        within(CALL, node.node_expand_volume(request))
            .await
            .map(drop)
    }

    /// How full a volume is.
    pub async fn stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse, CallError> {
        let mut node = self.node();
        within(ASK, node.node_get_volume_stats(request)).await
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(CallError {
            code: Code::DeadlineExceeded,
            message: format!("no answer within {} s", limit.as_secs()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_may_still_run_leaves_its_traces() {
        for (code, is_final) in [
            (Code::Internal, true),
            (Code::InvalidArgument, true),
            (Code::NotFound, true),
            (Code::DeadlineExceeded, false),
            (Code::Unavailable, false),
            (Code::Aborted, false),
        ] {
            let error = CallError::from(Status::new(code, "x"));
            assert_eq!(error.is_final(), is_final, "{code:?}");
        }
        let said = CallError::from(Status::internal("no")).to_string();
        assert_eq!(said, "rpc error: code = Internal desc = no");
    }
}
