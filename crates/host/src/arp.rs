//! ARP for addresses that this host takes packets for without having them: answers to who asks for
//! them, and announcements when they move here.
//!
//! The kernel would answer for an address of an interface, but then everything that listens on this
//! host would be reached there, too.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use tokio::io::unix::AsyncFd;

use crate::kernel_call::{outcome, waited_for};

const ETHERTYPE: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IP: [u8; 2] = [0x08, 0x00];
const ETHERNET: [u8; 2] = [0, 1];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
const EVERYBODY: Mac = [0xff; 6];
const NOBODY: Mac = [0; 6];
/// Of a packet with its Ethernet header; what follows is padding.
const FRAME_BYTES: usize = 42;

/// A hardware address.
pub type Mac = [u8; 6];

/// Somebody asks who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub from: (Mac, Ipv4Addr),
    /// Who is looked for.
    pub target: Ipv4Addr,
}

/// One link's ARP traffic.
pub struct Arp {
    socket: AsyncFd<OwnedFd>,
    mac: Mac,
}

impl Arp {
    /// Listens on the link of this number, in the network namespace of the calling thread and on
    /// its runtime; `mac` is the link's hardware address.
    ///
    /// # Errors
    /// Without the right to raw sockets, or when there is no such link.
    pub fn open(link: u32, mac: Mac) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it hears nothing until it is bound.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        bind(&socket, link)?;
        Ok(Self {
            socket: waited_for(socket)?,
            mac,
        })
    }

    /// The next question that somebody asks. Ends with an error when the link is gone or down.
    pub async fn question(&self) -> io::Result<Question> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut frame = [0; FRAME_BYTES];
            let read = ready.try_io(|socket| {
                let taken = recv(socket.as_fd(), &mut frame[..], RecvFlags::empty())?;
                Ok(taken.0)
            });
            let Ok(length) = read else { continue };
            if let Some(question) = question_in(frame.get(..length?).unwrap_or_default()) {
                return Ok(question);
            }
        }
    }

    /// Tells who asked that this host has the address.
    pub fn answer(&self, question: &Question) -> io::Result<()> {
        let own = (self.mac, question.target);
        self.send(&frame(question.from.0, REPLY, own, question.from))
    }

    /// Tells everybody that whoever has the hardware address has the address. In both forms, since
    /// some devices heed only one of them.
    pub fn announce(&self, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let holder = (mac, address);
        for (operation, about) in [(REQUEST, NOBODY), (REPLY, EVERYBODY)] {
            let mut frame = frame(EVERYBODY, operation, holder, (about, address));
            // A frame itself comes from here, or bridges would send that host's frames here.
            if let Some(from) = frame.get_mut(6..12) {
                from.copy_from_slice(&self.mac);
            }
            self.send(&frame)?;
        }
        Ok(())
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.get_ref(), frame, SendFlags::empty())?;
        Ok(())
    }
}

#[expect(
    unsafe_code,
    reason = "rustix has no addresses of links, so the C structure is passed"
)]
fn bind(socket: &OwnedFd, link: u32) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let size = size_of::<libc::sockaddr_ll>();
    let length = libc::socklen_t::try_from(size).map_err(too_large)?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(too_large)?,
        sll_protocol: u16::from_ne_bytes(ETHERTYPE),
        sll_ifindex: i32::try_from(link).map_err(too_large)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a whole structure of the length that is given with it, which lives
    // longer than the call; the kernel only reads it.
    let failed = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    outcome(failed)
}

/// An Ethernet frame with an ARP packet.
fn frame(to: Mac, operation: [u8; 2], from: (Mac, Ipv4Addr), about: (Mac, Ipv4Addr)) -> Vec<u8> {
    let parts: [&[u8]; 11] = [
        &to,
        &from.0,
        &ETHERTYPE,
        &ETHERNET,
        &ETHERTYPE_IP,
        // Lengths of hardware addresses and addresses.
        &[6, 4],
        &operation,
        &from.0,
        &from.1.octets(),
        &about.0,
        &about.1.octets(),
    ];
    parts.concat()
}

/// The question of a frame, if it is one. Announcements, which ask for the sender's own address,
/// are none.
fn question_in(frame: &[u8]) -> Option<Question> {
    let head = [ETHERTYPE, ETHERNET, ETHERTYPE_IP, [6, 4], REQUEST].concat();
    let packet = frame.get(12..)?.strip_prefix(head.as_slice())?;
    let four = |at: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    let question = Question {
        from: (packet.get(..6)?.try_into().ok()?, four(6)?),
        target: four(16)?,
    };
    (question.from.1 != question.target).then_some(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 9], Ipv4Addr::new(192, 0, 2, 9));
    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    #[test]
    fn questions_are_read_and_all_else_is_not() {
        let asked = frame(EVERYBODY, REQUEST, ASKER, (NOBODY, ADDRESS));
        assert_eq!(asked.len(), FRAME_BYTES);
        let expected = Question {
            from: ASKER,
            target: ADDRESS,
        };
        assert_eq!(question_in(&asked), Some(expected));
        for length in 0..FRAME_BYTES {
            assert_eq!(question_in(&asked[..length]), None, "{length} bytes");
        }
        let answer = frame(ASKER.0, REPLY, (OWN, ADDRESS), ASKER);
        assert_eq!(question_in(&answer), None);
        let announced = frame(EVERYBODY, REQUEST, (OWN, ADDRESS), (NOBODY, ADDRESS));
        assert_eq!(question_in(&announced), None);
    }

    #[test]
    fn an_answer_is_laid_out_as_the_standard_says() {
        let answer = frame(ASKER.0, REPLY, (OWN, ADDRESS), ASKER);
        let expected = [
            2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // ARP, a reply
            2, 0, 0, 0, 0, 1, 192, 0, 2, 100, // who has it
            2, 0, 0, 0, 0, 9, 192, 0, 2, 9, // who asked
        ];
        assert_eq!(answer, expected);
    }
}
