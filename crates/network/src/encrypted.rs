//! Encrypted ways to other nodes' pods: one WireGuard link for all of them. Each node's private key
//! stays in a file of its own; its public one stands in its Node. Who is reached is `plan`'s matter.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use host::netlink::{Link, Netlink, NetlinkError};
use host::nft::{Family, Prefix};
use host::wireguard::{Key, Peers, Wireguard, changes};
use thiserror::Error;

use crate::key_text::{key_of, text_of};
use crate::plan::{Line, Peer};

/// The name of the link.
pub const NAME: &str = "tiphys-wg";
/// The UDP port: WireGuard's usual one.
const PORT: u16 = 51_820;

/// Why there is no encrypted link.
#[derive(Debug, Error)]
pub enum EncryptionError {
    /// The kernel cannot.
    #[error(
        "this machine's kernel has no WireGuard: it needs CONFIG_WIREGUARD, built in or as the module \
         wireguard"
    )]
    Unsupported,
    /// The private key could not be read or made.
    #[error("the private key {0}: {1}")]
    PrivateKey(String, io::Error),
    /// The link could not be made.
    #[error(transparent)]
    Link(#[from] NetlinkError),
    /// The kernel refused what it shall do.
    #[error("set {attempt} of the encrypted link: {cause}")]
    Device {
        /// What was set.
        attempt: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

fn device(attempt: &'static str) -> impl FnOnce(io::Error) -> EncryptionError {
    move |cause| EncryptionError::Device { attempt, cause }
}

/// Room for the outer headers of an encrypted packet: UDP, WireGuard's own and its padding, with the
/// header of IPv4 or IPv6.
pub fn overhead_bytes(outer: Family) -> u32 {
    match outer {
        Family::Ip4 => 60,
        Family::Ip6 => 80,
    }
}

/// Makes the link with the key of a file, which is made where there is none; gives the public key as it
/// stands in a Node.
pub async fn prepare(file: &Path) -> Result<(Key, String), EncryptionError> {
    let named = |e| EncryptionError::PrivateKey(file.display().to_string(), e);
    let private = private_key(file).map_err(named)?;
    let mut kernel = open()?;
    Netlink::connect()?.ensure_wireguard(NAME).await?;
    kernel
        .set(NAME, &private, PORT)
        .map_err(device("the private key"))?;
    let found = kernel.device(NAME).map_err(device("the private key"))?;
    let public = found.public_key.ok_or_else(|| {
        let none = io::Error::other("the kernel made no public key of it");
        device("the private key")(none)
    })?;
    Ok((private, text_of(public)))
}

fn open() -> Result<Wireguard, EncryptionError> {
    let kernel = Wireguard::open().map_err(device("up a socket"))?;
    kernel.ok_or(EncryptionError::Unsupported)
}

/// A key that is kept in a file, for its owner alone.
fn private_key(file: &Path) -> io::Result<Key> {
    match fs::read_to_string(file) {
        Ok(text) => key_of(&text).ok_or_else(|| io::Error::other("not a key in base64")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = new_key()?;
            let new = file.with_extension("new");
            let _ = fs::remove_file(&new);
            let mut made = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            made.write_all(format!("{}\n", text_of(key)).as_bytes())?;
            made.sync_all()?;
            fs::rename(&new, file)?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// As the curve wants it (RFC 7748).
fn new_key() -> io::Result<Key> {
    let mut key = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let [first, .., last] = &mut key;
    *first &= 0xf8;
    *last = *last & 0x7f | 0x40;
    Ok(Key(key))
}

/// Brings the link and its peers to what they shall be.
pub async fn ensure(
    netlink: &Netlink,
    own: &Peer,
    private: &Key,
    mtu: u32,
    lines: &[Line<'_>],
    outer: Family,
) -> Result<Link, EncryptionError> {
    let mut kernel = open()?;
    let mut link = netlink.ensure_wireguard(NAME).await?;
    kernel
        .set(NAME, private, PORT)
        .map_err(device("the private key"))?;
    if link.mtu != mtu {
        netlink.set_mtu(link.index, mtu).await?;
        link.mtu = mtu;
    }
    // What this node itself sends to pods of others comes from there.
    for cidr in &own.pod_cidrs {
        let end = Prefix::of_one(cidr.address);
        netlink.add_address(link.index, end).await?;
    }
    let now = kernel.device(NAME).map_err(device("the peers"))?.peers;
    let changes = changes(&now, &peers(lines, outer));
    kernel
        .change_peers(NAME, &changes)
        .map_err(device("the peers"))?;
    Ok(link)
}

/// The other ends of ways: each node that has a key, at its address of this node's first family.
pub fn peers(lines: &[Line<'_>], outer: Family) -> Peers {
    let mut peers = Peers::new();
    for line in lines {
        let Some(key) = line.peer.key else {
            continue;
        };
        let peer = peers.entry(key).or_default();
        let address = line.peer.address(outer);
        peer.endpoint = address.map(|address| SocketAddr::new(address, PORT));
        peer.allowed.insert(line.cidr);
    }
    peers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ways;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("wireguard.key");
        let key = private_key(&file).expect("made");
        assert_eq!(private_key(&file).expect("read"), key);
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!((key.0[0] & 7, key.0[31] & 0xc0), (0, 0x40));
        let other = private_key(&folder.path().join("other")).expect("made");
        assert_ne!(other, key);
        fs::write(&file, "short").expect("write");
        assert!(private_key(&file).is_err());
    }

    #[test]
    fn ranges_of_a_node_are_behind_its_key() {
        let peer = |key: Option<u8>, address: &str, cidrs: &[&str]| Peer {
            addresses: vec![address.parse().expect("an address")],
            pod_cidrs: cidrs.iter().map(|c| c.parse().expect("a range")).collect(),
            key: key.map(|byte| Key([byte; 32])),
        };
        let all = std::collections::BTreeMap::from([
            (
                "me".to_owned(),
                peer(Some(1), "192.0.2.1", &["10.1.0.0/24"]),
            ),
            (
                "both".to_owned(),
                peer(Some(2), "192.0.2.2", &["10.1.1.0/24", "fd00:1::/64"]),
            ),
            ("open".to_owned(), peer(None, "192.0.2.3", &["10.1.2.0/24"])),
        ]);
        let lines = ways("me", &all, &[], false);
        let peers = peers(&lines, Family::Ip4);
        let [(key, both)] = peers.iter().collect::<Vec<_>>()[..] else {
            panic!("{peers:?}");
        };
        assert_eq!(*key, Key([2; 32]));
        assert_eq!(both.endpoint, "192.0.2.2:51820".parse().ok());
        assert_eq!(both.allowed.len(), 2);
    }
}
