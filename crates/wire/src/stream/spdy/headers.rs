//! Header blocks of SPDY/3.1: names and values behind one zlib stream per direction with a
//! preset dictionary (SPDY draft 3.1, section 2.6.10).
//!
//! What we write is stored, not deflated: our blocks are a few dozen bytes, and a compressor
//! that never looks at its input cannot leak it either. What we read is inflated in full.

use std::sync::LazyLock;

use bytes::{Buf, BufMut, BytesMut};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::frame::SpdyError;

/// The dictionary's words, each with its length before it.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// The dictionary's end, without lengths.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request",
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented",
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 ",
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,",
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=",
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);
/// The dictionary's Adler-32: by it a zlib stream names the dictionary it needs.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut all = Vec::with_capacity(1423);
    for word in WORDS {
        all.put_u32(u32::try_from(word.len()).unwrap_or_default());
        all.extend_from_slice(word.as_bytes());
    }
    all.extend_from_slice(TAIL.as_bytes());
    all
});

/// The most a block may inflate to. Real ones are below 200 bytes.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// The most headers of a block. Real ones have three.
const MAX_HEADERS: usize = 100;
/// Deflate looks back at most this far.
const WINDOW_BYTES: usize = 32 * 1024;

/// Headers of a stream: lower-case names, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers from pairs; names are lowered.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let lower = |(k, v): (&str, &str)| (k.to_ascii_lowercase(), v.to_owned());
        Self(pairs.into_iter().map(lower).collect())
    }
    /// The first value of a name, whatever its case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        // Several values of one name are joined by NUL.
        found.map(|(_, v)| v.split('\0').next().unwrap_or_default())
    }

    fn write(&self) -> Vec<u8> {
        let put = |out: &mut Vec<u8>, text: &str| {
            out.put_u32(u32::try_from(text.len()).unwrap_or_default());
            out.extend_from_slice(text.as_bytes());
        };
        let mut out = Vec::new();
        out.put_u32(u32::try_from(self.0.len()).unwrap_or_default());
        for (name, value) in &self.0 {
            put(&mut out, name);
            put(&mut out, value);
        }
        out
    }

    fn read(mut block: &[u8]) -> Result<Self, SpdyError> {
        fn number(block: &mut &[u8]) -> Result<usize, SpdyError> {
            let n = block
                .try_get_u32()
                .map_err(|_| SpdyError::Headers("cut short"))?;
            usize::try_from(n).map_err(|_| SpdyError::Headers("too long"))
        }
        fn text(block: &mut &[u8]) -> Result<String, SpdyError> {
            let n = number(block)?;
            let (text, rest) = block
                .split_at_checked(n)
                .ok_or(SpdyError::Headers("cut short"))?;
            *block = rest;
            Ok(String::from_utf8_lossy(text).into_owned())
        }
        let count = number(&mut block)?;
        if count > MAX_HEADERS {
            return Err(SpdyError::Headers("too many"));
        }
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let name = text(&mut block)?;
            all.push((name, text(&mut block)?));
        }
        Ok(Self(all))
    }
}

/// Writes blocks of one direction.
#[derive(Debug, Default)]
pub struct Compressor {
    begun: bool,
}

impl Compressor {
    /// Appends a block.
    pub fn write(&mut self, headers: &Headers, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.begun, true) {
            // Deflate with a 32 KiB window, a preset dictionary, and the check bits for that.
            out.put_slice(&[0x78, 0xbb]);
            out.put_u32(DICTIONARY_ID);
        }
        for part in headers.write().chunks(usize::from(u16::MAX)) {
            stored(part, out);
        }
        // The empty block that makes an inflater give out everything so far.
        stored(&[], out);
    }
}

fn stored(part: &[u8], out: &mut BytesMut) {
    let n = u16::try_from(part.len()).unwrap_or_default();
    out.put_u8(0);
    out.put_u16_le(n);
    out.put_u16_le(!n);
    out.put_slice(part);
}

/// Reads blocks of one direction.
pub struct Decompressor {
    inflater: Box<DecompressorOxide>,
    window: Box<[u8]>,
    at: usize,
    begun: bool,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        let mut window = vec![0; WINDOW_BYTES].into_boxed_slice();
        // What lies in the window before the first byte is what the dictionary means.
        for (to, from) in window.iter_mut().zip(DICTIONARY.iter()) {
            *to = *from;
        }
        Self {
            inflater: Box::default(),
            window,
            at: DICTIONARY.len(),
            begun: false,
        }
    }
}

impl Decompressor {
    /// Reads a whole block.
    pub fn read(&mut self, mut block: &[u8]) -> Result<Headers, SpdyError> {
        if !std::mem::replace(&mut self.begun, true) {
            block = zlib_head(block)?;
        }
        Headers::read(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::new();
        loop {
            let (status, used, made) = decompress(
                &mut self.inflater,
                block,
                &mut self.window,
                self.at,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            block = block.get(used..).unwrap_or_default();
            out.extend_from_slice(self.window.get(self.at..self.at + made).unwrap_or_default());
            self.at = (self.at + made) % WINDOW_BYTES;
            if out.len() > MAX_BLOCK_BYTES {
                return Err(SpdyError::Headers("too long"));
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if block.is_empty() => return Ok(out),
                _ => return Err(SpdyError::Headers("not a zlib stream")),
            }
        }
    }
}

/// Checks the two bytes (and four of the dictionary) that a zlib stream begins with.
fn zlib_head(block: &[u8]) -> Result<&[u8], SpdyError> {
    let bad = SpdyError::Headers("not a zlib stream");
    let [method, flags, rest @ ..] = block else {
        return Err(bad);
    };
    let check = u16::from_be_bytes([*method, *flags]);
    if method & 0x0f != 8 || check % 31 != 0 {
        return Err(bad);
    }
    if flags & 0x20 == 0 {
        return Ok(rest);
    }
    match rest.split_first_chunk::<4>() {
        Some((id, rest)) if u32::from_be_bytes(*id) == DICTIONARY_ID => Ok(rest),
        _ => Err(SpdyError::Headers("another dictionary")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_its_number_names() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!(b << 16 | a, DICTIONARY_ID);
    }

    #[test]
    fn blocks_of_gos_compressor_are_read() {
        // Two blocks of one zlib stream at level 9 with the dictionary, flushed between.
        let first = hex(GO_FIRST);
        let second = hex(GO_SECOND);
        let mut reader = Decompressor::default();
        let headers = reader.read(&first).unwrap();
        assert_eq!(headers.get("streamType"), Some("error"));
        assert_eq!(headers.get("port"), Some("8080"));
        assert_eq!(headers.get("requestID"), Some("0"));
        let headers = reader.read(&second).unwrap();
        assert_eq!(headers.get("streamtype"), Some("data"));
        assert_eq!(headers.get("requestid"), Some("0"));
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }
    const GO_FIRST: &str = "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff";
    const GO_SECOND: &str = "c2aa19540e2512d60b000000ffff";
}
