//! How full the volumes of CSI drivers are: each driver is asked, several at a time.

use super::OfClaim;
use crate::csi::Asked;
use crate::pod::deps::Deps;
use crate::pod::handle::Snapshot;
use crate::pod::spec;
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;

/// Drivers that are asked at once. One that is slow keeps the others from nothing.
const AT_ONCE: usize = 16;

/// What pods have of drivers, by the pod's UID.
pub(super) type ByPod = HashMap<String, Vec<OfClaim>>;

/// A volume that a driver is asked about.
struct Question {
    uid: String,
    volume: String,
    claim: Option<(String, String)>,
    asked: Asked,
}

/// Asks about all volumes of pods that run.
pub(super) async fn usage(deps: &Deps, pods: &[Arc<Snapshot>]) -> ByPod {
    let running = pods.iter().filter(|p| !p.over);
    let questions: Vec<Question> = running.flat_map(|p| questions(deps, p)).collect();
    let answers = futures::stream::iter(questions).map(|q| async move {
        let fs = deps.csi.usage(&q.asked, &q.uid).await?;
        let found = OfClaim {
            name: q.volume,
            claim: q.claim,
            fs,
        };
        Some((q.uid, found))
    });
    let mut answers = answers.buffer_unordered(AT_ONCE);
    let mut out = ByPod::new();
    while let Some(answer) = answers.next().await {
        if let Some((uid, found)) = answer {
            out.entry(uid).or_default().push(found);
        }
    }
    out
}

fn questions(deps: &Deps, pod: &Snapshot) -> Vec<Question> {
    let uid = spec::uid(&pod.pod);
    let held = deps.volumes.0.claims.of_pod(uid).into_iter();
    let of_claims = held.filter_map(|(volume, held)| {
        let (driver, handle) = held.driver?;
        Some(Question {
            uid: uid.to_owned(),
            volume,
            claim: Some((held.namespace, held.claim)),
            asked: Asked {
                name: held.volume,
                driver,
                handle,
                block: held.block,
                ..Asked::default()
            },
        })
    });
    let volumes = spec::of(&pod.pod).volumes.iter().flatten();
    let own = volumes.filter_map(|volume| {
        Some(Question {
            uid: uid.to_owned(),
            volume: volume.name.clone(),
            claim: None,
            asked: Asked::inline(&pod.pod, volume)?,
        })
    });
    of_claims.chain(own).collect()
}
