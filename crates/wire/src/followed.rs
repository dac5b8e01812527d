//! Files that others write again while a process runs, such as certificates that somebody renews: looked
//! at now and then, and put into effect when they have changed and are good. What they are for is the
//! matter of whoever follows them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Time between two looks at the files. Upstream hears from the kernel and looks once a minute besides; a
/// look costs some microseconds, and sees changes of mounted Secrets, too.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Puts what the files hold into effect, or says why it cannot be used.
type Apply = Box<dyn Fn(&[Vec<u8>]) -> Result<(), String> + Send + Sync>;

/// Files that count together, such as a certificate and its key.
pub struct FollowedFiles {
    what: &'static str,
    paths: Vec<PathBuf>,
    seen: Vec<Vec<u8>>,
    last_error: String,
    apply: Apply,
}

impl std::fmt::Debug for FollowedFiles {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FollowedFiles({:?})", self.paths)
    }
}

impl FollowedFiles {
    /// `what` they are, for the log; each file with what it held when it was put into effect first.
    pub fn new(
        what: &'static str,
        files: Vec<(PathBuf, Vec<u8>)>,
        apply: impl Fn(&[Vec<u8>]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let (paths, seen) = files.into_iter().unzip();
        Self {
            what,
            paths,
            seen,
            last_error: String::new(),
            apply: Box::new(apply),
        }
    }

    /// Looks at the files; whether they say something else that is in effect from now on. What cannot be
    /// used is logged once, and tried again when it changes: it may be half of what is being written.
    pub fn look(&mut self) -> bool {
        let read: Result<Vec<_>, String> = self
            .paths
            .iter()
            .map(|path| fs::read(path).map_err(|e| format!("{}: {e}", path.display())))
            .collect();
        let found = match read {
            Ok(found) if found == self.seen => return false,
            Ok(found) => found,
            Err(why) => {
                self.failed(why);
                return false;
            }
        };
        let applied = (self.apply)(&found);
        self.seen = found;
        match applied {
            Ok(()) => {
                tracing::info!("{} was read again from its files", self.what);
                self.last_error.clear();
                true
            }
            Err(why) => {
                self.failed(why);
                false
            }
        }
    }

    fn failed(&mut self, why: String) {
        if why != self.last_error {
            let paths = &self.paths;
            tracing::error!("{} of {paths:?} stays as it was: {why}", self.what);
            self.last_error = why;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn what_changed_is_applied_once() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("a");
        fs::write(&path, "1").expect("file");
        let applied = Arc::new(Mutex::new(Vec::new()));
        let noted = applied.clone();
        let apply = move |found: &[Vec<u8>]| {
            noted.lock().push(found.to_vec());
            match found.iter().any(|f| f == b"bad") {
                true => Err("it is bad".to_owned()),
                false => Ok(()),
            }
        };
        let mut files = FollowedFiles::new("it", vec![(path.clone(), b"1".to_vec())], apply);
        assert!(!files.look());
        fs::write(&path, "2").expect("file");
        assert!(files.look());
        assert!(!files.look());
        for bad in ["bad", "bad"] {
            fs::write(&path, bad).expect("file");
            assert!(!files.look());
        }
        fs::remove_file(&path).expect("file");
        assert!(!files.look());
        fs::write(&path, "3").expect("file");
        assert!(files.look());
        let applied = applied.lock().concat();
        assert_eq!(applied, [&b"2"[..], b"bad", b"3"]);
    }
}
