//! The claims of one pod: which are bound, and which are bound when it has a node.

use std::sync::Arc;

use super::{Claim, Storage};
use crate::pod::Pod;

/// The claims of a pod, by `namespace/name`.
#[derive(Debug, Default)]
pub struct Claims<'a> {
    pub bound: Vec<(&'a Arc<str>, &'a Arc<Claim>)>,
    /// Their volumes are bound when a node is chosen.
    pub delayed: Vec<(&'a Arc<str>, &'a Arc<Claim>)>,
}

/// Why a pod's claims keep it from every node, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub String);

impl<'a> Claims<'a> {
    /// # Errors
    /// When no node would do until a claim changes.
    pub fn of(pod: &'a Pod, storage: &'a Storage) -> Result<Self, Unusable> {
        let mut out = Self::default();
        let mut immediate = false;
        for used in &pod.wants.claims {
            let name = &used.name;
            let Some(claim) = storage.claim(&used.key) else {
                return Err(Unusable(if used.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            check(pod, claim, used.ephemeral)?;
            if claim.is_bound() {
                out.bound.push((&used.key, claim));
            } else if delayed(claim, storage) {
                out.delayed.push((&used.key, claim));
            } else {
                immediate = true;
            }
        }
        if immediate {
            let text = "pod has unbound immediate PersistentVolumeClaims";
            return Err(Unusable(text.to_owned()));
        }
        // The smallest first: a large volume is not spent on a small claim.
        out.delayed.sort_by_key(|(_, c)| c.bytes);
        Ok(out)
    }
}

fn check(pod: &Pod, claim: &Claim, ephemeral: bool) -> Result<(), Unusable> {
    let name = &claim.name;
    if claim.lost {
        return Err(Unusable(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
            claim.volume
        )));
    }
    if claim.deleting {
        return Err(Unusable(format!(
            "persistentvolumeclaim {name:?} is being deleted"
        )));
    }
    if ephemeral && claim.controller.as_deref() != Some(&*pod.uid) {
        return Err(Unusable(format!(
            "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
            claim.namespace, pod.namespace, pod.name
        )));
    }
    Ok(())
}

/// Whether it waits for a node. Of one whose class is not there nobody knows that it would.
fn delayed(claim: &Claim, storage: &Storage) -> bool {
    let class = storage.class(&claim.class);
    claim.volume.is_empty() && class.is_some_and(|c| c.waits)
}
