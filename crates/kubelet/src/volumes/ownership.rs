//! Giving a volume to the group of its pod. A large one takes its time, for which its pod does not start:
//! then an event says what it waits for.

use crate::events::{Recorder, Severity};
use k8s_openapi::api::core::v1::Pod;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long it may take before anything is said of it; upstream's.
const FIRST: Duration = Duration::from_secs(30);
/// Between further words about it; upstream's.
const AGAIN: Duration = Duration::from_secs(60);

/// Gives all that is at `dir` to a group, which is volume `name` of a pod; nothing where the root has the
/// group already and that is to be enough.
pub async fn give(
    dir: PathBuf,
    gid: u32,
    unless_root_fits: bool,
    (recorder, pod, name): (&Recorder, &Pod, &str),
) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a large volume takes its time")]
    let work = tokio::task::spawn_blocking(move || {
        host::open_beneath::give_to_group(&dir, gid, unless_root_fits)
    });
    let say = || {
        let text = format!(
            "Setting volume ownership of {name:?} for fsGroup {gid} takes long: consider fsGroupChangePolicy OnRootMismatch"
        );
        let reason = "VolumePermissionChangeInProgress";
        recorder.pod(pod, None, Severity::Warning, reason, text);
    };
    let given = patiently(work, say).await;
    given.map_err(io::Error::other).and_then(|given| given)
}

/// Waits for work; as long as that takes, something is said of it now and then.
async fn patiently<T>(work: impl Future<Output = T>, say: impl Fn()) -> T {
    let mut work = std::pin::pin!(work);
    let mut pause = FIRST;
    loop {
        match tokio::time::timeout(pause, &mut work).await {
            Ok(done) => return done,
            Err(_) => say(),
        }
        pause = AGAIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_said_now_and_then() {
        for (seconds, want) in [(29, 0), (31, 1), (89, 1), (91, 2)] {
            let said = AtomicU32::new(0);
            let work = async {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                seconds
            };
            let say = || {
                said.fetch_add(1, Ordering::Relaxed);
            };
            assert_eq!(patiently(work, say).await, seconds);
            assert_eq!(said.load(Ordering::Relaxed), want, "{seconds}");
        }
    }
}
