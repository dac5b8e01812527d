//! Volumes with the files of a Secret, which never reach a disk.

use super::files::{DEFAULT_MODE, Files, write};
use super::source::{Order, Preparing, Source};
use crate::objects::ObjectKind;
use k8s_openapi::api::core::v1::Volume;

/// The kind.
pub struct Secret;

impl Source for Secret {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~secret"
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let plugin = self.plugin();
        Box::pin(async move {
            let mut files = Files::new(order);
            if let Some(v) = &order.volume.secret {
                let (items, mode) = (v.items.as_deref(), v.default_mode.unwrap_or(DEFAULT_MODE));
                let name = v.secret_name.clone().unwrap_or_default();
                let kind = ObjectKind::Secret;
                files.object(kind, &name, items, v.optional, mode).await?;
            }
            write(order, plugin, true, &files.done())
        })
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        self.prepare(order)
    }
}
