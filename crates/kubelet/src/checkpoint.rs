//! What a kubelet keeps on disk for itself or those after it: JSON, a file for each thing. A file
//! is whole or is not there: a new one takes the old one's place at once, and only when the disk
//! has it, so that a power cut leaves one of the two.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a file that is there cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong: with reading it, or with what it says.
    pub source: io::Error,
}

/// Keeps a value in a folder that is there.
pub fn save<T: Serialize + ?Sized>(dir: &Path, file: &str, value: &T) -> io::Result<()> {
    replace(dir, file, value, File::sync_all)
}

/// The same for what can be found out without the file: it is not waited until the disk has it,
/// and a power cut may leave a file that cannot be read.
pub fn save_unsynced<T: Serialize + ?Sized>(dir: &Path, file: &str, value: &T) -> io::Result<()> {
    replace(dir, file, value, |_| Ok(()))
}

fn replace<T: Serialize + ?Sized>(
    dir: &Path,
    file: &str,
    value: &T,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let new = dir.join(beside(file));
    let mut written = File::create(&new)?;
    written.write_all(&serde_json::to_vec(value)?)?;
    sync(&written)?;
    std::fs::rename(new, dir.join(file))
}

/// The name of what a kubelet died writing; readers of whole folders pass it by.
fn beside(file: &str) -> String {
    format!(".{file}")
}

/// Whether a file of this name is one that a kubelet died writing.
#[must_use]
pub fn is_beside(file: &str) -> bool {
    file.starts_with('.')
}

/// What was kept; none if there is no file.
pub fn load<T: DeserializeOwned>(dir: &Path, file: &str) -> Result<Option<T>, LoadError> {
    let path = dir.join(file);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError { path, source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(LoadError {
            path,
            source: e.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_whole_or_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        let read = |file: &str| load::<Vec<u32>>(dir, file);
        assert_eq!(read("a").expect("no file"), None);
        save(dir, "a", &[1, 2]).expect("saved");
        save_unsynced(dir, "a", &[3]).expect("saved");
        assert_eq!(read("a").expect("whole"), Some(vec![3]));
        let names = std::fs::read_dir(dir).expect("a folder").flatten();
        let names: Vec<_> = names.map(|e| e.file_name()).collect();
        assert_eq!(names, ["a"]);
        assert!(is_beside(&beside("a")) && !is_beside("a"));
        std::fs::write(dir.join("a"), "").expect("written");
        let error = read("a").expect_err("it is empty").to_string();
        assert!(error.starts_with(&dir.join("a").display().to_string()));
        // Not "no file": what is there and cannot be read is somebody's.
        std::fs::create_dir(dir.join("b")).expect("made");
        assert!(read("b").is_err());
        assert!(save(&dir.join("none"), "a", &[1]).is_err());
    }
}
