//! How full volumes are, as far as it is known: those of CSI drivers say so themselves, the others
//! are looked at. Either may take long or never end, so that both are done in the background and kept.

use super::background_cache::BackgroundCache;
use super::said_failures::SaidFailures;
use super::{DiskUsage, OfClaim, OfVolume};
use crate::csi::{Csi, CsiVolume};
use crate::folder::{entries_or_none, is_absent};
use crate::metrics::METRICS;
use crate::pod::handle::Snapshot;
use crate::pod::spec;
use crate::volumes::claim_lookup::Claims;
use crate::volumes::local_disk::{Disk, MeasuredVolume};
use futures::StreamExt;
use host::mounts::FsUsage;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// For how long figures are kept; upstream's value.
pub(super) const KEPT: Duration = Duration::from_secs(60);
/// How long a question waits for figures that are too old: drivers and disks that work answer sooner.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Volumes of a driver that it is asked about at once.
const AT_ONCE: usize = 16;

/// Pods whose volumes are looked at at once: each takes a thread.
const LOOKS_AT_ONCE: usize = 4;

/// What is known of all volumes.
#[derive(Debug)]
pub(super) struct VolumeUse {
    /// By UIDs of pods: what was looked at.
    looked_at: BackgroundCache<OfDisks>,
    /// By names of drivers.
    told: BackgroundCache<DriverStats>,
    looks: Arc<Semaphore>,
    said: Arc<SaidFailures>,
}

impl Default for VolumeUse {
    fn default() -> Self {
        Self {
            looked_at: BackgroundCache::default(),
            told: BackgroundCache::default(),
            looks: Arc::new(Semaphore::new(LOOKS_AT_ONCE)),
            said: Arc::default(),
        }
    }
}

/// What lies on disks of the node, of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct OfDisks {
    /// Its volumes in the kubelet's folder.
    pub volumes: Vec<OfVolume>,
    /// What it has of claims.
    pub claims: Vec<OfClaim>,
}

/// What a driver said.
#[derive(Debug, Default)]
struct DriverStats {
    /// Of which volumes of which pods.
    asked: BTreeSet<(String, String)>,
    /// By UIDs of pods.
    of: HashMap<String, Vec<OfClaim>>,
}

/// A volume that a driver is asked about.
#[derive(Clone)]
struct Question {
    uid: String,
    volume: String,
    claim: Option<(String, String)>,
    asked: CsiVolume,
}

/// Where volumes are found.
#[derive(Clone, Copy)]
pub(super) struct Where<'a> {
    pub csi: &'a Arc<Csi>,
    pub claims: &'a Claims,
    pub disk: Option<&'a Disk>,
    pub pods_dir: &'a Path,
}

impl VolumeUse {
    /// Begins to look at what is older than this of these pods.
    pub fn look_at(&self, at: Where<'_>, of: &[Arc<Snapshot>], age: Duration) {
        for pod in of {
            let uid = spec::uid(&pod.pod);
            self.looked_at.refresh(uid, age, || {
                let folder = at.pods_dir.join(uid).join("volumes");
                let claims = local_claims(at.claims, at.disk, uid);
                let looks = self.looks.clone();
                let looker = Looker {
                    uid: uid.to_owned(),
                    said: self.said.clone(),
                };
                async move {
                    let _turn = looks.acquire_owned().await;
                    look(looker, folder, claims).await
                }
            });
        }
    }

    /// Begins to ask drivers whose answers are older than this about the volumes of all pods.
    pub fn ask_drivers(&self, at: Where<'_>, all: &[Arc<Snapshot>], age: Duration) {
        let mut by_driver = BTreeMap::<String, Vec<Question>>::new();
        for question in all.iter().flat_map(|pod| questions(at.claims, pod)) {
            let driver = question.asked.driver.clone();
            by_driver.entry(driver).or_default().push(question);
        }
        self.told.retain(|driver| by_driver.contains_key(driver));
        for (driver, questions) in by_driver {
            self.ask(at.csi, &driver, questions, age);
        }
    }

    fn ask(&self, csi: &Arc<Csi>, driver: &str, questions: Vec<Question>, age: Duration) {
        let key = |q: &Question| (q.uid.clone(), q.volume.clone());
        let asked: BTreeSet<_> = questions.iter().map(key).collect();
        // A volume that came since is not waited for.
        let told = self.told.get(driver);
        let knows = told.is_none_or(|told| asked.is_subset(&told.asked));
        let age = if knows { age } else { Duration::ZERO };
        let csi = csi.clone();
        self.told.refresh(driver, age, || async move {
            let of = answers(&csi, questions).await;
            DriverStats { asked, of }
        });
    }

    /// Forgets pods that are not among these.
    pub fn retain(&self, all: &[Arc<Snapshot>]) {
        let uids: BTreeSet<&str> = all.iter().map(|p| spec::uid(&p.pod)).collect();
        self.looked_at.retain(|uid| uids.contains(uid));
        self.said.retain(&uids);
    }

    /// Waits for what is being read, but not for ever.
    pub async fn settled(&self) {
        tokio::join!(
            self.looked_at.settled(PATIENCE),
            self.told.settled(PATIENCE)
        );
    }

    /// What is known of a pod's volumes.
    pub fn of(&self, claims: &Claims, pod: &Snapshot) -> OfDisks {
        let uid = spec::uid(&pod.pod);
        let mut out = self
            .looked_at
            .get(uid)
            .map_or_else(OfDisks::default, |o| (*o).clone());
        let drivers: BTreeSet<String> = questions(claims, pod).map(|q| q.asked.driver).collect();
        for told in drivers.iter().filter_map(|driver| self.told.get(driver)) {
            out.claims
                .extend(told.of.get(uid).cloned().unwrap_or_default());
        }
        out
    }
}

/// Asks a driver about its volumes.
async fn answers(csi: &Csi, questions: Vec<Question>) -> HashMap<String, Vec<OfClaim>> {
    let answers = futures::stream::iter(questions).map(|q| async move {
        let (fs, health) = csi.usage(&q.asked, &q.uid).await?;
        let found = OfClaim {
            name: q.volume,
            claim: q.claim,
            fs,
            measured: None,
            health,
        };
        Some((q.uid, found))
    });
    let mut answers = answers.buffer_unordered(AT_ONCE);
    let mut out = HashMap::<String, Vec<OfClaim>>::new();
    while let Some(answer) = answers.next().await {
        if let Some((uid, found)) = answer {
            out.entry(uid).or_default().push(found);
        }
    }
    out
}

fn questions<'a>(claims: &Claims, pod: &'a Snapshot) -> impl Iterator<Item = Question> + 'a {
    let uid = spec::uid(&pod.pod);
    let held = claims.of_pod(uid).into_iter();
    let of_claims = held.filter_map(move |(volume, held)| {
        let (driver, handle) = held.driver?;
        Some(Question {
            uid: uid.to_owned(),
            volume,
            claim: Some((held.namespace, held.claim)),
            asked: CsiVolume {
                name: held.volume,
                driver,
                handle,
                block: held.block,
                ..CsiVolume::default()
            },
        })
    });
    of_claims.chain(inline(&pod.pod, uid))
}

fn inline<'a>(pod: &'a Pod, uid: &'a str) -> impl Iterator<Item = Question> + 'a {
    let volumes = spec::of(pod).volumes.iter().flatten();
    volumes.filter_map(move |volume| {
        Some(Question {
            uid: uid.to_owned(),
            volume: volume.name.clone(),
            claim: None,
            asked: CsiVolume::inline(pod, volume)?,
        })
    })
}

/// A claim that is looked at: the name of the pod's volume, the claim, and where it is.
struct Local {
    name: String,
    claim: (String, String),
    path: PathBuf,
    measured: Option<MeasuredVolume>,
}

/// The claims of a pod whose file systems are looked at. One on the network is not: it may never
/// answer. Drivers say for themselves.
fn local_claims(claims: &Claims, disk: Option<&Disk>, uid: &str) -> Vec<Local> {
    let held = claims.of_pod(uid).into_iter();
    let local = held.filter(|(_, h)| !h.block && !h.on_network && h.driver.is_none());
    local
        .map(|(name, held)| Local {
            measured: disk.and_then(|d| d.measured(&held.volume)),
            name,
            claim: (held.namespace, held.claim),
            path: held.path,
        })
        .collect()
}

/// Looks at a pod's volumes: `folder` is where the kubelet has them.
async fn look(looker: Looker, folder: PathBuf, claims: Vec<Local>) -> OfDisks {
    let work = move || OfDisks {
        volumes: volumes(&looker, &folder),
        claims: claims
            .into_iter()
            .filter_map(|local| {
                let fs = looker.usage_of(&local.name, &local.path)?;
                let used =
                    |how: &MeasuredVolume| (how.bytes, host::open_beneath::usage(&local.path));
                Some(OfClaim {
                    fs: match local.measured.as_ref().map(used) {
                        Some((bytes, used)) => part_of(fs, bytes, used),
                        None => fs,
                    },
                    name: local.name,
                    claim: Some(local.claim),
                    measured: local.measured,
                    health: None,
                })
            })
            .collect(),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "walking through volumes takes a while; other tasks go on meanwhile"
    )]
    let looking = tokio::task::spawn_blocking(work);
    looking.await.unwrap_or_else(|e| {
        tracing::error!(error = %e, "looking at volumes failed");
        OfDisks::default()
    })
}

/// Who looks at the volumes of one pod.
struct Looker {
    uid: String,
    /// What was said of volumes before.
    said: Arc<SaidFailures>,
}

impl Looker {
    /// How full the file system of a volume is. None of one that is not there, nor of one that cannot be
    /// read: then nobody knows, which is said.
    fn usage_of(&self, volume: &str, path: &Path) -> Option<FsUsage> {
        match host::mounts::fs_usage(path) {
            Ok(usage) => {
                self.said.succeeded(&self.uid, volume);
                Some(usage)
            }
            Err(error) if is_absent(&error) => None,
            Err(error) => {
                METRICS.statistics_failed("volume");
                if self.said.failed(&self.uid, volume, &error.to_string()) {
                    let (pod, path) = (&self.uid, path.display());
                    tracing::warn!(%error, pod, volume, %path, "how full a volume is cannot be read");
                }
                None
            }
        }
    }
}

/// How full a volume of so many bytes is that is a folder of a file system: as if it had one of its own.
fn part_of(fs: FsUsage, bytes: u64, (used_bytes, used_inodes): (u64, u64)) -> FsUsage {
    FsUsage {
        capacity_bytes: bytes,
        used_bytes,
        available_bytes: fs.available_bytes.min(bytes.saturating_sub(used_bytes)),
        inodes: fs.inodes_free.saturating_add(used_inodes),
        inodes_free: fs.inodes_free,
    }
}

/// What the volumes in the kubelet's folder of a pod take.
fn volumes(looker: &Looker, folder: &Path) -> Vec<OfVolume> {
    let is_own = |plugin: &PathBuf| {
        // What outlives the pod is not the pod's use of the node's disk.
        let name = plugin.file_name().unwrap_or_default();
        !crate::volumes::is_persistent(name)
    };
    let own = entries_or_none(folder).into_iter().filter(is_own);
    own.flat_map(|plugin| entries_or_none(&plugin))
        .map(|path| {
            let (bytes, inodes) = host::open_beneath::usage(&path);
            let name = crate::folder::name(&path);
            OfVolume {
                taken: DiskUsage { bytes, inodes },
                // Of what is mounted there, which may be memory.
                fs: looker.usage_of(&name, &path),
                name,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::testing::{self, Api, Fake, NAME};
    use clock::Instant;
    use host::plugins::csi::node_service_capability::rpc::Type as Rpc;
    use serde_json::json;

    fn looker() -> Looker {
        Looker {
            uid: "u".into(),
            said: Arc::default(),
        }
    }

    fn question(volume: &str) -> Question {
        Question {
            uid: "u".into(),
            volume: volume.into(),
            claim: None,
            asked: CsiVolume {
                name: volume.into(),
                driver: NAME.into(),
                handle: "h".into(),
                ..CsiVolume::default()
            },
        }
    }

    #[tokio::test]
    async fn a_driver_that_answers_is_asked_once_a_minute_and_at_once_of_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake {
            can: vec![Rpc::GetVolumeStats],
            ..Fake::default()
        };
        let (csi, _serving) = testing::with(dir.path(), &Api::default(), &fake);
        let (csi, known) = (Arc::new(csi), VolumeUse::default());
        let asked = || {
            let calls = fake.taken();
            calls.iter().filter(|c| c.starts_with("stats")).count()
        };
        let names = || {
            let told = known.told.get(NAME).unwrap();
            let mut names: Vec<_> = told.of["u"].iter().map(|c| c.name.clone()).collect();
            names.sort();
            names
        };
        known.ask(&csi, NAME, vec![question("a")], KEPT);
        known.told.settled(KEPT).await;
        assert_eq!((names(), asked()), (vec!["a".to_owned()], 1));
        known.ask(&csi, NAME, vec![question("a")], KEPT);
        known.told.settled(KEPT).await;
        assert_eq!(asked(), 0);
        known.ask(&csi, NAME, vec![question("a"), question("b")], KEPT);
        known.told.settled(KEPT).await;
        assert_eq!(
            (names(), asked()),
            (vec!["a".to_owned(), "b".to_owned()], 2)
        );
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_volume_is_heard_of_a_driver_that_says_it() {
        for (can, heard) in [
            (vec![Rpc::GetVolumeStats], None),
            (
                vec![Rpc::GetVolumeStats, Rpc::VolumeCondition],
                Some("a disk is lost"),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let fake = Fake {
                can,
                wrong: Some("a disk is lost".into()),
                ..Fake::default()
            };
            let (csi, _serving) = testing::with(dir.path(), &Api::default(), &fake);
            let found = answers(&csi, vec![question("a")]).await;
            let health = found["u"][0].health.as_ref();
            let message = health.filter(|h| h.abnormal).map(|h| h.message.as_str());
            assert_eq!(message, heard);
        }
    }

    #[tokio::test]
    async fn a_driver_that_never_answers_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake {
            can: vec![Rpc::GetVolumeStats],
            hangs: true,
            ..Fake::default()
        };
        let (csi, _serving) = testing::with(dir.path(), &Api::default(), &fake);
        let (csi, known) = (Arc::new(csi), VolumeUse::default());
        let began = Instant::now();
        known.ask(&csi, NAME, vec![question("a")], KEPT);
        // Its own limit is longer than anybody's patience: nobody has figures of it yet.
        known.settled().await;
        assert!(known.told.get(NAME).is_none() && began.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn a_volume_that_nobody_holds_to_its_size_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![1; 100_000]).unwrap();
        let local = |bytes: Option<u64>| Local {
            name: "v".into(),
            claim: ("a".into(), "c".into()),
            path: dir.path().to_owned(),
            measured: bytes.map(|bytes| MeasuredVolume {
                bytes,
                evicts: false,
                claim: Default::default(),
            }),
        };
        let none = dir.path().join("none");
        let of = |bytes| {
            let looked = look(looker(), none.clone(), vec![local(bytes)]);
            async move { looked.await.claims.remove(0) }
        };
        let whole = of(None).await;
        assert!(whole.fs.capacity_bytes > 1 << 20 && whole.over().is_none());
        let fits = of(Some(1 << 20)).await;
        assert_eq!(fits.fs.capacity_bytes, 1 << 20);
        assert!(
            fits.fs.used_bytes >= 100_000 && fits.over().is_none(),
            "{fits:?}"
        );
        let over = of(Some(50_000)).await;
        assert_eq!(over.fs.available_bytes, 0);
        assert!(
            over.over().is_some_and(|(_, more)| more >= 50_000),
            "{over:?}"
        );
    }

    #[tokio::test]
    async fn volumes_have_names_sizes_and_their_own_file_system() {
        let dir = tempfile::tempdir().unwrap();
        for (plugin, name) in [("kubernetes.io~empty-dir", "e"), ("kubernetes.io~csi", "c")] {
            let volume = dir.path().join(plugin).join(name);
            std::fs::create_dir_all(&volume).unwrap();
            std::fs::write(volume.join("file"), vec![1; 100_000]).unwrap();
        }
        let looked = look(looker(), dir.path().to_owned(), Vec::new());
        let found = looked.await.volumes;
        assert_eq!(found.len(), 1, "{found:?}");
        let e = &found[0];
        assert_eq!((e.name.as_str(), e.taken.inodes), ("e", 2));
        let size = e.fs.as_ref().map_or(0, |fs| fs.capacity_bytes);
        assert!(e.taken.bytes > 0 && size > 0, "{e:?}");
        let pod: Pod = serde_json::from_value(json!({ "spec": { "containers": [], "volumes": [
            { "name": "own", "csi": { "driver": NAME } }, { "name": "e", "emptyDir": {} }] } }))
        .unwrap();
        let asked: Vec<_> = inline(&pod, "u").map(|q| q.volume).collect();
        assert_eq!(asked, ["own"]);
    }

    #[tokio::test]
    async fn a_volume_whose_file_system_cannot_be_read_has_no_size_rather_than_none_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("kubernetes.io~empty-dir");
        std::fs::create_dir_all(&plugin).unwrap();
        std::os::unix::fs::symlink(plugin.join("e"), plugin.join("e")).unwrap();
        let looker = looker();
        let said = looker.said.clone();
        let found = look(looker, dir.path().to_owned(), Vec::new())
            .await
            .volumes;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].name == "e" && found[0].fs.is_none(), "{found:?}");
        // It was said: the same failure is not said again.
        let error = std::fs::metadata(plugin.join("e")).unwrap_err();
        assert!(!said.failed("u", "e", &error.to_string()), "{error}");
    }
}
