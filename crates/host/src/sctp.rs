//! What the kernel has of SCTP, which many are built without: the tracking of its connections, by which
//! rules lead them to endpoints, and sockets, by which programs speak it.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

/// A parameter that is there where its connections are tracked.
const PARAMETER: &str = "net.netfilter.nf_conntrack_sctp_timeout_established";

/// Whether its connections are tracked in the network namespace of the calling thread; none where no
/// connections are tracked at all yet.
pub fn is_tracked() -> Option<bool> {
    crate::conntrack::room().ok()?;
    Some(crate::sysctl::get(PARAMETER).is_ok())
}

/// Whether programs can speak it.
pub fn has_sockets() -> bool {
    let made = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP));
    !matches!(
        made,
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT | Errno::AFNOSUPPORT)
    )
}
