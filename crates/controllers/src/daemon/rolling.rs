//! Which pods of an older template are replaced now: by deleting them, no more than may be
//! unavailable, or, when the set surges, by making new ones beside them first.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::state::{Daemon, Pods};
use crate::common::is_deleting;

/// Pods to be made, by node, and to be deleted.
#[derive(Default)]
pub(super) struct Changes<'a> {
    pub create: Vec<String>,
    pub delete: Pods<'a>,
}

impl Changes<'_> {
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// The new and the old pod of a node; `None` when there are more of one kind, which is mended
/// first.
type Pair<'a> = Option<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>)>;

fn pair<'a>(daemon: &Daemon<'a>, node: &str) -> Pair<'a> {
    let (mut new, mut old) = (None, None);
    let pods = daemon.pods.get(node).into_iter().flatten();
    for pod in pods.copied().filter(|p| !is_deleting(&***p)) {
        let one = if daemon.is_updated(pod) {
            &mut new
        } else {
            &mut old
        };
        if one.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// Nodes with pods, and those that should have some.
fn nodes<'a>(daemon: &'a Daemon<'_>) -> impl Iterator<Item = &'a String> {
    let lacking = daemon.fits.keys().filter(|n| daemon.should_run(n));
    let lacking = lacking.filter(|n| !daemon.pods.contains_key(*n));
    daemon.pods.keys().chain(lacking)
}

pub(super) fn changes<'a>(daemon: &Daemon<'a>) -> Changes<'a> {
    if daemon.max_surge() == 0 {
        by_deleting(daemon)
    } else {
        by_surging(daemon)
    }
}

fn room(most: i32, used: usize) -> usize {
    usize::try_from(most).unwrap_or(0).saturating_sub(used)
}

fn by_deleting<'a>(daemon: &Daemon<'a>) -> Changes<'a> {
    let mut unavailable = 0;
    let (mut broken, mut candidates): (Pods<'a>, Pods<'a>) = (Vec::new(), Vec::new());
    for node in nodes(daemon) {
        match pair(daemon, node) {
            None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            Some((Some(new), None)) => unavailable += usize::from(!daemon.is_available(new)),
            Some((None, Some(old))) if daemon.is_available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                // Nobody misses it.
                broken.push(old);
                unavailable += 1;
            }
        }
    }
    candidates.truncate(room(daemon.max_unavailable(), unavailable));
    broken.extend(candidates);
    Changes {
        create: Vec::new(),
        delete: broken,
    }
}

fn by_surging<'a>(daemon: &Daemon<'a>) -> Changes<'a> {
    let mut changes = Changes::default();
    let (mut surging, mut available) = (0, 0);
    // Old pods on nodes that no longer fit, and nodes whose old pod may get a new one beside it.
    let (mut leaving, mut candidates) = (Vec::new(), Vec::new());
    for node in nodes(daemon) {
        let Some((new, old)) = pair(daemon, node) else {
            surging += 1;
            continue;
        };
        let counted = old.or(new).is_some_and(|p| daemon.is_available(p));
        available += i32::from(counted);
        match (new, old) {
            (_, None) => {}
            (Some(new), Some(old)) if daemon.is_available(new) => changes.delete.push(old),
            (Some(_), Some(_)) => surging += 1,
            (None, Some(old)) => match (counted, daemon.should_run(node)) {
                (false, false) => changes.delete.push(old),
                (false, true) => changes.create.push(node.clone()),
                (true, false) => leaving.push(old),
                (true, true) => candidates.push(node.clone()),
            },
        }
    }
    // With maxSurge, nothing is to be lost: an old pod leaves when another is there for it.
    leaving.truncate(room(available - daemon.desired(), 0));
    changes.delete.extend(leaving);
    candidates.truncate(room(daemon.max_surge(), surging));
    changes.create.extend(candidates);
    changes
}
