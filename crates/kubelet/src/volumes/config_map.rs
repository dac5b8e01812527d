//! Volumes with the files of a ConfigMap.

use super::files::{DEFAULT_MODE, Files, write};
use super::source::{Order, Preparing, Source};
use crate::objects::ObjectKind;
use k8s_openapi::api::core::v1::Volume;

/// The kind.
pub struct ConfigMap;

impl Source for ConfigMap {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~configmap"
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let plugin = self.plugin();
        Box::pin(async move {
            let mut files = Files::new(order);
            if let Some(v) = &order.volume.config_map {
                let (items, mode) = (v.items.as_deref(), v.default_mode.unwrap_or(DEFAULT_MODE));
                let kind = ObjectKind::ConfigMap;
                files.object(kind, &v.name, items, v.optional, mode).await?;
            }
            write(order, plugin, false, &files.done())
        })
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        self.prepare(order)
    }
}
