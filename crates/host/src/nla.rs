//! Netlink messages and attributes as bytes: what `nft` and `conntrack` build their requests from
//! and read answers with.
//!
//! netlink-packet-netfilter has no `numgen`, `nat`, `ct`, `dynset`, `fib` or `reject` expression;
//! a TLV writer of this size is smaller than the adapters for them would be.
//! It knows neither tables nor connections.

/// Set in an attribute's type when it contains attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that name it.
const TYPE_MASK: u16 = 0x3fff;
/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Length of `struct nlmsghdr` and `struct nfgenmsg` together.
const NETFILTER_HEADER: usize = HEADER + 4;

/// `NLM_F_*` of linux/netlink.h.
pub mod flag {
    /// It is a request.
    pub const REQUEST: u16 = 1;
    /// The kernel shall answer success too.
    pub const ACK: u16 = 4;
    /// The answer is a dump of many messages.
    pub const DUMP: u16 = 0x300;
    /// Create if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add at the end of the list.
    pub const APPEND: u16 = 0x800;
}

/// Writes messages one after another into one buffer.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    message: usize,
}

impl Writer {
    /// Begins a netfilter message; `end` closes it.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.message = self.buffer.len();
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&flags.to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
    }

    /// Closes the message that was begun last by writing its length.
    pub fn end(&mut self) {
        let length = (self.buffer.len() - self.message) as u32;
        self.patch(self.message, &length.to_ne_bytes());
    }

    /// Adds flags to the message that was begun last.
    pub fn add_flags(&mut self, flags: u16) {
        let at = self.message + 6;
        let old = self.buffer.get(at..at + 2).and_then(|b| b.try_into().ok());
        let new = old.map_or(0, u16::from_ne_bytes) | flags;
        self.patch(at, &new.to_ne_bytes());
    }

    /// An attribute of raw bytes. Values longer than an attribute can be are cut by no caller:
    /// lists are split before.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    /// A number in network byte order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number in network byte order.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A text with the zero that ends it.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An attribute that contains what `inside` writes.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&0u16.to_ne_bytes());
        self.buffer
            .extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inside(self);
        let length = (self.buffer.len() - start) as u16;
        self.patch(start, &length.to_ne_bytes());
    }

    /// Attributes that were written elsewhere.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// All bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    fn pad(&mut self) {
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its type; for netfilter the subsystem is in the upper byte.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub sequence: u32,
    /// All that follows `struct nlmsghdr`.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after `struct nfgenmsg`.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(
            self.body
                .get(NETFILTER_HEADER - HEADER..)
                .unwrap_or_default(),
        )
    }

    /// The errno of an NLMSG_ERROR or NLMSG_DONE message, zero for success.
    pub fn errno(&self) -> i32 {
        self.body
            .get(..4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, |b| -i32::from_ne_bytes(b))
    }
}

/// The messages of a datagram; a malformed rest ends the iteration.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let body = rest.get(HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(rest.get(6..8)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?),
            body,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// A sequence of attributes; iterates over (type, value).
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this type.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find(|(k, _)| *k == kind)
            .map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of this type; none if it is missing.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// A number in network byte order.
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A number in network byte order.
    pub fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(
            self.get(kind)?.get(..2)?.try_into().ok()?,
        ))
    }

    /// A number in network byte order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(
            self.get(kind)?.get(..4)?.try_into().ok()?,
        ))
    }

    /// A text without the zero that ends it.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(bytes.get(..end)?).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.begin(0x0a01, flag::REQUEST, 7, 2, 0);
        writer.text(1, "abc");
        writer.nested(2, |w| w.u32(3, 70_000));
        writer.end();
        writer.begin(0x0a02, 0, 8, 2, 0);
        writer.end();
        let all: Vec<_> = messages(writer.as_bytes()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].attributes().text(1), Some("abc"));
        assert_eq!(all[0].attributes().nested(2).u32(3), Some(70_000));
        assert_eq!((all[1].kind, all[1].sequence), (0x0a02, 8));
    }

    #[test]
    fn malformed_input_ends_quietly() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(Attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
