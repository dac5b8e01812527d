//! Frames of SPDY/3.1 as bytes, both ways. Pure: no connection, no stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Compressor, Decompressor, Headers};

/// Length of the part that every frame begins with.
pub const HEAD_BYTES: usize = 8;
/// The largest control frame taken: header blocks are small, SETTINGS smaller.
pub const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// The id of SETTINGS' initial window size.
pub const INITIAL_WINDOW: u32 = 7;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const VERSION: u16 = 3;

/// Why a stream refuses or ends: the codes of RST_STREAM that we send.
pub mod reset {
    /// Something that the protocol forbids.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// A frame for a stream that is not there.
    pub const INVALID_STREAM: u32 = 2;
    /// No more streams now.
    pub const REFUSED_STREAM: u32 = 3;
    /// Not wanted any more.
    pub const CANCEL: u32 = 5;
    /// More data than the window allows.
    pub const FLOW_CONTROL: u32 = 7;
}

/// What a peer did wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpdyError {
    #[error("SPDY version {0}, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    #[error("frame of type {0} is malformed")]
    Malformed(u16),
    #[error("header block: {0}")]
    Headers(&'static str),
    #[error("stream id {0} may not be used here")]
    StreamId(u32),
    #[error("more answers are waiting than the peer takes")]
    Flood,
}

/// A frame, whole; what is of no use to us is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Rst {
        id: u32,
        status: u32,
    },
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// A control frame of a type that is to be ignored.
    Unknown(u16),
}

/// What the first eight bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Control { kind: u16, flags: u8, length: usize },
    Data { id: u32, fin: bool, length: usize },
}

impl Head {
    /// Reads a frame's head.
    pub fn read(bytes: [u8; HEAD_BYTES]) -> Result<Self, SpdyError> {
        let mut b = &bytes[..];
        let (first, second) = (b.get_u32(), b.get_u32());
        let flags = second.to_be_bytes()[0];
        let length = usize::try_from(second & 0x00ff_ffff).unwrap_or(usize::MAX);
        if first & 0x8000_0000 == 0 {
            let fin = flags & FIN != 0;
            return match first {
                0 => Err(SpdyError::StreamId(0)),
                id => Ok(Self::Data { id, fin, length }),
            };
        }
        let version = u16::try_from(first >> 16 & 0x7fff).unwrap_or_default();
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > MAX_CONTROL_BYTES {
            return Err(SpdyError::TooLong(length));
        }
        let kind = u16::try_from(first & 0xffff).unwrap_or_default();
        Ok(Self::Control {
            kind,
            flags,
            length,
        })
    }
}

/// Writes the frames of one direction.
#[derive(Debug, Default)]
pub struct Encoder(Compressor);

impl Encoder {
    /// Appends a frame.
    pub fn write(&mut self, frame: &Frame, out: &mut BytesMut) {
        let fin_flag = |fin: &bool| if *fin { FIN } else { 0 };
        match frame {
            Frame::SynStream {
                id,
                fin,
                unidirectional,
                headers,
            } => {
                let direction = if *unidirectional { UNIDIRECTIONAL } else { 0 };
                let mut body = BytesMut::new();
                body.put_u32(*id);
                // No associated stream, highest priority, no slot.
                body.put_slice(&[0; 6]);
                self.0.write(headers, &mut body);
                control(1, fin_flag(fin) | direction, &body, out);
            }
            Frame::SynReply { id, fin, headers } => {
                self.headed(2, *id, fin_flag(fin), headers, out)
            }
            Frame::Rst { id, status } => control(3, 0, &pair(*id, *status), out),
            Frame::Settings(all) => {
                let mut body = BytesMut::new();
                body.put_u32(u32::try_from(all.len()).unwrap_or_default());
                for (id, value) in all {
                    body.put_slice(&pair(*id & 0x00ff_ffff, *value));
                }
                control(4, 0, &body, out);
            }
            Frame::Ping(id) => control(6, 0, &id.to_be_bytes(), out),
            Frame::GoAway { last, status } => control(7, 0, &pair(*last, *status), out),
            Frame::Headers { id, fin, headers } => self.headed(8, *id, fin_flag(fin), headers, out),
            Frame::WindowUpdate { id, delta } => control(9, 0, &pair(*id, *delta), out),
            Frame::Data { id, fin, data } => {
                out.reserve(HEAD_BYTES + data.len());
                out.put_u32(id & 0x7fff_ffff);
                out.put_u32(length_word(fin_flag(fin), data.len()));
                out.put_slice(data);
            }
            Frame::Unknown(kind) => control(*kind, 0, &[], out),
        }
    }

    fn headed(&mut self, kind: u16, id: u32, flags: u8, headers: &Headers, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        body.put_u32(id);
        self.0.write(headers, &mut body);
        control(kind, flags, &body, out);
    }
}

fn pair(a: u32, b: u32) -> [u8; 8] {
    (u64::from(a) << 32 | u64::from(b)).to_be_bytes()
}

fn length_word(flags: u8, length: usize) -> u32 {
    let length = u32::try_from(length).unwrap_or_default() & 0x00ff_ffff;
    u32::from(flags) << 24 | length
}

fn control(kind: u16, flags: u8, body: &[u8], out: &mut BytesMut) {
    out.reserve(HEAD_BYTES + body.len());
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(length_word(flags, body.len()));
    out.put_slice(body);
}

/// Reads the control frames of one direction.
#[derive(Debug, Default)]
pub struct Decoder(Decompressor);

impl Decoder {
    /// Reads a control frame's body.
    pub fn read(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, SpdyError> {
        let mut b = body;
        let mut word = || b.try_get_u32().map_err(|_| SpdyError::Malformed(kind));
        let fin = flags & FIN != 0;
        let frame = match kind {
            1 => {
                let id = stream_id(word()?)?;
                word()?;
                let block = body.get(10..).ok_or(SpdyError::Malformed(kind))?;
                Frame::SynStream {
                    id,
                    fin,
                    unidirectional: flags & UNIDIRECTIONAL != 0,
                    headers: self.0.read(block)?,
                }
            }
            2 | 8 => {
                let id = stream_id(word()?)?;
                let headers = self.0.read(b)?;
                match kind {
                    2 => Frame::SynReply { id, fin, headers },
                    _ => Frame::Headers { id, fin, headers },
                }
            }
            3 => Frame::Rst {
                id: stream_id(word()?)?,
                status: word()?,
            },
            4 => {
                let count = usize::try_from(word()?).unwrap_or(usize::MAX);
                if b.len() != count.saturating_mul(8) {
                    return Err(SpdyError::Malformed(kind));
                }
                let pairs = b
                    .chunks_exact(8)
                    .map(|mut p| (p.get_u32() & 0x00ff_ffff, p.get_u32()));
                Frame::Settings(pairs.collect())
            }
            6 => Frame::Ping(word()?),
            7 => Frame::GoAway {
                last: word()? & 0x7fff_ffff,
                status: word()?,
            },
            9 => Frame::WindowUpdate {
                id: word()? & 0x7fff_ffff,
                delta: word()? & 0x7fff_ffff,
            },
            other => Frame::Unknown(other),
        };
        Ok(frame)
    }
}

fn stream_id(word: u32) -> Result<u32, SpdyError> {
    match word & 0x7fff_ffff {
        0 => Err(SpdyError::StreamId(0)),
        id => Ok(id),
    }
}
