//! Nodes in the course of a simulation: they join, fall silent and come back, and are drained.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{EvictParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use rand::RngExt;
use serde_json::{Value, json};

use super::{HollowNode, Play, Step};
use crate::described::SimulateError;
use crate::described::census::{is_finished, node_of};
use crate::described::event::Which;
use crate::described::hollow;

/// Between tries to evict what a budget held.
const EVICT_AGAIN: Duration = Duration::from_secs(5);

impl Play<'_> {
    pub(super) async fn add(
        &mut self,
        pool: usize,
        count: usize,
        path: &str,
    ) -> Result<(), SimulateError> {
        let Some(of) = self.description.nodes.get(pool) else {
            return Ok(());
        };
        for _ in 0..count {
            let number = self.numbers.get(pool).copied().unwrap_or(0);
            let node = hollow::node(of, number, &self.now());
            self.join(&node, Some(pool), path).await?;
            if let Some(next) = self.numbers.get_mut(pool) {
                *next += 1;
            }
        }
        Ok(())
    }

    pub(super) async fn join(
        &mut self,
        node: &Value,
        pool: Option<usize>,
        path: &str,
    ) -> Result<(), SimulateError> {
        let refused = |e: String| SimulateError::Refused(format!("{path}: {e}"));
        let new: Node = serde_json::from_value(node.clone()).map_err(|e| refused(e.to_string()))?;
        let zone = new.labels().get("topology.kubernetes.io/zone").cloned();
        let api: Api<Node> = Api::all(self.client.clone());
        let made = api.create(&PostParams::default(), &new).await;
        made.map_err(|e| refused(client::said(&e)))?;
        let alive = HollowNode {
            alive: true,
            pool,
            zone,
        };
        self.hollow.insert(new.name_any(), alive);
        Ok(())
    }

    pub(super) async fn patch_node(&mut self, name: &str, patch: &Value, status: bool) {
        let api: Api<Node> = Api::all(self.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let done = if status {
            api.patch_status(name, &params, &patch).await
        } else {
            api.patch(name, &params, &patch).await
        };
        self.written("a node", done);
    }

    pub(super) async fn silent(&mut self, node: &str) {
        if self.hollow.get(node).is_some_and(|n| !n.alive) {
            let patch = hollow::readiness(false, &self.now());
            self.patch_node(node, &patch, true).await;
        }
    }

    /// Comes back, unless somebody was faster, or the node is gone for good.
    pub(super) async fn back(&mut self, node: &str) {
        if self.hollow.get(node).is_some_and(|n| !n.alive) {
            self.restore(node).await;
        }
    }

    pub(super) async fn restore(&mut self, node: &str) {
        if let Some(known) = self.hollow.get_mut(node) {
            known.alive = true;
        }
        let patch = hollow::readiness(true, &self.now());
        self.patch_node(node, &patch, true).await;
        let uncordoned = json!({ "spec": { "unschedulable": false } });
        self.patch_node(node, &uncordoned, false).await;
        for pod in self.pods.list() {
            if node_of(&pod) == Some(node) {
                self.consider(&pod);
            }
        }
    }

    /// Evicts what is on a node, and comes again for what budgets hold.
    pub(super) async fn evict(&mut self, node: &str) {
        self.held.remove(node);
        if !self.is_alive(node) {
            return;
        }
        let mut held = None;
        for pod in self.pods.list() {
            let of_set = pod.owner_references().iter().any(|o| o.kind == "DaemonSet");
            let goes = pod.metadata.deletion_timestamp.is_some() || is_finished(&pod);
            if node_of(&pod) != Some(node) || of_set || goes {
                continue;
            }
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let api = self.pods_of(&namespace);
            let done = api.evict(&name, &EvictParams::default()).await;
            match done {
                Err(kube::Error::Api(e)) if e.code == 429 => {
                    held = Some(format!("pod {namespace}/{name}: {}", e.message));
                }
                done => {
                    let is_lost = pod.owner_references().is_empty();
                    if self.written("an eviction", done) && is_lost {
                        let text = format!(
                            "pod {namespace}/{name} was drained, and nothing makes it again"
                        );
                        self.census.note(text);
                    }
                }
            }
        }
        if let Some(why) = held {
            self.held.insert(node.to_owned(), why);
            self.after(EVICT_AGAIN, Step::Evict(node.to_owned()));
        }
    }

    /// The nodes that are meant, of those that are alive or not.
    pub(super) fn choose(
        &mut self,
        which: &Which,
        path: &str,
        alive: Option<bool>,
    ) -> Result<Vec<String>, SimulateError> {
        if let Some(name) = which.nodes.iter().find(|n| !self.hollow.contains_key(*n)) {
            let why = format!("{path}.nodes: there is no node {name:?}");
            return Err(SimulateError::Refused(why));
        }
        let pools = &self.description.nodes;
        let is_meant = |name: &String, node: &HollowNode| {
            let pool = node.pool.and_then(|p| pools.get(p)).map(|p| &p.name);
            (which.nodes.is_empty() || which.nodes.contains(name))
                && (which.pool.is_none() || which.pool.as_ref() == pool)
                && (which.zone.is_none() || which.zone == node.zone)
                && alive.is_none_or(|a| node.alive == a)
        };
        let all = self
            .hollow
            .iter()
            .filter(|(name, node)| is_meant(name, node));
        let mut all: Vec<String> = all.map(|(name, _)| name.clone()).collect();
        let count = which.count.unwrap_or(all.len());
        if count > all.len() {
            let text = format!(
                "{path}: {count} nodes are meant, and there are {}",
                all.len()
            );
            self.census.note(text);
        } else if all.is_empty() {
            let text = format!("{path}: no such node was left when it came");
            self.census.note(text);
        }
        let mut out = Vec::new();
        while out.len() < count && !all.is_empty() {
            let at = match which.count {
                Some(_) => self.random.random_range(0..all.len()),
                None => 0,
            };
            out.push(all.remove(at));
        }
        Ok(out)
    }
}
