//! How full volumes are, and whether something is wrong with them, as their drivers say: one that does
//! not say is not asked of the kernel, since what is behind it may never answer.

use super::driver::VolumeHealth;
use super::paths::text;
use super::{Csi, CsiVolume};
use host::mounts::FsUsage;
use host::plugins::csi::volume_usage::Unit;
use host::plugins::csi::{NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse};

impl Csi {
    /// How full a volume of a pod is, if its driver says, and how it is otherwise, if it says that, too.
    pub async fn usage(
        &self,
        asked: &CsiVolume,
        uid: &str,
    ) -> Option<(FsUsage, Option<VolumeHealth>)> {
        let driver = self.driver(&asked.driver).ok()?;
        let can = driver.abilities().await.inspect_err(|e| {
            tracing::debug!(driver = asked.driver, error = %e, "a driver does not say what it can");
        });
        let can = can.ok().filter(|can| can.stats)?;
        let place = self.paths.place(asked, uid);
        let staging = can.stage && !asked.ephemeral;
        let request = NodeGetVolumeStatsRequest {
            volume_id: asked.handle.clone(),
            volume_path: text(&place.target),
            staging_target_path: if staging {
                text(&place.staging)
            } else {
                String::new()
            },
        };
        match driver.stats(request).await {
            Ok(answer) => {
                let told = answer.volume_condition.as_ref().filter(|_| can.condition);
                let health = told.map(|c| VolumeHealth {
                    abnormal: c.abnormal,
                    message: c.message.clone(),
                });
                Some((read(&answer)?, health))
            }
            Err(e) => {
                tracing::debug!(volume = asked.name, error = %e, "a driver does not say how full a volume is");
                None
            }
        }
    }
}

fn read(answer: &NodeGetVolumeStatsResponse) -> Option<FsUsage> {
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let mut out = FsUsage::default();
    for usage in &answer.usage {
        match usage.unit() {
            Unit::Bytes => {
                out.capacity_bytes = number(usage.total);
                out.available_bytes = number(usage.available);
                out.used_bytes = number(usage.used);
            }
            Unit::Inodes => {
                out.inodes = number(usage.total);
                out.inodes_free = number(usage.available);
            }
            Unit::Unknown => {}
        }
    }
    (!answer.usage.is_empty()).then_some(out)
}
