//! File systems on block devices: what a device has is found out, made if it has nothing, checked
//! and mounted, all by the host's own tools. Nothing that a device has is ever written over.

use super::error::open_folder;
use super::tools::{Tool, ToolOutput};
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use tokio::sync::Mutex;

const BLKID: Tool = Tool {
    name: "blkid",
    package: "util-linux",
};
const FSCK: Tool = Tool {
    name: "fsck",
    package: "util-linux",
};
const MOUNT: Tool = Tool {
    name: "mount",
    package: "mount",
};
/// What is made on a device that has nothing, if nobody says what; as upstream.
const USUAL: &str = "ext4";
/// The kinds that this node makes, with the package of their tools and what they are asked for: no
/// questions, and no blocks kept back for the superuser. As upstream.
const MAKERS: [(&str, Tool, &[&str]); 4] = [
    ("ext3", maker("mkfs.ext3", "e2fsprogs"), &["-F", "-m0"]),
    ("ext4", maker("mkfs.ext4", "e2fsprogs"), &["-F", "-m0"]),
    ("xfs", maker("mkfs.xfs", "xfsprogs"), &["-f"]),
    ("btrfs", maker("mkfs.btrfs", "btrfs-progs"), &["-f"]),
];
/// A large and slow device takes long to be made or checked.
const PATIENCE: Duration = Duration::from_secs(600);
/// fsck's answers: repaired, and not repairable.
const CORRECTED: i32 = 1;
const UNCORRECTED: i32 = 4;
/// blkid's answer when a device has nothing that it knows.
const NOTHING: i32 = 2;

const fn maker(name: &'static str, package: &'static str) -> Tool {
    Tool { name, package }
}

/// Of two pods with one new device, one makes the file system and the other one finds it.
static TURN: Mutex<()> = Mutex::const_new(());

/// What a volume says of its file system.
#[derive(Clone, Copy, Debug)]
pub struct FileSystemSpec<'a> {
    /// Its kind; none: what the device has.
    pub kind: Option<&'a str>,
    /// Options of the mount.
    pub options: &'a [String],
    /// It is mounted read only, and nothing may be made on the device.
    pub read_only: bool,
}

/// What a device has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Has {
    Nothing,
    Partitions,
    /// A file system, or another thing that blkid knows, such as a part of a RAID.
    Kind(String),
}

/// What is to be done with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Make(String),
    Take(String),
}

fn read(said: ToolOutput) -> Result<Has, String> {
    if said.code == Some(NOTHING) {
        return Ok(Has::Nothing);
    }
    let out = said.success(BLKID.name)?;
    let value = |key: &str| {
        let line = out.lines().find_map(|l| l.strip_prefix(key));
        line.filter(|value| !value.is_empty())
    };
    Ok(match (value("TYPE="), value("PTTYPE=")) {
        (Some(kind), _) => Has::Kind(kind.to_owned()),
        (None, Some(_)) => Has::Partitions,
        (None, None) => Has::Nothing,
    })
}

fn decide(has: Has, wanted: &FileSystemSpec<'_>) -> Result<Step, String> {
    let kind = wanted.kind.filter(|kind| !kind.is_empty());
    let usual = kind.unwrap_or(USUAL);
    match has {
        Has::Nothing if wanted.read_only => {
            Err("cannot mount unformatted disk as it is read-only".to_owned())
        }
        Has::Nothing => Ok(Step::Make(usual.to_owned())),
        Has::Partitions => Err(format!(
            "failed to mount the volume as {usual:?}, it already contains unknown data, probably \
             partitions"
        )),
        Has::Kind(found) if kind.is_none_or(|kind| kind == found) => Ok(Step::Take(found)),
        Has::Kind(found) => Err(format!(
            "failed to mount the volume as {usual:?}, it already contains {found}"
        )),
    }
}

fn make_arguments(kind: &str, device: &str) -> Result<(Tool, Vec<String>), String> {
    let known = MAKERS.into_iter().find(|(name, _, _)| *name == kind);
    let (_, tool, options) = known.ok_or_else(|| {
        let all: Vec<_> = MAKERS.iter().map(|(name, _, _)| *name).collect();
        format!(
            "this node makes no file systems of kind {kind:?}: {}",
            all.join(", ")
        )
    })?;
    let args = options.iter().copied().chain([device]);
    Ok((tool, args.map(str::to_owned).collect()))
}

fn mount_arguments(
    kind: &str,
    wanted: &FileSystemSpec<'_>,
    device: &str,
    dir: &str,
) -> Vec<String> {
    let mut options = wanted.options.to_vec();
    if wanted.read_only {
        options.push("ro".to_owned());
    }
    let mut all = vec!["-t".to_owned(), kind.to_owned()];
    if !options.is_empty() {
        all.extend(["-o".to_owned(), options.join(",")]);
    }
    // What follows is not an option, whatever it is called.
    all.extend(["--".to_owned(), device.to_owned(), dir.to_owned()]);
    all
}

/// What was found out by a check keeps a volume from its pod only if it could not be repaired.
fn checked(said: &ToolOutput) -> Result<(), String> {
    match said.code {
        Some(UNCORRECTED) => Err(format!(
            "'fsck' found errors but could not correct them: {}",
            said.out.trim()
        )),
        _ => Ok(()),
    }
}

/// Mounts a device's file system at a folder, or finds it mounted. An error says why not.
pub async fn mount(device: &Path, dir: &Path, wanted: &FileSystemSpec<'_>) -> Result<(), String> {
    open_folder(dir).map_err(|e| e.to_string())?;
    if host::mounts::is_mount_point(dir).map_err(|e| e.to_string())? {
        return Ok(());
    }
    let _turn = TURN.lock().await;
    // What cannot be read is nothing to blkid, too: such a device would be made new.
    let mut first = [0; 512];
    let opened = std::fs::File::open(device).and_then(|mut file| file.read_exact(&mut first));
    opened.map_err(|e| format!("{}: {e}", device.display()))?;
    let name = device.to_string_lossy().into_owned();
    let ask = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", &name].map(str::to_owned);
    let has = read(BLKID.run(&ask, PATIENCE).await?)?;
    let kind = match decide(has, wanted)? {
        Step::Make(kind) => {
            let (tool, args) = make_arguments(&kind, &name)?;
            tracing::info!(
                device = name,
                kind,
                "a file system is made on a device that had nothing"
            );
            tool.run(&args, PATIENCE).await?.success(tool.name)?;
            kind
        }
        Step::Take(kind) => {
            if !wanted.read_only {
                check(&name).await?;
            }
            kind
        }
    };
    let at = dir.to_string_lossy().into_owned();
    let args = mount_arguments(&kind, wanted, &name, &at);
    let mounted = MOUNT.run(&args, PATIENCE).await?.success(MOUNT.name);
    mounted.map(drop)
}

async fn check(device: &str) -> Result<(), String> {
    let said = match FSCK
        .run(&["-a".to_owned(), device.to_owned()], PATIENCE)
        .await
    {
        Ok(said) => said,
        Err(why) => {
            tracing::warn!(device, why, "a file system is mounted unchecked");
            return Ok(());
        }
    };
    match said.code {
        Some(0) => {}
        Some(CORRECTED) => tracing::info!(device, "errors of a file system were corrected"),
        _ => tracing::warn!(device, ?said, "a file system's check"),
    }
    checked(&said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: i32, out: &str) -> ToolOutput {
        ToolOutput {
            code: Some(code),
            out: out.to_owned(),
            err: String::new(),
        }
    }

    #[test]
    fn what_a_device_has_is_never_written_over() {
        let has = |code, out| read(said(code, out));
        assert_eq!(has(2, ""), Ok(Has::Nothing));
        assert_eq!(
            has(0, "DEVNAME=/dev/x\nTYPE=xfs\n"),
            Ok(Has::Kind("xfs".into()))
        );
        assert_eq!(has(0, "DEVNAME=/dev/x\nPTTYPE=gpt\n"), Ok(Has::Partitions));
        // Several contradict each other.
        assert!(has(8, "").is_err());
        let step = |has: Has, kind: Option<&str>, read_only| {
            let wanted = FileSystemSpec {
                kind,
                options: &[],
                read_only,
            };
            decide(has, &wanted)
        };
        let kind = |kind: &str| Has::Kind(kind.into());
        assert_eq!(
            step(Has::Nothing, None, false),
            Ok(Step::Make("ext4".into()))
        );
        assert_eq!(
            step(Has::Nothing, Some("xfs"), false),
            Ok(Step::Make("xfs".into()))
        );
        assert!(step(Has::Nothing, None, true).is_err());
        assert!(step(Has::Partitions, None, false).is_err());
        assert_eq!(step(kind("xfs"), None, false), Ok(Step::Take("xfs".into())));
        assert_eq!(
            step(kind("xfs"), Some(""), true),
            Ok(Step::Take("xfs".into()))
        );
        let why = step(kind("LVM2_member"), Some("ext4"), false).unwrap_err();
        assert!(why.ends_with("already contains LVM2_member"), "{why}");
    }

    #[test]
    fn tools_are_told_what_to_do() {
        let (tool, args) = make_arguments("ext4", "/dev/x").unwrap();
        assert_eq!(
            (tool.name, args.join(" ").as_str()),
            ("mkfs.ext4", "-F -m0 /dev/x")
        );
        assert!(make_arguments("-h", "/dev/x").is_err());
        let options = ["noatime".to_owned(), "nodev".to_owned()];
        let wanted = FileSystemSpec {
            kind: None,
            options: &options,
            read_only: true,
        };
        let args = mount_arguments("ext4", &wanted, "/dev/x", "/v").join(" ");
        assert_eq!(args, "-t ext4 -o noatime,nodev,ro -- /dev/x /v");
        assert!(checked(&said(1, "")).is_ok() && checked(&said(8, "")).is_ok());
        assert!(checked(&said(4, "bad")).is_err());
    }
}
