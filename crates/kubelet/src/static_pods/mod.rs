//! Static pods: pods that the node runs because files of its own say so, whether or not an API server
//! can be reached. Their folder is read ([`files`]) when it changes, and now and then anyhow. What each
//! file means is decided in [`manifest`]; so that people see them, each has a mirror in the API
//! ([`mirror`]).

mod files;
pub mod manifest;
pub mod mirror;

use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use manifest::Source;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Several events in a row are one look.
const SETTLE: Duration = Duration::from_millis(50);
/// Between looks whether a pod of an older file has ended, whose name a new one waits for.
const AWAIT_END: Duration = Duration::from_millis(500);

/// Brings the pods in line with the files as long as the kubelet runs. What there is when the kubelet
/// starts must have been read before ([`read`]).
pub async fn run(deps: Arc<Deps>, pods: Arc<Pods>) {
    let Some(source) = deps.config.static_pods.clone() else {
        return std::future::pending().await;
    };
    tokio::join!(follow(&deps, &pods, &source), mirror::run(&deps, &pods));
}

async fn follow(deps: &Deps, pods: &Arc<Pods>, source: &Source) {
    let mut events = None;
    loop {
        if events.is_none() {
            events = match watch(&source.path) {
                Ok(all) => Some(all),
                // What is not there yet may come.
                Err(error) if crate::folder::is_absent(&error) => None,
                Err(error) => {
                    let path = source.path.display();
                    tracing::warn!(%path, %error, "static pods are only looked at now and then");
                    None
                }
            };
            read(deps, pods, source);
        }
        let pause = if pods.awaits_the_end_of_a_static_pod() {
            AWAIT_END.min(source.period)
        } else {
            source.period
        };
        let event = async {
            match &mut events {
                Some(all) => {
                    if all.next().await.is_none() {
                        events = None;
                    }
                }
                None => std::future::pending().await,
            }
        };
        if tokio::time::timeout(pause, event).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
        if !source.path.exists() {
            // Another one of this name would not be watched.
            events = None;
        }
        read(deps, pods, source);
    }
}

fn watch(path: &Path) -> io::Result<inotify::EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB;
    inotify.watches().add(path, mask)?;
    inotify.into_event_stream(vec![0; 4096])
}

/// Reads all files, and makes the pods that they say the node's. Files that cannot be read now leave
/// their pods as they are.
pub fn read(deps: &Deps, pods: &Arc<Pods>, source: &Source) {
    let found = match files::all(source, &deps.config.node_name) {
        Ok(found) => found,
        Err(e) => {
            let path = source.path.display();
            tracing::warn!(%path, error = %e, "static pods cannot be read");
            return;
        }
    };
    pods.set_static(found);
}
