//! Numbers of users and groups on the node for pods with a user namespace of their own (`hostUsers:
//! false`): each has a range that no other pod has and none of the machine's users is in, so that root in
//! the pod is nobody outside of it. A pod's range is kept in its folder, under upstream's name and in
//! its form, and so outlives the kubelet. Which runtime can make such namespaces is decided elsewhere.

use crate::{checkpoint, folder};
use host::runtime::IdRange;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Lengths of ranges are multiples of it, as upstream.
pub const UNIT: u32 = 65_536;
/// The file in a pod's folder.
const FILE: &str = "userns";
/// The account whose subordinate numbers pods get, as upstream.
const ACCOUNT: &str = "kubelet";
/// How many numbers there are.
const ALL: u64 = 1 << 32;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Kept {
    fn of(range: IdRange) -> Self {
        let mapping = Mapping {
            host_id: range.host,
            container_id: 0,
            length: range.length,
        };
        Self {
            uid_mappings: vec![mapping],
            gid_mappings: vec![mapping],
        }
    }

    /// None for what no kubelet writes: root must be mapped, users and groups alike.
    fn range(&self) -> Option<IdRange> {
        match (self.uid_mappings.as_slice(), self.gid_mappings.as_slice()) {
            ([u], [g]) if u == g && u.container_id == 0 && u.length > 0 => Some(IdRange {
                host: u.host_id,
                length: u.length,
            }),
            _ => None,
        }
    }
}

/// The numbers that pods get ranges of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdPool {
    first: u32,
    ranges: u32,
    length: u32,
}

impl IdPool {
    /// The pool of this machine: the subordinate numbers of the account `kubelet` where there is one
    /// and has some, else all but the lowest. `folder` has the machine's files of accounts.
    ///
    /// # Errors
    /// The files cannot be read, or what they say does not suffice for so many pods.
    pub fn of_machine(length: u32, pods: u64, folder: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(text),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                Err(e) => Err(format!("{}: {e}", path.display())),
            }
        };
        let (users, subuid, subgid) = (read("passwd")?, read("subuid")?, read("subgid")?);
        Self::of(length, pods, [&users, &subuid, &subgid])
    }

    fn of(length: u32, pods: u64, [users, subuid, subgid]: [&str; 3]) -> Result<Self, String> {
        if length == 0 || !length.is_multiple_of(UNIT) {
            return Err(format!("a length of {length} is not a multiple of {UNIT}"));
        }
        let is_own = |line: &str| line.split(':').next() == Some(ACCOUNT);
        let own = if users.lines().any(is_own) {
            (subordinate(subuid)?, subordinate(subgid)?)
        } else {
            (None, None)
        };
        let (first, count) = match own {
            // As many whole ranges as there are.
            (None, None) => {
                let rest = ALL - u64::from(length);
                (length, rest - rest % u64::from(length))
            }
            (Some(uids), Some(gids)) if uids == gids => uids,
            _ => {
                return Err(format!(
                    "mismatched subuids and subgids for user {ACCOUNT:?}"
                ));
            }
        };
        if first < length || !first.is_multiple_of(length) {
            return Err(format!(
                "the first number {first} is not a multiple of {length} above 0"
            ));
        }
        if !count.is_multiple_of(length.into()) || u64::from(first) + count > ALL {
            return Err(format!("{count} numbers are not whole ranges of {length}"));
        }
        let ranges = u32::try_from(count / u64::from(length)).unwrap_or(u32::MAX);
        if u64::from(ranges) < pods {
            return Err(format!("{count} numbers do not suffice for {pods} pods"));
        }
        Ok(Self {
            first,
            ranges,
            length,
        })
    }
}

/// What a file of subordinate numbers says of the account: the first and how many.
fn subordinate(text: &str) -> Result<Option<(u32, u64)>, String> {
    let mut own = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(ACCOUNT)?.strip_prefix(':'));
    let Some(line) = own.next() else {
        return Ok(None);
    };
    if own.next().is_some() {
        return Err(format!("user {ACCOUNT:?} has more than one range"));
    }
    let numbers = line.split_once(':').and_then(|(first, count)| {
        let first = first.parse().ok()?;
        Some((first, u64::from(count.parse::<u32>().ok()?)))
    });
    let numbers = numbers.ok_or_else(|| format!("{ACCOUNT}:{line} is not a range"))?;
    Ok(Some(numbers))
}

/// The ranges of the node's pods.
#[derive(Debug)]
pub struct UserIds {
    pool: IdPool,
    pods_dir: PathBuf,
    ranges: Mutex<Ranges>,
}

#[derive(Debug, Default)]
struct Ranges {
    given: BTreeMap<String, IdRange>,
    /// Pods with a file that cannot be read: their numbers may be any.
    unknown: BTreeSet<String>,
    /// The folders of all pods were looked through.
    is_listed: bool,
}

impl Ranges {
    /// Finds out what pods were given before.
    fn learn(&mut self, pods_dir: &Path) -> Result<(), String> {
        if !self.is_listed {
            let folders = folder::entries(pods_dir);
            let folders = folders.map_err(|e| format!("{}: {e}", pods_dir.display()))?;
            self.unknown.extend(folders.iter().map(|f| folder::name(f)));
            self.is_listed = true;
        }
        let mut fault = Ok(());
        let Self { given, unknown, .. } = self;
        unknown.retain(|uid| match kept(&pods_dir.join(uid)) {
            Ok(range) => {
                given.extend(range.map(|range| (uid.clone(), range)));
                false
            }
            Err(error) => {
                fault = Err(format!("which users pod {uid} has is not known: {error}"));
                true
            }
        });
        fault
    }
}

/// What a pod's folder says of its range.
fn kept(folder: &Path) -> Result<Option<IdRange>, String> {
    match checkpoint::load::<Kept>(folder, FILE) {
        Ok(None) => Ok(None),
        Err(error) if folder::is_absent(&error.source) => Ok(None),
        Ok(Some(kept)) => kept.range().map(Some).ok_or_else(|| {
            let file = folder.join(FILE);
            format!("{}: it is not what a kubelet writes", file.display())
        }),
        Err(error) => Err(error.to_string()),
    }
}

impl UserIds {
    /// What pods were given before is read from their folders. What cannot be read is read again when a
    /// pod asks for a range.
    #[must_use]
    pub fn new(pool: IdPool, pods_dir: PathBuf) -> Self {
        let mut ranges = Ranges::default();
        if let Err(error) = ranges.learn(&pods_dir) {
            tracing::warn!(error, "no further pod gets users of its own");
        }
        Self {
            pool,
            pods_dir,
            ranges: Mutex::new(ranges),
        }
    }

    /// The range of a pod, which it has from now on.
    ///
    /// # Errors
    /// None is free, or it cannot be kept, or what another pod has is not known: nobody gets numbers
    /// that may be somebody else's.
    pub fn give(&self, uid: &str) -> Result<IdRange, String> {
        let mut ranges = self.ranges.lock();
        if let Some(range) = ranges.given.get(uid) {
            return Ok(*range);
        }
        ranges.learn(&self.pods_dir)?;
        let given = &mut ranges.given;
        if let Some(range) = given.get(uid) {
            return Ok(*range);
        }
        let IdPool {
            first,
            ranges: count,
            length,
        } = self.pool;
        // Those of an earlier pool may lie anywhere.
        let (whole, other): (Vec<IdRange>, Vec<IdRange>) =
            given.values().copied().partition(|r| r.length == length);
        let taken: BTreeSet<u32> = whole.iter().map(|r| r.host).collect();
        let mut all = (0..count).map(|n| IdRange {
            host: first + n * length,
            length,
        });
        let is_free = |r: &IdRange| !taken.contains(&r.host) && !other.iter().any(|o| o.meets(*r));
        let range = all.find(is_free);
        let range = range.ok_or("could not find an empty slot to allocate a user namespace")?;
        checkpoint::save(&self.pods_dir.join(uid), FILE, &Kept::of(range))
            .map_err(|e| e.to_string())?;
        given.insert(uid.to_owned(), range);
        Ok(range)
    }

    /// Nothing of a pod is left, its folder neither: others may have its range.
    pub fn forget(&self, uid: &str) {
        let mut ranges = self.ranges.lock();
        ranges.given.remove(uid);
        ranges.unknown.remove(uid);
    }

    /// The range that a pod was given.
    #[cfg(test)]
    fn given(&self, uid: &str) -> Option<IdRange> {
        self.ranges.lock().given.get(uid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: &str = "root:x:0:0::/:/bin/sh\nkubelet:x:999:999::/:/bin/false\n";

    fn pool(files: [&str; 3]) -> Result<IdPool, String> {
        IdPool::of(UNIT, 110, files)
    }

    #[test]
    fn pods_get_what_the_account_has_or_all_but_the_lowest() {
        let all = IdPool {
            first: UNIT,
            ranges: 65_535,
            length: UNIT,
        };
        let range = "other:1:2\nkubelet:65536:7208960\n";
        // Without an account nobody's numbers are asked about.
        for files in [
            ["", "", ""],
            ["root:x:0:0", range, ""],
            [KUBELET, "other:1:2", ""],
        ] {
            assert_eq!(pool(files), Ok(all));
        }
        let own = IdPool { ranges: 110, ..all };
        assert_eq!(pool([KUBELET, range, range]), Ok(own));
        for (subuid, why) in [
            ("kubelet:65536:65536000", "mismatched"),
            ("kubelet:1:7208960", "not a multiple of 65536 above 0"),
            ("kubelet:65536:7208961", "not whole ranges"),
            ("kubelet:65536:65536", "do not suffice for 110 pods"),
            ("kubelet:65536:7208960\nkubelet:1:2", "more than one range"),
            ("kubelet:a:b", "is not a range"),
        ] {
            let subgid = if why == "mismatched" { range } else { subuid };
            let fault = pool([KUBELET, subuid, subgid]).unwrap_err();
            assert!(fault.contains(why), "{fault}");
        }
        assert!(IdPool::of(UNIT + 1, 1, ["", "", ""]).is_err());
        let thrice = IdPool::of(3 * UNIT, 110, ["", "", ""]).unwrap();
        assert_eq!((thrice.first, thrice.ranges), (3 * UNIT, 21_844));
    }

    #[test]
    fn a_range_is_its_pods_until_nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let two = IdPool {
            first: UNIT,
            ranges: 2,
            length: UNIT,
        };
        let ids = UserIds::new(two, dir.path().to_owned());
        for uid in ["a", "b", "c"] {
            std::fs::create_dir(dir.path().join(uid)).unwrap();
        }
        let range = |host| IdRange { host, length: UNIT };
        assert_eq!(ids.give("a"), Ok(range(UNIT)));
        assert_eq!(ids.give("b"), Ok(range(2 * UNIT)));
        assert_eq!(ids.give("a"), Ok(range(UNIT)));
        assert!(ids.give("c").unwrap_err().contains("empty slot"));
        // Another kubelet knows them, although its pool is another one.
        let all = IdPool { ranges: 9, ..two };
        let next = UserIds::new(all, dir.path().to_owned());
        assert_eq!(next.given("b"), Some(range(2 * UNIT)));
        assert_eq!(next.give("c"), Ok(range(3 * UNIT)));
        next.forget("b");
        std::fs::create_dir(dir.path().join("d")).unwrap();
        assert_eq!(next.give("d"), Ok(range(2 * UNIT)));
        let large = IdPool {
            first: 2 * UNIT,
            ranges: 4,
            length: 2 * UNIT,
        };
        std::fs::remove_dir_all(dir.path().join("b")).unwrap();
        let large = UserIds::new(large, dir.path().to_owned());
        std::fs::create_dir(dir.path().join("e")).unwrap();
        assert_eq!(large.give("e").unwrap().host, 4 * UNIT);
        // It needs a folder.
        assert!(large.give("none").is_err());
    }

    #[test]
    fn what_no_kubelet_writes_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let one = |host_id, container_id| Mapping {
            host_id,
            container_id,
            length: UNIT,
        };
        let kept = |uids: Vec<Mapping>, gids: Vec<Mapping>| Kept {
            uid_mappings: uids,
            gid_mappings: gids,
        };
        let bad = [
            ("a", kept(vec![one(UNIT, 1)], vec![one(UNIT, 1)])),
            ("b", kept(vec![one(UNIT, 0)], vec![one(2 * UNIT, 0)])),
            ("c", kept(vec![], vec![])),
        ];
        for (uid, kept) in &bad {
            std::fs::create_dir(dir.path().join(uid)).unwrap();
            checkpoint::save(&dir.path().join(uid), FILE, kept).unwrap();
        }
        let pool = pool(["", "", ""]).unwrap();
        let ids = UserIds::new(pool, dir.path().to_owned());
        assert!(bad.iter().all(|(uid, _)| ids.given(uid).is_none()));
        std::fs::create_dir(dir.path().join("new")).unwrap();
        let file = |uid: &str| dir.path().join(uid).join(FILE);
        // Neither the pod itself nor another one gets numbers that may be somebody's.
        for uid in ["a", "new"] {
            assert!(ids.give(uid).unwrap_err().contains("is not known"));
        }
        std::fs::write(file("a"), "{").unwrap();
        ids.forget("b");
        ids.forget("c");
        let fault = ids.give("new").unwrap_err();
        assert!(fault.contains(&file("a").display().to_string()), "{fault}");
        // Somebody mends it: what it says holds again.
        checkpoint::save(&dir.path().join("a"), FILE, &mended()).unwrap();
        assert_eq!(ids.give("new").unwrap().host, 2 * UNIT);
        assert_eq!(ids.give("a").unwrap().host, UNIT);
        let text = std::fs::read_to_string(file("a")).unwrap();
        assert_eq!(
            text,
            "{\"uidMappings\":[{\"hostId\":65536,\"containerId\":0,\"length\":65536}],\
             \"gidMappings\":[{\"hostId\":65536,\"containerId\":0,\"length\":65536}]}"
        );
    }

    fn mended() -> Kept {
        Kept::of(IdRange {
            host: UNIT,
            length: UNIT,
        })
    }

    #[test]
    fn folders_that_cannot_be_listed_give_nobody_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("pods");
        std::os::unix::fs::symlink(&pods, &pods).unwrap();
        let ids = UserIds::new(pool(["", "", ""]).unwrap(), pods.clone());
        assert!(ids.give("a").is_err());
        std::fs::remove_file(&pods).unwrap();
        std::fs::create_dir_all(pods.join("a")).unwrap();
        std::fs::write(pods.join("a file"), "").unwrap();
        assert_eq!(ids.give("a").unwrap().host, UNIT);
    }
}
