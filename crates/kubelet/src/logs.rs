//! Logs of containers in the form that CRI prescribes: `<time> <stream> <P|F> <text>`.
//! Reading with all of kubectl's options, and rotation.

use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

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

/// Where the last `lines` whole lines begin in a file. Parts of one line count once.
pub fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut seen = 0;
    let mut held: Vec<u8> = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.extend_from_slice(&held);
        // Records that are whole in what is held, last first.
        let mut stop = block.len();
        let first_break = if start == 0 {
            0
        } else {
            block
                .iter()
                .position(|b| *b == b'\n')
                .map_or(stop, |i| i + 1)
        };
        seen = 0;
        while stop > first_break {
            let begin = block[first_break..stop - 1]
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(first_break, |i| first_break + i + 1);
            let record = &block[begin..stop - 1];
            if parse(record).is_some_and(|l| !l.partial) {
                seen += 1;
                if seen > lines {
                    return Ok(start + stop as u64);
                }
            }
            stop = begin;
        }
        held = block;
        end = start;
    }
    let _ = seen;
    Ok(0)
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

/// Moves a log away if it is too large: `<path>.<time>`. True if it was moved; then the
/// runtime must open it again. Old files beyond the limit go.
pub fn rotate(path: &Path, max_bytes: u64, max_files: usize, now: Timestamp) -> io::Result<bool> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_file() || found.len() < max_bytes {
        return Ok(false);
    }
    let mut old = rotated(path)?;
    // The current file and the one that is made now count too.
    while old.len() + 2 > max_files.max(2) {
        std::fs::remove_file(old.remove(0))?;
    }
    let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
    let mut target = path.as_os_str().to_owned();
    target.push(format!(".{stamp}"));
    std::fs::rename(path, PathBuf::from(target))?;
    Ok(true)
}

/// Files that a log was moved to, oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    found.sort();
    Ok(found)
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
    fn records_may_arrive_in_pieces() {
        let mut decoder = Decoder::new(Options::default());
        let out: Vec<u8> = LOG
            .as_bytes()
            .chunks(7)
            .flat_map(|c| decoder.feed(c))
            .collect();
        assert_eq!(out, b"one\ntwo\nthree\n");
    }

    #[test]
    fn rotation_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in 0..6 {
            std::fs::write(&log, "x".repeat(10)).unwrap();
            let now = Timestamp::from_second(second).unwrap();
            assert!(rotate(&log, 5, 3, now).unwrap());
        }
        assert_eq!(rotated(&log).unwrap().len(), 2);
        std::fs::write(&log, "").unwrap();
        assert!(!rotate(&log, 5, 3, Timestamp::UNIX_EPOCH).unwrap());
    }
}
