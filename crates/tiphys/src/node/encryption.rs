//! What a node needs to encrypt what its pods send to other nodes: a key, and a kernel that can. Where it
//! cannot, the node does not run: it would have no way to other nodes' pods, or send in the open what
//! shall be encrypted. The log says so, and an event of its Node, where there is one.

use anyhow::{Context, Result, ensure};
use clock::Clock;
use host::wireguard::Key;
use k8s_openapi::api::core::v1::Event;
use kube::api::PostParams;
use kube::{Api, Client};
use network::encrypted;
use serde_json::json;

use super::{AgentArgs, Part, PodEncryption};

/// The file of the private key, below the node's folder.
const KEY_FILE: &str = "wireguard.key";
/// Where events about nodes are, as upstream's.
const NAMESPACE: &str = "default";

/// The node's keys.
pub struct Keys {
    /// It never leaves the node.
    pub private: Key,
    /// As others find it in the Node.
    pub public: String,
}

/// Makes the encrypted link, if one is wished.
pub async fn prepare(args: &AgentArgs, client: Client, node: &str) -> Result<Option<Keys>> {
    if args.pod_encryption == PodEncryption::None {
        return Ok(None);
    }
    ensure!(
        args.parts.pod_routes == Part::Builtin,
        "--pod-encryption: with --pod-routes none ways to other nodes' pods are somebody else's matter"
    );
    match encrypted::prepare(&args.data_dir.join(KEY_FILE)).await {
        Ok((private, public)) => Ok(Some(Keys { private, public })),
        Err(error) => {
            let message = format!("--pod-encryption wireguard: {error}");
            if let Err(e) = report(client, node, &message).await {
                tracing::debug!("no event of that: {e:#}");
            }
            Err(error).context("--pod-encryption wireguard")
        }
    }
}

/// An event of the node. It is written before the process ends, so it cannot wait in a queue.
async fn report(client: Client, node: &str, message: &str) -> Result<()> {
    let now = Clock::system().now_in_seconds();
    let event: Event = serde_json::from_value(json!({
        "metadata": { "generateName": format!("{node}."), "namespace": NAMESPACE },
        "involvedObject": { "kind": "Node", "name": node, "uid": node, "apiVersion": "v1" },
        "type": "Warning", "reason": "PodEncryptionUnavailable", "message": message, "count": 1,
        "source": { "component": "tiphys-node", "host": node },
        "firstTimestamp": now.to_string(), "lastTimestamp": now.to_string(),
    }))?;
    let events: Api<Event> = Api::namespaced(client, NAMESPACE);
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}
