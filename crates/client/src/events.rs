//! The events of a list and a watch, as long as anybody wants them: a watch that breaks begins
//! again after a short wait.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use clock::Random;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::raw::{Path, Raw};

/// Waits before a broken watch is tried again: from the first, doubled, up to the longest. A
/// server that restarts is back within a second; what depends on the watch should not lag behind
/// it by the half minute that is kube's default.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Each wait is up to half as long again, by chance: those that lost the same server do not all
/// come back in the same moment.
struct Waits(Duration, Random);

impl Iterator for Waits {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let next = (self.0 * 2).min(LONGEST_WAIT);
        let wait = std::mem::replace(&mut self.0, next);
        Some(wait.mul_f64(1.0 + self.1.fraction() / 2.0))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0 = FIRST_WAIT;
    }
}

/// Failures in a row of which people hear: about six seconds of them. A server that restarts is
/// no reason.
const WARN_AFTER: u32 = 5;
/// Then every so many of them, which is once a minute or so.
const WARN_EVERY: u32 = 20;

/// Whether the server answers, and will not give the list. Kube's waits stay at the first one then, since each
/// list that is begun counts as an event: a right that lacks would be asked for several times a second. Where
/// nobody answers that is as it should be: the list is wanted as soon as the server is back.
fn is_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => {
            matches!(status.code, 401 | 403)
        }
        _ => false,
    }
}

/// All events of what `api` and `config` select; see [`crate::objects`] for what they amount to.
/// How long the waits are is drawn from `random`. An object that is none of this type, and an event
/// that cannot be read, begin the list again: nothing may be missing behind a list that looks
/// complete.
pub fn events<K>(random: Random, api: Api<K>, config: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    noted(random, api, config, None)
}

/// The same; `lost` hears of each failure.
pub(crate) fn noted<K>(
    random: Random,
    api: Api<K>,
    config: Config,
    lost: Option<Arc<Notify>>,
) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let path = Path(api.resource_url().to_owned());
    let client = api.into_client();
    if K::metadata_api() {
        let source = Source::<true>::new(random, client, path, config);
        typed(source.telling(lost)).left_stream()
    } else {
        let source = Source::<false>::new(random, client, path, config);
        typed(source.telling(lost)).right_stream()
    }
}

fn typed<K, const METADATA: bool>(source: Source<METADATA>) -> impl Stream<Item = Event<K>> + Send
where
    K: DeserializeOwned + Send + 'static,
{
    futures::stream::unfold(source, |mut source| async move {
        loop {
            let event = match source.next().await? {
                Event::Init => Ok(Event::Init),
                Event::InitDone => Ok(Event::InitDone),
                Event::InitApply(raw) => raw.decode().map(Event::InitApply),
                Event::Apply(raw) => raw.decode().map(Event::Apply),
                Event::Delete(raw) => raw.decode().map(Event::Delete),
            };
            match event {
                Ok(event) => return Some((event, source)),
                Err(error) => source.begin_again(&error).await,
            }
        }
    })
}

type Events<const METADATA: bool> =
    BoxStream<'static, Result<Event<Raw<METADATA>>, watcher::Error>>;

/// Events before they have a type.
struct Source<const METADATA: bool> {
    random: Random,
    client: Client,
    path: Path,
    config: Config,
    events: Events<METADATA>,
    failures: u32,
    /// Between objects that are none of the type that is asked for.
    waits: Waits,
    /// Notified of each failure.
    lost: Option<Arc<Notify>>,
}

impl<const METADATA: bool> Source<METADATA> {
    fn new(random: Random, client: Client, path: Path, config: Config) -> Self {
        let events = Self::watch(&random, &client, &path, &config);
        let waits = Waits(FIRST_WAIT, random.clone());
        Self {
            random,
            client,
            path,
            config,
            events,
            failures: 0,
            waits,
            lost: None,
        }
    }

    fn telling(self, lost: Option<Arc<Notify>>) -> Self {
        Self { lost, ..self }
    }

    fn watch(random: &Random, client: &Client, path: &Path, config: &Config) -> Events<METADATA> {
        let api: Api<Raw<METADATA>> = Api::all_with(client.clone(), path);
        let waits = Waits(FIRST_WAIT, random.clone());
        watcher(api, config.clone()).backoff(waits).boxed()
    }

    async fn next(&mut self) -> Option<Event<Raw<METADATA>>> {
        loop {
            match self.events.next().await? {
                Ok(event) => {
                    match event {
                        Event::InitDone => {
                            self.waits.reset();
                            self.failures = 0;
                        }
                        Event::Apply(_) | Event::Delete(_) => self.failures = 0,
                        // More of a list may come that cannot be read.
                        Event::Init | Event::InitApply(_) => {}
                    }
                    return Some(event);
                }
                // kube would go on behind an event that it could not read, which it takes for an
                // error that the server sent, as long as it is an object at all.
                Err(
                    error @ watcher::Error::WatchFailed(
                        kube::Error::SerdeError(_) | kube::Error::Api(_),
                    ),
                ) => self.begin_again(&error).await,
                Err(error) => {
                    self.failed(&error);
                    if is_refused(&error) {
                        self.wait().await;
                    }
                }
            }
        }
    }

    async fn wait(&mut self) {
        if let Some(wait) = self.waits.next() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Begins with a list again, after a wait: nothing may be missing.
    async fn begin_again(&mut self, error: &(dyn Display + Sync)) {
        self.failed(error);
        self.wait().await;
        self.events = Self::watch(&self.random, &self.client, &self.path, &self.config);
    }

    fn failed(&mut self, error: &dyn Display) {
        let what = &self.path.0;
        self.failures = self.failures.saturating_add(1);
        if let Some(lost) = &self.lost {
            lost.notify_one();
        }
        if self.failures % WARN_EVERY == WARN_AFTER {
            tracing::warn!("watching {what} goes on failing: {error}");
        } else {
            tracing::debug!("watching {what}: {error}; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn waits_grow_to_their_longest_and_begin_again() {
        let mut waits = Waits(FIRST_WAIT, Random::seeded(1));
        let least = [200, 400, 800, 1_600, 3_000, 3_000];
        for least in least.map(Duration::from_millis) {
            let wait = waits.next().expect("endless");
            assert!(wait >= least && wait <= least + least / 2, "{wait:?}");
        }
        waits.reset();
        assert!(waits.next().expect("endless") <= FIRST_WAIT + FIRST_WAIT / 2);
    }

    /// How many lists and how many watches a server was asked for.
    type CallCounts = Arc<[AtomicUsize; 2]>;

    /// A server that answers by whether it is asked for a watch, and how many such questions came
    /// before; where there is no answer, it is silent for ever.
    fn server(asked: &CallCounts, answer: fn(bool, usize) -> Option<String>) -> Client {
        let asked = asked.clone();
        let serve = move |request: Request<kube::client::Body>| {
            let is_watch = request.uri().query().is_some_and(|q| q.contains("watch="));
            let before = asked[usize::from(is_watch)].fetch_add(1, Ordering::Relaxed);
            let text = answer(is_watch, before);
            async move {
                let text = match text {
                    Some(text) => text,
                    None => std::future::pending().await,
                };
                Ok::<_, Infallible>(Response::new(kube::client::Body::from(text.into_bytes())))
            }
        };
        Client::new(tower::service_fn(serve), "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_refused_is_asked_for_less_and_less_often() {
        let refuse = |_: Request<kube::client::Body>| async move {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "Forbidden", "code": 403, "message": "no" });
            let body = kube::client::Body::from(status.to_string().into_bytes());
            Response::builder().status(403).body(body)
        };
        let api: Api<ConfigMap> = Api::all(Client::new(tower::service_fn(refuse), "default"));
        let begun = tokio::time::Instant::now();
        // Each is a list that begins.
        let lists = events(Random::seeded(1), api, Config::default()).take(8);
        assert_eq!(lists.count().await, 8);
        assert!(begun.elapsed() >= LONGEST_WAIT * 4, "{:?}", begun.elapsed());
    }

    fn list(items: serde_json::Value) -> String {
        let metadata = json!({ "resourceVersion": "3" });
        json!({ "kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items })
            .to_string()
    }

    /// Its first list holds something that is no ConfigMap.
    fn mended_by_and_by(is_watch: bool, before: usize) -> Option<String> {
        let data = if before > 0 { json!({}) } else { json!(7) };
        let second = json!({ "metadata": { "name": "b" }, "data": data });
        (!is_watch).then(|| list(json!([{ "metadata": { "name": "a" } }, second])))
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_with_an_object_that_cannot_be_read_is_never_complete() {
        let asked = CallCounts::default();
        let api: Api<ConfigMap> = Api::all(server(&asked, mended_by_and_by));
        let events = events(Random::seeded(1), api, Config::default());
        let until_complete =
            events.take_while(|event| std::future::ready(!matches!(event, Event::InitDone)));
        let seen: Vec<String> = until_complete
            .map(|event| match event {
                Event::Init => "list".to_owned(),
                Event::InitApply(map) => map.metadata.name.unwrap_or_default(),
                event => panic!("{event:?}"),
            })
            .collect()
            .await;
        assert_eq!(seen, ["list", "a", "list", "a", "b"]);
        assert_eq!(asked[0].load(Ordering::Relaxed), 2);
    }

    /// Its first watch sends an event that is none; later ones are silent.
    fn garbled_once(is_watch: bool, before: usize) -> Option<String> {
        match (is_watch, before) {
            (true, 0) => Some("{\"type\":\"ADDED\",\"object\":7}\n".into()),
            (true, _) => None,
            (false, _) => Some(list(json!([{ "metadata": { "name": "a" } }]))),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_an_event_that_cannot_be_read_all_is_listed_again() {
        let asked = CallCounts::default();
        let api: Api<ConfigMap> = Api::all(server(&asked, garbled_once));
        let events = events(Random::seeded(1), api, Config::default());
        let lists = events.filter(|event| std::future::ready(matches!(event, Event::InitDone)));
        assert_eq!(lists.take(2).count().await, 2);
        assert_eq!(asked[1].load(Ordering::Relaxed), 1);
    }
}
