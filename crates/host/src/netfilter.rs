//! The netlink socket that `nft` and `conntrack` share, and `wireguard` has of its own kind: sending,
//! receiving and dumping.
//!
//! The kernel handles these requests inside `send`, so answers are there when it returns, and
//! the socket needs no waiting.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER};

use crate::nla::{self, Attributes, Message, Writer, flag};

/// A transaction of this size is sent as one datagram. Two thousand Services with ten endpoints
/// each take about 4 MiB.
const SEND_BUFFER_BYTES: usize = 64 << 20;
/// Room for acknowledgements and dumps.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_DUMP_INTR: the objects changed while they were dumped.
const DUMP_INTERRUPTED: u16 = 0x10;
const ENOENT: i32 = 2;

/// A netfilter or generic netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Channel {
    inner: netlink_sys::Socket,
    sequence: u32,
}

impl Channel {
    pub fn open() -> io::Result<Self> {
        Self::of(NETLINK_NETFILTER)
    }

    /// To generic netlink, whose header has the same length: kinds of requests are families there, and
    /// what is called a family here is the command.
    pub fn generic() -> io::Result<Self> {
        Self::of(NETLINK_GENERIC)
    }

    fn of(protocol: isize) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        inner.bind_auto()?;
        inner.set_non_blocking(true)?;
        // Errors need not carry the whole request back.
        inner.set_cap_ack(true)?;
        grow(&inner);
        Ok(Self { inner, sequence: 0 })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.receive()?.is_some() {}
        self.inner.send(bytes, 0).map(|_| ())
    }

    /// The next datagram, if there is one.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.inner.recv_from_full() {
                Ok((datagram, _)) => return Ok(Some(datagram)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends one request and gives the errno of its answer, zero for success.
    pub fn request(
        &mut self,
        kind: u16,
        family: u8,
        body: impl Fn(&mut Writer),
    ) -> io::Result<i32> {
        self.sequence += 1;
        let mut writer = Writer::default();
        writer.begin(kind, flag::REQUEST | flag::ACK, self.sequence, family, 0);
        body(&mut writer);
        writer.end();
        self.send(writer.as_bytes())?;
        let datagram = self.receive()?.unwrap_or_default();
        let answer = nla::messages(&datagram).find(|m| m.kind == NLMSG_ERROR);
        answer
            .map(|m| m.errno())
            .ok_or_else(|| io::Error::other("no answer from the kernel"))
    }

    /// Dumps objects; false if the dump was spoilt by a change meanwhile.
    pub fn dump(
        &mut self,
        kind: u16,
        family: u8,
        body: impl Fn(&mut Writer),
        each: impl FnMut(Attributes<'_>),
    ) -> io::Result<bool> {
        self.exchange(kind, flag::DUMP, family, body, each)
    }

    /// Asks for one object.
    pub fn ask(
        &mut self,
        kind: u16,
        family: u8,
        each: impl FnMut(Attributes<'_>),
    ) -> io::Result<()> {
        self.ask_with(kind, family, |_| {}, each)
    }

    /// Asks for one object by what the request says of it.
    pub fn ask_with(
        &mut self,
        kind: u16,
        family: u8,
        body: impl Fn(&mut Writer),
        each: impl FnMut(Attributes<'_>),
    ) -> io::Result<()> {
        self.exchange(kind, flag::ACK, family, body, each).map(drop)
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        body: impl Fn(&mut Writer),
        mut each: impl FnMut(Attributes<'_>),
    ) -> io::Result<bool> {
        self.sequence += 1;
        let mut writer = Writer::default();
        writer.begin(kind, flag::REQUEST | flags, self.sequence, family, 0);
        body(&mut writer);
        writer.end();
        self.send(writer.as_bytes())?;
        let mut steady = true;
        while let Some(datagram) = self.receive()? {
            for answer in nla::messages(&datagram) {
                steady &= answer.flags & DUMP_INTERRUPTED == 0;
                match answer.kind {
                    NLMSG_DONE | NLMSG_ERROR => return finished(&answer, steady),
                    _ => each(answer.attributes()),
                }
            }
        }
        Ok(steady)
    }
}

/// What does not exist is empty.
fn finished(answer: &Message<'_>, steady: bool) -> io::Result<bool> {
    match answer.errno() {
        0 | ENOENT => Ok(steady),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Large transactions need large buffers. Without CAP_NET_ADMIN the limit of the system stays,
/// and then no transaction is allowed anyway.
fn grow(socket: &netlink_sys::Socket) {
    use rustix::net::sockopt;
    let fd = socket.as_fd();
    let sizes = [
        sockopt::set_socket_send_buffer_size_force(fd, SEND_BUFFER_BYTES),
        sockopt::set_socket_recv_buffer_size_force(fd, RECEIVE_BUFFER_BYTES),
    ];
    for error in sizes.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "netfilter socket keeps small buffers");
    }
}
