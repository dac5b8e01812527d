//! Disks behind iSCSI, by the host's own initiator (open-iscsi): a target is logged in to while a
//! volume of it is used. Which pods use which disk is noted in a folder of the node, before anything
//! is logged in, so that a later kubelet knows what to give back.

mod disk;

use super::error::{Error, open_folder, private_folder};
use super::file_system;
use super::source::{Means, Order, Preparing, Source, unmount_below};
use super::tools::{Tool, ToolOutput};
use crate::objects::{Key, ObjectKind};
use crate::pod::spec;
use crate::{checkpoint, folder};
use disk::{DISCOVERY_AUTH, SESSION_AUTH, interface_values, of_volume, with_secret};
pub use disk::{Disk, IscsiOptions, of_persistent};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

/// The folder of these volumes below the pod's `volumes`.
pub const PLUGIN: &str = "kubernetes.io~iscsi";

const ISCSIADM: Tool = Tool {
    name: "iscsiadm",
    package: "open-iscsi",
};
/// Its answers: there is such a session; there is none, or nothing of that name.
const SESSION_EXISTS: i32 = 15;
const NOTHING_THERE: [i32; 2] = [2, 21];
/// It gives up a portal by itself after two minutes.
const PATIENCE: Duration = Duration::from_secs(130);
/// How often a device is looked for, a second apart.
const LOOKS: u32 = 30;
/// The same for the device that several paths have in common; as upstream.
const LOOKS_FOR_COMMON: u32 = 10;
/// Where devices have names that say how they are reached.
const BY_PATH: &str = "/dev/disk/by-path";
/// Where the tool keeps its records, by distribution.
const RECORDS: [&str; 2] = ["/etc/iscsi", "/var/lib/iscsi"];

/// While one volume logs in, no other one may find that it is the last and log out.
static TURN: Mutex<()> = Mutex::const_new(());

/// The kind.
pub struct Iscsi;

impl Source for Iscsi {
    fn plugin(&self) -> &'static str {
        PLUGIN
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.iscsi.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        Box::pin(async move {
            let source = order.volume.iscsi.clone().unwrap_or_default();
            let (disk, asked) = of_volume(&source, &order.volume.name);
            let namespace = spec::namespace(order.pod).to_owned();
            let secret = source.secret_ref.map(|s| (namespace, s.name));
            let dir = order.dir(PLUGIN);
            let device = attach(order, &dir, &disk, &asked, secret).await;
            let device = device.map_err(|why| order.wrong(why))?;
            let mounted = file_system::mount(&device, &dir, &asked.file_system(&[])).await;
            mounted.map_err(|why| order.wrong(why))?;
            order.give_to_group(dir, asked.read_only).await
        })
    }

    fn release<'a>(&self, means: &'a Means, dir: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            unmount_below(dir)?;
            let done = detach(&means.pods_dir, dir).await;
            done.map_err(|text| Error::Volume {
                volume: name_of(dir),
                text,
            })
        })
    }

    fn holds_more_than_mounts(&self) -> bool {
        true
    }
}

fn name_of(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The folder of notes.
fn notes(pods_dir: &Path) -> PathBuf {
    let root = pods_dir.parent().unwrap_or(pods_dir);
    root.join("plugins/kubernetes.io/iscsi")
}

/// The file of the note about the volume whose folder is `dir`: `pods/UID/volumes/PLUGIN/NAME`.
fn note(dir: &Path) -> String {
    let uid = dir.ancestors().nth(3).map(name_of).unwrap_or_default();
    format!("{uid}.{}.json", name_of(dir))
}

async fn ask(args: Vec<String>) -> Result<ToolOutput, String> {
    ISCSIADM.run(&args, PATIENCE).await
}

/// Logs in to a disk's target, or finds that done; gives its device. `dir` is the volume's folder,
/// `secret` where the names and passwords are. An error says why not.
pub async fn attach(
    order: Order<'_>,
    dir: &Path,
    disk: &Disk,
    asked: &IscsiOptions,
    secret: Option<(String, String)>,
) -> Result<PathBuf, String> {
    open_folder(dir).map_err(|e| e.to_string())?;
    let _turn = TURN.lock().await;
    let notes = notes(&order.means.pods_dir);
    let noted = private_folder(&notes).and_then(|()| checkpoint::save(&notes, &note(dir), disk));
    noted.map_err(|e| format!("{}: {e}", notes.display()))?;
    if let Some(device) = common(disk, &devices(disk)).await {
        return Ok(device);
    }
    let secret = secret_of(order, asked, secret).await?;
    if let Some((name, base)) = &disk.initiator {
        make_interface(&disk.interface, base, name).await?;
    }
    let mut why = String::new();
    for portal in &disk.portals {
        if let Err(error) = log_in(disk, asked, portal, &secret).await {
            tracing::warn!(portal, iqn = disk.iqn, error, "an iSCSI portal is left out");
            why = error;
        }
    }
    for _ in 0..LOOKS {
        let found = devices(disk);
        if !found.is_empty() {
            let device = common(disk, &found).await;
            return device.ok_or_else(|| "the device has gone again".to_owned());
        }
        if !why.is_empty() && disk.portals.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if why.is_empty() {
        why = format!("no device of the disk has appeared in {BY_PATH}");
    }
    Err(format!("failed to get any path for iscsi disk: {why}"))
}

async fn secret_of(
    order: Order<'_>,
    asked: &IscsiOptions,
    secret: Option<(String, String)>,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    if !asked.discovery_chap && !asked.session_chap {
        return Ok(BTreeMap::new());
    }
    let (namespace, name) = secret.ok_or("CHAP is asked for without a secretRef")?;
    let key = Key {
        kind: ObjectKind::Secret,
        namespace,
        name,
    };
    let found = order.means.objects.get(&key).await;
    let found = found.map_err(|e| format!("the secret of CHAP: {e}"))?;
    Ok(found.values.clone())
}

/// An interface of the tool by which this node has another name. One that was made before is taken.
async fn make_interface(interface: &str, base: &str, initiator: &str) -> Result<(), String> {
    let of = |name: &str, what: &[&str]| -> Vec<String> {
        let all = ["-m", "iface", "-I", name].into_iter();
        all.chain(what.iter().copied()).map(str::to_owned).collect()
    };
    let shown = ask(of(base, &["-o", "show"]))
        .await?
        .success(ISCSIADM.name)?;
    let mut values = interface_values(&shown);
    values.insert("iface.initiatorname".into(), initiator.into());
    let made = ask(of(interface, &["-o", "new"])).await?;
    if made.code != Some(SESSION_EXISTS) {
        made.success(ISCSIADM.name)?;
    }
    for (key, value) in values {
        let set = ask(of(interface, &["-o", "update", "-n", &key, "-v", &value])).await?;
        set.success(ISCSIADM.name)?;
    }
    Ok(())
}

async fn log_in(
    disk: &Disk,
    asked: &IscsiOptions,
    portal: &str,
    secret: &BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    // One that is there already is not a fault.
    ask(disk.discovery(portal, &["-o", "new"])).await?;
    if asked.discovery_chap {
        let find = |root: &Path| {
            vec![
                root.join("send_targets")
                    .join(place(portal))
                    .join("st_config"),
            ]
        };
        write_secret(find, DISCOVERY_AUTH, secret)?;
    }
    let found = ask(disk.discovery(portal, &["--discover"])).await?;
    if let Err(why) = found.success(ISCSIADM.name) {
        ask(disk.discovery(portal, &["-o", "delete"])).await?;
        return Err(why);
    }
    if asked.session_chap {
        write_secret(
            |root| node_records(root, disk, portal),
            SESSION_AUTH,
            secret,
        )?;
    }
    let came = ask(disk.node(portal, &["--login"])).await?;
    if came.code == Some(SESSION_EXISTS) {
        // Another volume's: the target may have more disks since.
        let seen = ask(disk.node(portal, &["--rescan"])).await?;
        return seen.success(ISCSIADM.name).map(drop);
    }
    if let Err(why) = came.success(ISCSIADM.name) {
        ask(disk.node(portal, &["-o", "delete"])).await?;
        return Err(why);
    }
    // Or a machine whose target is away would wait for it as it starts.
    let manual = ["-o", "update", "-n", "node.startup", "-v", "manual"];
    let manual = ask(disk.node(portal, &manual))
        .await?
        .success(ISCSIADM.name);
    if let Err(error) = manual {
        tracing::warn!(
            portal,
            error,
            "an iSCSI session may be opened as the machine starts"
        );
    }
    Ok(())
}

/// A portal in the names of the tool's records: `192.0.2.1,3260`.
fn place(portal: &str) -> String {
    let (address, port) = portal.rsplit_once(':').unwrap_or((portal, ""));
    format!("{},{port}", address.replace(['[', ']'], ""))
}

/// The records of a target at a portal: a file, or a folder with one for each interface.
fn node_records(root: &Path, disk: &Disk, portal: &str) -> Vec<PathBuf> {
    let (target, portal) = (root.join("nodes").join(&disk.iqn), place(portal));
    let entries = folder::entries_or_none(&target).into_iter();
    entries
        .filter(|entry| {
            let name = folder::name(entry);
            let after = name.strip_prefix(&portal);
            after.is_some_and(|after| after.is_empty() || after.starts_with(','))
        })
        .map(|path| match path.is_dir() {
            true => path.join(&disk.interface),
            false => path,
        })
        .collect()
}

fn write_secret(
    find: impl Fn(&Path) -> Vec<PathBuf>,
    prefix: &str,
    secret: &BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    let all = RECORDS.iter().flat_map(|root| find(Path::new(root)));
    let mut is_written = false;
    for path in all.filter(|path| path.is_file()) {
        let at = |e: std::io::Error| format!("{}: {e}", path.display());
        let record = std::fs::read_to_string(&path).map_err(at)?;
        let record = with_secret(&record, prefix, secret)?;
        std::fs::write(&path, record).map_err(at)?;
        is_written = true;
    }
    let none = || format!("{} has no record for the secret of CHAP", ISCSIADM.name);
    is_written.then_some(()).ok_or_else(none)
}

/// The devices of a disk, one for each path to it.
fn devices(disk: &Disk) -> Vec<PathBuf> {
    let mut found = folder::entries_or_none(Path::new(BY_PATH));
    let is_its = |name: &str| disk.portals.iter().any(|portal| disk.is_at(portal, name));
    found.retain(|device| is_its(&folder::name(device)));
    found
}

/// The device that several paths have in common (multipath), if there is one; else the first path's.
async fn common(disk: &Disk, devices: &[PathBuf]) -> Option<PathBuf> {
    let first = devices.first()?;
    let looks = if disk.portals.len() > 1 {
        LOOKS_FOR_COMMON
    } else {
        1
    };
    for look in 0..looks {
        if look > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if let Some(mapped) = devices.iter().find_map(|device| mapped(device)) {
            return Some(mapped);
        }
    }
    Some(first.clone())
}

/// The device of the mapper that holds a disk.
fn mapped(device: &Path) -> Option<PathBuf> {
    let disk = std::fs::canonicalize(device).ok()?;
    let holders = Path::new("/sys/block")
        .join(disk.file_name()?)
        .join("holders");
    let mut names = std::fs::read_dir(holders).ok()?.flatten();
    let name = names.find_map(|e| e.file_name().to_str().map(str::to_owned));
    let name = name.filter(|name| name.starts_with("dm-"))?;
    Some(Path::new("/dev").join(name))
}

/// Logs out of a target if the volume at `dir` was the last one that used it.
async fn detach(pods_dir: &Path, dir: &Path) -> Result<(), String> {
    let (folder, own) = (notes(pods_dir), note(dir));
    let read = |file: &str| checkpoint::load::<Disk>(&folder, file).map_err(|e| e.to_string());
    let _turn = TURN.lock().await;
    let Some(disk) = read(&own)? else {
        return Ok(());
    };
    let mut is_shared = false;
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let file = entry.map_err(|e| e.to_string())?.file_name();
        let file = file.to_string_lossy();
        if file != own && !checkpoint::is_beside(&file) {
            is_shared |= read(&file)?.is_some_and(|other| other.shares_sessions(&disk));
        }
    }
    if !is_shared {
        log_out(&disk).await?;
    }
    let own = folder.join(own);
    std::fs::remove_file(&own).map_err(|e| format!("{}: {e}", own.display()))
}

async fn log_out(disk: &Disk) -> Result<(), String> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for portal in &disk.portals {
        all.push(disk.node(portal, &["--logout"]));
        all.push(disk.node(portal, &["-o", "delete"]));
    }
    if disk.initiator.is_some() {
        let remove = ["-m", "iface", "-I", &disk.interface, "-o", "delete"];
        all.push(remove.map(str::to_owned).to_vec());
    }
    for args in all {
        let said = ask(args).await?;
        if !said.code.is_some_and(|code| NOTHING_THERE.contains(&code)) {
            said.success(ISCSIADM.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_of_one_volume_of_one_pod() {
        let pods = Path::new("/k/pods");
        let dir = pods.join("u1/volumes").join(PLUGIN).join("data");
        let want = Path::new("/k/plugins/kubernetes.io/iscsi/u1.data.json");
        assert_eq!(notes(pods).join(note(&dir)), want);
    }

    #[test]
    fn records_are_found_in_both_forms() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("nodes/iqn.2003-01.example:t");
        for file in [
            "192.0.2.1,3260,1/default",
            "192.0.2.1,3260,1/other",
            "192.0.2.1,32600,1/default",
        ] {
            let file = target.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        std::fs::write(target.join("2001:db8::1,3260"), "").unwrap();
        let volume = serde_json::json!({ "targetPortal": "192.0.2.1", "iqn": "iqn.2003-01.example:t", "lun": 0 });
        let (disk, _) = of_volume(&serde_json::from_value(volume).unwrap(), "v");
        let found = |portal| node_records(root.path(), &disk, portal);
        assert_eq!(
            found("192.0.2.1:3260"),
            [target.join("192.0.2.1,3260,1/default")]
        );
        assert_eq!(
            found("[2001:db8::1]:3260"),
            [target.join("2001:db8::1,3260")]
        );
    }

    #[tokio::test]
    async fn a_note_that_cannot_be_read_is_not_a_missing_one() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        let dir = pods.join("u1/volumes").join(PLUGIN).join("data");
        private_folder(&notes(&pods)).unwrap();
        assert_eq!(detach(&pods, &dir).await, Ok(()));
        let note = notes(&pods).join(note(&dir));
        std::fs::write(&note, "{").unwrap();
        assert!(detach(&pods, &dir).await.is_err());
        assert!(note.exists());
    }
}
