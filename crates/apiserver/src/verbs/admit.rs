//! What judges a write: the plugins of admission, in their two steps, and what the kind's own
//! rules may know. What either relies on is compared when the write is committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use futures::future::BoxFuture;
use registry::{Context, Read, Row};
use serde_json::Value;
use store::Compare;

use super::convert;
use crate::admission::{
    self, AdmissionAttributes, Need, NeededObjects, Operation, Passes, RequestOptions, Review,
    Together, Versions,
};
use crate::cache::{Object, Selection};
use crate::call::Call;
use crate::state::State;

/// The admission of one write.
pub struct Admission<'a> {
    call: &'a Call,
    operation: Operation,
    subresource: &'a str,
    name: &'a str,
    dry_run: bool,
    /// Managed fields of the object, which plugins may change, too.
    pub managed: Bytes,
    old_managed: Bytes,
    revision: u64,
    deletion: Option<Value>,
    passes: Passes,
    /// `None` until it was fetched.
    found: Option<NeededObjects>,
    relied: Vec<Compare>,
    together: Together,
}

/// Conversions as verbs have them made.
struct ByVerbs;

impl Versions for ByVerbs {
    fn convert<'a>(
        &'a self,
        row: &'a Arc<Row>,
        value: Value,
        to: (&'a str, &'a str),
    ) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(convert::value(row, value, to))
    }
}

/// As [`State::fresh`], and waits so long for an object that does not exist.
async fn awaited(
    state: &State,
    read: &Read,
    patience: Duration,
) -> Result<Option<Arc<Object>>, Status> {
    let (group, resource) = (&*read.group, &*read.resource);
    let (namespace, name) = (&*read.namespace, &*read.name);
    let found = state.fresh(group, resource, namespace, name).await?;
    if found.is_some() || patience.is_zero() {
        return Ok(found);
    }
    let kinds = state.kinds();
    let Some(row) = kinds.resource(group, resource) else {
        return Ok(None);
    };
    let selection = Selection::new(row, namespace, "", "").and_then(|s| s.named(name));
    let (Ok(selection), Some(cache)) = (selection, state.cache().of(row)) else {
        return Ok(None);
    };
    let mut cursor = cache.from_now(&selection);
    let appears = async {
        loop {
            if let Some(found) = state.lookup(group, resource, namespace, name) {
                return found;
            }
            // Taken so that the next change wakes again; a cursor that fell behind begins again.
            if cursor.take(usize::MAX).is_err()
                && let Some(cache) = state.cache().of(row)
            {
                cursor = cache.from_now(&selection);
            }
            cursor.changed().await;
        }
    };
    Ok(tokio::time::timeout(patience, appears).await.ok())
}

impl<'a> Admission<'a> {
    pub fn new(
        call: &'a Call,
        operation: Operation,
        subresource: &'a str,
        name: &'a str,
        dry_run: bool,
    ) -> Self {
        Self {
            call,
            operation,
            subresource,
            name,
            dry_run,
            managed: Bytes::new(),
            old_managed: Bytes::new(),
            revision: 0,
            deletion: None,
            passes: Passes::default(),
            found: None,
            relied: Vec::new(),
            together: Together::default(),
        }
    }

    /// Of a write that changes a stored object: its managed fields, and at which revision it is.
    #[must_use]
    pub fn of(mut self, managed: &Bytes, revision: u64) -> Self {
        self.old_managed = managed.clone();
        self.revision = revision;
        self
    }

    /// Of a deletion with these `DeleteOptions`.
    #[must_use]
    pub fn with_options(mut self, options: Value) -> Self {
        self.deletion = Some(options);
        self
    }

    /// Says the name of an object whose name was not chosen before.
    pub fn named(&mut self, name: &'a str) {
        self.name = name;
    }

    /// What the kind's own rules may know, and the comparisons that keep true until the commit
    /// what they and the plugins rely on. Asked for once the plugins have changed the object. An error:
    /// something of it cannot be read.
    pub fn context(
        &mut self,
        object: &Value,
        old: Option<&Value>,
        subresource: &'a str,
    ) -> Result<(Context<'a>, Vec<Compare>), Status> {
        let call = self.call;
        let (mut read, mut compare) = (BTreeMap::new(), std::mem::take(&mut self.relied));
        for r in call.row.strategy.reads(object, old) {
            let Some(row) = call.kinds.resource(&r.group, &r.resource) else {
                continue;
            };
            let key = row.key(&r.namespace, &r.name);
            let found = match call.state.cache().of(row) {
                Some(cache) => cache.find(&key)?,
                None => None,
            };
            let revision = found.as_ref().map_or(0, |o| o.revision);
            compare.push(Compare::ModRevision(State::store_key(row, &key), revision));
            if let Some(o) = found {
                read.insert(r.label, o.to_value());
            }
        }
        let context = Context {
            now: call.state.now(),
            namespace: &call.info.namespace,
            user: &call.user.name,
            groups: &call.user.groups,
            uid: &call.user.uid,
            extra: &call.user.extra,
            read,
            subresource,
            version: &call.version.version,
            dry_run: self.dry_run,
            families: call.state.settings().service_cidrs.of_services(),
        };
        Ok((context, compare))
    }

    /// Reads what the plugins need, once for both steps.
    async fn fetch(&mut self, needs: Vec<Need>) -> Result<NeededObjects, Status> {
        let (mut all, state) = (NeededObjects::default(), &self.call.state);
        for need in needs {
            let (read, relied, patience) = match need {
                Need::One {
                    read,
                    relied,
                    patience,
                } => (read, relied, patience),
                Need::All {
                    label,
                    group,
                    resource,
                    namespace,
                } => {
                    let objects = state.all_of(&group, &resource, &namespace)?;
                    all.insert_all(label, objects);
                    continue;
                }
            };
            let found = awaited(state, &read, patience).await?;
            let row = self.call.kinds.resource(&read.group, &read.resource);
            if let Some(row) = row.filter(|_| relied) {
                let key = row.key(&read.namespace, &read.name);
                let revision = found.as_ref().map_or(0, |o| o.revision);
                let key = State::store_key(row, &key);
                self.relied.push(Compare::ModRevision(key, revision));
            }
            if let Some(object) = found {
                all.insert(read.label, object);
            }
        }
        Ok(all)
    }

    /// The plugins may change the object.
    pub async fn mutate(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        self.run(object, old, false).await
    }

    /// The plugins may refuse it; they see it as it will be stored.
    pub async fn validate(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        self.run(object, old, true).await
    }

    /// What the plugins want to be committed with the object. Asked for once they have validated it.
    pub fn together(&mut self) -> Together {
        std::mem::take(&mut self.together)
    }

    /// Runs one step; `validating` chooses which.
    async fn run(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
        validating: bool,
    ) -> Result<(), Status> {
        let call = self.call;
        let plugins = &call.plugins.admission;
        if plugins.is_empty() {
            return Ok(());
        }
        if self.found.is_none() {
            let asked = AdmissionAttributes {
                state: &call.state,
                operation: self.operation,
                kinds: &call.kinds,
                row: &call.row,
                version: &call.version.version,
                subresource: self.subresource,
                namespace: &call.info.namespace,
                name: self.name,
                user: &call.user,
                object: object.as_deref(),
                old,
            };
            let needs = plugins
                .iter()
                .filter(|p| p.handles(self.operation, &call.row, self.subresource))
                .flat_map(|p| p.needs(&asked));
            let needs = needs.collect();
            self.found = Some(self.fetch(needs).await?);
        }
        let nothing = NeededObjects::default();
        let (mut warnings, mut annotations) = (Vec::new(), Vec::new());
        let mut review = Review {
            operation: self.operation,
            verb: &call.info.verb,
            kinds: &call.kinds,
            row: &call.row,
            version: &call.version.version,
            subresource: self.subresource,
            namespace: &call.info.namespace,
            name: self.name,
            user: &call.user,
            dry_run: self.dry_run,
            asked: RequestOptions {
                query: &call.query,
                deletion: self.deletion.as_ref(),
            },
            object,
            managed: &mut self.managed,
            old,
            old_managed: &self.old_managed,
            revision: self.revision,
            versions: &ByVerbs,
            passes: &mut self.passes,
            found: self.found.as_ref().unwrap_or(&nothing),
            warnings: &mut warnings,
            annotations: &mut annotations,
            together: &mut self.together,
        };
        let done = if validating {
            admission::validate(plugins, &call.state, &mut review).await
        } else {
            admission::mutate(plugins, &call.state, &mut review).await
        };
        warnings.into_iter().for_each(|w| call.warn(w));
        for (key, value) in annotations {
            call.audit.annotate(&key, value);
        }
        done
    }
}
