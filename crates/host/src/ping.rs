//! Echo requests: whether a host is there at all. Its kernel answers, whatever runs on it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto,
    socket_with,
};
use tokio::io::unix::AsyncFd;

use crate::kernel_call::{outcome, waited_for};
use crate::nft::Family;

/// Types of requests and replies, of ICMP and of ICMPv6.
const REQUEST: [u8; 2] = [8, 128];
const REPLY: [u8; 2] = [0, 129];
/// Ours, among those of others; an answer to theirs says as much.
const IDENTIFIER: [u8; 2] = *b"ti";
/// Of a reply with its IP header, as far as it is looked at.
const PACKET_BYTES: usize = 128;

/// Asks hosts of a family.
#[derive(Debug)]
pub struct Ping {
    socket: AsyncFd<OwnedFd>,
    family: Family,
}

fn of<T: Copy>(family: Family, both: [T; 2]) -> T {
    let [four, six] = both;
    match family {
        Family::Ip4 => four,
        Family::Ip6 => six,
    }
}

impl Ping {
    /// In the network namespace of the calling thread and on its runtime.
    ///
    /// # Errors
    /// Without the right to raw sockets, or where there is no such family.
    pub fn open(family: Family) -> io::Result<Self> {
        let domain = of(family, [AddressFamily::INET, AddressFamily::INET6]);
        let protocol = of(family, [ipproto::ICMP, ipproto::ICMPV6]);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(domain, SocketType::RAW, flags, Some(protocol))?;
        hear(&socket, family, Some(of(family, REPLY)))?;
        Ok(Self {
            socket: waited_for(socket)?,
            family,
        })
    }

    /// Asks whether the host is there; the number distinguishes questions for who looks at the wire.
    pub fn ask(&self, host: IpAddr, number: u16) -> io::Result<()> {
        let to = SocketAddr::new(host, 0);
        let request = request(self.family, number);
        sendto(self.socket.get_ref(), &request, SendFlags::empty(), &to)?;
        Ok(())
    }

    /// The next host that answers anybody here.
    pub async fn answer(&self) -> io::Result<IpAddr> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut packet = [0; PACKET_BYTES];
            let read = ready.try_io(|socket| {
                let taken = recvfrom(socket.as_fd(), &mut packet[..], RecvFlags::empty())?;
                Ok((taken.0, taken.2))
            });
            let Ok(taken) = read else { continue };
            let (length, from) = taken?;
            let from = from.and_then(|any| SocketAddr::try_from(any).ok());
            let packet = packet.get(..length).unwrap_or_default();
            if let Some(from) = from.filter(|_| is_reply(self.family, packet)) {
                return Ok(from.ip());
            }
        }
    }
}

fn is_reply(family: Family, packet: &[u8]) -> bool {
    // Of IPv4, the packet's own header is before it.
    let header = match (family, packet.first()) {
        (Family::Ip4, Some(first)) => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    packet.get(header) == Some(&of(family, REPLY))
}

fn request(family: Family, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let [a, b] = IDENTIFIER;
    let mut packet = vec![of(family, REQUEST), 0, 0, 0, a, b, high, low];
    // Of IPv6, the kernel fills in the checksum, which covers addresses.
    if family == Family::Ip4 {
        let sum = checksum(&packet).to_be_bytes();
        if let Some(place) = packet.get_mut(2..4) {
            place.copy_from_slice(&sum);
        }
    }
    packet
}

/// Of the internet (RFC 1071), of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    let sum = words.fold(0u32, |sum, word| match word {
        [high, low] => sum + u32::from(u16::from_be_bytes([*high, *low])),
        _ => sum,
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// Lets the kernel queue on a raw socket only messages of this type, or none.
#[expect(
    unsafe_code,
    reason = "rustix has no filters of ICMP, so the C structures are passed"
)]
pub(crate) fn hear(socket: &OwnedFd, family: Family, only: Option<u8>) -> io::Result<()> {
    /// ICMP_FILTER and ICMP6_FILTER are the same number, of SOL_RAW and of IPPROTO_ICMPV6.
    const FILTER: libc::c_int = 1;
    // A bit for each type that is not to be heard; of ICMP for the first 32 alone.
    let mut bits = [u32::MAX; 8];
    if let Some(kind) = only
        && let Some(word) = bits.get_mut(usize::from(kind / 32))
    {
        *word &= !(1 << (kind % 32));
    }
    let (level, words) = of(family, [(libc::SOL_RAW, 1), (libc::IPPROTO_ICMPV6, 8)]);
    let size = libc::socklen_t::try_from(words * size_of::<u32>()).map_err(io::Error::other)?;
    // SAFETY: the pointer is to an array of at least the length that is given with it, which lives
    // longer than the call; the kernel only reads it.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            FILTER,
            (&raw const bits).cast(),
            size,
        )
    };
    outcome(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_standards_say() {
        let four = request(Family::Ip4, 0x0102);
        assert_eq!(four, [8, 0, 0x82, 0x94, b't', b'i', 1, 2]);
        assert_eq!(checksum(&four), 0, "as receivers check it");
        let six = request(Family::Ip6, 7);
        assert_eq!(six, [128, 0, 0, 0, b't', b'i', 0, 7]);
    }

    #[test]
    fn replies_are_told_from_all_else() {
        let mut packet = vec![0x46; 1];
        packet.resize(24, 8);
        assert!(!is_reply(Family::Ip4, &packet), "cut");
        packet.push(0);
        assert!(is_reply(Family::Ip4, &packet));
        packet[24] = 8;
        assert!(!is_reply(Family::Ip4, &packet), "a request");
        assert!(is_reply(Family::Ip6, &[129, 0]));
        for packet in [&[][..], &[128, 0]] {
            assert!(!is_reply(Family::Ip6, packet));
            assert!(!is_reply(Family::Ip4, packet));
        }
    }
}
