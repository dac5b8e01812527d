//! Files that configure authentication, authorization and encryption: read strictly, since a field
//! that is ignored would be a rule that is not applied, and followed while the server runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::Background;
use crate::configuration_file;
use crate::metrics::identity::Reloads;
use crate::state::State;

/// Time between two looks at a file. Upstream hears from the kernel and looks once a minute
/// besides; a look costs some microseconds, and sees changes of mounted ConfigMaps, too.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time between two tries of a file that may count later.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// Largest file, in bytes: 64 issuers with their bundles have less.
const MOST_BYTES: usize = 4 << 20;

/// Reads a document of `apiserver.config.k8s.io`, which must be of this kind.
pub fn read<T: DeserializeOwned>(bytes: &[u8], kind: &'static str) -> Result<T, String> {
    if bytes.is_empty() {
        return Err("empty config data".into());
    }
    if bytes.len() > MOST_BYTES {
        return Err(format!("more than {MOST_BYTES} bytes"));
    }
    let versions = [
        "apiserver.config.k8s.io/v1",
        "apiserver.config.k8s.io/v1beta1",
        "apiserver.config.k8s.io/v1alpha1",
    ];
    configuration_file::read(bytes, kind, &versions).map_err(|e| e.to_string())
}

/// Errors of validation as one text, as upstream's aggregate.
pub fn aggregate(errors: &[api::FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match &texts[..] {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// Why a changed file does not count.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// It never will: it is tried again when it changes.
    #[error("{0}")]
    Wrong(String),
    /// It may later: it is tried again, ever more rarely, up to [`TRY_EVERY`].
    #[error("{0}")]
    NotYet(String),
}

/// What a file configures.
pub trait Configured: Send + Sync + 'static {
    /// What it is, for the log.
    fn what(&self) -> &'static str;
    fn reloads<'a>(&self, state: &'a State) -> &'a Reloads;
    /// Puts a changed file into effect.
    fn exchange<'a>(
        &'a self,
        state: &'a State,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<(), ReloadError>>;
}

/// A file that is followed.
pub struct Followed {
    pub path: PathBuf,
    /// What it held when the server began.
    pub first: Vec<u8>,
    pub configures: Arc<dyn Configured>,
}

impl Background for Followed {
    fn run(self: Arc<Self>, state: State) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.follow(&state).await })
    }
}

impl Followed {
    async fn follow(&self, state: &State) {
        let metrics = self.configures.reloads(state);
        metrics.holds(&self.first);
        let mut seen = self.first.clone();
        let mut last_error = String::new();
        let mut tried: Option<Tried> = None;
        loop {
            tokio::select! {
                biased;
                () = state.stop().cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let bytes = match tokio::fs::read(&self.path).await {
                Ok(bytes) if bytes == seen => {
                    tried = None;
                    continue;
                }
                Ok(bytes) if tried.as_ref().is_some_and(|t| t.waits(&bytes)) => continue,
                Ok(bytes) => bytes,
                Err(e) => {
                    self.failed(state, &mut last_error, &e.to_string());
                    continue;
                }
            };
            match self.configures.exchange(state, &bytes).await {
                Ok(()) => {
                    tracing::info!("reloaded {}", self.configures.what());
                    metrics.succeeded(state.now());
                    metrics.holds(&bytes);
                    last_error.clear();
                    (seen, tried) = (bytes, None);
                }
                Err(e) => {
                    self.failed(state, &mut last_error, &e.to_string());
                    match e {
                        ReloadError::Wrong(_) => seen = bytes,
                        ReloadError::NotYet(_) => tried = Some(Tried::again(bytes, tried)),
                    }
                }
            }
        }
    }

    /// Counts, and logs what was not logged just before.
    fn failed(&self, state: &State, last: &mut String, why: &str) {
        self.configures.reloads(state).failed(state.now());
        if why != last {
            let (what, path) = (self.configures.what(), self.path.display());
            tracing::error!("{what} in {path} stays as it was: {why}");
            last.replace_range(.., why);
        }
    }
}

/// A file that does not count yet.
struct Tried {
    bytes: Vec<u8>,
    wait: Duration,
    next: Instant,
}

impl Tried {
    fn again(bytes: Vec<u8>, before: Option<Self>) -> Self {
        let before = before.filter(|b| b.bytes == bytes);
        let wait = before.map_or(LOOK_EVERY, |b| (b.wait * 2).min(TRY_EVERY));
        Self {
            bytes,
            wait,
            next: Instant::now() + wait,
        }
    }

    /// Whether it is too early to try it again; another one is tried at once.
    fn waits(&self, bytes: &[u8]) -> bool {
        self.bytes == bytes && Instant::now() < self.next
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    #[derive(Default)]
    struct Thing {
        list: Vec<u8>,
    }

    #[test]
    fn files_are_read_strictly() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: Thing\n";
        let of = |text: &str| read::<Thing>(text.as_bytes(), "Thing");
        assert_eq!(of(&format!("{head}list: [1]")), Ok(Thing { list: vec![1] }));
        assert_eq!(of(&format!("{head}list: null")), Ok(Thing::default()));
        for bad in [
            String::new(),
            "a: b".into(),
            format!("{head}other: 1"),
            format!("{head}list: [1]\nlist: [2]"),
            "apiVersion: v1\nkind: Thing\n".into(),
            "apiVersion: apiserver.config.k8s.io/v2\nkind: Thing\n".into(),
        ] {
            assert!(of(&bad).is_err(), "{bad}");
        }
    }
}
