//! Files of the kernel that are read for figures, and of the machine's identity. One that cannot be read shows nothing, and says so:
//! a count of each failure, and a line in the log for the first of each file.

use metrics::Counters;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::LazyLock;

static UNREADABLE: LazyLock<Counters<1>> = LazyLock::new(|| {
    Counters::new(
        "tiphys_kubelet_unreadable_files_total",
        "Number of times that a file of the kernel could not be read, so that its figures are missing.",
        ["file"],
    )
});

/// Of which files it was said. Their names are those of the code, so there are few.
static SAID: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The text of a file that is always there; empty where it cannot be read. `name`: what it is called
/// in figures.
pub fn text(path: &Path, name: &'static str) -> String {
    read(path, name, false).unwrap_or_default()
}

/// The text of a file that not every machine has; none where it is not there, or cannot be read.
pub fn if_there(path: &Path, name: &'static str) -> Option<String> {
    read(path, name, true)
}

/// The text of a file of a process, which may have ended; none where it has, or cannot be read.
pub fn of_process(path: &Path, name: &'static str) -> Option<String> {
    read(path, name, true)
}

fn read(path: &Path, name: &'static str, may_be_gone: bool) -> Option<String> {
    let error = match std::fs::read_to_string(path) {
        Ok(text) => return Some(text),
        Err(error) => error,
    };
    // Of a process that ends while it is read, there is no such process.
    let gone = error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_PROCESS);
    if may_be_gone && gone {
        return None;
    }
    UNREADABLE.add([name]);
    if SAID.lock().insert(name) {
        let path = path.display();
        tracing::warn!(%path, %error, "a file of the machine cannot be read: what it says is missing");
    }
    None
}

/// `ESRCH`.
const NO_PROCESS: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let count = || {
            let text = metrics::prometheus(&metrics::lines());
            let name = "tiphys_kubelet_unreadable_files_total{file=\"test/none\"} ";
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(name).map(str::to_owned));
            line.map_or(0, |n| n.parse::<u64>().unwrap())
        };
        let none = dir.path().join("none");
        assert_eq!(of_process(&none, "test/none"), None);
        assert_eq!(count(), 0);
        assert_eq!(text(&none, "test/none"), "");
        assert_eq!(text(&none, "test/none"), "");
        assert_eq!(count(), 2);
        // A folder is there, and no text.
        assert_eq!(of_process(dir.path(), "test/none"), None);
        assert_eq!(count(), 3);
        std::fs::write(&none, "1").unwrap();
        assert_eq!(text(&none, "test/none"), "1");
        assert_eq!(count(), 3);
    }
}
