//! An open folder of small files that the kernel writes: control groups, `/proc`. To open a file costs
//! the kernel more than to write it, and of that most is the path; so files are opened from their
//! folder, which is opened once.

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// How much is read at once. A page, as most of these files are no longer.
const AT_ONCE: usize = 4096;
/// To see of what kind a descriptor is: `socket:[` and the like.
const BEGIN: usize = 16;

/// The controllers of which something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Cpuacct,
    Cpuset,
    Pids,
    Blkio,
    Hugetlb,
}

impl Controller {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// As version 1 names its tree.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Blkio => "blkio",
            Self::Hugetlb => "hugetlb",
        }
    }
}

/// A folder; one that is not there has no files.
#[derive(Debug)]
pub(super) struct Folder(Option<OwnedFd>);

impl Folder {
    /// The folder at a path.
    pub fn at(path: &Path) -> Self {
        Self(rustix::fs::openat(CWD, path, place(), Mode::empty()).ok())
    }

    /// A folder in this one.
    pub fn below(&self, name: &str) -> Self {
        let open = |dir| rustix::fs::openat(dir, name, place(), Mode::empty()).ok();
        Self(self.0.as_ref().and_then(open))
    }

    /// Whether there is such a folder.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// What is in a file; none where there is no such file, or it is not text.
    pub fn text(&self, name: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.0.as_ref()?, name, flags, Mode::empty()).ok()?;
        let (mut text, mut part) = (Vec::new(), [0_u8; AT_ONCE]);
        loop {
            match rustix::io::read(&file, &mut part) {
                Ok(0) => return String::from_utf8(text).ok(),
                Ok(read) => text.extend_from_slice(part.get(..read)?),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// The number in a file; none where there is no such file, or another word.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }

    /// What stands in a file of `key value` lines. Says whether there was anything.
    pub fn table(&self, name: &str, mut put: impl FnMut(&str, u64)) -> bool {
        let text = self.text(name).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let mut is_there = false;
        for (key, value) in lines {
            if let Ok(value) = value.trim().parse() {
                put(key, value);
                is_there = true;
            }
        }
        is_there
    }

    /// Names of all that is in the folder.
    pub fn names(&self) -> Vec<String> {
        self.entries().map(|(name, _)| name).collect()
    }

    /// Names of the folders in this one.
    pub fn folders(&self) -> Vec<String> {
        // A folder has itself, its own `.` and the `..` of each folder in it as links, where the file
        // system counts them, as that of control groups does. Most of those have dozens of files and
        // no folder.
        let links = self.0.as_ref().map(rustix::fs::fstat);
        if links.is_some_and(|found| found.is_ok_and(|f| f.st_nlink == 2)) {
            return Vec::new();
        }
        let folders = self.entries().filter(|(_, is_folder)| *is_folder);
        folders.map(|(name, _)| name).collect()
    }

    fn entries(&self) -> impl Iterator<Item = (String, bool)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |dir| rustix::fs::openat(dir, ".", flags, Mode::empty()).ok();
        let listed = self
            .0
            .as_ref()
            .and_then(open)
            .and_then(|d| Dir::new(d).ok());
        let entries = listed.into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| {
            let name = entry.file_name().to_str().ok()?;
            let is_folder = entry.file_type() == FileType::Directory;
            (name != "." && name != "..").then(|| (name.to_owned(), is_folder))
        })
    }

    /// Whether what a link leads to begins like this, at most [`BEGIN`] bytes.
    pub fn leads_to(&self, name: &str, begin: &[u8]) -> bool {
        let mut target = [0_u8; BEGIN];
        let read = self
            .0
            .as_ref()
            .and_then(|dir| rustix::fs::readlinkat_raw(dir, name, &mut target).ok());
        let target = read.and_then(|read| target.get(..read));
        target.is_some_and(|target| target.starts_with(begin))
    }
}

/// As a place to open others from; nothing is read of it.
fn place() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_and_folders_are_read_from_an_open_one() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("a/b");
        fs::create_dir_all(&sub).unwrap();
        let long = "x".repeat(AT_ONCE * 2 + 1);
        fs::write(sub.join("long"), &long).unwrap();
        fs::write(sub.join("bytes"), [0xff]).unwrap();
        fs::write(sub.join("number"), "12\n").unwrap();
        fs::write(sub.join("table"), "a 1\nb\nc x\nd 4 \n").unwrap();
        std::os::unix::fs::symlink("socket:[1234567890]", sub.join("link")).unwrap();
        let top = Folder::at(dir.path());
        let folder = top.below("a").below("b");
        assert_eq!(folder.text("long"), Some(long));
        assert_eq!((folder.text("bytes"), folder.text("none")), (None, None));
        assert_eq!(folder.number("number"), Some(12));
        let mut lines = Vec::new();
        assert!(folder.table("table", |key, value| lines.push((key.to_owned(), value))));
        assert_eq!(lines, [("a".to_owned(), 1), ("d".to_owned(), 4)]);
        assert!(!folder.table("number", |_, _| {}));
        assert!(folder.leads_to("link", b"socket:"));
        assert!(!folder.leads_to("link", b"pipe:") && !folder.leads_to("none", b""));
        assert_eq!(
            (top.folders(), top.below("a").folders()),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        assert_eq!(folder.folders(), Vec::<String>::new());
        let mut names = folder.names();
        names.sort();
        assert_eq!(names, ["bytes", "link", "long", "number", "table"]);
    }

    #[test]
    fn a_folder_that_is_not_there_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "1").unwrap();
        for name in ["none", "file"] {
            let folder = Folder::at(dir.path()).below(name);
            assert!(!folder.is_there() && !folder.below("more").is_there());
            assert_eq!((folder.number("x"), folder.names()), (None, Vec::new()));
        }
    }
}
