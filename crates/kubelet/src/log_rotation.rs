//! Rotation of containers' logs: one that is too large is moved away, and the runtime opens a new one.
//! Of those that were moved away the newest stays as it is, since whoever collects logs may not be done
//! with it; older ones are compressed, and beyond the limit the oldest go. Names are upstream's, since
//! collectors of logs know them: `<log>.<time>` and `<log>.<time>.gz`. Here are files alone; when it is
//! looked at them, and who hears of it, is [`crate::gc`].

use crate::folder;
use crate::metrics::METRICS;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Ending of a file that is compressed.
const ZIPPED: &str = "gz";
/// Ending of one that a kubelet died compressing.
const UNFINISHED: &str = "tmp";
/// The time in the name of a file that was moved away.
const STAMP: &str = "%Y%m%d-%H%M%S";
/// Fast: text of logs becomes hardly smaller by more work.
const LEVEL: u32 = 2;

/// Why a log was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// How large it is, or which files it was moved to, cannot be seen.
    #[error("it cannot be looked at: {0}")]
    Look(io::Error),
    /// An older file cannot be removed.
    #[error("{} cannot be removed: {source}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be moved away.
    #[error("it cannot be moved away: {0}")]
    Move(io::Error),
    /// The runtime did not open it again.
    #[error("the runtime did not open it again: {0}")]
    Reopen(host::runtime::Error),
    /// Neither did the runtime open it again, nor can it be moved back.
    #[error("it is still written into {}, which cannot be moved back: {source}", path.display())]
    MoveBack {
        /// Where it was moved to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a log needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// It is too large.
    Rotation,
    /// It was moved away by a kubelet that died before the runtime heard of it: the runtime goes on
    /// writing into the file that was moved.
    Reopening,
}

/// What the log of a running container needs.
pub fn need(log: &Path, max_bytes: u64) -> Result<Need, Error> {
    match std::fs::symlink_metadata(log) {
        Ok(found) if found.is_file() && found.len() >= max_bytes => Ok(Need::Rotation),
        Ok(_) => Ok(Need::Nothing),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let old = rotated(log).map_err(Error::Look)?;
            let was_moved = !old.is_empty();
            Ok(if was_moved {
                Need::Reopening
            } else {
                Need::Nothing
            })
        }
        Err(e) => Err(Error::Look(e)),
    }
}

/// Moves a log away and says where it is; then the runtime must open it again. Older files are
/// compressed before, or go. What cannot be compressed stays as it is: a full disk must not keep a log
/// from being rotated, which frees some of it.
pub fn rotate(log: &Path, max_files: usize, now: Timestamp) -> Result<PathBuf, Error> {
    let all = rotated(log).map_err(Error::Look)?;
    let target = target(log, &all, now);
    let Plan { remove, compress } = plan(all, max_files);
    for path in remove {
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Remove { path, source }),
        }
    }
    for path in compress {
        if let Err(error) = zip(&path) {
            tracing::warn!(file = %path.display(), %error, "an old log cannot be compressed");
        }
    }
    std::fs::rename(log, &target).map_err(Error::Move)?;
    Ok(target)
}

/// Undoes a rotation of which the runtime did not hear: the container writes on into the old file, and
/// who asks for the log must find it. Where the runtime did open a new one all the same, that stays.
pub fn move_back(moved: PathBuf, log: &Path) -> Result<(), Error> {
    let back = match std::fs::hard_link(&moved, log) {
        Ok(()) => std::fs::remove_file(&moved),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    };
    back.map_err(|source| Error::MoveBack {
        path: moved,
        source,
    })
}

/// Files that a log was moved to, oldest first, and what was left of compressing them.
pub fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = folder::entries(folder)?;
    found.retain(|file| folder::name(file).starts_with(&prefix));
    Ok(found)
}

/// Bytes of a log and of all that it was moved to, as far as they can be seen: files of containers come
/// and go meanwhile.
#[must_use]
pub fn bytes(log: &Path) -> u64 {
    let old = rotated(log).unwrap_or_else(|error| {
        METRICS.statistics_failed("logs");
        tracing::debug!(log = %log.display(), %error, "which files a log was moved to cannot be read");
        Vec::new()
    });
    let all = old.iter().map(PathBuf::as_path).chain([log]);
    all.filter_map(|file| std::fs::symlink_metadata(file).ok())
        .map(|found| found.len())
        .sum()
}

/// What becomes of the files that a log was moved to before.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    remove: Vec<PathBuf>,
    compress: Vec<PathBuf>,
}

fn plan(all: Vec<PathBuf>, max_files: usize) -> Plan {
    let (mut kept, mut remove): (Vec<PathBuf>, Vec<PathBuf>) =
        all.iter().cloned().partition(|file| {
            let is_zipped_already = || all.contains(&with(file, ZIPPED));
            !ends(file, UNFINISHED) && (ends(file, ZIPPED) || !is_zipped_already())
        });
    // The current file and the one that is made now count too.
    let most = max_files.max(2) - 2;
    let excess = kept.len().saturating_sub(most);
    remove.extend(kept.drain(..excess));
    kept.retain(|file| !ends(file, ZIPPED));
    Plan {
        remove,
        compress: kept,
    }
}

/// Where a log is moved to. Where the clock was set back the time goes on from the newest file: names
/// show which is older, and none may be written over.
fn target(log: &Path, old: &[PathBuf], now: Timestamp) -> PathBuf {
    let now = now.to_zoned(TimeZone::UTC).datetime();
    let newest = old.iter().filter_map(|file| stamp(log, file)).max();
    let next = newest.and_then(|t| t.checked_add(SignedDuration::from_secs(1)).ok());
    let at = next.map_or(now, |next| now.max(next));
    with(log, &at.strftime(STAMP).to_string())
}

/// When a file was moved away, by its name.
fn stamp(log: &Path, old: &Path) -> Option<DateTime> {
    let old = folder::name(old);
    let rest = old.strip_prefix(&folder::name(log))?.strip_prefix('.')?;
    let time = rest.split('.').next()?;
    DateTime::strptime(STAMP, time).ok()
}

fn zip(file: &Path) -> io::Result<()> {
    let unfinished = with(file, UNFINISHED);
    let zipped = copy_zipped(file, &unfinished);
    let renamed = zipped.and_then(|()| std::fs::rename(&unfinished, with(file, ZIPPED)));
    if let Err(error) = renamed {
        // If it stays, the next rotation removes it.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    std::fs::remove_file(file)
}

/// Neither file is reached through a link: a pod may have the folder of logs.
fn copy_zipped(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = host::open_beneath::open_file(from)?;
    let to = File::create_new(to)?;
    to.set_permissions(from.metadata()?.permissions())?;
    let mut to = GzEncoder::new(to, Compression::new(LEVEL));
    io::copy(&mut from, &mut to)?;
    to.finish().map(drop)
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

fn ends(path: &Path, ending: &str) -> bool {
    path.extension() == Some(OsStr::new(ending))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Names of what a log was moved to, after its own.
    fn names(log: &Path) -> Vec<String> {
        let all = rotated(log).unwrap().into_iter();
        all.map(|f| folder::name(&f).trim_start_matches("0.log.").to_owned())
            .collect()
    }

    #[test]
    fn the_newest_file_stays_as_it_is_and_older_ones_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in 0..6 {
            std::fs::write(&log, format!("line {second}\n")).unwrap();
            assert_eq!(need(&log, 5).unwrap(), Need::Rotation);
            rotate(&log, 4, at(second)).unwrap();
            assert_eq!(need(&log, 5).unwrap(), Need::Reopening);
        }
        assert_eq!(
            names(&log),
            [
                "19700101-000003.gz",
                "19700101-000004.gz",
                "19700101-000005"
            ]
        );
        let oldest = File::open(dir.path().join("0.log.19700101-000003.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(oldest)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "line 3\n");
        let whole: u64 = rotated(&log)
            .unwrap()
            .iter()
            .map(|f| std::fs::metadata(f).unwrap().len())
            .sum();
        std::fs::write(&log, "new").unwrap();
        assert_eq!(bytes(&log), whole + 3);
        assert_eq!(need(&log, 5).unwrap(), Need::Nothing);
        // Two files at least: the current one and the one before.
        rotate(&log, 1, at(9)).unwrap();
        assert_eq!(names(&log), ["19700101-000009"]);
    }

    #[test]
    fn a_log_that_never_was_needs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for log in [dir.path().join("0.log"), dir.path().join("none/0.log")] {
            assert_eq!(need(&log, 5).unwrap(), Need::Nothing);
            assert_eq!(bytes(&log), 0);
        }
    }

    #[test]
    fn what_a_dead_kubelet_left_is_tidied() {
        let files = |names: &[&str]| -> Vec<PathBuf> {
            names
                .iter()
                .map(|n| Path::new("/l/0.log").with_file_name(n))
                .collect()
        };
        let found = files(&[
            "0.log.1.gz",
            "0.log.2",
            "0.log.2.gz",
            "0.log.3",
            "0.log.3.tmp",
        ]);
        let wanted = Plan {
            remove: files(&["0.log.2", "0.log.3.tmp"]),
            compress: files(&["0.log.3"]),
        };
        assert_eq!(plan(found.clone(), 5), wanted);
        let wanted = Plan {
            remove: files(&["0.log.2", "0.log.3.tmp", "0.log.1.gz", "0.log.2.gz"]),
            compress: files(&["0.log.3"]),
        };
        assert_eq!(plan(found, 3), wanted);
    }

    #[test]
    fn a_clock_that_is_set_back_writes_over_nothing() {
        let log = Path::new("/l/0.log");
        let old = [
            PathBuf::from("/l/0.log.20260101-100000"),
            PathBuf::from("/l/0.log.20260101-095959.gz"),
            PathBuf::from("/l/0.log.other"),
        ];
        let to = |now: &str| target(log, &old, now.parse().unwrap());
        let next = Path::new("/l/0.log.20260101-100001");
        for back in ["2026-01-01T07:00:00Z", "2026-01-01T10:00:00.9Z"] {
            assert_eq!(to(back), next);
        }
        let later = Path::new("/l/0.log.20260101-110000");
        assert_eq!(to("2026-01-01T11:00:00Z"), later);
    }

    #[test]
    fn a_rotation_of_which_the_runtime_did_not_hear_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        std::fs::write(&log, "old").unwrap();
        let moved = rotate(&log, 5, at(0)).unwrap();
        move_back(moved, &log).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "old");
        assert!(names(&log).is_empty());
        // It heard, and only its answer was lost.
        let moved = rotate(&log, 5, at(0)).unwrap();
        std::fs::write(&log, "new").unwrap();
        move_back(moved, &log).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "new");
        assert_eq!(names(&log), ["19700101-000000"]);
    }

    #[test]
    fn links_are_neither_followed_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let log = dir.path().join("0.log");
        let old = with(&log, "19700101-000000");
        std::os::unix::fs::symlink(&secret, &old).unwrap();
        std::fs::write(&log, "new").unwrap();
        rotate(&log, 5, at(1)).unwrap();
        assert_eq!(names(&log), ["19700101-000000", "19700101-000001"]);
        // What a pod puts in the way of the file that is made.
        std::fs::remove_file(&old).unwrap();
        std::fs::write(&old, "old").unwrap();
        std::os::unix::fs::symlink(&secret, with(&old, UNFINISHED)).unwrap();
        assert!(copy_zipped(&old, &with(&old, UNFINISHED)).is_err());
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    }
}
