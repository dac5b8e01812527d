//! Volumes of CSI drivers: those that a pod brings along, and what claims are bound to.

use super::error::Error;
use super::source::{Order, Preparing, Source};
use crate::csi::publish::Group;
use crate::csi::{CsiVolume, PLUGIN};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use std::path::{Path, PathBuf};

/// The kind.
pub struct Csi;

impl Source for Csi {
    fn plugin(&self) -> &'static str {
        PLUGIN
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.csi.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        Box::pin(async move { publish(order, &asked(order)?).await })
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        Box::pin(async move {
            publish_again(order, &asked(order)?).await?;
            Ok(order.dir(PLUGIN).join("mount"))
        })
    }

    fn holds_more_than_mounts(&self) -> bool {
        true
    }

    fn release<'a>(
        &self,
        means: &'a super::Means,
        dir: &'a Path,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let done = means.csi.unpublish(dir).await;
            done.map_err(|source| Error::Release {
                dir: dir.to_owned(),
                source: Box::new(source),
            })
        })
    }
}

fn asked(order: Order<'_>) -> Result<CsiVolume, Error> {
    let asked = CsiVolume::inline(order.pod, order.volume);
    asked.ok_or_else(|| order.wrong("it names no driver"))
}

fn group(order: Order<'_>) -> Group {
    Group {
        gid: order.group().and_then(|g| u32::try_from(g).ok()),
        keeps_fitting_root: order.keeps_fitting_root(),
    }
}

/// Makes a driver's volume ready for the pod; where it is.
pub(super) async fn publish(order: Order<'_>, asked: &CsiVolume) -> Result<PathBuf, Error> {
    let csi = &order.means.csi;
    let done = csi.publish(asked, order.pod, group(order)).await;
    done.map_err(|e| order.of(&asked.name, &e.to_string()))
}

/// Publishes it once more, if its driver wants that.
pub(super) async fn publish_again(order: Order<'_>, asked: &CsiVolume) -> Result<(), Error> {
    let csi = &order.means.csi;
    let done = csi.publish_again(asked, order.pod, group(order)).await;
    done.map_err(|e| order.of(&asked.name, &e.to_string()))
}
