//! A node whose kubelet is somebody else's, such as upstream's: the file by which it is this node, and what
//! the agent says of the node in its place.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use api::local_volumes::{CAPACITY, PATH, QUOTA};
use clock::Random;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The kubelet's kubeconfig, below the node's folder.
const KUBECONFIG: &str = "kubelet.kubeconfig";
/// Between tries to write what is said.
const RETRY: Duration = Duration::from_secs(2);

/// Notes of a node, by their keys; without a value: it has none.
pub type Notes = BTreeMap<String, Option<String>>;

/// The text of a kubeconfig. It names the files of the credentials, which are renewed while the node runs,
/// so that who reads it takes up the new ones.
fn kubeconfig(pki: &Path, server: &str) -> Value {
    let file = |name: &str| pki.join(name).to_string_lossy().into_owned();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "tiphys", "cluster": {
            "server": server, "certificate-authority": file("ca.crt"),
        }}],
        "users": [{ "name": "kubelet", "user": {
            "client-certificate": file("kubelet.crt"), "client-key": file("kubelet.key"),
        }}],
        "contexts": [{ "name": "tiphys", "context": { "cluster": "tiphys", "user": "kubelet" } }],
        "current-context": "tiphys",
    })
}

/// Writes the kubelet's kubeconfig below the node's folder.
pub fn write_kubeconfig(dir: &Path, server: &str) -> Result<()> {
    let dir = std::path::absolute(dir).context("finding the node's folder")?;
    let text = serde_norway::to_string(&kubeconfig(&dir.join("pki"), server))?;
    let path = dir.join(KUBECONFIG);
    wire::pki::write_private(&path, text.as_bytes())?;
    tracing::info!(
        "somebody else's kubelet runs this node, by {}",
        path.display()
    );
    Ok(())
}

/// What is to be said of a node: what the agent knows, and that nobody makes volumes on its disk, since
/// that is our kubelet's work.
pub fn notes(mut own: Notes) -> Notes {
    own.extend([CAPACITY, PATH, QUOTA].map(|key| (key.to_owned(), None)));
    own
}

/// The change that makes a node say so; none where it does.
fn change(node: &Node, notes: &Notes) -> Option<Value> {
    let said = node.annotations();
    let differ = notes
        .iter()
        .any(|(key, note)| said.get(key) != note.as_ref());
    differ.then(|| json!({ "metadata": { "annotations": notes } }))
}

/// Keeps the notes of the node, which its kubelet registers, until `end`.
pub async fn keep_notes(
    client: Client,
    node: String,
    notes: Notes,
    end: CancellationToken,
) -> Result<()> {
    let api: Api<Node> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut changes = pin!(client::events(Random::system(), api.clone(), only));
    let work = async {
        while let Some(event) = changes.next().await {
            let (Event::Apply(seen) | Event::InitApply(seen)) = event else {
                continue;
            };
            if let Some(change) = change(&seen, &notes) {
                write(&api, &node, &change).await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = end.cancelled() => {}
    }
    Ok(())
}

/// Writes it, however often that takes; not to a node that has gone.
async fn write(api: &Api<Node>, node: &str, change: &Value) {
    let (params, patch) = (PatchParams::default(), Patch::Merge(change));
    loop {
        match api.patch(node, &params, &patch).await {
            Ok(_) => return,
            Err(kube::Error::Api(answer)) if answer.code == 404 => return,
            Err(error) => tracing::warn!("saying of node {node} what its agent does: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use api::node_notes::{CLUSTER_DNS, NONE, WIREGUARD_KEY};

    use super::*;

    #[test]
    fn the_kubeconfig_names_the_files_that_are_renewed() {
        let dir = tempfile::tempdir().expect("folder");
        write_kubeconfig(dir.path(), "https://127.0.0.1:6444").expect("written");
        let text = std::fs::read_to_string(dir.path().join(KUBECONFIG)).expect("file");
        let config: Value = serde_norway::from_str(&text).expect("YAML");
        let user = &config["users"][0]["user"];
        let certificate = dir.path().join("pki/kubelet.crt");
        assert_eq!(user["client-certificate"], json!(certificate));
        let cluster = &config["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://127.0.0.1:6444");
    }

    #[test]
    fn a_node_says_what_its_agent_does_whoever_registered_it() {
        let own = [(CLUSTER_DNS, Some(NONE)), (WIREGUARD_KEY, None)];
        let own = own.map(|(key, note)| (key.to_owned(), note.map(str::to_owned)));
        let notes = notes(own.into());
        // Registered by our kubelet before: its volumes are nobody's work any more.
        let mut node = Node::default();
        node.annotations_mut()
            .insert(PATH.into(), "/volumes".into());
        node.annotations_mut()
            .insert("of/others".into(), "kept".into());
        let wanted = change(&node, &notes).expect("a change");
        let annotations = &wanted["metadata"]["annotations"];
        assert_eq!(
            (&annotations[PATH], &annotations[CLUSTER_DNS]),
            (&Value::Null, &json!(NONE))
        );
        assert_eq!(annotations.get("of/others"), None);
        node.annotations_mut().remove(PATH);
        node.annotations_mut()
            .insert(CLUSTER_DNS.into(), NONE.into());
        assert_eq!(change(&node, &notes), None);
    }
}
