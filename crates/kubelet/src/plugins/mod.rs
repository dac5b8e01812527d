//! Plugins of the node: programs that listen on sockets in a folder of the kubelet's, and are asked
//! there who they are. A socket that comes, goes, or is made again is noticed by the kernel's events;
//! what there is is always read from the folder, so that no event that is lost matters.

mod registration;
mod sockets;

use crate::pod::deps::Deps;
use clock::Instant;
use futures::StreamExt;
use inotify::{Inotify, WatchMask, Watches};
use registration::{PluginKind, Registered};
use sockets::Socket;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The folder of sockets below the kubelet's; upstream's.
const FOLDER: &str = "plugins_registry";
/// Between looks at the folder without an event: what is left over from a lost one, and folders
/// that are watched too late.
const LOOK: Duration = Duration::from_secs(30);
/// Several events in a row are one look.
const SETTLE: Duration = Duration::from_millis(50);
/// After a first failure a plugin is asked again …
const AGAIN: Duration = Duration::from_secs(1);
/// … and ever more rarely, up to this: a plugin that needs longer to start is not urgent.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Between looks at volumes that nobody uses any more.
const SWEEP: Duration = Duration::from_secs(60);

/// What became of a socket.
enum State {
    Registered(Registered),
    /// Failed so often in a row; asked again then.
    Failed(u32, Instant),
}

/// The sockets that are known.
type PluginSockets = BTreeMap<PathBuf, (Socket, State)>;

/// Runs as long as the kubelet.
pub async fn run(deps: Arc<Deps>) {
    let limits = deps.csi.follow_limits(deps.random.clone());
    tokio::join!(keep_csi(&deps), watch(&deps), limits);
}

/// Keeps what drivers need of the node itself: its object, and no volumes that nobody has.
async fn keep_csi(deps: &Deps) {
    let mut listed = deps.listed.subscribe();
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        if let Err(e) = deps.csi.ensure_object().await {
            tracing::warn!(error = e, "the node's CSINode cannot be made");
        }
        // Before the pods are known, anything may be used.
        if listed.wait_for(|l| *l).await.is_ok() {
            deps.csi.unstage_left().await;
        }
    }
}

async fn watch(deps: &Deps) {
    let folder = deps.config.root_dir.join(FOLDER);
    let made = crate::volumes::error::private_folder(&folder);
    let watching = made.and_then(|()| Inotify::init());
    let watching = watching.and_then(|i| {
        let watches = i.watches();
        Ok((watches, i.into_event_stream(vec![0; 4096])?))
    });
    let (mut watches, mut events) = match watching {
        Ok(both) => both,
        Err(e) => {
            tracing::error!(folder = %folder.display(), error = %e, "plugins cannot be watched for");
            return;
        }
    };
    let mut known = PluginSockets::new();
    loop {
        follow(&mut watches, &folder);
        look(deps, &folder, &mut known).await;
        let pause = next(&known).min(LOOK);
        let event = tokio::time::timeout(pause, events.next()).await;
        if matches!(event, Ok(Some(_))) {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// Watches the folder and those in it. Adding a watch once more changes nothing.
fn follow(watches: &mut Watches, folder: &Path) {
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::ONLYDIR;
    let all = sockets::folders(folder).unwrap_or_else(|error| {
        tracing::warn!(folder = %folder.display(), %error, "folders of plugins cannot be read");
        vec![folder.to_owned()]
    });
    for dir in all {
        if let Err(e) = watches.add(&dir, mask) {
            tracing::debug!(folder = %dir.display(), error = %e, "a folder of plugins cannot be watched");
        }
    }
}

/// When the next plugin is asked again.
fn next(known: &PluginSockets) -> Duration {
    let now = Instant::now();
    let due = known.values().filter_map(|(_, state)| match state {
        State::Failed(_, at) => Some(at.saturating_duration_since(now)),
        State::Registered(_) => None,
    });
    due.min().unwrap_or(LOOK)
}

/// Brings what is registered in line with the folder.
async fn look(deps: &Deps, folder: &Path, known: &mut PluginSockets) {
    let found = match sockets::list(folder) {
        Ok(found) => found,
        Err(error) => {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "which plugins there are cannot be read");
            return;
        }
    };
    let left = known
        .iter()
        .filter(|(path, (socket, _))| found.get(*path) != Some(socket));
    let left: Vec<PathBuf> = left.map(|(path, _)| path.clone()).collect();
    for path in left {
        if let Some((_, State::Registered(plugin))) = known.remove(&path) {
            // One that was made again is the same plugin, which only starts again.
            if !found.contains_key(&path) {
                leave(deps, &plugin).await;
            }
        }
    }
    let now = Instant::now();
    for (path, socket) in found {
        let failures = match known.get(&path) {
            Some((_, State::Registered(_))) => continue,
            Some((_, State::Failed(_, at))) if *at > now => continue,
            Some((_, State::Failed(failures, _))) => *failures,
            None => 0,
        };
        let state = match registration::register(deps, &path).await {
            Ok(plugin) => {
                tracing::info!(plugin = plugin.name, kind = ?plugin.kind, "a plugin is registered");
                State::Registered(plugin)
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(socket = %path.display(), %error, "a plugin cannot be registered; trying again");
                }
                let pause = (AGAIN * (1 << failures.min(6))).min(AGAIN_MAX);
                State::Failed(failures + 1, now + pause)
            }
        };
        known.insert(path, (socket, state));
    }
}

async fn leave(deps: &Deps, plugin: &Registered) {
    tracing::info!(plugin = plugin.name, "a plugin is gone");
    let outcome = match plugin.kind {
        PluginKind::Csi => deps.csi.unregister(&plugin.name).await,
        // Its devices go when it no longer names them.
        PluginKind::Device => Ok(()),
        PluginKind::Dra => {
            deps.dra.unregister(&plugin.name, &plugin.endpoint);
            Ok(())
        }
    };
    if let Err(error) = outcome {
        tracing::warn!(
            plugin = plugin.name,
            error,
            "a plugin that is gone stays listed"
        );
    }
}
