//! What the file says happens, in the course of a simulation.

use std::borrow::Cow;
use std::time::Duration;

use clock::Instant;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::{Play, Step};
use crate::described::SimulateError;
use crate::described::event::{Deed, More};
use crate::described::hollow;
use crate::described::listed::each;

impl Play<'_> {
    pub(super) async fn event(&mut self, index: usize, turn: u32) -> Result<(), SimulateError> {
        let description = self.description;
        let Some(event) = description.events.get(index) else {
            return Ok(());
        };
        let Some(deed) = event.deed() else {
            return Ok(());
        };
        let path = format!("events[{index}].{deed}");
        let refused = SimulateError::Refused;
        match deed {
            Deed::Create(object) => {
                let suffix = if event.repeats() {
                    format!("-{turn}")
                } else {
                    String::new()
                };
                let mut object = Cow::Borrowed(object);
                if let Some(time) = event.runs_for.as_ref() {
                    hollow::set_runs_for(object.to_mut(), time.draw(&self.random));
                }
                self.make(&path, &object, &suffix).await
            }
            Deed::Delete(named) => {
                let deleted = self.objects.delete(&path, named).await;
                if deleted.is_ok() && named.kind == "Node" {
                    self.hollow.remove(&named.name);
                }
                deleted.map_err(refused)
            }
            Deed::Scale(scale) => self.objects.scale(&path, scale).await.map_err(refused),
            Deed::Load(load) => {
                self.usage.lock().set(load, Instant::now());
                Ok(())
            }
            Deed::Fail(which) => {
                for node in self.choose(which, &path, Some(true))? {
                    if let Some(known) = self.hollow.get_mut(&node) {
                        known.alive = false;
                    }
                    if let Some(time) = event.lasts.as_ref() {
                        let time = time.draw(&self.random);
                        self.after(time, Step::Back(node.clone()));
                    }
                    self.after(description.node_grace.0, Step::Silent(node));
                }
                Ok(())
            }
            Deed::Restore(which) => {
                for node in self.choose(which, &path, None)? {
                    self.restore(&node).await;
                }
                Ok(())
            }
            Deed::Drain(which) => {
                for node in self.choose(which, &path, Some(true))? {
                    let cordoned = json!({ "spec": { "unschedulable": true } });
                    self.patch_node(&node, &cordoned, false).await;
                    self.after(Duration::ZERO, Step::Evict(node));
                }
                Ok(())
            }
            Deed::Add(more) => self.more(more, &path).await,
            Deed::Remove(which) => {
                for node in self.choose(which, &path, None)? {
                    let api: Api<Node> = Api::all(self.client.clone());
                    let done = api.delete(&node, &DeleteParams::default()).await;
                    self.written("a node", done);
                    self.hollow.remove(&node);
                }
                Ok(())
            }
        }
    }

    /// Makes an object, or all of a List: nodes are hollow ones.
    pub(super) async fn make(
        &mut self,
        path: &str,
        object: &Value,
        suffix: &str,
    ) -> Result<(), SimulateError> {
        for (path, one) in each(path, object) {
            if one["kind"] != "Node" {
                let made = self.objects.create(&path, one, suffix).await;
                made.map_err(SimulateError::Refused)?;
                continue;
            }
            let mut node = hollow::captured(one, &self.now());
            if let Some(name) = one.pointer("/metadata/name").and_then(Value::as_str) {
                node["metadata"]["name"] = json!(format!("{name}{suffix}"));
            }
            self.join(&node, None, &path).await?;
        }
        Ok(())
    }

    async fn more(&mut self, more: &More, path: &str) -> Result<(), SimulateError> {
        let pool = self
            .description
            .nodes
            .iter()
            .position(|p| p.name == more.pool);
        match pool {
            Some(pool) => self.add(pool, more.count, path).await,
            None => Ok(()),
        }
    }
}
