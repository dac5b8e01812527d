//! What control plane and nodes say to one another about volumes of CSI drivers: how a volume is
//! called in a node's status, and how its attachment to a node is called.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// How a volume is called in the lists of a node's status.
#[must_use]
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of the VolumeAttachment of a volume to a node.
#[must_use]
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    hashed(&[handle, driver, node])
}

/// Whether a VolumeAttachment has a name as [`attachment_name`] makes them. Others are of somebody
/// who attaches by himself.
#[must_use]
pub fn is_attachment_name(name: &str) -> bool {
    name.strip_prefix("csi-").is_some_and(|digest| {
        let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        digest.len() == 64 && digest.bytes().all(hexadecimal)
    })
}

/// The handle of a volume that a pod brings along, which no provisioner has named.
#[must_use]
pub fn inline_handle(pod_uid: &str, volume: &str) -> String {
    hashed(&[pod_uid, volume])
}

fn hashed(parts: &[&str]) -> String {
    format!("csi-{}", digest(parts))
}

/// SHA-256 of all parts one after another, in hexadecimal digits.
#[must_use]
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    let mut out = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        assert_eq!(unique_name("d.io", "h"), "kubernetes.io/csi/d.io^h");
        let name = "csi-f9c0a2e55a623bb2869fea8487e4badd0af73938bd4b9b164f308d27ed06b4cc";
        assert_eq!(attachment_name("d.io", "h", "n"), name);
        assert_ne!(attachment_name("d.io", "h", "m"), name);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(&[""]), empty);
    }
}
