//! Admission: rules that may change or refuse a write of any kind and that need more than the
//! object itself. The verb functions run all plugins, for every kind, in one place each.

mod always_pull;
mod anti_affinity;
mod certificates;
mod claim_resize;
mod claim_status;
pub mod configuration;
mod declared_features;
mod default_class;
mod driver_tokens;
mod escalation;
mod event_rate;
pub mod expressions;
mod extended_resources;
mod external_ips;
mod in_use;
mod ingress_class;
mod limit_ranges;
pub mod matching;
mod namespaces;
mod node_restriction;
mod node_selector;
mod node_volumes;
mod owners;
mod passes;
mod plain;
mod plugin_order;
mod pod_certificates;
mod pod_groups;
mod pod_resize;
mod pod_security;
mod policies;
mod priority;
mod quotas;
mod runtime_class;
mod service_account;
mod taints;
mod tls_secrets;
mod toleration_lists;
mod tolerations;
mod topology;
mod trust_bundles;
pub mod versions;
pub mod webhooks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{GroupResource, Status};
use bytes::Bytes;
use clock::Instant;
use futures::future::BoxFuture;
use registry::{Kinds, Read, Row};
use serde_json::{Value, json};
use store::{Compare, Op};
use tokio::sync::OwnedMutexGuard;

use crate::cache::Object;
use crate::filters::authn::UserInfo;
use crate::http::request::Query;
use crate::metrics::admission::{AdmissionMetrics, Step};
use crate::state::State;

use matching::Subject;
pub use passes::Passes;
pub use plugin_order::{ChoiceError, Options, standard};
pub use versions::Versions;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write before it is made.
pub struct Review<'a> {
    pub operation: Operation,
    /// The request's own: an update is asked for by `update` or by `patch`.
    pub verb: &'a str,
    /// The kinds that the request began with.
    pub kinds: &'a Kinds,
    pub row: &'a Arc<Row>,
    /// The version of the request.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for objects of the whole cluster.
    pub namespace: &'a str,
    /// Empty while a generated name is not chosen.
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    /// See [`Review::options`].
    pub asked: RequestOptions<'a>,
    /// The new object in its storage version (for subresources such as binding: their body; for
    /// connections: their options); absent for a deletion. Its managed fields are beside it.
    pub object: Option<&'a mut Value>,
    /// A JSON list, or nothing.
    pub managed: &'a mut Bytes,
    /// The stored object; absent for a creation. Its managed fields are beside it.
    pub old: Option<&'a Value>,
    pub old_managed: &'a Bytes,
    /// At which the stored object was written; 0 when there is none.
    pub revision: u64,
    pub versions: &'a dyn Versions,
    pub passes: &'a mut Passes,
    /// What [`Admit::needs`] asked for and exists, by the label that it gave.
    pub found: &'a NeededObjects,
    /// Texts for `Warning` headers.
    pub warnings: &'a mut Vec<String>,
    /// For the audit log.
    pub annotations: &'a mut Vec<(String, String)>,
    /// What the validating step wants to be committed with the object.
    pub together: &'a mut Together,
}

/// Where the options of a request are.
#[derive(Clone, Copy)]
pub struct RequestOptions<'a> {
    /// Of a creation or an update.
    pub query: &'a Query,
    /// `DeleteOptions`, as they count.
    pub deletion: Option<&'a Value>,
}

/// What is committed together with an object, or not at all.
#[derive(Debug, Default)]
pub struct Together {
    pub compare: Vec<Compare>,
    pub ops: Vec<Op>,
    /// A writer's turn: held until the commit, and until this server's cache shows it.
    pub turn: Option<OwnedMutexGuard<()>>,
}

/// What plugins need, by label.
#[derive(Default)]
pub struct NeededObjects {
    one: BTreeMap<String, Arc<Object>>,
    all: BTreeMap<String, Vec<Arc<Object>>>,
}

impl NeededObjects {
    /// The object of a [`Need::One`]; absent when it does not exist.
    pub fn get(&self, label: &str) -> Option<&Arc<Object>> {
        self.one.get(label)
    }
    /// What an annotation of the object of a [`Need::One`] says.
    pub fn annotation(&self, label: &str, key: &str) -> Option<String> {
        let object = self.get(label)?.to_value();
        let annotations = object.pointer("/metadata/annotations")?;
        Some(annotations.get(key)?.as_str()?.to_owned())
    }
    /// The objects of a [`Need::All`].
    pub fn all(&self, label: &str) -> &[Arc<Object>] {
        self.all.get(label).map_or(&[], Vec::as_slice)
    }
    pub fn insert(&mut self, label: String, object: Arc<Object>) {
        self.one.insert(label, object);
    }
    pub fn insert_all(&mut self, label: String, objects: Vec<Arc<Object>>) {
        self.all.insert(label, objects);
    }
}

/// What a plugin needs for its decision.
pub enum Need {
    One {
        read: Read,
        /// The decision must still hold when the write is committed: the object's revision (or
        /// that it does not exist) joins the comparisons of the transaction.
        relied: bool,
        /// For so long it is waited for, when it does not exist yet.
        patience: Duration,
    },
    /// All objects of a resource, as the cache has them: a list has no revision of its own that
    /// could be compared.
    All {
        label: String,
        group: String,
        resource: String,
        /// Empty: of the whole cluster.
        namespace: String,
    },
}

impl Need {
    /// An object that the decision rests on: it is compared when the write is committed.
    pub fn relied(
        label: &str,
        (group, resource): (&str, &str),
        namespace: &str,
        name: &str,
    ) -> Self {
        let read = Read {
            label: label.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Self::One {
            read,
            relied: true,
            patience: Duration::ZERO,
        }
    }

    /// An object of which it is enough to know how it was: for what is copied from it, and where
    /// nothing is committed.
    pub fn seen(label: &str, kind: (&str, &str), namespace: &str, name: &str) -> Self {
        match Self::relied(label, kind, namespace, name) {
            Self::One { read, patience, .. } => Self::One {
                read,
                relied: false,
                patience,
            },
            other @ Self::All { .. } => other,
        }
    }

    /// All objects of a resource, of the whole cluster.
    pub fn all(label: &str, group: &str, resource: &str) -> Self {
        Self::All {
            label: label.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: String::new(),
        }
    }
}

/// What is known of a write when a plugin says what it needs: no plugin has changed it yet.
pub struct AdmissionAttributes<'a> {
    pub state: &'a State,
    pub operation: Operation,
    /// As in [`Review`].
    pub kinds: &'a Kinds,
    pub row: &'a Arc<Row>,
    pub version: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a UserInfo,
    /// As in [`Review`].
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

impl AdmissionAttributes<'_> {
    pub fn is(&self, group: &str, resource: &str) -> bool {
        *self.row.group == *group && *self.row.resource == *resource
    }
    /// The request as rules see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            operation: self.operation,
            kinds: self.kinds,
            row: self.row,
            version: self.version,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            object: self.object,
            old: self.old,
        }
    }
    /// A text of the new object; empty when there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.object.map_or("", |o| text(o, pointer))
    }
}

/// One rule. Both steps default to nothing.
pub trait Admit: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    /// Whether the plugin looks at such writes at all; asked first, since most do not.
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool;
    /// What both steps need. The verb reads it, and puts what is relied on into the transaction.
    /// What a plugin reads by itself is not relied on, or it brings the comparisons ([`Together`]).
    fn needs(&self, _asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        Vec::new()
    }
    /// May change the object.
    fn mutate<'a>(
        &'a self,
        _state: &'a State,
        _review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// May refuse it; sees it as it will be stored.
    fn validate<'a>(
        &'a self,
        _state: &'a State,
        _review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Review<'_> {
    /// The refusal of this write, in upstream's form.
    pub fn forbidden(&self, why: &str) -> Status {
        let resource = GroupResource::new(&self.row.group, &self.row.resource);
        Status::forbidden(&resource, self.name, why)
    }
    pub fn is(&self, group: &str, resource: &str) -> bool {
        *self.row.group == *group && *self.row.resource == *resource
    }

    /// The request as rules see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            operation: self.operation,
            kinds: self.kinds,
            row: self.row,
            version: self.version,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            object: self.object.as_deref(),
            old: self.old,
        }
    }

    /// `CreateOptions`, `UpdateOptions` (of a patch, too) or `DeleteOptions`; a connection has none.
    pub fn options(&self) -> Option<Value> {
        let kind = match self.operation {
            Operation::Connect => return None,
            Operation::Delete => return self.asked.deletion.cloned(),
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        for field in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.asked.query.get(field) {
                options[field] = value.into();
            }
        }
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        Some(options)
    }
}

/// A text of an object by JSON pointer; empty when there is none.
fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A list of an object by JSON pointer; empty when there is none.
fn list<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    v.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Appends to a list field of `spec`, made when there is none.
fn push(object: &mut Value, field: &str, item: Value) {
    let list = &mut object["spec"][field];
    match list.as_array_mut() {
        Some(all) => all.push(item),
        None => *list = Value::Array(vec![item]),
    }
}

/// A pod itself.
fn is_pod(row: &Row, subresource: &str) -> bool {
    subresource.is_empty() && row.group.is_empty() && &*row.resource == "pods"
}

/// Several complaints as one text, as upstream joins them.
fn joined(mut all: Vec<String>) -> String {
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|text| seen.insert(text.clone()));
    match all.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Creation of a pod itself.
fn is_new_pod(operation: Operation, row: &Row, subresource: &str) -> bool {
    operation == Operation::Create
        && subresource.is_empty()
        && row.group.is_empty()
        && &*row.resource == "pods"
}

/// Runs the mutating step of all plugins; twice, when somebody outside has changed the object.
pub async fn mutate(
    plugins: &[Arc<dyn Admit>],
    state: &State,
    review: &mut Review<'_>,
) -> Result<(), Status> {
    let timed = Timed::begin(state, "admit", review.operation);
    let done = async {
        loop {
            for p in plugins {
                if p.handles(review.operation, review.row, review.subresource) {
                    timed.run(p.name(), p.mutate(state, review)).await?;
                }
            }
            if !review.passes.begin_second() {
                return Ok(());
            }
        }
    };
    timed.end(done.await)
}

/// Runs the validating step of all plugins.
pub async fn validate(
    plugins: &[Arc<dyn Admit>],
    state: &State,
    review: &mut Review<'_>,
) -> Result<(), Status> {
    let timed = Timed::begin(state, "validate", review.operation);
    let done = async {
        for p in plugins {
            if p.handles(review.operation, review.row, review.subresource) {
                timed.run(p.name(), p.validate(state, review)).await?;
            }
        }
        Ok(())
    };
    timed.end(done.await)
}

/// A step of which it is counted how long it takes.
struct Timed<'a> {
    metrics: &'a AdmissionMetrics,
    step: Step,
    began: Instant,
}

impl<'a> Timed<'a> {
    fn begin(state: &'a State, name: &'static str, operation: Operation) -> Self {
        let operation = match operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        };
        Self {
            metrics: &state.metrics().admission,
            step: Step { name, operation },
            began: Instant::now(),
        }
    }

    async fn run(
        &self,
        plugin: &'static str,
        work: impl Future<Output = Result<(), Status>>,
    ) -> Result<(), Status> {
        let began = Instant::now();
        let done = work.await;
        let took = began.elapsed();
        self.metrics.plugin(plugin, self.step, took, done.is_err());
        done
    }

    fn end(&self, done: Result<(), Status>) -> Result<(), Status> {
        let took = self.began.elapsed();
        self.metrics.step(self.step, took, done.is_err());
        done
    }
}
