//! Volumes of persistent volume claims, also of those that are made for the pod.

use super::claim_lookup::BoundClaim;
use super::error::{Error, io_at, open_folder};
use super::source::{Order, Preparing, Source};
use super::{csi, file_system, host_path, iscsi, nfs};
use crate::csi::CsiVolume;
use crate::pod::spec;
use api::local_volumes::{PROVISIONED_BY, PROVISIONER, SOURCE};
use k8s_openapi::api::core::v1::{PersistentVolumeSpec, Volume};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The kind.
pub struct Claim;

/// The folder of local volumes below the pod's `volumes`.
pub const LOCAL: &str = "kubernetes.io~local-volume";

impl Source for Claim {
    fn plugin(&self) -> &'static str {
        LOCAL
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        Box::pin(prepare(order))
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let uid = spec::uid(order.pod);
        let held = order.means.claims.held(uid, &order.volume.name);
        match held {
            Some(held) if held.driver.is_some() => Box::pin(refresh(order, held.path)),
            Some(held) => Box::pin(std::future::ready(Ok(held.path))),
            None => self.prepare(order),
        }
    }
}

/// A driver's volume may have grown, and may have to be published again.
async fn refresh(order: Order<'_>, path: PathBuf) -> Result<PathBuf, Error> {
    let found = match order.means.claims.find(order).await {
        Ok(found) => found,
        // Such as a claim that is being deleted: the pod keeps what it has.
        Err(e) => {
            tracing::debug!(volume = order.volume.name, error = %e, "a claim cannot be looked at now");
            return Ok(path);
        }
    };
    if let Some(asked) = CsiVolume::of_volume(&found.volume, found.read_only) {
        csi::publish_again(order, &asked).await?;
        if let Err(why) = grow(order, &found, &asked).await {
            order.means.csi.say_not_grown(order.pod, &why.to_string());
        }
    }
    Ok(path)
}

async fn grow(order: Order<'_>, found: &BoundClaim, asked: &CsiVolume) -> Result<(), Error> {
    let csi = &order.means.csi;
    let grown = csi
        .grow(asked, order.pod, &found.claim, &found.volume)
        .await;
    let grown = grown.map_err(|e| {
        let why = format!("NodeExpandVolume.NodeExpandVolume failed: {e}");
        order.of(found.name(), &why)
    })?;
    if let Some(size) = grown {
        tracing::info!(volume = found.name(), size, "a volume has grown");
    }
    Ok(())
}

async fn prepare(order: Order<'_>) -> Result<PathBuf, Error> {
    let found = order.means.claims.find(order).await?;
    is_used_as_it_is(order, &found)?;
    let (uid, name) = (spec::uid(order.pod), &order.volume.name);
    let hold = |path: PathBuf| {
        let held = found.at(path);
        let held = order.means.claims.hold(uid, name, held);
        held.map_err(|why| order.of(found.name(), &why))
    };
    let was_held = order.means.claims.held(uid, name).is_some();
    // First, so that of two pods only one mounts what is for one alone.
    hold(PathBuf::new())?;
    match mount(order, &found).await {
        Ok(path) => {
            hold(path.clone())?;
            Ok(path)
        }
        Err(e) => {
            if !was_held {
                order.means.claims.release(uid, name);
            }
            Err(e)
        }
    }
}

/// A file system is mounted, a block device is a device.
fn is_used_as_it_is(order: Order<'_>, found: &BoundClaim) -> Result<(), Error> {
    let name = &order.volume.name;
    let containers = || {
        let init = spec::init_containers(order.pod).iter();
        init.chain(spec::containers(order.pod))
    };
    let devices = containers().any(|c| {
        let mut all = c.volume_devices.iter().flatten();
        all.any(|d| &d.name == name)
    });
    let mounts = containers().any(|c| {
        let mut all = c.volume_mounts.iter().flatten();
        all.any(|m| &m.name == name)
    });
    match found.is_block() {
        true if mounts => Err(order.unmounted(format!(
            "volume {name} has volumeMode Block, but is specified in volumeMounts"
        ))),
        false if devices => Err(order.unmounted(format!(
            "volume {name} has volumeMode Filesystem, but is specified in volumeDevices"
        ))),
        _ => Ok(()),
    }
}

async fn mount(order: Order<'_>, found: &BoundClaim) -> Result<PathBuf, Error> {
    let none = PersistentVolumeSpec::default();
    let spec = found.volume.spec.as_ref().unwrap_or(&none);
    let options = spec.mount_options.as_deref().unwrap_or_default();
    let wrong = |text: &str| order.of(found.name(), text);
    if let Some(asked) = CsiVolume::of_volume(&found.volume, found.read_only) {
        let path = csi::publish(order, &asked).await?;
        grow(order, found, &asked).await?;
        return Ok(path);
    }
    // What has no mount of its own.
    let without_options = || match options {
        [] => Ok(()),
        _ => Err(wrong(
            "Mount options are not supported for this volume type",
        )),
    };
    if let Some(local) = &spec.local {
        let place = own_folder(order, found, &local.path)?;
        let place = place.unwrap_or_else(|| PathBuf::from(&local.path));
        let meta = std::fs::metadata(&place);
        let meta = meta.map_err(|_| wrong(&format!("path {:?} does not exist", local.path)))?;
        return match (found.is_block(), meta.file_type().is_block_device()) {
            (true, true) => Ok(place),
            (true, false) => Err(wrong(&format!("{:?} is not a block device", local.path))),
            (false, true) => {
                let wanted = file_system::FileSystemSpec {
                    kind: local.fs_type.as_deref(),
                    options,
                    // Another pod may write it: who may not is kept from it in its containers.
                    read_only: false,
                };
                let target = order.folder(LOCAL, found.name());
                let mounted = file_system::mount(&place, &target, &wanted).await;
                mounted.map_err(|why| wrong(&why))?;
                order.give_to_group(target, found.read_only).await
            }
            (false, false) => {
                without_options()?;
                bind(order, found, &place).await
            }
        };
    }
    if let Some(source) = &spec.iscsi {
        let (disk, asked) = iscsi::of_persistent(source, found.name());
        let secret = source.secret_ref.as_ref().map(|s| {
            let namespace = s.namespace.as_deref();
            let namespace = namespace.unwrap_or(spec::namespace(order.pod));
            (namespace.to_owned(), s.name.clone().unwrap_or_default())
        });
        let dir = order.folder(iscsi::PLUGIN, found.name());
        let device = iscsi::attach(order, &dir, &disk, &asked, secret).await;
        let device = device.map_err(|why| wrong(&why))?;
        if found.is_block() {
            return Ok(device);
        }
        let mounted = file_system::mount(&device, &dir, &asked.file_system(options)).await;
        mounted.map_err(|why| wrong(&why))?;
        let read_only = found.read_only || asked.read_only;
        return order.give_to_group(dir, read_only).await;
    }
    if found.is_block() {
        return Err(wrong(
            "volumeMode Block is supported by this node for local and iSCSI volumes and those of CSI drivers alone",
        ));
    }
    if let Some(source) = &spec.host_path {
        without_options()?;
        let kind = source.type_.as_deref().unwrap_or_default();
        return host_path::host_path(&order.volume.name, &source.path, kind);
    }
    if let Some(source) = &spec.nfs {
        let dir = order.folder(nfs::PLUGIN, found.name());
        let read_only = found.read_only || source.read_only == Some(true);
        let place = nfs::Export {
            server: &source.server,
            path: &source.path,
            options,
            read_only,
        };
        return nfs::mount(&place, &dir).await.map_err(|why| wrong(&why));
    }
    Err(wrong(
        "this kind of persistent volume is not supported by this node",
    ))
}

/// The folder of a volume that was made on this node's own disk; `None`: it is not such a volume.
fn own_folder(order: Order<'_>, found: &BoundClaim, path: &str) -> Result<Option<PathBuf>, Error> {
    let annotations = found.volume.metadata.annotations.as_ref();
    let maker = annotations.and_then(|a| a.get(PROVISIONED_BY));
    let disk = order.means.disk.as_ref();
    let Some(disk) = disk.filter(|_| maker.is_some_and(|m| m == PROVISIONER)) else {
        return Ok(None);
    };
    if disk.folder(found.name()).as_deref() != Some(Path::new(path)) {
        let why = format!("path {path:?} is not among this node's own volumes");
        return Err(order.of(found.name(), &why));
    }
    let is_copy = annotations.is_some_and(|a| a.contains_key(SOURCE));
    if is_copy && !disk.is_made(found.name()) {
        let why = "its data is not copied yet; events of the persistent volume say more";
        return Err(order.of(found.name(), why));
    }
    let bytes = super::local_disk::size_of(&found.volume);
    let made = disk.make(found.name(), bytes);
    made.map(|_| disk.folder(found.name()))
        .map_err(|e| order.of(found.name(), &e.to_string()))
}

/// Shows a folder of the node below the pod's folder.
async fn bind(order: Order<'_>, found: &BoundClaim, place: &Path) -> Result<PathBuf, Error> {
    let target = order.folder(LOCAL, found.name());
    open_folder(&target).map_err(io_at(&target))?;
    if !host::mounts::is_mount_point(&target).map_err(io_at(&target))? {
        host::mounts::bind(place, &target).map_err(io_at(&target))?;
    }
    order.give_to_group(target, found.read_only).await
}
