//! Claims in the course of a simulation: their volumes come and go, as [`super::super::volumes`] has it.

use client::Change;
use controllers::volumes::class_of_claim;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use super::Play;
use crate::described::volumes;

impl Play<'_> {
    /// A claim has changed: is its volume to be made, or to go?
    pub(super) async fn provision(&mut self, change: &Change<PersistentVolumeClaim>) {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let Some(claim) = change.new.as_deref() else {
            let name = change.old.as_deref().map(volumes::name).unwrap_or_default();
            let found = volumes.get_opt(&name).await;
            if found.is_ok_and(|found| found.is_some_and(|v| volumes::goes(&v))) {
                let done = volumes.delete(&name, &DeleteParams::default()).await;
                self.written("a volume", done);
            }
            return;
        };
        let Some(by) = volumes::wanted(claim) else {
            return;
        };
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let class = classes.get_opt(class_of_claim(claim)).await;
        let class = class.unwrap_or_default();
        let node = volumes::place(claim).and_then(|name| self.hollow.get(name));
        let zone = node.and_then(|n| n.zone.as_deref());
        let new = volumes::made(claim, by, class.as_ref(), zone);
        let made = match serde_json::from_value(new) {
            Ok(new) => volumes.create(&PostParams::default(), &new).await,
            Err(e) => Err(kube::Error::SerdeError(e)),
        };
        if self.written("a volume", made) {
            let text = format!("volumes of {by} are made at once, with room for all");
            self.census.note(text);
        }
    }
}
