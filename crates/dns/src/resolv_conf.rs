//! The node's resolvers, as the file that names them says now: it may be written after the agent has
//! started, as a network comes up, and again when the machine moves to another one.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clock::watch::Sender;
use futures::StreamExt;
use inotify::{EventMask, Inotify, WatchMask};

use crate::forward::upstreams_of;
use crate::settings::NodeResolvers;

/// Between looks of which no event speaks, such as where a folder cannot be watched. A look reads one
/// small file.
const LOOK: Duration = Duration::from_secs(5);
/// Several events in a row are one look.
const SETTLE: Duration = Duration::from_millis(20);

/// What the file says; without the servers where this one listens: nobody is asked in a circle.
pub fn read(path: &Path, listen: &[SocketAddr]) -> io::Result<NodeResolvers> {
    let text = std::fs::read_to_string(path)?;
    let mut servers = upstreams_of(&text);
    servers.retain(|server| !listen.contains(server));
    Ok(NodeResolvers {
        servers,
        has_searches: has_searches(&text),
    })
}

/// Whether the file gives pods search domains, read as the kubelet does: the last line of them counts,
/// and the root adds nothing to a name.
fn has_searches(text: &str) -> bool {
    let mut has = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            has = words.any(|domain| domain != ".");
        }
    }
    has
}

/// Publishes what the file names, each time it is something else. While it names nobody, those of before
/// stay: a file is empty for a moment when it is written in place.
pub async fn follow(path: PathBuf, listen: Vec<SocketAddr>, servers: Sender<NodeResolvers>) {
    let mut watched = Watched::default();
    let mut complained = false;
    loop {
        // Not before the watch: what changes in between would be missed.
        watched.renew(&path);
        match read(&path, &listen) {
            Ok(now) if !now.servers.is_empty() => {
                complained = false;
                let shown = now.servers.clone();
                let changed = servers.send_if_modified(|before| {
                    let other = *before != now;
                    *before = now;
                    other
                });
                if changed {
                    tracing::info!(servers = ?shown, "the node's resolvers");
                }
            }
            other => {
                if !complained {
                    let (path, error) = (path.display(), other.err());
                    tracing::warn!(%path, ?error, "no resolver is named there: who was asked before still is");
                }
                complained = true;
            }
        }
        if tokio::time::timeout(LOOK, watched.event()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// The folders in which the file could be replaced.
#[derive(Default)]
struct Watched {
    folders: BTreeSet<PathBuf>,
    events: Option<inotify::EventStream<Vec<u8>>>,
}

impl Watched {
    fn renew(&mut self, path: &Path) {
        let folders = folders(path);
        if self.events.is_some() && folders == self.folders {
            return;
        }
        self.events = watch(&folders).ok();
        self.folders = folders;
    }

    /// Waits until something happens there.
    async fn event(&mut self) {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        let gone = match events.next().await {
            Some(Ok(event)) => event.mask.contains(EventMask::IGNORED),
            Some(Err(_)) | None => true,
        };
        if gone {
            // Another folder of this name would not be watched.
            self.events = None;
        }
    }
}

/// The folder of the file, and that of what it leads to: it is often a link to a file of a service.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let folder = |path: &Path| path.parent().map(Path::to_path_buf);
    let own = folder(path);
    let led = match std::fs::canonicalize(path) {
        Ok(file) => folder(&file),
        // It may lead to a file that is still to come.
        Err(_) => std::fs::read_link(path)
            .ok()
            .and_then(|to| folder(&own.clone().unwrap_or_default().join(to))),
    };
    own.into_iter().chain(led).collect()
}

/// Those that are there; an error if there is none.
fn watch(folders: &BTreeSet<PathBuf>) -> io::Result<inotify::EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
    let mut result = Err(io::ErrorKind::NotFound.into());
    for folder in folders {
        let added = inotify.watches().add(folder, mask).map(|_| ());
        result = result.or(added);
    }
    result?;
    inotify.into_event_stream(vec![0; 4096])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_in_a_circle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        assert!(read(&path, &[]).is_err());
        let text = "nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        std::fs::write(&path, text).unwrap();
        let [one, two] = ["192.0.2.1:53", "192.0.2.2:53"].map(|a| a.parse::<SocketAddr>().unwrap());
        assert_eq!(read(&path, &[]).unwrap().servers, [one, two]);
        assert_eq!(read(&path, &[one]).unwrap().servers, [two]);
    }

    #[test]
    fn search_domains_are_those_that_pods_get() {
        for (text, expected) in [
            ("nameserver 192.0.2.1\n", false),
            ("search corp.example\n", true),
            ("  domain corp.example\n", true),
            ("search .\n", false),
            ("search . corp.example\n", true),
            ("search corp.example\nsearch\n", false),
            (
                "# search corp.example\nsearches a\noptions ndots:2\n",
                false,
            ),
        ] {
            assert_eq!(has_searches(text), expected, "{text}");
        }
    }

    #[test]
    fn a_link_is_watched_at_both_its_ends() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let [etc, run] = ["etc", "run"].map(|name| root.join(name));
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::create_dir_all(&run).unwrap();
        let link = etc.join("resolv.conf");
        assert_eq!(folders(&link), [etc.clone()].into());
        std::os::unix::fs::symlink(run.join("resolv.conf"), &link).unwrap();
        // Before there is what it leads to, and then.
        assert_eq!(folders(&link), [etc.clone(), run.clone()].into());
        std::fs::write(run.join("resolv.conf"), "").unwrap();
        assert_eq!(folders(&link), [etc, run].into());
    }
}
