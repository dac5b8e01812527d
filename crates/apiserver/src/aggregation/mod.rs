//! Extension servers: groups and versions that other servers serve, behind APIServices. Here is
//! which ones there are and what is known of each; [`keep`] finds that out, [`proxy`] passes
//! requests on. What they do not answer is missing from their own group alone.

pub mod answers;
mod fetch;
pub mod keep;
pub mod proxy;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::aggregation::is_available;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use wire::trust::Trust;

use crate::dialer::TlsSide;
use crate::egress::Backend;
use crate::object::meta_text;
use crate::settings::Settings;

pub use fetch::Pages;

/// The extension servers that are known, shared by all who ask.
#[derive(Default)]
pub struct Aggregation {
    remotes: ArcSwap<Remotes>,
    shown: ArcSwap<ExtensionVersions>,
}

/// By group and version.
#[derive(Default)]
struct Remotes(BTreeMap<String, Arc<Remote>>);

/// A version of a group that another server serves.
pub struct Remote {
    /// Whether its APIService says that it is available.
    pub available: bool,
    known: Arc<ApiServiceSpec>,
}

/// What stays as long as the APIService's specification does.
struct ApiServiceSpec {
    /// Of the APIService: `v1.metrics.k8s.io`.
    name: String,
    uid: String,
    group: String,
    version: String,
    /// Of the group and of the version.
    priorities: (i64, i64),
    /// Namespace, name, port.
    service: (String, String, u16),
    /// How it is called; or why it cannot be.
    backend: Result<Backend, String>,
    pages: ArcSwap<Pages>,
    spec: Value,
    /// Ends the task that asks it.
    stop: CancellationToken,
}

/// What the server's own pages say of extension servers; another one when that changes.
#[derive(Default)]
pub struct ExtensionVersions(pub Vec<ShownVersion>);

/// A group and version of an extension server.
pub struct ShownVersion {
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub available: bool,
    pub pages: Arc<Pages>,
}

impl Aggregation {
    /// Who serves a path, if another server does: `/apis/group/version`, all below it, and its
    /// OpenAPI.
    pub fn of_path(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.0.is_empty() {
            return None;
        }
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        let (group, version) = (parts.next()?, parts.next()?);
        remotes.0.get(&format!("{group}/{version}")).cloned()
    }

    /// What pages say of extension servers at this moment.
    pub fn shown(&self) -> Arc<ExtensionVersions> {
        self.shown.load_full()
    }

    /// Takes the APIServices as they are now; gives those that have to be asked from now on.
    fn take(&self, settings: &Settings, services: &[Value]) -> Vec<Arc<ApiServiceSpec>> {
        let before = self.remotes.load_full();
        let (mut next, mut new) = (BTreeMap::new(), Vec::new());
        for service in services {
            let spec = &service["spec"];
            let text = |field: &str| spec[field].as_str().unwrap_or_default();
            let (group, version) = (text("group"), text("version"));
            // The core group is always this server's.
            if !spec["service"].is_object() || group.is_empty() {
                continue;
            }
            let key = format!("{group}/{version}");
            let have = before.0.get(&key).map(|r| &r.known);
            let same = have.filter(|k| k.spec == *spec && k.uid == meta_text(service, "uid"));
            let known = match same {
                Some(known) => known.clone(),
                None => {
                    let known =
                        Arc::new(ApiServiceSpec::read(settings, service, have.map(|k| &**k)));
                    new.push(known.clone());
                    known
                }
            };
            let available = is_available(service);
            next.insert(key, Arc::new(Remote { available, known }));
        }
        for (key, old) in &before.0 {
            if !next
                .get(key)
                .is_some_and(|r| Arc::ptr_eq(&r.known, &old.known))
            {
                old.known.stop.cancel();
            }
        }
        self.remotes.store(Arc::new(Remotes(next)));
        self.show();
        new
    }

    /// Makes another [`ExtensionVersions`] of what is known, if it differs.
    fn show(&self) {
        let remotes = self.remotes.load();
        let next: Vec<ShownVersion> = remotes.0.values().map(|r| r.shown()).collect();
        let same = |a: &ShownVersion, b: &ShownVersion| {
            (&a.group, &a.version, a.available) == (&b.group, &b.version, b.available)
                && (a.group_priority, a.version_priority) == (b.group_priority, b.version_priority)
                && Arc::ptr_eq(&a.pages, &b.pages)
        };
        let now = self.shown.load();
        let is_same = now.0.len() == next.len() && now.0.iter().zip(&next).all(|(a, b)| same(a, b));
        if !is_same {
            self.shown.store(Arc::new(ExtensionVersions(next)));
        }
    }

    /// Lines of `/metrics`.
    pub fn metrics(&self) -> String {
        let shown = self.shown.load();
        if shown.0.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "# HELP aggregator_unavailable_apiservice Gauge of APIServices which are marked as unavailable broken down by APIService name.\n\
             # TYPE aggregator_unavailable_apiservice gauge\n",
        );
        for version in &shown.0 {
            let (group, name) = (&version.group, &version.version);
            let value = u8::from(!version.available);
            text.push_str(&format!(
                "aggregator_unavailable_apiservice{{name=\"{name}.{group}\"}} {value}\n"
            ));
        }
        text
    }
}

impl Remote {
    fn shown(&self) -> ShownVersion {
        let known = &self.known;
        ShownVersion {
            group: known.group.clone(),
            version: known.version.clone(),
            group_priority: known.priorities.0,
            version_priority: known.priorities.1,
            available: self.available,
            pages: known.pages.load_full(),
        }
    }
}

impl ApiServiceSpec {
    /// Reads an APIService with a Service. `before` is what was known of the group and version: its
    /// pages stand until others are fetched.
    fn read(settings: &Settings, service: &Value, before: Option<&Self>) -> Self {
        let spec = &service["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default();
        let number = |field: &str| spec[field].as_i64().unwrap_or(0);
        let of_service = |field: &str| {
            let text = spec["service"][field].as_str();
            text.unwrap_or_default().to_owned()
        };
        let port = spec["service"]["port"].as_u64();
        let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
        let place = (of_service("namespace"), of_service("name"), port);
        let backend = tls(settings, spec).map(|tls| {
            let at = (place.0.as_str(), place.1.as_str(), port);
            Backend::service(at, "/", tls)
        });
        let same = before.filter(|b| b.service == place);
        Self {
            name: meta_text(service, "name").to_owned(),
            uid: meta_text(service, "uid").to_owned(),
            group: text("group").to_owned(),
            version: text("version").to_owned(),
            priorities: (number("groupPriorityMinimum"), number("versionPriority")),
            service: place,
            backend,
            pages: ArcSwap::new(same.map(|b| b.pages.load_full()).unwrap_or_default()),
            spec: spec.clone(),
            stop: CancellationToken::new(),
        }
    }
}

/// Whom this server believes there, and who it is.
fn tls(settings: &Settings, spec: &Value) -> Result<TlsSide, String> {
    let bundle = spec["caBundle"].as_str().unwrap_or_default();
    let bundle = STANDARD.decode(bundle).map_err(|e| e.to_string())?;
    let trust = match (spec["insecureSkipTLSVerify"] == true, bundle.as_slice()) {
        (true, _) => Trust::Anyone,
        (false, []) => Trust::System,
        (false, pem) => Trust::Bundle(pem),
    };
    let identity = settings.front_proxy.as_ref().map(|front| &front.pair);
    TlsSide::new(trust, identity).map_err(|e| e.to_string())
}
