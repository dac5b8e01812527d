//! Which kinds the server serves, as a process knows it: asked once for all of its parts, and again when
//! something says that the answer may be another one. Such are a definition of resources that has
//! changed, a watch that the server did not go on with, since it may have been started with other flags,
//! and, for all that nobody notices, the time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use clock::watch as signal;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::discovery::{DiscoveredResources, Discovery, DiscoveryError};

/// Between two looks when nothing has happened. With the ETags of the last one a look costs next to
/// nothing.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// From what may have changed it to the look: the server has to take a definition up first, and many
/// come together.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// After a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the last look came to.
#[derive(Clone, Debug, Default)]
pub enum Looked {
    /// No server has answered yet.
    #[default]
    NotYet,
    /// The server says that it may not be known, or that it has nothing of the kind; it was never known.
    Refused,
    /// What is served. A later look that fails changes nothing of it.
    Found(Arc<DiscoveredResources>),
}

impl Looked {
    /// What is served, where that is known.
    #[must_use]
    pub fn found(&self) -> Option<Arc<DiscoveredResources>> {
        match self {
            Self::Found(found) => Some(found.clone()),
            Self::NotYet | Self::Refused => None,
        }
    }

    /// Whether a resource is served and can be watched, as far as that is known.
    #[must_use]
    pub fn can_watch(&self, group: &str, plural: &str) -> bool {
        let Self::Found(found) = self else {
            return false;
        };
        let mut served = found.served.iter();
        served.any(|s| s.is(group, plural) && ["list", "watch"].iter().all(|verb| s.can(verb)))
    }
}

/// What is served, kept up to date for as long as somebody holds it. Clones share it.
#[derive(Clone)]
pub struct ServedKinds(Arc<Inner>);

struct Inner {
    looked: signal::Sender<Looked>,
    look: Arc<Notify>,
}

impl Drop for Inner {
    /// Whoever looked for it ends now: a hint that comes later is not for them.
    fn drop(&mut self) {
        self.look.notify_one();
    }
}

impl ServedKinds {
    /// Something has happened by which other kinds may be served: it is looked soon.
    pub fn look_again(&self) {
        self.0.look.notify_one();
    }

    /// What is known, and each change of it.
    #[must_use]
    pub fn subscribe(&self) -> signal::Receiver<Looked> {
        self.0.looked.subscribe()
    }
}

/// What the parts of a process share of it.
#[derive(Clone, Default)]
pub(crate) struct OfProcess {
    made: Arc<Mutex<Weak<Inner>>>,
    /// Notified when a watch has failed.
    look: Arc<Notify>,
}

impl OfProcess {
    /// What is woken when a watch has failed.
    pub fn look(&self) -> &Arc<Notify> {
        &self.look
    }

    pub fn served(&self, client: &Client) -> ServedKinds {
        let mut made = self.made.lock();
        if let Some(inner) = made.upgrade() {
            return ServedKinds(inner);
        }
        let inner = Arc::new(Inner {
            looked: signal::Sender::new(Looked::NotYet),
            look: self.look.clone(),
        });
        *made = Arc::downgrade(&inner);
        tokio::spawn(follow(made.clone(), Discovery::new(client.clone())));
        ServedKinds(inner)
    }
}

/// Looks again and again, until nobody wants to know any more.
async fn follow(of: Weak<Inner>, discovery: Discovery) {
    while of.strong_count() > 0 {
        let asked = discovery.ask().await;
        let Some(inner) = of.upgrade() else { return };
        let wait = match asked {
            Ok(found) => {
                inner.looked.send_if_modified(|old| take(old, found));
                LOOK_EVERY
            }
            Err(error) => {
                tracing::debug!("{error}; asked again soon");
                if matches!(
                    error,
                    DiscoveryError::Refused {
                        code: 403 | 404,
                        ..
                    }
                ) {
                    inner.looked.send_if_modified(refuse);
                }
                LOOK_AGAIN
            }
        };
        let look = inner.look.clone();
        drop(inner);
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = look.notified() => tokio::time::sleep(LOOK_SOON).await,
        }
    }
}

/// Whether that is news.
fn take(old: &mut Looked, found: Arc<DiscoveredResources>) -> bool {
    let same = matches!(old, Looked::Found(known) if Arc::ptr_eq(known, &found));
    *old = Looked::Found(found);
    !same
}

/// Whether that is news: it is not where something was found before.
fn refuse(old: &mut Looked) -> bool {
    let first = matches!(old, Looked::NotYet);
    if first {
        *old = Looked::Refused;
    }
    first
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;

    /// What a server says of groups: a code and a document.
    type Says = Arc<Mutex<(u16, String)>>;

    fn document(plurals: &[&str]) -> String {
        let resources: Vec<serde_json::Value> = plurals
            .iter()
            .map(|plural| {
                serde_json::json!({ "resource": plural, "scope": "Namespaced",
                    "responseKind": { "kind": "K" }, "verbs": ["list", "watch"] })
            })
            .collect();
        serde_json::json!({ "items": [{ "metadata": { "name": "g" },
            "versions": [{ "version": "v1", "resources": resources }] }] })
        .to_string()
    }

    fn server(says: &Says) -> Client {
        let says = says.clone();
        let serve = move |request: Request<Body>| {
            let (code, text) = match request.uri().path() {
                "/apis" => says.lock().clone(),
                _ => (200, "{\"items\":[]}".to_owned()),
            };
            let mut response = Response::new(Body::from(text.into_bytes()));
            *response.status_mut() = StatusCode::from_u16(code).expect("a code");
            async move { Ok::<_, Infallible>(response) }
        };
        Client::new(tower::service_fn(serve), "default")
    }

    fn says(code: u16, plurals: &[&str]) -> Says {
        Arc::new(Mutex::new((code, document(plurals))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_comes_is_noticed_soon_and_without_a_hint_by_and_by() {
        let says = says(200, &["as"]);
        let process = OfProcess::default();
        let served = process.served(&server(&says));
        let mut looks = served.subscribe();
        looks.changed().await.expect("a look");
        assert!(looks.borrow().can_watch("g", "as"));
        assert!(!looks.borrow().can_watch("g", "bs"));
        let begun = clock::Instant::now();
        says.lock().1 = document(&["as", "bs"]);
        process.look().notify_one();
        looks.changed().await.expect("a look");
        assert!(looks.borrow().can_watch("g", "bs"));
        assert!(begun.elapsed() < Duration::from_secs(1), "by the hint");
        says.lock().1 = document(&["bs"]);
        looks.changed().await.expect("a look");
        assert!(!looks.borrow().can_watch("g", "as"), "it has gone");
        assert!(begun.elapsed() < LOOK_EVERY * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looked_for_others_takes_no_hint_away() {
        let (says, process) = (says(200, &["as"]), OfProcess::default());
        let client = server(&says);
        let first = process.served(&client);
        first.subscribe().changed().await.expect("a look");
        drop(first);
        let second = process.served(&client);
        let mut looks = second.subscribe();
        looks.changed().await.expect("a look");
        tokio::time::sleep(LOOK_EVERY / 3).await;
        let begun = clock::Instant::now();
        says.lock().1 = document(&["bs"]);
        process.look().notify_one();
        looks.changed().await.expect("a look");
        assert!(looks.borrow().can_watch("g", "bs"));
        assert!(begun.elapsed() < Duration::from_secs(1), "by the hint");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_known_and_forgets_nothing() {
        let says = says(403, &["as"]);
        let process = OfProcess::default();
        let served = process.served(&server(&says));
        let mut looks = served.subscribe();
        looks.changed().await.expect("a look");
        assert!(matches!(&*looks.borrow(), Looked::Refused));
        says.lock().0 = 200;
        looks.changed().await.expect("a look");
        assert!(looks.borrow().found().is_some());
        says.lock().0 = 403;
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert!(looks.borrow().can_watch("g", "as"));
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_of_a_process_share_one_look_as_long_as_there_is_one() {
        let (says, process) = (says(200, &["as"]), OfProcess::default());
        let client = server(&says);
        let (one, two) = (process.served(&client), process.served(&client));
        assert!(Arc::ptr_eq(&one.0, &two.0));
        let old = Arc::downgrade(&one.0);
        drop((one, two));
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert_eq!(old.strong_count(), 0);
        let mut looks = process.served(&client).subscribe();
        // Nobody holds it: nobody looks, and the subscription ends.
        while looks.changed().await.is_ok() {}
    }
}
