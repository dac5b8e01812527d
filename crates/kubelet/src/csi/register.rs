//! Drivers come and go: what a driver says of the node becomes the node's CSINode, labels for its
//! topology, and an annotation, as upstream.

use super::{Csi, Driver};
use host::plugins::csi::NodeGetInfoResponse;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The annotation of a node: what each driver calls it.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Tries to write the CSINode when others write it, too.
const TRIES: u32 = 5;

/// Whether one of a plugin's versions is one that this kubelet speaks: any 1.
pub fn speaks(versions: &[String]) -> bool {
    let first = |v: &String| {
        let mut parts = v.trim_start_matches('v').split('.');
        parts.next().and_then(|p| p.parse::<u32>().ok())
    };
    versions.iter().filter_map(first).any(|major| major == 1)
}

impl Csi {
    /// Takes a driver in: asks it about the node, and publishes that.
    pub async fn register(
        &self,
        name: &str,
        socket: &Path,
        versions: &[String],
    ) -> Result<(), String> {
        if !speaks(versions) {
            return Err(format!(
                "driver {name} supports no version of the interface that is supported here: {versions:?}"
            ));
        }
        let driver = Driver::at(name, socket);
        let info = driver.info().await.map_err(|e| e.to_string())?;
        if info.node_id.is_empty() {
            return Err(format!("driver {name} gave no node ID"));
        }
        self.tell_node(name, &info).await?;
        let entry = entry(name, &info);
        self.change(|drivers| replace(drivers, Some(entry.clone()), name))
            .await?;
        self.note(driver);
        Ok(())
    }

    /// Publishes how many volumes of a driver the node can have, if the driver says another number
    /// than the CSINode. The rest of what it says is only looked at when it registers.
    pub(super) async fn publish_limit(
        &self,
        name: &str,
        info: &NodeGetInfoResponse,
    ) -> Result<(), String> {
        let new = entry(name, info).allocatable;
        self.change(|drivers| {
            let Some(known) = drivers.iter_mut().find(|d| d.name == name) else {
                return false;
            };
            let differs = known.allocatable != new;
            known.allocatable.clone_from(&new);
            differs
        })
        .await
    }

    /// The driver is gone. What it has mounted stays; nothing can be asked of it until it is back.
    pub async fn unregister(&self, name: &str) -> Result<(), String> {
        self.drivers.lock().remove(name);
        self.change(|drivers| replace(drivers, None, name)).await
    }

    /// Makes the node's CSINode if there is none: schedulers read it as "no driver here".
    pub async fn ensure_object(&self) -> Result<(), String> {
        self.change(|_| false).await
    }

    /// Changes the list of drivers in the CSINode; `change` says whether it did.
    async fn change(&self, change: impl Fn(&mut Vec<CSINodeDriver>) -> bool) -> Result<(), String> {
        let api: kube::Api<CSINode> = kube::Api::all(self.client.clone());
        let mut why = String::new();
        for _ in 0..TRIES {
            let found = api.get_opt(&self.node).await.map_err(|e| e.to_string())?;
            let is_new = found.is_none();
            let mut object = match found {
                Some(object) => object,
                None => self.fresh_object().await?,
            };
            if !change(&mut object.spec.drivers) && !is_new {
                return Ok(());
            }
            let written = if is_new {
                api.create(&PostParams::default(), &object).await
            } else {
                api.replace(&self.node, &PostParams::default(), &object)
                    .await
            };
            match written {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(e)) if e.code == 409 => why = e.message.clone(),
                Err(e) => return Err(e.to_string()),
            }
        }
        Err(format!(
            "the CSINode is changed by others all the time: {why}"
        ))
    }

    async fn fresh_object(&self) -> Result<CSINode, String> {
        let nodes: kube::Api<Node> = kube::Api::all(self.client.clone());
        let node = nodes.get(&self.node).await.map_err(|e| e.to_string())?;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.node.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..Default::default()
        };
        Ok(CSINode {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                owner_references: Some(vec![owner]),
                ..Default::default()
            },
            spec: CSINodeSpec {
                drivers: Vec::new(),
            },
        })
    }

    async fn tell_node(&self, name: &str, info: &NodeGetInfoResponse) -> Result<(), String> {
        let nodes: kube::Api<Node> = kube::Api::all(self.client.clone());
        let node = nodes.get(&self.node).await.map_err(|e| e.to_string())?;
        let Some(patch) = node_patch(&node, name, info)? else {
            return Ok(());
        };
        let patch = Patch::Merge(patch);
        let done = nodes
            .patch(&self.node, &PatchParams::default(), &patch)
            .await;
        done.map(drop).map_err(|e| e.to_string())
    }
}

/// What the CSINode says of a driver.
fn entry(name: &str, info: &NodeGetInfoResponse) -> CSINodeDriver {
    let most = i32::try_from(info.max_volumes_per_node)
        .ok()
        .filter(|m| *m > 0);
    let topology = info.accessible_topology.as_ref();
    let mut keys: Vec<String> = topology
        .into_iter()
        .flat_map(|t| t.segments.keys().cloned())
        .collect();
    keys.sort();
    CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys),
        allocatable: most.map(|m| VolumeNodeResources { count: Some(m) }),
    }
}

/// Puts a driver in the place of the one of its name, or takes that away; whether that changed
/// anything.
fn replace(drivers: &mut Vec<CSINodeDriver>, new: Option<CSINodeDriver>, name: &str) -> bool {
    let old = drivers.clone();
    match (drivers.iter().position(|d| d.name == name), new) {
        (Some(at), Some(new)) => drivers[at] = new,
        (Some(at), None) => {
            drivers.remove(at);
        }
        (None, new) => drivers.extend(new),
    }
    *drivers != old
}

/// What changes of the node: what the driver calls it, and where it is. A place that the node's
/// labels contradict is an error, since volumes were made where they say.
fn node_patch(
    node: &Node,
    name: &str,
    info: &NodeGetInfoResponse,
) -> Result<Option<Value>, String> {
    let none = BTreeMap::new();
    let annotations = node.metadata.annotations.as_ref().unwrap_or(&none);
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let ids = annotations
        .get(NODE_IDS)
        .map(String::as_str)
        .unwrap_or("{}");
    let mut ids: BTreeMap<String, String> =
        serde_json::from_str(ids).map_err(|e| format!("the node's annotation {NODE_IDS}: {e}"))?;
    let is_known =
        ids.insert(name.to_owned(), info.node_id.clone()).as_ref() == Some(&info.node_id);
    let topology = info.accessible_topology.as_ref();
    let mut places = BTreeMap::new();
    for (key, value) in topology.into_iter().flat_map(|t| &t.segments) {
        match labels.get(key) {
            Some(old) if old != value => {
                return Err(format!(
                    "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{old:?}"
                ));
            }
            Some(_) => {}
            None => {
                places.insert(key, value);
            }
        }
    }
    if is_known && places.is_empty() {
        return Ok(None);
    }
    let ids = serde_json::to_string(&ids).map_err(|e| e.to_string())?;
    Ok(Some(
        json!({ "metadata": { "labels": places, "annotations": { NODE_IDS: ids } } }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(most: i64, places: &[(&str, &str)]) -> NodeGetInfoResponse {
        let segments = places
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        NodeGetInfoResponse {
            node_id: "n".into(),
            max_volumes_per_node: most,
            accessible_topology: Some(host::plugins::csi::Topology {
                segments: segments.collect(),
            }),
        }
    }

    #[test]
    fn a_driver_has_one_entry() {
        let mut all = Vec::new();
        assert!(replace(
            &mut all,
            Some(entry("a", &info(3, &[("z", "1"), ("b", "2")]))),
            "a"
        ));
        assert_eq!(all[0].topology_keys, Some(vec!["b".into(), "z".into()]));
        assert_eq!(all[0].allocatable.as_ref().unwrap().count, Some(3));
        let same = all[0].clone();
        assert!(!replace(&mut all, Some(same), "a"));
        assert!(replace(&mut all, Some(entry("a", &info(0, &[]))), "a"));
        assert_eq!((all.len(), all[0].allocatable.clone()), (1, None));
        assert!(replace(&mut all, None, "a") && all.is_empty());
        assert!(!replace(&mut all, None, "a"));
    }

    #[test]
    fn versions_are_of_one_interface() {
        let of = |all: &[&str]| speaks(&all.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert!(of(&["1.0.0"]) && of(&["0.3", "v1.2"]) && of(&["1"]));
        assert!(!of(&[]) && !of(&["0.3"]) && !of(&["2.0.0", "x"]));
    }

    #[test]
    fn a_node_is_where_it_was() {
        let node = |labels: Value, ids: &str| -> Node {
            let meta = json!({ "labels": labels, "annotations": { NODE_IDS: ids } });
            serde_json::from_value(json!({ "metadata": meta })).unwrap()
        };
        let here = info(0, &[("zone", "a")]);
        let patch = node_patch(&node(json!({}), r#"{"e":"m"}"#), "d", &here)
            .unwrap()
            .unwrap();
        assert_eq!(patch["metadata"]["labels"], json!({ "zone": "a" }));
        let ids = &patch["metadata"]["annotations"][NODE_IDS];
        assert_eq!(ids, r#"{"d":"n","e":"m"}"#);
        let known = node(json!({ "zone": "a" }), r#"{"d":"n"}"#);
        assert_eq!(node_patch(&known, "d", &here).unwrap(), None);
        let elsewhere = node(json!({ "zone": "b" }), "{}");
        assert!(node_patch(&elsewhere, "d", &here).is_err());
    }
}
