//! Volumes that show several sources as one: tokens of the pod's service account, trust anchors and
//! certificates of the pod among them.

use super::error::Error;
use super::files::{DEFAULT_MODE, Files, write};
use super::source::{Order, Preparing, Source};
use crate::objects::ObjectKind;
use k8s_openapi::api::core::v1::{PodCertificateProjection, Volume, VolumeProjection};

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
                for (index, source) in v.sources.iter().flatten().enumerate() {
                    project(&mut files, order, (index, source), mode).await?;
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
    (index, source): (usize, &VolumeProjection),
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
        files.add_own(&s.path, token, mode);
    }
    if let Some(s) = &source.cluster_trust_bundle {
        let anchors = order.means.trust_bundles.get(s).await;
        let anchors = anchors.map_err(|why| order.wrong(why))?;
        files.add_own(&s.path, anchors, mode);
    }
    if let Some(s) = &source.pod_certificate {
        certificate(files, order, (index, s), mode).await?;
    }
    Ok(())
}

/// The key and the certificates of a pod, together or each in a file.
async fn certificate(
    files: &mut Files<'_>,
    order: Order<'_>,
    (index, source): (usize, &PodCertificateProjection),
    mode: i32,
) -> Result<(), Error> {
    let which = (order.volume.name.as_str(), index);
    let found = order.means.certificates.get(order.pod, which, source).await;
    let found = found.map_err(|why| order.wrong(why))?;
    let together = format!("{}{}", found.key, found.chain);
    for (path, text) in [
        (&source.credential_bundle_path, together),
        (&source.key_path, found.key),
        (&source.certificate_chain_path, found.chain),
    ] {
        if let Some(path) = path.as_deref().filter(|p| !p.is_empty()) {
            files.add_own(path, text, mode);
        }
    }
    Ok(())
}
