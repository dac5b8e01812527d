//! Volumes that show several sources as one, tokens of the pod's service account among them.

use super::error::Error;
use super::files::{DEFAULT_MODE, Files, write};
use super::source::{Order, Preparing, Source};
use crate::objects::ObjectKind;
use k8s_openapi::api::core::v1::{Volume, VolumeProjection};

/// The kind.
pub struct Projected;

impl Source for Projected {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~projected"
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let plugin = self.plugin();
        Box::pin(async move {
            let mut files = Files::new(order);
            if let Some(v) = &order.volume.projected {
                let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
                for source in v.sources.iter().flatten() {
                    project(&mut files, order, source, mode).await?;
                }
            }
            write(order, plugin, true, &files.done())
        })
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        self.prepare(order)
    }
}

async fn project(
    files: &mut Files<'_>,
    order: Order<'_>,
    source: &VolumeProjection,
    mode: i32,
) -> Result<(), Error> {
    if let Some(s) = &source.config_map {
        let items = s.items.as_deref();
        let kind = ObjectKind::ConfigMap;
        files.object(kind, &s.name, items, s.optional, mode).await?;
    }
    if let Some(s) = &source.secret {
        let items = s.items.as_deref();
        let kind = ObjectKind::Secret;
        files.object(kind, &s.name, items, s.optional, mode).await?;
    }
    if let Some(s) = &source.downward_api {
        files.downward(s.items.as_deref(), mode)?;
    }
    if let Some(s) = &source.service_account_token {
        let seconds = s.expiration_seconds.unwrap_or(3600);
        let tokens = &order.means.tokens;
        let token = tokens.get(order.pod, s.audience.as_deref(), seconds).await;
        let token = token.map_err(|e| order.wrong(format!("failed to fetch token: {e}")))?;
        files.add_token(&s.path, token, mode);
    }
    if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
        return Err(order.wrong("this kind of projection is not supported by this node"));
    }
    Ok(())
}
