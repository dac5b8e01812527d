//! The watch cache: one watch over the whole store feeds one [`ResourceCache`] per resource.
//! Reads and watches are served from here; nothing here decodes for a reader.

mod consistency;
mod event;
mod just_written;
mod live;
mod object;
mod partial_read;
mod resource;
pub mod select;
mod unreadable;
mod watch_lanes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use clock::watch;
use futures::StreamExt;
use registry::Row;
use registry::kinds::ByName;
use store::{Batch, EventKind, KeyValue, Revision, Store, StoreError};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use event::{Event, EventType, json_frame};
use just_written::Handed;
pub use live::Live;
pub use object::{BadValue, Form, FormKey, Object, encode, encode_with};
pub use resource::{Cursor, Objects, ResourceCache, TooOld, walk};
pub use select::Selection;
pub use unreadable::{Contents, Unreadable};

/// Everything that the API server stores lies below this key.
pub const ROOT: &str = "/registry/";
/// How long a read waits for the cache to reach the store's revision.
pub const CATCH_UP: Duration = Duration::from_secs(3);
/// Revisions before the newest at which a starting cache begins, where the store still has them:
/// so clients that lost a server go on with their watches at the next. At most a few seconds of a
/// very busy cluster, and replayed in milliseconds.
const RESUMED: Revision = 2_000;
/// Between two looks at what time has made needless (events, frames, other forms of objects), and
/// at whether what could not be read can be by now.
const TIDY_EVERY: Duration = Duration::from_secs(15);
/// Pause before the store is asked again after a failure.
const RETRY: Duration = Duration::from_millis(200);
/// In [`Cache::stalled_at`]: nobody has waited in vain. No store comes so far.
const NEVER: Revision = Revision::MAX;

/// A stored value: its object, or why there is none.
type Read = Result<Arc<Object>, Unreadable>;

/// Where a reader finds the store's newest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// In the cache, which has this revision.
    Cached(Revision),
    /// In the store alone, which had this revision: the cache did not come up to it in time.
    Stored(Revision),
}

impl Newest {
    pub fn revision(self) -> Revision {
        match self {
            Self::Cached(revision) | Self::Stored(revision) => revision,
        }
    }
}

/// Is notified of every change before the cache shows it, so that whoever sees an object can rely
/// on what follows from it. Runs on the cache's own task: it must be quick.
pub trait Observe: Send + Sync + 'static {
    /// These are all objects; whatever was known before is forgotten.
    fn replaced(&self, all: &[(&Row, &Object)]);
    /// An object was put (`new`) or deleted.
    fn changed(&self, row: &Row, old: Option<&Object>, new: Option<&Object>);
}

type ByPrefix = ByName<Arc<str>, Arc<ResourceCache>>;

/// All resources' caches and how far they are.
pub struct Cache {
    store: Arc<dyn Store>,
    by_prefix: ArcSwap<ByPrefix>,
    observer: Arc<dyn Observe>,
    progress: watch::Sender<Revision>,
    /// A reader waited in vain.
    behind: Notify,
    /// The revision at which the cache stood all the time while the last such reader waited.
    stalled_at: AtomicU64,
    /// To the one task that changes the caches.
    asks: mpsc::Sender<CacheRequest>,
    handed: Handed,
}

/// What is asked of the task that changes the caches.
enum CacheRequest {
    /// The rows whose objects are to be cached from now on, and where to say that it is done.
    Rows(Vec<Arc<Row>>, oneshot::Sender<Result<(), StoreError>>),
    /// A value that could not be read, and that can be now.
    Regained(KeyValue),
}

/// The rows by where their objects lie. Where two rows share objects, the one that stores them
/// reads them.
fn storing(rows: impl IntoIterator<Item = Arc<Row>>) -> HashMap<Arc<str>, Arc<Row>> {
    let mut all: HashMap<Arc<str>, Arc<Row>> = HashMap::new();
    for row in rows.into_iter().filter(|r| !r.virtual_kind) {
        let stores = row.storage_group == row.group;
        if stores || !all.contains_key(&row.storage_prefix) {
            all.insert(row.storage_prefix.clone(), row);
        }
    }
    all
}

impl Cache {
    /// Loads the store and follows it until `stop`.
    pub async fn start(
        store: Arc<dyn Store>,
        rows: impl IntoIterator<Item = Arc<Row>>,
        observer: Arc<dyn Observe>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let by_prefix: ByPrefix = storing(rows)
            .into_iter()
            .map(|(prefix, row)| (prefix, Arc::new(ResourceCache::new(row, 0))))
            .collect();
        let (asks, asked) = mpsc::channel(1);
        let cache = Arc::new(Self {
            store,
            by_prefix: ArcSwap::from_pointee(by_prefix),
            observer,
            progress: watch::Sender::new(0),
            behind: Notify::new(),
            stalled_at: AtomicU64::new(NEVER),
            asks,
            handed: Handed::default(),
        });
        let (begin, newest) = cache.load_past().await?;
        tokio::spawn(cache.clone().follow(begin, asked, stop.clone()));
        tokio::spawn(cache.clone().tidy(stop.clone()));
        tokio::spawn(cache.clone().read_again(stop));
        // Nobody is served from what was.
        cache.catch_up(newest).await?;
        Ok(cache)
    }

    /// Loads the state of some time ago; gives its revision and the newest one, which the
    /// store's watch leads to.
    async fn load_past(&self) -> Result<(Revision, Revision), StoreError> {
        let newest = self.store.revision().await?;
        // The first revision, unless there is none.
        let past = newest.saturating_sub(RESUMED).max(1).min(newest);
        let begin = match self.load(past).await {
            // What is compacted at this moment, too, is of no use.
            Err(StoreError::Compacted { oldest, .. }) if oldest <= newest => {
                match self.load(oldest).await {
                    Err(StoreError::Compacted { .. }) => self.load(0).await?,
                    other => other?,
                }
            }
            Err(StoreError::Compacted { .. }) => self.load(0).await?,
            other => other?,
        };
        Ok((begin, newest))
    }

    /// Hands over an object that is about to be written, so that it is not parsed when the store
    /// shows it. One that is never shown is forgotten after a while.
    pub fn expect(&self, row: &Arc<Row>, object: Object) {
        self.handed.put(row, object);
    }

    /// The cache of a row's objects.
    pub fn of(&self, row: &Row) -> Option<Arc<ResourceCache>> {
        self.by_prefix.load().get(&row.storage_prefix).cloned()
    }

    /// All caches, for metrics.
    pub fn all(&self) -> Vec<Arc<ResourceCache>> {
        self.by_prefix.load().values().cloned().collect()
    }

    /// Caches the objects of these rows from now on, and of no others: objects of new rows are
    /// read, watchers of rows that are gone or replaced end. An error changes nothing.
    pub async fn set_rows(&self, rows: Vec<Arc<Row>>) -> Result<(), StoreError> {
        let stopped = || StoreError::Unavailable("the watch cache has stopped".into());
        let (done, wait) = oneshot::channel();
        self.asks
            .send(CacheRequest::Rows(rows, done))
            .await
            .map_err(|_| stopped())?;
        wait.await.map_err(|_| stopped())?
    }

    /// [`Cache::set_rows`], on the task that applies events: so no event is missed or doubled.
    async fn exchange(&self, rows: Vec<Arc<Row>>) -> Result<(), StoreError> {
        let before = self.by_prefix.load_full();
        let mut after = ByPrefix::default();
        for (prefix, row) in storing(rows) {
            let kept = before.get(&prefix).filter(|c| Arc::ptr_eq(&c.row, &row));
            let cache = match kept {
                Some(cache) => cache.clone(),
                None => Arc::new(self.read_row(row).await?),
            };
            after.insert(prefix, cache);
        }
        let after = Arc::new(after);
        self.by_prefix.store(after.clone());
        for (prefix, cache) in before.iter() {
            if !after.get(prefix).is_some_and(|c| Arc::ptr_eq(c, cache)) {
                cache.close();
            }
        }
        Ok(())
    }

    /// The objects of one row, as of the revision that all caches have.
    async fn read_row(&self, row: Arc<Row>) -> Result<ResourceCache, StoreError> {
        let prefix = Bytes::from(format!("{}/", row.storage_prefix));
        let read = |at| self.store.range(prefix.clone(), prefix.clone(), 0, at);
        let now = self.revision();
        let (page, revision) = match read(now).await {
            // The events up to the newest revision, which are still to come, are in it.
            Err(StoreError::Compacted { .. }) => {
                let page = read(0).await?;
                let revision = page.revision;
                (page, revision)
            }
            page => (page?, now),
        };
        let contents = Contents::of(&row, page.items);
        let cache = ResourceCache::new(row, revision);
        cache.replace(contents, revision);
        Ok(cache)
    }

    /// The revision up to which every event is applied.
    pub fn revision(&self) -> Revision {
        *self.progress.borrow()
    }

    /// Waits until the cache has a revision; `Err` with the cache's own when it takes too long.
    pub async fn reach(&self, revision: Revision) -> Result<(), Revision> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut rx = self.progress.subscribe();
        let wait = rx.wait_for(|r| *r >= revision);
        match tokio::time::timeout(CATCH_UP, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.revision()),
        }
    }

    /// As [`Cache::reach`], for a revision that the store is known to have; whether the cache came
    /// to it.
    async fn came_to(&self, revision: Revision) -> bool {
        let began_at = self.revision();
        if began_at >= revision {
            return true;
        }
        // In a box: every request would carry its timer otherwise.
        let came = Box::pin(self.reach(revision)).await.is_ok();
        if !came {
            self.behind.notify_one();
            self.stalled_at.store(began_at, Ordering::Relaxed);
        }
        came
    }

    /// [`Cache::came_to`] for who has nowhere else to look.
    async fn catch_up(&self, revision: Revision) -> Result<(), StoreError> {
        if self.came_to(revision).await {
            return Ok(());
        }
        let have = self.revision();
        Err(StoreError::Unavailable(format!(
            "the watch cache is at revision {have}, the store at {revision}"
        )))
    }

    /// Whether the cache still is where somebody has waited for it in vain: until its next event,
    /// who can read in the store need not wait, too.
    pub fn is_stalled(&self) -> bool {
        self.stalled_at.load(Ordering::Relaxed) == self.revision()
    }

    /// The store's newest revision. A store that has less than it has shown before was set back,
    /// and nothing that the cache holds is true.
    async fn newest_in_store(&self) -> Result<Revision, StoreError> {
        let shown = self.revision();
        let newest = self.store.revision().await?;
        if newest < shown {
            return Err(StoreError::Unavailable(format!(
                "it was set back from revision {shown} to {newest}: restart the server"
            )));
        }
        Ok(newest)
    }

    /// Waits until the cache has the store's newest revision, and gives that. For who needs the
    /// cache itself: its observers, or many objects. Who only reads asks [`Cache::newest`].
    pub async fn reach_newest(&self) -> Result<Revision, StoreError> {
        let newest = self.newest_in_store().await?;
        self.catch_up(newest).await?;
        Ok(self.revision())
    }

    /// Where the store's newest state is to be read: in the cache if that comes to it in time,
    /// otherwise in the store, as upstream's reads turn to etcd.
    pub async fn newest(&self) -> Result<Newest, StoreError> {
        let newest = self.newest_in_store().await?;
        if self.revision() < newest && self.is_stalled() {
            self.behind.notify_one();
            return Ok(Newest::Stored(newest));
        }
        if self.came_to(newest).await {
            return Ok(Newest::Cached(self.revision()));
        }
        tracing::warn!(
            "the watch cache is at revision {}, the store at {newest}: the store is read",
            self.revision()
        );
        Ok(Newest::Stored(newest))
    }

    /// Reads everything, at a revision or (0) now, in place of what the cache had.
    async fn load(&self, at: Revision) -> Result<Revision, StoreError> {
        let root = Bytes::from_static(ROOT.as_bytes());
        let page = self.store.range(root.clone(), root, 0, at).await?;
        // A page at a revision may name the newest one.
        let revision = if at == 0 { page.revision } else { at };
        let mut found: HashMap<Arc<str>, Contents> = HashMap::new();
        for kv in page.items {
            let Some((cache, read)) = self.read(kv) else {
                continue;
            };
            let contents = found.entry(cache.row.storage_prefix.clone()).or_default();
            match read {
                Ok(object) => contents.objects.push(object),
                Err(mut unreadable) => {
                    unreadable.last = cache.last_known(&unreadable.key);
                    contents.unreadable.push(unreadable);
                }
            }
        }
        let caches = self.by_prefix.load();
        let all: Vec<(&Row, &Object)> = caches
            .iter()
            .filter_map(|(prefix, cache)| Some((&*cache.row, found.get(prefix)?)))
            .flat_map(|(row, contents)| contents.known().map(move |o| (row, o)))
            .collect();
        self.observer.replaced(&all);
        for (prefix, cache) in caches.iter() {
            cache.replace(found.remove(prefix).unwrap_or_default(), revision);
        }
        self.progress.send_replace(revision);
        Ok(revision)
    }

    /// The object of a stored value, and the cache that it belongs to.
    fn read(&self, kv: KeyValue) -> Option<(Arc<ResourceCache>, Read)> {
        let (cache, key) = self.place(&kv.key)?;
        if let Some(object) = self.handed.take(&cache.row, &key, &kv.value) {
            return Some((cache, Ok(Arc::new(object.written_at(kv.mod_revision)))));
        }
        let read = unreadable::read(&cache.row, &key, kv);
        Some((cache, read))
    }

    /// The cache that a store key belongs to, and the key below its prefix.
    fn place(&self, key: &[u8]) -> Option<(Arc<ResourceCache>, String)> {
        let key = std::str::from_utf8(key).ok()?;
        let (head, name) = key.rsplit_once('/')?;
        let all = self.by_prefix.load();
        if let Some(cache) = all.get(head).filter(|c| !c.row.namespaced) {
            return Some((cache.clone(), name.to_owned()));
        }
        let (prefix, _) = head.rsplit_once('/')?;
        let cache = all.get(prefix).filter(|c| c.row.namespaced)?;
        Some((cache.clone(), key.get(prefix.len() + 1..)?.to_owned()))
    }

    /// Frees what is needed no longer, also of resources that do not change, until `stop`.
    async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY_EVERY) => {}
            }
            self.handed.tidy();
            let forms = Object::forms_are_kept();
            for cache in self.all() {
                cache.tidy();
                if forms {
                    cache.drop_idle_forms();
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks now and then whether values can be read that could not, without anybody having written
    /// them: what keeps a key may have been away. Until `stop`.
    async fn read_again(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY_EVERY) => {}
            }
            let mut all = self.all();
            all.sort_by(|a, b| a.row.storage_prefix.cmp(&b.row.storage_prefix));
            for cache in all {
                for lost in cache.unreadable() {
                    let key = format!("{}/{}", cache.row.storage_prefix, lost.key);
                    let Ok(Some(kv)) = self.store.get(key.into(), 0).await else {
                        continue;
                    };
                    let is_same = kv.mod_revision == lost.revision;
                    let read =
                        Object::parse(&cache.row, &lost.key, kv.value.clone(), lost.revision);
                    if is_same && read.is_ok() {
                        // Nobody takes it any more when the server stops.
                        let _ = self.asks.send(CacheRequest::Regained(kv)).await;
                    }
                }
            }
        }
    }

    /// Takes in again what could not be read, unless somebody has written it since.
    fn regain(&self, kv: KeyValue) {
        let revision = kv.mod_revision;
        let Some((cache, Ok(object))) = self.read(kv) else {
            return;
        };
        let lost = cache.unreadable();
        let is_lost = |u: &Arc<Unreadable>| u.key == object.key && u.revision == revision;
        if lost.iter().any(is_lost) {
            let old = cache.last_known(&object.key);
            self.observer
                .changed(&cache.row, old.as_deref(), Some(&object));
            cache.regain(object);
        }
    }

    /// Ends all watchers of what is cached: each of them would otherwise look for itself, at every
    /// event, whether the server stops. Reads go on.
    pub fn end_watches(&self) {
        let mut all = self.all();
        all.sort_by(|a, b| a.row.storage_prefix.cmp(&b.row.storage_prefix));
        all.iter().for_each(|cache| cache.close());
    }

    /// Keeps up with the store until `stop`: a watch that ends is opened again where it was, and
    /// when the versions in between are gone everything is read again. Then all watchers end.
    async fn follow(
        self: Arc<Self>,
        mut from: Revision,
        mut asked: mpsc::Receiver<CacheRequest>,
        stop: CancellationToken,
    ) {
        let work = async {
            loop {
                let gap = self.run(&mut from, &mut asked).await;
                tracing::warn!("the store's watch ended: {gap}");
                tokio::time::sleep(RETRY).await;
                if matches!(gap, StoreError::Compacted { .. }) {
                    match self.load(0).await {
                        Ok(revision) => from = revision,
                        Err(e) => tracing::warn!("reading the store: {e}"),
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
        self.end_watches();
    }

    /// Follows one watch to its end. It covers all keys, not only objects: so every revision of
    /// the store comes along, and nobody waits in vain for one that concerns no object.
    async fn run(
        &self,
        from: &mut Revision,
        asked: &mut mpsc::Receiver<CacheRequest>,
    ) -> StoreError {
        let mut stream = match self.store.watch(Bytes::new(), *from).await {
            Ok(s) => s,
            Err(e) => return e,
        };
        let mut last = Instant::now();
        loop {
            let next = tokio::select! {
                biased;
                // Seldom; and events never end.
                Some(ask) = asked.recv() => {
                    match ask {
                        CacheRequest::Rows(rows, done) => {
                            // The request may have been cancelled.
                            let _ = done.send(self.exchange(rows).await);
                        }
                        CacheRequest::Regained(kv) => self.regain(kv),
                    }
                    continue;
                }
                next = stream.next() => next,
                () = self.behind.notified() => {
                    if last.elapsed() < CATCH_UP {
                        continue;
                    }
                    return StoreError::Unavailable("the store has more than it reports".into());
                }
            };
            match next {
                Some(Ok(batch)) => self.take(batch),
                Some(Err(e)) => return e,
                None => return StoreError::Unavailable("the stream ended".into()),
            }
            (*from, last) = (self.revision(), Instant::now());
        }
    }

    /// Applies the events of one revision.
    fn take(&self, batch: Batch) {
        // A revision that was applied already is not applied again.
        if batch.revision <= self.revision() {
            return;
        }
        for event in batch.events {
            match event.kind {
                EventKind::Put => match self.read(event.kv) {
                    None => {}
                    Some((cache, Ok(object))) => {
                        let old = cache.last_known(&object.key);
                        self.observer
                            .changed(&cache.row, old.as_deref(), Some(&object));
                        cache.apply("", Some(object), batch.revision);
                    }
                    Some((cache, Err(unreadable))) => cache.lose(unreadable),
                },
                EventKind::Delete => {
                    if let Some((cache, key)) = self.place(&event.kv.key) {
                        let old = cache.last_known(&key);
                        self.observer.changed(&cache.row, old.as_deref(), None);
                        cache.apply(&key, None, batch.revision);
                    }
                }
            }
        }
        self.progress.send_replace(batch.revision);
    }
}
