//! Logs of containers in the form that CRI prescribes: `<time> <stream> <P|F> <text>`.
//! Reading with all of kubectl's options; rotation is [`crate::log_rotation`].

use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines from this time on.
    pub since: Option<Timestamp>,
    /// Each line with its time before it.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only one stream, `Stdout` or `Stderr`.
    pub stream: Option<String>,
}

/// One line (or a part of a long one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Time as written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the line goes on in the next record.
    pub partial: bool,
    /// The text, without the end of line.
    pub text: &'a [u8],
}

/// Reads a record without its end of line.
#[must_use]
pub fn parse(record: &[u8]) -> Option<Line<'_>> {
    let mut parts = record.splitn(4, |b| *b == b' ');
    let (time, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Line {
        time: std::str::from_utf8(time).ok()?,
        stream: std::str::from_utf8(stream).ok()?,
        partial: tag.split(|b| *b == b':').next() == Some(b"P"),
        text,
    })
}

/// Turns records into what the reader asked for; keeps what is left of an unfinished record.
#[derive(Debug)]
pub struct Decoder {
    options: Options,
    left: Vec<u8>,
    line_begins: bool,
    budget: Option<u64>,
}

impl Decoder {
    /// A decoder at the start of a line.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let budget = options.limit_bytes;
        Self {
            options,
            left: Vec::new(),
            line_begins: true,
            budget,
        }
    }

    /// Whether the byte limit is reached.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.budget == Some(0)
    }

    /// Takes bytes of the file and gives bytes for the reader.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.left.extend_from_slice(bytes);
        let Some(end) = self.left.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = self.left.split_off(end + 1);
        let whole = std::mem::replace(&mut self.left, rest);
        let mut out = Vec::new();
        for record in whole.split(|b| *b == b'\n').filter(|r| !r.is_empty()) {
            if let Some(line) = parse(record) {
                self.line(line, &mut out);
            }
        }
        if let Some(budget) = &mut self.budget {
            out.truncate(usize::try_from(*budget).unwrap_or(usize::MAX));
            *budget -= out.len() as u64;
        }
        out
    }

    fn line(&mut self, line: Line<'_>, out: &mut Vec<u8>) {
        let wanted = self.options.stream.as_deref();
        if wanted
            .is_some_and(|s| !s.eq_ignore_ascii_case("all") && !s.eq_ignore_ascii_case(line.stream))
        {
            return;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return;
        }
        if self.options.timestamps && self.line_begins {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.line_begins = !line.partial;
    }
}

/// How much of a file is read at once, bytes.
const BLOCK: u64 = 64 << 10;
/// A record says within so many bytes whether its line goes on.
const HEAD: usize = 256;

/// Where the last `lines` whole lines begin in a file. Parts of one line count once. Each byte is
/// read once at most, from the end.
pub fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let whole = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(whole);
    }
    // How many lines were seen, and where the record begins that was seen last.
    let (mut seen, mut after) = (0, whole);
    // What follows `at` in the file, as far as it says how a record goes on that begins before.
    let (mut at, mut head) = (whole, Vec::new());
    while at > 0 {
        let start = at.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(at - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        let mut end = block.len();
        block.extend_from_slice(&head);
        let last_break = |end: usize| {
            let before = block.get(..end).unwrap_or_default();
            before.iter().rposition(|b| *b == b'\n')
        };
        while let Some(place) = last_break(end) {
            let begins = start + u64::try_from(place + 1).unwrap_or(u64::MAX);
            // The last byte of the file ends its last record.
            if begins < whole {
                seen += u64::from(ends_a_line(block.get(place + 1..).unwrap_or_default()));
                if seen > lines {
                    return Ok(after);
                }
                after = begins;
            }
            end = place;
        }
        block.truncate(HEAD);
        (at, head) = (start, block);
    }
    seen += u64::from(ends_a_line(&head));
    Ok(if seen > lines { after } else { 0 })
}

/// Whether the record at the beginning of these bytes ends its line.
fn ends_a_line(bytes: &[u8]) -> bool {
    let head = bytes.get(..HEAD).unwrap_or(bytes);
    let record = head.split(|b| *b == b'\n').next();
    record.and_then(parse).is_some_and(|l| !l.partial)
}

/// The last lines of a log as text, for a container that left no termination message.
#[must_use]
pub fn last_lines(path: &Path, lines: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = host::open_beneath::open_file(path)?;
        let offset = tail_offset(&mut file, lines as u64)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes)?;
        Ok(Decoder::new(Options::default()).feed(&bytes))
    };
    read()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n\
        2026-01-01T00:00:02Z stderr F o\n2026-01-01T00:00:03Z stdout F three\n";

    fn read(options: Options) -> String {
        String::from_utf8(Decoder::new(options).feed(LOG.as_bytes())).unwrap()
    }

    #[test]
    fn options_select_lines() {
        assert_eq!(read(Options::default()), "one\ntwo\nthree\n");
        let since = "2026-01-01T00:00:03Z".parse().ok();
        assert_eq!(
            read(Options {
                since,
                ..Default::default()
            }),
            "three\n"
        );
        assert_eq!(
            read(Options {
                limit_bytes: Some(5),
                ..Default::default()
            }),
            "one\nt"
        );
        let stamped = read(Options {
            timestamps: true,
            ..Default::default()
        });
        assert!(stamped.contains("2026-01-01T00:00:02Z two\n"), "{stamped}");
        assert_eq!(
            read(Options {
                stream: Some("Stderr".into()),
                ..Default::default()
            }),
            "two\n"
        );
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(LOG.as_bytes()).unwrap();
        let at = |n| tail_offset(&mut File::open(file.path()).unwrap(), n).unwrap() as usize;
        assert_eq!(at(0), LOG.len());
        assert!(LOG[at(1)..].ends_with("three\n") && LOG[at(1)..].lines().count() == 1);
        assert_eq!(LOG[at(2)..].lines().count(), 3);
        assert_eq!((at(3), at(9)), (0, 0));
        assert_eq!(last_lines(file.path(), 2), "two\nthree\n");
    }

    #[test]
    fn the_tail_of_a_long_log_is_found() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // Lines of one to three records, of which some are longer than what is read at once.
        let (mut begins, mut text) = (Vec::new(), String::new());
        for n in 0..2000 {
            begins.push(text.len());
            let long = if n % 400 == 399 { 150_000 } else { n % 300 };
            for _ in 0..n % 3 {
                text.push_str("2026-01-01T00:00:01.123456789Z stdout P part\n");
            }
            text.push_str("2026-01-01T00:00:01.123456789Z stdout F ");
            text.extend(std::iter::repeat_n('x', long));
            text.push('\n');
        }
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_owned();
        let at = |n| tail_offset(&mut File::open(&path).unwrap(), n).unwrap() as usize;
        for n in (1..2000).step_by(97).chain([1999]) {
            assert_eq!(at(n as u64), begins[2000 - n], "{n}");
        }
        assert_eq!((at(2000), at(2001)), (0, 0));
        // The last line is being written.
        file.write_all(b"2026-01-01T00:00:01Z stdout F ne").unwrap();
        assert_eq!((at(1), at(2)), (text.len(), begins[1999]));
    }

    #[test]
    fn records_may_arrive_in_pieces() {
        let mut decoder = Decoder::new(Options::default());
        let out: Vec<u8> = LOG
            .as_bytes()
            .chunks(7)
            .flat_map(|c| decoder.feed(c))
            .collect();
        assert_eq!(out, b"one\ntwo\nthree\n");
    }
}
