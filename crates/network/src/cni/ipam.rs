//! Which addresses belong to which pod: one file per pod in a folder, under one lock.
//!
//! A file appears by renaming, so that only a power cut or somebody else leaves one that cannot be
//! read: its addresses are nobody's once its pod's interface is gone, and unknown before. An entry whose
//! interface is gone is stale: interfaces vanish with their pods, also when nobody said so.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use host::nft::Prefix;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::conf::PortMapping;
use super::protocol::{CniError, PodName, code, line_of};

/// A pod's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its first address.
    pub address: IpAddr,
    /// Those of other families.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<IpAddr>,
    /// The node's end of its line.
    pub interface: String,
    /// Its host ports.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// The pod, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

impl Entry {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        std::iter::once(self.address).chain(self.others.iter().copied())
    }
}

/// The opened and locked state folder of a network.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The lock lasts until this is closed.
    _lock: File,
}

/// All that is on record.
#[derive(Default)]
struct Records {
    /// With their keys, in the order of these.
    entries: Vec<(String, Entry)>,
    /// Keys of files that cannot be read.
    damaged: Vec<String>,
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

    /// All entries with their keys, without those that cannot be read.
    pub fn entries(&self) -> Result<Vec<(String, Entry)>, CniError> {
        self.read().map(|records| records.entries)
    }

    fn read(&self) -> Result<Records, CniError> {
        let mut records = Records::default();
        let mut list = || -> io::Result<()> {
            for file in fs::read_dir(&self.folder)? {
                let path = file?.path();
                let key = path.file_stem().and_then(|stem| stem.to_str());
                let (Some(key), Some(ENTRY)) = (key, path.extension().and_then(|e| e.to_str()))
                else {
                    continue;
                };
                match serde_json::from_slice(&fs::read(&path)?) {
                    Ok(entry) => records.entries.push((key.to_owned(), entry)),
                    Err(error) => {
                        let path = path.display();
                        tracing::warn!(%path, %error, "which addresses a pod has cannot be read");
                        records.damaged.push(key.to_owned());
                    }
                }
            }
            Ok(())
        };
        list().map_err(|e| CniError::new(code::IO, "list addresses", e))?;
        records.entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(records)
    }

    /// Refuses while a pod is connected whose addresses cannot be read, other than the one that asks:
    /// they would be given twice. Of a pod whose line is gone they are free.
    fn refuse_unknown(
        &self,
        damaged: &[String],
        own: &str,
        links: &BTreeSet<String>,
    ) -> Result<(), CniError> {
        let may_live =
            |key: &&String| *key != own && line_of(key).is_none_or(|line| links.contains(&line));
        let Some(key) = damaged.iter().find(may_live) else {
            return Ok(());
        };
        let why = format!(
            "{} is damaged, and its pod is still connected: remove that pod first",
            self.path(key).display()
        );
        Err(CniError::new(
            code::IO,
            "know which addresses are free",
            why,
        ))
    }

    /// The entry of a pod.
    pub fn find(&self, key: &str) -> Result<Option<Entry>, CniError> {
        Ok(self
            .entries()?
            .into_iter()
            .find(|(k, _)| k == key)
            .map(|(_, entry)| entry))
    }

    /// Addresses for a pod, one of each range; a pod that has one keeps it.
    ///
    /// `links` are the names of the node's interfaces: when no address is free, those are taken
    /// back whose interfaces are gone.
    pub fn allocate(
        &self,
        ranges: &[Prefix],
        key: &str,
        interface: &str,
        ports: &[PortMapping],
        links: &BTreeSet<String>,
    ) -> Result<Vec<IpAddr>, CniError> {
        let Records { entries, damaged } = self.read()?;
        self.refuse_unknown(&damaged, key, links)?;
        let own: Vec<IpAddr> = entries
            .iter()
            .filter(|(k, _)| k == key)
            .flat_map(|(_, entry)| entry.addresses())
            .collect();
        let mut taken = taken(&entries);
        let last = self.last()?;
        let mut addresses = Vec::new();
        for range in ranges {
            let had = own.iter().copied().find(|a| range.contains(*a));
            let address = match had.or_else(|| choose(*range, &taken, &last)) {
                Some(address) => address,
                None => {
                    self.sweep(links)?;
                    taken = self::taken(&self.entries()?);
                    choose(*range, &taken, &last).ok_or_else(|| {
                        let why = format!("{range} is full");
                        CniError::new(code::EXHAUSTED, "allocate an address", why)
                    })?
                }
            };
            addresses.push(address);
        }
        let Some((first, others)) = addresses.split_first() else {
            let why = "the node has no range for its pods";
            return Err(CniError::new(code::EXHAUSTED, "allocate an address", why));
        };
        let entry = Entry {
            address: *first,
            others: others.to_vec(),
            interface: interface.to_owned(),
            ports: ports.to_vec(),
            pod: None,
        };
        self.put(key, &entry)?;
        // Of a family that the range has no more, what was given last is remembered.
        let asked = |ip: &&IpAddr| addresses.iter().any(|a| a.is_ipv4() == ip.is_ipv4());
        let other = last.iter().filter(|ip| !asked(ip));
        let last: Vec<String> = addresses
            .iter()
            .chain(other)
            .map(IpAddr::to_string)
            .collect();
        self.write(&self.folder.join(LAST), last.join("\n").as_bytes())?;
        Ok(addresses)
    }

    /// Notes whose an address is.
    pub fn note(&self, key: &str, pod: &PodName) -> Result<(), CniError> {
        let Some(mut entry) = self.find(key)? else {
            return Ok(());
        };
        entry.pod = Some(pod.clone());
        self.put(key, &entry)
    }

    /// Records addresses that others have given to a pod. Whoever had one of them before has it no
    /// more.
    pub fn record(
        &self,
        key: &str,
        addresses: &[IpAddr],
        pod: Option<&PodName>,
    ) -> Result<(), CniError> {
        let [first, others @ ..] = addresses else {
            return Ok(());
        };
        for (other, entry) in self.entries()? {
            if other != key && entry.addresses().any(|ip| addresses.contains(&ip)) {
                self.release(&other)?;
            }
        }
        let entry = Entry {
            address: *first,
            others: others.to_vec(),
            interface: String::new(),
            ports: Vec::new(),
            pod: pod.cloned(),
        };
        self.put(key, &entry)
    }

    fn put(&self, key: &str, entry: &Entry) -> Result<(), CniError> {
        let bytes = serde_json::to_vec(entry)
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
        let Records { entries, damaged } = self.read()?;
        let entries = entries.into_iter().map(|(key, e)| (key, Some(e.interface)));
        let damaged = damaged.into_iter().map(|key| {
            let line = line_of(&key);
            (key, line)
        });
        let mut freed = 0;
        for (key, line) in entries.chain(damaged) {
            if line.is_some_and(|line| !links.contains(&line)) {
                self.release(&key)?;
                freed += 1;
            }
        }
        Ok(freed)
    }

    /// The addresses that were given last, one of each range. Without them the next would be one that
    /// has just become free; where they are not noted, or no text, they begin again.
    fn last(&self) -> Result<Vec<IpAddr>, CniError> {
        let text = match fs::read_to_string(self.folder.join(LAST)) {
            Ok(text) => text,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                ) =>
            {
                String::new()
            }
            Err(e) => return Err(CniError::new(code::IO, "read the last addresses", e)),
        };
        let lines = text.split_whitespace();
        Ok(lines.filter_map(|line| line.parse().ok()).collect())
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

fn taken(entries: &[(String, Entry)]) -> BTreeSet<IpAddr> {
    entries.iter().flat_map(|(_, e)| e.addresses()).collect()
}

/// The next free address after the one given last, so that an address rests before it is used
/// again. The first and the last address of the range are never given: the first names the node's
/// end of a tunnel, the last would be taken for a broadcast.
pub fn choose(range: Prefix, taken: &BTreeSet<IpAddr>, last: &[IpAddr]) -> Option<IpAddr> {
    let (bits, width) = match range.address {
        IpAddr::V4(four) => (u128::from(four.to_bits()), 32),
        IpAddr::V6(six) => (six.to_bits(), 128),
    };
    let host_bits = width - u32::from(range.length).min(width);
    let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |s| s - 1);
    let usable = hosts.checked_sub(1).filter(|usable| *usable > 1)?;
    let network = bits & !hosts;
    let offset = |address: &IpAddr| {
        let number = match address {
            IpAddr::V4(four) => u128::from(four.to_bits()),
            IpAddr::V6(six) => six.to_bits(),
        };
        (number - network) % hosts
    };
    let here = last.iter().find(|last| range.contains(**last));
    let start = here.map_or(0, offset);
    let address = |offset: u128| -> Option<IpAddr> {
        let number = network + offset;
        Some(match range.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).ok()?).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
        })
    };
    // As many tries as there are addresses that others have, and one more: one of them is free.
    let tries = u128::try_from(taken.len()).unwrap_or(u128::MAX);
    (0..usable.min(tries.saturating_add(1)))
        .filter_map(|step| address(1 + (start + step) % usable))
        .find(|candidate| !taken.contains(candidate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::protocol::{interface_name, key_of};
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
            let mut last: Vec<IpAddr> = start.map(|n| Ipv4Addr::from(n).into()).into_iter().collect();
            let mut given = BTreeSet::new();
            for _ in 0..usable {
                let next = choose(range, &BTreeSet::new(), &last).expect("free");
                prop_assert!(range.contains(next));
                prop_assert!(given.insert(next), "{} twice", next);
                last = vec![next];
            }
        }

        #[test]
        fn a_taken_address_is_never_given(
            taken in proptest::collection::btree_set(any::<u8>(), 0..256), last in any::<u8>(),
        ) {
            let at = |low: u8| IpAddr::from([10, 1, 2, low]);
            let taken: BTreeSet<_> = taken.into_iter().map(at).collect();
            let free = (1..255).any(|low| !taken.contains(&at(low)));
            let chosen = choose(range("10.1.2.0/24"), &taken, &[at(last)]);
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
        let small = [range("10.1.2.0/30")];
        let here: BTreeSet<String> = ["a".to_owned()].into();
        let one = store.allocate(&small, "p1", "a", &[], &here).expect("free");
        assert_eq!(
            store.allocate(&small, "p1", "a", &[], &here).expect("kept"),
            one
        );
        let two = store.allocate(&small, "p2", "b", &[], &here).expect("free");
        assert_ne!(one, two);
        // The range has two addresses; p2's interface is not there.
        assert_eq!(
            store
                .allocate(&small, "p3", "a", &[], &here)
                .expect("taken back"),
            two
        );
        let full = store
            .allocate(&small, "p4", "a", &[], &here)
            .expect_err("full");
        assert_eq!(full.code, code::EXHAUSTED);
        assert_eq!(
            store.release("p1").expect("freed").map(|e| vec![e.address]),
            Some(one)
        );
        assert_eq!(store.release("p1").expect("no error"), None);
    }

    #[test]
    fn a_pod_has_an_address_of_each_family_and_keeps_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), "net").expect("open");
        let both = [range("10.1.2.0/24"), range("fd00:0:0:2::/64")];
        let none = BTreeSet::new();
        let ask = |ranges: &[Prefix], key: &str| {
            let given = store.allocate(ranges, key, "a", &[], &none).expect("free");
            given.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        // A pod of before the node had ranges of both families, as an earlier version wrote it.
        fs::write(
            store.path("p0"),
            br#"{"address":"10.1.2.1","interface":"a"}"#,
        )
        .expect("write");
        fs::write(store.folder.join(LAST), b"10.1.2.1").expect("write");
        assert_eq!(ask(&both, "p1"), ["10.1.2.2", "fd00:0:0:2::1"]);
        assert_eq!(ask(&both, "p2"), ["10.1.2.3", "fd00:0:0:2::2"]);
        assert_eq!(ask(&both, "p1"), ["10.1.2.2", "fd00:0:0:2::1"]);
        assert_eq!(ask(&both, "p0"), ["10.1.2.1", "fd00:0:0:2::3"]);
        assert_eq!(ask(&both[1..], "p3"), ["fd00:0:0:2::4"]);
        // An address rests before it is given again.
        store.release("p2").expect("freed");
        assert_eq!(ask(&both, "p4"), ["10.1.2.3", "fd00:0:0:2::5"]);
        // Which ones rest must be known.
        fs::remove_file(store.folder.join(LAST)).expect("removed");
        fs::create_dir(store.folder.join(LAST)).expect("made");
        let refused = store.allocate(&both, "p5", "a", &[], &none);
        assert_eq!(refused.expect_err("unknown").code, code::IO);
    }

    #[test]
    fn the_addresses_of_a_torn_file_are_free_once_its_pod_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), "net").expect("open");
        let small = [range("10.1.2.0/30")];
        let key = key_of("c-1", "eth0");
        fs::write(store.path(&key), b"{\"addr").expect("write");
        assert!(store.entries().expect("readable").is_empty());
        let here: BTreeSet<String> = [interface_name("c-1", "eth0"), "a".to_owned()].into();
        let refused = store.allocate(&small, "p1", "a", &[], &here);
        assert_eq!(refused.map_err(|e| e.code), Err(code::IO));
        assert_eq!(store.sweep(&here).expect("swept"), 0);
        let gone: BTreeSet<String> = ["a".to_owned()].into();
        store.allocate(&small, "p1", "a", &[], &gone).expect("free");
        assert_eq!(store.sweep(&gone).expect("swept"), 1);
        assert!(!store.path(&key).exists());
        // Whose file it is, who asks again gets one.
        fs::write(store.path(&key), b"").expect("write");
        store.allocate(&small, &key, "b", &[], &here).expect("free");
    }
}
