//! Webhooks as their configurations say, read and compiled once for each change of one.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use policy::{Compiler, Matcher};
use serde_json::Value;

use crate::admission::matching::Criteria;
use crate::configuration_objects::{Compiled, ObjectsByName};
use crate::egress::Backend;

/// How long a webhook may take when its configuration does not say.
const WITHIN: Duration = Duration::from_secs(10);

/// One webhook.
pub struct Hook {
    pub configuration: String,
    pub name: String,
    /// The name of this webhook among all.
    pub id: String,
    pub criteria: Criteria,
    /// An error is what is wrong with the configuration.
    pub backend: Result<Backend, String>,
    /// `failurePolicy: Ignore`.
    pub ignores_failure: bool,
    pub side_effects: Option<String>,
    pub within: Duration,
    /// Of the reviews that it takes, in order of preference.
    pub review_versions: Vec<String>,
    /// `reinvocationPolicy: IfNeeded`.
    pub again: bool,
    conditions: Vec<Value>,
    matcher: OnceLock<Matcher>,
}

impl Hook {
    fn read(configuration: &str, nth: usize, webhook: &Value) -> Self {
        let text = |field: &str| webhook[field].as_str().map(str::to_owned);
        let name = text("name").unwrap_or_default();
        let list = |field: &str| webhook[field].as_array().cloned().unwrap_or_default();
        let versions = list("admissionReviewVersions");
        let seconds = webhook["timeoutSeconds"].as_u64();
        Self {
            id: format!("{configuration}/{name}/{nth}"),
            configuration: configuration.to_owned(),
            criteria: Criteria::of_webhook(webhook),
            backend: Backend::read(&webhook["clientConfig"]).map_err(|e| e.to_string()),
            ignores_failure: webhook["failurePolicy"] == "Ignore",
            side_effects: text("sideEffects"),
            within: seconds.map_or(WITHIN, Duration::from_secs),
            review_versions: versions
                .iter()
                .filter_map(|v| Some(v.as_str()?.to_owned()))
                .collect(),
            again: webhook["reinvocationPolicy"] == "IfNeeded",
            conditions: list("matchConditions"),
            matcher: OnceLock::new(),
            name,
        }
    }

    pub fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// The match conditions, compiled when they are first needed.
    pub fn matcher(&self) -> &Matcher {
        self.matcher.get_or_init(|| {
            let compiler = Compiler::new(false, false);
            Matcher::compile(&compiler, &self.conditions, self.ignores_failure)
        })
    }

    /// Whether a dry run may call it.
    pub fn takes_dry_runs(&self) -> bool {
        matches!(self.side_effects.as_deref(), Some("None" | "NoneOnDryRun"))
    }
}

/// The webhooks of one configuration, and what they were made of.
struct Configured {
    from: Arc<Value>,
    hooks: Vec<Arc<Hook>>,
}

/// All webhooks of one kind, in the order in which they are called: by the names of their
/// configurations, then as they stand there.
#[derive(Default)]
pub struct Hooks {
    configured: Vec<Configured>,
    pub all: Vec<Arc<Hook>>,
}

impl Hooks {
    fn make(from: Vec<Arc<Value>>, before: Option<&Self>) -> Self {
        let configured: Vec<Configured> = from
            .into_iter()
            .map(|from| {
                // What did not change keeps its connections.
                let known = before.and_then(|b| b.of(&from));
                let hooks = known.unwrap_or_else(|| read(&from));
                Configured { from, hooks }
            })
            .collect();
        let all = configured.iter().flat_map(|c| c.hooks.clone()).collect();
        Self { configured, all }
    }

    fn of(&self, from: &Arc<Value>) -> Option<Vec<Arc<Hook>>> {
        let mut all = self.configured.iter();
        let found = all.find(|c| Arc::ptr_eq(&c.from, from))?;
        Some(found.hooks.clone())
    }
}

fn read(configuration: &Value) -> Vec<Arc<Hook>> {
    let name = crate::object::meta_text(configuration, "name");
    let all = configuration["webhooks"].as_array().into_iter().flatten();
    all.enumerate()
        .map(|(nth, webhook)| Arc::new(Hook::read(name, nth, webhook)))
        .collect()
}

/// The webhooks of one kind of configurations, as they are now.
#[derive(Default)]
pub struct Source(Compiled<Hooks>);

impl Source {
    pub fn hooks(&self, kept: &ObjectsByName) -> Arc<(u64, Hooks)> {
        self.0
            .get(kept.change(), |before| Hooks::make(kept.all(), before))
    }
}
