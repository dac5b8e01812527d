//! Disks that pods name themselves, without a claim: which of them two pods of one node cannot both have.

use k8s_openapi::api::core::v1 as k8s;

/// A disk of one of the kinds that are attached without a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What the disk is known by: it is the same one if one of them is the same.
    names: Vec<String>,
    read_only: bool,
    /// Not even read by two pods.
    exclusive: bool,
}

impl Disk {
    /// Whether two pods of one node cannot both have these.
    pub fn conflicts(&self, other: &Self) -> bool {
        let both_read = self.read_only && other.read_only && !self.exclusive;
        !both_read && self.names.iter().any(|n| other.names.contains(n))
    }

    /// The disk of a volume, if it is one of these.
    pub fn read(volume: &k8s::Volume) -> Option<Self> {
        let read = |names, read_only: Option<bool>, exclusive| Self {
            names,
            read_only: read_only.unwrap_or(false),
            exclusive,
        };
        if let Some(disk) = &volume.gce_persistent_disk {
            return Some(read(
                vec![format!("gce {}", disk.pd_name)],
                disk.read_only,
                false,
            ));
        }
        if let Some(disk) = &volume.aws_elastic_block_store {
            return Some(read(vec![format!("aws {}", disk.volume_id)], None, true));
        }
        if let Some(disk) = &volume.iscsi {
            return Some(read(
                vec![format!("iscsi {}", disk.iqn)],
                disk.read_only,
                false,
            ));
        }
        let disk = volume.rbd.as_ref()?;
        let pool = disk.pool.as_deref().unwrap_or("rbd");
        let names = disk.monitors.iter();
        let names = names.map(|m| format!("rbd {m} {pool} {}", disk.image));
        Some(read(names.collect(), disk.read_only, false))
    }
}
