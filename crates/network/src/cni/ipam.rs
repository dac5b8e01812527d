//! Which address belongs to which pod: one file per pod in a folder, under one lock.
//!
//! A file appears by renaming, so there are no half written ones. An entry whose interface is gone
//! is stale: interfaces vanish with their pods, also when nobody said so.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use host::nft::Prefix;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::conf::PortMapping;
use super::protocol::{CniError, PodName, code};

/// A pod's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its address.
    pub address: Ipv4Addr,
    /// The node's end of its line.
    pub interface: String,
    /// Its host ports.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// The pod, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

/// The opened and locked state folder of a network.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The lock lasts until this is closed.
    _lock: File,
}

const ENTRY: &str = "pod";
const LAST: &str = "last";

impl Store {
    /// Opens the folder, making it if needed, and waits for the lock.
    pub fn open(state_dir: &Path, network: &str) -> Result<Self, CniError> {
        let folder = state_dir.join(network);
        let open = || -> io::Result<Self> {
            fs::create_dir_all(&folder)?;
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join("lock"))?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(Self {
                folder: folder.clone(),
                _lock: lock,
            })
        };
        open().map_err(|e| CniError::new(code::IO, &format!("open {}", folder.display()), e))
    }

    /// All entries with their keys; files that cannot be read are left out, and thus free.
    pub fn entries(&self) -> Result<Vec<(String, Entry)>, CniError> {
        let list = || -> io::Result<Vec<(String, Entry)>> {
            let mut entries = Vec::new();
            for file in fs::read_dir(&self.folder)? {
                let path = file?.path();
                let key = path.file_stem().and_then(|stem| stem.to_str());
                let (Some(key), Some(ENTRY)) = (key, path.extension().and_then(|e| e.to_str()))
                else {
                    continue;
                };
                if let Ok(entry) = serde_json::from_slice(&fs::read(&path)?) {
                    entries.push((key.to_owned(), entry));
                }
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(entries)
        };
        list().map_err(|e| CniError::new(code::IO, "list addresses", e))
    }

    /// The entry of a pod.
    pub fn find(&self, key: &str) -> Result<Option<Entry>, CniError> {
        Ok(self
            .entries()?
            .into_iter()
            .find(|(k, _)| k == key)
            .map(|(_, entry)| entry))
    }

    /// An address for a pod; a pod that has one keeps it.
    ///
    /// `links` are the names of the node's interfaces: when no address is free, those are taken
    /// back whose interfaces are gone.
    pub fn allocate(
        &self,
        range: Prefix,
        key: &str,
        interface: &str,
        ports: &[PortMapping],
        links: &BTreeSet<String>,
    ) -> Result<Ipv4Addr, CniError> {
        let entries = self.entries()?;
        let own = entries
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, entry)| entry.address);
        let taken = |entries: &[(String, Entry)]| {
            entries
                .iter()
                .map(|(_, entry)| entry.address)
                .collect::<BTreeSet<_>>()
        };
        let last = self.last();
        let address = own
            .filter(|address| range.contains(IpAddr::V4(*address)))
            .or_else(|| choose(range, &taken(&entries), last));
        let address = match address {
            Some(address) => address,
            None => {
                self.sweep(links)?;
                choose(range, &taken(&self.entries()?), last).ok_or_else(|| {
                    CniError::new(
                        code::EXHAUSTED,
                        "allocate an address",
                        format!("{range} is full"),
                    )
                })?
            }
        };
        let entry = Entry {
            address,
            interface: interface.to_owned(),
            ports: ports.to_vec(),
            pod: None,
        };
        let bytes = serde_json::to_vec(&entry)
            .map_err(|e| CniError::new(code::IO, "encode an address", e))?;
        self.write(&self.path(key), &bytes)?;
        self.write(&self.folder.join(LAST), address.to_string().as_bytes())?;
        Ok(address)
    }

    /// Notes whose an address is.
    pub fn note(&self, key: &str, pod: &PodName) -> Result<(), CniError> {
        let Some(mut entry) = self.find(key)? else {
            return Ok(());
        };
        entry.pod = Some(pod.clone());
        let bytes = serde_json::to_vec(&entry)
            .map_err(|e| CniError::new(code::IO, "encode an address", e))?;
        self.write(&self.path(key), &bytes)
    }

    /// Frees a pod's address; gives its entry if there was one.
    pub fn release(&self, key: &str) -> Result<Option<Entry>, CniError> {
        let entry = self.find(key)?;
        match fs::remove_file(self.path(key)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(CniError::new(code::IO, "free an address", e))
            }
            _ => Ok(entry),
        }
    }

    /// Frees the addresses whose interfaces are gone; gives how many.
    pub fn sweep(&self, links: &BTreeSet<String>) -> Result<usize, CniError> {
        let mut freed = 0;
        for (key, entry) in self.entries()? {
            if !links.contains(&entry.interface) {
                self.release(&key)?;
                freed += 1;
            }
        }
        Ok(freed)
    }

    fn last(&self) -> Option<Ipv4Addr> {
        fs::read_to_string(self.folder.join(LAST))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.{ENTRY}"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), CniError> {
        let new = self.folder.join("new");
        let write = || -> io::Result<()> {
            File::create(&new)?.write_all(bytes)?;
            fs::rename(&new, path)
        };
        write().map_err(|e| CniError::new(code::IO, &format!("write {}", path.display()), e))
    }
}

/// The next free address after the one given last, so that an address rests before it is used
/// again. The first and the last address of the range are never given: the first names the node's
/// end of a tunnel, the last would be taken for a broadcast.
pub fn choose(
    range: Prefix,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = range.address else {
        return None;
    };
    let size = 1u64 << (32 - u32::from(range.length.min(32)));
    if size < 4 {
        return None;
    }
    let first = u64::from(address.to_bits()) / size * size;
    let usable = size - 2;
    let start = last
        .map(|last| u64::from(last.to_bits()))
        .filter(|last| (first + 1..first + size - 1).contains(last))
        .map_or(0, |last| last - first);
    (0..usable)
        .map(|step| first + 1 + (start + step) % usable)
        .filter_map(|bits| u32::try_from(bits).ok().map(Ipv4Addr::from))
        .find(|candidate| !taken.contains(candidate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_before_any_is_given_again(
            length in 24u8..=30, base in any::<u32>(), start in any::<Option<u32>>(),
        ) {
            let range = Prefix { address: Ipv4Addr::from(base).into(), length };
            let usable = (1usize << (32 - length)) - 2;
            let mut last = start.map(Ipv4Addr::from);
            let mut given = BTreeSet::new();
            for _ in 0..usable {
                let next = choose(range, &BTreeSet::new(), last).expect("free");
                prop_assert!(range.contains(next.into()));
                prop_assert!(given.insert(next), "{} twice", next);
                last = Some(next);
            }
        }

        #[test]
        fn a_taken_address_is_never_given(
            taken in proptest::collection::btree_set(any::<u8>(), 0..256), last in any::<u8>(),
        ) {
            let at = |low: u8| Ipv4Addr::new(10, 1, 2, low);
            let taken: BTreeSet<_> = taken.into_iter().map(at).collect();
            let free = (1..255).any(|low| !taken.contains(&at(low)));
            let chosen = choose(range("10.1.2.0/24"), &taken, Some(at(last)));
            prop_assert_eq!(chosen.is_some(), free);
            if let Some(chosen) = chosen {
                prop_assert!(!taken.contains(&chosen) && chosen != at(0) && chosen != at(255));
            }
        }
    }

    #[test]
    fn a_pod_keeps_its_address_and_stale_ones_are_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), "net").expect("open");
        let small = range("10.1.2.0/30");
        let here: BTreeSet<String> = ["a".to_owned()].into();
        let one = store.allocate(small, "p1", "a", &[], &here).expect("free");
        assert_eq!(
            store.allocate(small, "p1", "a", &[], &here).expect("kept"),
            one
        );
        let two = store.allocate(small, "p2", "b", &[], &here).expect("free");
        assert_ne!(one, two);
        // The range has two addresses; p2's interface is not there.
        assert_eq!(
            store
                .allocate(small, "p3", "a", &[], &here)
                .expect("taken back"),
            two
        );
        let full = store
            .allocate(small, "p4", "a", &[], &here)
            .expect_err("full");
        assert_eq!(full.code, code::EXHAUSTED);
        assert_eq!(
            store.release("p1").expect("freed").map(|e| e.address),
            Some(one)
        );
        assert_eq!(store.release("p1").expect("no error"), None);
    }

    #[test]
    fn a_torn_file_is_a_free_address() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), "net").expect("open");
        fs::write(store.path("p1"), b"{\"addr").expect("write");
        assert!(store.entries().expect("readable").is_empty());
        store
            .allocate(range("10.1.2.0/30"), "p1", "a", &[], &BTreeSet::new())
            .expect("free");
    }
}
