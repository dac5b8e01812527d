//! What is to be attached to one node and detached from it. Pure.
//!
//! A volume is detached in three steps, each of which is seen before the next: nobody wants it,
//! the node's status no longer lists it as attached, and the node does not use it. The node looks
//! the other way round, so one of both always gives way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::Plan;
use control::action::{Action, Target};
use control::ready::is_node_ready;
use k8s_openapi::api::core::v1::{AttachedVolume, Node, ObjectReference, PersistentVolume};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use serde_json::json;

use crate::common::{is_deleting, uid_of};

/// A node that is not ready and still has a volume that nobody wants loses it after so long;
/// upstream's value.
const FORCED_AFTER_MILLIS: i64 = 6 * 60 * 1000;
/// Says of a node that it is off, so that its volumes may go at once.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How names of volumes of drivers begin in a node's status.
const CSI: &str = "kubernetes.io/csi/";

/// Where else a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Pods there that use it.
    pub pods: Vec<String>,
}

/// A volume that pods of the node want.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredVolume {
    /// The persistent volume.
    pub volume: String,
    /// Its driver.
    pub driver: String,
    /// Its name in the node's status.
    pub unique: String,
    /// Several nodes may have it at once.
    pub shared: bool,
    /// Another node has it.
    pub elsewhere: Option<Elsewhere>,
    /// The pods; of those that have heard of the same trouble before, none.
    pub pods: Vec<ObjectReference>,
    /// Why it cannot be attached, where that is known.
    pub trouble: Option<String>,
}

/// What is seen of a node.
pub struct Observed {
    pub name: String,
    /// None: it is gone.
    pub node: Option<Arc<Node>>,
    /// By the name of the attachment.
    pub wanted: BTreeMap<String, DesiredVolume>,
    pub attachments: Vec<Arc<VolumeAttachment>>,
    /// Since when attachments are not wanted, in milliseconds.
    pub since: BTreeMap<String, i64>,
}

/// A volume of a driver as something to attach: the attachment's name, and what there is to know.
pub(super) fn wanted(volume: &PersistentVolume, node: &str) -> Option<(String, DesiredVolume)> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref()?;
    let id = api::csi::attachment_name(&csi.driver, &csi.volume_handle, node);
    let modes = spec.access_modes.iter().flatten();
    let wanted = DesiredVolume {
        volume: volume.name_any(),
        driver: csi.driver.clone(),
        unique: api::csi::unique_name(&csi.driver, &csi.volume_handle),
        shared: modes
            .into_iter()
            .any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany"),
        elsewhere: None,
        pods: Vec::new(),
        trouble: None,
    };
    Some((id, wanted))
}

/// Why a volume is not attached, in words for its pods.
pub(super) fn trouble(
    wanted: &DesiredVolume,
    attachment: Option<&Arc<VolumeAttachment>>,
) -> Option<String> {
    let name = &wanted.volume;
    match (attachment, &wanted.elsewhere) {
        (None, Some(elsewhere)) if !wanted.shared => {
            let begin = format!("Multi-Attach error for volume {name:?}");
            Some(if elsewhere.pods.is_empty() {
                format!(
                    "{begin} Volume is already exclusively attached to one node and can't be attached to another"
                )
            } else {
                format!(
                    "{begin} Volume is already used by pod(s) {}",
                    elsewhere.pods.join(", ")
                )
            })
        }
        (Some(attachment), _) => {
            let status = attachment.status.as_ref().filter(|s| !s.attached)?;
            let error = status.attach_error.as_ref()?.message.as_deref();
            let error = error.unwrap_or_default();
            Some(format!(
                "AttachVolume.Attach failed for volume {name:?} : {error}"
            ))
        }
        _ => None,
    }
}

/// Whether a driver's volume is listed as attached.
pub(super) fn lists_any(node: &Node) -> bool {
    listed(node).any(|v| v.name.starts_with(CSI))
}

fn listed(node: &Node) -> impl Iterator<Item = &AttachedVolume> {
    let status = node.status.as_ref();
    status
        .and_then(|s| s.volumes_attached.as_ref())
        .into_iter()
        .flatten()
}

/// The name of the attachment of a volume that a node's status names.
fn attachment_of(unique: &str, node: &str) -> Option<String> {
    let (driver, handle) = unique.strip_prefix(CSI)?.split_once('^')?;
    Some(api::csi::attachment_name(driver, handle, node))
}

pub(super) fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let view = View::of(seen);
    let mut out = Plan::default();
    for (id, wanted) in &seen.wanted {
        if seen.node.is_some() {
            attach(seen, id, wanted, &mut out);
        }
    }
    let mut kept = BTreeMap::new();
    for attachment in seen.attachments.iter().filter(|a| !is_deleting(&***a)) {
        let id = attachment.name_any();
        if !api::csi::is_attachment_name(&id) {
            continue;
        }
        let is_attached = attachment.status.as_ref().is_some_and(|s| s.attached);
        if let Some(wanted) = seen.wanted.get(&id) {
            if is_attached {
                kept.insert(wanted.unique.clone(), view.path(&wanted.unique));
                say_attached(&view, wanted, &mut out);
            }
            continue;
        }
        if view.in_use.contains(&id) && !may_be_forced(seen, &id, now_millis, &mut out) {
            if let Some(unique) = view.listed.get(&id).filter(|_| is_attached) {
                kept.insert(unique.clone(), view.path(unique));
            }
            continue;
        }
        if !view.listed.contains_key(&id) {
            let target = Target::of::<VolumeAttachment>("", &id);
            let uid = Some(uid_of(&**attachment));
            out.actions.push(Action::delete(target, uid));
        }
    }
    view.update(seen, kept, &mut out);
    out
}

/// What the node's status says, by the attachments' names.
struct View<'a> {
    node: Option<&'a Node>,
    in_use: BTreeSet<String>,
    /// Names of volumes.
    listed: BTreeMap<String, String>,
}

impl<'a> View<'a> {
    fn of(seen: &'a Observed) -> Self {
        let node = seen.node.as_deref();
        let of = |unique: &String| attachment_of(unique, &seen.name);
        let status = node.and_then(|n| n.status.as_ref());
        let in_use = status.and_then(|s| s.volumes_in_use.as_ref());
        let listed = node.into_iter().flat_map(listed);
        Self {
            node,
            in_use: in_use.into_iter().flatten().filter_map(of).collect(),
            listed: listed
                .filter_map(|v| Some((of(&v.name)?, v.name.clone())))
                .collect(),
        }
    }

    fn path(&self, unique: &str) -> String {
        let mut all = self.node.into_iter().flat_map(listed);
        let found = all.find(|v| v.name == unique);
        found.map(|v| v.device_path.clone()).unwrap_or_default()
    }

    /// The node's list as it should be, if it is another; volumes of others than drivers stay.
    fn update(&self, seen: &Observed, kept: BTreeMap<String, String>, out: &mut Plan) {
        let Some(node) = self.node else { return };
        let others = listed(node).filter(|v| !v.name.starts_with(CSI));
        let others = others.map(|v| (v.name.clone(), v.device_path.clone()));
        let new: BTreeMap<String, String> = others.chain(kept).collect();
        let old: BTreeMap<String, String> = listed(node)
            .map(|v| (v.name.clone(), v.device_path.clone()))
            .collect();
        if new == old {
            return;
        }
        let list: Vec<_> = new
            .iter()
            .map(|(name, path)| json!({ "name": name, "devicePath": path }))
            .collect();
        let target = Target::of::<Node>("", &seen.name);
        let status = json!({ "volumesAttached": list });
        out.actions.push(Action::merge_status(target, status));
    }
}

fn attach(seen: &Observed, id: &str, wanted: &DesiredVolume, out: &mut Plan) {
    if let Some(why) = &wanted.trouble {
        for pod in &wanted.pods {
            out.actions.push(Action::Event {
                about: pod.clone(),
                warning: true,
                reason: "FailedAttachVolume",
                message: why.clone(),
            });
        }
    }
    let known = seen.attachments.iter().any(|a| a.name_any() == id);
    if known || wanted.elsewhere.is_some() && !wanted.shared {
        return;
    }
    let object = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
        "metadata": { "name": id },
        "spec": { "attacher": wanted.driver, "nodeName": seen.name,
            "source": { "persistentVolumeName": wanted.volume } },
    });
    let target = Target::of::<VolumeAttachment>("", id);
    out.actions.push(Action::Create { target, object });
}

fn say_attached(view: &View, wanted: &DesiredVolume, out: &mut Plan) {
    if view.listed.values().any(|unique| *unique == wanted.unique) {
        return;
    }
    for pod in &wanted.pods {
        out.actions.push(Action::Event {
            about: pod.clone(),
            warning: false,
            reason: "SuccessfulAttachVolume",
            message: format!(
                "AttachVolume.Attach succeeded for volume {:?} ",
                wanted.volume
            ),
        });
    }
}

/// Whether a volume that the node still uses may go: the node is gone, off, or silent for long.
fn may_be_forced(seen: &Observed, id: &str, now_millis: i64, out: &mut Plan) -> bool {
    let Some(node) = &seen.node else { return true };
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    if taints.into_iter().any(|t| t.key == OUT_OF_SERVICE) {
        return true;
    }
    if is_node_ready(node) {
        return false;
    }
    let since = seen.since.get(id).copied().unwrap_or(now_millis);
    let left = (since + FORCED_AFTER_MILLIS).saturating_sub(now_millis);
    if left <= 0 {
        return true;
    }
    let left = u64::try_from(left).unwrap_or(u64::MAX);
    let wake = out.wake_after_millis.map_or(left, |w| w.min(left));
    out.wake_after_millis = Some(wake);
    false
}
