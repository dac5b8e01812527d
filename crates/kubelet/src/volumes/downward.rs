//! Volumes in which a pod reads about itself.

use super::files::{DEFAULT_MODE, Files, write};
use super::source::{Order, Preparing, Source};
use k8s_openapi::api::core::v1::Volume;

/// The kind.
pub struct Downward;

impl Source for Downward {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~downward-api"
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let plugin = self.plugin();
        Box::pin(async move {
            let mut files = Files::new(order);
            if let Some(v) = &order.volume.downward_api {
                let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
                files.downward(v.items.as_deref(), mode)?;
            }
            write(order, plugin, false, &files.done())
        })
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        self.prepare(order)
    }
}
