//! Waiting until a volume is attached to this node. The node says first that it uses the volume,
//! and then looks whether it has it: whoever detaches takes it from the node's list first, and then
//! looks whether it is used. So never both go on.

use super::error::Error;
use super::{Csi, CsiVolume};
use clock::Instant;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use std::collections::HashMap;
use std::time::Duration;

/// Between the first looks …
const LOOK: Duration = Duration::from_millis(100);
/// … and later ones.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// The longest wait at once: then the pod says why it waits, and is tried again.
const WITHIN: Duration = Duration::from_secs(60);

/// What is to be seen of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It is there; what the driver's controller says of it.
    Attached(HashMap<String, String>),
    /// Not yet.
    Waits,
    /// It was tried, and failed.
    Failed(String),
    /// It failed because the node has as many volumes as it can have.
    Full(String),
}

/// The code of gRPC by which a driver says so.
const RESOURCE_EXHAUSTED: i32 = 8;

impl Csi {
    /// Waits until the volume is attached; what the driver's controller says of it.
    pub(super) async fn attached(
        &self,
        asked: &CsiVolume,
    ) -> Result<HashMap<String, String>, Error> {
        let name = api::csi::unique_name(&asked.driver, &asked.handle);
        if !self.in_use.hold(&name).await {
            let why = format!(
                "the API does not know yet that volume {:?} is in use",
                asked.name
            );
            return Err(Error::NotAttached(why));
        }
        let id = api::csi::attachment_name(&asked.driver, &asked.handle, &self.node);
        let until = Instant::now() + WITHIN;
        let mut pause = LOOK;
        loop {
            match self.look(&name, &id).await? {
                State::Attached(context) => return Ok(context),
                State::Failed(why) => return Err(Error::NotAttached(why)),
                State::Full(why) => return Err(Error::TooManyAttached(why)),
                State::Waits if Instant::now() >= until => {
                    return Err(Error::NotAttached(format!(
                        "timed out waiting for external-attacher of {} CSI driver to attach volume {}",
                        asked.driver, asked.handle
                    )));
                }
                State::Waits => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    async fn look(&self, name: &str, id: &str) -> Result<State, Error> {
        let what = "failed to look whether the volume is attached";
        let nodes: kube::Api<Node> = kube::Api::all(self.client.clone());
        let node = nodes.get(&self.node).await;
        let node = node.map_err(|e| Error::api(what, &e))?;
        let all: kube::Api<VolumeAttachment> = kube::Api::all(self.client.clone());
        let attachment = match all.get(id).await {
            Ok(attachment) => Some(attachment),
            // A node may not even hear that it is missing.
            Err(kube::Error::Api(e)) if matches!(e.code, 403 | 404) => None,
            Err(e) => return Err(Error::api(what, &e)),
        };
        Ok(state(&node, name, attachment.as_ref()))
    }
}

fn state(node: &Node, name: &str, attachment: Option<&VolumeAttachment>) -> State {
    let Some(attachment) = attachment.filter(|a| a.metadata.deletion_timestamp.is_none()) else {
        return State::Waits;
    };
    let status = attachment.status.clone().unwrap_or_default();
    if !status.attached {
        let Some(error) = status.attach_error else {
            return State::Waits;
        };
        let is_full = error.error_code == Some(RESOURCE_EXHAUSTED);
        return match (error.message, is_full) {
            (why, true) => State::Full(why.unwrap_or_default()),
            (Some(why), false) => State::Failed(why),
            (None, false) => State::Waits,
        };
    }
    let attached = node
        .status
        .as_ref()
        .and_then(|s| s.volumes_attached.as_ref());
    if attached.into_iter().flatten().any(|v| v.name == name) {
        State::Attached(
            status
                .attachment_metadata
                .unwrap_or_default()
                .into_iter()
                .collect(),
        )
    } else {
        State::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn both_the_node_and_the_attachment_say_so() {
        let node = |names: &[&str]| -> Node {
            let all: Vec<Value> = names
                .iter()
                .map(|n| json!({ "name": n, "devicePath": "" }))
                .collect();
            serde_json::from_value(json!({ "metadata": {}, "status": { "volumesAttached": all } }))
                .unwrap()
        };
        let attachment = |meta: Value, status: Value| -> VolumeAttachment {
            let spec = json!({ "attacher": "d", "nodeName": "n", "source": {} });
            serde_json::from_value(json!({ "metadata": meta, "spec": spec, "status": status }))
                .unwrap()
        };
        let good = attachment(
            json!({}),
            json!({ "attached": true, "attachmentMetadata": { "a": "b" } }),
        );
        let context: HashMap<String, String> = [("a".to_owned(), "b".to_owned())].into();
        assert_eq!(
            state(&node(&["v"]), "v", Some(&good)),
            State::Attached(context)
        );
        assert_eq!(state(&node(&["w"]), "v", Some(&good)), State::Waits);
        assert_eq!(state(&node(&["v"]), "v", None), State::Waits);
        let leaving = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        let leaving = attachment(leaving, json!({ "attached": true }));
        assert_eq!(state(&node(&["v"]), "v", Some(&leaving)), State::Waits);
        let failed = attachment(
            json!({}),
            json!({ "attached": false, "attachError": { "message": "no" } }),
        );
        assert_eq!(
            state(&node(&["v"]), "v", Some(&failed)),
            State::Failed("no".into())
        );
        let full = json!({ "attached": false, "attachError": { "message": "no", "errorCode": 8 } });
        assert_eq!(
            state(&node(&["v"]), "v", Some(&attachment(json!({}), full))),
            State::Full("no".into())
        );
    }
}
